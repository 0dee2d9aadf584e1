//! Proofs that need the inside of the crate.
//!
//! | File | Purpose |
//! | --- | --- |
//! | `bounds` | attempts on a disk that fails, and polls while thousands of batches wait |
//! | `crashes/` | crash histories over core, disk thread and all stores on a simulated disk |
//! | `journal_thread` | turns of the journal thread, and its questions to the disk thread |
//! | `outages` | the record of an outage, and the times at which the disk thread keeps it |
//! | `refusals` | an operator's acts, the order of batches, and one bad record in the store |
//! | `simulation/` | the core in virtual time, its ledger recounted after every step |
//! | `spans` | spans for tests |
//! | `threads` | the threads of the storage beside each other |
//! | `turns` | turns of the disk thread, and its end |
//! | `vanished/` | parts of the journal that another program removes, on a real disk |

mod bounds;
mod crashes;
mod journal_thread;
mod outages;
mod refusals;
mod simulation;
pub(crate) mod spans;
mod threads;
mod turns;
mod vanished;
