//! Threads that leave the processor to those of the application.

/// The niceness of a thread, at most.
const MOST: u8 = 19;

/// Makes the calling thread nicer, where a thread has a niceness of its own. A system that refuses it keeps the thread
/// as it is: no span depends on that.
pub(crate) fn be_nicer_by(niceness: u8) {
    #[cfg(target_os = "linux")]
    if niceness > 0 {
        // Linux takes these calls for the calling thread alone: setpriority(2), "C library/kernel differences".
        let own = rustix::process::getpriority_process(None).unwrap_or_default();
        let _ = rustix::process::setpriority_process(None, own.saturating_add(niceness.min(MOST).into()));
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (niceness, MOST);
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_nicer_and_its_process_is_not() {
        let own = || rustix::process::getpriority_process(None).expect("always allowed");
        let before = own();
        let expected = |by: i32| (before + by).min(19);
        for (by, expected) in [(0, expected(0)), (5, expected(5)), (255, expected(19))] {
            let nicer = std::thread::spawn(move || {
                be_nicer_by(by);
                own()
            });
            assert_eq!(nicer.join().expect("no panic"), expected, "{by}");
        }
        assert_eq!(own(), before);
    }
}
