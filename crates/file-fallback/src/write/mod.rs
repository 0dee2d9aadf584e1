//! The files are named after their part.
pub(crate) mod encode;
pub(crate) mod writer;
