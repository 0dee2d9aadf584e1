//! The state that all handles of a breaker share: a machine behind a lock, and a word that answers most questions
//! without it.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::history::{History, Transition};
use crate::listeners::Listeners;
use crate::machine::{Command, Machine, Step, Ticket, View};
use crate::state::{Change, Counters, Outcome, Rejected, Report, State};
use crate::sync::{AtomicU64, Mutex, MutexGuard, Ordering};
use crate::window::nanos;

pub(crate) type Clock = Box<dyn Fn() -> Instant + Send + Sync>;

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
    pub(crate) listeners: Listeners,
    /// Time 0 of the machine.
    start: Instant,
    /// Whether outcomes need the time (a time window, slow calls).
    timed: bool,
    windowed: bool,
    drops_fail: bool,
    clock: Option<Clock>,
}

/// The words that calls read, on a cache line of their own: the lock and the counters beside it change more often.
#[repr(align(64))]
struct Hot {
    /// Generation and mode, as [`word`] packs them.
    word: AtomicU64,
    /// Until when the modes `OPEN` and `FULL` refuse. Written only while the word says `MOVING`.
    until: AtomicU64,
}

impl Shared {
    pub(crate) fn new(mut config: Config, now: Instant, clock: Option<Clock>) -> Shared {
        // `RandomState` is the standard library's only source of chance.
        config.seed = Some(config.seed.unwrap_or_else(|| RandomState::new().hash_one(0_u8)));
        let timed = match config.trip {
            crate::Trip::Consecutive(_) => false,
            crate::Trip::Rate(rate) => matches!(rate.window, crate::Window::Time(_)) || rate.slow.is_some(),
        };
        let machine = Machine::new(config);
        Shared {
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
        }
    }

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

    pub(crate) fn obey(&self, command: Command, now: Instant) -> Option<Transition> {
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

    pub(crate) fn state(&self) -> State {
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

    pub(crate) fn trips(&self) -> u64 {
        self.trips.load(Ordering::Acquire)
    }

    pub(crate) fn failures(&self) -> u32 {
        self.failures.load(Ordering::Acquire) as u32
    }

    pub(crate) fn counters(&self) -> Counters {
        let (window, probes) = (self.window.load(Ordering::Acquire), self.probes.load(Ordering::Acquire));
        Counters {
            trips: self.trips(),
            consecutive_failures: self.failures(),
            window_calls: (window >> 32) as u32,
            window_failures: window as u32,
            window_slow: self.window_slow.load(Ordering::Acquire) as u32,
            probes: (probes >> 32) as u32,
            probe_successes: probes as u32,
            late: self.late.load(Ordering::Acquire),
        }
    }

    pub(crate) fn transitions(&self) -> Vec<Transition> {
        self.history.read(self.start)
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
pub(crate) fn system_clock() -> Instant {
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
