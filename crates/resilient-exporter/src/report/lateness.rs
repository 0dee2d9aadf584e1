//! How late spans arrive: the time from the end of a batch's newest span to its acknowledgement.

use std::time::{Duration, Instant};

/// The window of [`Lateness::recent`].
const RECENT: Duration = Duration::from_secs(300);

/// The lateness of each delivered batch since the start of the exporter: the time from the end of its newest span until
/// the collector has acknowledged it, by the wall clock. Stored batches count too, whose spans may be of an earlier
/// process. A wall clock that is set back makes it zero.
#[derive(Clone, PartialEq, Debug, Default)]
#[non_exhaustive]
pub struct Lateness {
    /// The number of batches, by the first of [`BOUNDS`](Self::BOUNDS) that their lateness does not exceed; the last
    /// number counts batches that were later than all bounds.
    pub counts: [u64; Self::BOUNDS.len() + 1],
    /// The sum over all batches.
    pub sum: Duration,
    /// The greatest lateness of the last five minutes at least, and ten at most; none without a batch delivered in that
    /// time.
    pub recent: Option<Duration>,
}

impl Lateness {
    /// The upper bounds of the buckets, in seconds: below the delay of a batch (5 s), up to a minute as in a short
    /// outage, and up to a day as in a long one.
    pub const BOUNDS: [f64; 14] =
        [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 86_400.0];

    /// The number of batches.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// The same, as batches are delivered. Of fixed size.
#[derive(Default)]
pub(crate) struct Delivered {
    all: Lateness,
    /// The greatest lateness of this window and of the one before, and the beginning of this window.
    window: Option<Instant>,
    current: Option<Duration>,
    previous: Option<Duration>,
}

impl Delivered {
    pub(crate) fn on_delivered(&mut self, lateness: Duration, now: Instant) {
        let seconds = lateness.as_secs_f64();
        let bucket = Lateness::BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(Lateness::BOUNDS.len());
        self.all.counts[bucket] += 1;
        self.all.sum = self.all.sum.saturating_add(lateness);
        self.turn(now);
        self.window.get_or_insert(now);
        self.current = self.current.max(Some(lateness));
    }

    /// `recent` covers five minutes at least, and ten at most.
    pub(crate) fn lateness(&mut self, now: Instant) -> Lateness {
        self.turn(now);
        Lateness { recent: self.current.max(self.previous), ..self.all.clone() }
    }

    /// Ends a window that is over.
    fn turn(&mut self, now: Instant) {
        let Some(begin) = self.window else { return };
        let passed = now.saturating_duration_since(begin);
        if passed >= 2 * RECENT {
            (self.window, self.current, self.previous) = (None, None, None);
        } else if passed >= RECENT {
            (self.window, self.previous) = (begin.checked_add(RECENT), self.current.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seams::clock::{Clock as _, SystemClock};

    #[test]
    fn a_batch_counts_in_the_first_bucket_whose_bound_it_does_not_exceed() {
        let (mut delivered, now) = (Delivered::default(), SystemClock.now());
        for millis in [0, 100, 101, 86_400_000, 86_400_001] {
            delivered.on_delivered(Duration::from_millis(millis), now);
        }
        let lateness = delivered.lateness(now);
        assert_eq!(lateness.counts, [2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        assert_eq!((lateness.count(), lateness.sum), (5, Duration::from_millis(172_800_202)));
    }

    #[test]
    fn the_greatest_lateness_is_shown_for_five_minutes_and_not_for_ever() {
        let (mut delivered, start) = (Delivered::default(), SystemClock.now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(delivered.lateness(at(0)).recent, None);
        delivered.on_delivered(Duration::from_secs(70), at(0));
        delivered.on_delivered(Duration::from_secs(1), at(299));
        assert_eq!(delivered.lateness(at(301)).recent, Some(Duration::from_secs(70)));
        delivered.on_delivered(Duration::from_secs(2), at(400));
        assert_eq!(delivered.lateness(at(599)).recent, Some(Duration::from_secs(70)));
        assert_eq!(delivered.lateness(at(601)).recent, Some(Duration::from_secs(2)));
        assert_eq!(delivered.lateness(at(1_300)).recent, None);
    }

    #[test]
    fn without_a_delivered_batch_there_is_none_however_often_a_caller_looks() {
        let (mut delivered, start) = (Delivered::default(), SystemClock.now());
        delivered.on_delivered(Duration::from_secs(70), start);
        for seconds in (15..3_600).step_by(15) {
            let expected = (seconds < 600).then(|| Duration::from_secs(70));
            let recent = delivered.lateness(start + Duration::from_secs(seconds)).recent;
            assert_eq!(recent, expected, "after {seconds} s");
        }
        delivered.on_delivered(Duration::from_secs(70), start + Duration::from_secs(4_000));
        assert_eq!(delivered.lateness(start + Duration::from_secs(4_600)).recent, None, "one look");
    }
}
