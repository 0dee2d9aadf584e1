//! The limit of bytes and the free space of the disk: segments are removed before a batch is refused.

use safe_dir::{Directory, FileError};

use super::error::{AppendError, MaintainError};
use super::index::Index;
use super::write::Head;
use super::{Id, Journal};

impl<D: Directory> Journal<D> {
    /// Changes [`Config::max_bytes`](super::Config::max_bytes) from now on. With a limit below the present bytes the
    /// journal goes on with all that it has, and refuses batches until enough of them are done.
    pub fn set_max_bytes(&mut self, max_bytes: u64) {
        self.config.max_bytes = max_bytes;
    }

    /// The batch that waits for the longest time, and the number of its items. Looks at all waiting batches; does not
    /// use the disk.
    #[must_use]
    pub fn oldest(&self) -> Option<(Id, u32)> {
        let (id, live) = self.index.batches.iter().min_by_key(|(_, live)| live.order)?;
        Some((*id, live.count))
    }

    /// All waiting batches, oldest first, each with the number of its items. Does not use the disk.
    #[must_use]
    pub fn waiting(&self) -> Vec<(Id, u32)> {
        let count = |id: Id| Some((id, self.index.batches.get(&id)?.count));
        self.index.in_order().into_iter().filter_map(count).collect()
    }

    /// Removes the oldest segment that is not written any more, with the batches in it, although they wait: for a disk
    /// that takes no byte, not even of a mark. Returns the batches that were only there, oldest first, each with the
    /// number of its items: the journal no longer has them. `None`, and no change, if there is no such segment, or the
    /// disk [does not read](super::Report::kept) it. If another program has removed that segment before, the result is
    /// empty, and [`take_vanished`](Self::take_vanished) returns the batches.
    ///
    /// # Errors
    ///
    /// If the segment cannot be removed. The batches wait then.
    pub fn remove_oldest_finished(&mut self) -> Result<Option<Vec<(Id, u32)>>, MaintainError> {
        let Some((&key, segment)) = self.index.segments.first_key_value() else { return Ok(None) };
        if Some(key) == self.head_key() || segment.kept {
            return Ok(None);
        }
        match self.dir.remove(&segment.name) {
            // Another program removed it.
            Err(error) if error.is_not_found() && !segment.removed => {
                self.lose_segment(key);
                return Ok(Some(Vec::new()));
            }
            // An earlier attempt of `maintain` removed it, and its sync failed.
            Err(error) if error.is_not_found() => {}
            other => other.map_err(MaintainError)?,
        }
        // Without it a power cut may bring the batches back, and that is all.
        drop(self.dir.sync());
        Ok(Some(self.drop_segment(key)))
    }

    /// Refuses a record of `len` bytes that exceeds the limit, unless segments that no batch needs make room for it.
    pub(crate) fn check_limit(&mut self, len: u64) -> Result<(), AppendError> {
        if self.needed(len) > self.config.max_bytes {
            // Where this fails, too, the batch is refused.
            drop(self.reclaim(|journal| journal.needed(len) <= journal.config.max_bytes));
        }
        let (needed, max_bytes) = (self.needed(len), self.config.max_bytes);
        if needed > max_bytes { Err(AppendError::Full { needed, max_bytes }) } else { Ok(()) }
    }

    /// The bytes of all segments with another record of `len` bytes.
    fn needed(&self, len: u64) -> u64 {
        self.index.bytes + super::write::START_LEN + self.tail.unwritten() + len
    }

    /// Checks the free space of the disk, if a new segment must begin. Segments that no batch needs make room.
    pub(crate) fn check_room(&mut self) -> Result<(), AppendError> {
        // A segment that was prepared takes no bytes yet.
        if self.head.as_ref().is_some_and(Head::has_records) || self.config.free_space_reserve == 0 {
            return Ok(());
        }
        let (mut needed, mut available) = self.room().map_err(AppendError::File)?;
        if available < needed {
            let has_room = |journal: &Self| journal.room().is_ok_and(|(needed, available)| available >= needed);
            drop(self.reclaim(has_room));
            (needed, available) = self.room().map_err(AppendError::File)?;
        }
        if available < needed { Err(AppendError::NoRoom { needed, available }) } else { Ok(()) }
    }

    /// Whether the disk has room for another segment.
    pub(crate) fn has_room(&self) -> Result<bool, FileError> {
        let is_limited = self.config.free_space_reserve > 0;
        Ok(!is_limited || self.room().map(|(needed, available)| available >= needed)?)
    }

    /// The free bytes that the disk must have, and has. A tenth of a small disk suffices.
    fn room(&self) -> Result<(u64, u64), FileError> {
        let space = self.dir.space()?;
        Ok((self.config.free_space_reserve.min(space.total / 10), space.free))
    }

    /// Removes segments that no batch needs, until `is_enough`. Where waiting batches in older segments are in the way,
    /// copies up to 4 MiB of them.
    fn reclaim(&mut self, is_enough: impl Fn(&Self) -> bool) -> Result<(), FileError> {
        // The marks must be durable first.
        self.commit()?;
        for _ in 0..COPY_STEPS {
            while self.remove_finished()? {}
            let Some(key) = self.index.in_the_way(self.head_key()).filter(|_| !is_enough(self)) else { return Ok(()) };
            if self.copy_some(key)?.error.is_some() {
                break;
            }
        }
        while self.remove_finished()? {}
        Ok(())
    }
}

impl Index {
    /// The oldest segment, if its waiting batches are all that retains segments that are not needed, or those take
    /// more than half of the journal.
    fn in_the_way(&self, head: Option<u64>) -> Option<u64> {
        let mut others = self.segments.iter().filter(|(key, _)| Some(**key) != head);
        let (oldest, first) = others.next()?;
        let live: u64 = self.segments.values().map(|segment| segment.live_bytes).sum();
        let is_worthwhile =
            live < self.bytes / 2 || others.any(|(_, segment)| segment.live == 0 && segment.spills == 0);
        (is_worthwhile && !first.kept).then_some(*oldest)
    }
}

/// Steps of copying, of about 1 MiB each, before a batch is refused.
const COPY_STEPS: u32 = 4;
