//! The disk thread's queue of effects, and its activity as health sees it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::core::Effect;
use crate::seams::fallback::{SetAside, Usage};
use crate::seams::journal::JournalUsage;

/// Its lock is held for an instant at a time: no operation, no clock and no other lock inside.
pub(crate) struct DiskQueue {
    state: Mutex<State>,
    work: Condvar,
}

struct State {
    effects: VecDeque<Effect>,
    /// The start of the operation that the disk thread is in.
    busy_since: Option<Instant>,
    usage: Usage,
    set_aside: SetAside,
    /// In durable mode.
    journal: Option<JournalUsage>,
    ended: Option<Instant>,
}

/// The disk thread's storage, and the time that it has been in one operation.
#[derive(Default)]
pub(crate) struct Activity {
    pub(crate) usage: Usage,
    pub(crate) set_aside: SetAside,
    pub(crate) journal: Option<JournalUsage>,
    pub(crate) busy: Option<Duration>,
}

impl DiskQueue {
    pub(crate) fn new(usage: Usage) -> Self {
        let (set_aside, effects) = (SetAside::default(), VecDeque::new());
        let state = State { effects, busy_since: None, usage, set_aside, journal: None, ended: None };
        Self { state: Mutex::new(state), work: Condvar::new() }
    }

    /// Adds an effect: a commit before all others, since `export` calls are blocked on it.
    ///
    /// # Errors
    /// The effect, and the instant at which the disk thread ended.
    pub(crate) fn push(&self, effect: Effect) -> Result<(), (Effect, Instant)> {
        let mut state = self.state.lock();
        if let Some(ended) = state.ended {
            return Err((effect, ended));
        }
        match effect {
            Effect::Commit(_) => state.effects.push_front(effect),
            _ => state.effects.push_back(effect),
        }
        self.work.notify_one();
        Ok(())
    }

    /// Waits for an effect, no longer than `patience`.
    pub(crate) fn wait(&self, patience: Duration) {
        let mut state = self.state.lock();
        if state.effects.is_empty() {
            self.work.wait_for(&mut state, patience);
        }
    }

    /// Takes the next effect; the disk thread is busy from `now` on.
    pub(crate) fn take(&self, now: Instant) -> Option<Effect> {
        let mut state = self.state.lock();
        state.busy_since = Some(now);
        state.effects.pop_front()
    }

    pub(crate) fn set_idle(&self) {
        self.state.lock().busy_since = None;
    }

    pub(crate) fn on_operation(&self, usage: Usage, set_aside: SetAside, journal: Option<JournalUsage>, now: Instant) {
        let mut state = self.state.lock();
        state.usage = usage;
        state.set_aside = set_aside;
        state.journal = journal;
        state.busy_since = Some(now);
    }

    /// Takes no effect from now on; returns those that wait.
    pub(crate) fn end(&self, now: Instant) -> VecDeque<Effect> {
        let mut state = self.state.lock();
        state.ended = Some(now);
        state.busy_since = None;
        std::mem::take(&mut state.effects)
    }

    pub(crate) fn has_effects(&self) -> bool {
        !self.state.lock().effects.is_empty()
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.state.lock().ended.is_some()
    }

    pub(crate) fn is_idle(&self) -> bool {
        let state = self.state.lock();
        state.ended.is_some() || (state.effects.is_empty() && state.busy_since.is_none())
    }

    pub(crate) fn activity(&self, now: Instant) -> Activity {
        let state = self.state.lock();
        let busy = state.busy_since.map(|since| now.saturating_duration_since(since));
        Activity { usage: state.usage, set_aside: state.set_aside, journal: state.journal, busy }
    }
}
