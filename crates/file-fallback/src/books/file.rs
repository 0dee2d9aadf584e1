//! One file: which of its records are settled or handed out.

use std::time::{Duration, SystemTime};

use crate::books::progress::Mark;
use crate::books::ranges::Ranges;
use crate::books::tried::Tried;
use crate::form::name::FileName;
use crate::notice::Damage;
use crate::outcome::{Attempts, Settled, Verdict};

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
    /// The attempts of records that were given back.
    tried: Tried,
    /// How many records it has, once its end was read.
    records: Option<u64>,
    /// The failed attempts that the records have which are read next; those with more wait until the file was read to
    /// its end. None if every record is settled or handed out.
    level: Option<u32>,
    /// The first damage that was found.
    damage: Option<Damage>,
    rejected: bool,
    /// Failed attempts to read it, in a row.
    read_failures: u32,
    /// Processes in a row that died while they read it.
    deaths: u32,
    /// The time from which it ages, in seconds since the epoch, where its name has a time far ahead.
    since: Option<u64>,
    /// The units of each record, as its writer counted them. Empty where they are not known.
    counts: Box<[u64]>,
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
            tried: Tried::default(),
            records: None,
            level: Some(0),
            damage: None,
            rejected: false,
            read_failures: 0,
            deaths: 0,
            since: None,
            counts: Box::default(),
        }
    }

    /// The same, for a file that this process has written. The counts of a file with very many records would take more
    /// memory than they are worth.
    pub(crate) fn with_counts(mut self, counts: &[u64]) -> Self {
        if counts.len() <= MAX_COUNTS {
            self.counts = counts.into();
        }
        self
    }

    /// The units of a record, as its writer counted them.
    pub(crate) fn count_of(&self, number: u64) -> Option<u64> {
        self.counts.get(usize::try_from(number).ok()?).copied()
    }

    /// Continues from the mark of an earlier run.
    pub(crate) fn resume(&mut self, mark: Mark) {
        self.done = mark.records;
        self.tried = mark.tried;
        self.done_count = mark.count;
        self.rejected = mark.rejected;
        self.deaths = mark.deaths;
        self.since = mark.since;
        self.counts = mark.counts.into_boxed_slice();
        if let Some(since) = mark.since.and_then(|since| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(since)))
        {
            self.written_at = self.written_at.min(since);
        }
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
            tried: self.tried.worst(MAX_TRIED),
            deaths: self.deaths,
            since: self.since,
            counts: self.counts.to_vec(),
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

    /// The failed attempts that the records have which are read next; none if no record is left to read.
    pub(crate) fn level(&self) -> Option<u32> {
        self.level
    }

    pub(crate) fn is_finished(&self) -> bool {
        let is_read = self.level.is_none() && self.records.is_some_and(|records| self.done.covers_to(records));
        is_read && self.out.is_empty()
    }

    pub(crate) fn is_older(&self, age: Duration, now: SystemTime) -> bool {
        now.duration_since(self.written_at).is_ok_and(|since| since >= age)
    }

    /// Lets the file age from `now` on where its time of writing cannot be right: it is later than `now`, or
    /// `clock_set`, the time that a set clock has passed, lies between it and `now`.
    ///
    /// Returns whether it was far ahead: then the mark must remember this, or each start would begin its age anew.
    pub(crate) fn correct_time(&mut self, now: SystemTime, clock_set: SystemTime) -> bool {
        let is_far_ahead = self.written_at.duration_since(now).is_ok_and(|ahead| ahead > FAR_AHEAD);
        if is_far_ahead {
            self.since = now.duration_since(SystemTime::UNIX_EPOCH).ok().map(|since| since.as_secs());
        }
        self.written_at = self.written_at.min(now);
        if self.written_at < clock_set && now >= clock_set {
            self.written_at = now;
        }
        is_far_ahead
    }

    /// The attempts of record `number`, if its turn has come: it is neither settled nor handed out, and no record of
    /// the file with fewer failed attempts is left to read.
    pub(crate) fn waiting(&self, number: u64) -> Option<Attempts> {
        let is_taken = self.done.end_of(number).or(self.out.end_of(number)).is_some();
        let attempts = self.tried.get(number);
        (!is_taken && self.level.is_some_and(|level| attempts.failed <= level)).then_some(attempts)
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
        self.level = self.next_level();
    }

    pub(crate) fn hand_out(&mut self, records: &Ranges) {
        records.iter().for_each(|range| self.out.insert(range));
        self.read_failures = 0;
    }

    /// Counts a failed attempt to read the file; returns how many failed in a row.
    pub(crate) fn count_failure(&mut self) -> u32 {
        self.read_failures += 1;
        self.read_failures
    }

    pub(crate) fn deaths(&self) -> u32 {
        self.deaths
    }

    /// Counts a process that died while it read the file; returns how many did in a row.
    pub(crate) fn count_death(&mut self) -> u32 {
        self.deaths += 1;
        self.deaths
    }

    /// Nothing more of the file is read: it ends behind the records that were read. Those of them that failed before
    /// are handed out once more.
    pub(crate) fn give_up(&mut self, damage: Damage) {
        self.note_damage(damage);
        self.records = Some(0);
        self.level = self.next_level();
    }

    fn next_level(&self) -> Option<u32> {
        self.tried.next_above(self.level?, &self.out)
    }

    /// Whether all of these records are handed out.
    pub(crate) fn are_out(&self, records: &Ranges) -> bool {
        records.iter().all(|range| self.out.contains_all(&range))
    }

    /// Takes one verdict for each of these records, which were handed out. Called by the catalog alone, which has a sum
    /// over all files.
    pub(super) fn settle(&mut self, records: &Ranges, verdicts: &[Verdict]) -> FileSettled {
        records.iter().for_each(|range| self.out.remove(&range));
        let before = self.remaining();
        let (mut done, mut is_changed, mut is_reread) = (0_u64, false, false);
        for (record, verdict) in records.iter().flatten().zip(verdicts) {
            match verdict {
                Verdict::Keep => {}
                Verdict::Failed(attempts) => is_changed |= self.tried.set(record, *attempts),
                Verdict::Done(count) => done = done.saturating_add(*count),
                Verdict::Rejected => {
                    self.rejected = true;
                    self.note_damage(Damage::Rejected);
                }
            }
            if matches!(verdict, Verdict::Keep | Verdict::Failed(_)) {
                is_reread |= self.read_again(self.tried.get(record).failed);
            } else {
                is_changed = true;
                self.tried.remove(record);
                self.done.insert(record..record + 1);
            }
        }
        if is_changed {
            // Its records were used: no reader dies of it.
            self.deaths = 0;
        }
        self.done_count = self.done_count.saturating_add(done);
        let count = before - self.remaining();
        FileSettled { settled: Settled { count, surplus: done - count }, is_changed, is_reread }
    }

    /// A record with so many failed attempts waits again. Returns whether the file must be read from its start for it;
    /// otherwise its turn comes when the file was read to its end.
    fn read_again(&mut self, failed: u32) -> bool {
        let is_reread = self.level.is_none_or(|level| failed <= level);
        if is_reread {
            self.level = Some(failed);
        }
        is_reread
    }
}

/// The result of the verdicts about the records of one file.
#[derive(Debug, Default)]
pub(crate) struct FileSettled {
    pub(crate) settled: Settled,
    /// The file's mark is another one now.
    pub(crate) is_changed: bool,
    /// A record waits before the place to which the file was read.
    pub(crate) is_reread: bool,
}

/// A time of writing that is so far ahead of the clock is wrong.
const FAR_AHEAD: Duration = Duration::from_secs(24 * 3600);

/// The counts of a file with more records are not kept.
const MAX_COUNTS: usize = 1_000;

/// A mark holds the attempts of at most so many records of one file: those that failed most often.
const MAX_TRIED: usize = 1_000;
