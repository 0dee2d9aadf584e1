//! Journal segments, written by the page that describes them (`docs/journal.md`) and not by the journal's own code:
//! also such as the journal would never write.

use ::journal::Id;

use crate::feed::{Feed, Recipe};

pub(crate) const BATCH: u8 = 1;
pub(crate) const DONE: u8 = 2;
pub(crate) const SPILL: u8 = 3;

/// Bytes before the first record, and before a body.
pub(crate) const SEGMENT_HEADER: usize = 32;
pub(crate) const RECORD_HEADER: usize = 40;

/// A segment that is being put together.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) number: u64,
    pub(crate) incarnation: u64,
    pub(crate) bytes: Vec<u8>,
    /// The records of the segment that are certain to be recognized.
    pub(crate) records: Vec<Forged>,
    /// Its header is from a newer version.
    pub(crate) newer: bool,
    /// From here on records are swallowed by a length that is no lie to who reads it.
    pub(crate) lies_from: Option<usize>,
}

/// A record in its place; whole, but for one.
#[derive(Clone, Debug)]
pub(crate) enum Forged {
    Batch {
        id: Id,
        count: u32,
        body: Vec<u8>,
    },
    /// Of a batch, over a body that is none.
    Header(Id, u32),
    Done(Vec<Id>),
    Spill(String, Vec<Id>),
}

impl Segment {
    pub(crate) fn name(&self) -> String {
        format!("journal-{:012x}-{:016x}.seg", self.number, self.incarnation)
    }

    /// One byte for the head, one for how many records, then these.
    pub(crate) fn read(feed: &mut Feed<'_>, number: u64) -> Self {
        let (head, many) = (feed.byte(), feed.byte());
        let mut segment = Self {
            number,
            incarnation: 7 + u64::from(head >> 4 & 3),
            bytes: Vec::new(),
            records: Vec::new(),
            newer: false,
            lies_from: None,
        };
        let version = if head & 7 == 1 { 2 } else { 1 };
        let whole = segment_header(version, segment.incarnation, number);
        match head & 7 {
            2 => segment.bytes.extend_from_slice(feed.chunk()),
            3 => segment.bytes.extend_from_slice(&whole[..feed.short() % SEGMENT_HEADER]),
            _ => segment.bytes.extend_from_slice(&whole),
        }
        segment.newer = version != 1;
        for _ in 0..many % 24 {
            segment.add(feed);
        }
        segment
    }

    fn add(&mut self, feed: &mut Feed<'_>) {
        let form = feed.byte();
        // Records begin behind the header, also where that is cut short.
        if form & 7 != 0 && self.bytes.len() < SEGMENT_HEADER {
            self.bytes.resize(SEGMENT_HEADER, 0);
        }
        match form & 7 {
            0 => self.bytes.extend_from_slice(feed.chunk()),
            2 => {
                let ids = ids(feed);
                // A count that is not that of the ids makes it no mark.
                let count = ids.len() as u32 + u32::from(form >> 3 & 1);
                self.push(DONE, 1, (0, 0), count, &id_bytes(&ids));
                if form & 8 == 0 {
                    self.whole(Forged::Done(ids));
                }
            }
            3 => {
                let name = feed.byte() % 40;
                let name = feed.bytes(name.into());
                let ids = ids(feed);
                let body = [&(name.len() as u16).to_le_bytes(), name, &id_bytes(&ids)].concat();
                self.push(SPILL, 1, (0, 0), ids.len() as u32, &body);
                if let Ok(name) = std::str::from_utf8(name) {
                    self.whole(Forged::Spill(name.to_owned(), ids));
                }
            }
            5 => {
                let (id, length) = (id(feed), (feed.short().max(1) as u32) << (form >> 4));
                let at = self.bytes.len();
                self.push(BATCH, 1, id, 1, &[]);
                self.reseal(at, Some(length));
                self.lies_from.get_or_insert(at);
                self.whole(Forged::Header(id, 1));
            }
            6 => {
                // Stepped over: the segment is set aside, and its other records count.
                let (kind, version) = if form & 8 == 0 { (9, 1) } else { (BATCH, 2) };
                self.push(kind, version, id(feed), 1, b"new");
            }
            other => {
                let (id, count, body) = (id(feed), u32::from(feed.byte()), feed.chunk());
                let at = self.bytes.len();
                self.push(BATCH, 1, id, count, body);
                match other {
                    4 => {
                        if let Some(last) = self.bytes.last_mut().filter(|_| !body.is_empty()) {
                            *last ^= 1;
                            self.whole(Forged::Header(id, count));
                        } else {
                            self.whole(Forged::Batch { id, count, body: body.to_vec() });
                        }
                    }
                    // As it would be elsewhere.
                    7 => {
                        let here = self.bytes.split_off(at);
                        self.bytes.push(0);
                        self.bytes.extend_from_slice(&here);
                    }
                    _ => self.whole(Forged::Batch { id, count, body: body.to_vec() }),
                }
            }
        }
    }

    /// Adds a record only if a reader is certain to find it.
    fn whole(&mut self, record: Forged) {
        if self.lies_from.is_none() || matches!(record, Forged::Batch { .. } | Forged::Header(..)) {
            self.records.push(record);
        }
    }

    fn push(&mut self, kind: u8, version: u8, id: Id, count: u32, body: &[u8]) {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[0xb5, 0x6a, 0x72, 0x1e]);
        self.bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(&[version, kind, 0, 0]);
        self.bytes.extend_from_slice(&count.to_le_bytes());
        self.bytes.extend_from_slice(&id.0.to_le_bytes());
        self.bytes.extend_from_slice(&id.1.to_le_bytes());
        self.bytes.extend_from_slice(&[0; 8]);
        self.bytes.extend_from_slice(body);
        self.reseal(at, None);
    }

    /// Writes the checksums of the record at `at`, the last one.
    fn reseal(&mut self, at: usize, length: Option<u32>) {
        let salt = crc32c::crc32c_append(crc32c::crc32c(&self.incarnation.to_le_bytes()), &self.number.to_le_bytes());
        let record = &mut self.bytes[at..];
        if let Some(length) = length {
            record[4..8].copy_from_slice(&length.to_le_bytes());
        }
        let place = crc32c::crc32c_append(salt, &(at as u64).to_le_bytes());
        let head = crc32c::crc32c_append(place, &record[..32]);
        let body = crc32c::crc32c_append(head, &record[RECORD_HEADER..]);
        record[32..36].copy_from_slice(&head.to_le_bytes());
        record[36..40].copy_from_slice(&body.to_le_bytes());
    }
}

/// The batches of a segment as the journal wrote it, by the place of their bytes.
pub(crate) fn batches(segment: &[u8]) -> Vec<(Id, std::ops::Range<usize>)> {
    let (mut at, mut found) = (SEGMENT_HEADER, Vec::new());
    while let Some(header) = segment.get(at..at + RECORD_HEADER) {
        let number = |from: usize| u64::from_le_bytes(header[from..from + 8].try_into().expect("eight bytes"));
        let length = u32::from_le_bytes(header[4..8].try_into().expect("four bytes")) as usize;
        let end = at + RECORD_HEADER + length;
        if header[9] == BATCH {
            found.push(((number(16), number(24)), at..end));
        }
        at = end;
    }
    found
}

fn segment_header(version: u32, incarnation: u64, number: u64) -> Vec<u8> {
    let mut bytes = b"\x89SBJ\r\n\x1a\n".to_vec();
    bytes.extend_from_slice(&version.to_le_bytes());
    bytes.extend_from_slice(&incarnation.to_le_bytes());
    bytes.extend_from_slice(&number.to_le_bytes());
    let checksum = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

fn id(feed: &mut Feed<'_>) -> Id {
    (u64::from(feed.byte() & 3), u64::from(feed.byte()))
}

fn ids(feed: &mut Feed<'_>) -> Vec<Id> {
    let many = feed.byte() & 7;
    (0..many).map(|_| id(feed)).collect()
}

fn id_bytes(ids: &[Id]) -> Vec<u8> {
    ids.iter().flat_map(|(incarnation, seq)| [incarnation.to_le_bytes(), seq.to_le_bytes()]).flatten().collect()
}

/// The recipe of a segment of three batches, the second of them done, a spill, and then `more`.
pub(crate) fn recipe(recipe: Recipe, head: &[u8], more: &[u8], many: u8) -> Recipe {
    let mut recipe = recipe;
    recipe.0.push(head[0]);
    recipe.0.push(5 + many);
    recipe.0.extend_from_slice(&head[1..]);
    for seq in 1..=3 {
        recipe = recipe.byte(1).byte(1).byte(seq).byte(9).chunk(b"the body of a batch");
    }
    recipe = recipe.byte(2).byte(1).byte(1).byte(2);
    recipe = recipe.byte(3).byte(4);
    recipe.0.extend_from_slice(b"name\x01\x01\x03");
    recipe.0.extend_from_slice(more);
    recipe
}
