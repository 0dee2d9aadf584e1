//! The journals of processes that have ended: opened, read in turn, and removed once no batch waits in them.

use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Instant;

use ::journal::{self, ReadError};
use otlp_transport::ErrorChain;
use safe_dir::{Directory, Locked, Quarantine, QuarantineLimits};

use super::{Ended, FileJournal, Found, HasFile, in_one_line};
use crate::report::log;
use crate::report::warnings::Kind;
use crate::seams::journal::Recovered;
use crate::stores::home::{Content, Part, Taken};

/// With more journals of ended processes than this, the batches of one move to the own journal: a program that crashes
/// again and again while the collector is away leaves one with each start.
const MANY_ENDED: usize = 8;

/// Bytes that one step of [`FileJournal::merge`] moves, about.
const MERGE_BYTES: usize = 1_024 * 1_024;

impl<D: Directory> FileJournal<D> {
    pub(super) fn look_for_ended(&mut self, has_file: HasFile<'_>) {
        let now = self.clock.now();
        match self.home.round(now, &mut |_| true) {
            Ok(round) => {
                if let Some((name, error)) = round.failed {
                    self.log.warn(Kind::JournalNotTakenOver, 0, &format!("{name}: {error}"));
                }
            }
            Err(error) => self.log.warn(Kind::JournalNotTakenOver, 0, &ErrorChain(&error).to_string()),
        }
        let Taken { contents, failed } = self.home.take(Part::Journal, now);
        if let Some((name, error)) = failed {
            self.log.warn(Kind::JournalNotTakenOver, 0, &format!("{name}: {error}"));
        }
        let has_opened = !contents.is_empty();
        for content in contents {
            self.open_ended(content, has_file);
        }
        if has_opened {
            // The files of these processes wait no longer.
            self.home.wake();
            if let Some(files) = &self.files {
                files.wake();
            }
        }
    }

    /// Opens the journal of an ended process. That decides for each spill that was interrupted whether the journal or
    /// the file has its batches; only then may the file be moved, replayed or removed.
    fn open_ended(&mut self, content: Content<D>, has_file: HasFile<'_>) {
        let Content { key, name, users, dir } = content;
        let mut holds = |file: &str| match &self.files {
            None => has_file(file),
            Some(files) if Arc::ptr_eq(files, &self.home) => files.has_file(file, &users, Some(key)),
            // The settings of that process may have been others: its files are perhaps beside its journal.
            Some(files) => Ok(files.has_file(file, &users, None)? || self.home.has_file(file, &users, Some(key))?),
        };
        let opened = Locked::new(dir).map_err(|error| ErrorChain(&error).to_string()).and_then(|locked| {
            journal::Journal::open_locked(locked, self.config, self.own.incarnation(), &mut holds)
                .map_err(|error| ErrorChain(&error).to_string())
        });
        match opened {
            Ok((mut journal, report)) => {
                self.log.tell(&mut journal);
                self.found += report.lost_items;
                self.damaged += report.lost_items;
                // A process that was killed while it moved batches has left them in two journals.
                let mut twice = Vec::new();
                for (id, spans) in journal.waiting() {
                    // This process has read it before, and has it in its own journal by now, or has ended it.
                    let is_known = self.released.remove(&id) == Some(true) || self.own.has(id);
                    match self.batches.entry(id) {
                        Entry::Vacant(new) if !is_known => {
                            new.insert(Found::Unread(spans));
                            self.found += u64::from(spans);
                        }
                        _ => twice.push(id),
                    }
                }
                drop(journal.done(&twice));
                if report.batches > 0 || report.torn > 0 || report.damaged > 0 {
                    let (batches, spans, torn, damaged) = (report.batches, report.items, report.torn, report.damaged);
                    log::info_contained!(
                        name,
                        batches,
                        spans,
                        torn,
                        damaged,
                        "the journal of a process that has ended was adopted"
                    );
                }
                self.ended.push(Ended { key, name, journal });
            }
            Err(error) => {
                self.log.warn(Kind::JournalNotTakenOver, 0, &format!("{name}: {error}"));
                self.home.give_back(key, Part::Journal, self.clock.now());
            }
        }
    }

    /// Closes the journals of ended processes in which no batch waits, and removes them.
    pub(super) fn close_ended(&mut self) {
        for at in (0..self.ended.len()).rev() {
            if self.ended[at].journal.status().batches > 0 {
                continue;
            }
            let Ended { key, name, mut journal } = self.ended.remove(at);
            // Marks in memory need not be written: the segments with their batches go now.
            self.log.tell(&mut journal);
            self.note(journal.take_vanished(), false);
            match journal.remove() {
                Ok(Some(Locked { dir, lock })) => {
                    let is_kept = keep_damaged(self.own.dir(), &dir);
                    drop((dir, lock));
                    if is_kept {
                        self.home.finish(key, Part::Journal);
                    } else {
                        self.home.leave(key, Part::Journal);
                    }
                }
                // A newer version has written a part of it.
                Ok(None) => self.home.leave(key, Part::Journal),
                Err(error) => {
                    self.log.warn(Kind::JournalUpkeep, 0, &format!("{name}: {}", ErrorChain(&error)));
                    // Opened once more at the next look, it has no batch that waits.
                    self.home.give_back(key, Part::Journal, self.clock.now());
                }
            }
        }
    }

    /// Moves batches of the youngest journal of an ended process to the own one, if there are many such journals.
    pub(super) fn merge(&mut self) {
        let now = self.clock.now();
        if self.ended.len() <= MANY_ENDED {
            return;
        }
        let Some(Ended { journal, .. }) = self.ended.last_mut() else { return };
        let taken = self.own.take_over(journal, MERGE_BYTES, now);
        let is_new = |id: &journal::Id| matches!(self.batches.get(id), Some(Found::Unread(_)));
        self.merged.extend(taken.moved.iter().map(|(id, _)| *id).filter(is_new));
        // A batch that is in memory is not lost.
        for (id, spans) in taken.lost.into_iter().filter(|(id, _)| is_new(id)).collect::<Vec<_>>() {
            self.batches.remove(&id);
            self.damaged += u64::from(spans);
        }
        if let Some(error) = taken.error {
            self.log.warn(Kind::JournalUpkeep, 0, &ErrorChain(&error).to_string());
        }
        self.log.tell(&mut self.own);
    }

    /// The next batch of an ended process that was not returned before.
    pub(super) fn next_of_ended(&mut self, now: Instant) -> Result<Option<journal::Batch>, Recovered> {
        while let Some(id) = self.merged.pop_front() {
            match self.own.read(id, now) {
                Ok(batch) => return Ok(Some(batch)),
                Err(ReadError::Unknown(_) | ReadError::Vanished { .. }) => {}
                Err(ReadError::Damaged { count, .. }) => return Err(Recovered::Damaged { spans: count.into() }),
                Err(error) => {
                    self.merged.push_back(id);
                    return Err(Recovered::Later(in_one_line(error)));
                }
            }
        }
        let mut later = None;
        for Ended { journal, .. } in &mut self.ended {
            loop {
                let next = journal.next_recovered(now);
                self.log.tell(journal);
                match next {
                    None => break,
                    // A step of `merge` has the journal begin anew.
                    Some(Ok(batch)) if !matches!(self.batches.get(&batch.id), Some(Found::Unread(_))) => {}
                    Some(Ok(batch)) => return Ok(Some(batch)),
                    Some(Err(ReadError::Vanished { .. })) => {}
                    Some(Err(ReadError::Damaged { id, count })) => {
                        if let Some(Found::Unread(_)) = self.batches.remove(&id) {
                            return Err(Recovered::Damaged { spans: count.into() });
                        }
                    }
                    // This journal's other batches, and those of the journals behind it, do not wait for a bad sector.
                    Some(Err(error)) => {
                        later = Some(in_one_line(error));
                        break;
                    }
                }
            }
        }
        later.map_or(Ok(None), |error| Err(Recovered::Later(error)))
    }
}

/// Moves the damaged segments in the directory of an ended process's journal to the one of this process's journal,
/// durably, where the last 100 stay; returns whether none is left.
pub(crate) fn keep_damaged<D: Directory>(to: &D, from: &D) -> bool {
    let limits = QuarantineLimits { max_bytes: u64::MAX, max_files: 100 };
    let mut quarantine = Quarantine::new(QUARANTINE, limits);
    let is_kept = quarantine.take_over(to, from).is_ok();
    quarantine.trim();
    is_kept
}

/// The subdirectory for damaged segments, in the directory of a journal.
pub(crate) const QUARANTINE: &str = "quarantine";
