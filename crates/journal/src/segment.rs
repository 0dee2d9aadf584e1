//! The name and the first bytes of a segment file.
//!
//! ```text
//!  0  magic        8   "\x89SBJ\r\n\x1A\n"
//!  8  version      4   1
//! 12  incarnation  8   of the writer
//! 20  number       8   of the segment
//! 28  checksum     4   CRC-32C of the 28 bytes above
//! ```
//!
//! These 32 bytes mean the same in every version to come, so that a newer one can be told from damage.

use super::frame::Salt;

const MAGIC: [u8; 8] = *b"\x89SBJ\r\n\x1A\n";

/// The version that this code writes.
pub(crate) const VERSION: u32 = 1;

/// Bytes before the first record.
pub(crate) const HEADER_LEN: u64 = 32;

const PREFIX: &str = "journal-";
const SUFFIX: &str = ".seg";

/// Ends the name of a segment whose sync failed. Its records may be in the memory of the system only, and a sync by the
/// next process would return `Ok` without having written them.
const FAILED_SUFFIX: &str = ".failed";

/// A higher number was not written by this code, which would take a thousand years to get there, and could not be
/// incremented for ever.
const MAX_NUMBER: u64 = 1 << 47;

/// The identity of a segment: in its name and in its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SegmentId {
    pub(crate) number: u64,
    pub(crate) incarnation: u64,
}

/// The result of parsing the first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    Whole(SegmentId),
    /// Whole, but of a version that this code does not know.
    Newer(u32),
    /// A header that a crash cut short.
    Torn,
    /// Any other bytes.
    Damaged,
}

impl SegmentId {
    pub(crate) fn name(self) -> String {
        format!("{PREFIX}{:012x}-{:016x}{SUFFIX}", self.number, self.incarnation)
    }

    /// The segment of this name, if it is exactly a name that this code writes.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let named = name.strip_prefix(PREFIX)?;
        let (number, incarnation) =
            named.strip_suffix(SUFFIX).or_else(|| named.strip_suffix(FAILED_SUFFIX))?.split_once('-')?;
        let hex = |text: &str| u64::from_str_radix(text, 16).ok();
        let id = Self { number: hex(number)?, incarnation: hex(incarnation)? };
        let whole = id.name() == name || failed_name(&id.name()).is_some_and(|failed| failed == name);
        (id.number < MAX_NUMBER && whole).then_some(id)
    }

    pub(crate) fn salt(self) -> Salt {
        Salt::new(self.incarnation, self.number)
    }

    pub(crate) fn header(self) -> [u8; HEADER_LEN as usize] {
        let mut bytes = [0; HEADER_LEN as usize];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.incarnation.to_le_bytes());
        bytes[20..28].copy_from_slice(&self.number.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[..28]);
        bytes[28..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Parses the first bytes, at most 32, of the file with the name of this segment.
    pub(crate) fn look(self, bytes: &[u8]) -> Start {
        if let Some(bytes) = bytes.first_chunk::<{ HEADER_LEN as usize }>()
            && bytes[..8] == MAGIC
            && crc32c::crc32c(&bytes[..28]).to_le_bytes() == bytes[28..]
        {
            let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
            let version = u32::from_le_bytes(bytes[8..12].try_into().expect("four bytes"));
            return if version == VERSION {
                Start::Whole(Self { incarnation: u64_at(12), number: u64_at(20) })
            } else {
                Start::Newer(version)
            };
        }
        let expected = self.header();
        let same = expected.iter().zip(bytes).take_while(|(expected, byte)| expected == byte).count();
        if bytes[same..].iter().all(|byte| *byte == 0) { Start::Torn } else { Start::Damaged }
    }
}

/// The name of a segment after a failed sync; `None` if it is such a name already.
pub(crate) fn failed_name(name: &str) -> Option<String> {
    Some(format!("{}{FAILED_SUFFIX}", name.strip_suffix(SUFFIX)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: SegmentId = SegmentId { number: 0x2a, incarnation: 0xfeed };

    #[test]
    fn only_names_of_this_format_are_segments() {
        assert_eq!(SegmentId::parse(&ID.name()), Some(ID));
        assert_eq!(ID.name(), "journal-00000000002a-000000000000feed.seg");
        let failed = failed_name(&ID.name()).expect("well until now");
        assert_eq!((failed.as_str(), failed_name(&failed)), ("journal-00000000002a-000000000000feed.failed", None));
        assert_eq!(SegmentId::parse(&failed), Some(ID));
        for name in [
            "journal-2a-feed.seg",
            "journal-00000000002A-000000000000feed.seg",
            "journal-00000000002a-000000000000feed.seg.1",
            "journal-+0000000002a-000000000000feed.seg",
            "journal-ffffffffffff-000000000000feed.seg",
            "journal-.seg",
            ".lock",
            "",
        ] {
            assert_eq!(SegmentId::parse(name), None, "{name}");
        }
    }

    #[test]
    fn the_first_bytes_say_what_the_file_is() {
        let bytes = ID.header();
        let other = SegmentId { number: 1, incarnation: 1 };
        assert_eq!(other.look(&bytes), Start::Whole(ID), "a copy under another name");
        for len in 0..bytes.len() {
            assert_eq!(ID.look(&bytes[..len]), Start::Torn, "cut to {len}");
            let mut zeroed = bytes;
            zeroed[len..].fill(0);
            assert_eq!(ID.look(&zeroed), Start::Torn, "zeros from {len}");
        }
        for index in 0..bytes.len() {
            let mut changed = bytes;
            changed[index] ^= 0x81;
            assert_eq!(ID.look(&changed), Start::Damaged, "byte {index}");
        }
        let mut newer = bytes;
        newer[8] = 2;
        let checksum = crc32c::crc32c(&newer[..28]);
        newer[28..].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(ID.look(&newer), Start::Newer(2));
    }
}
