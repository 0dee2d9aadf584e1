//! The staging area in parts, so that threads which end spans at the same time do not wait for each other.
//!
//! A part has a lock of its own. A seal holds the lock of its part and takes the core's inside of it; a snapshot takes
//! the locks of all parts in the order of their indices, then the core's. Hence no snapshot sees a span twice or not at
//! all, and no thread that holds the core's lock takes one of these.

use std::ops::DerefMut;
use std::time::{Duration, Instant};

/// A child made by `fork` is noticed within so many spans of a part.
const VERIFY_EVERY: usize = 32;

/// A mutex: the model checker has one of its own.
pub(crate) trait Lock<T> {
    type Guard<'a>: DerefMut<Target = T>
    where
        Self: 'a,
        T: 'a;

    fn new(value: T) -> Self;
    fn lock(&self) -> Self::Guard<'_>;
    fn try_lock(&self) -> Option<Self::Guard<'_>>;
}

/// The spans of a part.
pub(crate) trait Content {
    fn len(&self) -> usize;

    /// No further span fits: the next step is the seal.
    fn is_full(&self) -> bool;

    /// Takes all spans of the other, if both together fit.
    fn join(&mut self, other: &mut Self);

    fn clear(&mut self);
}

/// The owner of sealed batches: the core, but for the model checker.
pub(crate) trait Keeper<C> {
    /// The time of a seal.
    type Moment: Copy;

    /// Reads the clocks, which may be a user's: no lock is held.
    fn moment(&self) -> Self::Moment;

    /// The process was forked from the one that built the exporter: no lock may be waited for.
    fn is_child(&self) -> bool;

    /// A part that was idle gets spans.
    fn on_opened(&self);

    /// A part is idle again.
    fn on_released(&self);

    /// Takes the spans as a batch. The content is not empty, and is afterwards.
    fn seal(&self, content: &mut C, moment: Self::Moment);
}

/// The place of a span that has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Staged {
    /// The span waits in this part. `is_news`: the part has a deadline that the net thread does not know, or the call
    /// has sealed a batch.
    Here { part: usize, is_news: bool },
    /// The area is closed: the exporter is shut down.
    Closed,
    /// The process is a child. This many spans of its own, this one among them, are in no part any more.
    Child(usize),
}

pub(crate) struct Shards<C, L> {
    parts: Box<[L]>,
    /// The longest stay of a span.
    delay: Duration,
    content: std::marker::PhantomData<fn() -> C>,
}

pub(crate) struct Part<C> {
    content: C,
    state: State,
    /// The spans of the content that are known to be of this process.
    verified: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Idle,
    /// The part has spans since `until - delay`, or had the last ones then.
    Open {
        until: Instant,
    },
    Closed,
}

impl<C: Content, L: Lock<Part<C>>> Shards<C, L> {
    /// One part for each content, which is empty.
    pub(crate) fn new(contents: impl IntoIterator<Item = C>, delay: Duration) -> Self {
        let part = |content| L::new(Part { content, state: State::Idle, verified: 0 });
        Self { parts: contents.into_iter().map(part).collect(), delay, content: std::marker::PhantomData }
    }

    pub(crate) fn parts(&self) -> usize {
        self.parts.len()
    }

    /// Puts a span into the part `first`, or into the next one that no thread holds. The time is asked for once a
    /// batch. `put` adds exactly one span.
    pub(crate) fn stage(
        &self,
        first: usize,
        now: impl Fn() -> Instant,
        keeper: &impl Keeper<C>,
        put: impl FnOnce(&mut C),
    ) -> Staged {
        let mut moment = None;
        let mut first = first % self.parts.len();
        let mut part = loop {
            let Some((index, mut part)) = self.enter(first, keeper) else { return Staged::Child(1) };
            first = index;
            if part.state == State::Closed {
                return Staged::Closed;
            }
            if part.content.is_full() {
                // The thread that has filled it reads the clocks now.
                let Some(moment) = moment else {
                    drop(part);
                    moment = Some(keeper.moment());
                    continue;
                };
                if !part.seal(keeper, moment) {
                    return Staged::Child(part.disown() + 1);
                }
            }
            break part;
        };
        let was_idle = part.state == State::Idle;
        if was_idle {
            if keeper.is_child() {
                return Staged::Child(part.disown() + 1);
            }
            keeper.on_opened();
        }
        if was_idle || part.content.len() == 0 {
            part.state = State::Open { until: later(now(), self.delay) };
        }
        put(&mut part.content);
        if part.content.len() - part.verified >= VERIFY_EVERY && !part.verify(keeper) {
            return Staged::Child(part.disown());
        }
        if !part.content.is_full() {
            return Staged::Here { part: first, is_news: was_idle || moment.is_some() };
        }
        let moment = match moment {
            Some(moment) => moment,
            None => {
                drop(part);
                let moment = keeper.moment();
                part = self.parts[first].lock();
                moment
            }
        };
        // Another thread may have sealed it meanwhile.
        if part.content.is_full() && !part.seal(keeper, moment) {
            return Staged::Child(part.disown());
        }
        Staged::Here { part: first, is_news: true }
    }

    /// None: the process is a child, and each part is held, by threads that may not be here.
    fn enter(&self, first: usize, keeper: &impl Keeper<C>) -> Option<(usize, L::Guard<'_>)> {
        let mut indices = (first..self.parts.len()).chain(0..first);
        let free = indices.find_map(|index| self.parts[index].try_lock().map(|part| (index, part)));
        free.or_else(|| (!keeper.is_child()).then(|| (first, self.parts[first].lock())))
    }

    /// Seals the parts whose time is over, each together with what fits of those behind it. Returns the next time.
    pub(crate) fn seal_due(&self, now: Instant, keeper: &impl Keeper<C>) -> Option<Instant> {
        let moment = keeper.moment();
        let mut next = None::<Instant>;
        for index in 0..self.parts.len() {
            let mut part = self.parts[index].lock();
            match part.state {
                State::Open { until } if until <= now => {
                    self.seal_with_others(index, &mut part, keeper, moment);
                    part.release(keeper);
                }
                State::Open { until } => next = Some(next.map_or(until, |next| next.min(until))),
                State::Idle | State::Closed => {}
            }
        }
        next
    }

    /// Seals all that is staged. With `close` no span is taken any more.
    pub(crate) fn seal_all(&self, keeper: &impl Keeper<C>, close: bool) {
        let moment = keeper.moment();
        for index in 0..self.parts.len() {
            let mut part = self.parts[index].lock();
            self.seal_with_others(index, &mut part, keeper, moment);
            part.release(keeper);
            if close {
                part.state = State::Closed;
            }
        }
    }

    fn seal_with_others<K: Keeper<C>>(&self, index: usize, part: &mut Part<C>, keeper: &K, moment: K::Moment) {
        // Held until the seal: a flush that finds these parts empty ends behind the batch that has their spans.
        let mut others = self.parts[index + 1..].iter().map(Lock::lock).collect::<Vec<_>>();
        for other in &mut others {
            part.content.join(&mut other.content);
            other.verified = other.verified.min(other.content.len());
        }
        if part.content.len() > 0 {
            keeper.seal(&mut part.content, moment);
        }
        part.verified = 0;
    }

    /// In a child: empties the parts that no thread holds. Returns the spans of its own in them.
    pub(crate) fn disown(&self) -> usize {
        self.parts.iter().filter_map(Lock::try_lock).map(|mut part| part.disown()).sum()
    }

    /// As a thread holds a part that puts a span into it.
    #[cfg(test)]
    pub(crate) fn hold(&self, part: usize) -> L::Guard<'_> {
        self.parts[part].lock()
    }

    /// The locks of all parts, in the order of their indices.
    pub(crate) fn lock_all(&self) -> Vec<L::Guard<'_>> {
        self.parts.iter().map(Lock::lock).collect()
    }
}

impl<C: Content> Part<C> {
    pub(crate) fn content(&self) -> &C {
        &self.content
    }

    /// Returns false in a child, and seals nothing then.
    fn seal<K: Keeper<C>>(&mut self, keeper: &K, moment: K::Moment) -> bool {
        if keeper.is_child() {
            return false;
        }
        keeper.seal(&mut self.content, moment);
        self.verified = 0;
        true
    }

    /// Returns false in a child.
    fn verify(&mut self, keeper: &impl Keeper<C>) -> bool {
        self.verified = if keeper.is_child() { self.verified } else { self.content.len() };
        self.verified == self.content.len()
    }

    fn release(&mut self, keeper: &impl Keeper<C>) {
        if let State::Open { .. } = self.state {
            self.state = State::Idle;
            keeper.on_released();
        }
    }

    /// Empties the part in a child, since the parent sends its spans. Returns the number of those that ended after the
    /// last look at the process: they are the child's, but for some of the last ones before the fork.
    fn disown(&mut self) -> usize {
        let own = self.content.len() - self.verified;
        self.content.clear();
        self.verified = 0;
        own
    }
}

/// A deadline that the clock can hold.
fn later(now: Instant, delay: Duration) -> Instant {
    now.checked_add(delay).unwrap_or(now + super::super::shared::FOR_EVER)
}

#[cfg(test)]
mod tests;
