//! Directories and segments that another program removes or moves away, and directories that another machine takes.

use ::journal;
use safe_dir::{Directory, Locked};

use super::{Ended, FileJournal, Found, Look, in_one_line};
use crate::report::log;
use crate::report::warnings::Kind;
use crate::seams::journal::{JournalError, Lost};
use crate::stores::home::Part;

impl<D: Directory> FileJournal<D> {
    /// Goes on in a new directory if the own journal has lost its one, or the process its.
    pub(super) fn renew_if_gone(&mut self) -> Result<(), JournalError> {
        self.home.renew_if_gone().map_err(in_one_line)?;
        let is_here = self.generation == self.home.generation() && self.home.holds(Part::Journal, self.own.dir());
        if is_here && !self.own.status().vanished {
            return Ok(());
        }
        let (dir, generation) = self.home.own(Part::Journal).map_err(in_one_line)?;
        let locked = Locked::new(dir).map_err(in_one_line)?;
        let is_moved = self.generation != generation;
        if is_moved {
            self.release_ended();
        }
        let is_taken = is_moved && self.home.is_on_network() && !self.own.dir().is_gone();
        let gone = self.own.renew(locked);
        self.generation = generation;
        self.note(gone, is_taken);
        log::warn_contained!(
            path = %self.own.dir().path().display(),
            "the journal's directory was removed; a new one is made, and batches in memory are appended again"
        );
        Ok(())
    }

    /// Gives up the hold on the journals of ended processes, with the directory of this process: they are found by the
    /// next look of this process, or of another one, if they still exist. Before that the exporter appends those of
    /// their batches that it has in memory.
    fn release_ended(&mut self) {
        for Ended { mut journal, .. } in std::mem::take(&mut self.ended) {
            let (gone, waiting, is_taken) = (journal.take_vanished(), journal.waiting(), !journal.dir().is_gone());
            drop(journal);
            self.note(gone, false);
            let read = waiting.iter().filter(|(id, _)| is_taken && self.batches.get(id) == Some(&Found::Read));
            self.released.extend(read.map(|(id, _)| (*id, false)));
            self.note(waiting, is_taken);
        }
        self.look = Look::Postponed;
    }

    /// Drops journals of ended processes whose directory another program has moved away.
    pub(super) fn drop_moved(&mut self) {
        let home = &self.home;
        let is_moved = |ended: &mut Ended<D>| !home.holds_content(ended.key, Part::Journal, ended.journal.dir());
        let moved = self.ended.extract_if(.., is_moved).collect();
        self.drop_ended(moved);
    }

    fn drop_ended(&mut self, ended: Vec<Ended<D>>) {
        for Ended { key, name, mut journal } in ended {
            log::warn_contained!(name, "the journal of a process that has ended was removed");
            let (gone, waiting, is_removed) = (journal.take_vanished(), journal.waiting(), journal.dir().is_gone());
            drop(journal);
            self.note(gone, false);
            if is_removed {
                self.home.finish(key, Part::Journal);
            } else {
                self.home.leave(key, Part::Journal);
            }
            // Another machine renames the directory of a process that it takes for ended.
            self.note(waiting, self.home.is_on_network() && !is_removed);
        }
    }

    /// Collects the batches that the journals no longer have, and drops journals of ended processes that have no
    /// directory any more.
    pub(super) fn note_vanished(&mut self) {
        if self.own.status().vanished
            && let Err(error) = self.renew_if_gone()
        {
            self.log.warn(Kind::JournalUpkeep, 0, &error.to_string());
        }
        let gone = self.all().flat_map(|journal| journal.take_vanished()).collect::<Vec<_>>();
        self.note(gone, false);
        if self.ended.iter().any(|ended| ended.journal.status().vanished) {
            let removed = self.ended.extract_if(.., |ended| ended.journal.status().vanished).collect();
            self.drop_ended(removed);
        }
    }

    /// Notes that a journal no longer has these batches, and whether another process has them.
    pub(super) fn note(&mut self, gone: Vec<(journal::Id, u32)>, is_taken: bool) {
        if !gone.is_empty() {
            self.was_lost = true;
            let lost = self.without(gone);
            if is_taken { self.taken_over.add(lost) } else { self.lost.add(lost) }
        }
    }

    /// Forgets batches that a journal no longer has; returns those that no other one has.
    pub(super) fn without(&mut self, gone: Vec<(journal::Id, u32)>) -> Lost {
        let mut lost = Lost::default();
        for (id, spans) in gone {
            // Between two steps of a merge a batch stands in two journals.
            if self.all().any(|journal| journal.has(id)) {
                continue;
            }
            match self.batches.remove(&id) {
                Some(Found::Unread(_)) => lost.unread += u64::from(spans),
                Some(Found::Read) | None => lost.batches.push(id.into()),
            }
        }
        lost
    }
}
