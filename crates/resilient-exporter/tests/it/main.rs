//! The exporter behind the real SDK, against a real receiver on real sockets.

mod delivery;
mod durable;
mod hostile;
mod letters;
mod life;
mod log;
mod seams;
mod support;
