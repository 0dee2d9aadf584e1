//! The disk thread's queue of effects, and its activity as health sees it.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime};

use crate::core::Effect;
use crate::locks::{Condvar, Mutex};
use crate::seams::fallback::{SetAside, Usage};

/// Its lock is held for an instant at a time: no operation, no clock and no other lock inside.
pub(crate) struct DiskQueue {
    state: Mutex<State>,
    work: Condvar,
}

struct State {
    effects: VecDeque<Effect>,
    /// The start of the operation that the disk thread is in.
    busy_since: Option<Instant>,
    contents: Contents,
    /// The name of a file that the journal thread asks for.
    question: Option<String>,
    ended: Option<Instant>,
    /// The next wait ends at once.
    is_woken: bool,
    /// The thread sleeps until an effect comes.
    #[cfg(test)]
    sleeps: bool,
}

/// The contents of the fallback after the last operation of the disk thread.
#[derive(Clone, Copy, Default)]
pub(crate) struct Contents {
    pub(crate) usage: Usage,
    /// None: that of the settings.
    pub(crate) max_bytes: Option<u64>,
    pub(crate) dead_letters: Usage,
    pub(crate) set_aside: SetAside,
    pub(crate) age_rests_until: Option<SystemTime>,
    /// Counted from the end of that operation.
    pub(crate) full_in: Option<Duration>,
    /// When the oldest batch was accepted, by the wall clock.
    pub(crate) oldest: Option<SystemTime>,
}

/// The disk thread's storage, and the time that it has been in one operation.
#[derive(Default)]
pub(crate) struct Activity {
    pub(crate) contents: Contents,
    pub(crate) busy: Option<Duration>,
}

impl DiskQueue {
    pub(crate) fn new(usage: Usage, age_rests_until: Option<SystemTime>) -> Self {
        let state = State {
            effects: VecDeque::new(),
            busy_since: None,
            contents: Contents { usage, age_rests_until, ..Contents::default() },
            question: None,
            ended: None,
            is_woken: false,
            #[cfg(test)]
            sleeps: false,
        };
        Self { state: Mutex::new(state), work: Condvar::new() }
    }

    /// Adds an effect.
    ///
    /// # Errors
    /// The effect, and the instant at which the disk thread ended.
    pub(crate) fn push(&self, effect: Effect) -> Result<(), Box<(Effect, Instant)>> {
        let mut state = self.state.lock();
        if let Some(ended) = state.ended {
            return Err(Box::new((effect, ended)));
        }
        state.effects.push_back(effect);
        self.work.notify_one();
        Ok(())
    }

    /// Ends the wait of the disk thread: the fallback has work that it did not know of.
    pub(crate) fn wake(&self) {
        self.state.lock().is_woken = true;
        self.work.notify_one();
    }

    /// Waits for an effect or a question, no longer than `patience`.
    pub(crate) fn wait(&self, patience: Option<Duration>) {
        let mut state = self.state.lock();
        if std::mem::take(&mut state.is_woken) || !state.effects.is_empty() || state.question.is_some() {
            return;
        }
        #[cfg(test)]
        {
            state.sleeps = patience.is_none();
        }
        match patience {
            Some(patience) => _ = self.work.wait_for(&mut state, patience),
            None => self.work.wait(&mut state),
        }
        state.is_woken = false;
        #[cfg(test)]
        {
            state.sleeps = false;
        }
    }

    /// The journal thread asks whether the fallback has a file of this name. Returns false if the thread has ended.
    pub(crate) fn ask_for_file(&self, name: &str) -> bool {
        let mut state = self.state.lock();
        state.question = state.ended.is_none().then(|| name.to_owned());
        self.work.notify_one();
        state.question.is_some()
    }

    pub(crate) fn take_question(&self) -> Option<String> {
        self.state.lock().question.take()
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

    pub(crate) fn on_operation(&self, contents: Contents, now: Instant) {
        let mut state = self.state.lock();
        state.contents = contents;
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

    pub(crate) fn age_rests_until(&self) -> Option<SystemTime> {
        self.state.lock().contents.age_rests_until
    }

    pub(crate) fn activity(&self, now: Instant) -> Activity {
        let state = self.state.lock();
        let busy = state.busy_since.map(|since| now.saturating_duration_since(since));
        Activity { contents: state.contents, busy }
    }

    /// The batches of the files and dead letters that the disk thread is to write.
    #[cfg(test)]
    pub(crate) fn batches(&self) -> Vec<span_buffer::Entry<crate::core::Batch>> {
        let batches_of = |effect: &Effect| match effect {
            Effect::Spill(spill) => spill.entries.clone(),
            Effect::StoreDeadLetters(letters) => letters.iter().flat_map(|letter| letter.pieces.clone()).collect(),
            _ => Vec::new(),
        };
        self.state.lock().effects.iter().flat_map(batches_of).collect()
    }

    /// The thread sleeps until an effect comes.
    #[cfg(test)]
    pub(crate) fn sleeps(&self) -> bool {
        let state = self.state.lock();
        state.sleeps && state.effects.is_empty()
    }
}
