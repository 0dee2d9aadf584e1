//! The bytes of a record: pure, no file.
//!
//! ```text
//!  0  mark         4   "\xB5jr\x1E"
//!  4  body length  4   little-endian, as all numbers
//!  8  version      1   1; 2 for a BATCH with a tag
//!  9  kind         1   1 BATCH, 2 DONE, 3 SPILL
//! 10  tag          1   the caller's, of a BATCH; 0 in version 1
//! 11  zero         1
//! 12  count        4   items of the batch; ids of a mark
//! 16  incarnation  8   of the batch; 0 for a mark with ids
//! 24  seq          8   of the batch; 0 for a mark with ids
//! 32  checksum     4   CRC-32C: segment, position, the 32 bytes above
//! 36  checksum     4   CRC-32C: the checksum above, the body
//! 40  body
//! ```
//!
//! A DONE without ids, the first record of a segment, is the [`Account`] of the segment before: its 16 bytes of an id
//! are the number of that segment, 0 if its content was not known, and batches * 2^40 + items.

use super::Id;

/// The first bytes of every record. The scan searches for them behind a record whose length cannot be trusted.
pub(crate) const MARK: [u8; 4] = [0xB5, b'j', b'r', 0x1E];

/// Bytes of a record before its body.
pub(crate) const HEADER_LEN: usize = 40;

/// The version of records without a tag.
pub(crate) const VERSION: u8 = 1;

/// The version of batches with a tag: code that knows no tags takes none of them for a batch of its own kind.
pub(crate) const TAGGED_VERSION: u8 = 2;

/// The longest body that the reader accepts, independent of the writer's settings: 64 MiB.
pub(crate) const MAX_BODY: u32 = 64 << 20;

/// The longest body of a DONE or SPILL: 1 MiB, or about 65,000 ids. The scan reads these bodies as a whole.
pub(crate) const MAX_MARK_BODY: u32 = 1 << 20;

/// Bytes of one id in a mark.
const ID_LEN: usize = 16;

/// The kind of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A batch; its body is the caller's.
    Batch,
    /// Ids of batches that are done.
    Done,
    /// Ids of batches that move to the named file. Without a name: ids of batches that stay in the journal after all.
    Spill,
}

/// Binds checksums to one segment, so that bytes from another place, such as a record inside the body of another one or
/// an old block of the file system, do not count as a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Salt(u32);

/// The 40 bytes of a header, parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) tag: u8,
    pub(crate) body_len: u32,
    pub(crate) count: u32,
    pub(crate) id: Id,
    checksum: u32,
    body_checksum: u32,
}

/// The result of parsing the bytes at a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    Header(Header),
    /// A header with a correct checksum, but of a version or kind that this code does not know.
    Newer {
        version: u8,
        record_len: u64,
    },
    /// No record begins here, or its header is damaged.
    Nothing,
}

impl Parsed {
    /// A batch with a tag that is none of these, 0 for none, counts as one of a newer version.
    pub(crate) fn known(self, tags: &[u8]) -> Self {
        match self {
            Self::Header(header) if header.kind == Kind::Batch && !tags.contains(&header.tag) => {
                let version = if header.tag == 0 { VERSION } else { TAGGED_VERSION };
                Self::Newer { version, record_len: header.record_len() }
            }
            parsed => parsed,
        }
    }
}

impl Salt {
    pub(crate) fn new(incarnation: u64, number: u64) -> Self {
        Self(crc32c::crc32c_append(crc32c::crc32c(&incarnation.to_le_bytes()), &number.to_le_bytes()))
    }

    fn checksum(self, offset: u64, header: &[u8]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c_append(self.0, &offset.to_le_bytes()), header)
    }
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Batch),
            2 => Some(Self::Done),
            3 => Some(Self::Spill),
            _ => None,
        }
    }

    fn byte(self) -> u8 {
        match self {
            Self::Batch => 1,
            Self::Done => 2,
            Self::Spill => 3,
        }
    }
}

impl Header {
    /// Parses up to 40 bytes that stand at `offset` of the segment.
    pub(crate) fn parse(salt: Salt, offset: u64, bytes: &[u8]) -> Parsed {
        let Some(bytes) = bytes.first_chunk::<HEADER_LEN>() else { return Parsed::Nothing };
        let checksum = u32_at(bytes, 32);
        if bytes[..4] != MARK || salt.checksum(offset, &bytes[..32]) != checksum {
            return Parsed::Nothing;
        }
        // Version 1 has never written the place of the tag.
        let (version, tag) = (bytes[8], if bytes[8] == TAGGED_VERSION { bytes[10] } else { 0 });
        let is_known = |kind: &Kind| version == VERSION || version == TAGGED_VERSION && *kind == Kind::Batch;
        let kind = Kind::from_byte(bytes[9]).filter(is_known);
        let body_len = u32_at(bytes, 4);
        let limit = if kind.is_none_or(|kind| kind == Kind::Batch) { MAX_BODY } else { MAX_MARK_BODY };
        if body_len > limit {
            return Parsed::Nothing;
        }
        let Some(kind) = kind else {
            return Parsed::Newer { version, record_len: HEADER_LEN as u64 + u64::from(body_len) };
        };
        let id = (u64_at(bytes, 16), u64_at(bytes, 24));
        let (count, body_checksum) = (u32_at(bytes, 12), u32_at(bytes, 36));
        Parsed::Header(Self { kind, tag, body_len, count, id, checksum, body_checksum })
    }

    /// The checksum that the checksum of the body continues.
    pub(crate) fn body_seed(&self) -> u32 {
        self.checksum
    }

    /// Whether `checksum`, which continues [`body_seed`](Self::body_seed) over the body, is the written one.
    pub(crate) fn accepts(&self, checksum: u32) -> bool {
        checksum == self.body_checksum
    }

    /// The length of header and body together.
    pub(crate) fn record_len(&self) -> u64 {
        HEADER_LEN as u64 + u64::from(self.body_len)
    }
}

/// The batches that were written to a segment, stated by the next one: so no damage hides how many are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    /// The number of the segment that it is about.
    pub(crate) number: u64,
    pub(crate) batches: u64,
    pub(crate) items: u64,
}

impl Account {
    /// The segment before is not known: no segment has the number 0.
    pub(crate) const NONE: Self = Self { number: 0, batches: 0, items: 0 };

    /// Appends the record to `out`, without its checksums.
    pub(crate) fn push(self, out: &mut Vec<u8>) {
        let (batches, items) = (self.batches.min(MAX_BATCHES), self.items.min(MAX_ITEMS));
        push(out, Kind::Done, (self.number, batches << 40 | items), 0, &[]);
    }

    /// The account in a record with this header.
    pub(crate) fn of(header: &Header) -> Option<Self> {
        let (number, sums) = header.id;
        let is_account = (header.kind, header.count, header.body_len) == (Kind::Done, 0, 0);
        is_account.then_some(Self { number, batches: sums >> 40, items: sums & MAX_ITEMS })
    }
}

/// More batches than fit into the longest segment.
const MAX_BATCHES: u64 = (1 << 24) - 1;

/// A segment with more items states this number.
const MAX_ITEMS: u64 = (1 << 40) - 1;

/// Appends a record to `out`, without its checksums, which depend on its position.
///
/// The caller has checked the length of the body.
pub(crate) fn push(out: &mut Vec<u8>, kind: Kind, id: Id, count: u32, body: &[&[u8]]) {
    push_tagged(out, kind, 0, id, count, body);
}

/// The same for a batch with a tag; 0 for none.
pub(crate) fn push_tagged(out: &mut Vec<u8>, kind: Kind, tag: u8, id: Id, count: u32, body: &[&[u8]]) {
    let version = if tag == 0 { VERSION } else { TAGGED_VERSION };
    let body_len: usize = body.iter().map(|part| part.len()).sum();
    let body_len = u32::try_from(body_len).expect("the callers keep to MAX_BODY");
    out.reserve(HEADER_LEN + body_len as usize);
    out.extend_from_slice(&MARK);
    out.extend_from_slice(&body_len.to_le_bytes());
    out.extend_from_slice(&[version, kind.byte(), tag, 0]);
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&id.0.to_le_bytes());
    out.extend_from_slice(&id.1.to_le_bytes());
    out.extend_from_slice(&[0; 8]);
    for part in body {
        out.extend_from_slice(part);
    }
}

/// Writes the checksums of one whole record for its position, `offset`.
pub(crate) fn seal(record: &mut [u8], salt: Salt, offset: u64) {
    let checksum = salt.checksum(offset, &record[..32]);
    let body_checksum = crc32c::crc32c_append(checksum, &record[HEADER_LEN..]);
    record[32..36].copy_from_slice(&checksum.to_le_bytes());
    record[36..40].copy_from_slice(&body_checksum.to_le_bytes());
}

/// The bytes of the ids in a mark.
pub(crate) fn id_bytes(ids: &[Id]) -> Vec<u8> {
    ids.iter().flat_map(|(incarnation, seq)| [incarnation.to_le_bytes(), seq.to_le_bytes()]).flatten().collect()
}

/// The ids in the body of a DONE, if there are `count`.
pub(crate) fn parse_done(count: u32, body: &[u8]) -> Option<Vec<Id>> {
    let (ids, rest) = body.as_chunks::<ID_LEN>();
    let ids = ids.iter().map(|id| (u64_at(id, 0), u64_at(id, 8)));
    (rest.is_empty() && ids.len() == count as usize).then(|| ids.collect())
}

/// The name and the ids in the body of a SPILL, if there are `count` ids.
pub(crate) fn parse_spill(count: u32, body: &[u8]) -> Option<(&str, Vec<Id>)> {
    let (len, rest) = body.split_first_chunk::<2>()?;
    let (name, ids) = rest.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
    Some((std::str::from_utf8(name).ok()?, parse_done(count, ids)?))
}

/// How many ids fit into one SPILL beside the name.
pub(crate) fn max_ids(name: &str) -> usize {
    (MAX_MARK_BODY as usize).saturating_sub(2 + name.len()) / ID_LEN
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: Salt = Salt(7);
    const ID: Id = (3, 4);

    fn record(offset: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        push(&mut bytes, Kind::Batch, ID, 5, &[b"bo", b"dy"]);
        seal(&mut bytes, SALT, offset);
        bytes
    }

    fn whole(bytes: &[u8], offset: u64) -> bool {
        match Header::parse(SALT, offset, bytes) {
            Parsed::Header(header) => {
                header.record_len() == bytes.len() as u64
                    && header.accepts(crc32c::crc32c_append(header.body_seed(), &bytes[HEADER_LEN..]))
            }
            _ => false,
        }
    }

    #[test]
    fn a_record_counts_at_its_own_place_only() {
        let bytes = record(64);
        assert!(whole(&bytes, 64));
        assert!(!whole(&bytes, 65), "elsewhere in the same segment");
        assert_eq!(Header::parse(Salt::new(1, 2), 64, &bytes), Parsed::Nothing, "in another segment");
    }

    #[test]
    fn every_changed_bit_and_every_cut_is_noticed() {
        let bytes = record(32);
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(!whole(&changed, 32), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(!whole(&bytes[..len], 32), "cut to {len}");
        }
    }

    #[test]
    fn another_version_or_kind_is_distinguished_from_damage() {
        for (at, value, version) in [(8, 3, 3), (9, 4, 1)] {
            let mut bytes = record(32);
            bytes[at] = value;
            assert_eq!(Header::parse(SALT, 32, &bytes), Parsed::Nothing, "damage");
            seal(&mut bytes, SALT, 32);
            assert_eq!(Header::parse(SALT, 32, &bytes), Parsed::Newer { version, record_len: 44 });
        }
    }

    #[test]
    fn a_batch_with_a_tag_has_another_version_and_a_mark_has_none() {
        let mut bytes = Vec::new();
        push_tagged(&mut bytes, Kind::Batch, 7, ID, 5, &[b"body"]);
        assert_eq!(bytes[8], TAGGED_VERSION);
        seal(&mut bytes, SALT, 32);
        let Parsed::Header(header) = Header::parse(SALT, 32, &bytes) else { panic!("whole") };
        assert_eq!((header.kind, header.tag, header.count, header.id), (Kind::Batch, 7, 5, ID));
        let Parsed::Header(header) = Header::parse(SALT, 32, &record(32)) else { panic!("whole") };
        assert_eq!((header.tag, record(32)[8]), (0, VERSION));
        let mut mark = Vec::new();
        push_tagged(&mut mark, Kind::Done, 1, ID, 0, &[]);
        seal(&mut mark, SALT, 32);
        assert_eq!(Header::parse(SALT, 32, &mark), Parsed::Newer { version: 2, record_len: 40 });
    }

    #[test]
    fn a_length_beyond_the_limit_is_damage() {
        let mut bytes = record(32);
        bytes[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        seal(&mut bytes, SALT, 32);
        assert_eq!(Header::parse(SALT, 32, &bytes), Parsed::Nothing);
    }

    #[test]
    fn an_account_is_a_mark_without_ids() {
        for (batches, items) in [(3, 1_500), (1 << 30, u64::MAX)] {
            let mut bytes = Vec::new();
            Account { number: 9, batches, items }.push(&mut bytes);
            seal(&mut bytes, SALT, 32);
            let Parsed::Header(header) = Header::parse(SALT, 32, &bytes) else { panic!("whole") };
            assert!(bytes.len() == HEADER_LEN && header.accepts(header.body_seed()));
            let account = Account { number: 9, batches: batches.min(MAX_BATCHES), items: items.min(MAX_ITEMS) };
            assert_eq!((Account::of(&header), parse_done(0, &[])), (Some(account), Some(Vec::new())));
        }
        let Parsed::Header(batch) = Header::parse(SALT, 64, &record(64)) else { panic!("whole") };
        assert_eq!(Account::of(&batch), None);
    }

    #[test]
    fn marks_give_back_their_ids_and_nothing_else() {
        let ids = [ID, (u64::MAX, 0)];
        let bytes = id_bytes(&ids);
        assert_eq!(parse_done(2, &bytes).as_deref(), Some(&ids[..]));
        assert_eq!(parse_done(3, &bytes), None);
        assert_eq!(parse_done(2, &bytes[1..]), None);
        let named = [&4_u16.to_le_bytes()[..], b"name", &bytes].concat();
        assert_eq!(parse_spill(2, &named), Some(("name", ids.to_vec())));
        assert_eq!(parse_spill(2, &named[..5]), None);
        assert_eq!(parse_spill(0, b"\x01\x00\xFF"), None);
        assert_eq!(parse_spill(0, b""), None);
    }
}
