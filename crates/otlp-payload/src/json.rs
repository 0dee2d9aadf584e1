//! OTLP JSON, out of protobuf bytes and back into them, without structs in between.

pub(crate) mod text;
