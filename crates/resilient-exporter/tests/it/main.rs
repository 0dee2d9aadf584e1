//! The exporter behind the real SDK, against a real receiver on real sockets.

mod delivery;
mod life;
mod seams;
mod support;
