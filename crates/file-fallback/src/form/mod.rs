//! How a record stands in a file, and how a file is named. Touches no disk.
//!
//! | File | Purpose |
//! | --- | --- |
//! | `format` | one record as bytes: a line, or a frame; the largest record, part and file |
//! | `name` | the name of one file |
//! | `names` | the names of one store: its signal, and the number that the next file gets |
//! | `record` | a record to be written |

pub(crate) mod format;
pub(crate) mod name;
pub(crate) mod names;
pub(crate) mod record;
