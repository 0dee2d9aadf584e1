//! What no sync has made durable yet, whole records one after the other: to be written again if a sync fails.

use super::Id;
use super::frame::{self, HEADER_LEN, Kind, Salt};

#[derive(Debug, Default)]
pub(crate) struct Tail {
    bytes: Vec<u8>,
    records: Vec<Record>,
    /// How many records, and bytes of them, stand in the head segment.
    written: (usize, usize),
    /// How many bytes were in it when it was cleared last.
    last: usize,
}

/// One record of the tail.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record {
    pub(crate) what: What,
    start: usize,
    end: usize,
}

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Batch(Id),
    Done,
    /// The key of the spill; none for one that is taken back.
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

    /// Bytes that still have to be written.
    pub(crate) fn unwritten(&self) -> u64 {
        (self.bytes.len() - self.written.1) as u64
    }

    pub(crate) fn push(&mut self, what: What, count: u32, body: &[&[u8]]) {
        let start = self.bytes.len();
        let (kind, id) = match what {
            What::Batch(id) => (Kind::Batch, id),
            What::Done => (Kind::Done, NO_ID),
            What::Spill(_) => (Kind::Spill, NO_ID),
        };
        frame::push(&mut self.bytes, kind, id, count, body);
        self.records.push(Record { what, start, end: self.bytes.len() });
    }

    /// Takes the last record out again; only if it is not written.
    pub(crate) fn pop_unwritten(&mut self) {
        if self.records.len() > self.written.0
            && let Some(record) = self.records.pop()
        {
            self.bytes.truncate(record.start);
        }
    }

    /// The bytes still to be written, complete with their checksums for a segment that is `at` bytes long now.
    pub(crate) fn seal(&mut self, salt: Salt, at: u64) -> &[u8] {
        let first = self.written.1;
        for record in &self.records[self.written.0..] {
            frame::seal(&mut self.bytes[record.start..record.end], salt, at + (record.start - first) as u64);
        }
        &self.bytes[first..]
    }

    /// All of it stands in the head now, the unwritten part from `at` on: says where each of these records is.
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

    /// The segment that it stood in is not to be trusted: all of it is to be written again.
    pub(crate) fn set_unwritten(&mut self) {
        self.written = (0, 0);
    }

    /// All of it is durable. Says which batches were in it.
    pub(crate) fn clear(&mut self) -> Vec<Id> {
        let batches = self.records.drain(..).filter_map(|record| match record.what {
            What::Batch(id) => Some(id),
            What::Done | What::Spill(_) => None,
        });
        let batches = batches.collect();
        let before = std::mem::replace(&mut self.last, self.bytes.len());
        self.bytes.clear();
        self.written = (0, 0);
        // Memory that has been used costs less than half as much to fill as new memory, so what the last two groups took is kept; what
        // one large batch took is not kept for ever.
        self.bytes.shrink_to(before.max(self.last).max(KEEP_CAPACITY));
        batches
    }

    /// The body of a batch in it.
    pub(crate) fn body(&self, id: Id) -> Option<&[u8]> {
        let record = self.records.iter().rev().find(|record| record.what == What::Batch(id))?;
        Some(&self.bytes[record.start + HEADER_LEN..record.end])
    }
}

/// Memory that stays for the next group in any case.
const KEEP_CAPACITY: usize = 1 << 20;
