//! Our implementations of the seams, in files.
//!
//! | File | Purpose |
//! | --- | --- |
//! | `files/dead_letters` | refused batches in files of their own |
//! | `files` | batches in fallback files |
//! | `journal` | accepted batches in the journal |
//! | `none` | the fallback of an exporter that has a journal alone |
//! | `records` | a batch as records of a file, and back |

pub(crate) mod files;
pub(crate) mod journal;
pub(crate) mod none;
pub(crate) mod records;
