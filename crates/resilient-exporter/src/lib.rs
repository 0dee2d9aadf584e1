//! A span exporter that survives its collector.
//!
//! Spans are encoded once, wait in a bounded buffer, go to the collector by a circuit breaker and a backoff, spill to files
//! when memory is not enough, and are replayed when the collector is back. Where every span is stands in a [`Ledger`] whose
//! identity holds in each snapshot. `export` never waits for the collector, a retry or the disk; it never retries on the
//! caller's thread, never starts a runtime of the caller's, and never reads the environment: settings come from the
//! [`Builder`]. Terms are OpenTelemetry's and OTLP's, those of the breaker *Release It!*'s.
//!
#![doc = include_str!("../README.md")]

mod builder;
mod core;
mod error;
mod exporter;
mod handle;
#[cfg(test)]
mod proofs;
mod report;
mod seams;
mod shell;
mod stores;

pub use ::journal::SyncPolicy;
pub use builder::{Builder, ByExporter, ByTransport, IntoPrimary};
pub use error::BuildError;
pub use exporter::ResilientSpanExporter;
pub use file_fallback::Compression;
pub use handle::{Handle, RedriveReport};
pub use report::events::Event;
pub use report::health::{Health, Metrics, Status};
pub use report::ledger::{DropReason, Ledger, RefuseReason};
pub use seams::backoff::Backoff;
pub use seams::clock::{Clock, SystemClock};
pub use seams::dead_letters::{DeadLetter, DeadLetterError, Redriven};
pub use seams::fallback::{Change, Fallback, FallbackError, ReadBack, Stored, Usage};
pub use seams::fates::{Fate, Refusal};
pub use seams::journal::{Journal, JournalError, JournalUsage, Recovered};
pub use seams::settings::{
    Breaker, Buffer, DeadLetters, Durability, FallbackFormat, Files, Replay, Requests, Retry, Settings, Shutdown,
};
pub use shell::ending::FlushError;
pub use stores::journal::JournalOpenError;
