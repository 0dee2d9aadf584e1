//! Spans as the bytes of an OTLP trace request: encode them once, then count, divide, merge, decode and
//! transcode the bytes. Requests of logs and metrics are counted, divided, merged and transcoded too.
//!
//! [`Encoder`] writes the bytes of the stock exporter, without structs in between; [`json`] is OTLP JSON,
//! out and in. Nothing in here does I/O, reads a clock, starts a thread or is `unsafe`. Terms are those of OTLP.
//!
//! ```
//! use std::time::SystemTime;
//!
//! use opentelemetry_sdk::Resource;
//! use opentelemetry_sdk::trace::SpanData;
//! use otlp_payload::{BatchId, Encoder, json};
//!
//! fn store(spans: &[SpanData], accepted: SystemTime) -> Result<(), Box<dyn std::error::Error>> {
//!     let resource = Resource::builder_empty().with_service_name("checkout").build();
//!     let encoder = Encoder::new(&resource); // once for each resource
//!     let payload = encoder.encode(BatchId { incarnation: 0x5eed, seq: 0 }, accepted, spans);
//!
//!     for line in json::to_lines(payload.bytes(), 1_000_000)? {
//!         let (request, count) = json::from_line(&line.text)?; // ready to be sent
//!         assert_eq!((&request, count), (payload.bytes(), line.items));
//!     }
//!     Ok(())
//! }
//!
//! # let context = opentelemetry::trace::SpanContext::NONE;
//! # let span = SpanData {
//! #     span_context: context,
//! #     parent_span_id: opentelemetry::trace::SpanId::INVALID,
//! #     parent_span_is_remote: false,
//! #     span_kind: opentelemetry::trace::SpanKind::Server,
//! #     name: "GET /".into(),
//! #     start_time: SystemTime::UNIX_EPOCH,
//! #     end_time: SystemTime::UNIX_EPOCH,
//! #     attributes: vec![opentelemetry::KeyValue::new("ratio", f64::INFINITY)],
//! #     dropped_attributes_count: 0,
//! #     events: Default::default(),
//! #     links: Default::default(),
//! #     status: opentelemetry::trace::Status::Unset,
//! #     instrumentation_scope: Default::default(),
//! # };
//! store(&[span], SystemTime::UNIX_EPOCH)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod age;
mod check;
mod decode;
mod divide;
mod encode;
pub mod json;
mod merge;
mod payload;
mod signal;
mod tree;
mod walk;
pub mod wire;

pub use age::Aged;
pub use check::check_items;
pub use decode::{Decoded, decode, decode_all};
pub use divide::Separated;
pub use encode::{BatchWriter, Encoder, ValueLimits};
pub use merge::{Merged, merge, merge_within};
pub use payload::{BatchId, Payload};
pub use signal::Signal;
pub use walk::{count_items, count_spans, resource_text, span_ids};
pub use wire::DecodeError;

/// The examples of the README run too.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
