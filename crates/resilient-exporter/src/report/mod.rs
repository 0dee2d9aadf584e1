//! Numbers, events and health for users. Knows no other part of the crate.
//!
//! | File | Purpose |
//! | --- | --- |
//! | `calls` | the durations of calls, by their results |
//! | `ledger` | the account of every span: places, transfers, the identity |
//! | `details` | health of each collector and of each kind of storage |
//! | `events` | events for subscribers, and the log |
//! | `facts` | the facts of one moment, and the judgement on them |
//! | `forked` | the numbers of a process that was forked from the one of the exporter |
//! | `health` | status, issues, metrics |
//! | `lateness` | the time from the end of spans to their acknowledgement |
//! | `log` | the one place that calls `tracing` |
//! | `losses` | the lost spans of the last minutes by reason |
//! | `notes` | the trouble of storage that was found at the start |
//! | `outage_records` | the newest outages, for users who ask afterwards |
//! | `outages` | the log lines of outages |
//! | `position` | the place of a collector in the list of endpoints |
//! | `rates` | the calls of the last minutes by their answers |
//! | `remedies` | the remedy of each failure |
//! | `warnings` | the warnings of the log, limited by time |

pub(crate) mod calls;
pub(crate) mod details;
pub(crate) mod events;
pub(crate) mod facts;
pub(crate) mod forked;
pub(crate) mod health;
pub(crate) mod lateness;
pub(crate) mod ledger;
pub(crate) mod log;
pub(crate) mod losses;
pub(crate) mod notes;
pub(crate) mod outage_records;
mod outages;
pub(crate) mod position;
pub(crate) mod rates;
pub(crate) mod remedies;
pub(crate) mod warnings;
