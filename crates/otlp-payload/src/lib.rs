//! An encoded OTLP trace request.

mod payload;

pub use payload::{BatchId, Payload};
