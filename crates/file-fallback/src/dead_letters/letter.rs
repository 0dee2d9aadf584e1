//! A letter, and its first record.

use std::time::SystemTime;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Why the records of one dead letter were refused. Each text is cut to 2,000 characters; it should hold no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// The kind of the records, such as `traces`.
    pub signal: String,
    /// The answer of the peer, such as `HTTP 400` or `INVALID_ARGUMENT`.
    pub status: String,
    /// The reason, if the peer named one.
    pub reason: String,
    /// The peer that refused the records.
    pub endpoint: String,
    /// How many calls were made for them.
    pub attempts: u32,
    /// When the records were accepted; to the microsecond.
    pub accepted: SystemTime,
    /// When they were refused; to the microsecond.
    pub refused: SystemTime,
}

/// A dead letter by its name alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name, for [`DeadLetters::read`](super::DeadLetters::read) and
    /// [`DeadLetters::remove`](super::DeadLetters::remove).
    pub name: String,
    /// When it was written.
    pub time: SystemTime,
    /// The units in it, in the unit of [`Record::count`](crate::Record::count).
    pub count: u64,
    /// Its length on disk.
    pub bytes: u64,
}

/// The first record of the file.
#[derive(Serialize, Deserialize)]
struct Header {
    /// The version of this form.
    dead_letter: u32,
    signal: String,
    status: String,
    reason: String,
    endpoint: String,
    attempts: u32,
    accepted: String,
    refused: String,
}

impl Letter {
    pub(super) fn to_record(&self) -> Vec<u8> {
        let cut = |text: &str| text.chars().take(MAX_TEXT).collect();
        let time = |time: SystemTime| {
            let micros = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros();
            let time = i64::try_from(micros).ok().and_then(|micros| Timestamp::from_microsecond(micros).ok());
            time.unwrap_or(Timestamp::MAX).to_string()
        };
        let header = Header {
            dead_letter: VERSION,
            signal: cut(&self.signal),
            status: cut(&self.status),
            reason: cut(&self.reason),
            endpoint: cut(&self.endpoint),
            attempts: self.attempts,
            accepted: time(self.accepted),
            refused: time(self.refused),
        };
        serde_json::to_vec(&header).expect("strings and numbers have a JSON form")
    }

    pub(super) fn parse(record: &[u8]) -> Option<Self> {
        let header: Header = serde_json::from_slice(record).ok()?;
        let time = |text: &str| text.parse::<Timestamp>().ok().map(SystemTime::from);
        (header.dead_letter == VERSION).then_some(())?;
        Some(Self {
            accepted: time(&header.accepted)?,
            refused: time(&header.refused)?,
            signal: header.signal,
            status: header.status,
            reason: header.reason,
            endpoint: header.endpoint,
            attempts: header.attempts,
        })
    }
}

/// Stands in the first record. A letter of another version is set aside: its fields may have other meanings.
const VERSION: u32 = 1;

/// The most characters of each text.
pub(super) const MAX_TEXT: usize = 2_000;
