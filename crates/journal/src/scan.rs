//! Finds the records of one segment in any bytes: in constant memory, without reading the bodies of batches.

use std::io::{self, Read, Seek, SeekFrom};

use safe_dir::File;

use super::Id;
use super::frame::{self, HEADER_LEN, Header, Kind, MARK, Parsed};
use super::segment::{self, SegmentId, Start};

/// A record, in the order of the file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Its body is not read yet, and may be damaged.
    Batch {
        id: Id,
        count: u32,
        offset: u64,
        body_len: u32,
    },
    Done(Vec<Id>),
    /// Without a name: these batches stay in the journal.
    Spill(String, Vec<Id>),
}

/// The result for the file as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scanned {
    /// The identity that its checksums are bound to.
    pub(crate) id: SegmentId,
    pub(crate) damaged_places: u64,
    pub(crate) damaged_bytes: u64,
    /// Bytes after the last record.
    pub(crate) torn_bytes: u64,
    /// DONE and SPILL records.
    pub(crate) marks: u64,
}

/// Why the scan ended early.
#[derive(Debug)]
pub(crate) enum ScanError {
    Newer(u32),
    Io(io::Error),
}

impl From<io::Error> for ScanError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Scans the file with the name of `id` and appends its records to `found`, also before an error. `search` is the
/// number of bytes that may still be searched for a record behind damage; the scan subtracts what it searches.
pub(crate) fn scan<F: File>(
    file: &mut F,
    id: SegmentId,
    search: &mut u64,
    found: &mut Vec<Found>,
) -> Result<Scanned, ScanError> {
    let len = file.len()?;
    let mut window = Window { file, bytes: vec![0; WINDOW], start: 0, filled: 0 };
    let mut scanned = Scanned { id, damaged_places: 0, damaged_bytes: 0, torn_bytes: 0, marks: 0 };
    let start = id.look(window.at(0, segment::HEADER_LEN as usize)?);
    match start {
        Start::Newer(version) => return Err(ScanError::Newer(version)),
        Start::Whole(written) => scanned.id = written,
        Start::Torn => {}
        Start::Damaged => scanned.damage(segment::HEADER_LEN.min(len)),
    }
    let salt = scanned.id.salt();
    let mut at = segment::HEADER_LEN.min(len);
    // Begin of the bytes that are not a record, if the last ones are none. Half a segment header counts as such.
    let mut gap = (start == Start::Torn && len > 0).then_some(0);
    // The previous record, if it is a batch: only the last batch is likely to be half written.
    let mut last = None;
    while at < len && at < MAX_SCAN {
        let header = match Header::parse(salt, at, window.at(at, HEADER_LEN)?) {
            Parsed::Newer(version) => return Err(ScanError::Newer(version.into())),
            Parsed::Header(header) => header,
            Parsed::Nothing => {
                gap.get_or_insert(at);
                match window.find_mark(at + 1, len, search)? {
                    Some(next) => at = next,
                    None => break,
                }
                continue;
            }
        };
        if at + header.record_len() > len {
            gap.get_or_insert(at);
            break;
        }
        if let Some(gap) = gap.take() {
            scanned.damage(at - gap);
        }
        last = None;
        if header.kind == Kind::Batch {
            found.push(Found::Batch { id: header.id, count: header.count, offset: at, body_len: header.body_len });
            last = Some((header, at));
        } else if let Some(mark) = window.mark(&header, at)? {
            scanned.marks += 1;
            found.push(mark);
        } else {
            gap = Some(at);
        }
        at += header.record_len();
    }
    if let Some((header, offset)) = last
        && !window.is_whole(&header, offset)?
    {
        found.pop();
        gap = Some(offset);
    }
    if at >= MAX_SCAN && gap.is_none() && at < len {
        gap = Some(at);
    }
    if let Some(gap) = gap {
        // A crash leaves half a record or zeros behind the last record. Other bytes there were not written by this
        // code.
        let crash =
            *search > 0 && at < MAX_SCAN && (!found.is_empty() || start != Start::Torn || len <= segment::HEADER_LEN);
        if crash || window.is_zero(gap.max(segment::HEADER_LEN), len, search)? {
            scanned.torn_bytes = len - gap;
        } else {
            scanned.damage(len - gap);
        }
    }
    Ok(scanned)
}

impl Scanned {
    fn damage(&mut self, bytes: u64) {
        self.damaged_places += 1;
        self.damaged_bytes += bytes;
    }
}

/// A part of the file, in memory.
struct Window<'a, F> {
    file: &'a mut F,
    bytes: Vec<u8>,
    start: u64,
    filled: usize,
}

impl<F: Read + Seek> Window<'_, F> {
    /// `len` bytes from `at` on; fewer at the end of the file.
    fn at(&mut self, at: u64, len: usize) -> io::Result<&[u8]> {
        let inside = at.checked_sub(self.start).and_then(|from| usize::try_from(from).ok());
        let from = match inside.filter(|from| from + len <= self.filled) {
            Some(from) => from,
            None => {
                self.fill(at)?;
                0
            }
        };
        Ok(&self.bytes[from..self.filled.min(from + len)])
    }

    fn fill(&mut self, at: u64) -> io::Result<()> {
        (self.start, self.filled) = (at, 0);
        self.file.seek(SeekFrom::Start(at))?;
        while self.filled < self.bytes.len() {
            match self.file.read(&mut self.bytes[self.filled..]) {
                Ok(0) => break,
                Ok(read) => self.filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.filled = 0;
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Fills `out` with the bytes from `at` on.
    fn read(&mut self, mut at: u64, mut out: &mut [u8]) -> io::Result<()> {
        while !out.is_empty() {
            let part = self.at(at, out.len().min(WINDOW))?;
            if part.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let (now, later) = out.split_at_mut(part.len());
            now.copy_from_slice(part);
            at += now.len() as u64;
            out = later;
        }
        Ok(())
    }

    /// The DONE or SPILL with this header, if its body is whole.
    fn mark(&mut self, header: &Header, offset: u64) -> io::Result<Option<Found>> {
        // At most MAX_MARK_BODY, and inside the file.
        let mut body = vec![0; header.body_len as usize];
        self.read(offset + HEADER_LEN as u64, &mut body)?;
        if !header.accepts(crc32c::crc32c_append(header.body_seed(), &body)) {
            return Ok(None);
        }
        Ok(match header.kind {
            Kind::Batch => None,
            Kind::Done => frame::parse_done(header.count, &body).map(Found::Done),
            Kind::Spill => {
                frame::parse_spill(header.count, &body).map(|(name, ids)| Found::Spill(name.to_owned(), ids))
            }
        })
    }

    /// Whether all bytes up to `len` are zeros, as far as the scan may search.
    fn is_zero(&mut self, mut at: u64, len: u64, search: &mut u64) -> io::Result<bool> {
        while at < len {
            let part = self.at(at, WINDOW)?;
            if part.is_empty() || *search == 0 || part.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            at += part.len() as u64;
            *search = search.saturating_sub(part.len() as u64);
        }
        Ok(true)
    }

    /// Whether the body of a record matches its checksum.
    fn is_whole(&mut self, header: &Header, offset: u64) -> io::Result<bool> {
        let (mut at, end) = (offset + HEADER_LEN as u64, offset + header.record_len());
        let mut checksum = header.body_seed();
        while at < end {
            let part = self.at(at, usize::try_from(end - at).unwrap_or(WINDOW).min(WINDOW))?;
            if part.is_empty() {
                return Ok(false);
            }
            checksum = crc32c::crc32c_append(checksum, part);
            at += part.len() as u64;
        }
        Ok(header.accepts(checksum))
    }

    /// The next position of the first bytes of a record.
    fn find_mark(&mut self, mut at: u64, len: u64, search: &mut u64) -> io::Result<Option<u64>> {
        while at < len && *search > 0 {
            let part = self.at(at, WINDOW)?;
            if part.len() < MARK.len() {
                return Ok(None);
            }
            if let Some(index) = part.windows(MARK.len()).position(|bytes| bytes == MARK) {
                *search = search.saturating_sub(index as u64 + 1);
                return Ok(Some(at + index as u64));
            }
            let passed = (part.len() - MARK.len() + 1) as u64;
            *search = search.saturating_sub(passed);
            at += passed;
        }
        Ok(None)
    }
}

const WINDOW: usize = 64 << 10;

/// More than the longest segment that this code writes: 256 MiB, the same again after a failed sync, and the longest
/// batch.
const MAX_SCAN: u64 = 1 << 30;
