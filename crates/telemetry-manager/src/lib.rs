//! One line that sets up resilient OpenTelemetry tracing from the environment.
//!
//! The manager resolves the settings, starts the provider and the exporter, and shuts them down in time. It never
//! sends, retries or stores a span itself. It alone reads the environment; the crates below take values. Settings have
//! the names of the OpenTelemetry specification where it has one.
//!
#![doc = include_str!("../README.md")]

mod builder;
mod error;
mod flush;
mod health;
mod log;
mod manager;
pub mod metrics;
mod observed;
mod processor;
mod propagation;
mod resource;
mod settings;
mod start;

pub use builder::Builder;
pub use error::{FlushError, InvalidSetting, SetupError, ShutdownError};
pub use health::HealthReport;
pub use manager::{Observer, OpenTelemetryManager};
pub use observed::Observed;
pub use settings::{
    Batch, Propagator, SETTINGS, Setting, Settings, TracesExporter, TracesProcessor, TracesSampler, VENDORS, Vendor,
    Warning, settings_markdown, vendors_markdown,
};

pub use {opentelemetry, opentelemetry_sdk, otlp_transport, resilient_exporter};

/// The programs of the project's front page, so that they compile.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
mod front_page {}
