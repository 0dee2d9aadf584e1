//! The files are named after their part.
pub(crate) mod format;
pub(crate) mod name;
