//! What the disk thread reports: files written, read back, finished, failed.

use std::time::{Duration, Instant};

use otlp_payload::Payload;
use span_buffer::Entry;

use super::memory::{less, size_of, total};
use super::{Core, Effect, Phase, Replay};
use crate::core::replay::{Group, Others};
use crate::report::events::Event;
use crate::report::ledger::{DropReason, Place};
use crate::seams::dead_letters::Redriven;
use crate::seams::fallback::Change;
use crate::seams::fates::{Fate, Refusal};

/// After a disk failed, the next attempt to use it waits this long.
const DISK_RETRY: Duration = Duration::from_secs(1);

impl Core {
    /// These batches are in a file.
    pub(crate) fn spilled(&mut self, entries: &[Entry<Payload>], file: &str, effects: &mut Vec<Effect>) {
        let size = total(entries);
        self.disk.writing = less(self.disk.writing, size);
        self.disk_works();
        self.counters.spills += 1;
        entries.iter().for_each(|entry| self.settle(entry.item.id()));
        self.ledger.transfer(size.count, Place::Buffered, Place::InFallback);
        effects.push(Effect::Tell(Event::Spilled { spans: size.count, file: file.to_owned() }));
    }

    /// The disk would not take these batches: they wait in memory again.
    pub(crate) fn spill_failed(
        &mut self,
        entries: Vec<Entry<Payload>>,
        error: &str,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        self.disk_failed(error, now, effects);
        self.disk.writing = less(self.disk.writing, total(&entries));
        for entry in entries.into_iter().rev() {
            if self.phase == Phase::Stopped {
                self.leave_or_drop(&entry, effects);
            } else {
                self.buffer.give_back(entry);
            }
        }
    }

    /// It did what it was asked to do.
    pub(crate) fn disk_works(&mut self) {
        self.disk.retry_at = None;
        self.disk.trouble = None;
    }

    /// One batch cannot be written, whatever the disk's health: it waits in memory again, and the others go on.
    pub(crate) fn unwritable(&mut self, entry: Entry<Payload>, error: &str, effects: &mut Vec<Effect>) {
        self.disk.writing = less(self.disk.writing, entry.size);
        effects.push(Effect::Tell(Event::DiskTrouble { error: error.to_owned() }));
        if self.phase == Phase::Stopped {
            self.leave_or_drop(&entry, effects);
        } else {
            self.buffer.give_back(entry);
        }
    }

    /// The disk is in trouble: memory only until it has been tried again.
    pub(crate) fn disk_failed(&mut self, error: &str, now: Instant, effects: &mut Vec<Effect>) {
        if self.disk.trouble.is_none() {
            effects.push(Effect::Tell(Event::DiskTrouble { error: error.to_owned() }));
        }
        self.disk.trouble = Some(error.to_owned());
        self.disk.retry_at = Some(now + DISK_RETRY);
    }

    /// Refusals of live batches: kept as dead letters, or not.
    pub(crate) fn letters_kept(&mut self, refusals: &[Refusal], kept: bool, effects: &mut Vec<Effect>) {
        for refusal in refusals {
            self.disk.writing = less(self.disk.writing, size_of(&refusal.payload));
            self.settle(refusal.payload.id());
            let spans = refusal.payload.span_count();
            self.ledger.transfer(spans, Place::Buffered, self.grave(kept));
            effects.push(self.obituary(refusal, kept));
        }
    }

    pub(super) fn grave(&self, kept: bool) -> Place {
        if kept { Place::DeadLettered } else { Place::Dropped(DropReason::Permanent) }
    }

    pub(super) fn obituary(&mut self, refusal: &Refusal, kept: bool) -> Effect {
        let spans = refusal.payload.span_count();
        let reason = refusal.cause.to_string();
        if kept {
            Effect::Tell(Event::DeadLettered { spans, reason })
        } else {
            self.counters.lost();
            Effect::Tell(Event::Dropped { spans, reason: DropReason::Permanent, detail: reason })
        }
    }

    /// Stored batches to send; none when the fallback has none.
    pub(crate) fn group_read(&mut self, batches: Vec<Payload>, now: Instant) {
        if batches.is_empty() {
            self.reads_later(now);
        } else {
            self.replay = Replay::Sending(Group::new(batches, self.others()));
            self.read_at = None;
            self.disk_works();
        }
    }

    /// Stored batches are not to be had just now.
    pub(crate) fn reads_later(&mut self, now: Instant) {
        self.replay = Replay::Idle;
        self.read_at = Some(now + DISK_RETRY);
    }

    pub(super) fn others(&self) -> Others {
        Others { successes: self.counters.successes, trips: self.endpoint.trips() }
    }

    /// Reading stored batches failed.
    pub(crate) fn read_failed(&mut self, error: &str, now: Instant, effects: &mut Vec<Effect>) {
        self.replay = Replay::Idle;
        self.disk_failed(error, now, effects);
    }

    /// The fallback has taken note of what became of a group, and its refusals are dead letters, or not.
    pub(crate) fn group_finished(&mut self, fates: &[Fate], letters_kept: bool, effects: &mut Vec<Effect>) {
        self.replay = Replay::Idle;
        for fate in fates {
            let Fate::Finished { delivered, rejected, refused } = fate else { continue };
            let refused_spans = refused.iter().map(|refusal| refusal.payload.span_count()).sum::<usize>();
            // A file can hold more than its name says: what is sent beyond that was found just now.
            let stands = usize::try_from(self.ledger.in_fallback).unwrap_or(usize::MAX);
            let more = (delivered + rejected + refused_spans).saturating_sub(stands);
            self.ledger.transfer(more, Place::Recovered, Place::InFallback);
            self.ledger.transfer(*delivered, Place::InFallback, Place::Delivered);
            self.ledger.transfer(*rejected, Place::InFallback, Place::Rejected);
            for refusal in refused {
                self.ledger.transfer(refusal.payload.span_count(), Place::InFallback, self.grave(letters_kept));
                let obituary = self.obituary(refusal, letters_kept);
                effects.push(obituary);
            }
        }
        if self.ledger.in_fallback == 0 {
            effects.push(Effect::Tell(Event::Replayed));
        }
    }

    /// A dead letter is among what is stored.
    pub(crate) fn redriven(&mut self, redriven: Redriven, effects: &mut Vec<Effect>) {
        let spans = usize::try_from(redriven.spans).unwrap_or(usize::MAX);
        self.ledger.transfer(spans, Place::Redriven, Place::InFallback);
        if redriven.letter_stays {
            self.counters.possible_duplicates += redriven.spans;
        }
        // There is something to read, whatever the last look said.
        self.read_at = None;
        effects.push(Effect::Tell(Event::Redriven { spans }));
    }

    /// Stored spans came or went by themselves.
    pub(crate) fn fallback_changed(&mut self, change: Change, effects: &mut Vec<Effect>) {
        let stands = self.ledger.in_fallback;
        let at_most = |spans: u64| usize::try_from(spans.min(stands)).unwrap_or(usize::MAX);
        match change {
            Change::Dropped { spans, reason } if spans > 0 => {
                let spans = at_most(spans);
                self.ledger.transfer(spans, Place::InFallback, Place::Dropped(reason));
                self.counters.lost();
                effects.push(Effect::Tell(Event::Dropped { spans, reason, detail: String::new() }));
            }
            Change::Dropped { .. } => {}
            Change::TakenOver { spans } => {
                self.ledger.transfer(at_most(spans), Place::InFallback, Place::TakenOver);
            }
            Change::LettersEvicted { spans } => self.counters.letters_evicted += spans,
            Change::Recovered { spans } => {
                let spans = usize::try_from(spans).unwrap_or(usize::MAX);
                self.ledger.transfer(spans, Place::Recovered, Place::InFallback);
            }
        }
    }
}
