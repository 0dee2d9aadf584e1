//! The files are named after their part.
pub(crate) mod clock;
pub(crate) mod rate;
pub(crate) mod room;
