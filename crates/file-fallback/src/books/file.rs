//! One file: which of its records are settled or handed out.

use std::ops::Range;
use std::time::SystemTime;

use crate::books::progress::Mark;
use crate::books::ranges::Ranges;
use crate::form::name::FileName;
use crate::notice::Damage;
use crate::outcome::{Settled, Verdict};

/// A file with records that are not settled.
#[derive(Debug)]
pub(crate) struct StoredFile {
    /// The units that its name promises.
    promised: u64,
    bytes: u64,
    /// When it was written, by the store's own clock; by its name, if an earlier run wrote it.
    written_at: SystemTime,
    /// Records that are not read again.
    done: Ranges,
    /// Units that were settled with them.
    done_count: u64,
    /// Records that are handed out.
    out: Ranges,
    /// How many records it has, once its end was read.
    records: Option<u64>,
    /// Every record was read and is settled or handed out; until a record is given back.
    exhausted: bool,
    /// The first damage that was found.
    damage: Option<Damage>,
    rejected: bool,
    /// Failed attempts to read it, in a row.
    read_failures: u32,
}

impl StoredFile {
    pub(crate) fn new(name: &FileName, bytes: u64, written_at: SystemTime) -> Self {
        Self {
            promised: name.count,
            bytes,
            written_at,
            done: Ranges::default(),
            done_count: 0,
            out: Ranges::default(),
            records: None,
            exhausted: false,
            damage: None,
            rejected: false,
            read_failures: 0,
        }
    }

    /// Continues from the mark of an earlier run.
    pub(crate) fn resume(&mut self, mark: Mark) {
        self.done = mark.records;
        self.done_count = mark.count;
        self.rejected = mark.rejected;
        if mark.rejected {
            self.damage = Some(Damage::Rejected);
        }
    }

    pub(crate) fn mark(&self, name: &str) -> Mark {
        Mark {
            file: name.to_owned(),
            bytes: self.bytes,
            records: self.done.clone(),
            count: self.done_count,
            rejected: self.rejected,
        }
    }

    pub(crate) fn promised(&self) -> u64 {
        self.promised
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn damage(&self) -> Option<Damage> {
        self.damage
    }

    /// The units that its name promises, less the settled ones.
    pub(crate) fn remaining(&self) -> u64 {
        self.promised.saturating_sub(self.done_count)
    }

    /// Whether no record is handed out.
    pub(crate) fn is_idle(&self) -> bool {
        self.out.is_empty()
    }

    pub(crate) fn is_exhausted(&self) -> bool {
        self.exhausted
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.exhausted && self.out.is_empty() && self.records.is_some_and(|records| self.done.covers_to(records))
    }

    pub(crate) fn is_older(&self, age: std::time::Duration, now: SystemTime) -> bool {
        now.duration_since(self.written_at).is_ok_and(|since| since >= age)
    }

    /// Lets the file age from `now` on where its time of writing cannot be right: it is later than `now`, or
    /// `clock_set`, the time that a set clock has passed, lies between it and `now`.
    pub(crate) fn correct_time(&mut self, now: SystemTime, clock_set: SystemTime) {
        self.written_at = self.written_at.min(now);
        if self.written_at < clock_set && now >= clock_set {
            self.written_at = now;
        }
    }

    /// Whether record `number` is neither settled nor handed out.
    pub(crate) fn is_waiting(&self, number: u64) -> bool {
        self.done.end_of(number).or(self.out.end_of(number)).is_none()
    }

    pub(crate) fn note_damage(&mut self, damage: Damage) {
        self.damage.get_or_insert(damage);
    }

    /// Record `number` holds no usable text: it is never handed out.
    pub(crate) fn skip(&mut self, number: u64, damage: Option<Damage>) {
        self.done.insert(number..number + 1);
        if let Some(damage) = damage {
            self.note_damage(damage);
        }
    }

    /// The file was read to its end, behind so many records.
    pub(crate) fn end_at(&mut self, records: u64) {
        self.records = Some(records);
        self.exhausted = true;
    }

    pub(crate) fn hand_out(&mut self, records: Range<u64>) {
        self.out.insert(records);
        self.read_failures = 0;
    }

    /// Counts a failed attempt to read the file; returns how many failed in a row.
    pub(crate) fn count_failure(&mut self) -> u32 {
        self.read_failures += 1;
        self.read_failures
    }

    /// Nothing more of the file is read: it ends behind the records that were handed out.
    pub(crate) fn give_up(&mut self, damage: Damage) {
        self.note_damage(damage);
        self.exhausted = true;
        self.records = Some(0);
    }

    /// Takes back a group; false if some of its records are not handed out.
    pub(crate) fn take_back(&mut self, records: &Range<u64>) -> bool {
        let all_out = self.out.contains_all(records);
        if all_out {
            self.out.remove(records);
        }
        all_out
    }

    /// The file is read again from its start, for the records that were given back.
    pub(crate) fn read_again(&mut self) {
        self.exhausted = false;
    }

    /// Notes one verdict for each of the records. Called by the catalog alone, which has a sum over all files.
    pub(super) fn settle(&mut self, records: Range<u64>, verdicts: &[Verdict]) -> Settled {
        let before = self.remaining();
        let mut done = 0_u64;
        for (record, verdict) in records.zip(verdicts) {
            match verdict {
                Verdict::Keep => continue,
                Verdict::Done(count) => done = done.saturating_add(*count),
                Verdict::Rejected => {
                    self.rejected = true;
                    self.note_damage(Damage::Rejected);
                }
            }
            self.done.insert(record..record + 1);
        }
        self.done_count = self.done_count.saturating_add(done);
        let count = before - self.remaining();
        Settled { count, surplus: done - count }
    }
}
