//! An encoded OTLP trace request: encode, decode, count, split, OTLP JSON.
//!
//! Spans become the bytes of an `ExportTraceServiceRequest` once, and those bytes are what is buffered, resent, written
//! to files and split. Nothing in here does I/O, reads a clock or keeps a thread.

mod decode;
mod encode;
pub mod json;
mod payload;
mod walk;
mod wire;

pub use decode::{Decoded, decode, decode_all};
pub use encode::Encoder;
pub use payload::{BatchId, Payload};
pub use walk::{count_spans, span_ids};
pub use wire::DecodeError;
