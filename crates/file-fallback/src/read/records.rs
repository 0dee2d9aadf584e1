//! Text to records, each known by its number; in constant memory for any bytes.

use std::io;
use std::ops::Range;

use crate::form::format::{Format, HEAD, MAX_FILE_RECORDS, MAX_FILE_TEXT, PART_BYTES, length};
use crate::form::name::Extension;
use crate::notice::Damage;
use crate::read::unpack::{CHUNK, Filled, Unpacker};

/// Reads a file once, from its start. The same bytes always give the same items: the number of a record identifies it.
#[derive(Debug)]
pub(crate) struct RecordReader<F> {
    unpacker: Unpacker<F>,
    format: Format,
    /// Unpacked text; from `start` on it is not given yet.
    text: Vec<u8>,
    start: usize,
    /// No record ends between `start` and here.
    scanned: usize,
    /// Up to here the text is verified: see [`Filled::Whole`].
    verified: usize,
    /// Bytes of text that were unpacked.
    total: u64,
    /// The work at which [`next`](Self::next) gives [`Item::Pause`].
    pause_at: u64,
    /// The number of the next record.
    record: u64,
    /// The present line is too long: its text was dropped.
    skipping: bool,
    ended: bool,
    max_record_bytes: usize,
}

/// The next item of a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Item {
    /// A record, whose text stands in this range until the next call.
    Record(Range<usize>),
    /// A record that has a number and no usable text: a blank line, or one with this damage.
    Skipped(Option<Damage>),
    /// Damage between two records; it has no number.
    Damage(Damage),
    /// The work of [`RecordReader::pause_after`] is done; more records may follow.
    Pause,
    /// The file has no further record.
    End,
}

impl<F: io::Read + io::Seek> RecordReader<F> {
    pub(crate) fn new(file: F, extension: Extension, max_record_bytes: usize) -> io::Result<Self> {
        Ok(Self {
            unpacker: Unpacker::new(file, extension)?,
            format: extension.format,
            text: Vec::new(),
            start: 0,
            scanned: 0,
            verified: 0,
            total: 0,
            pause_at: u64::MAX,
            record: 0,
            skipping: false,
            ended: false,
            max_record_bytes,
        })
    }

    /// The number of the record that comes next.
    pub(crate) fn record(&self) -> u64 {
        self.record
    }

    /// The work so far, in bytes of text. A record counts 64 more, so that many short records are work too.
    pub(crate) fn work(&self) -> u64 {
        self.total + self.record * 64
    }

    /// Lets [`next`](Self::next) pause after so much more work.
    pub(crate) fn pause_after(&mut self, work: u64) {
        self.pause_at = self.work().saturating_add(work);
    }

    /// The text of a record that [`next`](Self::next) has just given.
    pub(crate) fn text(&self, record: &Range<usize>) -> &[u8] {
        &self.text[record.clone()]
    }

    /// The text of a record that [`next`](Self::next) has just given, for good. A large one is moved, not copied.
    pub(crate) fn take(&mut self, record: &Range<usize>) -> Vec<u8> {
        let rest = &self.text[self.start..];
        if record.len() < LARGE || rest.len() > record.len() / 8 {
            return self.text[record.clone()].to_vec();
        }
        let rest = rest.to_vec();
        let mut taken = std::mem::replace(&mut self.text, rest);
        taken.truncate(record.end);
        taken.drain(..record.start);
        taken.shrink_to_fit();
        self.verified = self.verified.saturating_sub(self.start);
        self.scanned -= self.start;
        self.start = 0;
        taken
    }

    /// Takes back a record that [`next`](Self::next) has just given: it comes again.
    pub(crate) fn unread(&mut self, record: &Range<usize>) {
        self.start = match self.format {
            Format::Lines => record.start,
            Format::Framed => record.start - HEAD,
        };
        self.scanned = self.start;
        self.record -= 1;
    }

    pub(crate) fn next(&mut self) -> io::Result<Item> {
        loop {
            if self.work() >= self.pause_at {
                return Ok(Item::Pause);
            }
            if self.record > MAX_FILE_RECORDS && !self.ended {
                self.end_here();
                return Ok(Item::Damage(Damage::TextTooLarge));
            }
            if let Some(item) = self.next_in_text() {
                return Ok(item);
            }
            if self.ended {
                return Ok(self.last());
            }
            if let Some(damage) = self.fill()? {
                return Ok(Item::Damage(damage));
            }
        }
    }

    /// The next whole record in the text that may be handed out.
    fn next_in_text(&mut self) -> Option<Item> {
        // A part that is larger than this crate writes is handed out before its checksum: it would not fit into
        // constant memory.
        let part_cap = PART_BYTES + self.max_record_bytes + self.format.overhead();
        let usable = if self.text.len() - self.verified > part_cap { self.text.len() } else { self.verified };
        // Records of such a part may have been handed out beyond the verified bytes.
        let usable = usable.max(self.scanned);
        match self.format {
            Format::Lines => self.next_line(usable),
            Format::Framed => self.next_framed(usable),
        }
    }

    fn next_line(&mut self, usable: usize) -> Option<Item> {
        match self.text[self.scanned..usable].iter().position(|&byte| byte == b'\n') {
            Some(offset) => {
                let record = self.start..self.scanned + offset;
                self.start = record.end + 1;
                self.scanned = self.start;
                Some(self.number(record))
            }
            None => {
                self.scanned = self.scanned.max(usable);
                if self.scanned - self.start > self.max_record_bytes {
                    self.skipping = true;
                    self.start = self.scanned;
                }
                None
            }
        }
    }

    /// A damaged length hides where the next record begins: the file ends there. Memory is allocated for bytes that
    /// were read, never for the number in a length.
    fn next_framed(&mut self, usable: usize) -> Option<Item> {
        let (head, rest) = self.text[self.start..usable].split_first_chunk::<HEAD>()?;
        match length(*head, self.max_record_bytes) {
            Some(len) if len <= rest.len() => {
                let begin = self.start + HEAD;
                self.start = begin + len;
                self.scanned = self.start;
                self.record += 1;
                Some(Item::Record(begin..self.start))
            }
            Some(_) => None,
            None => {
                self.end_here();
                Some(Item::Damage(Damage::BadLength))
            }
        }
    }

    /// The text behind the last whole record. A line without its line feed may be whole; the caller finds out by
    /// decoding it.
    fn last(&mut self) -> Item {
        let end = self.verified.max(self.scanned);
        let record = self.start..end;
        self.start = end;
        self.scanned = end;
        if self.format == Format::Framed {
            return if record.is_empty() { Item::End } else { Item::Damage(Damage::Torn) };
        }
        if record.is_empty() && !self.skipping { Item::End } else { self.number(record) }
    }

    fn number(&mut self, record: Range<usize>) -> Item {
        self.record += 1;
        let too_long = std::mem::take(&mut self.skipping) || record.len() > self.max_record_bytes;
        if too_long {
            Item::Skipped(Some(Damage::RecordTooLong))
        } else if self.text[record.clone()].iter().all(u8::is_ascii_whitespace) {
            Item::Skipped(None)
        } else {
            Item::Record(record)
        }
    }

    /// Unpacks the next piece of text; returns the damage in it.
    fn fill(&mut self) -> io::Result<Option<Damage>> {
        self.text.drain(..self.start);
        self.scanned -= self.start;
        self.verified = self.verified.saturating_sub(self.start);
        self.start = 0;
        let before = self.text.len();
        if self.text.capacity() - before < CHUNK {
            // In small steps: a buffer that doubles would hold a large record twice.
            self.text.reserve_exact(CHUNK.max(before / 8));
        }
        let filled = self.unpacker.fill(&mut self.text)?;
        self.total += (self.text.len() - before) as u64;
        let damage = match filled {
            Filled::Part => None,
            Filled::Whole => {
                self.verified = self.text.len();
                None
            }
            Filled::Torn => {
                // The records before the cut are as they were written, except the one that was cut, also where it began
                // in the part before. They are handed out although their checksum is gone. Damage that looks like a cut
                // may hand out records that the caller cannot decode.
                self.cut(match self.format {
                    Format::Lines => end_of_last_line(&self.text),
                    Format::Framed => end_of_last_framed(&self.text, self.max_record_bytes),
                });
                self.verified = self.text.len();
                Some(Damage::Torn)
            }
            Filled::Corrupt => {
                // No record of this part is handed out, nor one that begins before it and ends in it.
                let trusted = &self.text[..self.verified.max(self.scanned)];
                self.cut(match self.format {
                    Format::Lines => end_of_last_line(trusted),
                    Format::Framed => end_of_last_framed(trusted, self.max_record_bytes),
                });
                self.verified = self.text.len();
                Some(Damage::Corrupt)
            }
            Filled::End => {
                self.ended = true;
                None
            }
        };
        if self.total > MAX_FILE_TEXT {
            self.end_here();
            return Ok(Some(Damage::TextTooLarge));
        }
        Ok(damage)
    }

    /// Ends the file here: no more of it is read.
    fn end_here(&mut self) {
        self.cut(self.start);
        self.verified = self.text.len();
        self.ended = true;
    }

    fn cut(&mut self, len: usize) {
        self.text.truncate(len);
        self.scanned = self.scanned.min(len);
        self.skipping = false;
    }
}

/// A record from this length on is not copied.
const LARGE: usize = 1 << 20;

fn end_of_last_line(text: &[u8]) -> usize {
    text.iter().rposition(|&byte| byte == b'\n').map_or(0, |index| index + 1)
}

/// The end of the last whole record in text that begins with a record.
fn end_of_last_framed(text: &[u8], max_record_bytes: usize) -> usize {
    let mut end = 0;
    while let Some((head, rest)) = text[end..].split_first_chunk::<HEAD>()
        && let Some(len) = length(*head, max_record_bytes).filter(|len| *len <= rest.len())
    {
        end += HEAD + len;
    }
    end
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;
    use crate::form::name::Packing;

    /// The records of a file, read to its end.
    fn read(bytes: Vec<u8>, extension: Extension, max_record_bytes: usize) -> (Vec<Vec<u8>>, Vec<Item>) {
        let mut reader = RecordReader::new(Cursor::new(bytes), extension, max_record_bytes).expect("memory");
        let (mut records, mut others) = (Vec::new(), Vec::new());
        loop {
            match reader.next().expect("memory") {
                Item::Record(record) => records.push(reader.text(&record).to_vec()),
                Item::End => return (records, others),
                other => others.push(other),
            }
        }
    }

    fn pack(text: &[u8], packing: Packing) -> Vec<u8> {
        match packing {
            Packing::Plain => text.to_vec(),
            #[cfg(feature = "zstd")]
            Packing::Zstd => zstd::stream::encode_all(text, 1).expect("memory"),
            #[cfg(feature = "gzip")]
            Packing::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                io::Write::write_all(&mut encoder, text).expect("memory");
                encoder.finish().expect("memory")
            }
            #[cfg(not(all(feature = "zstd", feature = "gzip")))]
            _ => text.to_vec(),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Another program has unpacked and packed the file again: its parts begin and end anywhere, and one may hold
        /// more text than this crate writes.
        #[test]
        fn a_file_is_read_however_its_text_is_divided_into_parts(
            lens in prop::collection::vec(prop_oneof![3 => 1..300_usize, 1 => 20_000..90_000_usize], 1..24),
            cuts in prop::collection::vec(0..2_000_000_usize, 0..4),
            framed in any::<bool>(),
            packing in prop::sample::select(vec![Packing::Plain, Packing::Zstd, Packing::Gzip]),
            max_record_bytes in prop::sample::select(vec![1_000, 90_000]),
            repeat in prop::sample::select(vec![1, 30]),
        ) {
            let format = if framed { Format::Framed } else { Format::Lines };
            let lens = lens.iter().copied().cycle().take(lens.len() * repeat);
            let records = lens.filter(|len| *len <= max_record_bytes).enumerate();
            let records: Vec<Vec<u8>> = records.map(|(id, len)| vec![b'a' + (id % 26) as u8; len]).collect();
            let mut text = Vec::new();
            records.iter().for_each(|record| format.put(&mut text, record).expect("memory"));
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(text.len())).chain([0, text.len()]).collect();
            cuts.sort_unstable();
            let bytes = cuts.windows(2).filter(|cut| cut[0] < cut[1]);
            let bytes: Vec<u8> = bytes.flat_map(|cut| pack(&text[cut[0]..cut[1]], packing)).collect();
            let (read, others) = read(bytes, Extension { format, packing }, max_record_bytes);
            prop_assert_eq!(others, vec![]);
            prop_assert!(read == records, "{} of {} records", read.len(), records.len());
        }
    }
}
