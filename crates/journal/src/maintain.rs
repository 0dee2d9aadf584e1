//! Maintenance, one bounded step at a time: segments are removed when all their batches are done; batches that wait for
//! long are copied so that their segment can be removed.

use std::collections::HashMap;

use safe_dir::{Directory, FileError, Locked, Quarantine, QuarantineLimits};

use super::error::MaintainError;
use super::frame;
use super::index::{Index, Segment};
use super::tail::Content;
use super::{Id, Journal, Notice};

impl<D: Directory> Journal<D> {
    /// Does one bounded step of maintenance, at most 1 MiB of copying and 16 removals; returns whether another step is
    /// due at once. Call it when the thread has no other work, and about once a second; `sync` never does this
    /// work, and `append` only before it would refuse a batch for a limit.
    ///
    /// Removes segments oldest first, each once all batches in it are done and their marks are durable. On a disk that
    /// takes no mark, a segment is removed all the same: the batches are gone with it, and a removal needs no space.
    /// Waiting batches are copied to the head out of a segment whose sync failed, out of a damaged one, and out of an
    /// old one that holds many batches that are done. Damaged segments are moved to the subdirectory `quarantine`,
    /// which retains the last 100. Notices segments that another program has removed:
    /// [`take_vanished`](Self::take_vanished) returns their batches, and if marks went with them, the batches that wait
    /// in earlier segments are copied too.
    ///
    /// # Errors
    ///
    /// If the disk fails; the next call tries again. If another program has removed the directory,
    /// [`Status::vanished`](super::Status::vanished) is `true`.
    pub fn maintain(&mut self) -> Result<bool, MaintainError> {
        let maintained = self.clear_up().and_then(|more| Ok(self.find_vanished()? || more));
        // Records of a removed segment, or of one whose sync failed. Where this fails, they wait for the next call.
        drop(self.flush());
        maintained.inspect_err(|_| self.note_vanished()).map_err(MaintainError)
    }

    fn clear_up(&mut self) -> Result<bool, FileError> {
        let mut more = self.remove_finished()?;
        let stuck = self.stuck();
        match self.index.to_copy(self.head_key(), self.config.bytes_before_copying(), &stuck) {
            Some(key) => {
                more |= self.copy_some(key)?.more;
                more |= self.remove_finished()?;
                more |= self.index.must_copy(self.head_key(), &self.stuck()).is_some();
            }
            // Each batch had its turn: the next step reads again those that could not be read.
            None => self.uncopied.clear(),
        }
        Ok(more)
    }

    /// Removes the segments of a journal in which no batch waits, oldest first, and returns its directory, still
    /// locked, so that the caller can remove that too. `None`, and no change, if a batch waits or a segment is
    /// [kept](super::Report::kept). Damaged segments are
    /// in `quarantine/` then.
    ///
    /// # Errors
    ///
    /// If a segment cannot be removed: the directory is then a journal in which no batch waits.
    pub fn remove(mut self) -> Result<Option<Locked<D>>, MaintainError> {
        if self.clear()? { Ok(Some(Locked { dir: self.dir, lock: self.lock })) } else { Ok(None) }
    }

    /// [`remove`](Self::remove) for a journal that stays open, such as at the end of a program that leaves nothing to
    /// the next one. Returns whether no segment is left; the next append begins a new one.
    ///
    /// # Errors
    ///
    /// The same.
    pub fn clear(&mut self) -> Result<bool, MaintainError> {
        if !self.index.batches.is_empty() || self.index.segments.values().any(|segment| segment.kept) {
            return Ok(false);
        }
        self.head = None;
        for key in self.index.segments.keys().copied().collect::<Vec<_>>() {
            self.retire(key).map_err(MaintainError)?;
        }
        Ok(true)
    }

    pub(crate) fn head_key(&self) -> Option<u64> {
        self.head.as_ref().map(|head| head.key)
    }

    /// Removes finished segments oldest first: a mark never goes before the batches that it is about. Only a damaged
    /// segment, whose marks were copied, goes before older ones.
    pub(crate) fn remove_finished(&mut self) -> Result<bool, FileError> {
        for _ in 0..REMOVALS {
            let Some(key) = self.index.removable(self.head_key(), self.trouble, self.tail.is_empty()) else {
                return Ok(false);
            };
            self.retire(key)?;
        }
        Ok(true)
    }

    /// Removes a segment from the disk, or moves it to the quarantine, durably.
    pub(crate) fn retire(&mut self, key: u64) -> Result<(), FileError> {
        let Some(segment) = self.index.segments.get_mut(&key) else { return Ok(()) };
        segment.removed = true;
        let (name, damaged) = (segment.name.clone(), segment.damaged);
        if self.reader.as_ref().is_some_and(|(reader, _)| *reader == key) {
            self.reader = None;
        }
        // Durable before the next segment goes: else a power cut could bring this one back without its marks.
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
        // Also if the segment does not exist: an earlier attempt moved it, and its sync failed.
        self.quarantine.sync(&self.dir)?;
        self.quarantine.trim();
        if let Ok(moved_to) = moved_to {
            self.notice(Notice::SetAside { name: name.to_owned(), moved_to });
        }
        Ok(())
    }

    /// Copies waiting batches to the head, durably, out of segments that were found at open and whose sync failed. A
    /// batch that cannot be read fails three syncs; later ones leave it in its segment, so that it does not prevent
    /// syncs for ever.
    pub(crate) fn copy_unsynced(&mut self) -> Result<(), FileError> {
        while let Some(key) = self.unsynced_found.last().copied() {
            let copied = self.copy_some(key)?;
            if let Some(error) = copied.error {
                return Err(error);
            }
            if copied.more {
                continue;
            }
            if let Some(id) = self.index.batches_in(key).into_iter().find(|id| self.uncopied.contains(id)) {
                self.copy_rounds += 1;
                if self.copy_rounds < COPY_ROUNDS {
                    self.uncopied.clear();
                    if let Ok(Err(unread)) = self.try_read(id) {
                        return Err(unread.into_error());
                    }
                    continue;
                }
            }
            self.copy_rounds = 0;
            self.unsynced_found.pop();
        }
        Ok(())
    }

    /// Copies some of the waiting batches of a segment to the head, durably. A batch that cannot be read stays where it
    /// is: the others are copied first.
    pub(crate) fn copy_some(&mut self, key: u64) -> Result<Copied, FileError> {
        // Records that are not durable are in memory, and writing them is all that is needed.
        self.commit()?;
        let mut ids = self.index.batches_in(key);
        ids.retain(|id| !self.uncopied.contains(id));
        let (mut bytes, mut left, mut error, mut failures) = (0, ids.len(), None, 0);
        for id in ids {
            if bytes >= COPY_BYTES || failures == FAILURES_A_STEP {
                break;
            }
            left -= 1;
            let batch = match self.try_read(id) {
                Ok(Ok(batch)) => batch,
                Ok(Err(unread)) => {
                    self.uncopied.insert(id);
                    failures += 1;
                    error = Some(unread.into_error());
                    continue;
                }
                // The batch is lost, or was in a segment that another program has removed.
                Err(_) => continue,
            };
            let len = (frame::HEADER_LEN + batch.body.len()) as u64;
            self.rotate(len)?;
            self.tail.push_tagged(Content::Batch(id), batch.tag, batch.count, &[&batch.body]);
            bytes += len;
        }
        if left == 0 {
            self.copy_spills(key);
        }
        self.commit()?;
        Ok(Copied { more: left > 0 && error.is_none(), error })
    }

    /// The number of batches in each segment that could not be read for a copy.
    fn stuck(&self) -> HashMap<u64, usize> {
        let mut stuck = HashMap::new();
        let places = self.uncopied.iter().filter_map(|id| self.index.batches.get(id)).flat_map(|live| &live.places);
        places.for_each(|place| *stuck.entry(place.segment).or_default() += 1);
        stuck
    }

    /// Appends the open spills whose record is in this segment once more, in memory.
    pub(crate) fn copy_spills(&mut self, key: u64) {
        for (spill, name, ids) in self.index.spills_in(Some(key)) {
            self.push_spill(spill, &name, &ids);
        }
    }

    pub(crate) fn push_spill(&mut self, spill: u64, name: &str, ids: &[Id]) {
        let name_len = u16::try_from(name.len()).expect("checked when announced");
        let count = u32::try_from(ids.len()).expect("checked when announced");
        let body: [&[u8]; 3] = [&name_len.to_le_bytes(), name.as_bytes(), &frame::id_bytes(ids)];
        self.tail.push(Content::Spill(Some(spill)), count, &body);
    }
}

/// The outcome of one step of copying.
pub(crate) struct Copied {
    /// Another step is due at once.
    pub(crate) more: bool,
    /// Why a batch was not copied.
    pub(crate) error: Option<FileError>,
}

impl Segment {
    /// Whether no record in it is needed any more. In trouble a mark that is not durable suffices: the batches go with
    /// the segment.
    fn is_finished(&self, trouble: bool) -> bool {
        let is_needed = self.live > 0 || self.spills > 0 || self.unsynced_spills > 0 || self.kept;
        !is_needed && (self.unsynced_marks == 0 || trouble)
    }

    /// Whether records in it must be copied before it goes, of which `stuck` cannot be read now.
    fn is_needed(&self, stuck: usize) -> bool {
        self.live > stuck || self.spills > 0
    }
}

impl Index {
    /// The segment that is to be removed next.
    fn removable(&self, head: Option<u64>, trouble: bool, is_synced: bool) -> Option<u64> {
        let mut others = self.segments.iter().filter(|(key, _)| Some(**key) != head);
        let is_first = |key: &u64| self.segments.first_key_value().is_some_and(|(first, _)| first == key);
        let found = others.find(|(key, segment)| {
            segment.is_finished(trouble) && (is_first(key) || (segment.marks_copied && is_synced))
        });
        found.map(|(key, _)| *key)
    }

    /// The segment whose batches are to be copied next.
    fn to_copy(&self, head: Option<u64>, bytes_before_copying: u64, stuck: &HashMap<u64, usize>) -> Option<u64> {
        if let Some(key) = self.must_copy(head, stuck) {
            return Some(key);
        }
        let oldest = self.segments.iter().find(|(key, _)| Some(**key) != head);
        let oldest = oldest.filter(|(key, segment)| segment.is_needed(stuck.get(key).copied().unwrap_or(0)));
        let live: u64 = self.segments.values().map(|segment| segment.live_bytes).sum();
        let held_up = self.bytes > bytes_before_copying && live < self.bytes / 2;
        oldest.filter(|_| held_up).map(|(key, _)| *key)
    }

    /// The first segment with waiting batches that do not stay there, however long they wait.
    fn must_copy(&self, head: Option<u64>, stuck: &HashMap<u64, usize>) -> Option<u64> {
        let mut others = self.segments.iter().filter(|(key, _)| Some(**key) != head);
        let must_go = |segment: &Segment| segment.sync_failed || segment.damaged || segment.marks_lost;
        let is_needed = |key: &u64, segment: &Segment| segment.is_needed(stuck.get(key).copied().unwrap_or(0));
        others.find(|(key, segment)| must_go(segment) && is_needed(key, segment)).map(|(key, _)| *key)
    }

    /// The waiting batches in a segment, in the order of writing.
    pub(crate) fn batches_in(&self, segment: u64) -> Vec<Id> {
        let mut found: Vec<_> = self
            .batches
            .iter()
            .filter_map(|(id, live)| Some((live.places.iter().find(|place| place.segment == segment)?.offset, *id)))
            .collect();
        found.sort_unstable();
        found.into_iter().map(|(_, id)| id).collect()
    }

    /// All waiting batches, oldest first.
    pub(crate) fn in_order(&self) -> Vec<Id> {
        let mut found: Vec<_> = self.batches.iter().map(|(id, live)| (live.order, *id)).collect();
        found.sort_unstable();
        found.into_iter().map(|(_, id)| id).collect()
    }

    /// Orders the batches of each run of a program by their numbers: the record of one that was copied stands behind
    /// those of younger batches.
    pub(crate) fn restore_order(&mut self) {
        let mut runs: HashMap<u64, (Vec<u64>, Vec<Id>)> = HashMap::new();
        for id in self.in_order() {
            let (orders, ids) = runs.entry(id.0).or_default();
            orders.extend(self.batches.get(&id).map(|live| live.order));
            ids.push(id);
        }
        for (orders, mut ids) in runs.into_values() {
            ids.sort_unstable();
            for (id, order) in ids.iter().zip(orders) {
                if let Some(live) = self.batches.get_mut(id) {
                    live.order = order;
                }
            }
        }
    }

    /// The announced spills whose record is in a segment, or in none, each with its batches that still wait.
    pub(crate) fn spills_in(&self, segment: Option<u64>) -> Vec<(u64, String, Vec<Id>)> {
        let here = self.spills.iter().filter(|(_, spill)| spill.segment == segment);
        here.map(|(key, spill)| {
            let open = |id: &Id| self.batches.get(id).is_some_and(|live| live.spill == Some(*key));
            (*key, spill.name.clone(), spill.ids.iter().copied().filter(open).collect())
        })
        .collect()
    }
}

/// The quarantine for damaged segments, which retains the last 100.
pub(crate) fn quarantine<D: Directory>() -> Quarantine<D> {
    Quarantine::new("quarantine", QuarantineLimits { max_bytes: u64::MAX, max_files: 100 })
}

/// Segments that one step removes; each takes a sync of the directory.
const REMOVALS: usize = 16;

/// Failed reads that end a step: each may take seconds.
const FAILURES_A_STEP: u32 = 3;

/// Rounds, of two syncs each, in which batches in a segment whose sync failed cannot be read; the last sync of the last
/// round succeeds.
const COPY_ROUNDS: u32 = 2;

/// Bytes that one step copies, about.
const COPY_BYTES: u64 = 1 << 20;
