//! The guard that `main` holds, and the view for all other code.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use opentelemetry_sdk::error::OTelSdkError;
use opentelemetry_sdk::trace::SdkTracerProvider;
use otlp_transport::Faults;
use resilient_exporter::{Handle, Status};

use crate::builder::Builder;
use crate::error::{SetupError, ShutdownError};
use crate::health::{HealthReport, about_fault};
use crate::processor::Running;
use crate::settings::table::{SDK_DISABLED, TRACES_EXPORTER};
use crate::settings::{Settings, TracesExporter, Warning};
use crate::start::StartLines;

/// Tracing that survives its collector, for as long as this value lives. Hold it in a variable of `main`: dropping it
/// flushes and shuts down, which takes `shutdown.timeout` at most, 5 s by default.
#[must_use = "dropping it shuts tracing down: hold it in a variable"]
pub struct OpenTelemetryManager {
    pub(crate) inner: Arc<Inner>,
}

impl OpenTelemetryManager {
    /// Sets tracing up from the environment: the one line for a `main` that may end with an error of set-up.
    ///
    /// # Errors
    ///
    /// As [`Builder::build`]: an endpoint or a list of headers that cannot be used, or storage that is required. Never
    /// with `OTEL_SDK_DISABLED=true` or `OTEL_TRACES_EXPORTER=none`.
    pub fn from_env() -> Result<Self, SetupError> {
        Self::builder().build()
    }

    /// Sets tracing up from the environment, and where that is an error logs it and goes on without telemetry: the one
    /// line for a `main` that must start in any environment. [`setup_error`](Self::setup_error) has the error.
    pub fn from_env_or_disabled() -> Self {
        Self::builder().build_or_disabled()
    }

    /// Begins with settings in code, which beat those of the environment.
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) fn new(
        provider: SdkTracerProvider,
        running: Option<Running>,
        settings: Settings,
        lines: Arc<StartLines>,
        error: Option<SetupError>,
        injected: Injected,
    ) -> Self {
        let shut_down = AtomicBool::new(false);
        Self { inner: Arc::new(Inner { provider, running, settings, lines, error, injected, shut_down }) }
    }

    /// The tracer provider, for layers and libraries that take it as a value.
    #[must_use]
    pub fn tracer_provider(&self) -> &SdkTracerProvider {
        &self.inner.provider
    }

    /// The exporter's handle: ledger, events, flush. `None` if spans are not exported.
    #[must_use]
    pub fn handle(&self) -> Option<Handle> {
        self.inner.lines.repeat();
        self.inner.handle().cloned()
    }

    /// The error for which [`from_env_or_disabled`](Self::from_env_or_disabled) or
    /// [`Builder::build_or_disabled`] has set up no telemetry.
    #[must_use]
    pub fn setup_error(&self) -> Option<&SetupError> {
        self.inner.error.as_ref()
    }

    /// A view for a server, which may be cloned and outlive the manager. Dropping the manager ends telemetry
    /// nevertheless.
    #[must_use]
    pub fn observer(&self) -> Observer {
        Observer { inner: Arc::clone(&self.inner) }
    }

    /// The settings in effect.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// The values of settings that are ignored, each with the one that holds instead, and values that rarely mean their
    /// text. Each is logged at the start. A program that sets its log subscriber later gets them again, once: within
    /// 2.5 s of the start as soon as there is a subscriber, else with the first export, call of
    /// [`health`](Self::health), [`handle`](Self::handle), [`flush`](Self::flush) or [`shutdown`](Self::shutdown) after
    /// it. So does the line with the settings in effect.
    #[must_use]
    pub fn warnings(&self) -> &[Warning] {
        self.inner.settings.warnings()
    }

    /// The health of telemetry. Takes one short lock; answers while the collector or the disk hangs.
    #[must_use]
    pub fn health(&self) -> HealthReport {
        self.inner.health()
    }

    /// Flushes and shuts down within `shutdown.timeout` (5 s by default): the last batches are sent, undelivered ones
    /// go to files. A second call does nothing. Blocks the calling thread.
    ///
    /// # Errors
    ///
    /// [`ShutdownError`] with the spans that were dropped and those in memory only, or if the time ran out. In a
    /// process that was forked from the one of the set-up: at once, with that reason, and nothing of the other's is
    /// touched.
    pub fn shutdown(&self) -> Result<(), ShutdownError> {
        self.inner.shutdown()
    }
}

impl Drop for OpenTelemetryManager {
    fn drop(&mut self) {
        // A child made by `fork` has nothing to shut down, and has warned of the spans that it refused.
        if self.inner.forked().is_none()
            && let Err(error) = self.inner.shutdown()
        {
            crate::log::warn_of_shutdown(&error.to_string());
        }
    }
}

impl fmt::Debug for OpenTelemetryManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenTelemetryManager").field("settings", &self.inner.settings).finish_non_exhaustive()
    }
}

/// A view of an [`OpenTelemetryManager`]. Cloning increments a reference count. A view that outlives the manager shows
/// the last numbers.
#[derive(Clone)]
pub struct Observer {
    pub(crate) inner: Arc<Inner>,
}

impl Observer {
    /// The health of telemetry. Takes one short lock; answers while the collector or the disk hangs.
    #[must_use]
    pub fn health(&self) -> HealthReport {
        self.inner.health()
    }

    /// The exporter's own numbers, ledger included, as one consistent snapshot. `None` if spans are not exported.
    #[must_use]
    pub fn exporter_health(&self) -> Option<resilient_exporter::Health> {
        self.inner.handle().map(Handle::health)
    }

    /// [`health`](Self::health) and [`exporter_health`](Self::exporter_health) of one moment, whose numbers agree.
    #[must_use]
    pub fn snapshot(&self) -> (HealthReport, Option<resilient_exporter::Health>) {
        self.inner.snapshot()
    }

    /// The exporter's handle: events, dead letters, flush. `None` if spans are not exported.
    #[must_use]
    pub fn handle(&self) -> Option<Handle> {
        self.inner.handle().cloned()
    }

    /// The switch in front of the transport that sends the spans: it makes calls fail as if the collector did. It is
    /// off until [`Faults::begin`]. `None` if spans are not exported.
    ///
    /// ```
    /// use std::time::Duration;
    /// use telemetry_manager::OpenTelemetryManager;
    /// use telemetry_manager::otlp_transport::{Fault, FaultMode};
    ///
    /// let builder = OpenTelemetryManager::builder().with_fallback_enabled(false).with_vars(|_| None);
    /// let telemetry = builder.build()?;
    /// if let Some(faults) = telemetry.observer().faults() {
    ///     faults.begin(Fault::new(FaultMode::Refuse), Some(Duration::from_secs(30)));
    ///     assert!(faults.end(), "earlier than after 30 s");
    /// }
    /// # Ok::<(), telemetry_manager::SetupError>(())
    /// ```
    #[must_use]
    pub fn faults(&self) -> Option<&Faults> {
        self.inner.handle().map(|_| &self.inner.injected.faults)
    }

    /// The settings in effect.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// The settings of the transport that sends the spans, by which a second pipeline has a transport of its own to the
    /// same collector. `None` if spans are not exported, or by a transport that was given to
    /// [`Builder::with_primary`](crate::Builder::with_primary).
    #[must_use]
    pub fn transport_config(&self) -> Option<&otlp_transport::Config> {
        let is_ours = self.inner.running.is_some() && !self.inner.injected.is_own;
        is_ours.then_some(&self.inner.settings.transport)
    }

    /// The tracer provider, to trace the observer's own requests.
    #[must_use]
    pub fn tracer_provider(&self) -> &SdkTracerProvider {
        &self.inner.provider
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observer").field("service", &self.inner.settings.service_name).finish_non_exhaustive()
    }
}

/// The way of the calls to the transport.
pub(crate) struct Injected {
    /// The switch in front of the transport.
    pub(crate) faults: Faults,
    /// The transport is the program's own.
    pub(crate) is_own: bool,
}

pub(crate) struct Inner {
    pub(crate) provider: SdkTracerProvider,
    /// None where no span is exported.
    pub(crate) running: Option<Running>,
    settings: Settings,
    pub(crate) lines: Arc<StartLines>,
    /// The error of the set-up, after which there is no telemetry.
    error: Option<SetupError>,
    injected: Injected,
    shut_down: AtomicBool,
}

impl Inner {
    pub(crate) fn handle(&self) -> Option<&Handle> {
        self.running.as_ref().map(|running| &running.handle)
    }

    fn health(&self) -> HealthReport {
        self.snapshot().0
    }

    fn snapshot(&self) -> (HealthReport, Option<resilient_exporter::Health>) {
        self.lines.repeat();
        let exporter = self.handle().map(Handle::health);
        let (status, mut issues) = match (&exporter, &self.error) {
            (Some(health), _) => (health.status, health.issues.clone()),
            // No span arrives, and none is kept.
            (None, Some(error)) => {
                (Status::Unhealthy, vec![format!("telemetry is off, since its set-up failed: {error}")])
            }
            (None, None) => (Status::Healthy, Vec::new()),
        };
        let shut_down = self.shut_down.load(Ordering::Acquire);
        let is_off = self.error.is_some();
        let why_not = if is_off {
            None
        } else if self.settings.sdk_disabled {
            Some(format!("telemetry is disabled: {} is true", self.settings.source(&SDK_DISABLED)))
        } else if self.settings.traces_exporter == TracesExporter::None {
            Some(format!("spans are not exported: {} is none", self.settings.source(&TRACES_EXPORTER)))
        } else if shut_down {
            Some("telemetry was shut down: spans that end now are not exported".to_owned())
        } else {
            None
        };
        let initialized = why_not.is_none() && !is_off;
        issues.extend(why_not);
        let fault = self.handle().and_then(|_| self.injected.faults.current());
        let status = match (status, fault) {
            (Status::Healthy, Some(_)) => Status::Degraded,
            (status, _) => status,
        };
        issues.extend(fault.map(|(fault, left)| about_fault(fault, left)));
        let report = HealthReport {
            status,
            healthy: status == Status::Healthy,
            initialized,
            issues,
            collector_endpoint: match &exporter {
                Some(health) => health.endpoint.clone(),
                None => self.settings.transport.endpoint().to_owned(),
            },
            resilience_metrics: exporter.as_ref().map(|health| health.metrics.clone()),
            service_name: self.settings.service_name.clone(),
        };
        (report, exporter)
    }

    /// The handle, in a process that was forked from the one of the set-up.
    pub(crate) fn forked(&self) -> Option<&Handle> {
        self.handle().filter(|handle| handle.forked().is_some())
    }

    fn shutdown(&self) -> Result<(), ShutdownError> {
        if let Some(handle) = self.forked() {
            return handle.shutdown_result().map_err(ShutdownError::Exporter);
        }
        self.lines.repeat();
        if self.shut_down.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let outcome = self.provider.shutdown_with_timeout(self.settings.exporter.shutdown.timeout);
        // The SDK discards the exporter's own result.
        let exporter = self.handle().map_or(Ok(()), Handle::shutdown_result);
        let is_exporters = !self.running.as_ref().is_some_and(Running::has_queue) && exporter.is_err();
        match outcome {
            Ok(()) | Err(OTelSdkError::AlreadyShutdown) => exporter.map_err(ShutdownError::Exporter),
            // The text of the error below.
            Err(_) if is_exporters => exporter.map_err(ShutdownError::Exporter),
            Err(error) => Err(ShutdownError::Sdk { error, exporter: exporter.err() }),
        }
    }
}
