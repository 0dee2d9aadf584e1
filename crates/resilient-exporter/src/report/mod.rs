//! Numbers, events and health for users. Knows no other part of the crate.
//!
//! | File | Purpose |
//! | --- | --- |
//! | `ledger` | the account of every span: places, transfers, the identity |
//! | `events` | events for subscribers, and the log |
//! | `health` | status, issues, metrics |
//! | `rates` | the calls of the last minutes by their answers |

pub(crate) mod events;
pub(crate) mod health;
pub(crate) mod ledger;
#[cfg_attr(not(test), expect(dead_code, reason = "the core counts its calls next"))]
pub(crate) mod rates;
