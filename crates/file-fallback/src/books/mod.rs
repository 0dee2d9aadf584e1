//! The files are named after their part.
pub(crate) mod progress;
pub(crate) mod ranges;
