//! The last moves, readable without a lock.

use std::time::{Duration, Instant};

use crate::state::{Change, Reason, State};
use crate::sync::{AtomicU64, Ordering};

/// A move of a breaker: from, to, why and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Transition {
    /// The state that was left.
    pub from: State,
    /// The state that was entered; the same one where a command started it afresh.
    pub to: State,
    /// The cause of the move.
    pub reason: Reason,
    /// The `now` of the call that caused it.
    pub at: Instant,
    /// Counts the moves of this breaker from 1, without gaps.
    pub number: u64,
}

impl Transition {
    pub(crate) fn new(change: Change, start: Instant, now: u64) -> Transition {
        let Change { from, to, reason, number } = change;
        // The sum is the caller's own `now`, except where that was before `start`.
        let at = start.checked_add(Duration::from_nanos(now)).unwrap_or(start);
        Transition { from, to, reason, at, number }
    }
}

/// One writer at a time (under the breaker's lock), any number of readers.
pub(crate) struct History {
    slots: [Slot; LENGTH],
}

struct Slot {
    /// Number, reason, to and from, as [`pack`] puts them together; 0 is nothing, or being written.
    what: AtomicU64,
    at: AtomicU64,
}

impl History {
    pub(crate) fn new() -> History {
        History { slots: std::array::from_fn(|_| Slot { what: AtomicU64::new(0), at: AtomicU64::new(0) }) }
    }

    pub(crate) fn push(&self, change: Change, now: u64) {
        let slot = &self.slots[change.number as usize % LENGTH];
        slot.what.store(0, Ordering::Release);
        slot.at.store(now, Ordering::Release);
        slot.what.store(pack(change), Ordering::Release);
    }

    /// Leaves out a move that is just being overwritten.
    pub(crate) fn read(&self, start: Instant) -> Vec<Transition> {
        let mut moves: Vec<Transition> = self.slots.iter().filter_map(|slot| slot.read(start)).collect();
        moves.sort_unstable_by_key(|transition| transition.number);
        moves
    }
}

impl Slot {
    fn read(&self, start: Instant) -> Option<Transition> {
        let what = self.what.load(Ordering::Acquire);
        let at = self.at.load(Ordering::Acquire);
        // `what` is cleared before `at` changes: the same value twice means that `at` belongs to it.
        let same = self.what.load(Ordering::Relaxed) == what;
        let change = unpack(what)?;
        same.then(|| Transition::new(change, start, at))
    }
}

fn pack(change: Change) -> u64 {
    let index = |state| STATES.iter().position(|known| *known == state).unwrap_or(0) as u64;
    let reason = REASONS.iter().position(|known| *known == change.reason).unwrap_or(0) as u64;
    change.number << 10 | reason << 6 | index(change.to) << 3 | index(change.from)
}

fn unpack(what: u64) -> Option<Change> {
    let state = |shift: u32| STATES.get((what >> shift & 0b111) as usize).copied();
    let reason = REASONS.get((what >> 6 & 0b1111) as usize).copied()?;
    (what != 0).then_some(Change { from: state(0)?, to: state(3)?, reason, number: what >> 10 })
}

/// Power of two; two cache lines and a half of the breaker.
const LENGTH: usize = 8;
const STATES: [State; 5] = [State::Closed, State::Open, State::HalfOpen, State::Isolated, State::Disabled];
const REASONS: [Reason; 12] = [
    Reason::FailureThreshold,
    Reason::FailureRate,
    Reason::SlowCallRate,
    Reason::OpenTimeOver,
    Reason::ProbesSucceeded,
    Reason::ProbeFailed,
    Reason::ForcedOpen,
    Reason::ForcedClosed,
    Reason::ForcedHalfOpen,
    Reason::Isolated,
    Reason::Disabled,
    Reason::Reset,
];
