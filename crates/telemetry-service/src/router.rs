//! The paths and their answers.

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use telemetry_manager::resilient_exporter::Status;
use telemetry_manager::{HealthReport, Observer};

use crate::metrics::{CONTENT_TYPE, prometheus_text};
use crate::problem::problem;

const HEALTH: &str = "/health";
const TEST_HEALTH: &str = "/telemetry-test/health";
const TEST_METRICS: &str = "/telemetry-test/metrics";

/// Every path that [`router`] answers.
pub(crate) const OWN_PATHS: [&str; 3] = [HEALTH, TEST_HEALTH, TEST_METRICS];

/// The API: `GET` (and `HEAD`) of `/health`, `/telemetry-test/health` and `/telemetry-test/metrics`. Everything else is
/// 404 or 405 with a problem that lists these paths.
pub fn router(observer: Observer) -> Router {
    Router::new()
        .route(HEALTH, get(health))
        .route(TEST_HEALTH, get(health))
        .route(TEST_METRICS, get(metrics))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(observer)
}

async fn health(State(observer): State<Observer>) -> Response {
    let report = observer.health();
    let Ok(body) = serde_json::to_string(&report) else {
        return problem(StatusCode::INTERNAL_SERVER_ERROR, "the health report could not be written as JSON", HEALTH);
    };
    (status_code(&report), headers("application/json"), body).into_response()
}

/// An open breaker is no reason to take a working process out of service: only losing spans is.
fn status_code(report: &HealthReport) -> StatusCode {
    match report.status {
        Status::Healthy | Status::Degraded => StatusCode::OK,
        Status::Unhealthy => StatusCode::SERVICE_UNAVAILABLE,
    }
}

async fn metrics(State(observer): State<Observer>) -> Response {
    (headers(CONTENT_TYPE), prometheus_text(observer.exporter_health().as_ref())).into_response()
}

fn headers(content_type: &'static str) -> [(HeaderName, HeaderValue); 2] {
    [
        (header::CONTENT_TYPE, HeaderValue::from_static(content_type)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ]
}

async fn not_found(uri: Uri) -> Response {
    let detail = format!("there is nothing here; there are {HEALTH}, {TEST_HEALTH} and {TEST_METRICS}");
    problem(StatusCode::NOT_FOUND, &detail, uri.path())
}

async fn method_not_allowed(method: Method, uri: Uri) -> Response {
    let detail = format!("{method} is not supported here; use GET");
    problem(StatusCode::METHOD_NOT_ALLOWED, &detail, uri.path())
}
