//! Moving the batches of an ended process's journal into this one, one bounded step at a time.

use std::time::Instant;

use safe_dir::Directory;

use super::error::{AppendError, ReadError, TakeOverError};
use super::{Id, Journal, frame};

/// The result of one step of [`Journal::take_over`].
#[derive(Debug, Default)]
#[must_use = "a batch is reported once"]
#[non_exhaustive]
pub struct TakenOver {
    /// Batches that are new in this journal and durable there, each with the number of its items, oldest first.
    pub moved: Vec<(Id, u32)>,
    /// Batches that are damaged, or that the disk failed to read three times, each with the number of its items. Those
    /// of segments that another program has removed are in [`take_vanished`](Journal::take_vanished) of the other
    /// journal.
    pub lost: Vec<(Id, u32)>,
    /// No batch waits in the other journal any more: [`remove`](Journal::remove) it.
    pub is_empty: bool,
    /// Why the step ended early, or why the other journal has no mark yet for the batches that it no longer needs.
    /// The next step goes on where this one ended.
    pub error: Option<TakeOverError>,
}

impl<D: Directory> Journal<D> {
    /// Moves waiting batches, about `max_bytes` of them and at least one, out of `other`, the journal of an ended
    /// process: appends them here under their ids, syncs this journal, marks them as done in the other one, syncs that,
    /// and removes up to 16 of its segments that are not needed any more. Call it until
    /// [`is_empty`](TakenOver::is_empty), and retain `other` as long: one that is closed after an error and opened
    /// again reads all its batches from the start.
    ///
    /// At every moment at least one of the journals has a batch durably. A step that fails anywhere first makes durable
    /// and marks the batches that it moved before: each is reported once, and the other journal does not return it
    /// again. A batch that cannot be read goes behind the others, and is lost after three failures at least 1 s apart.
    /// The limit of a body's length does not apply, the other limits do.
    pub fn take_over(&mut self, other: &mut Self, max_bytes: usize, now: Instant) -> TakenOver {
        let mut taken = TakenOver::default();
        let appended = self.append_from(other, max_bytes, now, &mut taken.lost);
        let settled = self.settle_moved(other, &mut taken.moved);
        taken.error = appended.err().or(settled.err());
        taken.is_empty = other.index.batches.is_empty();
        taken
    }

    /// Appends batches of the other journal to this one, which is not synced.
    fn append_from(
        &mut self,
        other: &mut Self,
        max_bytes: usize,
        now: Instant,
        lost: &mut Vec<(Id, u32)>,
    ) -> Result<(), TakeOverError> {
        // The sync of an earlier step failed: no further batches until one succeeds.
        if !other.moved.is_empty() {
            return Ok(());
        }
        if other.to_recover.is_empty() {
            other.to_recover = other.index.in_order().into();
        }
        let (mut bytes, mut failures, mut outcome) = (0, 0, Ok(()));
        // Each batch at most once: those that cannot be read go to the back.
        for _ in 0..other.to_recover.len() {
            match other.next_recovered(now) {
                None => break,
                Some(Ok(batch)) => {
                    match self.append_any(batch.id, batch.tag, batch.count, &batch.body) {
                        Ok(()) => self.unreported.push((batch.id, batch.count)),
                        // An earlier step, which did not mark it, appended this batch already.
                        Err(AppendError::Duplicate(_)) => {}
                        Err(error) => {
                            other.to_recover.push_front(batch.id);
                            return Err(TakeOverError::Append(error));
                        }
                    }
                    other.moved.push(batch.id);
                    bytes += frame::HEADER_LEN + batch.body.len();
                }
                Some(Err(ReadError::Damaged { id, count })) => lost.push((id, count)),
                Some(Err(ReadError::File(error))) => {
                    outcome = Err(TakeOverError::Read(error));
                    failures += 1;
                }
                Some(Err(ReadError::Vanished { .. } | ReadError::Unknown(_))) => {}
            }
            if bytes >= max_bytes || failures == FAILURES_A_STEP {
                break;
            }
        }
        outcome
    }

    /// Makes the moved batches durable here, then marks them in the other journal.
    fn settle_moved(&mut self, other: &mut Self, reported: &mut Vec<(Id, u32)>) -> Result<(), TakeOverError> {
        if !other.moved.is_empty() || !self.unreported.is_empty() {
            self.sync().map_err(TakeOverError::Sync)?;
        }
        // A batch that this journal has lost since stays in the other one.
        reported.extend(self.unreported.drain(..).filter(|(id, _)| self.index.batches.contains_key(id)));
        let (here, gone): (Vec<Id>, Vec<Id>) =
            other.moved.drain(..).partition(|id| self.index.batches.contains_key(id));
        gone.into_iter().rev().for_each(|id| other.to_recover.push_front(id));
        // The sync writes the marks where this fails.
        drop(other.done(&here));
        other.sync().map_err(TakeOverError::Mark)?;
        // Where this fails, the next step or `remove` tries again.
        drop(other.remove_finished());
        Ok(())
    }
}

/// Failed reads that end a step: each may take seconds.
const FAILURES_A_STEP: u32 = 3;
