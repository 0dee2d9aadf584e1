//! The application's own health, and the health of its telemetry.

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use axum::routing::get;
use schemars::JsonSchema;
use serde::Serialize;
use telemetry_manager::HealthReport;
use telemetry_manager::resilient_exporter::{CollectorHealth, Ledger, Status, StorageHealth};

use crate::problem::{Problem, json_answer};
use crate::query::Query;
use crate::shared::Shared;
use crate::simulated::Simulated;

/// The version of this crate.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The application's own health: it answers, therefore it lives. Telemetry is no part of it, so that no outage of a
/// collector restarts a program or takes it out of service. Load balancers add parameters: none is refused.
pub(crate) fn root_routes() -> Router<Shared> {
    Router::new().route("/health", get(own)).route("/health/live", get(own)).route("/health/ready", get(ready))
}

pub(crate) fn telemetry_routes() -> Router<Shared> {
    Router::new().route("/telemetry-test/health", get(telemetry))
}

/// The application's own health.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ApplicationHealth")]
pub(crate) struct Own {
    /// `healthy`; of `/health/ready` `ready` or `not ready`.
    status: &'static str,
    /// Since the router was made.
    uptime_seconds: u64,
}

async fn own(State(shared): State<Shared>) -> Response {
    json_answer(StatusCode::OK, own_report(&shared, "healthy"))
}

async fn ready(State(shared): State<Shared>) -> Response {
    if (shared.is_ready)() {
        json_answer(StatusCode::OK, own_report(&shared, "ready"))
    } else {
        json_answer(StatusCode::SERVICE_UNAVAILABLE, own_report(&shared, "not ready"))
    }
}

fn own_report(shared: &Shared, status: &'static str) -> String {
    let own = Own { status, uptime_seconds: shared.uptime() };
    serde_json::to_string(&own).unwrap_or_default()
}

/// The health report, and the exporter's details beside it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "TelemetryHealth")]
pub(crate) struct Telemetry {
    #[serde(flatten)]
    report: HealthReport,
    /// Calls that the collector acknowledged within 5 minutes, over all calls; 1.0 without a call.
    success_rate_5m: f64,
    /// The age of the oldest batch that waits in memory, files or journal; null without one.
    oldest_waiting_seconds: Option<f64>,
    /// The greatest time from the end of a span to its acknowledgement within the last 5 to 10 minutes; null if nothing
    /// was delivered.
    recent_lateness_seconds: Option<f64>,
    /// Each collector: its breaker, its waits, its refusal.
    collectors: Vec<CollectorHealth>,
    /// Files, journal and dead letters, each with its limit.
    storage: StorageHealth,
    /// The place of each span.
    ledger: Ledger,
    /// Null unless a failure of the collector is simulated.
    simulated_failure: Option<Simulated>,
    /// The version of the service.
    version: &'static str,
    /// Since the router was made.
    uptime_seconds: u64,
}

async fn telemetry(State(shared): State<Shared>, uri: Uri) -> Result<Response, Problem> {
    Query::parse(&uri, &[])?;
    let (report, exporter) = shared.observer.snapshot();
    let status = status_code(report.status);
    // Without an exporter the shape is the same, and nothing has happened.
    let (oldest, lateness) =
        exporter.as_ref().map_or((None, None), |health| (health.oldest_waiting, health.lateness.recent));
    let (success_rate_5m, collectors, storage, ledger) = match exporter {
        Some(health) => (health.success_rate_5m, health.collectors, health.storage, health.ledger),
        None => (1.0, Vec::new(), StorageHealth::default(), Ledger::default()),
    };
    let body = Telemetry {
        report,
        success_rate_5m,
        oldest_waiting_seconds: oldest.map(seconds),
        recent_lateness_seconds: lateness.map(seconds),
        collectors,
        storage,
        ledger,
        simulated_failure: Simulated::now(&shared.observer),
        version: VERSION,
        uptime_seconds: shared.uptime(),
    };
    let body = serde_json::to_string(&body).map_err(|error| {
        let detail = format!("the health report is no JSON: {error}");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail, uri.path())
    })?;
    Ok(json_answer(status, body))
}

/// To the millisecond.
fn seconds(time: Duration) -> f64 {
    time.as_millis() as f64 / 1_000.0
}

/// An open breaker loses nothing: only lost spans are 503.
fn status_code(status: Status) -> StatusCode {
    match status {
        Status::Healthy | Status::Degraded => StatusCode::OK,
        Status::Unhealthy => StatusCode::SERVICE_UNAVAILABLE,
    }
}
