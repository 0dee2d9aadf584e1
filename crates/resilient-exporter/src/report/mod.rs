//! Numbers, events and health for users. Knows no other part of the crate.
//!
//! | File | Purpose |
//! | --- | --- |
//! | `ledger` | the account of every span: places, transfers, the identity |
//! | `events` | events for subscribers, and the log |
//! | `health` | status, issues, metrics |
//! | `log` | the one place that calls `tracing` |
//! | `outages` | the log lines of outages |
//! | `rates` | the calls of the last minutes by their answers |
//! | `warnings` | the warnings of the log, limited by time |

pub(crate) mod events;
pub(crate) mod health;
pub(crate) mod ledger;
pub(crate) mod log;
mod outages;
#[cfg_attr(not(test), expect(dead_code, reason = "the core counts its calls next"))]
pub(crate) mod rates;
pub(crate) mod warnings;
