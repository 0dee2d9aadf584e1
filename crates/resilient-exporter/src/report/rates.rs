//! Counts of the calls of the last minutes, by their answers.

use std::time::{Duration, Instant};

/// The width of a bucket: the precision of a window.
const BUCKET: Duration = Duration::from_secs(10);

/// The longest window. A longer one counts no more than this.
pub(crate) const LONGEST: Duration = Duration::from_secs(600);

/// The buckets of the longest window, and the one that it begins in.
const BUCKETS: usize = (LONGEST.as_secs() / BUCKET.as_secs()) as usize + 1;

/// The answer to a call, as the rates count it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Answered {
    /// The collector took the batch.
    Accepted,
    /// Retryable without a hint: no connection, no answer, an answer of trouble.
    Failed,
    /// The collector refused the batch, or it was too large.
    Refused,
    /// Retryable with a hint of the peer's.
    Throttled,
}

/// Calls by their answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) accepted: u64,
    pub(crate) failed: u64,
    pub(crate) refused: u64,
    pub(crate) throttled: u64,
}

impl Counts {
    /// All calls.
    pub(crate) fn total(&self) -> u64 {
        self.accepted + self.failed + self.refused + self.throttled
    }

    /// Accepted calls over all; 1.0 without a call.
    pub(crate) fn success_rate(&self) -> f64 {
        let total = self.total();
        if total == 0 { 1.0 } else { self.accepted as f64 / total as f64 }
    }
}

/// The calls of the last [`LONGEST`], in buckets of [`BUCKET`]: a ring of fixed size.
pub(crate) struct Rates {
    /// The beginning of the first bucket: the instant of the first call.
    origin: Option<Instant>,
    /// The bucket with number `n` since the origin is at `n % BUCKETS`.
    buckets: [Bucket; BUCKETS],
}

#[derive(Clone, Copy, Default)]
struct Bucket {
    number: u64,
    counts: Counts,
}

impl Rates {
    pub(crate) const fn new() -> Self {
        let counts = Counts { accepted: 0, failed: 0, refused: 0, throttled: 0 };
        Self { origin: None, buckets: [Bucket { number: 0, counts }; BUCKETS] }
    }

    /// A call has ended with this answer.
    pub(crate) fn on_call(&mut self, now: Instant, answered: Answered) {
        let origin = *self.origin.get_or_insert(now);
        let number = number(origin, now);
        let bucket = &mut self.buckets[(number % BUCKETS as u64) as usize];
        if bucket.number != number {
            *bucket = Bucket { number, counts: Counts::default() };
        }
        let counts = &mut bucket.counts;
        let count = match answered {
            Answered::Accepted => &mut counts.accepted,
            Answered::Failed => &mut counts.failed,
            Answered::Refused => &mut counts.refused,
            Answered::Throttled => &mut counts.throttled,
        };
        *count += 1;
    }

    /// The calls that ended within `window` before `now`, and up to [`BUCKET`] earlier: the bucket in which the window
    /// begins counts as a whole.
    pub(crate) fn within(&self, now: Instant, window: Duration) -> Counts {
        let Some(origin) = self.origin else { return Counts::default() };
        let last = number(origin, now);
        let first = now.checked_sub(window.min(LONGEST)).map_or(0, |begin| number(origin, begin));
        let mut sum = Counts::default();
        for Bucket { number, counts } in &self.buckets {
            if (first..=last).contains(number) {
                sum.accepted += counts.accepted;
                sum.failed += counts.failed;
                sum.refused += counts.refused;
                sum.throttled += counts.throttled;
            }
        }
        sum
    }
}

/// The number of the bucket that holds this instant.
fn number(origin: Instant, instant: Instant) -> u64 {
    instant.saturating_duration_since(origin).as_secs() / BUCKET.as_secs()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[expect(clippy::disallowed_methods, reason = "any instant serves: the rates read no clock")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn calls_leave_a_window_with_their_bucket() {
        let (mut rates, start) = (Rates::new(), start());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(rates.within(start, LONGEST), Counts::default());
        rates.on_call(at(0), Answered::Accepted);
        rates.on_call(at(9), Answered::Refused);
        rates.on_call(at(10), Answered::Throttled);
        let five = Duration::from_secs(300);
        assert_eq!(rates.within(at(309), five), Counts { accepted: 1, refused: 1, throttled: 1, failed: 0 });
        assert_eq!(rates.within(at(310), five), Counts { throttled: 1, ..Counts::default() });
        assert_eq!(rates.within(at(609), LONGEST).total(), 3);
        rates.on_call(at(610), Answered::Failed);
        assert_eq!(rates.within(at(610), Duration::MAX), Counts { throttled: 1, failed: 1, ..Counts::default() });
    }

    #[test]
    fn the_success_rate_is_of_all_calls_and_one_without_a_call() {
        assert!((Counts::default().success_rate() - 1.0).abs() < f64::EPSILON);
        let counts = Counts { accepted: 3, failed: 1, refused: 1, throttled: 1 };
        assert!((counts.success_rate() - 0.5).abs() < f64::EPSILON);
    }

    proptest! {
        /// Between the calls of the window and those of the window that is one bucket longer.
        #[test]
        fn a_window_counts_all_of_its_calls_and_none_that_is_a_bucket_older(
            script in vec((0..120_u64, 0..4_usize), 0..200), window in 0..700_u64,
        ) {
            let kinds = [Answered::Accepted, Answered::Failed, Answered::Refused, Answered::Throttled];
            let (mut rates, mut now, mut calls) = (Rates::new(), start(), Vec::new());
            for (wait, kind) in script {
                now += Duration::from_secs(wait);
                rates.on_call(now, kinds[kind]);
                calls.push((now, kind));
                let window = Duration::from_secs(window).min(LONGEST);
                let of = |age: Duration| {
                    let mut counts = [0; 4];
                    calls.iter().filter(|(at, _)| now - *at <= age).for_each(|(_, kind)| counts[*kind] += 1);
                    counts
                };
                let Counts { accepted, failed, refused, throttled } = rates.within(now, window);
                let (least, most) = (of(window), of(window + BUCKET));
                for (kind, count) in [accepted, failed, refused, throttled].into_iter().enumerate() {
                    prop_assert!((least[kind]..=most[kind]).contains(&count), "{kind}: {count}");
                }
            }
        }
    }
}
