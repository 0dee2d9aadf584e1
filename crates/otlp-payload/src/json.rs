//! OTLP JSON, out of protobuf bytes and back into them, without structs in between.
//!
//! A line is one `TracesData` object (`LogsData`, `MetricsData`) as the OTLP specification has it: proto3 JSON with
//! lowerCamelCase names, trace and span ids in hex, enumerations as numbers, 64-bit integers as strings, doubles that
//! read back exactly, `"NaN"`, `"Infinity"` and `"-Infinity"`, bytes in base64. [`to_lines`] and then [`from_line`]
//! give back, byte for byte, what the [`Encoder`](crate::Encoder) wrote, except that every NaN becomes the canonical
//! one.

mod digits;
mod error;
mod number;
mod object;
mod read;
mod scan;
pub(crate) mod schema;
pub(crate) mod text;
mod write;

pub use error::JsonError;
pub use read::{MAX_LINE_BYTES, from_line, from_line_of, from_line_within};
pub use write::{JsonLine, to_lines, to_lines_of};
