//! The traits that users implement, and the types of these contracts.
//!
//! | File | Purpose |
//! | --- | --- |
//! | `backoff` | the delay before the next call to an endpoint that failed |
//! | `clock` | the two clocks |
//! | `dead_letters` | a refused batch as users see it, and why an operation on it failed |
//! | `fallback` | the store of batches that memory has no room for |
//! | `fates` | the end of a replayed batch |
//! | `journal` | the store of accepted batches that survives a crash |
//! | `settings` | every plain value that a user sets, with its default |

pub(crate) mod backoff;
pub(crate) mod clock;
pub(crate) mod dead_letters;
pub(crate) mod fallback;
pub(crate) mod fates;
pub(crate) mod journal;
pub(crate) mod settings;
