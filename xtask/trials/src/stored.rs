//! Files as the exporter writes them, for a start that finds them; and collectors that cost nothing.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use file_fallback::{Compression, Config, FileFallback, Record};
use journal::Journal;
use opentelemetry_sdk::trace::SpanData;
use otlp_payload::{BatchId, Encoder, Payload, json};
use otlp_transport::{Outcome, Transport};
use safe_dir::SafeDir;

use crate::{Failure, app, contender};

/// Spans in a batch: the default of the SDK's batch processor.
pub const BATCH: usize = 512;

/// As the exporter's own lines.
const LINE_BYTES: usize = 1_000_000;

/// The exporter's spills share a file up to about so much text.
const FILE_BYTES: usize = 8 << 20;

/// Counts of the written files and spans.
#[derive(Clone, Copy, Debug, Default)]
pub struct Written {
    /// Files.
    pub files: u64,
    /// Spans in them.
    pub spans: u64,
    /// Bytes of text.
    pub text: u64,
    /// Bytes on disk.
    pub disk: u64,
}

/// The place of one kind of content (`fallback`, `journal`) in the directory of a process that has ended: the next
/// exporter on the state directory takes it over.
#[must_use]
pub fn of_ended_process(state: &Path, content: &str) -> PathBuf {
    state.join("00000000000000aa").join(content)
}

/// The directories of fallback files in a state directory, one of each process that has made some.
///
/// # Errors
///
/// When the state directory cannot be read.
pub fn fallback_dirs(state: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(state)? {
        let files = entry?.path().join("fallback");
        if files.is_dir() {
            found.push(files);
        }
    }
    Ok(found)
}

/// Writes files of `text` bytes of lines together, or a few more, the way the exporter does.
///
/// # Errors
///
/// When the disk will not have them.
pub fn write(dir: &Path, text: u64, compression: Compression) -> Result<Written, Failure> {
    let config = Config::builder(dir).with_compression(compression).with_max_bytes(u64::MAX).build()?;
    let mut store = FileFallback::open(config)?;
    let mut written = Written::default();
    let lines = file_of_lines(BATCH)?;
    let (file_text, file_spans) =
        lines.iter().fold((0, 0), |(text, spans), line| (text + line.bytes.len() as u64, spans + line.count as u64));
    while written.text < text {
        let spilled = store.spill(&lines, now())?;
        if !spilled.evicted.is_empty() {
            return Err("files were removed to make room for others".into());
        }
        written.files += 1;
        written.spans += file_spans;
        written.text += file_text;
        written.disk += spilled.bytes;
    }
    Ok(written)
}

/// Writes so many usual spans the way the exporter does, `record` of them in each batch.
///
/// # Errors
///
/// When the disk will not have them.
pub fn write_records(dir: &Path, spans: u64, record: usize, compression: Compression) -> Result<Written, Failure> {
    let mut store = FileFallback::open(Config::builder(dir).with_compression(compression).build()?)?;
    let lines = file_of_lines(record)?;
    let mut written = Written::default();
    while written.spans < spans {
        let spilled = store.spill(&lines, now())?;
        written.files += 1;
        written.spans += lines.iter().map(|line| line.count as u64).sum::<u64>();
        written.text += lines.iter().map(|line| line.bytes.len() as u64).sum::<u64>();
        written.disk += spilled.bytes;
    }
    Ok(written)
}

/// Writes exactly `files` files, the plain text of `spans` spans each, by the exporter's names. The first one is
/// written by the exporter's writer, the others are copies of it, not synced: ten thousand real spills would take
/// minutes.
///
/// # Errors
///
/// When the disk will not have them.
pub fn copies(dir: &Path, files: u64, spans: usize) -> Result<Written, Failure> {
    let config = Config::builder(dir).with_compression(Compression::Never).build()?;
    let first = FileFallback::open(config)?.spill(&lines_of(&app::finished_spans(spans))?, now())?;
    let text = std::fs::read(dir.join(&first.name))?;
    let (before, after) = first.name.split_once("-00000001-").ok_or("the first file of a directory is number 1")?;
    for number in 2..=files {
        std::fs::write(dir.join(format!("{before}-{number:08}-{after}")), &text)?;
    }
    let bytes = files * text.len() as u64;
    Ok(Written { files, spans: files * first.count, text: bytes, disk: bytes })
}

/// Fills a journal with about `bytes` of batches that wait, synced.
///
/// # Errors
///
/// When the disk will not have them.
pub fn journal(dir: &Path, bytes: u64) -> Result<Written, Failure> {
    let body = payload(&app::finished_spans(BATCH));
    let dir = SafeDir::open(dir)?;
    let (mut journal, _) = Journal::open(dir, journal::Config::default(), 0x5eed, |_| Ok(false))?;
    let mut written = Written::default();
    while written.disk < bytes {
        let id = (journal.incarnation(), written.spans);
        journal.append(id, BATCH as u32, body.bytes())?;
        written.spans += BATCH as u64;
        written.disk = journal.status().bytes;
    }
    journal.sync()?;
    written.files = journal.status().segments as u64;
    Ok(written)
}

/// The encoded request of the usual spans.
#[must_use]
pub fn payload(spans: &[SpanData]) -> Payload {
    Encoder::new(&contender::resource()).encode(BatchId { incarnation: 1, seq: 0 }, UNIX_EPOCH, spans)
}

fn file_of_lines(record: usize) -> Result<Vec<Record>, Failure> {
    let mut lines = Vec::new();
    let mut bytes = 0;
    while bytes < FILE_BYTES {
        let batch = lines_of(&app::finished_spans(record))?;
        bytes += batch.iter().map(|line| line.bytes.len()).sum::<usize>();
        lines.extend(batch);
    }
    Ok(lines)
}

fn lines_of(spans: &[SpanData]) -> Result<Vec<Record>, Failure> {
    let lines = json::to_lines(payload(spans).bytes(), LINE_BYTES)?;
    Ok(lines.into_iter().map(|line| Record { bytes: line.text, count: line.items }).collect())
}

/// A collector that is always there and takes everything at once.
#[derive(Debug)]
pub struct Takes;

#[async_trait]
impl Transport for Takes {
    async fn send(&self, _: &Payload) -> Outcome {
        Outcome::Delivered { rejected: 0, message: None }
    }

    fn endpoint(&self) -> &str {
        "nowhere"
    }
}

/// A collector that never answers.
#[derive(Debug)]
pub struct Silent;

#[async_trait]
impl Transport for Silent {
    async fn send(&self, _: &Payload) -> Outcome {
        std::future::pending().await
    }

    fn endpoint(&self) -> &str {
        "nowhere"
    }
}

/// Now, by the monotonic clock's own idea of the wall: files are named and aged by it.
fn now() -> SystemTime {
    #[expect(clippy::disallowed_methods, reason = "files of a real start have real ages")]
    SystemTime::now()
}

/// The memory of this process, as the operating system reports it.
#[derive(Clone, Copy, Debug)]
pub struct Resident {
    /// Bytes resident now.
    pub now: u64,
    /// The most there ever were.
    pub peak: u64,
}

impl Resident {
    /// Asks it, on Linux.
    ///
    /// # Errors
    ///
    /// Where there is no `/proc/self/status`.
    pub fn read() -> Result<Self, Failure> {
        let status = std::fs::read_to_string("/proc/self/status")?;
        let bytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let kib = line.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
            kib.map(|kib| kib * 1_024).ok_or_else(|| format!("/proc/self/status has no {name}"))
        };
        Ok(Self { now: bytes("VmRSS")?, peak: bytes("VmHWM")? })
    }
}

/// The longest that a program of the lane may wait for the exporter.
pub const PATIENCE: Duration = Duration::from_secs(300);
