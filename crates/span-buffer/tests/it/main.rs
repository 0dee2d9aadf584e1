//! The buffer from outside.

mod buffer;
