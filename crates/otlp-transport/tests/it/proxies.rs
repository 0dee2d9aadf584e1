//! Connections through a proxy, and proxies that do not do as they should.

mod choice;
mod forward;
mod refusals;
pub(crate) mod support;
mod tunnel;
