//! Records that are handed out together.

use crate::books::catalog::Key;
use crate::books::ranges::Ranges;
use crate::form::format::Format;
use crate::outcome::Attempts;

/// Records that are handed out to be delivered, of one file or of several, in the order of the files. Give it to
/// [`settle`](crate::FileFallback::settle) or one of its shorter forms: a record that is not settled is not read again
/// before the next start, and its file is not removed.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "settle it, or give it back"]
pub struct Group {
    parts: Vec<Part>,
    /// The attempts of each record, and its units as the writer counted them.
    known: Vec<(Attempts, Option<u64>)>,
    /// The bytes that are left of those that the caller asked for.
    room: usize,
    /// The bytes of each record, without the line feed or length that separates records in the file. The store does
    /// not need them again: the caller may take them.
    pub records: Vec<Vec<u8>>,
}

/// The records of one file in a group.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) key: Key,
    format: Format,
    /// The numbers of the records in their file.
    pub(crate) numbers: Ranges,
    /// How many records it has.
    pub(crate) len: usize,
}

/// The place that a record of a group was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Source<'a> {
    /// The name of the file.
    pub file: &'a str,
    /// The format of the file, which may have been written with other settings.
    pub format: Format,
    /// The number of the record in the file, from 0.
    pub number: u64,
    /// The attempts with which the record was [settled](crate::Verdict::Failed) last; those of a new record, if they
    /// are not known.
    pub attempts: Attempts,
    /// The units of the record, as its writer [counted](crate::Record::count) them. `None` if they are not known: in a
    /// file of more than 1,000 records, of another program, or of an earlier run in which no record of the file was
    /// settled.
    pub count: Option<u64>,
}

/// The answer of [`next_group`](crate::FileFallback::next_group).
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a group that is dropped is not read again before the next start"]
pub enum Next {
    /// Records to deliver: one at least.
    Group(Group),
    /// The call has read 8 MiB of text or 16 files without finding a record to deliver, and more is left to read. Do
    /// other work on the disk, and call again.
    Pause,
    /// Every record in the store is settled or handed out.
    Empty,
}

impl Group {
    pub(crate) fn new(max_bytes: usize) -> Self {
        Self { parts: Vec::new(), known: Vec::new(), room: max_bytes, records: Vec::new() }
    }

    /// The group, or `other` if it is empty.
    pub(crate) fn or(self, other: Next) -> Next {
        if self.records.is_empty() { other } else { Next::Group(self) }
    }

    /// Whether there is room for a record of this length. The first record always has.
    pub(super) fn has_room(&self, len: usize) -> bool {
        len + RECORD_OVERHEAD <= self.room || self.records.is_empty()
    }

    /// Adds a record of a file, with a higher number than those of the same file before it.
    pub(super) fn push(
        &mut self,
        (key, format): (&Key, Format),
        number: u64,
        record: Vec<u8>,
        known: (Attempts, Option<u64>),
    ) {
        self.room = self.room.saturating_sub(record.len() + RECORD_OVERHEAD);
        self.known.push(known);
        self.records.push(record);
        match self.parts.last_mut().filter(|part| part.key == *key) {
            Some(part) => {
                part.numbers.insert(number..number + 1);
                part.len += 1;
            }
            None => {
                let mut numbers = Ranges::default();
                numbers.insert(number..number + 1);
                self.parts.push(Part { key: key.clone(), format, numbers, len: 1 });
            }
        }
    }

    /// How many records were handed out with it.
    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    /// The records of each file, in the order of the records.
    pub(crate) fn parts(&self) -> std::slice::Iter<'_, Part> {
        self.parts.iter()
    }

    /// The failed attempts of its records: all have the same number.
    #[must_use]
    pub fn failed(&self) -> u32 {
        self.known.first().map_or(0, |(attempts, _)| attempts.failed)
    }

    /// The place of each record, in the order of [`records`](Self::records) as they were read.
    pub fn sources(&self) -> impl ExactSizeIterator<Item = Source<'_>> {
        let mut numbers =
            self.parts.iter().flat_map(|part| part.numbers.iter().flatten().map(move |number| (part, number)));
        self.known.iter().map(move |&(attempts, count)| {
            let (Part { key, format, .. }, number) = numbers.next().expect("each record was pushed with its number");
            Source { file: &key.name, format: *format, number, attempts, count }
        })
    }

    /// The bytes of all records.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.records.iter().map(Vec::len).sum()
    }
}

/// The memory that a record takes besides its text: a group of many short records stays within the bytes that the
/// caller asked for.
const RECORD_OVERHEAD: usize = 64;
