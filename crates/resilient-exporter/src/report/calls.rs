//! The durations of calls, counted in buckets by their results.

use std::time::Duration;

use otlp_transport::{Cause, Outcome};

/// The result of one call to a collector. The set is fixed, so that it can label a metric.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum CallResult {
    /// The collector took the batch.
    Accepted,
    /// No answer within the time-out.
    Timeout,
    /// No connection came about, or it broke before the request was sent.
    Connection,
    /// There were no credentials to send.
    Credentials,
    /// The collector asked for a pause.
    Throttled,
    /// Another failure after which the batch is sent again, such as HTTP status 503.
    Retryable,
    /// The collector takes no request of this size.
    TooLarge,
    /// The collector refused the request.
    Refused,
}

impl CallResult {
    /// Every result.
    pub const ALL: [Self; 8] = [
        Self::Accepted,
        Self::Timeout,
        Self::Connection,
        Self::Credentials,
        Self::Throttled,
        Self::Retryable,
        Self::TooLarge,
        Self::Refused,
    ];

    /// The value of `error.type` in metrics; none for a call that succeeded.
    #[must_use]
    pub const fn error_type(self) -> Option<&'static str> {
        match self {
            Self::Accepted => None,
            Self::Timeout => Some("timeout"),
            Self::Connection => Some("connection"),
            Self::Credentials => Some("credentials"),
            Self::Throttled => Some("throttled"),
            Self::Retryable => Some("retryable"),
            Self::TooLarge => Some("too_large"),
            Self::Refused => Some("refused"),
        }
    }

    pub(crate) fn of(outcome: &Outcome) -> Self {
        match outcome {
            outcome if outcome.is_delivered() => Self::Accepted,
            Outcome::Retryable { after: Some(_), .. } => Self::Throttled,
            Outcome::Retryable { cause: Cause::Timeout(_), .. } => Self::Timeout,
            Outcome::Retryable { cause: Cause::Connect(_), .. } => Self::Connection,
            Outcome::Retryable { cause: Cause::Credentials(_), .. } => Self::Credentials,
            Outcome::TooLarge { .. } => Self::TooLarge,
            Outcome::Refused { .. } | Outcome::CredentialsRenewed { .. } => Self::Refused,
            // `Outcome` may grow: an unknown outcome is a failure that may be repeated.
            _ => Self::Retryable,
        }
    }
}

/// A call that has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct CallEnded {
    /// The result.
    pub result: CallResult,
    /// The time from the decision to make the call until its answer.
    pub duration: Duration,
    /// The time from the end of the batch's newest span to its acknowledgement, by the wall clock: each of them counts
    /// in [`Health::lateness`](crate::Health::lateness). None for a call that delivered nothing, or no span with a
    /// time.
    pub lateness: Option<Duration>,
}

/// The durations of all calls with one result since the start of the exporter.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct CallDurations {
    /// The result.
    pub result: CallResult,
    /// The number of calls, by the first of [`BOUNDS`](Self::BOUNDS) that their duration does not exceed; the last
    /// number counts calls that were longer than all bounds.
    pub counts: [u64; Self::BOUNDS.len() + 1],
    /// The sum of the durations.
    pub sum: Duration,
}

impl CallDurations {
    /// The upper bounds of the buckets, in seconds: below the default time-out of 10 s as in the conventions for
    /// durations of HTTP requests, and one above it for longer time-outs.
    pub const BOUNDS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

    const fn new(result: CallResult) -> Self {
        Self { result, counts: [0; Self::BOUNDS.len() + 1], sum: Duration::ZERO }
    }

    /// The number of calls.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    fn add(&mut self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = Self::BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(Self::BOUNDS.len());
        self.counts[bucket] += 1;
        self.sum = self.sum.saturating_add(duration);
    }
}

/// The durations of all calls, in memory of a fixed size.
pub(crate) struct Calls {
    durations: [CallDurations; CallResult::ALL.len()],
    last: Option<CallEnded>,
}

impl Default for Calls {
    fn default() -> Self {
        Self { durations: CallResult::ALL.map(CallDurations::new), last: None }
    }
}

impl Calls {
    pub(crate) fn on_ended(&mut self, result: CallResult, duration: Duration) {
        if let Some(durations) = self.durations.iter_mut().find(|durations| durations.result == result) {
            durations.add(duration);
        }
        self.last = Some(CallEnded { result, duration, lateness: None });
    }

    /// The call that ended last, once.
    pub(crate) fn take_last(&mut self) -> Option<CallEnded> {
        self.last.take()
    }

    /// The results of which there was a call.
    pub(crate) fn durations(&self) -> Vec<CallDurations> {
        self.durations.iter().filter(|durations| durations.count() > 0).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use otlp_transport::RefusalKind;

    use super::*;

    #[test]
    fn a_call_counts_in_the_first_bucket_whose_bound_it_does_not_exceed() {
        let mut calls = Calls::default();
        for millis in [0, 5, 6, 10_000, 30_000, 30_001] {
            calls.on_ended(CallResult::Accepted, Duration::from_millis(millis));
        }
        calls.on_ended(CallResult::Timeout, Duration::from_secs(10));
        let [accepted, timeout] = &calls.durations()[..] else { panic!("two results") };
        assert_eq!(accepted.counts, [2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1]);
        assert_eq!((accepted.count(), accepted.sum), (6, Duration::from_millis(70_012)));
        assert_eq!((timeout.result, timeout.count()), (CallResult::Timeout, 1));
        let last = CallEnded { result: CallResult::Timeout, duration: Duration::from_secs(10), lateness: None };
        assert_eq!((calls.take_last(), calls.take_last()), (Some(last), None));
    }

    #[test]
    fn each_outcome_has_its_result_and_all_but_one_an_error_type() {
        let retryable = |after, cause| CallResult::of(&Outcome::Retryable { after, cause, possible_duplicate: false });
        let broken = || Cause::Broken("reset".to_owned());
        let table = [
            (CallResult::of(&Outcome::Delivered { rejected: 1, message: None }), None),
            (CallResult::of(&Outcome::AcknowledgedUnreadably { cause: broken() }), None),
            (retryable(Some(Duration::ZERO), broken()), Some("throttled")),
            (retryable(None, Cause::Timeout(Duration::ZERO)), Some("timeout")),
            (retryable(None, Cause::Connect("refused".to_owned())), Some("connection")),
            (retryable(None, Cause::Credentials("no token".to_owned())), Some("credentials")),
            (retryable(None, broken()), Some("retryable")),
            (CallResult::of(&Outcome::TooLarge { cause: broken(), possible_duplicate: false }), Some("too_large")),
            (CallResult::of(&Outcome::CredentialsRenewed { cause: broken(), generation: 1 }), Some("refused")),
            (
                CallResult::of(&Outcome::Refused {
                    kind: RefusalKind::Unclear,
                    cause: broken(),
                    possible_duplicate: false,
                }),
                Some("refused"),
            ),
        ];
        for (result, error_type) in table {
            assert_eq!(result.error_type(), error_type, "{result:?}");
        }
    }
}
