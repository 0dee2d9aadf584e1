//! The right to one call.

use std::borrow::Borrow;
use std::fmt;
use std::time::{Duration, Instant};

use crate::breaker::Breaker;
use crate::machine::Ticket;
use crate::state::{Kind, Outcome, Rejected, Report};

impl Breaker {
    /// Asks for one call now. The clock is read only where the answer depends on it.
    ///
    /// The permit shares ownership, so it may outlive this handle and cross threads. Where it need not,
    /// [`try_acquire_ref`](Breaker::try_acquire_ref) is cheaper: it touches no shared counter.
    ///
    /// # Errors
    /// [`Rejected`] says which state refused and when to come back.
    pub fn try_acquire(&self) -> Result<Permit, Rejected> {
        let ticket = self.shared.acquire(None)?;
        Ok(Permit::new(self.clone(), ticket))
    }

    /// [`try_acquire`](Breaker::try_acquire) at the caller's time.
    ///
    /// # Errors
    /// [`Rejected`] says which state refused and when to come back.
    pub fn try_acquire_at(&self, now: Instant) -> Result<Permit, Rejected> {
        let ticket = self.shared.acquire(Some(now))?;
        Ok(Permit::new(self.clone(), ticket))
    }

    /// Asks for one call now, with a permit that borrows the breaker.
    ///
    /// # Errors
    /// [`Rejected`] says which state refused and when to come back.
    #[inline]
    pub fn try_acquire_ref(&self) -> Result<Permit<&Breaker>, Rejected> {
        let ticket = self.shared.acquire(None)?;
        Ok(Permit::new(self, ticket))
    }

    /// [`try_acquire_ref`](Breaker::try_acquire_ref) at the caller's time.
    ///
    /// # Errors
    /// [`Rejected`] says which state refused and when to come back.
    #[inline]
    pub fn try_acquire_ref_at(&self, now: Instant) -> Result<Permit<&Breaker>, Rejected> {
        let ticket = self.shared.acquire(Some(now))?;
        Ok(Permit::new(self, ticket))
    }
}

/// The right to one call; its holder reports the outcome.
///
/// Dropped without an outcome (a cancelled future, a panic, an early return) it reports by itself the outcome of
/// [`ConfigBuilder::with_dropped`](crate::ConfigBuilder::with_dropped). A probe that is never dropped does no harm: its
/// slot goes to another after [`ConfigBuilder::with_probe_timeout`](crate::ConfigBuilder::with_probe_timeout).
/// Its report can move only the state that issued it.
///
/// `Permit` shares ownership of the breaker and is `'static`; `Permit<&Breaker>` borrows it.
#[must_use = "a permit that is dropped reports a call without an outcome"]
pub struct Permit<B: Borrow<Breaker> = Breaker> {
    /// Taken by the outcome.
    breaker: Option<B>,
    ticket: Ticket,
}

impl<B: Borrow<Breaker>> Permit<B> {
    #[inline]
    fn new(breaker: B, ticket: Ticket) -> Permit<B> {
        Permit { breaker: Some(breaker), ticket }
    }

    /// Whether this is an ordinary call or a probe.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.ticket.kind()
    }

    /// The dependency did its work.
    #[inline]
    pub fn success(self) -> Report {
        self.finish(Outcome::Success, None)
    }

    /// [`success`](Permit::success) at the caller's time.
    #[inline]
    pub fn success_at(self, now: Instant) -> Report {
        self.finish(Outcome::Success, Some(now))
    }

    /// The dependency did not do its work.
    pub fn failure(self) -> Report {
        self.finish(Outcome::Failure, None)
    }

    /// [`failure`](Permit::failure) at the caller's time.
    pub fn failure_at(self, now: Instant) -> Report {
        self.finish(Outcome::Failure, Some(now))
    }

    /// A failure that says when to come back: see [`Outcome::FailureWithHint`].
    pub fn failure_with_hint(self, hint: Duration) -> Report {
        self.finish(Outcome::FailureWithHint(hint), None)
    }

    /// [`failure_with_hint`](Permit::failure_with_hint) at the caller's time.
    pub fn failure_with_hint_at(self, hint: Duration, now: Instant) -> Report {
        self.finish(Outcome::FailureWithHint(hint), Some(now))
    }

    /// The call says nothing about the dependency.
    pub fn neutral(self) -> Report {
        self.finish(Outcome::Neutral, None)
    }

    /// [`neutral`](Permit::neutral) at the caller's time.
    pub fn neutral_at(self, now: Instant) -> Report {
        self.finish(Outcome::Neutral, Some(now))
    }

    /// Any outcome, now.
    pub fn report(self, outcome: Outcome) -> Report {
        self.finish(outcome, None)
    }

    /// Any outcome, at the caller's time.
    pub fn report_at(self, outcome: Outcome, now: Instant) -> Report {
        self.finish(outcome, Some(now))
    }

    #[inline]
    fn finish(mut self, outcome: Outcome, now: Option<Instant>) -> Report {
        match self.breaker.take() {
            Some(breaker) => breaker.borrow().shared.report(self.ticket, outcome, now),
            None => Report::Late,
        }
    }
}

impl<B: Borrow<Breaker>> Drop for Permit<B> {
    #[inline]
    fn drop(&mut self) {
        if let Some(breaker) = self.breaker.take() {
            breaker.borrow().shared.dropped(self.ticket);
        }
    }
}

impl<B: Borrow<Breaker>> fmt::Debug for Permit<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("kind", &self.kind()).finish_non_exhaustive()
    }
}
