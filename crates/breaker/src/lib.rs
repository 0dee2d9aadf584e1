//! Decides whether a call may go out now: a circuit breaker.
