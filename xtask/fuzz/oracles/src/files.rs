//! Files of the fallback as any program can have written them, and the records that an independent reader sees in them.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};

use safe_dir::Directory as _;
use safe_dir::sim::Disk;

use crate::feed::{Feed, harm};

/// A file on the disk before anything is opened.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) extension: &'static str,
    pub(crate) promised: u8,
    /// It has the number of the file before it.
    pub(crate) twin: bool,
    pub(crate) bytes: Vec<u8>,
    pub(crate) format: Format,
    /// It was put together whole, and nothing was done to it: its records.
    pub(crate) intact: Option<Vec<Vec<u8>>>,
}

/// How records stand in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Each ends with a line feed.
    Lines,
    /// Each begins with its length.
    Framed,
}

impl Format {
    /// The records of a text, and whether that is all there is in it.
    pub(crate) fn records(self, text: &[u8]) -> (Vec<&[u8]>, bool) {
        let mut records = Vec::new();
        match self {
            Self::Lines => {
                let lines = text.split(|byte| *byte == b'\n');
                records.extend(lines.filter(|line| !line.iter().all(u8::is_ascii_whitespace)));
                (records, true)
            }
            Self::Framed => {
                let mut rest = text;
                while let Some((head, behind)) = rest.split_first_chunk()
                    && let Some((record, behind)) = behind.split_at_checked(u32::from_be_bytes(*head) as usize)
                    && !record.is_empty()
                {
                    records.push(record);
                    rest = behind;
                }
                (records, rest.is_empty())
            }
        }
    }
}

impl Given {
    /// One byte selects the form, one byte the ending of the name; then follow a chunk and the damage to it.
    ///
    /// Form 0 is the chunk as it is; the others are lines, which become records of the format, in parts that end at a
    /// record separator (0x1e), plain or compressed.
    pub(crate) fn read(feed: &mut Feed<'_>) -> Self {
        let (form, promised) = (feed.byte(), feed.byte());
        let chunk = feed.chunk();
        let format = if form & 0x80 == 0 { Format::Lines } else { Format::Framed };
        let extension = match format {
            Format::Lines => [".jsonl", ".jsonl.zst", ".jsonl.gz", ".jsonl"][usize::from(form & 3)],
            Format::Framed => [".binpb", ".binpb.zst", ".binpb.gz", ".binpb"][usize::from(form & 3)],
        };
        let parts: Vec<Vec<u8>> = chunk.split(|byte| *byte == SEPARATOR).map(|part| packed(format, part)).collect();
        let text = parts.concat();
        let parts = parts.iter().filter(|part| !part.is_empty());
        let mut bytes = match form >> 2 & 3 {
            0 => chunk.to_vec(),
            1 => text.clone(),
            2 => parts.flat_map(|part| zstd_frame(part)).collect(),
            _ => parts.flat_map(|part| gzip_member(part)).collect(),
        };
        let harms = form >> 4 & 3;
        for _ in 0..harms {
            harm(feed, &mut bytes);
        }
        let is_text = |first: &[u8; 4]| first.iter().all(|byte| byte.is_ascii_graphic() || *byte == b'\n');
        let is_whole = match form >> 2 & 3 {
            0 => false,
            // Lines that begin otherwise are classified by their first bytes.
            1 => format == Format::Framed || text.first_chunk().is_some_and(is_text),
            _ => true,
        };
        let records = || format.records(&text).0.into_iter().map(<[u8]>::to_vec).collect();
        let intact = (is_whole && harms == 0).then(records);
        Self { extension, promised, twin: form & 0x40 != 0, bytes, format, intact }
    }

    /// Writes it below `name`; false if that is taken.
    pub(crate) fn put(&self, disk: &Disk, name: &str) -> bool {
        put(disk, name, &self.bytes)
    }
}

/// Writes a file durably; false if its name is taken.
pub(crate) fn put(disk: &Disk, name: &str, bytes: &[u8]) -> bool {
    let dir = disk.root();
    let Ok(mut file) = dir.create(name) else { return false };
    file.write_all(bytes).expect("a well disk");
    safe_dir::File::sync(&mut file).expect("a well disk");
    dir.sync().expect("a well disk");
    true
}

/// The content of a file in a directory of the disk.
pub(crate) fn content(disk: &Disk, folder: Option<&str>, name: &str) -> Option<Vec<u8>> {
    let root = disk.root();
    let dir = match folder {
        Some(folder) => root.subdirectory(folder).ok()?,
        None => root,
    };
    let mut bytes = Vec::new();
    dir.open_read(name).ok()?.read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// Lines as the records of a format.
fn packed(format: Format, lines: &[u8]) -> Vec<u8> {
    match format {
        Format::Lines => lines.to_vec(),
        Format::Framed => {
            let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            lines.flat_map(|line| [&(line.len() as u32).to_be_bytes(), line].concat()).collect()
        }
    }
}

/// All that may be seen in a file: as plain text, as zstd and as gzip.
#[derive(Debug)]
pub(crate) struct Readings {
    all: [Reading; 3],
    format: Format,
    lines: BTreeSet<Vec<u8>>,
}

impl Readings {
    /// `None` if it is too much to look at.
    pub(crate) fn of(file: &Given) -> Option<Self> {
        let (bytes, format) = (&file.bytes, file.format);
        let plain = Reading { texts: vec![bytes.clone()], whole: true };
        let all = [plain, Reading::of(bytes, &ZSTD_MAGIC, unzstd)?, Reading::of(bytes, &GZIP_MAGIC, gunzip)?];
        let lines = match format {
            Format::Lines => all.iter().flat_map(|reading| reading.records(format).0).map(<[u8]>::to_vec).collect(),
            Format::Framed => BTreeSet::new(),
        };
        Some(Self { all, format, lines })
    }

    /// Whether this is a record in one of them. Where a record begins behind damage is open, where its length stands
    /// before it.
    pub(crate) fn have(&self, record: &[u8]) -> bool {
        let framed = [&(record.len() as u32).to_be_bytes(), record].concat();
        match self.format {
            Format::Lines => self.lines.contains(record),
            Format::Framed => self.all.iter().flat_map(|reading| &reading.texts).any(|text| contains(text, &framed)),
        }
    }

    /// Whether these are all records of one of them, and nothing was damaged in it.
    pub(crate) fn are_all(&self, records: &[&[u8]]) -> bool {
        self.all.iter().any(|reading| reading.whole && reading.records(self.format) == (records.to_vec(), true))
    }
}

pub(crate) fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// The records that a reader finds which goes on behind damage, with the libraries' own readers.
#[derive(Debug)]
struct Reading {
    /// A text for each run of parts without damage between them; the last part of a run may be one that broke off.
    texts: Vec<Vec<u8>>,
    /// There was no damage.
    whole: bool,
}

/// The text of the first part of these bytes, and how long it is if it is whole.
type Part = (Vec<u8>, Option<usize>);

impl Reading {
    fn of(bytes: &[u8], magic: &[u8], first: impl Fn(&[u8]) -> Part) -> Option<Self> {
        let mut reading = Self { texts: vec![Vec::new()], whole: true };
        let (mut at, mut total) = (0, 0);
        while at < bytes.len() {
            let (text, length) = first(&bytes[at..]);
            total += text.len();
            if total > MAX_TEXT {
                return None;
            }
            reading.texts.last_mut().expect("never empty").extend_from_slice(&text);
            match length {
                Some(length) => at += length,
                None => {
                    reading.whole = false;
                    reading.texts.push(Vec::new());
                    let rest = &bytes[at + 1..];
                    let next = rest.windows(magic.len()).position(|window| window == magic);
                    at = next.map_or(bytes.len(), |next| at + 1 + next);
                }
            }
        }
        Some(reading)
    }

    fn records(&self, format: Format) -> (Vec<&[u8]>, bool) {
        let texts: Vec<_> = self.texts.iter().map(|text| format.records(text)).collect();
        let whole = texts.iter().all(|(_, whole)| *whole);
        (texts.into_iter().flat_map(|(records, _)| records).collect(), whole)
    }
}

fn unzstd(bytes: &[u8]) -> Part {
    let Ok(decoder) = zstd::stream::read::Decoder::with_buffer(bytes) else { return (Vec::new(), None) };
    let mut decoder = decoder.single_frame();
    let mut text = Vec::new();
    let read = decoder.by_ref().take(MAX_TEXT as u64 + 1).read_to_end(&mut text);
    let rest = decoder.finish().len();
    (text, read.is_ok().then(|| bytes.len() - rest).filter(|length| *length > 0))
}

fn gunzip(bytes: &[u8]) -> Part {
    let mut decoder = flate2::bufread::GzDecoder::new(bytes);
    let mut text = Vec::new();
    let read = decoder.by_ref().take(MAX_TEXT as u64 + 1).read_to_end(&mut text);
    let rest = decoder.into_inner().len();
    (text, read.is_ok().then(|| bytes.len() - rest).filter(|length| *length > 0))
}

pub(crate) fn zstd_frame(text: &[u8]) -> Vec<u8> {
    let mut compressor = zstd::bulk::Compressor::new(1).expect("memory");
    compressor.include_checksum(true).expect("a known setting");
    compressor.compress(text).expect("memory")
}

pub(crate) fn gzip_member(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text).expect("memory");
    encoder.finish().expect("memory")
}

/// Ends a part of a text that a recipe gives.
pub(crate) const SEPARATOR: u8 = 0x1e;

/// More text than this is not compared.
const MAX_TEXT: usize = 1 << 20;

const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const GZIP_MAGIC: [u8; 4] = [0x1f, 0x8b, 8, 0];
