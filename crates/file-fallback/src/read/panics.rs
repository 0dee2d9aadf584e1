//! A panic of a reader as an error: one file that no reader can read must not keep all others from being read.

use std::any::Any;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use safe_dir::FileError;

/// Calls `read`; a panic of it is an error at `path`. The caller drops the reader: its state is unknown.
pub(crate) fn contain<T>(
    path: impl FnOnce() -> PathBuf,
    read: impl FnOnce() -> Result<T, FileError>,
) -> Result<T, FileError> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|panic| {
        let source = io::Error::other(Panicked(message(&*panic)));
        Err(FileError::Io { path: path(), action: "read", source })
    })
}

/// Whether the error stands for a panic.
pub(crate) fn is_panic(error: &FileError) -> bool {
    error.io().and_then(io::Error::get_ref).is_some_and(|source| source.is::<Panicked>())
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("without a message").chars().take(MAX_MESSAGE).collect()
}

#[derive(Debug)]
struct Panicked(String);

impl fmt::Display for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the reader panicked: {}", self.0)
    }
}

impl std::error::Error for Panicked {}

/// The most characters of a panic's message.
const MAX_MESSAGE: usize = 200;
