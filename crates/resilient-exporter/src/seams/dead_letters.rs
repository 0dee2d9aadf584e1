//! Dead letters: refused batches as users see them, and the errors of operations on them.

use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};

use super::fallback::FallbackError;
use crate::report::forked::Forked;

/// The longest that a user's thread waits for the disk thread.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The description of spans that a collector refused for good, or that failed again and again while others did not.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DeadLetter {
    /// Its name among the dead letters: a file name, as a rule. Later letters have higher numbers in it.
    pub id: String,
    /// `traces`, or the signal of the [`Pipeline`](crate::Pipeline).
    pub signal: String,
    /// The status of the collector's answer, such as `HTTP 400`; `none` without an answer.
    pub status: String,
    /// The cause, in the collector's words where its answer has some.
    pub reason: String,
    /// The collector that refused the spans.
    pub endpoint: String,
    /// Calls that were made for them.
    pub attempts: u32,
    /// The time at which the exporter accepted them, or read them from a file.
    #[serde(serialize_with = "rfc3339")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub accepted: SystemTime,
    /// The time at which they were refused.
    #[serde(serialize_with = "rfc3339")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub refused: SystemTime,
    /// The number of spans.
    pub spans: u64,
    /// The letter's size on disk.
    pub bytes: u64,
}

/// A dead letter was redriven: its spans are stored for delivery again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Redriven {
    /// The number of spans; they are replayed like all stored spans.
    pub spans: u64,
    /// The letter could not be removed, or not durably: after a crash its spans may arrive a second time.
    pub letter_stays: bool,
}

/// The error of an operation on dead letters. No span was lost or moved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeadLetterError {
    /// No letter has this id.
    #[error("there is no dead letter {:?}: list them", shortened(id))]
    Unknown {
        /// The id of the request.
        id: String,
    },
    /// The letter cannot be used.
    #[error("dead letter {id:?} cannot be used: {why}")]
    Damaged {
        /// Its id.
        id: String,
        /// The damage, and the place of the letter now.
        why: String,
    },
    /// The letter's spans do not fit among the stored ones, of which none is dropped for them. The letter stays.
    #[error("the dead letter stays: {0}")]
    NoRoom(#[source] FallbackError),
    /// The storage failed. All letters stay.
    #[error("dead letters cannot be used now: {0}")]
    Storage(#[source] FallbackError),
    /// The exporter has no fallback, or was shut down.
    #[error("dead letters are not to be had: the exporter has no fallback, or was shut down")]
    Unavailable,
    /// The process was forked from the one that built the exporter.
    #[error(transparent)]
    Forked(Forked),
    /// The disk thread has not answered within 30 s. It may still carry the operation out.
    #[error("the disk has not answered within {} s; what was asked for may still be done", PATIENCE.as_secs())]
    TimedOut,
}

fn shortened(id: &str) -> String {
    id.chars().take(100).collect()
}

fn rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    match jiff::Timestamp::try_from(*time) {
        Ok(timestamp) => serializer.collect_str(&format_args!("{timestamp:.3}")),
        Err(_) => serializer.serialize_none(),
    }
}
