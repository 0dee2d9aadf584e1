//! The spans that were lost or refused in the last minutes, by reason.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::ledger::Ledger;

/// Losses of this time show in health.
pub(crate) const RECENT: Duration = Duration::from_secs(300);

/// Losses of one such time are summed up: the precision of [`RECENT`].
const BUCKET: Duration = Duration::from_secs(10);

/// Spans that were not delivered, by reason.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Losses {
    /// By [`DropReason::as_str`](super::ledger::DropReason::as_str).
    pub(crate) dropped: BTreeMap<&'static str, u64>,
    /// By [`RefuseReason::as_str`](super::ledger::RefuseReason::as_str).
    pub(crate) not_accepted: BTreeMap<&'static str, u64>,
    pub(crate) rejected: u64,
    pub(crate) dead_lettered: u64,
    /// Spans of dead letters that their limits removed.
    pub(crate) letters_removed: u64,
}

impl Losses {
    /// The sums since the start.
    pub(crate) fn of(ledger: &Ledger, letters_removed: u64) -> Self {
        Self {
            dropped: ledger.dropped.clone(),
            not_accepted: ledger.refused.clone(),
            rejected: ledger.rejected,
            dead_lettered: ledger.dead_lettered,
            letters_removed,
        }
    }

    /// The sums of two times.
    pub(crate) fn and(mut self, other: &Self) -> Self {
        for (reason, spans) in &other.dropped {
            *self.dropped.entry(reason).or_default() += spans;
        }
        for (reason, spans) in &other.not_accepted {
            *self.not_accepted.entry(reason).or_default() += spans;
        }
        self.rejected += other.rejected;
        self.dead_lettered += other.dead_lettered;
        self.letters_removed += other.letters_removed;
        self
    }

    /// The growth since `earlier`.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let grown = |now: &BTreeMap<&'static str, u64>, then: &BTreeMap<&'static str, u64>| {
            let growth = |(reason, spans): (&&'static str, &u64)| (*reason, spans - then.get(reason).unwrap_or(&0));
            now.iter().map(growth).filter(|(_, spans)| *spans > 0).collect()
        };
        Self {
            dropped: grown(&self.dropped, &earlier.dropped),
            not_accepted: grown(&self.not_accepted, &earlier.not_accepted),
            rejected: self.rejected - earlier.rejected,
            dead_lettered: self.dead_lettered - earlier.dead_lettered,
            letters_removed: self.letters_removed - earlier.letters_removed,
        }
    }
}

/// The losses of the last [`RECENT`]: the growth of the ledger's sums between observations. Most events that lose spans
/// carry no time; a loss has the instant of the next observation.
#[derive(Default)]
pub(crate) struct Recent {
    /// The sums of the last observation.
    last: Losses,
    /// The growth within each [`BUCKET`] that had some, by its beginning, the oldest first.
    buckets: VecDeque<(Instant, Losses)>,
}

impl Recent {
    /// Compares the ledger with the last observation. Cheap while nothing is lost: a comparison of a few numbers.
    pub(crate) fn observe(&mut self, ledger: &Ledger, letters_removed: u64, now: Instant) {
        let Losses { dropped, not_accepted, rejected, dead_lettered, letters_removed: removed } = &self.last;
        let is_same = (*rejected, *dead_lettered, *removed) == (ledger.rejected, ledger.dead_lettered, letters_removed)
            && (dropped, not_accepted) == (&ledger.dropped, &ledger.refused);
        if is_same {
            return;
        }
        let sums = Losses::of(ledger, letters_removed);
        let growth = sums.since(&self.last);
        self.last = sums;
        match self.buckets.back_mut() {
            Some((begin, losses)) if now.saturating_duration_since(*begin) < BUCKET => {
                *losses = std::mem::take(losses).and(&growth);
            }
            _ => self.buckets.push_back((now, growth)),
        }
        while self.buckets.front().is_some_and(|(begin, _)| now.saturating_duration_since(*begin) > RECENT + BUCKET) {
            self.buckets.pop_front();
        }
    }

    /// The losses within [`RECENT`] before `now`, and up to [`BUCKET`] earlier.
    pub(crate) fn within_recent(&self, now: Instant) -> Losses {
        let is_recent = |begin: &Instant| now.saturating_duration_since(*begin) < RECENT + BUCKET;
        let recent = self.buckets.iter().filter(|(begin, _)| is_recent(begin));
        recent.fold(Losses::default(), |sum, (_, losses)| sum.and(losses))
    }
}

#[cfg(test)]
mod tests {
    use super::super::ledger::{DropReason, Place, RefuseReason};
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "any instant serves: the losses read no clock")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn a_loss_is_recent_for_five_minutes() {
        let (mut recent, mut ledger, start) = (Recent::default(), Ledger::default(), start());
        let at = |seconds| start + Duration::from_secs(seconds);
        let full = Place::Dropped(DropReason::BufferFull);
        ledger.transfer(20, Place::Offered, Place::Buffered);
        recent.observe(&ledger, 0, at(0));
        assert_eq!(recent.within_recent(at(0)), Losses::default());
        ledger.transfer(3, Place::Buffered, full);
        ledger.transfer(1, Place::Offered, Place::Refused(RefuseReason::LargerThanBuffer));
        recent.observe(&ledger, 0, at(100));
        ledger.transfer(4, Place::Buffered, full);
        recent.observe(&ledger, 7, at(109));
        let both = recent.within_recent(at(400));
        assert_eq!(
            (both.dropped["buffer_full"], both.not_accepted["larger_than_buffer"], both.letters_removed),
            (7, 1, 7)
        );
        ledger.transfer(5, Place::Buffered, full);
        recent.observe(&ledger, 7, at(390));
        assert_eq!(recent.within_recent(at(409)).dropped["buffer_full"], 12);
        let last = Losses { dropped: BTreeMap::from([("buffer_full", 5)]), ..Losses::default() };
        assert_eq!(recent.within_recent(at(410)), last);
        assert_eq!(recent.within_recent(at(700)), Losses::default());
    }

    #[test]
    fn losses_of_hours_take_the_memory_of_minutes() {
        let (mut recent, mut ledger, start) = (Recent::default(), Ledger::default(), start());
        for second in 0..7_200 {
            ledger.transfer(1, Place::Offered, Place::Refused(RefuseReason::EncodePanicked));
            recent.observe(&ledger, 0, start + Duration::from_secs(second));
        }
        assert!(recent.buckets.len() <= 33, "{}", recent.buckets.len());
        let spans = recent.within_recent(start + Duration::from_secs(7_199)).not_accepted["encode_panicked"];
        assert!((300..=310).contains(&spans), "{spans}");
    }
}
