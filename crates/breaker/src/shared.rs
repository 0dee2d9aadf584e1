//! The state that all handles of a breaker share: a machine behind a lock, and a word by which most calls pass it.
//!
//! The word holds generation, mode and, in the mode `COUNTING`, the failures in a row. Only the holder of the lock
//! changes generation and mode; the failures are counted by whoever reports one, with a compare-and-swap, as long as
//! the count stays below the threshold. Before the machine moves, the holder of the lock swaps `MOVING` in: from then
//! on no outcome is counted past it, and the machine takes over the count that the swap returned.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::num::NonZeroU64;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use crate::config::{Config, Dropped, Trip, Window};
use crate::history::{History, Transition};
use crate::listeners::Listeners;
use crate::machine::{Command, Machine, Step, Ticket, View};
use crate::state::{Change, Counters, Outcome, Refuser, Rejected, Report, State};
use crate::sync::{AtomicU64, Mutex, MutexGuard, Ordering};
use crate::window::nanos;

pub(crate) type Clock = Box<dyn Fn() -> Instant + Send + Sync>;

pub(crate) struct Shared {
    hot: Hot,
    fixed: Fixed,
    trips: AtomicU64,
    window: AtomicU64,
    window_slow: AtomicU64,
    probes: AtomicU64,
    late: AtomicU64,
    machine: Mutex<Machine>,
    pub(crate) history: History,
    pub(crate) listeners: Listeners,
}

/// The words that calls read, on a cache line of their own: the lock and the counters beside it change more often.
#[repr(align(64))]
struct Hot {
    /// Generation, failures and mode, as [`word`] packs them.
    word: AtomicU64,
    /// Until when the modes `OPEN` and `FULL` refuse. Written only while the word says `MOVING`.
    until: AtomicU64,
}

/// Never changes. On a cache line of its own, so that no write of another thread takes it away from a refused caller.
#[repr(align(64))]
struct Fixed {
    /// Time 0 of the machine.
    start: Instant,
    clock: Option<Clock>,
    /// So many failures in a row open a breaker that counts them.
    threshold: u32,
    /// Whether outcomes need the time (a time window, slow calls).
    timed: bool,
    windowed: bool,
    drops_fail: bool,
}

impl Shared {
    pub(crate) fn new(mut config: Config, now: Instant, clock: Option<Clock>) -> Shared {
        // `RandomState` is the standard library's only source of chance.
        config.seed = Some(config.seed.unwrap_or_else(|| RandomState::new().hash_one(0_u8)));
        let (threshold, timed, windowed) = match config.trip {
            Trip::Consecutive(failures) => (failures, false, false),
            Trip::Rate(rate) => (0, matches!(rate.window, Window::Time(_)) || rate.slow.is_some(), true),
        };
        let fixed = Fixed {
            // Callers may hand in times from before the breaker was made, simulated ones for instance.
            start: now.checked_sub(HEAD_START).unwrap_or(now),
            clock,
            threshold,
            timed,
            windowed,
            drops_fail: config.dropped == Dropped::Failure,
        };
        let machine = Machine::new(config);
        Shared {
            hot: Hot { word: AtomicU64::new(word_of(&machine)), until: AtomicU64::new(0) },
            fixed,
            trips: AtomicU64::new(0),
            window: AtomicU64::new(0),
            window_slow: AtomicU64::new(0),
            probes: AtomicU64::new(0),
            late: AtomicU64::new(0),
            machine: Mutex::new(machine),
            history: History::new(),
            listeners: Listeners::new(),
        }
    }

    /// Asks for one call. Without a `now` the clock is read where the answer depends on the time.
    #[inline]
    pub(crate) fn acquire(&self, now: Option<Instant>) -> Result<Ticket, Rejected> {
        let seen = self.hot.word.load(Ordering::Acquire);
        if mode(seen) == COUNTING {
            return Ok(Ticket { generation: generation(seen), probe: 0, started: 0 });
        }
        if mode(seen) == OPEN
            && let Some(after) = self.refuses_for(seen, now)
        {
            return Err(Rejected::new(Refuser::Open, Some(after)));
        }
        self.acquire_otherwise(seen, now)
    }

    /// How long the state that `seen` names still refuses, in nanoseconds. `None` if its time is over or another state
    /// stands.
    #[inline(never)]
    fn refuses_for(&self, seen: u64, now: Option<Instant>) -> Option<NonZeroU64> {
        let now = self.ticks(now.unwrap_or_else(|| self.now()));
        let until = self.hot.until.load(Ordering::Acquire);
        // `until` changes only after the word has: if the word still stands, the two belong together.
        if self.hot.word.load(Ordering::Relaxed) == seen { NonZeroU64::new(until.saturating_sub(now)) } else { None }
    }

    #[inline(never)]
    fn acquire_otherwise(&self, seen: u64, now: Option<Instant>) -> Result<Ticket, Rejected> {
        let call = Ticket { generation: generation(seen), probe: 0, started: 0 };
        let ticks = || self.ticks(now.unwrap_or_else(|| self.now()));
        match mode(seen) {
            RECORDING | DISABLED if self.fixed.timed => return Ok(Ticket { started: ticks(), ..call }),
            RECORDING | DISABLED => return Ok(call),
            ISOLATED => return Err(Rejected::new(Refuser::Isolated, None)),
            FULL if self.refuses_for(seen, now).is_some() => return Err(Rejected::new(Refuser::HalfOpen, None)),
            _ => {}
        }
        let now = ticks();
        self.tell(now, |machine| machine.acquire(now))
    }

    /// Reports the outcome of a call. Without a `now` the clock is read where the outcome needs the time.
    #[inline]
    pub(crate) fn report(&self, ticket: Ticket, outcome: Outcome, now: Option<Instant>) -> Report {
        let seen = self.hot.word.load(Ordering::Acquire);
        // A generation is one state's: where this one counts, the ticket is no probe.
        if outcome == Outcome::Success && seen == word(ticket.generation, 0, COUNTING) {
            return Report::Counted;
        }
        self.report_otherwise(ticket, outcome, now, seen)
    }

    #[inline(never)]
    fn report_otherwise(&self, ticket: Ticket, outcome: Outcome, now: Option<Instant>, seen: u64) -> Report {
        if let Some(report) = self.count(ticket, outcome, seen) {
            return report;
        }
        // A success that is not timed and cannot move anything at a certain time needs no clock.
        let needs_time = self.fixed.timed || !matches!(outcome, Outcome::Success | Outcome::Neutral);
        let now = match now {
            Some(now) => self.ticks(now),
            None if needs_time || ticket.probe != 0 => self.ticks(self.now()),
            None => ticket.started,
        };
        self.tell(now, |machine| machine.settle(widened(ticket, machine.generation()), outcome, now))
    }

    /// Counts an outcome that moves no state, without the lock. `None` if it may move one or came too late.
    fn count(&self, ticket: Ticket, outcome: Outcome, mut seen: u64) -> Option<Report> {
        while generation(seen) == ticket.generation {
            let next = match (mode(seen), outcome) {
                (DISABLED, _) => return Some(Report::Unrecorded),
                (COUNTING | RECORDING, Outcome::Neutral) => return Some(Report::Counted),
                (COUNTING, Outcome::Success) => word(ticket.generation, 0, COUNTING),
                (COUNTING, Outcome::Failure | Outcome::FailureWithHint(_))
                    if failures(seen) + 1 < u64::from(self.fixed.threshold) =>
                {
                    word(ticket.generation, failures(seen) + 1, COUNTING)
                }
                _ => return None,
            };
            match self.hot.word.compare_exchange(seen, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(Report::Counted),
                Err(newer) => seen = newer,
            }
        }
        None
    }

    /// A permit was dropped without an outcome.
    pub(crate) fn dropped(&self, ticket: Ticket) {
        let outcome = if self.fixed.drops_fail { Outcome::Failure } else { Outcome::Neutral };
        let _ = self.report(ticket, outcome, None);
    }

    pub(crate) fn obey(&self, command: Command, now: Instant) -> Option<Transition> {
        let now = self.ticks(now);
        let change = self.tell(now, |machine| {
            let change = machine.obey(command, now);
            Step { answer: change, change }
        });
        change.map(|change| Transition::new(change, self.fixed.start, now))
    }

    /// Runs one step of the machine and publishes the new state; listeners are called after the lock is free.
    fn tell<T>(&self, now: u64, step: impl FnOnce(&mut Machine) -> Step<T>) -> T {
        let mut machine = self.lock();
        if mode(self.hot.word.load(Ordering::Relaxed)) == COUNTING {
            // From here on no outcome is counted past the machine.
            let seen = self.hot.word.swap(word(machine.generation(), 0, MOVING), Ordering::AcqRel);
            machine.take_over(failures(seen) as u32);
        }
        let Step { answer, change } = step(&mut machine);
        self.publish(&machine, change, now);
        drop(machine);
        if let Some(change) = change {
            self.listeners.tell(&Transition::new(change, self.fixed.start, now));
        }
        answer
    }

    fn publish(&self, machine: &Machine, change: Option<Change>, now: u64) {
        let next = word_of(machine);
        let counters = machine.counters();
        self.late.store(counters.late, Ordering::Release);
        // A closed breaker that stays closed has no probes and no new trip: the common case of a failure.
        if change.is_some() || !matches!(mode(next), COUNTING | RECORDING) {
            self.trips.store(counters.trips, Ordering::Release);
            self.probes.store(pair(counters.probes, counters.probe_successes), Ordering::Release);
        }
        if self.fixed.windowed {
            self.window.store(pair(counters.window_calls, counters.window_failures), Ordering::Release);
            self.window_slow.store(u64::from(counters.window_slow), Ordering::Release);
        }
        if let Some(change) = change {
            self.history.push(change, now);
        }
        if let View::Open { until } | View::Full { until } = machine.view() {
            // A reader that saw the old word must not take the new `until` for its own.
            self.hot.word.store(word(machine.generation(), 0, MOVING), Ordering::Release);
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
        match mode(self.settled_word()) {
            OPEN => State::Open,
            HALF_OPEN | FULL => State::HalfOpen,
            ISOLATED => State::Isolated,
            DISABLED => State::Disabled,
            _ => State::Closed,
        }
    }

    pub(crate) fn trips(&self) -> u64 {
        self.trips.load(Ordering::Acquire)
    }

    pub(crate) fn failures(&self) -> u32 {
        failures(self.settled_word()) as u32
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
        self.history.read(self.fixed.start)
    }

    /// The word, once it says a mode.
    fn settled_word(&self) -> u64 {
        loop {
            let seen = self.hot.word.load(Ordering::Acquire);
            if mode(seen) != MOVING {
                return seen;
            }
            // Between two words: the lock tells when the second one is there.
            drop(self.lock());
        }
    }

    #[inline]
    pub(crate) fn now(&self) -> Instant {
        match &self.fixed.clock {
            None => system_clock(),
            Some(clock) => clock(),
        }
    }

    #[inline]
    fn ticks(&self, now: Instant) -> u64 {
        now.checked_duration_since(self.fixed.start).map_or(0, nanos)
    }
}

#[expect(clippy::disallowed_methods, reason = "the shell's one read of the clock, for methods without a `now`")]
pub(crate) fn system_clock() -> Instant {
    Instant::now()
}

/// A ticket with the whole number of its generation, of which the word holds the lower bits.
const fn widened(ticket: Ticket, current: u64) -> Ticket {
    let behind = current.wrapping_sub(ticket.generation) & GENERATIONS;
    Ticket { generation: current.wrapping_sub(behind), ..ticket }
}

const fn pair(upper: u32, lower: u32) -> u64 {
    (upper as u64) << 32 | lower as u64
}

const fn word(generation: u64, failures: u64, mode: u64) -> u64 {
    generation << (FAILURE_BITS + MODE_BITS) | failures << MODE_BITS | mode
}

const fn generation(word: u64) -> u64 {
    word >> (FAILURE_BITS + MODE_BITS)
}

const fn failures(word: u64) -> u64 {
    word >> MODE_BITS & ((1 << FAILURE_BITS) - 1)
}

const fn mode(word: u64) -> u64 {
    word & ((1 << MODE_BITS) - 1)
}

fn word_of(machine: &Machine) -> u64 {
    let (failures, mode) = match machine.view() {
        View::Counting { failures } => (failures, COUNTING),
        View::Recording => (0, RECORDING),
        View::Open { .. } => (0, OPEN),
        View::HalfOpen => (0, HALF_OPEN),
        View::Full { .. } => (0, FULL),
        View::Isolated => (0, ISOLATED),
        View::Disabled => (0, DISABLED),
    };
    word(machine.generation(), u64::from(failures), mode)
}

const MODE_BITS: u32 = 3;
/// Enough for the largest threshold, a million.
const FAILURE_BITS: u32 = 20;
/// 41 bits: a permit would have to be out for 2 * 10^12 moves before a state is taken for the one that issued it.
const GENERATIONS: u64 = (1 << (64 - FAILURE_BITS - MODE_BITS)) - 1;
/// Closed; the word counts the failures in a row.
const COUNTING: u64 = 0;
/// Closed; a window records the outcomes, under the lock.
const RECORDING: u64 = 1;
const OPEN: u64 = 2;
const HALF_OPEN: u64 = 3;
/// Half-open, all probes out.
const FULL: u64 = 4;
const ISOLATED: u64 = 5;
const DISABLED: u64 = 6;
/// A thread holds the lock and is about to publish.
const MOVING: u64 = 7;
const HEAD_START: Duration = Duration::from_secs(24 * 3600);

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_word_holds_a_generation_a_count_and_a_mode() {
        for counted in [0, 1, 999_999] {
            for mode_of_it in [COUNTING, OPEN, MOVING] {
                let word = word(GENERATIONS, counted, mode_of_it);
                assert_eq!((generation(word), failures(word), mode(word)), (GENERATIONS, counted, mode_of_it));
            }
        }
    }

    #[test]
    fn a_ticket_gets_back_the_part_of_its_generation_that_the_word_does_not_hold() {
        let of = |generation| Ticket { generation, probe: 0, started: 0 };
        for issued in [0, 7, GENERATIONS, GENERATIONS + 1, 5 * (GENERATIONS + 1) + 3] {
            let seen = generation(word(issued, 0, COUNTING));
            for later in [0, 1, 1_000_000, GENERATIONS] {
                assert_eq!(widened(of(seen), issued + later).generation, issued);
            }
        }
    }
}
