//! The bytes of a file to records, in constant memory, whatever the bytes are.

use std::io;
use std::ops::Range;

use crate::encode::FRAME_TEXT;
use crate::name::Extension;
use crate::notice::Damage;
use crate::unpack::{Filled, Unpacker};

/// Reads a file once, from its start. The same bytes always give the same items, so that records can be known by their number.
#[derive(Debug)]
pub(crate) struct RecordReader<F> {
    unpacker: Unpacker<F>,
    /// Text that is not handed out yet, from `start` on.
    text: Vec<u8>,
    start: usize,
    /// No line feed stands before this.
    scanned: usize,
    /// Up to here the text is of compressed parts whose checksum was right.
    verified: usize,
    total: u64,
    /// The number of the next record.
    record: u64,
    /// In the middle of a record that is too long.
    skipping: bool,
    ended: bool,
    max_record_bytes: usize,
}

/// What comes next in a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Item {
    /// A record, whose text is at this place until the next call.
    Record(Range<usize>),
    /// A record that has a number but no text that could be used, and why, if that is damage.
    Skipped(Option<Damage>),
    /// Something was wrong here; it has no number.
    Damage(Damage),
    /// There is no more.
    End,
}

impl<F: io::Read + io::Seek> RecordReader<F> {
    pub(crate) fn new(file: F, extension: Extension, max_record_bytes: usize) -> io::Result<Self> {
        Ok(Self {
            unpacker: Unpacker::new(file, extension)?,
            text: Vec::new(),
            start: 0,
            scanned: 0,
            verified: 0,
            total: 0,
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

    /// The text of a record that [`next`](Self::next) has just given.
    pub(crate) fn text(&self, record: &Range<usize>) -> &[u8] {
        &self.text[record.clone()]
    }

    /// Takes back a record that [`next`](Self::next) has just given: it comes again.
    pub(crate) fn unread(&mut self, record: &Range<usize>) {
        self.start = record.start;
        self.scanned = record.start;
        self.record -= 1;
    }

    pub(crate) fn next(&mut self) -> io::Result<Item> {
        loop {
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

    /// A whole record, if there is one that may be handed out.
    fn next_in_text(&mut self) -> Option<Item> {
        // A part that is too large to wait for its checksum was not written by us.
        let frame_cap = FRAME_TEXT + self.max_record_bytes + 1;
        let usable = if self.text.len() - self.verified > frame_cap { self.text.len() } else { self.verified };
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

    /// What stands after the last line feed. A record without one may be whole; whoever reads it will know.
    fn last(&mut self) -> Item {
        let record = self.start..self.verified;
        self.start = self.verified;
        self.scanned = self.verified;
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

    /// Reads on; says what was wrong, if something was.
    fn fill(&mut self) -> io::Result<Option<Damage>> {
        self.text.drain(..self.start);
        self.scanned -= self.start;
        self.verified = self.verified.saturating_sub(self.start);
        self.start = 0;
        let before = self.text.len();
        let filled = self.unpacker.fill(&mut self.text)?;
        self.total += (self.text.len() - before) as u64;
        let damage = match filled {
            Filled::Part => None,
            Filled::Whole => {
                self.verified = self.text.len();
                None
            }
            Filled::Torn => {
                // What came before the cut is as it was written, except the record that was cut: so it is taken, although its
                // checksum is gone. Damage that looks like a cut may let records through that the caller cannot use.
                let whole = self.text.iter().rposition(|&byte| byte == b'\n').map_or(0, |index| index + 1);
                self.cut(whole.max(self.scanned));
                self.verified = self.text.len();
                Some(Damage::Torn)
            }
            Filled::Corrupt => {
                // Nothing of this part is to be trusted, nor a record that began before it and ends in it.
                let trusted = self.verified.max(self.scanned);
                let whole = self.text[..trusted].iter().rposition(|&byte| byte == b'\n').map_or(0, |index| index + 1);
                self.cut(whole);
                self.verified = self.text.len();
                Some(Damage::Corrupt)
            }
            Filled::End => {
                self.ended = true;
                None
            }
        };
        if self.total > MAX_FILE_TEXT || self.record > MAX_FILE_RECORDS {
            self.cut(self.start);
            self.verified = self.text.len();
            self.ended = true;
            return Ok(Some(Damage::TextTooLarge));
        }
        Ok(damage)
    }

    fn cut(&mut self, len: usize) {
        self.text.truncate(len);
        self.scanned = self.scanned.min(len);
        self.skipping = false;
    }
}

/// The most text in one file, 256 MiB, and the most records. What holds more is not ours, and would keep the disk busy for
/// long.
pub(crate) const MAX_FILE_TEXT: u64 = 256 << 20;
pub(crate) const MAX_FILE_RECORDS: u64 = 1 << 20;
