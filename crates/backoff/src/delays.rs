//! The delays of one operation.

use std::fmt;
use std::iter::FusedIterator;
use std::time::Duration;

use crate::limits::Backoff;
use crate::policy::Policy;
use crate::random::Random;

/// The delays of one operation, one per retry.
///
/// As an iterator it knows only the limit on retries; [`next_after`](Delays::next_after) also knows the time and hints.
#[derive(Clone, Debug)]
pub struct Delays<P> {
    backoff: Backoff<P>,
    random: Random,
    retries: u32,
    previous: Duration,
}

impl<P: Policy> Backoff<P> {
    /// The delays of one operation, from the first retry on.
    #[must_use]
    #[inline]
    pub fn delays(&self) -> Delays<&P> {
        Delays::new(
            Backoff {
                policy: &self.policy,
                max_retries: self.max_retries,
                max_elapsed: self.max_elapsed,
                max_hint: self.max_hint,
                seed: self.seed,
            },
            self.random(),
        )
    }

    /// [`delays`](Backoff::delays) that own their policy.
    #[must_use]
    pub fn into_delays(self) -> Delays<P> {
        let random = self.random();
        Delays::new(self, random)
    }

    fn random(&self) -> Random {
        self.seed.map_or_else(Random::new, Random::seeded)
    }
}

/// Why there is no further retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stop {
    /// So many retries as the limit allows were made.
    Retries,
    /// The next delay would end after the elapsed limit.
    Elapsed,
    /// The error is not worth a retry.
    NotRetryable,
    /// The shared budget is spent.
    Budget,
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stop::Retries => "the retries are spent",
            Stop::Elapsed => "the next retry would come too late",
            Stop::NotRetryable => "the error is not retryable",
            Stop::Budget => "the retry budget is spent",
        })
    }
}

impl<P: Policy> Delays<P> {
    #[inline]
    pub(crate) fn new(backoff: Backoff<P>, random: Random) -> Delays<P> {
        Delays { backoff, random, retries: 0, previous: Duration::ZERO }
    }

    /// The delay before the next retry: the policy's own, or `hint` if that is longer (at most `max_hint`).
    ///
    /// `elapsed` is the real time since the operation began. A hint is the wait that a server or a breaker asked for;
    /// it does not change the delays after it.
    ///
    /// # Errors
    /// The limit that forbids a further retry. Nothing is used up then.
    pub fn next_after(&mut self, elapsed: Duration, hint: Option<Duration>) -> Result<Duration, Stop> {
        let before = self.random.clone();
        self.draw(elapsed, hint).inspect_err(|_| self.random = before)
    }

    fn draw(&mut self, elapsed: Duration, hint: Option<Duration>) -> Result<Duration, Stop> {
        if self.backoff.max_retries.is_some_and(|most| self.retries >= most) {
            return Err(Stop::Retries);
        }
        let own = self.backoff.policy.delay(self.retries, self.previous, self.random.unit());
        let delay = own.max(hint.unwrap_or(Duration::ZERO).min(self.backoff.max_hint));
        if self.backoff.max_elapsed.is_some_and(|most| elapsed.saturating_add(delay) > most) {
            return Err(Stop::Elapsed);
        }
        self.retries = self.retries.saturating_add(1);
        self.previous = own;
        Ok(delay)
    }

    /// How many delays were given: the number of the next retry, from 0.
    #[must_use]
    pub const fn retries(&self) -> u32 {
        self.retries
    }

    /// Begins again, as after a success; the random source goes on.
    pub const fn reset(&mut self) {
        self.retries = 0;
        self.previous = Duration::ZERO;
    }
}

impl<P: Policy> Iterator for Delays<P> {
    type Item = Duration;

    #[inline]
    fn next(&mut self) -> Option<Duration> {
        if self.backoff.max_retries.is_some_and(|most| self.retries >= most) {
            return None;
        }
        let delay = self.backoff.policy.delay(self.retries, self.previous, self.random.unit());
        self.retries = self.retries.saturating_add(1);
        self.previous = delay;
        Some(delay)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        match self.backoff.max_retries {
            Some(most) => {
                let left = most.saturating_sub(self.retries) as usize;
                (left, Some(left))
            }
            None => (usize::MAX, None),
        }
    }
}

impl<P: Policy> FusedIterator for Delays<P> {}
