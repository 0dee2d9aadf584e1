//! One line that sets up resilient OpenTelemetry tracing from the environment.
//!
//! It decides what telemetry is set to, starts it, and ends it in time. It never sends, retries or stores anything
//! itself, and it alone reads the environment: everything below takes values. Names of settings are those of the
//! OpenTelemetry specification where it has one.
//!
#![doc = include_str!("../README.md")]

mod builder;
mod error;
mod health;
mod manager;
mod propagation;
mod resource;
mod settings;

pub use builder::Builder;
pub use error::{FlushError, InvalidSetting, SetupError, ShutdownError};
pub use health::HealthReport;
pub use manager::{Observer, OpenTelemetryManager};
pub use settings::{
    Bare, BatchSettings, BreakerSettings, BufferSettings, DeadLetterSettings, FallbackSettings, Group, Kind, OnBad,
    Propagator, RetrySettings, SETTINGS, Setting, Settings, StateDir, TracesExporter, Warning, settings_markdown,
};

pub use {opentelemetry, opentelemetry_sdk, otlp_transport, resilient_exporter};
