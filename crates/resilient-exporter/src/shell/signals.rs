//! The signal of a file that is too large. A write beyond the limit on file sizes (`ulimit -f`) raises SIGXFSZ, whose
//! default action ends the process. On a thread that blocks the signal the write returns EFBIG, which is trouble of the
//! storage as any other.
//!
//! SIGPIPE and SIGBUS need nothing: the standard library ignores the first, sockets of ours included, and no file is
//! mapped into memory.

use nix::sys::signal::{SigSet, SigmaskHow, Signal};

/// Blocks the signal on the calling thread, which is a user's, until it is dropped. Threads that start meanwhile keep
/// it blocked.
#[must_use = "the signal is blocked until this is dropped"]
pub(crate) struct Blocked {
    /// The signal was not blocked before, and a pending one can be taken. Without this it stays blocked: a pending one
    /// would end the process.
    pending: Option<Pending>,
}

impl Blocked {
    pub(crate) fn new() -> Self {
        let pending = Pending::new();
        let before = file_too_large().thread_swap_mask(SigmaskHow::SIG_BLOCK);
        let was_free = before.is_ok_and(|mask| !mask.contains(Signal::SIGXFSZ));
        Self { pending: pending.filter(|_| was_free) }
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        if self.pending.take().is_some_and(Pending::discard) {
            let _ = file_too_large().thread_unblock();
        }
    }
}

fn file_too_large() -> SigSet {
    let mut set = SigSet::empty();
    set.add(Signal::SIGXFSZ);
    set
}

/// Takes a pending signal from the calling thread.
#[cfg(any(target_os = "linux", target_os = "android"))]
struct Pending(nix::sys::signalfd::SignalFd);

#[cfg(any(target_os = "linux", target_os = "android"))]
impl Pending {
    fn new() -> Option<Self> {
        use nix::sys::signalfd::{SfdFlags, SignalFd};
        SignalFd::with_flags(&file_too_large(), SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC).ok().map(Self)
    }

    /// Returns whether none is left.
    fn discard(self) -> bool {
        while let Ok(signal) = self.0.read_signal() {
            if signal.is_none() {
                return true;
            }
        }
        false
    }
}

/// Other systems have no way to take a signal that may not be there without unsafe code.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
struct Pending;

#[cfg(not(any(target_os = "linux", target_os = "android")))]
impl Pending {
    fn new() -> Option<Self> {
        None
    }

    fn discard(self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_blocked() -> bool {
        SigSet::thread_get_mask().expect("the mask of this thread").contains(Signal::SIGXFSZ)
    }

    #[test]
    fn a_signal_of_the_guarded_time_is_gone_with_the_guard() {
        let guard = Blocked::new();
        assert!(is_blocked());
        // As a write beyond the limit does: the default action would end this test.
        nix::sys::signal::raise(Signal::SIGXFSZ).expect("sent to this thread");
        drop(guard);
        assert_eq!(is_blocked(), cfg!(not(any(target_os = "linux", target_os = "android"))));
    }

    #[test]
    fn a_thread_that_blocks_the_signal_itself_keeps_it_blocked() {
        file_too_large().thread_block().expect("a signal that can be blocked");
        drop(Blocked::new());
        assert!(is_blocked());
    }

    #[test]
    fn a_thread_that_starts_meanwhile_keeps_it_blocked() {
        let guard = Blocked::new();
        let (go, started) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || started.recv().is_ok() && is_blocked());
        drop(guard);
        go.send(()).expect("the thread waits");
        assert!(thread.join().expect("no panic"));
    }
}
