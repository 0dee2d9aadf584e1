//! The wall clock where the settings give no other.

use std::time::SystemTime;

#[expect(clippy::disallowed_methods, reason = "the one reading of the wall clock; an argument everywhere else")]
pub(crate) fn system_clock() -> SystemTime {
    SystemTime::now()
}
