//! Finds the records of one segment in any bytes: in constant memory, without reading the bodies of batches.

use std::io::{self, Read, Seek, SeekFrom};

use safe_dir::File;

use super::Id;
use super::frame::{self, Account, HEADER_LEN, Header, Kind, MARK, Parsed};
use super::segment::{self, SegmentId, Start};

/// A record, in the order of the file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Its body is not read yet, and may be damaged.
    Batch {
        id: Id,
        tag: u8,
        count: u32,
        offset: u64,
        body_len: u32,
    },
    Done(Vec<Id>),
    /// Without a name: these batches stay in the journal.
    Spill(String, Vec<Id>),
}

/// The result for the file as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scanned {
    pub(crate) damaged_places: u64,
    pub(crate) damaged_bytes: u64,
    /// Bytes after the last record, as a crash leaves them.
    pub(crate) torn_bytes: u64,
    /// Headers of batches that are whole, and their items.
    pub(crate) batches: u64,
    pub(crate) items: u64,
    /// Batches, and their items, in the damaged places, as far as the segment itself shows: one of one item at least
    /// where a header is damaged.
    pub(crate) lost_batches: u64,
    pub(crate) lost_items: u64,
    /// Whole records of a newer version, and that version.
    pub(crate) newer: u64,
    pub(crate) newer_version: u8,
}

/// Why a segment was not scanned, or not the whole of it.
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

/// A segment to scan.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject {
    /// By its name.
    pub(crate) id: SegmentId,
    /// The segment was synced as a whole: its end is no different from its middle.
    pub(crate) is_finished: bool,
    pub(crate) known_tags: &'static [u8],
}

/// The records of a segment, and the identity that its checksums are bound to.
#[derive(Debug)]
pub(crate) struct Scan {
    pub(crate) id: SegmentId,
    pub(crate) scanned: Scanned,
    pub(crate) found: Vec<Found>,
    /// Why some bytes were not read. The records elsewhere were found.
    pub(crate) unread: Option<io::Error>,
}

/// Bytes that are not a record.
#[derive(Clone, Copy, Debug)]
struct Gap {
    start: u64,
    /// The disk fails to read it: no damage, but for later.
    unread: bool,
    lost_batches: u64,
    lost_items: u64,
}

/// The account of the segment before, at the start of this one.
pub(crate) fn account<F: File>(file: &mut F, id: SegmentId) -> io::Result<Option<Account>> {
    let mut window = Window { file, bytes: vec![0; HEADER_LEN], start: 0, filled: 0 };
    let id = match id.look(window.at(0, segment::HEADER_LEN as usize)?) {
        Start::Whole(written) => written,
        Start::Newer(_) => return Ok(None),
        Start::Torn | Start::Damaged => id,
    };
    let header = Header::parse(id.salt(), segment::HEADER_LEN, window.at(segment::HEADER_LEN, HEADER_LEN)?);
    Ok(match header {
        Parsed::Header(header) if header.accepts(header.body_seed()) => Account::of(&header),
        _ => None,
    })
}

/// Scans a file. `search` is the number of bytes that may still be searched for a record behind damage; the scan
/// subtracts what it searches.
pub(crate) fn scan<F: File>(file: &mut F, subject: Subject, search: &mut u64) -> Result<Scan, ScanError> {
    let len = file.len()?;
    let mut window = Window { file, bytes: vec![0; WINDOW], start: 0, filled: 0 };
    let mut scan = Scan { id: subject.id, scanned: Scanned::default(), found: Vec::new(), unread: None };
    let start = match window.at(0, segment::HEADER_LEN as usize).map(|bytes| subject.id.look(bytes)) {
        Ok(Start::Newer(version)) => return Err(ScanError::Newer(version)),
        Ok(start) => start,
        Err(error) => {
            scan.unread = Some(error);
            Start::Damaged
        }
    };
    // Half a segment header counts as a gap.
    let mut gap = None;
    match start {
        Start::Whole(written) => scan.id = written,
        Start::Torn => gap = (len > 0).then_some(Gap { start: 0, unread: false, lost_batches: 0, lost_items: 0 }),
        Start::Damaged if scan.unread.is_none() => scan.scanned.damage(segment::HEADER_LEN.min(len)),
        Start::Damaged | Start::Newer(_) => {}
    }
    let salt = scan.id.salt();
    let mut at = segment::HEADER_LEN.min(len);
    // The previous record, if it is a batch: only the last batch is likely to be half written.
    let mut last = None;
    let mut failures = 0;
    while at < len && at < MAX_SCAN {
        let parsed = window.at(at, HEADER_LEN).map(|bytes| Header::parse(salt, at, bytes).known(subject.known_tags));
        let (header, record_len) = match parsed {
            Ok(Parsed::Header(header)) => (Some(header), header.record_len()),
            Ok(Parsed::Newer { version, record_len }) => {
                scan.scanned.newer_version = version;
                (None, record_len)
            }
            Ok(Parsed::Nothing) => {
                let gap = gap.get_or_insert(Gap { start: at, unread: false, lost_batches: 1, lost_items: 1 });
                // Also behind half a segment header or a damaged mark.
                (gap.lost_batches, gap.lost_items) = (gap.lost_batches.max(1), gap.lost_items.max(1));
                match window.find_mark(at + 1, len, search) {
                    Ok(Some(next)) => at = next,
                    Ok(None) => break,
                    Err((failed_at, error)) => {
                        scan.unread.get_or_insert(error);
                        at = failed_at;
                    }
                }
                continue;
            }
            Err(error) => {
                scan.unread.get_or_insert(error);
                gap.get_or_insert(Gap { start: at, unread: true, lost_batches: 0, lost_items: 0 }).unread = true;
                failures += 1;
                if failures == MAX_FAILURES {
                    break;
                }
                // A record may stand behind the bytes that the disk does not read.
                let next = (at / SECTOR + 1) * SECTOR;
                at = match window.find_mark(next, len, search) {
                    Ok(Some(mark)) => mark,
                    Ok(None) => break,
                    Err((failed_at, _)) => failed_at.max(next),
                };
                continue;
            }
        };
        if at + record_len > len {
            let lost = header.filter(|header| header.kind == Kind::Batch);
            let (lost_batches, lost_items) = lost.map_or((0, 0), |header| (1, u64::from(header.count)));
            gap.get_or_insert(Gap { start: at, unread: false, lost_batches, lost_items });
            break;
        }
        if let Some(gap) = gap.take() {
            scan.scanned.damage_at(gap, at);
        }
        last = None;
        match header {
            None => scan.scanned.newer += 1,
            Some(header) if header.kind == Kind::Batch => {
                let Header { id, tag, count, body_len, .. } = header;
                scan.found.push(Found::Batch { id, tag, count, offset: at, body_len });
                scan.scanned.batches += 1;
                scan.scanned.items += u64::from(count);
                last = Some((header, at));
            }
            Some(header) => match window.mark(&header, at) {
                Ok(Some(mark)) => scan.found.push(mark),
                // A mark, so no batch is lost.
                Ok(None) => gap = Some(Gap { start: at, unread: false, lost_batches: 0, lost_items: 0 }),
                Err(error) => scan.unread = Some(error),
            },
        }
        at += record_len;
    }
    if let Some((header, offset)) = last.filter(|_| !subject.is_finished)
        // Where the disk fails now, the batch counts: its reader learns the rest.
        && !window.is_whole(&header, offset).unwrap_or(true)
    {
        scan.found.pop();
        scan.scanned.batches -= 1;
        scan.scanned.items -= u64::from(header.count);
        gap = Some(Gap { start: offset, unread: false, lost_batches: 1, lost_items: u64::from(header.count) });
    }
    if at >= MAX_SCAN && gap.is_none() && at < len {
        gap = Some(Gap { start: at, unread: false, lost_batches: 0, lost_items: 0 });
    }
    if let Some(gap) = gap.filter(|gap| !gap.unread) {
        // A crash leaves half a record or zeros behind the last record. Other bytes there were not written by this
        // code.
        let nothing_found = scan.found.is_empty() && start == Start::Torn;
        let crash = *search > 0 && at < MAX_SCAN && (!nothing_found || len <= segment::HEADER_LEN);
        let torn = !subject.is_finished
            && (crash || window.is_zero(gap.start.max(segment::HEADER_LEN), len, search).unwrap_or(false));
        if torn {
            scan.scanned.torn_bytes = len - gap.start;
        } else {
            // A file that holds no record may never have been a segment.
            let lost = if nothing_found { Gap { lost_batches: 0, lost_items: 0, ..gap } } else { gap };
            scan.scanned.damage_at(lost, len);
        }
    }
    Ok(scan)
}

impl Scanned {
    fn damage(&mut self, bytes: u64) {
        self.damaged_places += 1;
        self.damaged_bytes += bytes;
    }

    fn damage_at(&mut self, gap: Gap, end: u64) {
        if gap.unread {
            return;
        }
        self.damage(end - gap.start);
        self.lost_batches += gap.lost_batches;
        self.lost_items += gap.lost_items;
    }

    /// Counts the loss in a finished segment by the account of it in the next one. Without one, or with records of
    /// another version, the segment itself shows the loss. Batches that were done may be among the lost ones.
    pub(crate) fn settle(&mut self, account: Option<Account>) {
        let Some(account) = account.filter(|_| self.newer == 0) else { return };
        self.lost_batches = account.batches.saturating_sub(self.batches);
        self.lost_items = account.items.saturating_sub(self.items);
        // A cut between two records.
        if self.lost_batches > 0 && self.damaged_places == 0 {
            self.damage(0);
        }
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
        self.at_least(at, len, len)
    }

    /// From `needed` to `len` bytes from `at` on; fewer than `needed` at the end of the file.
    fn at_least(&mut self, at: u64, needed: usize, len: usize) -> io::Result<&[u8]> {
        let inside = at.checked_sub(self.start).and_then(|from| usize::try_from(from).ok());
        let from = match inside.filter(|from| from + len <= self.filled) {
            Some(from) => from,
            None => {
                self.fill(at, needed)?;
                0
            }
        };
        Ok(&self.bytes[from..self.filled.min(from + len)])
    }

    /// Reads as much as possible, but not beyond bytes that the disk fails to read, unless they are `needed`.
    fn fill(&mut self, at: u64, needed: usize) -> io::Result<()> {
        (self.start, self.filled) = (at, 0);
        self.file.seek(SeekFrom::Start(at))?;
        while self.filled < self.bytes.len() {
            match self.file.read(&mut self.bytes[self.filled..]) {
                Ok(0) => break,
                Ok(read) => self.filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) if self.filled >= needed => break,
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
            let part = self.at_least(at, 1, out.len().min(WINDOW))?;
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
            let part = self.at_least(at, 1, WINDOW)?;
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
            let part = self.at_least(at, 1, usize::try_from(end - at).unwrap_or(WINDOW).min(WINDOW))?;
            if part.is_empty() {
                return Ok(false);
            }
            checksum = crc32c::crc32c_append(checksum, part);
            at += part.len() as u64;
        }
        Ok(header.accepts(checksum))
    }

    /// The next position of the first bytes of a record. An error has the position that was not read.
    fn find_mark(&mut self, mut at: u64, len: u64, search: &mut u64) -> Result<Option<u64>, (u64, io::Error)> {
        while at < len && *search > 0 {
            let part = self.at_least(at, MARK.len(), WINDOW).map_err(|error| (at, error))?;
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

/// Where a sector cannot be read, the system fails to read its page.
const SECTOR: u64 = 4 << 10;

/// Failed reads of one segment after which the rest of it is not searched: each may take seconds.
const MAX_FAILURES: u32 = 16;

/// More than the longest segment that this code writes: 256 MiB, the same again after a failed sync, and the longest
/// batch.
const MAX_SCAN: u64 = 1 << 30;
