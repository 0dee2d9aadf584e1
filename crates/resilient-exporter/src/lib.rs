//! A span exporter that survives its collector.
//!
//! Each span is encoded once, by the thread that ends it ([`ResilientSpanProcessor`]), or with its batch behind another
//! processor ([`ResilientSpanExporter`]). A batch waits in a bounded buffer, goes to the collector through a circuit
//! breaker and a backoff, spills to a file when memory is full, and is replayed when the collector is back. The
//! [`Ledger`] counts the place of every span; its identity holds in each snapshot. `on_end` waits for no collector,
//! disk or retry. `export` never waits for the collector or a retry, and for the disk only in durable mode, bounded by
//! a time-out; it never starts a runtime of the caller's, and never reads the environment: settings come from the
//! [`Builder`]. Terms are OpenTelemetry's and OTLP's; those of the breaker are *Release It!*'s.
//!
//! | Room | Purpose |
//! | --- | --- |
//! | `locks` | a mutex that is not poisoned, and a condition variable |
//! | `report` | numbers, events, health |
//! | `seams` | the traits that users implement, the types of these contracts, the settings |
//! | `core` | all decisions, pure |
//! | `stores` | our implementations of the seams, in files |
//! | `shell` | threads and shared state |
//! | `builder`, `exporter`, `processor`, `pipeline`, `guard`, `handle`, `error`, `file_exporter` | the front door |
//! | `proofs` | the simulation of the core, and crash histories over all stores |
//!
//! Each room knows those above it: `locks <- report <- seams <- {core, stores} <- shell <- front door`.
//!
#![doc = include_str!("../README.md")]

mod builder;
mod core;
mod error;
mod exporter;
mod file_exporter;
mod guard;
mod handle;
mod locks;
mod pipeline;
mod processor;
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
pub use file_exporter::{FileCounts, FileExporterError, FileSpanExporter, FileSpanExporterBuilder, FilesHandle};
pub use file_fallback::Compression;
pub use guard::ForkGuard;
pub use handle::{DeadLetterFilter, Handle, RedriveReport};
pub use otlp_payload::Signal;
pub use pipeline::{OfferError, Pipeline};
pub use processor::{FlushingProcessor, ResilientSpanProcessor};
pub use report::calls::{CallDurations, CallEnded, CallResult};
pub use report::details::{
    AsideHealth, CollectorHealth, FilesHealth, JournalHealth, MemoryHealth, StorageHealth, Wakeups,
};
pub use report::events::Event;
pub use report::forked::Forked;
pub use report::health::{Health, Metrics, Status};
pub use report::lateness::Lateness;
pub use report::ledger::{DropReason, Ledger, RefuseReason};
pub use report::notes::StorageNote;
pub use report::outage_records::OutageRecord;
pub use report::position::Position;
pub use seams::backoff::Backoff;
pub use seams::clock::{Clock, SystemClock};
pub use seams::dead_letters::{DeadLetter, DeadLetterError, Redriven};
pub use seams::fallback::{Change, Fallback, FallbackError, Order, ReadBack, SetAside, Stored, StoredBatch, Usage};
pub use seams::fates::{Failures, Fate, Refusal, Refusals};
pub use seams::journal::{Journal, JournalError, JournalUsage, Lost, Recovered, Vanished};
pub use seams::settings::{
    Breaker, Buffer, BufferCompression, DeadLetters, Durability, Failover, FallbackFormat, Files, Processor, Refused,
    Replay, ReplayOrder, Requests, Retry, Settings, Shutdown, Threads,
};
pub use shell::ending::ShutdownError;
pub use shell::flush::{FlushError, SettleError, WaitFailure};
pub use stores::journal::JournalOpenError;
