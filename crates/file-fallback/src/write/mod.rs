//! Writes records to new files.
//!
//! | File | Purpose |
//! | --- | --- |
//! | `encode` | records to the bytes of a file |
//! | `writer` | enforces the limits for a new file, writes it, publishes it |

mod encode;
pub(crate) mod writer;
