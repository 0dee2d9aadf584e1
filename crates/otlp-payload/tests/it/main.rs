//! The crate from outside, against the stock encoder and an independent JSON reader.

mod age;
mod decode;
mod divide;
mod encode;
mod hostile;
mod json_lines;
mod json_read;
mod signals;
mod spans;
mod telemetry;
mod walk;
mod writer;
