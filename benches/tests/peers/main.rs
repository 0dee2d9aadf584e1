//! Our breaker and backoff beside the crates that a user would take otherwise, driven alike.

mod half_open;
mod same_program;
