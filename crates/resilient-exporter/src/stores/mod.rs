//! Our implementations of the seams, in files.
//!
//! | File | Purpose |
//! | --- | --- |
//! | `dead_letters` | refused batches in files of their own |
//! | `files` | batches in fallback files |
//! | `home` | the state directory: this process's own in it, and the content of processes that have ended |
//! | `journal` | accepted batches in the journal |
//! | `layout` | the version and the service of a state directory |
//! | `log` | the warnings of one store |
//! | `marks` | the failures of a stored batch as a file keeps them, and back |
//! | `none` | the fallback of an exporter that has a journal alone |
//! | `old_layout` | the directories of the layout before this one |
//! | `outages` | the records of outages |
//! | `records` | a batch as records of a file, and back |

mod dead_letters;
pub(crate) mod files;
pub(crate) mod home;
pub(crate) mod journal;
pub(crate) mod layout;
mod log;
mod marks;
pub(crate) mod none;
pub(crate) mod old_layout;
pub(crate) mod outages;
pub(crate) mod records;

use std::error::Error;

use otlp_transport::ErrorChain;

use crate::seams::fallback::FallbackError;

/// The place of a file that was set aside, for the log.
fn place_of(moved_to: Option<&str>) -> String {
    moved_to.map_or_else(|| "it could not be moved".to_owned(), |place| format!("it is now {place}"))
}

/// An error with all its sources in one line, as health shows it to an operator.
fn in_one_line(error: impl Error + 'static) -> FallbackError {
    FallbackError::new(ErrorChain(&error).to_string())
}
