//! Details of health for people and dashboards: each collector, and each kind of storage with its limit.

use std::time::{Duration, SystemTime};

use breaker::State;
use serde::{Serialize, Serializer};

use super::health::{rfc3339, state_name};
use super::position::Position;

/// The state of one collector, in [`Health::collectors`](super::health::Health::collectors).
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct CollectorHealth {
    /// Its place in the list of endpoints.
    pub position: Position,
    /// Its name, without parts that may be secret ([`otlp_transport::Transport::endpoint`]).
    pub endpoint: String,
    /// Calls go to this one: the first, unless that one is unavailable.
    pub in_use: bool,
    /// State of its circuit breaker.
    #[serde(serialize_with = "state_name")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub breaker: State,
    /// The answer by which the collector refuses all spans, and the remedy, as parts of one sentence; none once the
    /// collector accepts some.
    pub refusing: Option<String>,
    /// Spans that it took; together those of the ledger.
    pub delivered: u64,
    /// Spans that it rejected in a partial success; together those of the ledger.
    pub rejected: u64,
    /// The end of the pause that it asked for.
    #[serde(serialize_with = "rfc3339")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
    pub pause_until: Option<SystemTime>,
    /// The time before which no call goes out, because of the pause, the backoff or the breaker. None if a call may go
    /// out now, or if an answer decides first.
    #[serde(serialize_with = "rfc3339")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
    pub next_attempt: Option<SystemTime>,
    /// The time until `pause_until`, which no change of the wall clock falsifies.
    #[serde(skip)]
    pub pause: Option<Duration>,
    /// The time until `next_attempt`.
    #[serde(skip)]
    pub wait: Option<Duration>,
}

/// The memory that batches take, in [`Health::memory`](super::health::Health::memory): those that wait and those that
/// are being sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct MemoryHealth {
    /// Spans.
    pub spans: u64,
    /// The limit on the spans; 0 if there is none.
    pub max_spans: u64,
    /// Bytes.
    pub bytes: u64,
    /// The limit on the bytes; 0 if there is none.
    pub max_bytes: u64,
}

/// How often each thread of the exporter has woken, in [`Health::wakeups`](super::health::Health::wakeups).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Wakeups {
    /// The net thread.
    pub net: u64,
    /// The disk thread; 0 without a fallback.
    pub disk: u64,
    /// The journal thread; 0 without durable mode.
    pub journal: u64,
}

/// Storage and its limits, in [`Health::storage`](super::health::Health::storage). The numbers are those after the last
/// operation of the disk thread.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct StorageHealth {
    /// Fallback files; none without a fallback.
    pub fallback: Option<FilesHealth>,
    /// The journal; none without durable mode.
    pub journal: Option<JournalHealth>,
    /// Dead letters; none without a fallback. Those of a process that has ended are counted once they are taken over.
    pub dead_letters: Option<FilesHealth>,
    /// Damaged files that wait for an operator.
    pub set_aside: AsideHealth,
    /// The time until the oldest fallback files must be removed, because of their limit or because the file system is
    /// full, if files go on being written as in the last 10 minutes. In JSON it is `full_in_minutes`. None if no file
    /// waits, or none was written in that time.
    #[serde(rename = "full_in_minutes", serialize_with = "minutes")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<u64>"))]
    pub full_in: Option<Duration>,
}

/// Files of one kind and their limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct FilesHealth {
    /// Files.
    pub files: u64,
    /// Spans in them.
    pub spans: u64,
    /// Their bytes on disk.
    pub bytes: u64,
    /// The limit on the bytes. That of fallback files is what the journal and other processes leave of the setting,
    /// with which they share it ([`Fallback::max_bytes`](crate::Fallback::max_bytes)).
    pub max_bytes: u64,
}

/// The journal and its limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct JournalHealth {
    /// Batches that are not done yet.
    pub batches: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// The limit on the bytes; 0 if the journal knows none.
    pub max_bytes: u64,
}

/// Damaged files that were set aside.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct AsideHealth {
    /// Files in quarantine.
    pub files: u64,
    /// Spans in them when they were written.
    pub spans: u64,
}

/// The limits on storage, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct StorageLimits {
    pub(crate) fallback: u64,
    pub(crate) dead_letters: u64,
}

#[expect(clippy::ref_option, reason = "the signature that serde calls")]
fn minutes<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => serializer.serialize_u64(time.as_secs() / 60),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_minutes_and_dates_that_people_read() {
        let storage = StorageHealth { full_in: Some(Duration::from_secs(179)), ..StorageHealth::default() };
        let json = serde_json::to_value(&storage).expect("JSON");
        assert_eq!(json["full_in_minutes"], 2);
        assert!(json["fallback"].is_null());
        let collector = CollectorHealth {
            position: Position::PRIMARY,
            in_use: true,
            delivered: 0,
            rejected: 0,
            endpoint: "http://collector:4317".to_owned(),
            breaker: State::HalfOpen,
            refusing: None,
            pause_until: Some(SystemTime::UNIX_EPOCH),
            next_attempt: None,
            pause: None,
            wait: None,
        };
        let json = serde_json::to_value(&collector).expect("JSON");
        assert_eq!((&json["breaker"], &json["pause_until"]), (&"half_open".into(), &"1970-01-01T00:00:00.000Z".into()));
    }
}
