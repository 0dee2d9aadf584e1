//! Decides whether a call may go out now: a circuit breaker.
//!
//! The breaker counts outcomes, never sees the calls themselves and does no I/O; asking, reporting and commanding have
//! twins that take `now`, and [`Breaker::with_clock`] serves whole calls, so that tests need no clock. States and terms
//! are those of *Release It!* (closed, open, half-open).
//!
//! ```
//! use std::time::{Duration, Instant};
//! use breaker::{Breaker, Config, State};
//!
//! let breaker = Breaker::new(Config::builder().with_open_jitter(0.0).build()?);
//! # #[expect(clippy::disallowed_methods, reason = "an example that starts somewhere")]
//! let now = Instant::now();
//! for _ in 0..5 { // the default failure threshold
//!     breaker.try_acquire_at(now).expect("closed").failure_at(now);
//! }
//! let rejected = breaker.try_acquire_at(now).unwrap_err();
//! assert_eq!((rejected.state(), rejected.retry_after()), (State::Open, Some(Duration::from_secs(60))));
//! # Ok::<(), breaker::InvalidConfig>(())
//! ```
#![cfg_attr(not(feature = "std"), no_std)]

extern crate alloc;

mod config;
mod machine;
mod state;
mod window;

pub use config::{Config, ConfigBuilder, Dropped, InvalidConfig, Rate, Trip, Window};
pub use machine::{Command, Machine, Step, Ticket};
pub use state::{Change, Counters, Kind, Outcome, Reason, Rejected, Report, State, TRANSITIONS};

#[cfg(feature = "std")]
mod breaker;
#[cfg(feature = "std")]
mod call;
#[cfg(feature = "std")]
mod history;
#[cfg(feature = "std")]
mod listeners;
#[cfg(feature = "std")]
mod permit;
#[cfg(feature = "serde")]
mod serde;
#[cfg(feature = "std")]
mod shared;
#[cfg(feature = "std")]
mod sync;
#[cfg(feature = "tower")]
pub mod tower;

#[cfg(feature = "std")]
pub use crate::{breaker::Breaker, call::CallError, history::Transition, listeners::ListenerId, permit::Permit};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
