//! From the bytes of a file to groups of records, in constant memory.
//!
//! | File | Purpose |
//! | --- | --- |
//! | `unpack` | bytes to text: plain, zstd or gzip, and the way on after damage |
//! | `records` | text to records, each known by its number |
//! | `group` | records that are handed out together |
//! | `panics` | a panic of a reader as an error |
//! | `peek` | one record of a file that no store has opened |
//! | `reader` | the file that is open, and the next records from it |

pub(crate) mod group;
pub(crate) mod panics;
pub(crate) mod peek;
pub(crate) mod reader;
pub(crate) mod records;
pub(crate) mod unpack;
