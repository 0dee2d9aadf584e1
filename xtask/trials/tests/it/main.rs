//! The trials themselves, in a few seconds each.

mod chaos;
mod content;
mod outages;
mod soak;
mod tls_front;
