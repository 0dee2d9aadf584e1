//! An exporter that writes files and sends nothing.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use file_fallback::{Config, FileFallback, Record, SpillError};
use opentelemetry::Context;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use otlp_payload::{BatchId, Encoder, Signal};
use otlp_transport::ErrorChain;

use crate::locks::{Condvar, Mutex};
use crate::report::log;
use crate::seams::clock::{Clock as _, SystemClock};
use crate::seams::settings::Files;
use crate::shell::process::Process;
use crate::shell::signals;
use crate::stores::records::MAX_RECORD_BYTES;

/// While the disk takes no file, this many times [`FileSpanExporterBuilder::with_rotate_bytes`] stay in memory.
const KEPT_FILES: usize = 4;

/// How often limits on age are looked at.
const CLEAN_UP_EVERY: Duration = Duration::from_secs(60);

/// A disk that took no file is tried again after this time, or after that of
/// [`FileSpanExporterBuilder::with_rotate_after`] if it is longer, and by the next call of `export` that fills a file.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// A span exporter that writes OTLP JSON Lines files, for programs without a collector: on an edge device, in a test,
/// as a record of what a program did. It sends nothing and reads nothing back.
///
/// The files are those of the fallback of [`ResilientSpanExporter`](crate::ResilientSpanExporter): a name with time,
/// number and spans, one `TracesData` a line, compressed when large, mode 0600 in a directory of mode 0700, published
/// whole and synced. `jq`, `zstd -d` and the Collector's `otlpjsonfile` receiver read them (that one plain and gzip).
/// Above the limits on bytes, age and free disk space the oldest are removed.
///
/// Spans wait in memory until [`with_rotate_bytes`](FileSpanExporterBuilder::with_rotate_bytes) of text are there, for
/// [`with_rotate_after`](FileSpanExporterBuilder::with_rotate_after) at most; the end of the process loses them unless
/// the provider is flushed or shut down. `export` writes the file, so the thread of the processor waits for the disk. A
/// disk that takes no file keeps up to four files' worth in memory; then the oldest spans are dropped and counted. A
/// directory that was removed is made again.
///
/// One process uses a directory. A child made by `fork` is refused.
///
/// ```
/// use opentelemetry::trace::{Tracer as _, TracerProvider as _};
/// use opentelemetry_sdk::trace::SdkTracerProvider;
/// use resilient_exporter::FileSpanExporter;
///
/// # let scratch = tempfile::tempdir()?;
/// # let dir = scratch.path().join("traces");
/// let exporter = FileSpanExporter::builder(&dir).files(|files| files.max_bytes = 100 << 20).build()?;
/// let files = exporter.handle();
/// let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).build();
/// provider.tracer("shop").in_span("checkout", |_| ());
/// provider.shutdown()?;
/// assert_eq!((files.counts().written, files.counts().files), (1, 1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct FileSpanExporter {
    writer: Arc<Writer>,
    encoder: Encoder,
}

/// Settings of a [`FileSpanExporter`].
#[must_use = "nothing is built before `build`"]
#[derive(Clone, Debug)]
pub struct FileSpanExporterBuilder {
    dir: PathBuf,
    files: Files,
    free_space_reserve: u64,
    rotate_bytes: usize,
    rotate_after: Duration,
}

/// Why a [`FileSpanExporter`] was not built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileExporterError {
    /// A setting is out of range.
    #[error("files of spans in {}: a setting is out of range", dir.display())]
    Settings {
        /// The directory.
        dir: PathBuf,
        /// Which one, and its range.
        #[source]
        source: file_fallback::InvalidConfig,
    },
    /// The directory cannot be used, or another process uses it.
    #[error("the directory {} takes no files of spans: choose one of this process's own", dir.display())]
    Open {
        /// The directory.
        dir: PathBuf,
        /// The cause.
        #[source]
        source: file_fallback::OpenError,
    },
    /// The system refused the thread that writes files whose time is over.
    #[error("the thread of the files of spans could not be started")]
    Thread(#[source] io::Error),
}

/// A view of a [`FileSpanExporter`] that stays when the SDK owns it.
#[derive(Clone)]
pub struct FilesHandle {
    writer: Arc<Writer>,
}

/// The spans of a [`FileSpanExporter`], and its files. `offered = written + dropped + waiting`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileCounts {
    /// Spans handed to `export`.
    pub offered: u64,
    /// Spans in files, those that the limits have removed since included.
    pub written: u64,
    /// Spans that no file took: the disk failed for too long, a span alone is larger than a line may be (64 MiB), or a
    /// line, which has up to 1 MB, is larger than all files may be.
    pub dropped: u64,
    /// Spans in memory.
    pub waiting: u64,
    /// Files written.
    pub files: u64,
    /// Spans of files that were removed by the limits.
    pub removed: u64,
}

struct Writer {
    process: Process,
    config: Config,
    rotate_bytes: usize,
    rotate_after: Duration,
    files: Files,
    state: Mutex<State>,
    /// Wakes the thread.
    changed: Condvar,
}

struct State {
    /// None after the shutdown.
    store: Option<FileFallback>,
    waiting: Vec<Record>,
    bytes: usize,
    /// When the first of them came, or when the disk is tried again.
    since: Option<Instant>,
    /// The disk took no file.
    has_failed: bool,
    counts: FileCounts,
}

impl FileSpanExporter {
    /// Begins with the defaults, for files in `dir`, which is made with mode 0700.
    pub fn builder(dir: impl Into<PathBuf>) -> FileSpanExporterBuilder {
        FileSpanExporterBuilder {
            dir: dir.into(),
            files: Files::default(),
            free_space_reserve: 64 << 20,
            rotate_bytes: 4 << 20,
            rotate_after: Duration::from_secs(10),
        }
    }

    /// A view that stays when the SDK owns the exporter.
    #[must_use]
    pub fn handle(&self) -> FilesHandle {
        FilesHandle { writer: Arc::clone(&self.writer) }
    }
}

impl FileSpanExporterBuilder {
    /// Changes the limits and the form of the files. [`Files::enabled`] and [`Files::dir`] have no effect.
    pub fn files(mut self, change: impl FnOnce(&mut Files)) -> Self {
        change(&mut self.files);
        self
    }

    /// Sets the bytes of the volume that the files leave free, but no more than a tenth of the volume. Default: 64 MiB.
    pub fn with_free_space_reserve(mut self, bytes: u64) -> Self {
        self.free_space_reserve = bytes;
        self
    }

    /// Sets the bytes of text, before compression, after which a file is written. Default: 4 MiB.
    pub fn with_rotate_bytes(mut self, bytes: usize) -> Self {
        self.rotate_bytes = bytes;
        self
    }

    /// Sets the longest stay of a span in memory. Default: 10 s. Zero writes a file for each batch.
    pub fn with_rotate_after(mut self, time: Duration) -> Self {
        self.rotate_after = time;
        self
    }

    /// Opens the directory and starts the thread that writes files whose time is over.
    ///
    /// # Errors
    /// [`FileExporterError`] names the directory, and the setting or the cause.
    pub fn build(self) -> Result<FileSpanExporter, FileExporterError> {
        let Self { dir, files, free_space_reserve, rotate_bytes, rotate_after } = self;
        let config = Config::builder(&dir)
            .with_signal(Signal::Traces.as_str())
            .with_free_space_reserve(free_space_reserve)
            .with_max_bytes(files.max_bytes)
            .with_max_age(files.max_age)
            .with_format(files.format.of_files())
            .with_compression(files.compression)
            .with_compress_above(files.compress_above)
            .with_max_record_bytes(MAX_RECORD_BYTES)
            .build()
            .map_err(|source| FileExporterError::Settings { dir: dir.clone(), source })?;
        let mut store = FileFallback::open(config.clone())
            .map_err(|source| FileExporterError::Open { dir: dir.clone(), source })?;
        let removed = store.clean_up(SystemClock.wall()).iter().map(|evicted| evicted.count).sum();
        let counts = FileCounts { removed, ..FileCounts::default() };
        let state = State { store: Some(store), waiting: Vec::new(), bytes: 0, since: None, has_failed: false, counts };
        let writer = Arc::new(Writer {
            process: Process::current(),
            config,
            rotate_bytes,
            rotate_after,
            files,
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        // The thread keeps the signal blocked.
        let _blocked = signals::Blocked::new();
        let of_thread = Arc::clone(&writer);
        let thread = std::thread::Builder::new().name("holdfast-files".to_owned());
        thread.spawn(move || of_thread.run()).map_err(FileExporterError::Thread)?;
        let encoder = Encoder::new(&Resource::builder_empty().build());
        Ok(FileSpanExporter { writer, encoder })
    }
}

impl FilesHandle {
    /// The numbers of one instant.
    #[must_use]
    pub fn counts(&self) -> FileCounts {
        if self.writer.process.forked().is_some() {
            return FileCounts::default();
        }
        self.writer.state.lock().counts
    }
}

impl Writer {
    /// Writes files whose time is over, until the shutdown.
    fn run(&self) {
        let _suppressed = Context::enter_telemetry_suppressed_scope();
        let mut state = self.state.lock();
        while state.store.is_some() {
            let wait = match state.since {
                Some(since) => {
                    let least = if state.has_failed { TRY_AGAIN_AFTER } else { Duration::ZERO };
                    let passed = SystemClock.now().saturating_duration_since(since);
                    self.rotate_after.max(least).saturating_sub(passed)
                }
                None => CLEAN_UP_EVERY,
            };
            let had_failed = state.has_failed;
            let result = if wait.is_zero() { self.publish(&mut state) } else { Ok(()) };
            // No caller learns of it here. A disk that goes on failing is one line.
            let error = result.err().filter(|_| !had_failed);
            if let Some(store) = &mut state.store {
                let removed = store.clean_up(SystemClock.wall()).iter().map(|evicted| evicted.count).sum::<u64>();
                let notices = store.take_notices();
                state.counts.removed += removed;
                if error.is_some() || !notices.is_empty() {
                    // A log subscriber may ask for the counts.
                    drop(state);
                    error.iter().for_each(|error| log::warn_contained!(%error, "files of spans"));
                    notices.iter().for_each(|notice| log::info_contained!(?notice, "files of spans"));
                    state = self.state.lock();
                    continue;
                }
            }
            if !wait.is_zero() {
                self.changed.wait_for(&mut state, wait.min(CLEAN_UP_EVERY));
            }
        }
    }

    /// Adds the records of a batch, and writes a file if there are enough.
    fn add(&self, records: Vec<Record>, spans: usize) -> OTelSdkResult {
        let mut state = self.state.lock();
        if state.store.is_none() {
            return Err(OTelSdkError::AlreadyShutdown);
        }
        state.counts.offered += spans as u64;
        state.counts.waiting += spans as u64;
        state.bytes += records.iter().map(|record| record.bytes.len()).sum::<usize>();
        state.waiting.extend(records);
        if state.since.is_none() {
            state.since = Some(SystemClock.now());
            self.changed.notify_all();
        }
        if state.bytes < self.rotate_bytes && !self.rotate_after.is_zero() {
            return Ok(());
        }
        let waited = state.since.map(|since| SystemClock.now().saturating_duration_since(since));
        if state.has_failed && waited.is_some_and(|waited| waited < TRY_AGAIN_AFTER) {
            // Each attempt compresses all that waits.
            let dropped = self.drop_oldest(&mut state);
            let waiting = state.counts.waiting;
            return Err(failure(format!(
                "{waiting} spans wait in memory, {dropped} were dropped: no file took any within the last second"
            )));
        }
        self.publish(&mut state)
    }

    fn flush(&self) -> OTelSdkResult {
        self.publish(&mut self.state.lock())
    }

    /// Writes all that waits into one file, or into several where one would be larger than all files may be.
    fn publish(&self, state: &mut State) -> OTelSdkResult {
        let Some(store) = &mut state.store else { return Ok(()) };
        // The thread may be the application's.
        let _blocked = signals::Blocked::new();
        let (mut too_large, mut most_records, mut was_opened) = (0, usize::MAX, false);
        let result = loop {
            let records = state.waiting.len().min(most_records);
            if records == 0 {
                break Ok(());
            }
            match store.spill(&state.waiting[..records], SystemClock.wall()) {
                Ok(spilled) => {
                    state.counts.files += 1;
                    state.counts.written += spilled.count;
                    state.counts.removed += spilled.evicted.iter().map(|evicted| evicted.count).sum::<u64>();
                    state.waiting.drain(..records);
                }
                Err(SpillError::Record { index, .. }) => too_large += state.waiting.remove(index).count as u64,
                Err(SpillError::TooLarge { .. }) if records > 1 => most_records = records / 2,
                Err(SpillError::TooLarge { .. }) => too_large += state.waiting.remove(0).count as u64,
                Err(error) => {
                    state.counts.removed += error.evicted().iter().map(|evicted| evicted.count).sum::<u64>();
                    if was_opened || !error.is_vanished() {
                        break Err(error);
                    }
                    let Ok(opened) = FileFallback::open(self.config.clone()) else { break Err(error) };
                    (*store, was_opened) = (opened, true);
                }
            }
        };
        state.counts.dropped += too_large;
        let dropped = too_large + self.drop_oldest(state);
        state.since = (!state.waiting.is_empty()).then(|| SystemClock.now());
        state.has_failed = result.is_err();
        match result {
            Ok(()) if dropped > 0 => Err(failure(format!(
                "{dropped} spans were dropped: their line is larger than one may be ({MAX_RECORD_BYTES} bytes), or \
                 than all files may be ({} bytes)",
                self.files.max_bytes
            ))),
            Ok(()) => Ok(()),
            Err(error) => {
                let (cause, waiting) = (ErrorChain(&error), state.counts.waiting);
                Err(failure(format!(
                    "{waiting} spans wait in memory, {dropped} were dropped, since no file took them: {cause}"
                )))
            }
        }
    }

    /// Drops the oldest spans above the memory that a failing disk may take, and counts all. Returns the dropped ones.
    fn drop_oldest(&self, state: &mut State) -> u64 {
        let most = self.rotate_bytes.saturating_mul(KEPT_FILES);
        let bytes = |waiting: &[Record]| waiting.iter().map(|record| record.bytes.len()).sum::<usize>();
        let mut dropped = 0;
        while bytes(&state.waiting) > most && !state.waiting.is_empty() {
            dropped += state.waiting.remove(0).count as u64;
        }
        state.bytes = bytes(&state.waiting);
        state.counts.dropped += dropped;
        state.counts.waiting = state.waiting.iter().map(|record| record.count as u64).sum();
        dropped
    }

    fn end(&self) -> OTelSdkResult {
        let mut state = self.state.lock();
        if state.store.is_none() {
            return Err(OTelSdkError::AlreadyShutdown);
        }
        let result = self.publish(&mut state);
        let State { waiting, counts, store, .. } = &mut *state;
        counts.dropped += std::mem::take(&mut counts.waiting);
        waiting.clear();
        // The next process may use the directory.
        *store = None;
        self.changed.notify_all();
        result
    }
}

fn failure(text: String) -> OTelSdkError {
    OTelSdkError::InternalFailure(text)
}

impl SpanExporter for FileSpanExporter {
    fn export(&self, batch: Vec<SpanData>) -> impl Future<Output = OTelSdkResult> + Send {
        let export = || {
            if let Some(forked) = self.writer.process.refuse(batch.len()) {
                return Err(failure(forked.to_string()));
            }
            if batch.is_empty() {
                return Ok(());
            }
            // A file names no batch.
            let payload = self.encoder.encode(BatchId { incarnation: 0, seq: 0 }, SystemTime::UNIX_EPOCH, &batch);
            let records = self.writer.files.format.records(&payload);
            // Bytes of our own encoder are well formed.
            let records = records.map_err(|error| failure(format!("encoding failed: please report this: {error}")))?;
            self.writer.add(records, batch.len())
        };
        std::future::ready(export())
    }

    /// Writes the spans in memory, and gives the directory back. `timeout` has no effect: the disk decides.
    ///
    /// # Errors
    /// The spans that no file took, and the cause.
    fn shutdown_with_timeout(&self, _timeout: Duration) -> OTelSdkResult {
        match self.writer.process.forked() {
            Some(forked) => Err(failure(forked.to_string())),
            None => self.writer.end(),
        }
    }

    /// Writes the spans in memory.
    ///
    /// # Errors
    /// As `shutdown`.
    fn force_flush(&self) -> OTelSdkResult {
        match self.writer.process.forked() {
            Some(forked) => Err(failure(forked.to_string())),
            None => self.writer.flush(),
        }
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.encoder = Encoder::new(resource);
    }
}

impl Drop for FileSpanExporter {
    fn drop(&mut self) {
        if self.writer.process.forked().is_none() {
            // After a shutdown nothing is left to do.
            let _ = self.writer.end();
        }
    }
}

impl fmt::Debug for FileSpanExporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileSpanExporter").field("files", &self.writer.files).finish_non_exhaustive()
    }
}

impl fmt::Debug for FilesHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FilesHandle").finish_non_exhaustive()
    }
}
