//! Receives OTLP traces on loopback, over gRPC and HTTP, keeps the ids of the spans, and fails on command.
//!
//! It is a real receiver: real sockets, requests decoded with `opentelemetry-proto`, the limits and answers of the
//! OpenTelemetry Collector. It never forwards, keeps whole spans, listens beyond 127.0.0.1, reads a clock or waits for
//! a client. It serves tests, benches, demonstrations and, embedded, an application that has no collector yet.
//!
//! ```
//! use std::time::Duration;
//! use mock_collector::{Answer, Behavior, End, MockCollector};
//!
//! let collector = MockCollector::start()?; // threads of its own: works with and without an async runtime
//! println!("export to {} or {}", collector.grpc_endpoint(), collector.http_endpoint());
//!
//! // The next two requests are told to come back in a second; the third one's spans are taken, its connection reset.
//! collector.set_next(2, Behavior::answer(Answer::grpc(14).with_retry_after(Duration::from_secs(1))));
//! collector.set_next(1, Behavior::end(End::Rst).storing());
//!
//! collector.stop(); // the ports refuse, and stay ours
//! collector.start_again()?; // the same ports
//! assert_eq!(collector.received().spans, 0);
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! Memory is bounded: at most [`id_limit`](Builder::with_id_limit) ids of 24 bytes (60 with the table around them, 90
//! while it grows), one request body a stream below the size limits, and requests kept whole only where [asked
//! for](Builder::with_kept_requests).

/// The examples of the README run too.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}

mod answer;
mod behavior;
mod child;
mod grpc;
mod http1;
mod program;
mod receipts;
mod request;
mod server;
mod shared;
mod socket;

pub use behavior::{Answer, Behavior, End};
pub use child::ChildCollector;
pub use program::run;
pub use receipts::{Protocol, Received, Request, SpanIds, read_record};
pub use server::{Builder, MockCollector};
