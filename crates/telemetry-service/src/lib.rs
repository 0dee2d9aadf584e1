//! Health, metrics, dead letters and events of this process's telemetry over HTTP.
//!
//! Health and metrics are answered from numbers that are there already: no such request waits for the collector, a disk
//! or a worker. The service never binds a socket of its own choice and never installs signal handlers. It makes spans
//! and faults only for the resilience tests that a client starts, and redrives dead letters only for a client with the
//! token. Terms are OpenTelemetry's and Prometheus'.
//!
#![doc = include_str!("../README.md")]

mod access;
mod body;
mod events;
mod health;
mod held;
mod letters;
mod metrics;
mod numbers;
mod openapi;
mod problem;
mod query;
mod router;
mod serve;
mod service;
mod shared;
mod simulated;
mod tests;
mod token;
mod trace;
mod verbs;

pub use metrics::{CONTENT_TYPE as METRICS_CONTENT_TYPE, OPENMETRICS_CONTENT_TYPE, openmetrics_text, prometheus_text};
pub use serve::{DEFAULT_ADDRESS, Limits, serve, serve_with};
pub use service::{Service, router};
pub use tests::{
    Figure, Generated, Loads, Severity, StartError, TestPlan, TestReport, TestState, TestType, Tests, Verdict,
};
pub use token::{Found, Token, TokenError};
pub use trace::{traced, traced_all};
