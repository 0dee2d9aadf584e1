//! The trials themselves, in a few seconds each.

mod chaos;
mod outages;
mod tls_front;
