//! The breaker as its users see it.

mod shell;
