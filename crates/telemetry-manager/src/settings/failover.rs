//! The endpoints of the transport: the primary one, and those that take over while it is unavailable.

use otlp_transport::{ConfigError, Endpoints};

use super::Settings;
use super::table::{FAILBACK_DELAY, FAILOVER_ENDPOINTS};

/// Takes over the settings of all endpoints, with their notes.
pub(super) fn take(settings: &mut Settings, endpoints: Endpoints) {
    for note in endpoints.notes() {
        settings.warn(note.setting, note.message.clone());
    }
    settings.remarks = endpoints.remarks().iter().map(ToString::to_string).collect();
    let Endpoints { primary, failover, .. } = endpoints;
    (settings.transport, settings.failover) = (primary, failover);
}

/// The same where the program sends by a transport of its own: the settings of ours have no effect, and are no error.
pub(super) fn leave(settings: &mut Settings, endpoints: Result<Endpoints, ConfigError>) {
    const WHY: &str = "has no effect: the program sends by a transport of its own";
    match endpoints {
        Ok(endpoints) => {
            if !endpoints.failover.is_empty() {
                let name = FAILOVER_ENDPOINTS.name;
                let message = format!("{name} {WHY}; `with_exporter` gives it other transports to fail over to");
                settings.warn(name, message);
            }
            settings.transport = endpoints.primary;
        }
        Err(error) => settings.warn(error.setting(), format!("{error}; it {WHY}")),
    }
}

/// Warns of a delay that no endpoint uses. `is_given` says whether a variable is set.
pub(super) fn warn_of_delay(settings: &mut Settings, is_given: impl Fn(&str) -> bool) {
    let row = FAILBACK_DELAY;
    let is_used = !settings.failover.is_empty() || settings.in_code.contains(row.name);
    if !is_used && is_given(row.name) && row.value(settings) != row.default() {
        settings.warn(row.name, format!("{} has no effect without {}", row.name, FAILOVER_ENDPOINTS.name));
    }
}
