//! The disk thread's results: files written, batches read back, marks written, failures.

use std::time::{Duration, Instant, SystemTime};

use otlp_payload::{Merged, Payload};
use span_buffer::{Entry, Size};

use super::answers::accepts_others;
use super::batch::{Batch, WINDOW};
use super::group::Group;
use super::memory::{size_of, total};
use super::spills::Refused;
use super::{Commit, Core, Effect, Letter, Phase, Spill, Written};
use crate::report::events::Event;
use crate::report::ledger::{Place, Taken};
use crate::seams::dead_letters::Redriven;
use crate::seams::fallback::{Change, StoredBatch};
use crate::seams::fates::{Fate, Refusal};

/// A batch that no file can take, or no dead letter, waits for this time before the next attempt.
const TRY_AGAIN: Duration = Duration::from_secs(60);

/// Spans that have left the files since the first file was there.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Replayed {
    delivered: u64,
    other: u64,
}

/// Events of the fallback.
impl Core {
    /// These batches are in a file. The journal thread marks those that the file takes over.
    pub(crate) fn on_spilled(&mut self, Spill { entries, handed_over }: &Spill, file: &str) {
        let size = total(entries);
        self.durable.on_handed_over(handed_over);
        self.memory.on_write_ended(entries);
        self.storage.on_recovered();
        self.accounts.counters.count_spill();
        entries.iter().for_each(|entry| self.durable.on_ended(entry.item.payload.id()));
        self.accounts.transfer(size.count, Place::Buffered, Place::InFallback);
        self.accounts.publish(Event::Spilled { spans: size.count, file: file.to_owned() });
        self.spills.on_written();
        self.replay.on_stored();
        self.spill_next();
        // Their marks precede the next append.
        self.durable.on_room();
    }

    /// The store failed: these batches, and those that waited behind them for a file, are in memory again.
    pub(crate) fn on_spill_failed(&mut self, entries: Vec<Entry<Batch>>, error: &str, now: Instant) {
        self.on_disk_failed(error, now);
        let entries = self.spills.on_failed(entries);
        self.memory.on_write_ended(&entries);
        for entry in entries.into_iter().rev() {
            self.return_to_memory(entry);
        }
        self.durable.append_anew();
    }

    /// The store works, but refuses these batches: each half is tried alone, a single batch by halves of its spans. A
    /// span that no file can take is in memory again, and stays there for a while.
    pub(crate) fn on_spill_refused(&mut self, entries: Vec<Entry<Batch>>, error: &str, now: Instant) {
        match self.spills.on_refused(entries) {
            Refused::Halved => {}
            Refused::Single(entry) => {
                let entry = *entry;
                let (left, right) = (self.next_id(), self.next_id());
                let whole = match self.memory.plain_within(&entry.item.payload) {
                    Ok(whole) => whole,
                    Err(damaged) => {
                        self.on_write_damaged(&[(entry, damaged)]);
                        return self.spill_next();
                    }
                };
                if let Some((left, right)) = whole.and_then(|whole| whole.split(left, right)) {
                    self.durable.on_cut(entry.item.payload.id(), [&left, &right]);
                    let pieces = [left, right].map(|payload| {
                        let size = size_of(&payload);
                        Entry { item: entry.item.piece(payload), size, ..entry.clone() }
                    });
                    self.memory.on_write_ended(std::slice::from_ref(&entry));
                    self.memory.on_write_begun(&pieces);
                    self.spills.push_halves(pieces.map(|piece| vec![piece]));
                } else {
                    self.memory.on_write_ended(std::slice::from_ref(&entry));
                    self.accounts.publish(Event::DiskTrouble { error: error.to_owned() });
                    let spill_after = now.checked_add(TRY_AGAIN);
                    self.return_to_memory(Entry { item: Batch { spill_after, ..entry.item }, ..entry });
                    self.durable.append_anew();
                }
            }
        }
        self.spill_next();
    }

    fn return_to_memory(&mut self, entry: Entry<Batch>) {
        // The journal may have lost it meanwhile.
        self.durable.on_batch_present(&entry.item);
        if self.phase == Phase::Stopped {
            self.leave_or_drop(entry);
        } else {
            self.has_suspects |= entry.item.suspicion.is_suspect();
            self.memory.give_back(entry);
        }
    }

    /// The last operation on the fallback succeeded: after a failure, memory that is full need not wait for the retry.
    pub(crate) fn on_disk_recovered(&mut self, now: Instant) {
        let has_failed = self.storage.retry_at().is_some();
        self.storage.on_recovered();
        if has_failed && self.phase == Phase::Running {
            self.spill_surplus(Size::default(), now);
        }
    }

    /// The last operation on the fallback failed: batches stay in memory until the next attempt.
    pub(crate) fn on_disk_failed(&mut self, error: &str, now: Instant) {
        if self.storage.on_failed(error, now) {
            self.accounts.publish(Event::DiskTrouble { error: error.to_owned() });
        }
    }

    /// Refused batches of memory are stored as dead letters: so many, counted from the first. None: there is no place
    /// for dead letters.
    pub(crate) fn on_dead_letters_stored(&mut self, letters: Vec<Letter>, stored: Option<usize>, now: Instant) {
        for (index, Letter { pieces, endpoint, cause, .. }) in letters.into_iter().enumerate() {
            self.memory.on_write_ended(&pieces);
            if stored.is_none_or(|stored| index < stored) {
                pieces.iter().for_each(|entry| self.durable.on_ended(entry.item.payload.id()));
                let spans = total(&pieces).count;
                self.accounts.end_refused(endpoint, spans, &cause, Place::Buffered, stored.is_some());
                continue;
            }
            // The storage is in trouble: the batch waits as a suspect does. After that its next refusal ends it, or the
            // next acceptance of another batch if its refusals count already.
            for mut entry in pieces {
                entry.item.suspicion.on_letter_failed(now.checked_add(TRY_AGAIN));
                self.return_to_memory(entry);
            }
        }
        self.durable.append_anew();
    }

    /// No disk thread has stored these dead letters: without a fallback they are dropped.
    fn on_dead_letters_undone(&mut self, letters: Vec<Letter>, now: Instant) {
        let stored = self.storage.is_enabled().then_some(0);
        self.on_dead_letters_stored(letters, stored, now);
    }

    /// The disk thread has read these stored batches for a replay, and merged small ones into requests.
    pub(crate) fn on_group_read(
        &mut self,
        batches: Vec<StoredBatch>,
        requests: Vec<Merged>,
        now: Instant,
        wall: SystemTime,
    ) {
        if batches.is_empty() {
            // A fallback of a user's may return an empty group.
            self.replay.on_read_in_vain(now);
            return;
        }
        let calls = self.calls;
        let signal = self.signal;
        let payload = |bytes, items| Payload::of(signal, self.next_id(), wall, items, bytes);
        let group = Group::new(batches, requests, calls, payload);
        self.replay.on_read(group);
        self.storage.on_recovered();
        // Refusals of earlier groups may count by now.
        let in_use = self.endpoints.in_use();
        let counts = self.endpoints.current().rates(now, WINDOW);
        let accepts_others = |own: u64| accepts_others(counts.refused + counts.failed, counts.accepted, own);
        self.with_group(|group| group.end_dead_letters(in_use, accepts_others, now));
        self.settle_group(now);
    }

    /// The disk thread has no group now: the fallback has no batch to give, or a file may not be replayed before the
    /// journal has marked its batches.
    pub(crate) fn on_group_deferred(&mut self, now: Instant) {
        self.replay.on_read_in_vain(now);
    }

    /// The disk thread failed to read stored batches.
    pub(crate) fn on_read_failed(&mut self, error: &str, now: Instant) {
        self.replay.on_group_ended();
        self.on_disk_failed(error, now);
    }

    /// The fallback has marked the batches of a group by their fates. Of its refusals, so many are dead letters,
    /// counted from the first; the others could not be stored.
    pub(crate) fn on_group_settled(&mut self, fates: &[Fate], stored: Option<usize>) {
        let mut shares = self.replay.take_shares().into_iter();
        self.replay.on_group_ended();
        let mut letters = 0..stored.unwrap_or(0);
        for fate in fates {
            let shares = shares.next().unwrap_or_default();
            let Fate::Finished { delivered, rejected, refused } = fate else { continue };
            let refused_spans = refused.iter().map(|refusal| refusal.payload.item_count()).sum::<usize>();
            // A file can hold more spans than its name promises: the surplus is found at this moment.
            let promised = usize::try_from(self.ledger().in_fallback).unwrap_or(usize::MAX);
            let surplus = (delivered + rejected + refused_spans).saturating_sub(promised);
            self.accounts.transfer(surplus, Place::Recovered, Place::InFallback);
            let all = Taken { delivered: *delivered, rejected: *rejected };
            self.accounts.deliver_shares(&shares, all, Place::InFallback);
            self.replayed.delivered += *delivered as u64;
            self.replayed.other += (rejected + refused_spans) as u64;
            for refusal in refused {
                let Refusal { payload, endpoint, cause, .. } = refusal;
                let (spans, is_stored) = (payload.item_count(), letters.next().is_some());
                self.accounts.end_refused(*endpoint, spans, cause, Place::InFallback, is_stored);
            }
        }
        self.publish_replayed();
    }

    /// Spans that the collector took are sent again.
    pub(crate) fn on_repeated(&mut self, spans: u64) {
        self.accounts.counters.count_possible_duplicates(spans);
    }

    /// Publishes that no file is left, if there was one.
    fn publish_replayed(&mut self) {
        if self.ledger().in_fallback == 0 && self.replayed != Replayed::default() {
            let Replayed { delivered, other } = std::mem::take(&mut self.replayed);
            self.accounts.publish(Event::Replayed { delivered, other });
        }
    }

    /// A dead letter is among the stored batches again.
    pub(crate) fn on_redriven(&mut self, redriven: Redriven) {
        let spans = usize::try_from(redriven.spans).unwrap_or(usize::MAX);
        self.accounts.transfer(spans, Place::Redriven, Place::InFallback);
        if redriven.letter_stays {
            self.accounts.counters.count_possible_duplicates(redriven.spans);
        }
        self.replay.on_redriven();
        // The operator has repaired the cause. Without this a span that was too large would be a dead letter again,
        // without a call.
        self.endpoints.iter_mut().for_each(|endpoint| endpoint.sizes.forget_all());
        self.accounts.publish(Event::Redriven { spans });
    }

    /// Stored spans arrived or left by another way than a spill or a replay.
    pub(crate) fn on_fallback_changed(&mut self, change: Change) {
        let present = self.ledger().in_fallback;
        if let Change::Dropped { spans, .. } | Change::TakenOver { spans } = change {
            self.replayed.other += spans.min(present);
        }
        let at_most = |spans: u64| usize::try_from(spans.min(present)).unwrap_or(usize::MAX);
        match change {
            Change::Dropped { spans, reason } if spans > 0 => {
                self.accounts.drop_spans(at_most(spans), Place::InFallback, reason, String::new());
            }
            Change::Dropped { .. } => {}
            Change::TakenOver { spans } => {
                self.accounts.transfer(at_most(spans), Place::InFallback, Place::TakenOver);
            }
            Change::DeadLettersEvicted { spans: 0 } => {}
            Change::DeadLettersEvicted { spans } => {
                self.accounts.counters.count_evicted_dead_letters(spans);
                self.accounts.publish(Event::DeadLettersEvicted { spans });
            }
            Change::Recovered { spans } => {
                let spans = usize::try_from(spans).unwrap_or(usize::MAX);
                self.accounts.transfer(spans, Place::Recovered, Place::InFallback);
                self.replay.on_stored();
            }
        }
        self.publish_replayed();
    }
}

/// Effects without a result.
impl Core {
    /// No disk thread acts on this effect, or its action ended in a panic before the result: its spans stay accounted
    /// for.
    pub(crate) fn on_undone(&mut self, effect: Effect, now: Instant) {
        const ENDED: &str = "the disk thread has ended";
        match effect {
            Effect::Spill(Spill { entries, .. }) => self.on_spill_failed(entries, ENDED, now),
            Effect::StoreDeadLetters(letters) => self.on_dead_letters_undone(letters, now),
            Effect::ReadGroup { .. } => self.on_read_failed(ENDED, now),
            Effect::Commit(Commit { append, .. }) => {
                let ids = append.iter().map(Payload::id).collect::<Vec<_>>();
                self.durable.on_written(&ids, Written::Failed);
                self.on_committed(false);
            }
            Effect::LookForMarks => self.on_look(),
            Effect::Recover(_) => self.on_recovery_failed(now),
            Effect::RemoveOldest => self.on_removed(None, now),
            Effect::TakeOver => self.on_taken_over(false),
            Effect::KeepOutages => self.on_outages_kept(false),
            Effect::SettleGroup(fates) => {
                // The batches of the group stay stored, those that the collector took too.
                self.replay.on_read_in_vain(now);
                self.on_repeated(fates.iter().map(Fate::delivered).sum::<usize>() as u64);
            }
            Effect::Pack(_) => self.on_packer_ended(),
            // A user's operation answers by itself, and the thread has stopped.
            Effect::Ask(_) | Effect::Stop | Effect::Publish(_) => {}
        }
    }
}
