//! The shared breaker.

use std::fmt;
use std::time::Instant;

use crate::config::Config;
use crate::history::Transition;
use crate::listeners::ListenerId;
use crate::machine::Command;
use crate::shared::{Shared, system_clock};
use crate::state::{Counters, State};
use crate::sync::Arc;

/// A circuit breaker. A clone is another handle to the same one; cheap, `Send` and `Sync`.
///
/// While it is closed, a success reads one shared word; a failure that does not open it, and the success after one,
/// change that word by a compare-and-swap. Refusing while open is a read of two words and the clock. Everything else
/// takes a lock for some nanoseconds; no lock is held while a caller's code (call, classifier, listener, clock) runs.
#[derive(Clone)]
pub struct Breaker {
    pub(crate) shared: Arc<Shared>,
}

impl Breaker {
    /// A closed breaker on the system's monotonic clock.
    #[must_use]
    pub fn new(config: Config) -> Breaker {
        Breaker { shared: Arc::new(Shared::new(config, system_clock(), None)) }
    }

    /// A closed breaker on a clock of your own, which the methods without a `now` read. It is never called under a
    /// lock.
    ///
    /// With `|| tokio::time::Instant::now().into_std()`, tests run on tokio's paused time.
    #[must_use]
    pub fn with_clock(config: Config, clock: impl Fn() -> Instant + Send + Sync + 'static) -> Breaker {
        let now = clock();
        Breaker { shared: Arc::new(Shared::new(config, now, Some(Box::new(clock)))) }
    }

    /// The state, which decides how calls are treated; one read, no lock. Time alone moves nothing: an open breaker
    /// whose time is over stays open until a call comes.
    #[must_use]
    pub fn state(&self) -> State {
        self.shared.state()
    }

    /// Entries into the open state since the start or the last reset; one read, no lock.
    #[must_use]
    pub fn trips(&self) -> u64 {
        self.shared.trips()
    }

    /// Failures in a row while closed (0 where a rate decides); one read, no lock.
    #[must_use]
    pub fn consecutive_failures(&self) -> u32 {
        self.shared.failures()
    }

    /// All numbers, without a lock: each one exact, together possibly from two moments.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.shared.counters()
    }

    /// The last moves, oldest first, at most eight; no lock.
    #[must_use]
    pub fn transitions(&self) -> Vec<Transition> {
        self.shared.transitions()
    }

    /// Does as a person says, now. `None` if that moved nothing, which happens with [`Command::ForceHalfOpen`] only.
    pub fn command(&self, command: Command) -> Option<Transition> {
        self.command_at(command, self.shared.now())
    }

    /// [`command`](Breaker::command) at the caller's time.
    pub fn command_at(&self, command: Command, now: Instant) -> Option<Transition> {
        self.shared.obey(command, now)
    }

    /// Opens it now as failures would have: for the open time, then probes. [`Command::ForceOpen`] can say how long.
    pub fn force_open(&self) -> Transition {
        self.move_by(Command::ForceOpen(None))
    }

    /// Closes it now as good probes would have.
    pub fn force_closed(&self) -> Transition {
        self.move_by(Command::ForceClosed)
    }

    /// Ends the open time now, so that the next call goes out as a probe. `None`, and nothing changes, if the breaker
    /// was not open.
    ///
    /// For a program that learned that its peer is back: credentials were changed, an operator asks. The probe
    /// decides, so a peer that is still down costs one call.
    ///
    /// ```
    /// use breaker::{Breaker, Kind, State};
    ///
    /// let breaker = Breaker::default();
    /// breaker.force_open(); // for 60 s
    /// breaker.force_half_open().expect("it was open");
    /// let probe = breaker.try_acquire().expect("no need to wait");
    /// assert_eq!(probe.kind(), Kind::Probe);
    /// let _ = probe.success();
    /// assert_eq!((breaker.state(), breaker.force_half_open()), (State::Closed, None));
    /// ```
    pub fn force_half_open(&self) -> Option<Transition> {
        self.command(Command::ForceHalfOpen)
    }

    /// Refuses everything until a command that moves it.
    pub fn isolate(&self) -> Transition {
        self.move_by(Command::Isolate)
    }

    /// Lets everything out and counts nothing until a command that moves it.
    pub fn disable(&self) -> Transition {
        self.move_by(Command::Disable)
    }

    /// Closed and as new.
    pub fn reset(&self) -> Transition {
        self.move_by(Command::Reset)
    }

    fn move_by(&self, command: Command) -> Transition {
        self.command(command).expect("every command but `ForceHalfOpen` moves in every state")
    }

    /// Calls `listener` after each move, on the thread that caused it and outside any lock, so it may use the breaker.
    /// A panic in it is caught.
    ///
    /// Two moves may be told by two threads at once: [`Transition::number`] puts them in order. A listener that owns a
    /// handle to this breaker keeps it alive until it is unsubscribed.
    pub fn subscribe(&self, listener: impl Fn(&Transition) + Send + Sync + 'static) -> ListenerId {
        self.shared.listeners.add(listener)
    }

    /// Forgets a listener; says whether it was there. A call of it that has begun goes on.
    pub fn unsubscribe(&self, id: ListenerId) -> bool {
        self.shared.listeners.remove(id)
    }
}

impl fmt::Debug for Breaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Breaker").field("state", &self.state()).field("counters", &self.counters()).finish()
    }
}

impl Default for Breaker {
    fn default() -> Breaker {
        Breaker::new(Config::default())
    }
}
