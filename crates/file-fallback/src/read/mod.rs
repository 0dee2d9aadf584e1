//! The files are named after their part.
pub(crate) mod reader;
pub(crate) mod records;
pub(crate) mod unpack;
