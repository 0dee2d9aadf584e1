//! The rules of a retry: which errors are retried, how long an error asks to wait, and who is notified.
//!
//! Types as of iterator adapters: each setter of [`Retry`](crate::Retry) wraps the rules before it. They appear in its
//! signatures, and no caller names them.

use std::marker::PhantomData;
use std::time::Duration;

/// How a retry treats the errors of its operation. [`when`](crate::Retry::when), [`hint`](crate::Retry::hint) and
/// [`notify`](crate::Retry::notify) add to the rules of a [`Retry`](crate::Retry).
pub trait Rules {
    /// The error of the operation.
    type Error;

    /// Whether `error` is retried, and how long it asks to wait. Called once for each failed call; must not block.
    fn judge(&mut self, error: &Self::Error) -> Verdict;

    /// `error` will be retried after `delay`. Called before the delay begins.
    fn notify(&mut self, error: &Self::Error, delay: Duration);
}

/// Whether a result is retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The result is worth a retry.
    Retry {
        /// How long the result asks to wait, as by a `Retry-After`.
        hint: Option<Duration>,
    },
    /// The result stands: a success, or an error that a retry would meet again.
    Final,
}

/// The rules that a [`Retry`](crate::Retry) starts with: every error is retried, none asks to wait, no notification.
#[derive(Debug)]
pub struct EveryError<E>(pub(crate) PhantomData<fn(E)>);

impl<E> Rules for EveryError<E> {
    type Error = E;

    fn judge(&mut self, _: &E) -> Verdict {
        Verdict::Retry { hint: None }
    }

    fn notify(&mut self, _: &E, _: Duration) {}
}

/// `rules`, and only the errors that `when` accepts.
pub(crate) struct When<R, V> {
    pub(crate) rules: R,
    pub(crate) when: V,
}

impl<R: Rules, V: FnMut(&R::Error) -> bool> Rules for When<R, V> {
    type Error = R::Error;

    fn judge(&mut self, error: &R::Error) -> Verdict {
        if (self.when)(error) { self.rules.judge(error) } else { Verdict::Final }
    }

    fn notify(&mut self, error: &R::Error, delay: Duration) {
        self.rules.notify(error, delay);
    }
}

/// `rules`, and the longer of their hint and that of `hint`.
pub(crate) struct Hint<R, V> {
    pub(crate) rules: R,
    pub(crate) hint: V,
}

impl<R: Rules, V: FnMut(&R::Error) -> Option<Duration>> Rules for Hint<R, V> {
    type Error = R::Error;

    fn judge(&mut self, error: &R::Error) -> Verdict {
        match self.rules.judge(error) {
            Verdict::Retry { hint } => Verdict::Retry { hint: hint.max((self.hint)(error)) },
            Verdict::Final => Verdict::Final,
        }
    }

    fn notify(&mut self, error: &R::Error, delay: Duration) {
        self.rules.notify(error, delay);
    }
}

/// `rules`, and a call of `notify` before each delay.
pub(crate) struct Notify<R, V> {
    pub(crate) rules: R,
    pub(crate) notify: V,
}

impl<R: Rules, V: FnMut(&R::Error, Duration)> Rules for Notify<R, V> {
    type Error = R::Error;

    fn judge(&mut self, error: &R::Error) -> Verdict {
        self.rules.judge(error)
    }

    fn notify(&mut self, error: &R::Error, delay: Duration) {
        self.rules.notify(error, delay);
        (self.notify)(error, delay);
    }
}
