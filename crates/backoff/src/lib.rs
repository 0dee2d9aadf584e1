//! How long to wait before the next retry.
//!
//! The core is arithmetic: it never sleeps, reads no clock and owns no random source. Attempt 0 is the first *retry*; "5
//! retries" are six calls.
//!
//! ```
//! use std::time::Duration;
//! use backoff::Exponential;
//!
//! let backoff = Exponential::default(); // 1, 2, 4, 8, 16 s, each +-25 %, never above 20 s
//! assert_eq!(backoff.delay(0, 0.5), Duration::from_secs(1)); // 0.5 is the middle of the jitter
//! assert_eq!(backoff.delay(3, 0.0), Duration::from_secs(6));
//! assert!(backoff.delay(u32::MAX, 0.999_999) <= Duration::from_secs(20));
//! ```

mod error;
mod policy;

pub use error::InvalidConfig;
pub use policy::{Exponential, ExponentialBuilder, Jitter};
