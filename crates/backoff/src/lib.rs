//! How long to wait before the next retry, and whether to retry at all.
//!
//! The policies are arithmetic: they never sleep, read no clock and own no random source. Only [`retry`] and
//! [`retry_async`] act, with a clock and a sleeper that the caller can replace. Attempt 0 is the first *retry*: "5
//! retries" are six calls.
//!
//! ```
//! use std::time::Duration;
//! use backoff::{Backoff, Exponential};
//!
//! let policy = Exponential::default(); // 1, 2, 4, 8, 16 s, each +-25 %, never above 20 s
//! assert_eq!(policy.delay(0, 0.5), Duration::from_secs(1)); // 0.5 is the middle of the jitter
//! assert_eq!(policy.delay(3, 0.0), Duration::from_secs(6));
//! assert!(policy.delay(u32::MAX, 0.999_999) <= Duration::from_secs(20));
//! assert_eq!(Backoff::new(policy).delays().count(), 5);
//! ```

mod budget;
mod delays;
mod driver;
mod error;
mod limits;
mod policy;
mod random;
mod retry;
mod retry_async;
mod rules;
#[cfg(feature = "tower")]
pub mod tower;

pub use budget::{Budget, BudgetBuilder};
pub use delays::{Delays, Stop};
pub use driver::GaveUp;
pub use error::InvalidConfig;
pub use limits::{Backoff, BackoffBuilder};
pub use policy::{Constant, Decorrelated, Exponential, ExponentialBuilder, FromFn, Jitter, Policy, from_fn};
pub use retry::{Retry, retry};
pub use retry_async::retry_async;
#[cfg(feature = "tokio")]
pub use retry_async::tokio_sleep;

// One of its examples is a tower stack.
#[cfg(all(doctest, feature = "tower"))]
#[doc = include_str!("../README.md")]
struct Readme;
