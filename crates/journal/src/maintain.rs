//! Clearing up, a little at a time: segments go when all in them is done, what keeps them for too long is written elsewhere.

use safe_dir::{Directory, FileError, Locked, Quarantine, QuarantineLimits};

use super::error::{MaintainError, ReadError};
use super::frame;
use super::index::{Index, Segment};
use super::tail::What;
use super::{Id, Journal, Notice};

impl<D: Directory> Journal<D> {
    /// Does one bounded step of clearing up, at most 1 MiB of copying and 16 removals; says whether more is to be done at once. Call it
    /// when there is nothing better to do, and about once a second; appending and syncing never do it.
    ///
    /// Segments are removed oldest first, each when all batches in it are done and the marks of that are durable (or cannot be written, as the
    /// disk is full: removing needs no bytes, and says the same). What waits in a segment of which a sync failed, in a damaged one, and in an old one that holds
    /// up much that is done, is written to the head. Damaged segments end in the subdirectory `quarantine`, which keeps the last 100.
    ///
    /// # Errors
    ///
    /// If the disk fails; it is tried again by the next call.
    pub fn maintain(&mut self) -> Result<bool, MaintainError> {
        let mut more = self.remove_finished().map_err(MaintainError)?;
        if let Some(key) = self.index.to_move(self.head_key(), self.config.bytes_before_moving()) {
            more |= self.move_some(key).map_err(MaintainError)?;
            more |= self.remove_finished().map_err(MaintainError)?;
        }
        Ok(more)
    }

    /// Removes the segments of a journal in which no batch waits, oldest first, and returns its directory, still locked, so that the
    /// caller can remove that too. `None`, and nothing is done, if a batch waits. Damaged segments that were set aside stay in `quarantine/`.
    ///
    /// # Errors
    ///
    /// If a segment cannot be removed: the directory is then a journal in which no batch waits.
    pub fn remove(self) -> Result<Option<Locked<D>>, MaintainError> {
        if !self.index.batches.is_empty() {
            return Ok(None);
        }
        for segment in self.index.segments.values() {
            self.dir.remove(&segment.name).map_err(MaintainError)?;
        }
        self.dir.sync().map_err(MaintainError)?;
        Ok(Some(Locked { dir: self.dir, lock: self.lock }))
    }

    fn head_key(&self) -> Option<u64> {
        self.head.as_ref().map(|head| head.key)
    }

    /// Oldest first without exception: a mark never goes before the batches that it is about.
    fn remove_finished(&mut self) -> Result<bool, FileError> {
        for _ in 0..REMOVALS {
            let Some((&key, segment)) = self.index.segments.first_key_value() else { return Ok(false) };
            if Some(key) == self.head_key() || !segment.is_finished(self.trouble) {
                return Ok(false);
            }
            self.give_up(key)?;
        }
        Ok(true)
    }

    /// Takes a segment off the disk, durably.
    pub(crate) fn give_up(&mut self, key: u64) -> Result<(), FileError> {
        let Some(segment) = self.index.segments.get(&key) else { return Ok(()) };
        let (name, damaged) = (segment.name.clone(), segment.damaged);
        if self.reader.as_ref().is_some_and(|(reader, _)| *reader == key) {
            self.reader = None;
        }
        // Each is durable before the next segment goes: else a power cut could bring this one back without its marks.
        if damaged {
            self.set_aside(&name)?;
        } else {
            match self.dir.remove(&name) {
                // An earlier attempt removed it, and its sync failed.
                Err(error) if error.is_not_found() => {}
                other => other?,
            }
            self.dir.sync()?;
        }
        self.index.remove_segment(key);
        Ok(())
    }

    /// Moves a segment to the quarantine, durably.
    pub(crate) fn set_aside(&mut self, name: &str) -> Result<(), FileError> {
        let moved_to = self.quarantine.set_aside(&self.dir, name);
        if moved_to.as_ref().is_err_and(|error| !error.is_not_found()) {
            return moved_to.map(drop);
        }
        // Also where the segment is gone: an earlier attempt moved it, and its sync failed.
        self.quarantine.sync(&self.dir)?;
        self.quarantine.trim();
        if let Ok(moved_to) = moved_to {
            self.notice(Notice::SetAside { name: name.to_owned(), moved_to });
        }
        Ok(())
    }

    /// Writes to the head, durably, what waits in segments that were found at open and whose sync failed.
    pub(crate) fn move_unsafe(&mut self) -> Result<(), FileError> {
        while let Some(key) = self.unsafe_found.last().copied() {
            while self.move_some(key)? {}
            self.unsafe_found.pop();
        }
        Ok(())
    }

    /// Writes some of what waits in a segment to the head, durably.
    pub(crate) fn move_some(&mut self, key: u64) -> Result<bool, FileError> {
        // What is not durable is in memory and moves by being written.
        self.commit()?;
        let ids = self.index.batches_in(key);
        let (mut moved, mut left) = (0, ids.len());
        for id in ids {
            if moved >= MOVE_BYTES {
                break;
            }
            left -= 1;
            let batch = match self.read_patiently(id, MAX_READS) {
                Ok(batch) => batch,
                Err(ReadError::Damaged { .. } | ReadError::Unknown(_)) => continue,
                Err(ReadError::File(error)) => return Err(error),
            };
            let len = (frame::HEADER_LEN + batch.body.len()) as u64;
            self.rotate(len)?;
            self.tail.push(What::Batch(id), batch.count, &[&batch.body]);
            moved += len;
        }
        if left == 0 {
            self.move_spills(key);
        }
        self.commit()?;
        Ok(left > 0)
    }

    /// Announces the spills once more whose record stands there.
    fn move_spills(&mut self, key: u64) {
        for (spill, name, ids) in self.index.spills_in(key) {
            let name_len = u16::try_from(name.len()).expect("checked when announced");
            let count = u32::try_from(ids.len()).expect("checked when announced");
            let body: [&[u8]; 3] = [&name_len.to_le_bytes(), name.as_bytes(), &frame::id_bytes(&ids)];
            self.tail.push(What::Spill(Some(spill)), count, &body);
        }
    }
}

impl Segment {
    /// Whether nothing in it is needed any more. In trouble a mark that is not durable is good enough: the batches go with it.
    fn is_finished(&self, trouble: bool) -> bool {
        self.live == 0 && self.spills == 0 && self.unsynced_spills == 0 && (self.unsynced_marks == 0 || trouble)
    }

    fn is_needed(&self) -> bool {
        self.live > 0 || self.spills > 0
    }
}

impl Index {
    /// The segment whose batches should be elsewhere.
    fn to_move(&self, head: Option<u64>, bytes_before_moving: u64) -> Option<u64> {
        let mut others = self.segments.iter().filter(|(key, _)| Some(**key) != head);
        let oldest = others.clone().next().filter(|(_, segment)| segment.is_needed());
        if let Some((key, _)) = others.find(|(_, segment)| (segment.poisoned || segment.damaged) && segment.is_needed())
        {
            return Some(*key);
        }
        let live: u64 = self.segments.values().map(|segment| segment.live_bytes).sum();
        let held_up = self.bytes > bytes_before_moving && live < self.bytes / 2;
        oldest.filter(|_| held_up).map(|(key, _)| *key)
    }

    /// What waits in a segment, in the order of writing.
    fn batches_in(&self, segment: u64) -> Vec<Id> {
        let mut found: Vec<_> = self
            .batches
            .iter()
            .filter_map(|(id, live)| Some((live.places.iter().find(|place| place.segment == segment)?.offset, *id)))
            .collect();
        found.sort_unstable();
        found.into_iter().map(|(_, id)| id).collect()
    }

    /// All that waits, in the order of writing.
    pub(crate) fn in_order(&self) -> Vec<Id> {
        let mut found: Vec<_> = self.batches.iter().map(|(id, live)| (live.places.first().copied(), *id)).collect();
        found.sort_unstable();
        found.into_iter().map(|(_, id)| id).collect()
    }

    /// The announced spills whose record stands in a segment, with what of them is open.
    fn spills_in(&self, segment: u64) -> Vec<(u64, String, Vec<Id>)> {
        let here = self.spills.iter().filter(|(_, spill)| spill.segment == Some(segment));
        here.map(|(key, spill)| {
            let open = |id: &Id| self.batches.get(id).is_some_and(|live| live.spill == Some(*key));
            (*key, spill.name.clone(), spill.ids.iter().copied().filter(open).collect())
        })
        .collect()
    }
}

/// The subdirectory for damaged segments, of which it keeps the last 100.
pub(crate) fn quarantine<D: Directory>() -> Quarantine<D> {
    Quarantine::new("quarantine", QuarantineLimits { max_bytes: u64::MAX, max_files: 100 })
}

/// Segments that one step removes; each takes a sync of the directory.
const REMOVALS: usize = 16;

/// So often the disk may fail to read a batch that is to be moved: a minute, if asked once a second. There is no hurry.
const MAX_READS: u32 = 60;

/// Bytes that one step moves, about.
const MOVE_BYTES: u64 = 1 << 20;
