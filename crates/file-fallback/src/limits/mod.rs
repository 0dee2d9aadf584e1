//! The limits of a store: bytes, age, files, free space. Files that exceed them are removed, oldest first.
//!
//! | File | Purpose |
//! | --- | --- |
//! | `clock` | the store's own time, which does not follow jumps of the wall clock |
//! | `rate` | how fast the store fills up |
//! | `room` | removes files until the limits hold, or refuses a new one |

mod clock;
mod rate;
pub(crate) mod room;
