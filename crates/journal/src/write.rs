//! Appending, marking and syncing.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io::Write as _;

use safe_dir::{Directory, File as _, FileError, Quarantine};

use super::error::{AppendError, MarkError, SyncError};
use super::frame::{self, Salt};
use super::index::{Index, Place, Segment};
use super::segment::{HEADER_LEN, SegmentId, failed_name};
use super::tail::{Tail, What};
use super::{Config, Id, Notice, Status};

/// The journal of one directory, locked while it is open.
///
/// All of it is for one thread; every call but [`status`](Self::status), [`incarnation`](Self::incarnation) and
/// [`take_notices`](Self::take_notices) may block on the disk. Nothing is durable before [`sync`](Self::sync) has returned `Ok`.
pub struct Journal<D: Directory> {
    pub(crate) dir: D,
    pub(crate) config: Config,
    pub(crate) incarnation: u64,
    pub(crate) index: Index,
    pub(crate) tail: Tail,
    /// The segment that is written; none at first, after it was full, and after it failed.
    pub(crate) head: Option<Head<D::File>>,
    pub(crate) next_number: u64,
    /// The segment that was read last.
    pub(crate) reader: Option<(u64, D::File)>,
    /// What was found at open and not given out yet.
    pub(crate) to_recover: VecDeque<Id>,
    /// How often the disk failed to read a batch.
    pub(crate) read_failures: HashMap<Id, u32>,
    /// Segments found at open of which a sync failed: the next sync writes what waits in them to the head.
    pub(crate) unsafe_found: Vec<u64>,
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
    file: F,
    len: u64,
    /// It was synced once, and its name is durable.
    named: bool,
}

impl<D: Directory> Journal<D> {
    /// The incarnation for batches of this life of the program: the one given to [`open`](Self::open), or, if a file
    /// speaks of that one already, the next free one.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// The directory that it uses.
    #[must_use]
    pub fn dir(&self) -> &D {
        &self.dir
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Writes a batch to the operating system: it survives this process, and after the next [`sync`](Self::sync) a power cut. `count` is
    /// how many items are in it, in the caller's own unit. Syncs by itself only to finish a full segment.
    ///
    /// # Errors
    ///
    /// If it is too large or known already, there is no room, or the file system refuses: then nothing of it is kept.
    pub fn append(&mut self, id: impl Into<Id>, count: u32, body: &[u8]) -> Result<(), AppendError> {
        let id = id.into();
        let max_bytes = self.config.max_body_bytes as usize;
        if body.len() > max_bytes {
            return Err(AppendError::TooLarge { bytes: body.len(), max_bytes });
        }
        if self.index.batches.contains_key(&id) {
            return Err(AppendError::Duplicate(id));
        }
        let len = (frame::HEADER_LEN + body.len()) as u64;
        let needed = self.index.bytes + HEADER_LEN + self.tail.unwritten() + len;
        if needed > self.config.max_bytes {
            return Err(AppendError::Full { needed, max_bytes: self.config.max_bytes });
        }
        self.rotate(len).map_err(AppendError::File)?;
        if !self.tail.is_empty() && self.tail.len() + len > self.config.segment_bytes {
            // After syncs that failed: memory has a limit too.
            self.commit().map_err(AppendError::File)?;
        }
        self.check_room()?;
        self.tail.push(What::Batch(id), count, &[body]);
        self.index.insert(id, count);
        self.flush().map_err(|error| {
            self.tail.pop_unwritten();
            self.index.remove(id);
            AppendError::File(error)
        })
    }

    /// Marks batches as done: delivered, or durable elsewhere. They do not come back once a [`sync`](Self::sync) has succeeded. Returns how many of
    /// them waited; the others are passed over.
    ///
    /// # Errors
    ///
    /// If the mark was not written. The batches are done all the same, and the next call that writes writes the mark.
    pub fn done<I: Copy + Into<Id>>(&mut self, ids: &[I]) -> Result<usize, MarkError> {
        let (mut total, mut outcome) = (0, Ok(()));
        for ids in ids.chunks(IDS_PER_MARK) {
            // Before they count as done: it may sync, and their mark is not part of that.
            let rotated = self.rotate((frame::HEADER_LEN + ids.len() * 16) as u64);
            let known: Vec<Id> = pairs(ids).filter(|id| self.index.remove(*id).is_some()).collect();
            let marked = self.mark(What::Done, &known, &[]);
            outcome = outcome.and(rotated).and(marked);
            total += known.len();
        }
        outcome.map(|()| total).map_err(MarkError)
    }

    /// Announces that batches go to a file, which will have its final name `name` once it is whole and durable. Those of `ids` that
    /// do not wait are passed over; returns how many do.
    ///
    /// The order that never loses and never doubles: `spill`, [`sync`](Self::sync), write the file and make it durable under
    /// its name, [`done`](Self::done), `sync`; only now may the file be replayed or removed. If the file was not written,
    /// [`take_back`](Self::take_back). A name must never be used for two spills.
    ///
    /// # Errors
    ///
    /// As [`append`](Self::append). At most about 65,000 batches may go to one file.
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
        self.mark(What::Spill(Some(key)), &known, &[&name_len.to_le_bytes(), name.as_bytes()]).map_err(|error| {
            self.tail.pop_unwritten();
            self.index.take_back(&known);
            AppendError::File(error)
        })?;
        Ok(known.len())
    }

    /// A file that was announced was not written: its batches stay here after all. Returns how many of `ids` this is about.
    ///
    /// # Errors
    ///
    /// If the mark was not written: the next call that writes writes it.
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
            let marked = self.mark(What::Spill(None), ids, &[&[0, 0]]);
            outcome = outcome.and(rotated).and(marked);
        }
        outcome
    }

    /// Makes everything durable that was appended and marked until now: a group commit. One sync of a file, and one of the
    /// directory for a new segment; none if there is nothing new.
    ///
    /// # Errors
    ///
    /// If the disk fails: nothing since the last sync is durable, all of it is kept in memory, the segment is never synced again, and the next
    /// call of `sync` writes it to a new one.
    pub fn sync(&mut self) -> Result<(), SyncError> {
        self.move_unsafe().and_then(|()| self.commit()).map_err(SyncError)
    }

    /// The journal in numbers, without asking the disk.
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
            batches: self.index.batches.len(),
            items: self.index.items,
            segments: self.index.segments.len(),
            bytes: self.index.bytes,
            unsynced_bytes: self.tail.len(),
            to_recover: self.to_recover.len(),
            trouble: self.trouble,
        }
    }

    /// What a person should hear of since the last call, oldest first; beyond a thousand the oldest are forgotten.
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
            self.poison();
            return Err(error);
        }
        head.named = true;
        for id in self.tail.clear() {
            self.index.settle_place(id);
        }
        self.index.synced();
        self.trouble = false;
        Ok(())
    }

    /// Writes marks for batches that are in the index no more; what cannot be written now is kept for later.
    pub(crate) fn mark_done(&mut self, ids: &[Id]) {
        ids.chunks(IDS_PER_MARK).for_each(|ids| drop(self.mark(What::Done, ids, &[])));
    }

    /// Writes a record about `ids`, which is kept for later if it cannot be written now.
    fn mark(&mut self, what: What, ids: &[Id], name: &[&[u8]]) -> Result<(), FileError> {
        if ids.is_empty() {
            return Ok(());
        }
        let ids_bytes = frame::id_bytes(ids);
        let count = u32::try_from(ids.len()).expect("a mark has at most 65,536 ids");
        self.tail.push(what, count, &[name, &[&ids_bytes]].concat());
        self.flush()
    }

    /// Finishes the head if `len` more bytes would be too much for it.
    pub(crate) fn rotate(&mut self, len: u64) -> Result<(), FileError> {
        let full = |head: &Head<D::File>| {
            head.len > HEADER_LEN && head.len + self.tail.unwritten() + len > self.config.segment_bytes
        };
        if self.head.as_ref().is_some_and(full) {
            self.commit()?;
            self.head = None;
        }
        Ok(())
    }

    /// Whether the disk has room for a new segment, if one must begin.
    fn check_room(&self) -> Result<(), AppendError> {
        let needed = self.config.free_space_reserve;
        if self.head.is_none() && needed > 0 {
            let available = self.dir.free_bytes().map_err(AppendError::File)?;
            if available < needed {
                return Err(AppendError::NoRoom { needed, available });
            }
        }
        Ok(())
    }

    /// Hands to the operating system what was not yet.
    fn flush(&mut self) -> Result<(), FileError> {
        if self.tail.unwritten() == 0 {
            return Ok(());
        }
        if self.head.is_none() {
            self.head = Some(self.new_head().inspect_err(|_| self.trouble = true)?);
        }
        let Some(head) = &mut self.head else { return Ok(()) };
        let (key, at) = (head.key, head.len);
        let bytes = self.tail.seal(head.salt, at);
        if let Err(source) = head.file.write_all(bytes) {
            self.trouble = true;
            // What was written of it must not stand between two records.
            if head.file.truncate(at).is_err() {
                self.poison();
            }
            let name = self.index.segments.get(&key).map_or("", |segment| segment.name.as_str());
            return Err(FileError::Io { path: self.dir.path().join(name), action: "write", source });
        }
        let written = bytes.len() as u64;
        head.len += written;
        self.index.grow_segment(key, written);
        for (record, offset, body_len) in self.tail.set_written(at) {
            match record.what {
                What::Batch(id) => self.index.add_place(id, Place { segment: key, offset, body_len }),
                What::Spill(Some(spill)) => self.index.place_spill(spill, key),
                What::Done | What::Spill(None) => {}
            }
        }
        Ok(())
    }

    fn new_head(&mut self) -> Result<Head<D::File>, FileError> {
        let id = SegmentId { number: self.next_number, incarnation: self.incarnation };
        // Also after a failure: a file that could not be removed keeps its number.
        self.next_number += 1;
        let name = id.name();
        let mut file = self.dir.create(&name)?;
        if let Err(source) = file.write_all(&id.header()) {
            // If this fails too, the next start finds half a header and removes it.
            drop(self.dir.remove(&name));
            return Err(FileError::Io { path: self.dir.path().join(name), action: "write", source });
        }
        let key = self.index.add_segment(Segment::new(name, id, HEADER_LEN));
        Ok(Head { key, salt: id.salt(), file, len: HEADER_LEN, named: false })
    }

    /// Gives the head up. A failed sync says nothing of which bytes are on the disk, and a second one would succeed without them.
    fn poison(&mut self) {
        self.trouble = true;
        self.tail.set_unwritten();
        let Some(head) = self.head.take() else { return };
        let Some(segment) = self.index.segments.get(&head.key) else { return };
        // Nothing in it was ever durable, so all of it is in memory: a disk that fails for long is not filled with copies.
        if !head.named && self.dir.remove(&segment.name).is_ok() {
            self.notice(Notice::Poisoned { name: segment.name.clone() });
            self.index.forget_segment(head.key);
        } else {
            self.set_poisoned(head.key);
        }
    }

    /// A sync of this segment failed: nothing relies on another one, neither here nor, by the name, in the process that comes next.
    pub(crate) fn set_poisoned(&mut self, key: u64) {
        let Some(segment) = self.index.segments.get_mut(&key) else { return };
        segment.poisoned = true;
        let name = segment.name.clone();
        // Where that fails, this process knows all the same. It replaces nothing, as no other segment has this number.
        if let Some(failed_name) = failed_name(&name)
            && self.dir.replace(&name, &failed_name).is_ok()
        {
            segment.name = failed_name;
        }
        self.notice(Notice::Poisoned { name });
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

/// So many ids stand in one mark at most: 64 KiB.
const IDS_PER_MARK: usize = 4_096;

const MAX_NOTICES: usize = 1_000;
