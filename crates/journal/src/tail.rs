//! The records that no sync has made durable yet, one after the other: they are written again if a sync fails.

use super::Id;
use super::frame::{self, HEADER_LEN, Kind, Salt};

#[derive(Debug, Default)]
pub(crate) struct Tail {
    bytes: Vec<u8>,
    records: Vec<Record>,
    /// The records, and their bytes, that are in the head segment.
    written: (usize, usize),
    /// The length when it was cleared last.
    last: usize,
}

/// One record of the tail.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record {
    pub(crate) content: Content,
    pub(crate) count: u32,
    start: usize,
    end: usize,
}

/// The subject of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Batch(Id),
    Done,
    /// The key of the spill; `None` for ids that stay in the journal.
    Spill(Option<u64>),
}

/// The id in the header of a mark.
const NO_ID: Id = (0, 0);

impl Tail {
    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub(crate) fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Bytes that are not written yet.
    pub(crate) fn unwritten(&self) -> u64 {
        (self.bytes.len() - self.written.1) as u64
    }

    pub(crate) fn push(&mut self, content: Content, count: u32, body: &[&[u8]]) {
        self.push_tagged(content, 0, count, body);
    }

    /// The same for a batch with a tag; 0 for none.
    pub(crate) fn push_tagged(&mut self, content: Content, tag: u8, count: u32, body: &[&[u8]]) {
        let start = self.bytes.len();
        let (kind, id) = match content {
            Content::Batch(id) => (Kind::Batch, id),
            Content::Done => (Kind::Done, NO_ID),
            Content::Spill(_) => (Kind::Spill, NO_ID),
        };
        frame::push_tagged(&mut self.bytes, kind, tag, id, count, body);
        self.records.push(Record { content, count, start, end: self.bytes.len() });
    }

    /// Removes the last record, if it is not written.
    pub(crate) fn pop_unwritten(&mut self) {
        if self.records.len() > self.written.0
            && let Some(record) = self.records.pop()
        {
            self.bytes.truncate(record.start);
        }
    }

    /// Removes all records about spills. Called where all records must be written again.
    pub(crate) fn remove_spills(&mut self) {
        debug_assert_eq!(self.written, (0, 0));
        let (bytes, records) = (std::mem::take(&mut self.bytes), std::mem::take(&mut self.records));
        for record in records.into_iter().filter(|record| !matches!(record.content, Content::Spill(_))) {
            let start = self.bytes.len();
            self.bytes.extend_from_slice(&bytes[record.start..record.end]);
            self.records.push(Record { start, end: self.bytes.len(), ..record });
        }
    }

    /// Completes the unwritten records with their checksums for a segment of `at` bytes, and returns their bytes.
    pub(crate) fn seal(&mut self, salt: Salt, at: u64) -> &[u8] {
        let first = self.written.1;
        for record in &self.records[self.written.0..] {
            frame::seal(&mut self.bytes[record.start..record.end], salt, at + (record.start - first) as u64);
        }
        &self.bytes[first..]
    }

    /// Notes that the unwritten records are in the head now, from `at` on; returns the offset and body length of each.
    pub(crate) fn set_written(&mut self, at: u64) -> Vec<(Record, u64, u32)> {
        let first = self.written.1;
        let places = self.records[self.written.0..].iter().map(|record| {
            let body_len = u32::try_from(record.end - record.start - HEADER_LEN).expect("checked when pushed");
            (*record, at + (record.start - first) as u64, body_len)
        });
        let places = places.collect();
        self.written = (self.records.len(), self.bytes.len());
        places
    }

    /// Notes that all records must be written again: a sync of their segment failed.
    pub(crate) fn set_unwritten(&mut self) {
        self.written = (0, 0);
    }

    /// Notes that all records are durable; returns their batches.
    pub(crate) fn clear(&mut self) -> Vec<Id> {
        let batches = self.records.drain(..).filter_map(|record| match record.content {
            Content::Batch(id) => Some(id),
            Content::Done | Content::Spill(_) => None,
        });
        let batches = batches.collect();
        let before = std::mem::replace(&mut self.last, self.bytes.len());
        self.bytes.clear();
        self.written = (0, 0);
        // Memory that was used before is filled in less than half the time of new memory. Therefore the capacity for
        // the last two groups stays allocated, but not that for one large batch long ago.
        self.bytes.shrink_to(before.max(self.last).max(MIN_CAPACITY));
        batches
    }

    /// The batches that are not durable yet.
    pub(crate) fn batches(&self) -> impl Iterator<Item = Id> {
        self.records.iter().filter_map(|record| match record.content {
            Content::Batch(id) => Some(id),
            Content::Done | Content::Spill(_) => None,
        })
    }

    /// The body of a batch that is not durable yet.
    pub(crate) fn body(&self, id: Id) -> Option<&[u8]> {
        let record = self.records.iter().rev().find(|record| record.content == Content::Batch(id))?;
        Some(&self.bytes[record.start + HEADER_LEN..record.end])
    }
}

/// Capacity that stays allocated in any case.
const MIN_CAPACITY: usize = 1 << 20;
