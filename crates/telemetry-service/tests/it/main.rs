//! The service over real HTTP: real sockets, a real exporter, a real collector on loopback.

mod answers;
mod ending;
mod metrics;
mod support;
mod traces;
