//! The spans on disk, as an outsider reads them: with `serde_json`, `zstd`, `flate2` and `prost`, by the documented
//! formats, and with none of the code that wrote it.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message as _;
use serde_json::Value;

use crate::{Failure, SpanIds};

/// The directory of a process: its incarnation in 16 hexadecimal digits, once another process has adopted it that one's
/// and a number; in the layout before, `process-` and a number.
pub(crate) fn is_of_a_process(name: &str) -> bool {
    let incarnation = name.split('+').next().unwrap_or_default();
    let is_hex = incarnation.len() == 16 && incarnation.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex || name.starts_with("process-")
}

fn is_further(path: &Path) -> bool {
    path.components().any(|part| is_of_a_process(&part.as_os_str().to_string_lossy()))
}

impl Disk {
    /// The spans in places of this kind.
    pub(crate) fn of(&self, kind: Kind) -> impl Iterator<Item = SpanIds> {
        self.places.iter().filter(move |place| place.kind == kind).flat_map(|place| place.ids.iter().copied())
    }

    pub(crate) fn count(&self, kind: Kind) -> usize {
        self.of(kind).count()
    }

    /// Spans that wait for their delivery.
    pub(crate) fn waiting(&self) -> usize {
        self.count(Kind::Journal) + self.count(Kind::Fallback)
    }
}

/// Everything below a state directory.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    pub(crate) places: Vec<Place>,
    /// Of all files, also of those that hold no spans.
    pub(crate) bytes: u64,
    pub(crate) files: u64,
    /// Directories of processes.
    pub(crate) further: u64,
}

/// A file with spans.
#[derive(Debug)]
pub(crate) struct Place {
    /// Relative to the state directory.
    pub(crate) path: PathBuf,
    pub(crate) kind: Kind,
    /// In the directory of one process.
    pub(crate) further: bool,
    pub(crate) ids: Vec<SpanIds>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Batches of the journal that are not marked as done.
    Journal,
    Fallback,
    DeadLetter,
    /// Set aside as damaged.
    Quarantine,
}

/// Reads it all. Nothing may write meanwhile.
///
/// # Errors
///
/// When a file cannot be read, or a published file is not whole.
pub(crate) fn read(state: &Path) -> Result<Disk, Failure> {
    let mut disk = Disk::default();
    let mut journals: HashMap<PathBuf, Vec<PathBuf>> = HashMap::new();
    let mut folders = vec![state.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            if entry.file_type()?.is_dir() {
                disk.further += u64::from(is_of_a_process(&name));
                folders.push(path);
                continue;
            }
            disk.files += 1;
            disk.bytes += entry.metadata()?.len();
            let relative = path.strip_prefix(state)?.to_owned();
            let inside = |folder: &str| relative.components().any(|part| part.as_os_str() == folder);
            let kind = match () {
                () if inside("quarantine") => Kind::Quarantine,
                () if inside("dead-letters") => Kind::DeadLetter,
                () if inside("journal") => Kind::Journal,
                () => Kind::Fallback,
            };
            let further = is_further(&relative);
            if kind == Kind::Journal {
                if name.ends_with(".seg") {
                    journals.entry(folder.clone()).or_default().push(path);
                }
            } else if [".jsonl", ".binpb"].iter().any(|form| name.contains(form)) && !name.starts_with('.') {
                let ids = records_of(&path).map_err(|error| format!("{}: {error}", relative.display()));
                // A file that was set aside is damaged: every span that can be read from it counts.
                let ids = if kind == Kind::Quarantine { ids.unwrap_or_default() } else { ids? };
                disk.places.push(Place { path: relative, kind, further, ids });
            }
        }
    }
    for segments in journals.into_values() {
        disk.places.extend(journal(state, segments)?);
    }
    Ok(disk)
}

/// The spans in one file.
fn records_of(path: &Path) -> Result<Vec<SpanIds>, Failure> {
    let bytes = fs::read(path)?;
    let mut plain = Vec::new();
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("zst") => {
            zstd::stream::read::Decoder::new(bytes.as_slice())?.read_to_end(&mut plain)?;
        }
        Some("gz") => {
            flate2::read::MultiGzDecoder::new(bytes.as_slice()).read_to_end(&mut plain)?;
        }
        _ => plain = bytes,
    }
    let framed = path.file_name().is_some_and(|name| name.to_string_lossy().contains(".binpb"));
    if framed { frames(&plain) } else { lines(&plain) }
}

/// JSON, a `TracesData` a line; the first line of a dead letter has no spans.
fn lines(text: &[u8]) -> Result<Vec<SpanIds>, Failure> {
    let mut ids = Vec::new();
    for line in text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        let line: Value = serde_json::from_slice(line)?;
        for scope in members(&line, "resourceSpans").flat_map(|resource| members(resource, "scopeSpans")) {
            for span in members(scope, "spans") {
                ids.push((hex(&span["traceId"])?, hex(&span["spanId"])?));
            }
        }
    }
    Ok(ids)
}

/// Protobuf, a `TracesData` after each length.
fn frames(mut bytes: &[u8]) -> Result<Vec<SpanIds>, Failure> {
    let mut ids = Vec::new();
    while !bytes.is_empty() {
        let (head, rest) = bytes.split_first_chunk().ok_or("a record without its length")?;
        let (record, rest) = rest.split_at_checked(u32::from_be_bytes(*head) as usize).ok_or("a record cut short")?;
        bytes = rest;
        ids.extend(request(record)?);
    }
    Ok(ids)
}

fn members<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value[key].as_array().into_iter().flatten()
}

fn hex<const N: usize>(value: &Value) -> Result<[u8; N], Failure> {
    let text = value.as_str().filter(|text| text.len() == 2 * N && text.is_ascii()).ok_or("a span without an id")?;
    let mut bytes = [0; N];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16)?;
    }
    Ok(bytes)
}

/// The batches of one journal that are not done, by segment.
fn journal(state: &Path, mut segments: Vec<PathBuf>) -> Result<Vec<Place>, Failure> {
    segments.sort();
    let (mut batches, mut done) = (Vec::new(), HashSet::new());
    for path in &segments {
        for (kind, id, body) in records(&fs::read(path)?) {
            match kind {
                1 => batches.push((path, id, body)),
                2 => done.extend(body.as_chunks::<16>().0.iter().copied()),
                _ => {}
            }
        }
    }
    let mut places: HashMap<&PathBuf, Vec<SpanIds>> = HashMap::new();
    for (path, _, body) in batches.into_iter().filter(|(_, id, _)| !done.contains(id)) {
        places.entry(path).or_default().extend(request(&body)?);
    }
    let place = |(path, ids): (&PathBuf, _)| {
        let path = path.strip_prefix(state)?.to_owned();
        Ok(Place { further: is_further(&path), path, kind: Kind::Journal, ids })
    };
    places.into_iter().map(place).collect()
}

/// Kind, batch id and body of each whole record of a segment: 32 bytes of head (incarnation at 12, number at 20), then
/// records of 40 bytes and a body.
fn records(segment: &[u8]) -> Vec<(u8, [u8; 16], Vec<u8>)> {
    const MARK: [u8; 4] = [0xB5, b'j', b'r', 0x1E];
    let mut records = Vec::new();
    let Some((head, _)) = segment.split_at_checked(32) else { return records };
    // Incarnation and number of the segment are part of each checksum, and so is the place in it.
    let salt = crc32c::crc32c_append(crc32c::crc32c(&head[12..20]), &head[20..28]);
    let mut at = 32;
    while let Some(header) = segment.get(at..at + 40) {
        let len = u32::from_le_bytes(header[4..8].try_into().expect("four bytes")) as usize;
        let sums = header[32..].as_chunks::<4>().0;
        let place = crc32c::crc32c_append(salt, &(at as u64).to_le_bytes());
        let sum = crc32c::crc32c_append(place, &header[..32]);
        let whole = header[..4] == MARK && sum.to_le_bytes() == sums[0];
        let body = segment.get(at + 40..).filter(|_| whole).and_then(|rest| rest.get(..len));
        match body {
            Some(body) if crc32c::crc32c_append(sum, body).to_le_bytes() == sums[1] => {
                records.push((header[9], header[16..32].try_into().expect("sixteen bytes"), body.to_vec()));
                at += 40 + len;
            }
            // Torn by a kill; a file that is written on after that has its next record further on.
            _ => at += 1,
        }
    }
    records
}

fn request(body: &[u8]) -> Result<Vec<SpanIds>, Failure> {
    let request = ExportTraceServiceRequest::decode(body)?;
    let spans = request.resource_spans.iter().flat_map(|resource| &resource.scope_spans).flat_map(|scope| &scope.spans);
    let ids = spans.map(|span| Ok((span.trace_id.as_slice().try_into()?, span.span_id.as_slice().try_into()?)));
    ids.collect()
}
