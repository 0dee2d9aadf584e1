//! Telemetry that is off: nothing is an error then.

use super::table::{Group, PROPAGATORS, SDK_DISABLED, SERVICE_NAME, SETTINGS, Setting, TRACES_EXPORTER};
use super::{Settings, TracesExporter};
use crate::error::InvalidSetting;

/// The row that turns the sending of spans off, if one does.
pub(super) fn switch(settings: &Settings) -> Option<&'static Setting> {
    if settings.sdk_disabled {
        return Some(&SDK_DISABLED);
    }
    (settings.traces_exporter == TracesExporter::None).then_some(&TRACES_EXPORTER)
}

/// Whether a setting has an effect although the one of `switch` turns the sending off.
fn has_effect(name: &str, switch: &Setting) -> bool {
    if [switch.name, SDK_DISABLED.name, SERVICE_NAME.name, PROPAGATORS.name].contains(&name) {
        return true;
    }
    // Without an exporter there are spans, with their limits, for the propagators.
    let is_of_spans = |row: &&Setting| row.name == name && matches!(row.group, Group::Service | Group::Traces);
    switch.name == TRACES_EXPORTER.name && SETTINGS.iter().find(is_of_spans).is_some()
}

/// Collects errors and warnings about settings without an effect into one warning about `switch`. The transport's
/// settings are the defaults then, unless its own can be used.
pub(super) fn without_effect(
    settings: &mut Settings,
    switch: &'static Setting,
    errors: Vec<InvalidSetting>,
    endpoints: Result<otlp_transport::Endpoints, otlp_transport::ConfigError>,
) {
    let (kept, idle): (Vec<_>, Vec<_>) =
        std::mem::take(&mut settings.warnings).into_iter().partition(|warning| has_effect(&warning.setting, switch));
    settings.warnings = kept;
    let mut texts = errors.iter().map(ToString::to_string).collect::<Vec<_>>();
    match endpoints {
        Ok(endpoints) => {
            texts.extend(endpoints.notes().map(ToString::to_string));
            (settings.transport, settings.failover) = (endpoints.primary, endpoints.failover);
        }
        Err(error) => texts.push(error.to_string()),
    }
    texts.extend(idle.into_iter().map(|warning| warning.message));
    if texts.is_empty() {
        return;
    }
    let name = settings.source(switch);
    let message = format!(
        "{name} turns telemetry off, so these settings have no effect; with telemetry they would need a look: {}",
        texts.join("; ")
    );
    settings.warn(name, message);
}
