//! Fallback files of OTLP JSON lines: where `file-fallback`, which knows lines, meets `otlp-payload`, which knows spans.

use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use file_fallback::{Compression, Config, Evicted, FileFallback, Line, Notice, Reason, SettleError, Verdict};
use otlp_payload::{Payload, json};

use crate::error::BuildError;
use crate::fallback::{Change, Fallback, FallbackError, Kept, Stored};
use crate::ledger::DropReason;
use crate::replay::Fate;

/// Lines stay below this, since the Collector silently skips longer ones (its `max_log_size` is 1 MiB).
const LINE_BYTES: usize = 1_000_000;

/// A single span that is longer than that is kept all the same, up to here.
const MAX_LINE_BYTES: usize = 64 * 1_024 * 1_024;

pub(crate) struct Settings {
    pub(crate) max_bytes: u64,
    pub(crate) max_age: Duration,
    pub(crate) compression: Compression,
    pub(crate) compress_above: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_bytes: 1_024 * 1_024 * 1_024,
            max_age: Duration::from_secs(7 * 24 * 3_600),
            compression: Compression::Zstd,
            compress_above: 64 * 1_024,
        }
    }
}

/// What a line of the group that was read last came to.
enum LineState {
    /// It is batch number so of what `read` returned.
    Batch,
    /// It holds no span.
    Empty,
    /// It is no OTLP JSON.
    Garbage,
}

pub(crate) struct FileStore {
    files: FileFallback,
    reading: Option<(file_fallback::Group, Vec<LineState>)>,
    changes: Vec<Change>,
}

impl FileStore {
    pub(crate) fn open(dir: PathBuf, settings: &Settings) -> Result<Self, BuildError> {
        let config = Config::builder(dir)
            .with_signal("traces")
            .with_max_bytes(settings.max_bytes)
            .with_max_age(settings.max_age)
            .with_compression(settings.compression)
            .with_compress_above(settings.compress_above)
            .with_max_line_bytes(MAX_LINE_BYTES)
            .build()
            .map_err(BuildError::FallbackSettings)?;
        let mut store = Self {
            files: FileFallback::open(config).map_err(BuildError::Fallback)?,
            reading: None,
            changes: Vec::new(),
        };
        // What was found while opening is in the first count already.
        store.log_notices();
        Ok(store)
    }

    fn log_notices(&mut self) -> Vec<Notice> {
        let notices = self.files.take_notices();
        for notice in &notices {
            match notice {
                Notice::SetAside { name, moved_to, damage, count, .. } => {
                    let (damage, moved_to) = (damage.as_str(), moved_to.as_deref().unwrap_or("not moved"));
                    tracing::warn!(name, damage, moved_to, count, "a fallback file was set aside");
                }
                Notice::Missing { name, count } => {
                    tracing::warn!(name, count, "a fallback file held fewer spans than its name says");
                }
                Notice::Vanished { name, count } => tracing::warn!(name, count, "a fallback file was taken away"),
                other => tracing::info!(notice = ?other, "fallback files"),
            }
        }
        notices
    }

    fn note(&mut self) {
        for notice in self.log_notices() {
            let change = match notice {
                Notice::SetAside { count, .. } | Notice::Missing { count, .. } => {
                    Change::Dropped { spans: count, reason: DropReason::Corrupt }
                }
                Notice::Vanished { count, .. } => Change::TakenOver { spans: count },
                Notice::Adopted { count, .. } => Change::Recovered { spans: count },
                _ => continue,
            };
            self.changes.push(change);
        }
    }

    fn evicted(&mut self, evicted: &[Evicted]) {
        self.changes.extend(evicted.iter().map(|file| Change::Dropped {
            spans: file.count,
            reason: match file.reason {
                Reason::MaxAge => DropReason::FallbackAge,
                _ => DropReason::FallbackFull,
            },
        }));
    }

    /// Tells the files what became of the lines of a group.
    fn settle(
        &mut self,
        group: file_fallback::Group,
        lines: &[LineState],
        fates: &[Fate],
    ) -> Result<(), FallbackError> {
        let mut fates = fates.iter();
        let verdicts = lines.iter().map(|line| match line {
            LineState::Empty => Verdict::Done(0),
            LineState::Garbage => Verdict::Rejected,
            LineState::Batch => match fates.next() {
                Some(Fate::Finished { delivered, rejected, refused }) => {
                    let refused = refused.iter().map(|refusal| refusal.payload.span_count()).sum::<usize>();
                    Verdict::Done((delivered + rejected + refused) as u64)
                }
                Some(Fate::Kept) | None => Verdict::Keep,
            },
        });
        let verdicts = verdicts.collect::<Vec<_>>();
        let result = self.files.settle(group, &verdicts);
        if let Ok(settled) | Err(SettleError::NotDurable { settled, .. }) = &result
            && settled.surplus > 0
        {
            self.changes.push(Change::Recovered { spans: settled.surplus });
        }
        self.note();
        result.map(drop).map_err(told)
    }
}

impl Fallback for FileStore {
    fn kept(&self) -> Kept {
        let stored = self.files.stored();
        Kept { files: stored.files, spans: stored.count, bytes: stored.bytes }
    }

    fn keep(&mut self, batches: &[Payload], now: SystemTime) -> Result<Stored, FallbackError> {
        let mut lines = Vec::new();
        for batch in batches {
            let of_batch = json::to_lines(batch.bytes(), LINE_BYTES).map_err(FallbackError::new)?;
            lines.extend(of_batch.into_iter().map(|line| Line { text: line.text, count: line.spans }));
        }
        let result = self.files.spill(&lines, now);
        match &result {
            Ok(spilled) => self.evicted(&spilled.evicted),
            Err(error) => self.evicted(error.evicted()),
        }
        self.note();
        result.map(|spilled| Stored { name: spilled.name }).map_err(told)
    }

    fn read(&mut self, max_bytes: usize) -> Result<Vec<(Bytes, usize)>, FallbackError> {
        loop {
            let group = self.files.next_group(max_bytes);
            self.note();
            let Some(group) = group.map_err(told)? else { return Ok(Vec::new()) };
            let mut batches = Vec::new();
            let lines = group.lines.iter().map(|line| match json::from_line_within(line, MAX_LINE_BYTES) {
                Ok((_, 0)) => LineState::Empty,
                Ok(batch) => {
                    batches.push(batch);
                    LineState::Batch
                }
                Err(error) => {
                    let (file, error) = (group.file(), error.to_string());
                    tracing::warn!(file, error, "a line of a fallback file is no OTLP JSON; it is set aside");
                    LineState::Garbage
                }
            });
            let lines = lines.collect::<Vec<_>>();
            if !batches.is_empty() {
                self.reading = Some((group, lines));
                return Ok(batches);
            }
            self.settle(group, &lines, &[])?;
        }
    }

    fn finish(&mut self, fates: &[Fate]) -> Result<(), FallbackError> {
        match self.reading.take() {
            Some((group, lines)) => self.settle(group, &lines, fates),
            None => Ok(()),
        }
    }

    fn clean_up(&mut self, now: SystemTime) {
        let evicted = self.files.clean_up(now);
        self.evicted(&evicted);
        self.note();
    }

    fn changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }
}

/// The whole story in one line: `health` shows it to a person.
fn told(error: impl Error + Send + Sync + 'static) -> FallbackError {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    FallbackError::new(text)
}
