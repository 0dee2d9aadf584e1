//! Writes records to new files.
//!
//! | File | Purpose |
//! | --- | --- |
//! | `encode` | records to the bytes of a file |
//! | `writer` | makes room for a file, writes it, publishes it |

mod encode;
pub(crate) mod writer;
