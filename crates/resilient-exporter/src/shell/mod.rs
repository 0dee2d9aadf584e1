//! Threads and shared state: reports events to the core and acts on its effects.
//!
//! | File | Purpose |
//! | --- | --- |
//! | `commit` | the operations of the journal thread on the journal |
//! | `disk` | the disk thread |
//! | `ending` | shutdown, on the thread of the caller |
//! | `flush` | flush, checkpoint and settled, on the thread of the caller |
//! | `group_size` | the size of the next group to replay |
//! | `hand_over` | the disk thread's side of durable mode |
//! | `health` | health, on the thread of the caller |
//! | `jobs` | the journal thread's queue of jobs |
//! | `journal` | the journal thread, in durable mode |
//! | `net` | the net thread |
//! | `nice` | the priority of threads |
//! | `outage_span` | the span of an outage |
//! | `own` | the threads of an exporter know that they are its own |
//! | `packer` | the thread that compresses waiting batches |
//! | `plan` | when the journal thread syncs |
//! | `process` | the process of the exporter, and a child that was forked from it |
//! | `queue` | the disk thread's queue of effects |
//! | `shared` | the state that the exporter, its handles and all threads share |
//! | `signals` | the signal of a file that is too large |
//! | `staging` | spans between their end and their batch |
//! | `watch` | counts of wake-ups, and the observers of calls |

pub(crate) mod commit;
pub(crate) mod disk;
pub(crate) mod ending;
pub(crate) mod flush;
mod group_size;
pub(crate) mod hand_over;
mod health;
pub(crate) mod jobs;
pub(crate) mod journal;
pub(crate) mod net;
pub(crate) mod nice;
mod outage_span;
pub(crate) mod own;
pub(crate) mod packer;
pub(crate) mod plan;
pub(crate) mod process;
mod queue;
pub(crate) mod shared;
pub(crate) mod signals;
pub(crate) mod staging;
pub(crate) mod watch;
