//! The exporter behind the real SDK, against a real receiver on real sockets.

mod delivery;
mod durable;
mod life;
mod seams;
mod support;
