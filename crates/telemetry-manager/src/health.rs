//! The health of this process's telemetry, as one JSON object.

use std::fmt;
use std::time::Duration;

use otlp_transport::{Fault, FaultMode};
use resilient_exporter::{Metrics, Status};
use serde::{Serialize, Serializer};

/// The health of this process's telemetry. Its JSON is
///
/// ```json
/// {"status": "healthy", "healthy": true, "initialized": true, "issues": [],
///  "resilience_metrics": {"total_exports": 1250, "successful_exports": 1198, "failed_exports": 52,
///    "success_rate": 0.958, "buffer_size": 0, "fallback_usage": 15, "circuit_breaker_trips": 2,
///    "last_export_success": "2025-01-22T10:30:45.123Z", "last_export_failure": "2025-01-22T10:12:03.001Z"},
///  "collector_endpoint": "http://localhost:4317", "service_name": "my-api"}
/// ```
///
/// `Display` is for people: status, service and endpoint, and each issue on a line of its own.
///
/// ```
/// use telemetry_manager::OpenTelemetryManager;
///
/// let builder = OpenTelemetryManager::builder().with_service_name("my-api").with_vars(|_| None);
/// let telemetry = builder.with_sdk_disabled(true).build()?;
/// let text = telemetry.health().to_string();
/// assert_eq!(
///     text,
///     "healthy: spans of my-api go to http://localhost:4317\n- telemetry is disabled: with_sdk_disabled is true",
/// );
/// # Ok::<(), telemetry_manager::SetupError>(())
/// ```
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct HealthReport {
    /// *healthy*; *degraded*: a part fails, or is made to fail, and no span was lost within 5 minutes; *unhealthy*:
    /// spans were lost within 5 minutes, or telemetry is off since its set-up failed.
    pub status: Status,
    /// Whether `status` is *healthy*.
    pub healthy: bool,
    /// Whether spans are exported: false if telemetry is disabled, set not to export, or shut down.
    pub initialized: bool,
    /// A sentence for each problem; empty on good days.
    pub issues: Vec<String>,
    /// The outcomes of the attempts to export; without an exporter, `None`, which in JSON is all zeros.
    #[serde(serialize_with = "metrics_or_zeros")]
    #[cfg_attr(feature = "schema", schemars(with = "Metrics"))]
    pub resilience_metrics: Option<Metrics>,
    /// The URL that spans are sent to, without parts that may be secret ([`otlp_transport::Config::endpoint`]).
    pub collector_endpoint: String,
    /// `service.name`.
    pub service_name: String,
}

impl fmt::Display for HealthReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, service_name, collector_endpoint, .. } = self;
        write!(f, "{status}: spans of {service_name} go to {collector_endpoint}")?;
        self.issues.iter().try_for_each(|issue| write!(f, "\n- {issue}"))
    }
}

/// The issue of a fault that holds, `left` of which is to come.
pub(crate) fn about_fault(fault: Fault, left: Option<Duration>) -> String {
    let part = if fault.share() < 1.0 { "a part of the calls" } else { "every call" };
    let effect = match fault.mode() {
        FaultMode::Refuse => "gets no connection".to_owned(),
        FaultMode::Hang => "gets no answer".to_owned(),
        FaultMode::Status(status) => format!("gets the HTTP status {status}"),
        FaultMode::Slow(delay) => format!("goes out {delay:?} late"),
        // A mode of a newer transport.
        _ => "fails".to_owned(),
    };
    let end = match left {
        Some(left) => format!("for {} s more", left.as_secs_f64().ceil()),
        None => "until it is ended".to_owned(),
    };
    format!(
        "a failure of the collector is simulated {end}: {part} {effect}, whatever the collector does; end it by DELETE \
         /telemetry-test/simulate/collector-failure, or by Faults::end"
    )
}

/// Writes zeros without an exporter: a reader of the JSON needs no second case.
fn metrics_or_zeros<S: Serializer>(metrics: &Option<Metrics>, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Zeros {
        total_exports: u64,
        successful_exports: u64,
        failed_exports: u64,
        success_rate: f64,
        buffer_size: u64,
        fallback_usage: u64,
        circuit_breaker_trips: u64,
        last_export_success: Option<()>,
        last_export_failure: Option<()>,
    }
    match metrics {
        Some(metrics) => metrics.serialize(serializer),
        None => Zeros {
            total_exports: 0,
            successful_exports: 0,
            failed_exports: 0,
            success_rate: 1.0,
            buffer_size: 0,
            fallback_usage: 0,
            circuit_breaker_trips: 0,
            last_export_success: None,
            last_export_failure: None,
        }
        .serialize(serializer),
    }
}
