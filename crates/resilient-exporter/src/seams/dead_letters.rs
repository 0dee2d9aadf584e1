//! Dead letters from the user's side: looked at, put back on their way, removed.

use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};

use crate::seams::fallback::FallbackError;

/// Spans that a collector refused for good, or that failed again and again while others did not: what is known of them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct DeadLetter {
    /// Names it among the others; a file name, as a rule. Later ones have higher numbers in it.
    pub id: String,
    /// `traces`.
    pub signal: String,
    /// What the collector answered, such as `HTTP 400`; `none` without an answer.
    pub status: String,
    /// Why, in the collector's words as far as it said.
    pub reason: String,
    /// Who refused them.
    pub endpoint: String,
    /// How many calls were made for them.
    pub attempts: u32,
    /// When the exporter accepted them, or read them from a file.
    #[serde(serialize_with = "rfc3339")]
    pub accepted: SystemTime,
    /// When they were refused.
    #[serde(serialize_with = "rfc3339")]
    pub refused: SystemTime,
    /// How many spans.
    pub spans: u64,
    /// Its size on disk.
    pub bytes: u64,
}

/// A dead letter was put back on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Redriven {
    /// How many spans are stored now, and are sent as all that is stored.
    pub spans: u64,
    /// The letter could not be removed, or not durably: its spans may come a second time after a crash.
    pub letter_stays: bool,
}

/// Why nothing became of a request about dead letters. No span was lost or moved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeadLetterError {
    /// There is none of that name.
    #[error("there is no dead letter {:?}: list them", shortened(id))]
    Unknown {
        /// As it was given.
        id: String,
    },
    /// It cannot be used.
    #[error("dead letter {id:?} cannot be used: {why}")]
    Damaged {
        /// Its name.
        id: String,
        /// What is wrong with it, and where it is now.
        why: String,
    },
    /// What it holds does not fit among what is stored, from which nothing is dropped for it. The letter stays.
    #[error("the dead letter stays: {0}")]
    NoRoom(#[source] FallbackError),
    /// The storage failed. What was there stays.
    #[error("dead letters cannot be used now: {0}")]
    Storage(#[source] FallbackError),
    /// There is no fallback, or the exporter was shut down.
    #[error("dead letters are not to be had: the exporter has no fallback, or was shut down")]
    Unavailable,
    /// The disk has not answered within 30 s. What was asked for may still be done.
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

/// How long whoever asks waits for the disk thread.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
