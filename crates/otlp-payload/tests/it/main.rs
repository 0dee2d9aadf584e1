//! The crate from outside, against the stock encoder and an independent JSON reader.

mod encode;
mod json;
mod spans;
