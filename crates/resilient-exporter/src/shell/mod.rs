//! Threads and shared state: asks the core, acts on its effects, reports results to it.
//!
//! | File | Purpose |
//! | --- | --- |
//! | `ask` | an operation that a user's thread hands to the disk thread |
//! | `commit` | durable mode on the disk thread: group commits, marks, hand-over to files, recovery |
//! | `disk` | the disk thread |
//! | `net` | the net thread |
//! | `shared` | the state that the exporter, its handles and both threads share |

pub(crate) mod ask;
pub(crate) mod commit;
pub(crate) mod disk;
pub(crate) mod net;
pub(crate) mod shared;
