//! The settings: code beats the environment, which beats the defaults.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use opentelemetry_sdk::trace::{Sampler, SpanLimits};

use crate::error::SetupError;

mod choice;
pub(crate) mod directories;
mod docs;
mod failover;
mod field;
mod kind;
mod lists;
mod off;
mod reader;
pub(crate) mod slips;
mod summary;
pub(crate) mod table;
mod text;
mod vendors;

use directories::Service;
pub use docs::settings_markdown;
pub use reader::Warning;
pub(crate) use reader::{Code, Environment, Refused, resolve};
pub use table::{SETTINGS, Setting};
use vendors::Preset;
pub use vendors::{VENDORS, Vendor, vendors_markdown};

/// Every setting, checked. Made by [`Settings::from_vars`] or by the builder of the manager.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settings {
    /// Whether there is no telemetry at all.
    pub sdk_disabled: bool,
    /// `service.name`.
    pub service_name: String,
    /// `service.namespace`, of the resource attributes.
    pub(crate) service_namespace: Option<String>,
    /// `service.version`.
    pub service_version: Option<String>,
    /// The attributes of `OTEL_RESOURCE_ATTRIBUTES`, decoded, in their order.
    pub resource_attributes: Vec<(String, String)>,
    /// Whether spans are exported.
    pub traces_exporter: TracesExporter,
    /// The way to the collector: endpoint, protocol, headers, time-out, compression.
    pub transport: otlp_transport::Config,
    /// The endpoints that take over, in this order, while those before them are unavailable.
    pub failover: Vec<otlp_transport::Config>,
    /// The age at which a connection to the collector is replaced, more or less a tenth.
    pub connection_max_age: Duration,
    /// The vendor that receives the spans, by its name in [`VENDORS`]; none leaves it to the endpoint's host.
    pub vendor: Option<String>,
    /// Bytes of an answer of the collector, at most, as it comes and after decompression.
    pub response_max_bytes: usize,
    /// The rule that decides which traces are recorded.
    pub sampler: TracesSampler,
    /// The share of traces that the two ratio samplers record, 0 to 1.
    pub sampler_arg: f64,
    /// The formats that carry the trace across process borders, in order; empty for none.
    pub propagators: Vec<Propagator>,
    /// Limits on the attributes, events and links of one span.
    pub span_limits: SpanLimits,
    /// The span processor.
    pub processor: TracesProcessor,
    /// The batches of the span processor.
    pub batch: Batch,
    /// The exporter: buffer, breaker, retries, files, journal. Its state directory is that of the service in the chosen
    /// or the default one; none means memory only. Its `processor` has the values of `batch`.
    pub exporter: resilient_exporter::Settings,
    pub(crate) warnings: Vec<Warning>,
    /// Sentences that ask for no change.
    pub(crate) remarks: Vec<String>,
    /// The settings that a preset for the vendor has set.
    pub(crate) preset: Option<Preset>,
    /// The variables whose settings code gives.
    pub(crate) in_code: BTreeSet<&'static str>,
    /// The directories that code or the environment chose, in which the service has its own.
    pub(crate) chosen: Chosen,
}

/// The directories that code or the environment chose.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Chosen {
    /// The state directory.
    pub(crate) state_dir: Option<PathBuf>,
    /// The variable or the method that chose it.
    pub(crate) state_dir_from: &'static str,
    /// The directory of the fallback files.
    pub(crate) fallback_dir: Option<PathBuf>,
    /// The variable or the field that chose it.
    pub(crate) fallback_dir_from: &'static str,
}

/// Whether spans are exported.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum TracesExporter {
    /// Over OTLP, by the resilient exporter.
    Otlp,
    /// Not at all: spans exist for propagation only.
    None,
}

/// The span processor: the part of the SDK that makes batches of spans.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum TracesProcessor {
    /// [`ResilientSpanProcessor`](resilient_exporter::ResilientSpanProcessor): no queue, no thread of its own, and each
    /// span in the ledger from its end on.
    Resilient,
    /// The SDK's [`BatchSpanProcessor`](opentelemetry_sdk::trace::BatchSpanProcessor), which drops spans that find its
    /// queue full, uncounted.
    Batch,
}

/// A sampler of the OpenTelemetry specification, as `OTEL_TRACES_SAMPLER` names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum TracesSampler {
    /// Every trace.
    AlwaysOn,
    /// No trace.
    AlwaysOff,
    /// A share of traces, chosen by the trace's id.
    TraceIdRatio,
    /// As the parent span decided; every trace without a parent.
    ParentBasedAlwaysOn,
    /// As the parent span decided; no trace without a parent.
    ParentBasedAlwaysOff,
    /// As the parent span decided; a share of traces without a parent.
    ParentBasedTraceIdRatio,
}

impl TracesSampler {
    pub(crate) fn takes_ratio(self) -> bool {
        matches!(self, Self::TraceIdRatio | Self::ParentBasedTraceIdRatio)
    }
}

/// A format that carries the trace across process borders.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Propagator {
    /// W3C Trace Context: `traceparent` and `tracestate`.
    TraceContext,
    /// W3C Baggage: `baggage`.
    Baggage,
}

/// The batches of the span processor. The defaults are those of the OpenTelemetry specification.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Batch {
    /// The longest stay of a span until its batch goes on its way.
    pub schedule_delay: Duration,
    /// Spans that wait in front of the exporter, at most. For [`TracesProcessor::Batch`] alone: the other processor has
    /// no queue.
    pub max_queue_size: usize,
    /// Spans in a batch, at most.
    pub max_export_batch_size: usize,
    /// The longest `force_flush` of the tracer provider.
    pub export_timeout: Duration,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            schedule_delay: Duration::from_secs(5),
            max_queue_size: 2_048,
            max_export_batch_size: 512,
            export_timeout: Duration::from_secs(30),
        }
    }
}

impl Settings {
    /// Reads every setting from `vars`, which answers with the value of the variable of a name. Touches neither the
    /// environment of the process nor the file system.
    ///
    /// Values that are ignored stand in [`Settings::warnings`]. The default service name is `unknown_service`; only the
    /// builder adds the name of the program. Names that are nearly those of settings cannot be found this way:
    /// [`from_environment`](Self::from_environment) names them.
    ///
    /// # Errors
    ///
    /// If endpoint or headers cannot be used. If storage is required (`TELEMETRY_STATE_DIR_REQUIRED`) and one of its
    /// settings is not accepted. Never with `OTEL_SDK_DISABLED=true` or `OTEL_TRACES_EXPORTER=none`.
    pub fn from_vars(vars: impl Fn(&str) -> Option<OsString>) -> Result<Self, SetupError> {
        Self::of(Environment { vars: &vars, names: &[] })
    }

    /// Reads every setting from these names and values, as [`from_vars`](Self::from_vars) does, and warns about names
    /// that are nearly those of settings.
    ///
    /// ```
    /// use telemetry_manager::Settings;
    ///
    /// let settings = Settings::from_environment([("TELEMETRY_BUFER_MAX_SPANS", "5000")])?;
    /// assert_eq!(settings.warnings()[0].setting, "TELEMETRY_BUFER_MAX_SPANS");
    /// # Ok::<(), telemetry_manager::SetupError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`from_vars`](Self::from_vars).
    pub fn from_environment(
        vars: impl IntoIterator<Item = (impl Into<OsString>, impl Into<OsString>)>,
    ) -> Result<Self, SetupError> {
        let vars: BTreeMap<OsString, OsString> =
            vars.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        let names: Vec<OsString> = vars.keys().cloned().collect();
        Self::of(Environment { vars: &|name| vars.get(OsStr::new(name)).cloned(), names: &names })
    }

    fn of(environment: Environment<'_>) -> Result<Self, SetupError> {
        resolve(environment, &Code::default(), otlp_transport::Config::builder(), UNKNOWN_SERVICE)
            .map_err(|refused| refused.error)
    }

    /// Values that are ignored, each with the one that holds instead, and values that rarely mean their text.
    #[must_use]
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// Sentences about the settings that ask for no change, such as the failover endpoints that do not get the primary
    /// endpoint's headers. Free of secrets.
    #[must_use]
    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }

    /// Every default, before any variable is read: without a name of the service, without a state directory.
    pub(crate) fn defaults() -> Self {
        Self {
            sdk_disabled: false,
            service_name: String::new(),
            service_namespace: None,
            service_version: None,
            resource_attributes: Vec::new(),
            traces_exporter: TracesExporter::Otlp,
            transport: otlp_transport::Config::builder().build().expect("the transport accepts its own defaults"),
            failover: Vec::new(),
            vendor: None,
            response_max_bytes: otlp_transport::DEFAULT_MAX_RESPONSE_BYTES,
            sampler: TracesSampler::ParentBasedAlwaysOn,
            connection_max_age: otlp_transport::DEFAULT_CONNECTION_MAX_AGE,
            sampler_arg: 1.0,
            propagators: vec![Propagator::TraceContext, Propagator::Baggage],
            span_limits: SpanLimits::default(),
            processor: TracesProcessor::Resilient,
            batch: Batch::default(),
            exporter: resilient_exporter::Settings::default(),
            warnings: Vec::new(),
            remarks: Vec::new(),
            preset: None,
            in_code: BTreeSet::new(),
            chosen: Chosen::default(),
        }
    }

    /// The service, by the attributes of the resource that is sent.
    pub(crate) fn service(&self) -> Service {
        Service::new(self.service_namespace.as_deref(), &self.service_name)
    }

    pub(crate) fn warn(&mut self, setting: impl Into<String>, message: String) {
        self.warnings.push(Warning { setting: setting.into(), message, is_noted: false });
    }

    /// The source of a setting's value: the variable, or where code gives it the field or the method of the builder.
    pub(crate) fn source(&self, setting: &Setting) -> &'static str {
        if self.in_code.contains(setting.name) { setting.builder } else { setting.name }
    }

    /// Warns of something that the exporter logs.
    pub(crate) fn note(&mut self, setting: impl Into<String>, message: String) {
        self.warnings.push(Warning { setting: setting.into(), message, is_noted: true });
    }

    /// The SDK's sampler.
    pub(crate) fn sdk_sampler(&self) -> Sampler {
        let parent_based = |root| Sampler::ParentBased(Box::new(root));
        match self.sampler {
            TracesSampler::AlwaysOn => Sampler::AlwaysOn,
            TracesSampler::AlwaysOff => Sampler::AlwaysOff,
            TracesSampler::TraceIdRatio => Sampler::TraceIdRatioBased(self.sampler_arg),
            TracesSampler::ParentBasedAlwaysOn => parent_based(Sampler::AlwaysOn),
            TracesSampler::ParentBasedAlwaysOff => parent_based(Sampler::AlwaysOff),
            TracesSampler::ParentBasedTraceIdRatio => parent_based(Sampler::TraceIdRatioBased(self.sampler_arg)),
        }
    }

    /// Whether files are enabled and have no directory.
    pub(crate) fn lacks_directory(&self) -> bool {
        let exporter = &self.exporter;
        exporter.fallback.enabled && exporter.fallback.dir.is_none() && exporter.state_dir.is_none()
    }
}

/// The specification's default (resource SDK, "SDK-provided resource attributes").
pub(crate) const UNKNOWN_SERVICE: &str = "unknown_service";

#[cfg(test)]
mod accepted_tests;
#[cfg(test)]
mod failover_tests;
#[cfg(test)]
mod off_tests;
#[cfg(test)]
mod processor_tests;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod slips_tests;
#[cfg(test)]
mod storage_tests;
#[cfg(test)]
mod tests;
