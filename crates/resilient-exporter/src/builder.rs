//! From settings to a running exporter: every value that applies is checked once, in [`Builder::build`].

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use backoff::{Exponential, Jitter};
use breaker::{ConfigBuilder, Machine};
use opentelemetry_sdk::trace::SpanExporter;
use otlp_payload::{Signal, ValueLimits};
use otlp_transport::{ErrorChain, ExporterTransport, Transport};
use rand::{RngExt as _, SeedableRng as _};
use span_buffer::{Limits, Size};

use self::storage::Storage;
use crate::core::{Core, Endpoint, Endpoints, Policy};
use crate::error::BuildError;
use crate::exporter::ResilientSpanExporter;
use crate::pipeline::Pipeline;
use crate::processor::ResilientSpanProcessor;
use crate::report::details::StorageLimits;
use crate::report::notes::StorageNote;
use crate::report::position::MAX_ENDPOINTS;
use crate::seams::backoff::Backoff;
use crate::seams::clock::{Clock, SystemClock};
use crate::seams::fallback::Fallback;
use crate::seams::journal::Journal;
use crate::seams::settings::{
    Breaker, Buffer, BufferCompression, DeadLetters, Durability, Refused, Retry, Settings, Shutdown, TooSmall,
};
use crate::shell::commit::Committer;
use crate::shell::disk::KeepOutages;
use crate::shell::packer::PackQueue;
use crate::shell::shared::{Parts, Shared};
use crate::shell::staging::StagingSettings;
use crate::shell::{disk, journal, net, nice, own, packer, signals};
use crate::stores::none::NoFallback;
use crate::stores::outages::OutageFiles;

mod aliases;
mod groups;
mod storage;

/// The default of [`Shutdown::timeout`] behind the SDK's batch processor, which waits 5 s for both.
const BEHIND_A_QUEUE: Duration = Duration::from_millis(3_500);

/// A transport or a span exporter: the argument of [`Builder::with_primary`].
pub trait IntoPrimary<Kind> {
    /// Turns it into the transport that the exporter sends with.
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

/// Settings and parts of a [`ResilientSpanExporter`]; [`build`](Self::build) checks the settings of all parts that are
/// on.
///
/// [`Settings`] lists the settings with their defaults. A method for each of its structs changes them; the `with_*`
/// method of a setting is an alias for the same change.
///
/// ```
/// use std::time::Duration;
/// use resilient_exporter::ResilientSpanExporter;
///
/// let builder = ResilientSpanExporter::builder()
///     .buffer(|buffer| buffer.max_spans = 5_000)
///     .circuit_breaker(|breaker| {
///         breaker.failure_threshold = 3;
///         breaker.recovery_timeout = Duration::from_secs(30);
///     })
///     .with_retry_max_retries(2); // the same as `.retry(|retry| retry.max_retries = 2)`
/// # let _ = builder;
/// ```
#[must_use = "nothing is built before `build`"]
pub struct Builder {
    settings: Settings,
    primary: Option<Arc<dyn Transport>>,
    failover: Vec<Arc<dyn Transport>>,
    fallback: Option<Box<dyn Fallback>>,
    journal: Option<Box<dyn Journal>>,
    breaker: Option<ConfigBuilder>,
    backoff: Option<Box<dyn Backoff>>,
    clock: Arc<dyn Clock>,
    storage_notes: Vec<StorageNote>,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            settings: Settings::default(),
            primary: None,
            failover: Vec::new(),
            fallback: None,
            journal: None,
            breaker: None,
            backoff: None,
            clock: Arc::new(SystemClock),
            storage_notes: Vec::new(),
        }
    }
}

impl ResilientSpanExporter {
    /// Starts with every default; see [`Builder`].
    pub fn builder() -> Builder {
        Builder::default()
    }
}

impl ResilientSpanProcessor {
    /// Starts with every default; see [`Builder`], whose [`build_processor`](Builder::build_processor) is the end.
    pub fn builder() -> Builder {
        Builder::default()
    }
}

/// Parts: the way to send, and implementations of your own.
impl Builder {
    /// Sends by a [`Transport`] or by any [`SpanExporter`]; required. The errors of a foreign exporter carry no reason,
    /// so each one is retried, and a partial success looks like a full one. Build a foreign exporter with its own
    /// retries disabled.
    ///
    /// # Panics
    /// With an exporter, if the system gives no thread for it.
    pub fn with_primary<Kind>(mut self, primary: impl IntoPrimary<Kind>) -> Self {
        self.primary = Some(primary.into_primary());
        self
    }

    /// Adds a collector of a lower priority than those before it, 15 at most: spans go to it while the others are
    /// unavailable. Buffer, journal and files are common; breaker, backoff, learned sizes and refusals are each
    /// collector's own. [`Failover`](crate::Failover) has the rules.
    ///
    /// # Panics
    /// With an exporter, if the system gives no thread for it.
    pub fn with_failover<Kind>(mut self, collector: impl IntoPrimary<Kind>) -> Self {
        self.failover.push(collector.into_primary());
        self
    }

    /// Stores batches that memory cannot hold in a store of your own; files are the default. Of the settings of the
    /// fallback only [`Files::enabled`](crate::Files::enabled) applies then.
    pub fn with_fallback(mut self, fallback: impl Fallback) -> Self {
        self.fallback = Some(Box::new(fallback));
        self
    }

    /// Stores accepted batches in a journal of your own; used if [`Durability::enabled`] is set.
    /// [`Durability::max_bytes`] does not apply then.
    pub fn with_journal(mut self, journal: impl Journal) -> Self {
        self.journal = Some(Box::new(journal));
        self
    }

    /// Configures the circuit breaker beyond [`Breaker`], such as with a trip policy of your own.
    /// [`build`](Self::build) checks it and seeds its jitter; [`Breaker`] does not apply then.
    pub fn with_circuit_breaker(mut self, breaker: ConfigBuilder) -> Self {
        self.breaker = Some(breaker);
        self
    }

    /// Waits between retries by a policy of your own. Of [`Retry`] only [`Retry::max_retries`] applies then.
    pub fn with_backoff(mut self, backoff: impl Backoff) -> Self {
        self.backoff = Some(Box::new(backoff));
        self
    }

    /// Reads the time from a clock of your own; the system's clocks are the default.
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Takes all directories away and turns the journal off, so that spans are in memory only, for the reason of
    /// `note`. A fallback and a journal of the caller's own stay.
    pub fn memory_only(mut self, note: StorageNote) -> Self {
        let settings = &mut self.settings;
        (settings.state_dir, settings.fallback.dir) = (None, None);
        settings.journal.enabled &= self.journal.is_some();
        settings.old_state_dirs.clear();
        settings.old_fallback_dirs.clear();
        self.with_storage_notes([note])
    }

    /// Adds trouble of storage that the program has found: health names it, and the log warns of it once. A note of
    /// [`StorageNote::memory_only`] stands in the place of the issue that the fallback has no directory.
    pub fn with_storage_notes(mut self, notes: impl IntoIterator<Item = StorageNote>) -> Self {
        self.storage_notes.extend(notes);
        self
    }
}

/// The end of building.
impl Builder {
    /// Checks every setting that applies, opens the fallback and the journal, and starts the threads. Makes no
    /// connection. Reads the journal, and no fallback file.
    ///
    /// # Errors
    /// [`BuildError`] names the field, its value and the accepted range, or the directory that cannot be used safely.
    /// No thread of the exporter runs then.
    pub fn build(mut self) -> Result<ResilientSpanExporter, BuildError> {
        let limits = self.value_limits();
        if self.settings.shutdown.timeout == Shutdown::default().timeout {
            self.settings.shutdown.timeout = BEHIND_A_QUEUE;
        }
        Ok(ResilientSpanExporter::new(self.build_pipeline(Signal::Traces)?, limits))
    }

    /// The same with a span processor in front, which takes the place of the SDK's batch processor and its queue.
    ///
    /// # Errors
    /// As [`build`](Self::build).
    pub fn build_processor(self) -> Result<ResilientSpanProcessor, BuildError> {
        let Settings { processor: batches, journal, request, .. } = &self.settings;
        // Settings that `check` refuses are refused below.
        let staging = StagingSettings {
            batch: Size {
                count: batches.max_export_batch_size.min(request.max_spans.map_or(usize::MAX, NonZeroUsize::get)),
                // The resource, and the span that fills the batch, have the rest.
                bytes: request.max_bytes - request.max_bytes / 8,
            },
            buffer: self.limits(),
            delay: match journal.enabled {
                true => batches.scheduled_delay.min(journal.staging),
                false => batches.scheduled_delay,
            },
            parallelism: std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
            values: self.value_limits(),
        };
        let (flush_timeout, limits) = (batches.export_timeout, self.value_limits());
        let exporter = ResilientSpanExporter::new(self.build_pipeline(Signal::Traces)?, limits);
        Ok(ResilientSpanProcessor::new(exporter, staging, flush_timeout))
    }

    /// The same for requests of any signal that are encoded already. Each signal has a pipeline of its own, whose files
    /// and journal are in a subdirectory that has the signal's name, but for traces: of the state directory, and of
    /// [`Files::dir`](crate::Files::dir). Limits on memory and disk are for each pipeline; three of them may take three
    /// times as much. A [`Transport`] sends each payload by its signal. The limits on the length of attribute values do
    /// not apply.
    ///
    /// # Errors
    /// As [`build`](Self::build); [`BuildError::Signal`] if the transport does not carry the signal.
    pub fn build_pipeline(mut self, signal: Signal) -> Result<Pipeline, BuildError> {
        let Some(primary) = self.primary.take() else { return Err(BuildError::NoPrimary) };
        let mut transports = vec![primary];
        transports.append(&mut self.failover);
        if transports.len() > MAX_ENDPOINTS {
            return Err(BuildError::TooManyEndpoints { count: transports.len(), most: MAX_ENDPOINTS });
        }
        if let Some(other) = transports.iter().find(|transport| !transport.carries(signal)) {
            return Err(BuildError::Signal { endpoint: other.endpoint().to_owned(), signal });
        }
        self.check()?;
        // Opening writes files, and dropping them too. The threads that are started below begin with the mask of this
        // one, and keep it: those that write files, and those whose warnings a log subscriber may write to one.
        let _blocked = signals::Blocked::new();
        let mut chance = rand::rngs::SmallRng::seed_from_u64(entropy());
        let own_breaker = self.breaker.take();
        let endpoint = |_: &Arc<dyn Transport>| -> Result<Endpoint, BuildError> {
            let breaker = match &own_breaker {
                Some(breaker) => {
                    breaker.clone().with_seed(chance.random()).build().map_err(BuildError::CircuitBreaker)?
                }
                None => self.breaker_config().with_seed(chance.random()).build().map_err(of_breaker)?,
            };
            let endpoint = Endpoint::new(Machine::new(breaker), self.clock.now());
            Ok(endpoint.with_max_concurrency(self.settings.max_concurrency))
        };
        let endpoints = transports.iter().map(endpoint).collect::<Result<Vec<_>, _>>()?;
        let endpoints = Endpoints::new(endpoints, self.settings.failover.failback_delay);
        let backoff: Box<dyn Backoff> = match self.backoff.take() {
            Some(backoff) => backoff,
            None => Box::new(self.exponential().map_err(of_backoff)?),
        };
        let storage = self.open_storage(signal, chance.random())?;
        let Storage { fallback, mut journal, no_fallback, notes: storage_notes, homes, outages, warnings } = storage;
        let found_usage = fallback.as_ref().map(|fallback| fallback.usage());
        let age_rests_until = fallback.as_ref().and_then(|fallback| fallback.age_rests_until());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(BuildError::Thread)?;
        let policy = Policy {
            limits: self.limits(),
            max_calls: self.settings.retry.max_retries.saturating_add(1),
            request_max_bytes: self.settings.request.max_bytes,
            request_max_spans: self.settings.request.max_spans.map_or(usize::MAX, NonZeroUsize::get),
            fallback: fallback.is_some(),
            replay_rate: self.settings.replay.rate,
            replay_order: self.settings.replay.order,
            strict: self.settings.refused == Refused::DeadLetter,
            incarnation: journal.as_ref().map_or_else(|| chance.random(), |journal| journal.incarnation()),
        };
        let recovered = found_usage.map_or(0, |usage| usage.spans);
        let mut core = Core::new(policy, endpoints, recovered, chance.random()).of_signal(signal);
        if let Some(journal) = &mut journal {
            core = core.with_journal(journal.found(), journal.can_read(), self.clock.now());
        }
        if self.settings.buffer.compression == BufferCompression::Zstd && journal.is_none() {
            core = core.with_compression();
        }
        let dictionary_room = core.memory.dictionary_room();
        for (at, transport) in transports.iter().enumerate() {
            core.set_can_change(at, net::can_change(&**transport));
        }
        let earlier_outages = outages.as_ref().map(OutageFiles::earlier).unwrap_or_default();
        let keep_outages = outages.map(|mut files| -> KeepOutages {
            core.keep_outages();
            Box::new(move |records| files.keep(records).map_err(|error| ErrorChain(&error).to_string()))
        });
        core.storage.set_more(fallback.as_ref().is_some_and(|fallback| disk::has_more(&**fallback)));
        let endpoints = transports.iter().map(|transport| transport.endpoint_of(signal).to_owned()).collect();
        let committer = journal.map(|journal| Committer::new(journal, self.settings.journal.sync));
        // A journal alone has a disk thread too.
        let fallback = fallback.or_else(|| committer.is_some().then(|| Box::new(NoFallback) as _));
        let usage = fallback.as_ref().map(|_| found_usage.unwrap_or_default());
        let (clock, journal_timeout) = (self.clock, self.settings.journal.sync_timeout);
        let shared = Shared::new(Parts {
            core,
            usage,
            age_rests_until,
            max_age_at_send: self.settings.max_age_at_send,
            clock,
            backoff,
            endpoints,
            no_fallback,
            storage_notes,
            journal_timeout,
        });
        let limits = StorageLimits {
            fallback: self.settings.fallback.max_bytes,
            dead_letters: self.settings.dead_letter.max_bytes,
        };
        let shared = shared.with_storage_limits(limits).with_earlier_outages(earlier_outages);
        let shared = Arc::new(shared.with_outage_spans(self.settings.outage_span && signal == Signal::Traces));
        for home in homes {
            let shared = Arc::downgrade(&shared);
            home.set_waker(Box::new(move || shared.upgrade().iter().for_each(|shared| shared.wake_storage())));
        }
        let niceness = self.settings.threads.niceness;
        if let Some(fallback) = fallback {
            spawn(&shared, "holdfast-disk", move |shared| {
                nice::be_nicer_by(niceness);
                disk::run(shared, fallback, keep_outages);
            })?;
        }
        let journal = committer.map_or(Ok(()), |committer| {
            spawn(&shared, "holdfast-journal", move |shared| journal::run(shared, committer))
        });
        let has_journal = journal.is_ok();
        let limit = self.settings.request.attempt_timeout;
        let packer = dictionary_room.map_or(Ok(()), |room| {
            let queue = Arc::new(PackQueue::default());
            shared.set_packer(Arc::clone(&queue));
            spawn(&shared, "holdfast-pack", move |shared| {
                nice::be_nicer_by(niceness);
                packer::run(shared, &queue, room);
            })
        });
        let started = journal.and(packer).and_then(|()| {
            spawn(&shared, "holdfast-net", move |shared| {
                nice::be_nicer_by(niceness);
                net::run(shared, &transports, runtime, limit);
            })
        });
        if let Err(error) = started {
            // Threads that were started end, and give the directories back.
            if !has_journal {
                shared.on_journal_ended();
            }
            shared.decide(|core| core.stop(shared.clock.now()));
            shared.wait_for(self.settings.shutdown.timeout, |_| shared.has_disk_ended());
            return Err(error);
        }
        let mut pipeline = Pipeline::new(shared, self.settings.shutdown);
        pipeline.start_warnings = warnings;
        Ok(pipeline)
    }

    fn value_limits(&self) -> ValueLimits {
        let of = |limit: Option<u32>| limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
        let Settings { attribute_value_length_limit, span_attribute_value_length_limit, .. } = self.settings;
        ValueLimits::new(of(attribute_value_length_limit), of(span_attribute_value_length_limit))
    }

    /// Checks every setting that applies. The settings of durable mode apply if the journal is enabled, `max_bytes` of
    /// it only to the journal in files; the settings of dead letters apply if there are fallback files.
    fn check(&self) -> Result<(), TooSmall> {
        let mut applied = self.settings.clone();
        if !applied.journal.enabled {
            applied.journal = Durability::default();
        } else if self.journal.is_some() {
            applied.journal.max_bytes = Durability::default().max_bytes;
        }
        let has_directory = applied.fallback.dir.is_some() || applied.state_dir.is_some();
        let opens_files = applied.fallback.enabled && self.fallback.is_none() && has_directory;
        if !opens_files {
            applied.dead_letter = DeadLetters::default();
        }
        applied.check()
    }

    fn limits(&self) -> Limits {
        let Buffer { max_spans, max_bytes, max_age, .. } = self.settings.buffer;
        Limits { max_count: max_spans, max_bytes, max_age }
    }

    fn breaker_config(&self) -> ConfigBuilder {
        let Breaker { failure_threshold, recovery_timeout, half_open_probes, half_open_successes } =
            self.settings.circuit_breaker;
        // A probe is not lost while its attempt may still be answered.
        let probe_timeout = recovery_timeout.max(self.settings.request.attempt_timeout);
        breaker::Config::builder()
            .with_failure_threshold(failure_threshold)
            .with_open_duration(recovery_timeout)
            .with_open_jitter(0.1)
            .with_half_open_probes(half_open_probes)
            .with_half_open_successes(half_open_successes)
            .with_probe_timeout(probe_timeout.min(Duration::from_secs(24 * 3_600)))
    }

    fn exponential(&self) -> Result<Exponential, backoff::InvalidConfig> {
        let Retry { max_retries: _, initial_delay, multiplier, max_delay, jitter } = self.settings.retry;
        Exponential::builder()
            .with_initial_delay(initial_delay)
            .with_multiplier(multiplier)
            .with_max_delay(max_delay)
            .with_jitter(Jitter::Proportional(jitter))
            .build()
    }
}

/// The error of the crate `breaker` under the name that the field has here.
fn of_breaker(error: breaker::InvalidConfig) -> BuildError {
    let field = match error.field {
        "failure_threshold" => "circuit_breaker.failure_threshold",
        "half_open_probes" => "circuit_breaker.half_open_probes",
        "half_open_successes" => "circuit_breaker.half_open_successes",
        // The breaker checks this one value as its open duration and as the longest one.
        _ => "circuit_breaker.recovery_timeout",
    };
    BuildError::InvalidSetting { field, value: error.value, accepted: error.accepted }
}

/// The error of the crate `backoff` under the name that the field has here.
fn of_backoff(error: backoff::InvalidConfig) -> BuildError {
    let field = match error.field {
        "initial_delay" => "retry.initial_delay",
        "multiplier" => "retry.multiplier",
        "max_delay" => "retry.max_delay",
        _ => "retry.jitter",
    };
    BuildError::InvalidSetting { field, value: error.value, accepted: error.accepted }
}

/// A random number from the standard library's seed for hashing, which is enough for jitter and names. Children made by
/// `fork` have copies of one seed: process and time tell them apart. The journal of one would otherwise have the batch
/// ids of another.
fn entropy() -> u64 {
    seed(&RandomState::new(), std::process::id(), SystemClock.wall())
}

fn seed(state: &RandomState, process: u32, wall: SystemTime) -> u64 {
    let mut hasher = state.build_hasher();
    hasher.write_u32(process);
    hasher.write_u128(wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos());
    hasher.finish()
}

/// Starts a thread of ours, with the blocked signals of the calling one.
fn spawn(shared: &Arc<Shared>, name: &str, run: impl FnOnce(&Shared) + Send + 'static) -> Result<(), BuildError> {
    #[cfg(test)]
    if tests::is_refused(name) {
        return Err(BuildError::Thread(std::io::ErrorKind::WouldBlock.into()));
    }
    let shared = Arc::clone(shared);
    let run = move || {
        own::enter(&shared);
        run(&shared);
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(run).map(drop).map_err(BuildError::Thread)
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder")
            .field("endpoint", &self.primary.as_ref().map(|primary| primary.endpoint()))
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        /// The name of a thread that the system refuses to a builder on this thread.
        static REFUSED: Cell<&'static str> = const { Cell::new("") };
    }

    pub(super) fn is_refused(name: &str) -> bool {
        REFUSED.get() == name
    }

    #[test]
    fn a_thread_that_the_system_refuses_leaves_no_other_and_no_directory_in_use() {
        let dir = tempfile::tempdir().expect("a directory");
        let begin = SystemClock.now();
        for name in ["holdfast-disk", "holdfast-journal", "holdfast-net"] {
            REFUSED.set(name);
            let config = otlp_transport::Config::builder().build().expect("valid");
            let builder = Builder::default()
                .with_primary(otlp_transport::connect(config).expect("no I/O yet"))
                .with_state_dir(dir.path())
                .with_journal_enabled(true);
            let error = builder.build().expect_err("a thread is refused");
            assert!(matches!(error, BuildError::Thread(_)), "{name}: {error}");
            // Each process locks a directory of its own in the state directory.
            for entry in std::fs::read_dir(dir.path()).expect("readable") {
                let path = entry.expect("readable").path();
                if path.is_dir() {
                    let dir = safe_dir::SafeDir::open(&path).expect("our own");
                    assert!(safe_dir::Directory::lock(&dir).is_ok(), "{name}: a thread has {path:?} still");
                }
            }
        }
        assert!(SystemClock.now().saturating_duration_since(begin) < Duration::from_secs(1), "nothing is waited for");
    }

    #[test]
    fn processes_with_copies_of_one_seed_have_numbers_of_their_own() {
        let (state, wall) = (RandomState::new(), SystemClock.wall());
        let next = wall + Duration::from_nanos(1);
        let numbers = [(1, wall), (2, wall), (1, next)].map(|(process, wall)| seed(&state, process, wall));
        assert!(numbers[0] != numbers[1] && numbers[0] != numbers[2], "{numbers:x?}");
    }
}
