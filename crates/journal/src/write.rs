//! Appending, marking and syncing.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::io::Write as _;

use safe_dir::{Directory, File as _, FileError, Quarantine};

use super::error::{AppendError, MaintainError, MarkError, SyncError};
use super::frame::{self, Salt};
use super::index::{Failures, Index, Place, Segment};
use super::segment::{HEADER_LEN, SegmentId, failed_name};
use super::tail::{Content, Tail};
use super::{Config, Id, Notice, Status};

/// The journal of one directory, which it holds locked.
///
/// One thread uses it. Every call may block on the disk, except for [`status`](Self::status),
/// [`incarnation`](Self::incarnation), [`config`](Self::config), [`dir`](Self::dir) and
/// [`take_notices`](Self::take_notices). No record is durable before [`sync`](Self::sync) has returned `Ok`.
pub struct Journal<D: Directory> {
    pub(crate) dir: D,
    pub(crate) config: Config,
    pub(crate) incarnation: u64,
    pub(crate) index: Index,
    pub(crate) tail: Tail,
    /// The segment that is written; `None` at first, after it was full, and after its sync failed.
    pub(crate) head: Option<Head<D::File>>,
    pub(crate) next_number: u64,
    /// The segment that was read last, and its file.
    pub(crate) reader: Option<(u64, D::File)>,
    /// Batches found at open that `next_recovered` has not returned yet.
    pub(crate) to_recover: VecDeque<Id>,
    /// Failed reads per batch.
    pub(crate) read_failures: HashMap<Id, Failures>,
    /// Segments found at open whose sync failed: the next sync copies their waiting batches to the head.
    pub(crate) unsynced_found: Vec<u64>,
    /// Batches that could not be read for a copy. They are tried again after all others.
    pub(crate) uncopied: HashSet<Id>,
    /// How often all batches of the last of `unsynced_found` were tried.
    pub(crate) copy_rounds: u32,
    /// Batches that `take_over` has appended to another journal, which is not synced yet.
    pub(crate) moved: Vec<Id>,
    /// Batches, and their items, that `take_over` has appended to this journal and not reported yet.
    pub(crate) unreported: Vec<(Id, u32)>,
    /// Batches of segments that another program has removed.
    pub(crate) gone: Vec<(Id, u32)>,
    /// Another program has removed the directory.
    pub(crate) vanished: bool,
    pub(crate) trouble: bool,
    pub(crate) notices: Vec<Notice>,
    pub(crate) quarantine: Quarantine<D>,
    /// Declared last: released after every file is closed.
    pub(crate) lock: D::Lock,
}

/// The segment that is written.
pub(crate) struct Head<F> {
    pub(crate) key: u64,
    salt: Salt,
    pub(crate) file: F,
    /// The position of the first record that was appended.
    start: u64,
    len: u64,
    /// Whether it was synced once; its name is durable then, too.
    named: bool,
}

impl<F> Head<F> {
    pub(crate) fn has_records(&self) -> bool {
        self.len > self.start
    }
}

impl<D: Directory> Journal<D> {
    /// The incarnation for the ids of this run: the one given to [`open`](Self::open) or, if a record has that one
    /// already, the next free one.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// The directory of the journal.
    #[must_use]
    pub fn dir(&self) -> &D {
        &self.dir
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Writes a batch to the operating system: from now on it survives the end of this process, and after the next
    /// [`sync`](Self::sync) a power cut. `count` is the number of its items, in the caller's own unit. Syncs only to
    /// finish a full segment.
    ///
    /// # Errors
    ///
    /// If the batch is too large, its id is in the journal already, the journal or the disk is full, or the file system
    /// refuses. The journal has no part of the batch then.
    pub fn append(&mut self, id: impl Into<Id>, count: u32, body: &[u8]) -> Result<(), AppendError> {
        self.append_tagged(id, 0, count, body)
    }

    /// [`append`](Self::append) with a tag, a number of the caller's for the kind of the body: a
    /// [`Batch`](crate::Batch) that is read back has it. Versions of this crate that know no tags set such batches
    /// aside unread; 0 is no tag.
    ///
    /// # Errors
    ///
    /// As [`append`](Self::append); [`AppendError::UnknownTag`] for a tag that [`Config::known_tags`](crate::Config)
    /// does not have.
    pub fn append_tagged(&mut self, id: impl Into<Id>, tag: u8, count: u32, body: &[u8]) -> Result<(), AppendError> {
        let max_bytes = self.config.max_body_bytes as usize;
        if body.len() > max_bytes {
            return Err(AppendError::TooLarge { bytes: body.len(), max_bytes });
        }
        if !self.config.known_tags.contains(&tag) {
            return Err(AppendError::UnknownTag(tag));
        }
        self.append_any(id.into(), tag, count, body)
    }

    /// [`append`](Self::append) for a body of any length.
    pub(crate) fn append_any(&mut self, id: Id, tag: u8, count: u32, body: &[u8]) -> Result<(), AppendError> {
        if self.vanished {
            return Err(AppendError::File(self.vanished_error()));
        }
        if self.index.batches.contains_key(&id) {
            return Err(AppendError::Duplicate(id));
        }
        let len = (frame::HEADER_LEN + body.len()) as u64;
        self.check_limit(len)?;
        self.rotate(len).map_err(AppendError::File)?;
        if !self.tail.is_empty() && self.tail.len() + len > self.config.segment_bytes {
            // After failed syncs: the memory for unsynced records is limited, too.
            self.commit().map_err(AppendError::File)?;
        }
        self.check_room()?;
        self.tail.push_tagged(Content::Batch(id), tag, count, &[body]);
        self.index.insert(id, tag, count);
        self.flush().map_err(|error| {
            self.tail.pop_unwritten();
            self.index.remove(id);
            AppendError::File(error)
        })
    }

    /// Marks batches as done: delivered, or durable elsewhere. They do not come back once a [`sync`](Self::sync) has
    /// succeeded. Returns how many of them waited; other ids have no effect.
    ///
    /// # Errors
    ///
    /// If the mark was not written. The batches are done all the same, and the next call that writes also writes the
    /// mark.
    pub fn done<I: Copy + Into<Id>>(&mut self, ids: &[I]) -> Result<usize, MarkError> {
        let (mut total, mut outcome) = (0, Ok(()));
        for ids in ids.chunks(IDS_PER_MARK) {
            // Before the batches count as done: finishing a segment syncs, and that sync does not cover their mark.
            let rotated = self.rotate((frame::HEADER_LEN + ids.len() * 16) as u64);
            let known: Vec<Id> = pairs(ids).filter(|id| self.index.remove(*id).is_some()).collect();
            let marked = self.mark(Content::Done, &known, &[]);
            outcome = outcome.and(rotated).and(marked);
            total += known.len();
        }
        outcome.map(|()| total).map_err(MarkError)
    }

    /// Announces that batches move to the file `name`: its final name, under which it appears once it is whole and
    /// durable. Returns how many of `ids` wait; the others are not part of the spill.
    ///
    /// The order in which no batch is lost or in both places: `spill`, [`sync`](Self::sync), write the file and make it
    /// durable under its name, [`done`](Self::done), `sync`; only now may the file be replayed or removed. If the file
    /// was not written, [`take_back`](Self::take_back). A name must never be used for two spills.
    ///
    /// # Errors
    ///
    /// As [`append`](Self::append). At most about 65,000 batches may move to one file.
    pub fn spill<I: Copy + Into<Id>>(&mut self, name: &str, ids: &[I]) -> Result<usize, AppendError> {
        let (bytes, max_bytes) = (2 + name.len() + ids.len() * 16, frame::MAX_MARK_BODY as usize);
        let Some(name_len) = u16::try_from(name.len()).ok().filter(|_| ids.len() <= frame::max_ids(name)) else {
            return Err(AppendError::TooLarge { bytes, max_bytes });
        };
        if name.is_empty() {
            return Err(AppendError::NoName);
        }
        self.rotate((frame::HEADER_LEN + bytes) as u64).map_err(AppendError::File)?;
        let Some((key, known)) = self.index.announce(name, pairs(ids)) else { return Ok(0) };
        self.mark(Content::Spill(Some(key)), &known, &[&name_len.to_le_bytes(), name.as_bytes()]).map_err(|error| {
            self.tail.pop_unwritten();
            self.index.take_back(&known);
            AppendError::File(error)
        })?;
        Ok(known.len())
    }

    /// Ends the spills of batches whose file was not written: they stay in the journal. Returns how many of `ids` were
    /// part of a spill.
    ///
    /// # Errors
    ///
    /// If the mark was not written: the next call that writes also writes it.
    pub fn take_back<I: Copy + Into<Id>>(&mut self, ids: &[I]) -> Result<usize, MarkError> {
        let spilling = |id: &Id| self.index.batches.get(id).is_some_and(|live| live.spill.is_some());
        let known: Vec<Id> = pairs(ids).filter(spilling).collect();
        self.mark_taken_back(&known).map(|()| known.len()).map_err(MarkError)
    }

    pub(crate) fn mark_taken_back(&mut self, ids: &[Id]) -> Result<(), FileError> {
        let mut outcome = Ok(());
        for ids in ids.chunks(IDS_PER_MARK) {
            let rotated = self.rotate((frame::HEADER_LEN + 2 + ids.len() * 16) as u64);
            self.index.take_back(ids);
            let marked = self.mark(Content::Spill(None), ids, &[&[0, 0]]);
            outcome = outcome.and(rotated).and(marked);
        }
        outcome
    }

    /// Begins the next segment ahead of its need, durably: the first one, and one after a segment that is full to three
    /// quarters. Without this, the sync after the first record of a segment syncs the directory too, which on a slow
    /// disk takes twice the time while a caller waits. Call it when the thread has no other work, behind a sync.
    ///
    /// Does nothing while records wait for a sync, while the disk is in trouble or full, and at the limit of bytes. One
    /// sync of the directory.
    ///
    /// # Errors
    ///
    /// If the disk fails. No record is affected; the next append begins the segment.
    pub fn prepare(&mut self) -> Result<(), MaintainError> {
        let is_needed = self.head.as_ref().is_none_or(|head| head.len > self.config.segment_bytes / 4 * 3);
        if !is_needed || !self.tail.is_empty() || self.trouble || self.vanished {
            return Ok(());
        }
        if self.index.bytes + START_LEN > self.config.max_bytes || !self.has_room().map_err(MaintainError)? {
            return Ok(());
        }
        self.head = None;
        let mut head = self.new_head().map_err(MaintainError)?;
        if let Err(error) = self.dir.sync() {
            // Its name may not be durable: no record goes there.
            self.index.forget_segment(head.key);
            drop(self.dir.remove(&SegmentId { number: self.next_number - 1, incarnation: self.incarnation }.name()));
            return Err(MaintainError(error));
        }
        head.named = true;
        self.head = Some(head);
        Ok(())
    }

    /// Makes all records durable that were appended until now: a group commit. One sync of a file, and one of the
    /// directory for a new segment; none if no record is new.
    ///
    /// # Errors
    ///
    /// If the disk fails: no record since the last sync is durable, all of them are in memory, the segment is never
    /// synced again, and the next call of `sync` writes them to a new one. [`SyncError::Vanished`]: another program has
    /// removed the directory, and no batch is durable; see [`renew`](Self::renew). If it has removed the segment alone,
    /// the records since the last sync are written to a new one, and [`take_vanished`](Self::take_vanished) returns the
    /// other batches that were there.
    pub fn sync(&mut self) -> Result<(), SyncError> {
        let synced = if self.vanished { Err(self.vanished_error()) } else { self.copy_unsynced() };
        synced.and_then(|()| self.commit()).map_err(|error| {
            self.note_vanished();
            if self.vanished { SyncError::Vanished(self.dir.path().to_owned()) } else { SyncError::File(error) }
        })
    }

    /// The journal in numbers. Does not use the disk.
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
            batches: self.index.batches.len(),
            items: self.index.items,
            segments: self.index.segments.len(),
            bytes: self.index.bytes,
            max_bytes: self.config.max_bytes,
            unsynced_bytes: self.tail.len(),
            trouble: self.trouble,
            vanished: self.vanished,
        }
    }

    /// The events since the last call, oldest first; of more than a thousand, the last thousand.
    #[must_use]
    pub fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    pub(crate) fn notice(&mut self, notice: Notice) {
        if self.notices.len() == MAX_NOTICES {
            self.notices.remove(0);
        }
        self.notices.push(notice);
    }

    pub(crate) fn commit(&mut self) -> Result<(), FileError> {
        self.commit_again(false)
    }

    fn commit_again(&mut self, is_second: bool) -> Result<(), FileError> {
        if self.tail.is_empty() {
            return Ok(());
        }
        self.flush()?;
        let Some(head) = &mut self.head else { return Ok(()) };
        let name = self.index.segments.get(&head.key).map_or("", |segment| segment.name.as_str());
        let failed = |source| FileError::Io { path: self.dir.path().join(name), action: "sync", source };
        let synced = head.file.sync().map_err(failed);
        let synced = synced.and_then(|()| if head.named { Ok(()) } else { self.dir.sync() });
        if let Err(error) = synced {
            self.abandon_head();
            return Err(error);
        }
        head.named = true;
        match self.head_is_gone() {
            Ok(false) => {}
            // The records since the last sync are in memory: once more, to a new segment.
            Ok(true) if !is_second => return self.commit_again(true),
            Ok(true) => return Err(self.vanished_error()),
            Err(error) => {
                self.abandon_head();
                return Err(error);
            }
        }
        for id in self.tail.clear() {
            self.index.settle_place(id);
        }
        self.index.synced();
        self.trouble = false;
        Ok(())
    }

    /// Writes marks for batches that have left the index. Marks that cannot be written now stay in memory for a later
    /// call.
    pub(crate) fn mark_done(&mut self, ids: &[Id]) {
        ids.chunks(IDS_PER_MARK).for_each(|ids| drop(self.mark(Content::Done, ids, &[])));
    }

    /// Appends marks for batches whose spills have ended, in memory.
    pub(crate) fn push_taken_back(&mut self, ids: &[Id]) {
        for ids in ids.chunks(IDS_PER_MARK) {
            let count = u32::try_from(ids.len()).expect("a mark has at most 65,536 ids");
            self.tail.push(Content::Spill(None), count, &[&[0, 0], &frame::id_bytes(ids)]);
        }
    }

    /// Appends a record about `ids`. If it cannot be written now, it stays in memory for a later call.
    fn mark(&mut self, content: Content, ids: &[Id], name: &[&[u8]]) -> Result<(), FileError> {
        if ids.is_empty() {
            return Ok(());
        }
        let ids_bytes = frame::id_bytes(ids);
        let count = u32::try_from(ids.len()).expect("a mark has at most 65,536 ids");
        self.tail.push(content, count, &[name, &[&ids_bytes]].concat());
        self.flush()
    }

    /// Finishes the head if `len` more bytes would exceed its limit.
    pub(crate) fn rotate(&mut self, len: u64) -> Result<(), FileError> {
        let full = |head: &Head<D::File>| {
            head.has_records() && head.len + self.tail.unwritten() + len > self.config.segment_bytes
        };
        if self.head.as_ref().is_some_and(full) {
            self.commit()?;
            self.head = None;
        }
        Ok(())
    }

    /// Writes the records that are only in memory to the operating system.
    pub(crate) fn flush(&mut self) -> Result<(), FileError> {
        if self.tail.unwritten() == 0 {
            return Ok(());
        }
        if self.head.is_none() {
            let head = self.new_head().inspect_err(|_| {
                self.trouble = true;
                self.note_vanished();
            });
            self.head = Some(head?);
        }
        let Some(head) = &mut self.head else { return Ok(()) };
        let (key, at) = (head.key, head.len);
        let bytes = self.tail.seal(head.salt, at);
        if let Err(source) = head.file.write_all(bytes) {
            self.trouble = true;
            // Half a record must not stand between two records.
            if head.file.truncate(at).is_err() {
                self.abandon_head();
            }
            let name = self.index.segments.get(&key).map_or("", |segment| segment.name.as_str());
            return Err(FileError::Io { path: self.dir.path().join(name), action: "write", source });
        }
        let written = bytes.len() as u64;
        head.len += written;
        self.index.grow_segment(key, written);
        for (record, offset, body_len) in self.tail.set_written(at) {
            match record.content {
                Content::Batch(id) => {
                    self.index.add_place(id, Place { segment: key, offset, body_len });
                    self.index.count_batch(key, record.count);
                }
                Content::Spill(Some(spill)) => self.index.place_spill(spill, key),
                Content::Done => self.index.note_marks(key),
                Content::Spill(None) => {}
            }
        }
        Ok(())
    }

    fn new_head(&mut self) -> Result<Head<D::File>, FileError> {
        let id = SegmentId { number: self.next_number, incarnation: self.incarnation };
        // Also after a failure: a file that could not be removed still has its number.
        self.next_number += 1;
        let name = id.name();
        let mut bytes = id.header().to_vec();
        if let Some(account) = self.index.account() {
            account.push(&mut bytes);
            frame::seal(&mut bytes[HEADER_LEN as usize..], id.salt(), HEADER_LEN);
        }
        let mut file = self.dir.create(&name)?;
        if let Err(source) = file.write_all(&bytes) {
            // If the removal fails too, the next start finds half a header and removes the file.
            drop(self.dir.remove(&name));
            return Err(FileError::Io { path: self.dir.path().join(name), action: "write", source });
        }
        let len = bytes.len() as u64;
        let key = self.index.add_segment(Segment::new(name, id, len));
        Ok(Head { key, salt: id.salt(), file, start: len, len, named: false })
    }

    /// Ends the use of the head after a failed sync. Such a failure does not show which bytes are on the disk, and a
    /// second sync would return `Ok` without writing the others.
    fn abandon_head(&mut self) {
        self.trouble = true;
        self.tail.set_unwritten();
        let Some(head) = self.head.take() else { return };
        let Some(segment) = self.index.segments.get(&head.key) else { return };
        // No record of it was ever durable, and all are in memory: removed, so that a disk that fails for long does not
        // fill up with copies.
        if !head.named && self.dir.remove(&segment.name).is_ok() {
            self.notice(Notice::SyncFailed { name: segment.name.clone() });
            self.index.forget_segment(head.key);
        } else {
            self.set_sync_failed(head.key);
        }
    }

    /// Notes that a sync of this segment failed, so that neither this process nor, by the segment's name, the next one
    /// relies on a later sync.
    pub(crate) fn set_sync_failed(&mut self, key: u64) {
        let Some(segment) = self.index.segments.get_mut(&key) else { return };
        segment.sync_failed = true;
        let name = segment.name.clone();
        // Where the rename fails, only this process knows. It replaces no file, as no other segment has this number.
        if let Some(failed_name) = failed_name(&name)
            && self.dir.replace(&name, &failed_name).is_ok()
        {
            segment.name = failed_name;
        }
        self.notice(Notice::SyncFailed { name });
    }
}

impl<D: Directory> fmt::Debug for Journal<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal")
            .field("path", &self.dir.path())
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

fn pairs<I: Copy + Into<Id>>(ids: &[I]) -> impl Iterator<Item = Id> {
    ids.iter().map(|id| (*id).into())
}

/// The most ids in one mark: 64 KiB.
const IDS_PER_MARK: usize = 4_096;

/// The bytes of a segment before the first record that was appended, at most: its header and an account.
pub(crate) const START_LEN: u64 = HEADER_LEN + frame::HEADER_LEN as u64;

const MAX_NOTICES: usize = 1_000;
