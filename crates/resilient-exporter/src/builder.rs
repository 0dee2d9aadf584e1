//! Settings, checked once.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ::journal::{self, SyncPolicy};
use backoff::{Exponential, Jitter};
use breaker::{ConfigBuilder, Machine};
use file_fallback::Compression;
use opentelemetry_sdk::trace::SpanExporter;
use otlp_transport::{ExporterTransport, Transport};
use rand::{RngExt as _, SeedableRng as _};
use span_buffer::Limits;

use crate::core::{Core, Endpoint, Policy};
use crate::error::BuildError;
use crate::exporter::ResilientSpanExporter;
use crate::seams::backoff::Backoff;
use crate::seams::clock::{Clock, SystemClock};
use crate::seams::fallback::Fallback;
use crate::seams::journal::Journal;
use crate::shell::commit::Committer;
use crate::shell::shared::{Parts, Shared};
use crate::shell::{disk, net};
use crate::stores::files::{FileStore, Settings};
use crate::stores::none::NoFallback;
use crate::stores::records::FallbackFormat;

mod durable;

/// Requests stay below 4 MiB, which many collectors refuse to exceed, with room for the frame around them: the same as
/// the transports' own limit.
pub const DEFAULT_REQUEST_MAX_BYTES: usize = 4 * 1_024 * 1_024 - 64 * 1_024;

/// What a span is sent by: see [`Builder::with_primary`].
pub trait IntoPrimary<Kind> {
    /// As a transport.
    fn into_primary(self) -> Arc<dyn Transport>;
}

/// Marks a [`Transport`] as primary.
#[derive(Debug)]
pub enum ByTransport {}

/// Marks a [`SpanExporter`] as primary.
#[derive(Debug)]
pub enum ByExporter {}

impl<T: Transport> IntoPrimary<ByTransport> for T {
    fn into_primary(self) -> Arc<dyn Transport> {
        Arc::new(self)
    }
}

impl<E: SpanExporter + 'static> IntoPrimary<ByExporter> for E {
    fn into_primary(self) -> Arc<dyn Transport> {
        Arc::new(ExporterTransport::new(self))
    }
}

/// Settings of a [`ResilientSpanExporter`], each with its default; [`build`](Self::build) checks them all.
pub struct Builder {
    primary: Option<Arc<dyn Transport>>,
    fallback_enabled: bool,
    fallback: Option<Box<dyn Fallback>>,
    state_dir: Option<PathBuf>,
    fallback_dir: Option<PathBuf>,
    journal_enabled: bool,
    journal: Option<Box<dyn Journal>>,
    journal_config: journal::Config,
    journal_sync: SyncPolicy,
    journal_sync_timeout: Duration,
    files: Settings,
    limits: Limits,
    failure_threshold: u32,
    open_duration: Duration,
    half_open_probes: u32,
    half_open_successes: u32,
    breaker: Option<ConfigBuilder>,
    max_retries: u32,
    initial_delay: Duration,
    multiplier: f64,
    max_delay: Duration,
    jitter: f64,
    backoff: Option<Box<dyn Backoff>>,
    request_max_bytes: usize,
    attempt_timeout: Duration,
    replay_rate: Option<NonZeroU32>,
    clock: Arc<dyn Clock>,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            primary: None,
            fallback_enabled: true,
            fallback: None,
            state_dir: None,
            fallback_dir: None,
            journal_enabled: false,
            journal: None,
            journal_config: journal::Config::default(),
            journal_sync: SyncPolicy::default(),
            journal_sync_timeout: Duration::from_millis(100),
            files: Settings::default(),
            limits: Limits { max_count: 10_000, max_bytes: 10 * 1_024 * 1_024, max_age: Duration::from_secs(300) },
            failure_threshold: 5,
            open_duration: Duration::from_secs(60),
            half_open_probes: 1,
            half_open_successes: 1,
            breaker: None,
            max_retries: 5,
            initial_delay: Duration::from_secs(1),
            multiplier: 2.0,
            max_delay: Duration::from_secs(20),
            jitter: 0.25,
            backoff: None,
            request_max_bytes: DEFAULT_REQUEST_MAX_BYTES,
            attempt_timeout: Duration::from_secs(60),
            replay_rate: None,
            clock: Arc::new(SystemClock),
        }
    }
}

impl Builder {
    /// What sends: a [`Transport`], or any [`SpanExporter`]. A foreign exporter works through an adapter that is blind:
    /// its errors say nothing of themselves, so every one is tried again, and partial success is invisible. Build it
    /// with its own retries disabled. Required.
    ///
    /// # Panics
    /// With an exporter, if the system gives no thread for it.
    #[must_use]
    pub fn with_primary<Kind>(mut self, primary: impl IntoPrimary<Kind>) -> Self {
        self.primary = Some(primary.into_primary());
        self
    }

    /// Whether batches that memory cannot keep go to files; true by default. Without a directory (see
    /// [`with_state_dir`](Self::with_state_dir)) spans stay in memory only, and health says so.
    #[must_use]
    pub fn with_fallback_enabled(mut self, enabled: bool) -> Self {
        self.fallback_enabled = enabled;
        self
    }

    /// A store of your own in place of files.
    #[must_use]
    pub fn with_fallback(mut self, fallback: impl Fallback) -> Self {
        self.fallback = Some(Box::new(fallback));
        self
    }

    /// Fallback files live below it, in `fallback`; created with mode 0700 if it is missing. None by default: there is
    /// no directory that suits every program.
    #[must_use]
    pub fn with_state_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.state_dir = Some(dir.into());
        self
    }

    /// Fallback files live here; `fallback` below the state directory by default.
    #[must_use]
    pub fn with_fallback_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.fallback_dir = Some(dir.into());
        self
    }

    /// Spans that wait in memory, at most; 10,000 by default.
    #[must_use]
    pub fn with_buffer_size(mut self, spans: usize) -> Self {
        self.limits.max_count = spans;
        self
    }

    /// Encoded bytes that wait in memory, at most; 10 MiB by default, about 15,000 usual spans.
    #[must_use]
    pub fn with_buffer_max_bytes(mut self, bytes: usize) -> Self {
        self.limits.max_bytes = bytes;
        self
    }

    /// How long a batch waits in memory before it goes to a file, or, without a fallback, is dropped; 5 minutes by default.
    #[must_use]
    pub fn with_buffer_max_age(mut self, age: Duration) -> Self {
        self.limits.max_age = age;
        self
    }

    /// Failures in a row that open the circuit breaker: the fifth by default.
    #[must_use]
    pub fn with_circuit_breaker_threshold(mut self, failures: u32) -> Self {
        self.failure_threshold = failures;
        self
    }

    /// How long the breaker stays open before a probe goes out, up to 10 % more so that a fleet does not probe in step;
    /// 60 s by default.
    #[must_use]
    pub fn with_circuit_breaker_timeout(mut self, timeout: Duration) -> Self {
        self.open_duration = timeout;
        self
    }

    /// Probes at a time while the breaker is half-open; 1 by default.
    #[must_use]
    pub fn with_half_open_probes(mut self, probes: u32) -> Self {
        self.half_open_probes = probes;
        self
    }

    /// Successful probes that close the breaker; 1 by default.
    #[must_use]
    pub fn with_half_open_successes(mut self, successes: u32) -> Self {
        self.half_open_successes = successes;
        self
    }

    /// Settings of the circuit breaker of your own, with a trip policy of your own; checked by `build`, which seeds its
    /// jitter. The four settings above do not apply then.
    #[must_use]
    pub fn with_circuit_breaker(mut self, breaker: ConfigBuilder) -> Self {
        self.breaker = Some(breaker);
        self
    }

    /// Retries that a batch gets before it goes to a file; 5 by default, so 6 calls. Only calls made while the breaker is
    /// closed count. Without a fallback a batch stays in memory until the limits remove it.
    #[must_use]
    pub fn with_retry_max_retries(mut self, retries: u32) -> Self {
        self.max_retries = retries;
        self
    }

    /// The wait after a first failure; 1 s by default.
    #[must_use]
    pub fn with_retry_initial_delay(mut self, delay: Duration) -> Self {
        self.initial_delay = delay;
        self
    }

    /// How much longer each further wait is; 2 by default.
    #[must_use]
    pub fn with_retry_multiplier(mut self, multiplier: f64) -> Self {
        self.multiplier = multiplier;
        self
    }

    /// The longest wait, jitter included; 20 s by default.
    #[must_use]
    pub fn with_retry_max_delay(mut self, delay: Duration) -> Self {
        self.max_delay = delay;
        self
    }

    /// How far a wait may lie from its nominal length, as a part of it: 0 to 1; 0.25 by default.
    #[must_use]
    pub fn with_retry_jitter(mut self, part: f64) -> Self {
        self.jitter = part;
        self
    }

    /// A backoff policy of your own; the four settings above do not apply then.
    #[must_use]
    pub fn with_backoff(mut self, backoff: impl Backoff) -> Self {
        self.backoff = Some(Box::new(backoff));
        self
    }

    /// Bytes of one request, at most; larger batches are split. [`DEFAULT_REQUEST_MAX_BYTES`] by default.
    #[must_use]
    pub fn with_request_max_bytes(mut self, bytes: usize) -> Self {
        self.request_max_bytes = bytes;
        self
    }

    /// A last bound on one attempt, for transports whose own time-out does not hold; 60 s by default.
    #[must_use]
    pub fn with_attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt_timeout = timeout;
        self
    }

    /// Bytes of fallback files on disk, at most; 1 GiB by default.
    #[must_use]
    pub fn with_fallback_max_bytes(mut self, bytes: u64) -> Self {
        self.files.max_bytes = bytes;
        self
    }

    /// How long a fallback file is kept; 7 days by default.
    #[must_use]
    pub fn with_fallback_max_age(mut self, age: Duration) -> Self {
        self.files.max_age = age;
        self
    }

    /// How spans are written to fallback files; OTLP JSON by default. Files of the other format are replayed all the same.
    #[must_use]
    pub fn with_fallback_format(mut self, format: FallbackFormat) -> Self {
        self.files.format = format;
        self
    }

    /// How fallback files are compressed; zstd by default.
    #[must_use]
    pub fn with_fallback_compression(mut self, compression: Compression) -> Self {
        self.files.compression = compression;
        self
    }

    /// Spills that take more bytes than this before compression are compressed; 64 KiB by default.
    #[must_use]
    pub fn with_fallback_compress_above(mut self, bytes: usize) -> Self {
        self.files.compress_above = bytes;
        self
    }

    /// Bytes of dead letters on disk, at most; 64 MiB by default. They live in `dead-letters` below the state directory.
    #[must_use]
    pub fn with_dead_letter_max_bytes(mut self, bytes: u64) -> Self {
        self.files.letters_max_bytes = bytes;
        self
    }

    /// How long a dead letter is kept; 30 days by default.
    #[must_use]
    pub fn with_dead_letter_max_age(mut self, age: Duration) -> Self {
        self.files.letters_max_age = age;
        self
    }

    /// Stored spans that are replayed in a second, at most; unlimited by default.
    #[must_use]
    pub fn with_replay_rate(mut self, spans_per_second: Option<NonZeroU32>) -> Self {
        self.replay_rate = spans_per_second;
        self
    }

    /// Where the time comes from; the system's clocks by default.
    #[must_use]
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Checks every setting, opens the fallback, and starts the threads. Reads no file's content, makes no connection.
    ///
    /// # Errors
    /// [`BuildError`] names the field, the value and what is accepted, or says why the fallback's directory is not safe
    /// to use. Nothing is started then.
    pub fn build(mut self) -> Result<ResilientSpanExporter, BuildError> {
        let Some(transport) = self.primary.take() else { return Err(BuildError::NoPrimary) };
        self.check()?;
        let mut chance = rand::rngs::SmallRng::seed_from_u64(entropy());
        let breaker = self.breaker.take().unwrap_or_else(|| self.breaker_config());
        let breaker = breaker.with_seed(chance.random()).build().map_err(BuildError::CircuitBreaker)?;
        let backoff: Box<dyn Backoff> = match self.backoff.take() {
            Some(backoff) => backoff,
            None => Box::new(self.exponential().map_err(BuildError::Retry)?),
        };
        let mut no_fallback = None;
        let mut fallback: Option<Box<dyn Fallback>> = if self.fallback_enabled {
            match (self.fallback.take(), self.directory()) {
                (Some(fallback), _) => Some(fallback),
                (None, Some((dir, letters))) => Some(Box::new(FileStore::open(dir, letters, &self.files)?)),
                (None, None) => {
                    let why =
                        "fallback is enabled but has no directory: spans wait in memory only; set a state directory";
                    tracing::warn!("{why}");
                    no_fallback = Some(why.to_owned());
                    None
                }
            }
        } else {
            None
        };
        let mut journal = self.open_journal(fallback.as_deref_mut(), chance.random())?;
        let kept = fallback.as_ref().map(|fallback| fallback.kept());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(BuildError::Thread)?;
        let policy = Policy {
            limits: self.limits,
            max_calls: self.max_retries.saturating_add(1),
            request_max_bytes: self.request_max_bytes,
            fallback: fallback.is_some(),
            replay_rate: self.replay_rate,
            incarnation: journal.as_ref().map_or_else(|| chance.random(), |journal| journal.incarnation()),
        };
        let recovered = kept.map_or(0, |kept| kept.spans);
        let endpoint = Endpoint::new(Machine::new(breaker), self.clock.now());
        let mut core = Core::new(policy, endpoint, recovered, chance.random());
        if let Some(journal) = &mut journal {
            core = core.with_journal(journal.found(), self.clock.now());
        }
        let endpoint = transport.endpoint().to_owned();
        let committer = journal.map(|journal| Committer::new(journal, self.journal_sync, self.clock.now()));
        // A journal alone has a disk thread too.
        let fallback = fallback.or_else(|| committer.is_some().then(|| Box::new(NoFallback) as _));
        let usage = fallback.as_ref().map(|_| kept.unwrap_or_default());
        let (clock, journal_timeout) = (self.clock, self.journal_sync_timeout);
        let shared =
            Arc::new(Shared::new(Parts { core, usage, clock, backoff, endpoint, no_fallback, journal_timeout }));
        if let Some(fallback) = fallback {
            let shared = Arc::clone(&shared);
            spawn("holdfast-disk", move || disk::run(&shared, fallback, committer))?;
        }
        let exporter = ResilientSpanExporter::new(Arc::clone(&shared));
        let limit = self.attempt_timeout;
        spawn("holdfast-net", move || net::run(&shared, &transport, runtime, limit))?;
        Ok(exporter)
    }

    /// Where fallback files and dead letters live.
    fn directory(&self) -> Option<(PathBuf, PathBuf)> {
        let state = |name: &str| self.state_dir.as_ref().map(|dir| dir.join(name));
        let fallback = self.fallback_dir.clone().or_else(|| state("fallback"))?;
        let letters = state("dead-letters").unwrap_or_else(|| fallback.join("dead-letters"));
        Some((fallback, letters))
    }

    fn breaker_config(&self) -> ConfigBuilder {
        breaker::Config::builder()
            .with_failure_threshold(self.failure_threshold)
            .with_open_duration(self.open_duration)
            .with_open_jitter(0.1)
            .with_half_open_probes(self.half_open_probes)
            .with_half_open_successes(self.half_open_successes)
            // A probe is not lost while its attempt may still be answered.
            .with_probe_timeout(self.open_duration.max(self.attempt_timeout).min(Duration::from_secs(24 * 3_600)))
    }

    fn exponential(&self) -> Result<Exponential, backoff::InvalidConfig> {
        Exponential::builder()
            .with_initial_delay(self.initial_delay)
            .with_multiplier(self.multiplier)
            .with_max_delay(self.max_delay)
            .with_jitter(Jitter::Proportional(self.jitter))
            .build()
    }

    fn check(&self) -> Result<(), BuildError> {
        let positive = |field, value: u128| match value {
            0 => Err(BuildError::InvalidSetting { field, value: "0".to_owned(), accepted: "1 or more" }),
            _ => Ok(()),
        };
        positive("buffer_size", self.limits.max_count as u128)?;
        positive("buffer_max_bytes", self.limits.max_bytes as u128)?;
        positive("buffer_max_age", self.limits.max_age.as_nanos())?;
        positive("request_max_bytes", self.request_max_bytes as u128)?;
        positive("attempt_timeout", self.attempt_timeout.as_nanos())?;
        positive("journal_sync_timeout", self.journal_sync_timeout.as_nanos())?;
        positive("fallback_max_bytes", self.files.max_bytes.into())?;
        positive("fallback_max_age", self.files.max_age.as_nanos())
    }
}

/// Chance from the system, by the standard library's own seed for hashing: jitter and names need no more.
fn entropy() -> u64 {
    RandomState::new().build_hasher().finish()
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), BuildError> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run).map(drop).map_err(BuildError::Thread)
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder")
            .field("endpoint", &self.primary.as_ref().map(|primary| primary.endpoint()))
            .field("fallback_enabled", &self.fallback_enabled)
            .field("state_dir", &self.state_dir)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
