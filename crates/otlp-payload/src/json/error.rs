//! Why a line was not taken.

use std::error::Error;
use std::fmt;

use super::schema::request;
use crate::signal::Signal;
use crate::wire::MAX_DEPTH;

/// Why a line is not a readable `TracesData` object, or that of another signal. Nothing of such a line is taken; set it
/// aside.
///
/// Offsets count bytes from the start of the line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum JsonError {
    /// The line is longer than the limit; it was not looked at.
    TooLong {
        /// Its length.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// Not UTF-8.
    Utf8 {
        /// The first byte that is not.
        offset: usize,
    },
    /// The line ends in the middle: torn, most likely.
    Truncated {
        /// Its length.
        offset: usize,
    },
    /// Not JSON.
    Syntax {
        /// Where it stops being JSON.
        offset: usize,
        /// The tokens that are allowed there.
        expected: &'static str,
    },
    /// JSON, but not a value that this OTLP field can have.
    Value {
        /// Where the value begins.
        offset: usize,
        /// The values that the field takes.
        expected: &'static str,
    },
    /// The same field twice in one object, or two kinds of value in one attribute.
    Duplicate {
        /// Where the second key begins.
        offset: usize,
    },
    /// Values nest deeper than 100, the limit of the usual protobuf readers.
    TooDeep {
        /// Where the first value beyond the limit begins.
        offset: usize,
    },
    /// An object without `resourceSpans`, or the field of the signal that was asked for, that has other fields: another
    /// signal, or no OTLP at all.
    NoItems {
        /// The signal that was asked for.
        signal: Signal,
    },
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { length, limit } => write!(f, "line of {length} bytes is longer than {limit}"),
            Self::Utf8 { offset } => write!(f, "line is not UTF-8 at byte {offset}"),
            Self::Truncated { offset } => write!(f, "line is cut off at byte {offset}"),
            Self::Syntax { offset, expected } => write!(f, "line is not JSON at byte {offset}, expected {expected}"),
            Self::Value { offset, expected } => {
                write!(f, "line has no valid value at byte {offset}, expected {expected}")
            }
            Self::Duplicate { offset } => write!(f, "line gives a field twice at byte {offset}"),
            Self::TooDeep { offset } => write!(f, "line nests deeper than {MAX_DEPTH} at byte {offset}"),
            Self::NoItems { signal } => {
                let name = request(*signal).message.fields.first().map_or("", |field| field.name);
                write!(f, "line holds no {signal}: it has no \"{name}\"")
            }
        }
    }
}

impl Error for JsonError {}
