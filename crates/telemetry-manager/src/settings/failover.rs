//! The endpoints of the transport: the primary one, and those that take over while it is unavailable.

use otlp_transport::{ConfigError, Endpoints};

use super::Settings;
use super::table::{FAILBACK_DELAY, FAILOVER_ENDPOINTS, FALLBACK_ENDPOINT, Setting};

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
/// `is_given` says whether a variable is set.
pub(super) fn leave(
    settings: &mut Settings,
    endpoints: Result<Endpoints, ConfigError>,
    is_given: impl Fn(&str) -> bool,
) {
    const WHY: &str = "has no effect: the program sends by a transport of its own";
    match endpoints {
        Ok(endpoints) => {
            if !endpoints.failover.is_empty() {
                let name = source(settings, is_given);
                let message = format!("{name} {WHY}; `with_exporter` gives it other transports to fail over to");
                settings.warn(name, message);
            }
            settings.transport = endpoints.primary;
        }
        Err(error) => settings.warn(error.setting(), format!("{error}; it {WHY}")),
    }
}

/// The setting that has the endpoints behind the first one: the list, or else the fallback endpoint.
fn source(settings: &Settings, is_given: impl Fn(&str) -> bool) -> &'static str {
    const OF_TRACES: &str = "OTEL_EXPORTER_OTLP_TRACES_FALLBACK_ENDPOINT";
    let (list, fallback) = (FAILOVER_ENDPOINTS, FALLBACK_ENDPOINT);
    let is_in_code = |row: &Setting| settings.in_code.contains(row.name);
    match is_in_code(&list) || is_given(list.name) {
        true => settings.source(&list),
        false if !is_in_code(&fallback) && is_given(OF_TRACES) => OF_TRACES,
        false => settings.source(&fallback),
    }
}

/// Warns of a delay that no endpoint uses. `is_given` says whether a variable is set.
pub(super) fn warn_of_delay(settings: &mut Settings, is_given: impl Fn(&str) -> bool) {
    let row = FAILBACK_DELAY;
    let is_used = !settings.failover.is_empty() || settings.in_code.contains(row.name);
    if !is_used && is_given(row.name) && row.value(settings) != row.default() {
        let list = settings.source(&FAILOVER_ENDPOINTS);
        let message =
            format!("{} has no effect: there is one endpoint; {list} gives it others to fail over to", row.name);
        settings.warn(row.name, message);
    }
}
