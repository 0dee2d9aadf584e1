//! The limits of a store: bytes, age, files, free space. Files that exceed them are removed, oldest first.
//!
//! | File | Purpose |
//! | --- | --- |
//! | `clock` | the store's own time, which does not follow jumps of the wall clock |
//! | `rate` | how fast the store fills up |
//! | `evict` | removes files until the limits hold, or refuses a new one |

mod clock;
pub(crate) mod evict;
mod rate;
