//! The service over real HTTP: real sockets, a real exporter, a real collector on loopback.

mod access;
mod answers;
mod documented;
mod ending;
mod events;
mod letters;
mod limits;
mod metrics;
mod openapi;
mod resilience;
mod resilience_http;
mod slow_readers;
mod support;
mod testing_page;
mod traces;
mod verbs;
