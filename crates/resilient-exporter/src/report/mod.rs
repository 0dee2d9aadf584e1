//! Numbers, events and health for users. Knows no other part of the crate.
//!
//! | File | Purpose |
//! | --- | --- |
//! | `ledger` | the account of every span: places, transfers, the identity |
//! | `events` | events for subscribers, and the log |
//! | `health` | status, issues, metrics |

pub(crate) mod events;
pub(crate) mod health;
pub(crate) mod ledger;
