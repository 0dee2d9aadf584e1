//! Threads and shared state: reports events to the core and acts on its effects.
//!
//! | File | Purpose |
//! | --- | --- |
//! | `commit` | durable mode on the disk thread: group commits, marks, the hand-over to files, recovery |
//! | `disk` | the disk thread |
//! | `ending` | flush and shutdown, on the thread of the caller |
//! | `group_size` | the size of the next group to replay |
//! | `health` | health, on the thread of the caller |
//! | `net` | the net thread |
//! | `queue` | the disk thread's queue of effects |
//! | `shared` | the state that the exporter, its handles and both threads share |
//! | `signals` | the signal of a file that is too large |

pub(crate) mod commit;
pub(crate) mod disk;
pub(crate) mod ending;
mod group_size;
mod health;
pub(crate) mod net;
mod queue;
pub(crate) mod shared;
pub(crate) mod signals;
