//! The end of a replayed batch, and of a group of them.

use otlp_payload::Payload;
use otlp_transport::{Cause, RefusalKind};

use crate::report::position::Position;

/// The fate of one stored batch after its calls.
#[derive(Clone, Debug)]
pub enum Fate {
    /// No answer ended the batch: it stays stored, together with the calls that did not deliver it.
    Pending(Failures),
    /// Every span of the batch has an answer.
    Finished {
        /// Spans that the collector took.
        delivered: usize,
        /// Spans that the collector rejected in partial successes.
        rejected: usize,
        /// Parts that became dead letters, each with the cause.
        refused: Vec<Refusal>,
    },
}

impl Fate {
    /// The parts of the batch that are to become dead letters.
    pub(crate) fn refusals(&self) -> &[Refusal] {
        match self {
            Self::Finished { refused, .. } => refused,
            Self::Pending(_) => &[],
        }
    }

    /// Spans of the batch that end as delivered.
    pub(crate) fn delivered(&self) -> usize {
        match self {
            Self::Finished { delivered, .. } => *delivered,
            Self::Pending(_) => 0,
        }
    }
}

/// Stores the refused parts of each batch as dead letters. A batch of which `store` stores fewer letters than it has
/// refused parts stays stored; one that is refused by a fallback without dead letters (`None`) stays only if its
/// failures were not for good. Returns the number of letters of the finished batches; `None` without dead letters.
///
/// A batch that stays has one failure more than those with which it was `read`: its next refusal makes a dead letter of
/// it, and batches with fewer failures go before it. Those of its parts that are dead letters already, and its spans
/// that were delivered, come a second time: at least once.
pub(crate) fn store_letters(
    fates: &mut [Fate],
    read: &[Failures],
    mut store: impl FnMut(&[Refusal]) -> Option<usize>,
) -> Option<usize> {
    let (mut finished, mut failed_in_a_row) = (Some(0), 0);
    for (index, fate) in fates.iter_mut().enumerate() {
        let refusals = fate.refusals();
        if refusals.is_empty() {
            continue;
        }
        // A letter that does not fit holds up no other batch; a disk that is full is not asked once for each.
        let letters = if failed_in_a_row < MAX_FAILED_IN_A_ROW { store(refusals) } else { Some(0) };
        let stays = match letters {
            Some(letters) => letters < refusals.len(),
            None => refusals.iter().any(|refusal| !refusal.permanent),
        };
        finished = letters.and(finished).map(|finished| finished + if stays { 0 } else { refusals.len() });
        failed_in_a_row = if stays { failed_in_a_row + 1 } else { 0 };
        if stays {
            let read = read.get(index).copied().unwrap_or_default();
            *fate = Fate::Pending(Failures { calls: read.calls.saturating_add(1), ..read });
        }
    }
    finished
}

/// After so many batches without a letter the others of a group stay without an attempt.
const MAX_FAILED_IN_A_ROW: u32 = 3;

/// The calls of a stored batch that did not deliver it. The store keeps them with the batch: over groups always, over
/// restarts where it can.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Failures {
    /// All of them, throttles aside. A store gives batches with fewer of them first.
    pub calls: u32,
    /// Refusals that count against the batch: the same endpoint accepted a batch that was sent after them.
    pub counted: Refusals,
    /// Refusals that do not count yet.
    pub uncounted: Refusals,
}

/// Refusals of one batch, by kind. A failure of a stored batch that may be repeated counts as one of the kind `sender`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Refusals {
    /// Refusals of the kind [`RefusalKind::Batch`].
    pub batch: u32,
    /// Refusals of the kind [`RefusalKind::Unclear`].
    pub unclear: u32,
    /// Refusals of the kind [`RefusalKind::Sender`].
    pub sender: u32,
}

impl Refusals {
    /// Adds one refusal. A kind that is unknown to this version is unclear.
    pub fn add(&mut self, kind: RefusalKind) {
        let count = match kind {
            RefusalKind::Batch => &mut self.batch,
            RefusalKind::Sender => &mut self.sender,
            _ => &mut self.unclear,
        };
        *count = count.saturating_add(1);
    }

    /// Takes all refusals of `other` over.
    pub fn take_over(&mut self, other: &mut Self) {
        let Self { batch, unclear, sender } = std::mem::take(other);
        self.batch = self.batch.saturating_add(batch);
        self.unclear = self.unclear.saturating_add(unclear);
        self.sender = self.sender.saturating_add(sender);
    }
}

/// Spans that leave the pipeline for a dead letter, and the cause.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The refused spans.
    pub payload: Payload,
    /// The collector that refused them.
    pub endpoint: Position,
    /// The collector's answer.
    pub cause: Cause,
    /// Calls that were made with these bytes.
    pub attempts: u32,
    /// The collector refused them for good. Otherwise their calls failed again and again while others did not: if they
    /// cannot be stored as dead letters, they stay in the fallback.
    pub permanent: bool,
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use bytes::Bytes;
    use otlp_payload::BatchId;

    use super::*;
    use crate::report::position::Position;

    /// The fate of a batch of which these parts were refused, for good or not.
    fn refused(parts: &[bool]) -> Fate {
        let id = BatchId { incarnation: 1, seq: 1 };
        let refusal = |&permanent| Refusal {
            payload: Payload::new(id, SystemTime::UNIX_EPOCH, 1, Bytes::new()),
            endpoint: Position::PRIMARY,
            cause: Cause::Http { status: 400, message: String::new() },
            attempts: 1,
            permanent,
        };
        Fate::Finished { delivered: 2, rejected: 0, refused: parts.iter().map(refusal).collect() }
    }

    fn failures(calls: u32) -> Failures {
        Failures { calls, counted: Refusals { batch: 0, unclear: 5, sender: calls }, ..Failures::default() }
    }

    /// The numbers of letters of the batches that are finished, and the failures of those that stay; the number that is
    /// returned.
    fn stored<const N: usize>(
        batches: [&[bool]; N],
        store: impl FnMut(&[Refusal]) -> Option<usize>,
    ) -> ([Result<usize, Failures>; N], Option<usize>) {
        let mut fates = batches.map(refused);
        let read = (1..).take(N).map(failures).collect::<Vec<_>>();
        let stored = store_letters(&mut fates, &read, store);
        let of = |fate| match fate {
            Fate::Finished { refused, .. } => Ok(refused.len()),
            Fate::Pending(failures) => Err(failures),
        };
        (fates.map(of), stored)
    }

    fn stays(calls: u32) -> Result<usize, Failures> {
        Err(Failures { calls: calls + 1, ..failures(calls) })
    }

    #[test]
    fn exactly_the_batches_with_a_part_that_is_no_dead_letter_stay() {
        let batches: [&[bool]; 5] = [&[true], &[], &[true, false, true], &[true], &[]];
        for (room, expected, finished) in [
            (0, [stays(1), Ok(0), stays(3), stays(4), Ok(0)], 0),
            (1, [Ok(1), Ok(0), stays(3), stays(4), Ok(0)], 1),
            (3, [Ok(1), Ok(0), stays(3), stays(4), Ok(0)], 1),
            (4, [Ok(1), Ok(0), Ok(3), stays(4), Ok(0)], 4),
            (5, [Ok(1), Ok(0), Ok(3), Ok(1), Ok(0)], 5),
        ] {
            let mut left = room;
            let store = |refusals: &[Refusal]| {
                let stored = refusals.len().min(left);
                left -= stored;
                Some(stored)
            };
            assert_eq!(stored(batches, store), (expected, Some(finished)), "room for {room} letters");
        }
        // A fallback of a user's may count more than there were.
        assert_eq!(stored(batches, |_| Some(9)), ([Ok(1), Ok(0), Ok(3), Ok(1), Ok(0)], Some(5)));
        let refused_for_good = [Ok(1), Ok(0), stays(3), Ok(1), Ok(0)];
        assert_eq!(stored(batches, |_| None), (refused_for_good, None), "a part of the third was not");
    }

    #[test]
    fn a_letter_that_does_not_fit_holds_up_no_other_batch_and_a_full_disk_is_not_asked_for_each() {
        let mut asked = 0;
        let odd_ones_fit = stored([&[true][..]; 7], |_| {
            asked += 1;
            Some(asked % 2)
        });
        assert_eq!(odd_ones_fit, ([Ok(1), stays(2), Ok(1), stays(4), Ok(1), stays(6), Ok(1)], Some(4)));
        let mut asked = 0;
        let full = stored([&[true][..]; 5], |_| {
            asked += 1;
            Some(0)
        });
        assert_eq!((full, asked), (([1, 2, 3, 4, 5].map(stays), Some(0)), 3));
    }
}
