//! The files are named after their part.
pub(crate) mod adopt;
pub(crate) mod aside;
pub(crate) mod scan;
pub(crate) mod settle;
