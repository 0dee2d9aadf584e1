//! Segments and directories that another program removes while the journal is in use.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;

use safe_dir::{Directory, File as _, FileError, Locked};

use super::index::Segment;
use super::{Id, Journal, Notice};

impl<D: Directory> Journal<D> {
    /// Takes the batches, each with the number of its items, that were in segments which another program has removed:
    /// the journal no longer has them. A caller that has one in memory appends it again, under the same id. Ask after
    /// each call that may write or read, and after [`maintain`](Self::maintain): these notice the removal. Once
    /// [`Status::vanished`](super::Status::vanished) is `true` these are all batches but those of the records since the
    /// last sync, which are in memory and which [`renew`](Self::renew) writes.
    #[must_use]
    pub fn take_vanished(&mut self) -> Vec<(Id, u32)> {
        if self.vanished {
            self.lose_directory();
        }
        std::mem::take(&mut self.gone)
    }

    /// Goes on in another directory, which should be empty, after another program has removed this one (see
    /// [`SyncError::is_vanished`](super::SyncError::is_vanished)) or has put another in its place. The records since
    /// the last sync are in memory and are written there, with the next call where that fails; nothing is durable
    /// before the next [`sync`](Self::sync).
    /// Returns all other batches that waited, oldest first, each with the number of its items, unless
    /// [`take_vanished`](Self::take_vanished) has returned them: the journal no longer has them. A caller that has one
    /// in memory appends it again, under the same id.
    pub fn renew(&mut self, locked: Locked<D>) -> Vec<(Id, u32)> {
        self.lose_directory();
        let lost = std::mem::take(&mut self.gone);
        // Each without the batches that are lost: a mark that they stay would be one more record that damage can hit,
        // and the file of the spill may become whole without them.
        for (key, name, ids) in self.index.spills_in(None) {
            self.push_spill(key, &name, &ids);
        }
        self.read_failures.clear();
        self.uncopied.clear();
        self.unsynced_found.clear();
        (self.dir, self.lock) = (locked.dir, locked.lock);
        self.quarantine = super::maintain::quarantine();
        self.copy_rounds = 0;
        (self.vanished, self.trouble) = (false, !self.tail.is_empty());
        // Where this fails, they wait for the next call.
        drop(self.flush());
        lost
    }

    /// Whether the batch waits. Does not use the disk.
    #[must_use]
    pub fn has(&self, id: impl Into<Id>) -> bool {
        self.index.batches.contains_key(&id.into())
    }

    /// Removes all batches from the index but those of the records since the last sync.
    fn lose_directory(&mut self) {
        (self.head, self.reader) = (None, None);
        self.tail.set_unwritten();
        let kept: HashSet<Id> = self.tail.batches().collect();
        for key in self.index.segments.keys().copied().collect::<Vec<_>>() {
            self.index.forget_segment(key);
        }
        let others = self.index.in_order().into_iter().filter(|id| !kept.contains(id)).collect();
        let others = self.drop_batches(others);
        self.gone.extend(others);
        // Those of the spills that go on are written anew by `renew`, as no segment has any record now.
        self.tail.remove_spills();
    }

    /// Notes whether the directory has lost its name, after a failure in it.
    pub(crate) fn note_vanished(&mut self) {
        self.vanished |= self.dir.is_gone();
    }

    /// After a sync of the head: whether another program has removed it. If only the segment is gone, the journal no
    /// longer has what was synced there before.
    pub(crate) fn head_is_gone(&mut self) -> Result<bool, FileError> {
        let Some(head) = &self.head else { return Ok(false) };
        let (key, is_gone) = (head.key, head.file.is_gone());
        let name = self.index.segments.get(&key).map_or("", |segment| segment.name.as_str());
        let failed = |source| FileError::Io { path: self.dir.path().join(name), action: "sync", source };
        if !is_gone.map_err(failed)? {
            return Ok(false);
        }
        self.note_vanished();
        if self.vanished {
            self.head = None;
            return Err(self.vanished_error());
        }
        self.lose_segment(key);
        Ok(true)
    }

    pub(crate) fn vanished_error(&self) -> FileError {
        let path = self.dir.path().to_owned();
        FileError::Io { path, action: "find", source: io::ErrorKind::NotFound.into() }
    }

    /// Looks for the directory and all segments. Returns whether one is missing: batches may have to be copied.
    pub(crate) fn find_vanished(&mut self) -> Result<bool, FileError> {
        self.note_vanished();
        if self.vanished {
            return Err(self.vanished_error());
        }
        let names: HashSet<_> = self.dir.list()?.into_iter().map(|entry| entry.name).collect();
        let is_missing = |segment: &Segment| !segment.removed && !names.contains(OsStr::new(&segment.name));
        let segments = self.index.segments.iter().filter(|(_, segment)| is_missing(segment));
        let missing: Vec<u64> = segments.map(|(key, _)| *key).collect();
        let more = !missing.is_empty();
        for key in missing {
            self.lose_segment(key);
        }
        Ok(more)
    }

    /// Removes a segment whose file does not exist any more from the index. The records in it that no sync has made
    /// durable are written again. Marks in it are lost: the batches that wait in earlier segments are copied, so that
    /// those segments go and no batch that is done comes back.
    pub(crate) fn lose_segment(&mut self, key: u64) {
        self.note_vanished();
        if self.head_key() == Some(key) {
            self.head = None;
            self.tail.set_unwritten();
        }
        let Some(segment) = self.index.segments.get(&key) else { return };
        let (name, has_marks) = (segment.name.clone(), segment.has_marks);
        for (_, earlier) in self.index.segments.range_mut(..key).filter(|_| has_marks) {
            earlier.marks_lost = true;
        }
        // Without it a power cut may bring the segment back, with batches that are lost or done by then.
        drop(self.dir.sync());
        let gone = self.drop_segment(key);
        let items = gone.iter().map(|(_, count)| u64::from(*count)).sum();
        self.notice(Notice::Vanished { name, batches: gone.len() as u64, items });
        self.gone.extend(gone);
    }

    /// Removes a segment from the index; returns the batches that were only there, oldest first. The records of spills
    /// in it are written again with the next record.
    pub(crate) fn drop_segment(&mut self, key: u64) -> Vec<(Id, u32)> {
        if self.reader.as_ref().is_some_and(|(reader, _)| *reader == key) {
            self.reader = None;
        }
        let batches = self.index.batches_in(key);
        let spills: Vec<u64> = self.index.spills_in(Some(key)).into_iter().map(|(spill, ..)| spill).collect();
        self.index.forget_segment(key);
        let in_tail: HashSet<Id> = self.tail.batches().collect();
        let mut gone = Vec::new();
        for id in batches.into_iter().filter(|id| !in_tail.contains(id)) {
            self.index.restore_place(id);
            gone.extend(self.index.next_place(id, &[]).is_none().then_some(id));
        }
        let gone = self.drop_batches(gone);
        let open = self.index.spills_in(None).into_iter().filter(|(spill, ..)| spills.contains(spill));
        open.for_each(|(spill, name, ids)| self.push_spill(spill, &name, &ids));
        gone
    }

    /// Removes batches that the journal no longer has. Their spills end: the caller may append them again.
    fn drop_batches(&mut self, ids: Vec<Id>) -> Vec<(Id, u32)> {
        let (mut dropped, mut spilled) = (Vec::new(), Vec::new());
        for id in ids {
            let Some(live) = self.index.remove(id) else { continue };
            dropped.push((id, live.count));
            spilled.extend(live.spill.map(|_| id));
        }
        self.push_taken_back(&spilled);
        dropped
    }
}
