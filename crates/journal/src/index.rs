//! The waiting batches and their places in the segments: in memory, about 100 bytes a batch.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use super::Id;
use super::frame::Account;
use super::segment::SegmentId;

/// The position of a batch on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// The segment's key.
    pub(crate) segment: u64,
    pub(crate) offset: u64,
    pub(crate) body_len: u32,
}

/// A waiting batch: appended and not done.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    pub(crate) count: u32,
    /// The caller's; 0 for none.
    pub(crate) tag: u8,
    /// A lower number is of an older batch.
    pub(crate) order: u64,
    /// Empty before the batch is written. Usually one place; two while its record is being copied, or after a crash
    /// during that.
    pub(crate) places: Vec<Place>,
    /// The key of the spill that was announced last for it and is not settled.
    pub(crate) spill: Option<u64>,
}

/// A segment on disk.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) name: String,
    /// The identity that its checksums are bound to.
    pub(crate) id: SegmentId,
    pub(crate) bytes: u64,
    /// The number of places of waiting batches in it.
    pub(crate) live: usize,
    pub(crate) live_bytes: u64,
    /// Announced and unsettled spills whose record is in it.
    pub(crate) spills: usize,
    /// Batches of it that are done by a mark that is not durable yet.
    pub(crate) unsynced_marks: usize,
    /// Spills whose record was in it, and which were settled or copied by a record that is not durable yet.
    pub(crate) unsynced_spills: usize,
    /// A sync of it failed.
    pub(crate) sync_failed: bool,
    /// The segment goes to the quarantine instead of being removed.
    pub(crate) damaged: bool,
    /// The marks in it were written once more, to a later segment.
    pub(crate) marks_copied: bool,
    /// It has marks of batches, in itself or in earlier segments.
    pub(crate) has_marks: bool,
    /// Marks of its batches were in a segment that another program has removed.
    pub(crate) marks_lost: bool,
    /// The disk does not read all of it: the file stays as it is.
    pub(crate) kept: bool,
    /// This journal has removed or moved the file, and that is not durable yet.
    pub(crate) removed: bool,
    /// Batches that were written to it, done or not, and their items.
    pub(crate) batches: u64,
    pub(crate) items: u64,
    /// Bytes behind its last record.
    pub(crate) torn_bytes: u64,
}

/// Failed reads of one batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failures {
    pub(crate) count: u32,
    /// When the last one was counted.
    pub(crate) last: Instant,
}

/// An announced spill.
#[derive(Clone, Debug)]
pub(crate) struct Spill {
    pub(crate) name: String,
    /// The batches as announced; some may be done since.
    pub(crate) ids: Vec<Id>,
    pub(crate) open: usize,
    /// The segment of its record, once that is written.
    pub(crate) segment: Option<u64>,
}

/// All waiting batches, segments and announced spills. The key of a segment is its number in the order of writing.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) batches: HashMap<Id, Live>,
    pub(crate) segments: BTreeMap<u64, Segment>,
    pub(crate) spills: BTreeMap<u64, Spill>,
    /// Earlier places of waiting batches that were copied, in segments that still exist.
    copied: HashMap<Id, Vec<Place>>,
    /// Items of all batches.
    pub(crate) items: u64,
    /// Bytes of all segments.
    pub(crate) bytes: u64,
    next_spill: u64,
    next_segment: u64,
    next_order: u64,
}

impl Segment {
    pub(crate) fn new(name: String, id: SegmentId, bytes: u64) -> Self {
        Self {
            name,
            id,
            bytes,
            live: 0,
            live_bytes: 0,
            spills: 0,
            unsynced_marks: 0,
            unsynced_spills: 0,
            sync_failed: false,
            damaged: false,
            marks_copied: false,
            has_marks: false,
            marks_lost: false,
            kept: false,
            removed: false,
            batches: 0,
            items: 0,
            torn_bytes: 0,
        }
    }
}

impl Index {
    /// Adds a batch that is not written yet.
    pub(crate) fn insert(&mut self, id: Id, tag: u8, count: u32) {
        let order = self.next_order;
        self.next_order += 1;
        self.batches.insert(id, Live { count, tag, order, places: Vec::new(), spill: None });
        self.items += u64::from(count);
    }

    /// Adds a place to a waiting batch.
    pub(crate) fn add_place(&mut self, id: Id, place: Place) {
        if let Some(live) = self.batches.get_mut(&id) {
            live.places.push(place);
            if let Some(segment) = self.segments.get_mut(&place.segment) {
                segment.live += 1;
                segment.live_bytes += u64::from(place.body_len);
            }
        }
    }

    /// Needs no place of a batch any more but the last one, which is durable now.
    pub(crate) fn settle_place(&mut self, id: Id) {
        let Some(live) = self.batches.get_mut(&id) else { return };
        let Some(last) = live.places.pop() else { return };
        let others = std::mem::replace(&mut live.places, vec![last]);
        if !others.is_empty() {
            self.leave(&others, false);
            self.copied.entry(id).or_default().extend(others);
        }
    }

    /// If the batch has lost its last place, the one that it was copied from before is needed again, as far as its
    /// segment still exists.
    pub(crate) fn restore_place(&mut self, id: Id) {
        if self.batches.get(&id).is_some_and(|live| live.places.is_empty())
            && let Some(place) = self.copied.get_mut(&id).and_then(Vec::pop)
        {
            self.add_place(id, place);
        }
    }

    /// A place of the batch that was not tried yet.
    pub(crate) fn next_place(&self, id: Id, tried: &[Place]) -> Option<Place> {
        self.batches.get(&id)?.places.iter().find(|place| !tried.contains(place)).copied()
    }

    /// Removes a batch that is done or lost.
    pub(crate) fn remove(&mut self, id: Id) -> Option<Live> {
        let live = self.batches.remove(&id)?;
        self.copied.remove(&id);
        self.items -= u64::from(live.count);
        self.leave(&live.places, true);
        if let Some(spill) = live.spill {
            self.leave_spill(spill);
        }
        Some(live)
    }

    /// Removes a place that turned out to be damaged.
    pub(crate) fn remove_place(&mut self, id: Id, place: Place) {
        if let Some(live) = self.batches.get_mut(&id) {
            live.places.retain(|other| *other != place);
            self.leave(&[place], false);
        }
    }

    fn leave(&mut self, places: &[Place], marked: bool) {
        for place in places {
            if let Some(segment) = self.segments.get_mut(&place.segment) {
                segment.live -= 1;
                segment.live_bytes -= u64::from(place.body_len);
                segment.unsynced_marks += usize::from(marked);
            }
        }
    }

    /// Adds a spill of those of `ids` that wait; it replaces earlier spills of these batches. Returns its key and these
    /// ids, or `None` if none of them waits.
    pub(crate) fn announce(&mut self, name: &str, ids: impl Iterator<Item = Id>) -> Option<(u64, Vec<Id>)> {
        let key = self.next_spill;
        let mut known = Vec::new();
        for id in ids {
            let Some(live) = self.batches.get_mut(&id).filter(|live| live.spill != Some(key)) else { continue };
            let earlier = live.spill.replace(key);
            known.push(id);
            if let Some(earlier) = earlier {
                self.leave_spill(earlier);
            }
        }
        if known.is_empty() {
            return None;
        }
        self.next_spill += 1;
        let spill = Spill { name: name.to_owned(), ids: known.clone(), open: known.len(), segment: None };
        self.spills.insert(key, spill);
        Some((key, known))
    }

    /// Notes that the record of a spill is in this segment now.
    pub(crate) fn place_spill(&mut self, key: u64, segment: u64) {
        let Some(spill) = self.spills.get_mut(&key) else { return };
        let earlier = spill.segment.replace(segment);
        if let Some(earlier) = earlier.and_then(|earlier| self.segments.get_mut(&earlier)) {
            earlier.spills -= 1;
            earlier.unsynced_spills += 1;
        }
        if let Some(segment) = self.segments.get_mut(&segment) {
            segment.spills += 1;
        }
    }

    /// Ends the spills of these batches: they stay in the journal.
    pub(crate) fn take_back(&mut self, ids: &[Id]) {
        for id in ids {
            if let Some(spill) = self.batches.get_mut(id).and_then(|live| live.spill.take()) {
                self.leave_spill(spill);
            }
        }
    }

    fn leave_spill(&mut self, key: u64) {
        let Some(spill) = self.spills.get_mut(&key) else { return };
        spill.open -= 1;
        if spill.open == 0 {
            let segment = spill.segment;
            self.spills.remove(&key);
            if let Some(segment) = segment.and_then(|segment| self.segments.get_mut(&segment)) {
                segment.spills -= 1;
                segment.unsynced_spills += 1;
            }
        }
    }

    /// Notes that all marks are durable.
    pub(crate) fn synced(&mut self) {
        for segment in self.segments.values_mut() {
            (segment.unsynced_marks, segment.unsynced_spills) = (0, 0);
        }
    }

    pub(crate) fn add_segment(&mut self, segment: Segment) -> u64 {
        let key = self.next_segment;
        self.next_segment += 1;
        self.bytes += segment.bytes;
        self.segments.insert(key, segment);
        key
    }

    /// Notes that a batch was written to this segment.
    pub(crate) fn count_batch(&mut self, key: u64, items: u32) {
        if let Some(segment) = self.segments.get_mut(&key) {
            segment.batches += 1;
            segment.items += u64::from(items);
        }
    }

    /// Notes that a mark was written to this segment.
    pub(crate) fn note_marks(&mut self, key: u64) {
        if let Some(segment) = self.segments.get_mut(&key) {
            segment.has_marks = true;
        }
    }

    /// The account of the last segment with batches: one without any has none to lose. `None` if no segment exists.
    pub(crate) fn account(&self) -> Option<Account> {
        let (_, last) = self.segments.last_key_value()?;
        let segment = self.segments.values().rev().find(|segment| segment.batches > 0).unwrap_or(last);
        let is_known = !segment.sync_failed && !segment.kept;
        let id = SegmentId::parse(&segment.name).filter(|_| is_known);
        let (batches, items) = (segment.batches, segment.items);
        Some(id.map_or(Account::NONE, |id| Account { number: id.number, batches, items }))
    }

    pub(crate) fn grow_segment(&mut self, key: u64, bytes: u64) {
        if let Some(segment) = self.segments.get_mut(&key) {
            segment.bytes += bytes;
            self.bytes += bytes;
        }
    }

    /// Removes a segment whose file is gone. Batches without another place are in memory, or the caller removes them.
    pub(crate) fn forget_segment(&mut self, key: u64) {
        for live in self.batches.values_mut() {
            live.places.retain(|place| place.segment != key);
        }
        for spill in self.spills.values_mut().filter(|spill| spill.segment == Some(key)) {
            spill.segment = None;
        }
        self.remove_segment(key);
    }

    pub(crate) fn remove_segment(&mut self, key: u64) {
        if let Some(segment) = self.segments.remove(&key) {
            self.bytes -= segment.bytes;
        }
        self.copied.retain(|_, places| {
            places.retain(|place| place.segment != key);
            !places.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiting_batch_takes_about_100_bytes() {
        // The table has one more byte for each entry, and is at least 7/16 full after it has grown.
        let bytes = size_of::<(Id, Live)>() + size_of::<Place>();
        assert!((80..=100).contains(&bytes), "{bytes} bytes");
    }
}
