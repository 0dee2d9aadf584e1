//! Groups of stored batches: the next one, and the one that is read ahead while the last one is being sent.

use file_fallback::{Group, Next};
use safe_dir::Directory;

use super::{Content, FileStore};
use crate::seams::fallback::{FallbackError, Order, StoredBatch};
use crate::stores::in_one_line;

/// After this many groups without a span, or this many bytes of them, a read pauses for the disk thread's other work.
const MAX_GROUPS_IN_VAIN: usize = 16;
const MAX_BYTES_IN_VAIN: usize = 8 * 1_024 * 1_024;

/// The result of a search for batches.
pub(super) enum Found {
    Group { group: Group, batches: Vec<StoredBatch>, contents: Vec<Content> },
    Pause,
    Empty,
}

/// A group that was read ahead, or the failure to read it.
pub(super) struct Ahead {
    order: Order,
    found: Result<Found, FallbackError>,
}

impl<D: Directory> FileStore<D> {
    /// The group that was read ahead, or the next one.
    pub(super) fn found(&mut self, order: Order, max_bytes: usize) -> Result<Found, FallbackError> {
        let found = match self.ahead.take_if(|ahead| ahead.order == order) {
            Some(ahead) => ahead.found?,
            None => self.find(order, max_bytes)?,
        };
        match self.ahead.take_if(|_| matches!(found, Found::Empty)) {
            // The last batches are those that were read ahead in another order.
            Some(ahead) => ahead.found,
            None => Ok(found),
        }
    }

    /// Reads the next group, for a read in this order.
    pub(super) fn look_ahead(&mut self, order: Order, max_bytes: usize) {
        if self.ahead.is_none() {
            let found = self.find(order, max_bytes);
            // The next read looks again: batches may be stored until then.
            if matches!(found, Ok(Found::Group { .. }) | Err(_)) {
                self.ahead = Some(Ahead { order, found });
            }
        }
    }

    /// Reads the next group with a batch.
    fn find(&mut self, order: Order, max_bytes: usize) -> Result<Found, FallbackError> {
        let mut bytes_in_vain = 0;
        for _ in 0..MAX_GROUPS_IN_VAIN {
            let next = match order {
                Order::FewestFailures => self.files.next_group(max_bytes),
                Order::FewestFailuresNewest => self.files.newest_group(max_bytes),
                Order::Oldest => self.files.oldest_group(max_bytes),
            };
            self.note_changes();
            let mut group = match next.map_err(in_one_line)? {
                Next::Group(group) => group,
                Next::Pause => break,
                Next::Empty => return Ok(Found::Empty),
            };
            bytes_in_vain += group.bytes();
            let (batches, contents) = self.decode(&mut group);
            if !batches.is_empty() {
                return Ok(Found::Group { group, batches, contents });
            }
            self.mark(group, &contents, &[])?;
            if bytes_in_vain > MAX_BYTES_IN_VAIN {
                break;
            }
        }
        Ok(Found::Pause)
    }

    /// Returns a group that was read ahead to the files, which touches no disk: limits may remove its files, and newer
    /// batches may go before it.
    pub(super) fn forget_ahead(&mut self) {
        if let Some(Ahead { found: Ok(Found::Group { group, .. }), .. }) = self.ahead.take() {
            // An error: the files have vanished, and the group with them.
            drop(self.files.give_back(group));
        }
    }
}
