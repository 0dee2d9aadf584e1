//! The resource: the attributes of the sending service on every batch.

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::TelemetryResourceDetector;

use crate::settings::Settings;

/// `telemetry.sdk.*`, then the environment's list, then code, then name and version; of two attributes with one key the
/// later one wins.
pub(crate) fn of(settings: &Settings, attributes: &[KeyValue]) -> Resource {
    let listed = settings.resource_attributes.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
    let version = settings.service_version.iter().map(|version| KeyValue::new("service.version", version.clone()));
    Resource::builder_empty()
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_attributes(listed)
        .with_attributes(attributes.iter().cloned())
        .with_attributes(version)
        .with_service_name(settings.service_name.clone())
        .build()
}
