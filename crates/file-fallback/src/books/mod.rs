//! The state of the files in memory: which there are, which of their records are settled; and the log that preserves
//! it.
//!
//! | File | Purpose |
//! | --- | --- |
//! | `ranges` | a set of record numbers |
//! | `tried` | the failed attempts of the records of one file |
//! | `progress` | the log of settled records and failed attempts, beside the files |
//! | `file` | one file: which of its records are settled or handed out |
//! | `catalog` | all files with records that are not settled, and the sums over them |

pub(crate) mod catalog;
pub(crate) mod file;
pub(crate) mod progress;
pub(crate) mod ranges;
pub(crate) mod tried;
