//! The exporter behind the real SDK, against a real receiver on real sockets.

mod dead_letters;
mod delivery;
mod durable;
mod hostile;
mod lifecycle;
mod log;
mod seams;
mod support;
