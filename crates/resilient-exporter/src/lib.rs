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
mod clock;
mod commit;
mod decide;
mod disk;
mod endpoint;
mod error;
mod events;
mod exporter;
mod fallback;
mod file_store;
mod handle;
mod health;
mod journal;
mod journal_store;
mod ledger;
mod letters;
mod net;
mod records;
mod replay;
mod shared;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod whole;

pub use ::journal::SyncPolicy;
pub use builder::{Builder, ByExporter, ByTransport, DEFAULT_REQUEST_MAX_BYTES, IntoPrimary};
pub use clock::{Clock, SystemClock};
pub use endpoint::Backoff;
pub use error::BuildError;
pub use events::Event;
pub use exporter::ResilientSpanExporter;
pub use fallback::{Change, Fallback, FallbackError, Kept, Stored};
pub use file_fallback::Compression;
pub use handle::{FlushError, Handle};
pub use health::{Health, Metrics, Status};
pub use journal::{Journal, JournalError, Journaled, Recovered};
pub use journal_store::JournalOpenError;
pub use ledger::{DropReason, Ledger, RefuseReason};
pub use letters::{DeadLetter, DeadLetterError, RedriveReport, Redriven};
pub use records::FallbackFormat;
pub use replay::{Fate, Refusal};
