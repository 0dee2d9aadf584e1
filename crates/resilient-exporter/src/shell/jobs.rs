//! The journal thread's queue of jobs, its activity as health sees it, and the questions of the two storage threads to
//! each other.
//!
//! The disk thread waits for the sync of an announcement, bounded. The journal thread waits for the answer of the disk
//! thread about a file, and gives up at once if the disk thread waits for it: neither waits for the other for ever.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use otlp_payload::BatchId;

use crate::core::Effect;
use crate::locks::{Condvar, Mutex};
use crate::seams::journal::JournalUsage;

/// The number of a job of the disk thread, in the order of these jobs.
pub(crate) type Ticket = u64;

/// The hand-over of batches to a file.
#[derive(Debug)]
pub(crate) enum HandOver {
    /// The file with this name takes these batches over once it stands.
    Announce { file: String, ids: Vec<BatchId> },
    /// The batches are in the file.
    Standing { ids: Vec<BatchId> },
    /// The file was not written.
    TakeBack { ids: Vec<BatchId> },
}

#[derive(Debug)]
pub(crate) enum Job {
    Effect(Effect),
    HandOver(HandOver, Ticket),
    /// A thread waits for the next sync.
    Hurry,
}

/// Its lock is held for an instant at a time: no operation, no clock and no other lock inside.
pub(crate) struct JournalQueue {
    state: Mutex<State>,
    /// Wakes the journal thread.
    work: Condvar,
    /// Wakes the disk thread.
    answers: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    /// The last ticket that was given.
    last: Ticket,
    /// All announcements up to this ticket are as durable as they will be.
    announced: Ticket,
    /// The marks of all files up to this ticket are durable.
    settled: Ticket,
    /// The answer of the disk thread, and the name of the file that it is about.
    answer: Option<(String, io::Result<bool>)>,
    /// The disk thread waits for an announcement.
    is_awaited: bool,
    /// The next wait ends at once.
    is_woken: bool,
    busy_since: Option<Instant>,
    /// As of the last job.
    usage: Option<JournalUsage>,
    /// The disk thread has ended: no further hand-over follows.
    is_last: bool,
    ended: bool,
    /// The thread sleeps until a job comes.
    #[cfg(test)]
    sleeps: bool,
}

impl JournalQueue {
    pub(crate) fn new() -> Self {
        // The first ticket stands for the files of the process before: opening may have failed to mark their batches.
        let state = State { last: 1, ..State::default() };
        Self { state: Mutex::new(state), work: Condvar::new(), answers: Condvar::new() }
    }

    /// Adds a job.
    ///
    /// # Errors
    /// The effect, once the thread has ended.
    pub(crate) fn push(&self, effect: Effect) -> Result<(), Box<Effect>> {
        let mut state = self.state.lock();
        if state.ended {
            return Err(Box::new(effect));
        }
        state.jobs.push_back(Job::Effect(effect));
        self.work.notify_one();
        Ok(())
    }

    // The disk thread's side.

    /// Adds a hand-over.
    pub(crate) fn hand_over(&self, hand_over: HandOver) -> Ticket {
        let mut state = self.state.lock();
        state.last += 1;
        let ticket = state.last;
        if !state.ended {
            state.jobs.push_back(Job::HandOver(hand_over, ticket));
            self.work.notify_one();
        }
        ticket
    }

    /// Waits until the announcement with this ticket is durable or has failed. Returns false after `patience`.
    pub(crate) fn wait_for_announced(&self, ticket: Ticket, patience: Duration) -> bool {
        self.wait(patience, |state| state.announced >= ticket)
    }

    /// Waits until the marks of all files so far are durable. Returns false after `patience`.
    pub(crate) fn wait_for_settled(&self, patience: Duration) -> bool {
        let mut state = self.state.lock();
        if state.settled >= state.last || state.ended {
            return true;
        }
        state.jobs.push_back(Job::Hurry);
        self.work.notify_one();
        drop(state);
        self.wait(patience, |state| state.settled >= state.last)
    }

    fn wait(&self, patience: Duration, done: impl Fn(&State) -> bool) -> bool {
        let mut state = self.state.lock();
        state.is_awaited = true;
        // The journal thread may wait for an answer of this thread.
        self.work.notify_one();
        let waits = |state: &mut State| !done(state) && !state.ended;
        let is_late = self.answers.wait_while_for(&mut state, waits, patience);
        state.is_awaited = false;
        !is_late || done(&state)
    }

    pub(crate) fn is_announced(&self, ticket: Ticket) -> bool {
        let state = self.state.lock();
        state.ended || state.announced >= ticket
    }

    pub(crate) fn is_settled(&self) -> bool {
        let state = self.state.lock();
        state.ended || state.settled >= state.last
    }

    /// The disk thread answers the question about a file.
    pub(crate) fn answer(&self, file: String, answer: io::Result<bool>) {
        self.state.lock().answer = Some((file, answer));
        self.work.notify_one();
    }

    /// The disk thread has ended.
    pub(crate) fn set_last(&self) {
        self.state.lock().is_last = true;
        self.work.notify_one();
    }

    // The journal thread's side.

    pub(crate) fn set_idle(&self) {
        self.state.lock().busy_since = None;
    }

    /// Ends the wait of the journal thread: the journal has work that it did not know of.
    pub(crate) fn wake(&self) {
        let mut state = self.state.lock();
        state.is_woken = true;
        self.work.notify_one();
    }

    /// Waits for a job, no longer than `patience`.
    pub(crate) fn wait_for_job(&self, patience: Option<Duration>) {
        let mut state = self.state.lock();
        if std::mem::take(&mut state.is_woken) || !state.jobs.is_empty() || state.is_last {
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

    /// Takes all jobs; the journal thread is busy from `now` on.
    pub(crate) fn take(&self, now: Instant) -> VecDeque<Job> {
        let mut state = self.state.lock();
        state.busy_since = Some(now);
        std::mem::take(&mut state.jobs)
    }

    /// Asks the disk thread about a file by `ask`, and waits for its answer, no longer than `patience`. `WouldBlock`:
    /// the disk thread is busy, or waits for this thread. Its answer may come after that: it is no answer about another
    /// file.
    pub(crate) fn ask_disk(&self, file: &str, ask: impl FnOnce() -> bool, patience: Duration) -> io::Result<bool> {
        self.state.lock().answer = None;
        if !ask() {
            return Err(io::Error::other("the disk thread has ended"));
        }
        let mut state = self.state.lock();
        let is_about = |answer: &(String, io::Result<bool>)| answer.0 == file;
        let waits = |state: &mut State| !state.answer.as_ref().is_some_and(is_about) && !state.is_awaited;
        self.work.wait_while_for(&mut state, waits, patience);
        let answer = state.answer.take().filter(is_about);
        answer.map(|(_, has_file)| has_file).unwrap_or_else(|| {
            Err(io::Error::new(
                io::ErrorKind::WouldBlock,
                "the disk thread is busy with another file: asked again later",
            ))
        })
    }

    /// Announcements up to this ticket are durable, or a sync of them has failed.
    pub(crate) fn set_announced(&self, ticket: Ticket) {
        let mut state = self.state.lock();
        state.announced = state.announced.max(ticket);
        self.answers.notify_all();
    }

    /// The marks of the files up to this ticket are durable.
    pub(crate) fn set_settled(&self, ticket: Ticket) {
        let mut state = self.state.lock();
        state.settled = state.settled.max(ticket);
        self.answers.notify_all();
    }

    pub(crate) fn set_usage(&self, usage: JournalUsage, now: Instant) {
        let mut state = self.state.lock();
        state.usage = Some(usage);
        state.busy_since = Some(now);
    }

    /// The disk thread has ended, and no job is left.
    pub(crate) fn is_done(&self) -> bool {
        let state = self.state.lock();
        state.is_last && state.jobs.is_empty()
    }

    /// Takes no job from now on; returns the effects that wait.
    pub(crate) fn end(&self) -> Vec<Effect> {
        let mut state = self.state.lock();
        state.ended = true;
        state.busy_since = None;
        self.answers.notify_all();
        let effects = std::mem::take(&mut state.jobs).into_iter().filter_map(|job| match job {
            Job::Effect(effect) => Some(effect),
            Job::HandOver(..) | Job::Hurry => None,
        });
        effects.collect()
    }

    // Queries.

    pub(crate) fn has_ended(&self) -> bool {
        self.state.lock().ended
    }

    pub(crate) fn is_idle(&self) -> bool {
        let state = self.state.lock();
        state.ended || (state.jobs.is_empty() && state.busy_since.is_none())
    }

    /// The usage as of the last job, and the time that the journal thread has been in one operation.
    pub(crate) fn activity(&self, now: Instant) -> (Option<JournalUsage>, Option<Duration>) {
        let state = self.state.lock();
        (state.usage, state.busy_since.map(|since| now.saturating_duration_since(since)))
    }

    /// The thread sleeps until a job comes.
    #[cfg(test)]
    pub(crate) fn sleeps(&self) -> bool {
        let state = self.state.lock();
        state.sleeps && state.jobs.is_empty()
    }
}
