//! The shared breaker: a machine behind a lock, and a word that answers most questions without it.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::history::{History, Transition};
use crate::listeners::{ListenerId, Listeners};
use crate::machine::{Command, Machine, Step, Ticket, View};
use crate::permit::Permit;
use crate::state::{Change, Counters, Outcome, Rejected, Report, State};
use crate::sync::{Arc, AtomicU64, Mutex, MutexGuard, Ordering};
use crate::window::nanos;

/// A circuit breaker. A clone is another handle to the same one; cheap, `Send` and `Sync`.
///
/// While it is closed and nothing failed lately, a call only reads one shared word. Refusing while open is a read of
/// two words and the clock. Everything else takes a lock for some nanoseconds; no lock is held while a caller's code
/// (call, classifier, listener, clock) runs.
#[derive(Clone)]
pub struct Breaker {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    hot: Hot,
    trips: AtomicU64,
    failures: AtomicU64,
    window: AtomicU64,
    window_slow: AtomicU64,
    probes: AtomicU64,
    late: AtomicU64,
    machine: Mutex<Machine>,
    history: History,
    listeners: Listeners,
    /// Time 0 of the machine.
    start: Instant,
    /// Whether outcomes need the time (a time window, slow calls).
    timed: bool,
    windowed: bool,
    drops_fail: bool,
    clock: Option<Box<dyn Fn() -> Instant + Send + Sync>>,
}

/// The words that calls read, on a cache line of their own: the lock and the counters beside it change more often.
#[repr(align(64))]
struct Hot {
    /// Generation and mode, as [`word`] packs them.
    word: AtomicU64,
    /// Until when the modes `OPEN` and `FULL` refuse. Written only while the word says `MOVING`.
    until: AtomicU64,
}

impl Breaker {
    /// A closed breaker on the system's monotonic clock.
    #[must_use]
    pub fn new(config: Config) -> Breaker {
        Breaker::build(config, system_clock(), None)
    }

    /// A closed breaker on a clock of your own, which the methods without a `now` read. It is never called under a
    /// lock.
    ///
    /// With `|| tokio::time::Instant::now().into_std()`, tests run on tokio's paused time.
    #[must_use]
    pub fn with_clock(config: Config, clock: impl Fn() -> Instant + Send + Sync + 'static) -> Breaker {
        let now = clock();
        Breaker::build(config, now, Some(Box::new(clock)))
    }

    fn build(mut config: Config, now: Instant, clock: Option<Box<dyn Fn() -> Instant + Send + Sync>>) -> Breaker {
        // `RandomState` is the standard library's only source of chance.
        config.seed = Some(config.seed.unwrap_or_else(|| RandomState::new().hash_one(0_u8)));
        let timed = match config.trip {
            crate::Trip::Consecutive(_) => false,
            crate::Trip::Rate(rate) => matches!(rate.window, crate::Window::Time(_)) || rate.slow.is_some(),
        };
        let machine = Machine::new(config);
        let shared = Shared {
            hot: Hot { word: AtomicU64::new(word(0, mode_of(machine.view()))), until: AtomicU64::new(0) },
            trips: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            window: AtomicU64::new(0),
            window_slow: AtomicU64::new(0),
            probes: AtomicU64::new(0),
            late: AtomicU64::new(0),
            history: History::new(),
            listeners: Listeners::new(),
            // Callers may hand in times from before the breaker was made, simulated ones for instance.
            start: now.checked_sub(HEAD_START).unwrap_or(now),
            timed,
            windowed: matches!(machine.config().trip, crate::Trip::Rate(_)),
            drops_fail: machine.config().dropped == crate::Dropped::Failure,
            machine: Mutex::new(machine),
            clock,
        };
        Breaker { shared: Arc::new(shared) }
    }

    /// Asks for one call now. The clock is read only where the answer depends on it.
    ///
    /// The permit shares ownership, so it may outlive this handle and cross threads. Where it need not,
    /// [`try_acquire_ref`](Breaker::try_acquire_ref) is cheaper: it touches no shared counter.
    ///
    /// # Errors
    /// [`Rejected`] says which state refused and when to come back.
    pub fn try_acquire(&self) -> Result<Permit, Rejected> {
        let ticket = self.shared.acquire(|| self.shared.now())?;
        Ok(Permit::new(self.clone(), ticket))
    }

    /// [`try_acquire`](Breaker::try_acquire) at the caller's time.
    ///
    /// # Errors
    /// [`Rejected`] says which state refused and when to come back.
    pub fn try_acquire_at(&self, now: Instant) -> Result<Permit, Rejected> {
        let ticket = self.shared.acquire(|| now)?;
        Ok(Permit::new(self.clone(), ticket))
    }

    /// Asks for one call now, with a permit that borrows the breaker.
    ///
    /// # Errors
    /// [`Rejected`] says which state refused and when to come back.
    #[inline]
    pub fn try_acquire_ref(&self) -> Result<Permit<&Breaker>, Rejected> {
        let ticket = self.shared.acquire(|| self.shared.now())?;
        Ok(Permit::new(self, ticket))
    }

    /// [`try_acquire_ref`](Breaker::try_acquire_ref) at the caller's time.
    ///
    /// # Errors
    /// [`Rejected`] says which state refused and when to come back.
    #[inline]
    pub fn try_acquire_ref_at(&self, now: Instant) -> Result<Permit<&Breaker>, Rejected> {
        let ticket = self.shared.acquire(|| now)?;
        Ok(Permit::new(self, ticket))
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
        self.shared.trips.load(Ordering::Acquire)
    }

    /// Failures in a row while closed (0 where a rate decides); one read, no lock.
    #[must_use]
    pub fn consecutive_failures(&self) -> u32 {
        self.shared.failures.load(Ordering::Acquire) as u32
    }

    /// All numbers, without a lock: each one exact, together possibly from two moments.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let shared = &self.shared;
        let (window, probes) = (shared.window.load(Ordering::Acquire), shared.probes.load(Ordering::Acquire));
        Counters {
            trips: self.trips(),
            consecutive_failures: self.consecutive_failures(),
            window_calls: (window >> 32) as u32,
            window_failures: window as u32,
            window_slow: shared.window_slow.load(Ordering::Acquire) as u32,
            probes: (probes >> 32) as u32,
            probe_successes: probes as u32,
            late: shared.late.load(Ordering::Acquire),
        }
    }

    /// The last moves, oldest first, at most eight; no lock.
    #[must_use]
    pub fn transitions(&self) -> Vec<Transition> {
        self.shared.history.read(self.shared.start)
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

impl Shared {
    #[inline]
    pub(crate) fn acquire(&self, now: impl FnOnce() -> Instant) -> Result<Ticket, Rejected> {
        let seen = self.hot.word.load(Ordering::Acquire);
        match mode(seen) {
            CLEAN => Ok(Ticket { generation: generation(seen), probe: 0, started: 0 }),
            CLOSED | DISABLED if !self.timed => Ok(Ticket { generation: generation(seen), probe: 0, started: 0 }),
            _ => self.acquire_slowly(seen, now()),
        }
    }

    #[inline(never)]
    fn acquire_slowly(&self, seen: u64, now: Instant) -> Result<Ticket, Rejected> {
        let now = self.ticks(now);
        match mode(seen) {
            CLOSED | DISABLED => return Ok(Ticket { generation: generation(seen), probe: 0, started: now }),
            OPEN | FULL => {
                let until = self.hot.until.load(Ordering::Acquire);
                // `until` changes only after the word has: if the word still stands, the two belong together.
                if now < until && self.hot.word.load(Ordering::Relaxed) == seen {
                    return Err(match mode(seen) {
                        OPEN => Rejected { retry_after: Some(Duration::from_nanos(until - now)), state: State::Open },
                        _ => Rejected { retry_after: None, state: State::HalfOpen },
                    });
                }
            }
            ISOLATED => return Err(Rejected { retry_after: None, state: State::Isolated }),
            _ => {}
        }
        self.tell(now, |machine| machine.acquire(now))
    }

    #[inline]
    pub(crate) fn report(&self, ticket: Ticket, outcome: Outcome, now: Option<Instant>) -> Report {
        let seen = self.hot.word.load(Ordering::Acquire);
        if outcome == Outcome::Success && ticket.probe == 0 && seen == word(ticket.generation, CLEAN) {
            return Report::Counted;
        }
        self.report_slowly(ticket, outcome, now)
    }

    #[inline(never)]
    fn report_slowly(&self, ticket: Ticket, outcome: Outcome, now: Option<Instant>) -> Report {
        let seen = self.hot.word.load(Ordering::Acquire);
        if generation(seen) == ticket.generation {
            match (mode(seen), outcome) {
                (CLEAN | CLOSED, Outcome::Neutral) => return Report::Counted,
                (DISABLED, _) => return Report::Unrecorded,
                _ => {}
            }
        }
        // A success that is not timed and cannot move anything at a certain time needs no clock.
        let needs_time = self.timed || !matches!(outcome, Outcome::Success | Outcome::Neutral);
        let now = match now {
            Some(now) => self.ticks(now),
            None if needs_time || ticket.probe != 0 => self.ticks(self.now()),
            None => ticket.started,
        };
        self.tell(now, |machine| machine.settle(ticket, outcome, now))
    }

    /// A permit was dropped without an outcome.
    pub(crate) fn dropped(&self, ticket: Ticket) {
        let outcome = if self.drops_fail { Outcome::Failure } else { Outcome::Neutral };
        let _ = self.report(ticket, outcome, None);
    }

    fn obey(&self, command: Command, now: Instant) -> Option<Transition> {
        let now = self.ticks(now);
        let change = self.tell(now, |machine| {
            let change = machine.obey(command, now);
            Step { answer: change, change }
        });
        change.map(|change| Transition::new(change, self.start, now))
    }

    /// Runs one step of the machine and publishes the new state; listeners are called after the lock is free.
    fn tell<T>(&self, now: u64, step: impl FnOnce(&mut Machine) -> Step<T>) -> T {
        let mut machine = self.lock();
        let Step { answer, change } = step(&mut machine);
        self.publish(&machine, change, now);
        drop(machine);
        if let Some(change) = change {
            self.listeners.tell(&Transition::new(change, self.start, now));
        }
        answer
    }

    fn publish(&self, machine: &Machine, change: Option<Change>, now: u64) {
        let view = machine.view();
        let next = word(machine.generation(), mode_of(view));
        let counters = machine.counters();
        self.failures.store(u64::from(counters.consecutive_failures), Ordering::Release);
        self.late.store(counters.late, Ordering::Release);
        // A closed breaker that stays closed has no probes and no new trip: the common case of a failure.
        if change.is_some() || !matches!(view, View::Clean | View::Closed) {
            self.trips.store(counters.trips, Ordering::Release);
            self.probes.store(pair(counters.probes, counters.probe_successes), Ordering::Release);
        }
        if self.windowed {
            self.window.store(pair(counters.window_calls, counters.window_failures), Ordering::Release);
            self.window_slow.store(u64::from(counters.window_slow), Ordering::Release);
        }
        if let Some(change) = change {
            self.history.push(change, now);
        }
        if let View::Open { until } | View::Full { until } = view {
            // A reader that saw the old word must not take the new `until` for its own.
            self.hot.word.store(word(machine.generation(), MOVING), Ordering::Release);
            self.hot.until.store(until, Ordering::Release);
        }
        if self.hot.word.load(Ordering::Relaxed) != next {
            self.hot.word.store(next, Ordering::Release);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Machine> {
        // No caller's code runs under the lock, and the machine's own does not panic.
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> State {
        loop {
            match mode(self.hot.word.load(Ordering::Acquire)) {
                CLEAN | CLOSED => return State::Closed,
                OPEN => return State::Open,
                HALF_OPEN | FULL => return State::HalfOpen,
                ISOLATED => return State::Isolated,
                DISABLED => return State::Disabled,
                // Between two words: the lock tells when the second one is there.
                _ => drop(self.lock()),
            }
        }
    }

    #[inline]
    pub(crate) fn now(&self) -> Instant {
        match &self.clock {
            None => system_clock(),
            Some(clock) => clock(),
        }
    }

    fn ticks(&self, now: Instant) -> u64 {
        nanos(now.saturating_duration_since(self.start))
    }
}

#[expect(clippy::disallowed_methods, reason = "the shell's one read of the clock, for methods without a `now`")]
fn system_clock() -> Instant {
    Instant::now()
}

const fn pair(upper: u32, lower: u32) -> u64 {
    (upper as u64) << 32 | lower as u64
}

const fn word(generation: u64, mode: u64) -> u64 {
    generation << MODE_BITS | mode
}

const fn generation(word: u64) -> u64 {
    word >> MODE_BITS
}

const fn mode(word: u64) -> u64 {
    word & ((1 << MODE_BITS) - 1)
}

const fn mode_of(view: View) -> u64 {
    match view {
        View::Clean => CLEAN,
        View::Closed => CLOSED,
        View::Open { .. } => OPEN,
        View::HalfOpen => HALF_OPEN,
        View::Full { .. } => FULL,
        View::Isolated => ISOLATED,
        View::Disabled => DISABLED,
    }
}

/// 61 bits are left for the generation: a move each nanosecond for 73 years.
const MODE_BITS: u32 = 3;
/// Closed, and a success changes nothing.
const CLEAN: u64 = 0;
const CLOSED: u64 = 1;
const OPEN: u64 = 2;
const HALF_OPEN: u64 = 3;
/// Half-open, all probes out.
const FULL: u64 = 4;
const ISOLATED: u64 = 5;
const DISABLED: u64 = 6;
/// Another thread holds the lock and is about to publish.
const MOVING: u64 = 7;
const HEAD_START: Duration = Duration::from_secs(24 * 3600);
