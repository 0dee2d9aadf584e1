//! Health and metrics of this process's telemetry over HTTP.
//!
//! The service answers from numbers that are there already: no request waits for the collector, a disk or a worker. It
//! never binds a socket of its own choice, never installs signal handlers and never changes anything. Terms are
//! OpenTelemetry's and Prometheus'.
//!
#![doc = include_str!("../README.md")]

mod metrics;
mod problem;
mod router;
mod serve;
mod trace;

pub use metrics::{CONTENT_TYPE as METRICS_CONTENT_TYPE, prometheus_text};
pub use router::router;
pub use serve::{DEFAULT_ADDRESS, serve};
pub use trace::{traced, traced_all};
