//! The numbers, and the outages: as JSON for people and scripts; a page for Prometheus in the format that it accepts.

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};
use telemetry_manager::HealthReport;
use telemetry_manager::metrics::Snapshot;
use telemetry_manager::resilient_exporter::{Health, Ledger, Metrics, OutageRecord};

use crate::metrics::{CONTENT_TYPE, OPENMETRICS_CONTENT_TYPE, openmetrics_text, prometheus_text};
use crate::problem::{Problem, json_answer};
use crate::query::Query;
use crate::shared::Shared;

pub(crate) fn root_routes() -> Router<Shared> {
    Router::new().route("/metrics", get(page))
}

pub(crate) fn telemetry_routes() -> Router<Shared> {
    Router::new().route("/telemetry-test/metrics", get(numbers)).route("/telemetry-test/outages", get(outages))
}

/// The outages of the collector.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Outages {
    /// The newest 32, those of earlier processes too, the oldest of them first; the last one may last.
    outages: Vec<OutageRecord>,
}

async fn outages(State(shared): State<Shared>, uri: Uri) -> Result<Response, Problem> {
    Query::parse(&uri, &[])?;
    let outages = shared.observer.handle().map(|handle| handle.outages()).unwrap_or_default();
    Ok(json_answer(StatusCode::OK, serde_json::to_string(&Outages { outages }).unwrap_or_default()))
}

/// The schema of the resilience metrics, and of the ledger beside them.
#[derive(JsonSchema)]
#[schemars(rename = "ResilienceMetrics")]
#[expect(dead_code, reason = "the answer is a part of the health report; its tests compare it with this schema")]
pub(crate) struct Numbers {
    #[schemars(flatten)]
    metrics: Metrics,
    /// The place of each span.
    ledger: Ledger,
}

async fn numbers(State(shared): State<Shared>, uri: Uri) -> Result<Response, Problem> {
    Query::parse(&uri, &[])?;
    let (report, exporter) = shared.observer.snapshot();
    Ok(json_answer(StatusCode::OK, as_json(&report, exporter.as_ref()).to_string()))
}

/// The nine resilience metrics, and the ledger beside them. Without an exporter all are zeros.
pub(crate) fn as_json(report: &HealthReport, exporter: Option<&Health>) -> Value {
    let ledger = exporter.map_or_else(Ledger::default, |health| health.ledger.clone());
    let mut numbers = match serde_json::to_value(report) {
        Ok(mut report) => report["resilience_metrics"].take(),
        Err(_) => json!({}),
    };
    numbers["ledger"] = serde_json::to_value(ledger).unwrap_or_default();
    numbers
}

/// Prometheus sends the parameters of its configuration: none is refused.
async fn page(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    let snapshot = Snapshot::of(&shared.observer);
    let is_open = wants_openmetrics(&headers);
    let (content_type, page) = if is_open {
        (OPENMETRICS_CONTENT_TYPE, openmetrics_text(&snapshot))
    } else {
        (CONTENT_TYPE, prometheus_text(&snapshot))
    };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(content_type)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::VARY, HeaderValue::from_static("accept")),
    ];
    (headers, page).into_response()
}

/// Whether `Accept` names OpenMetrics 1.0 and prefers no text format to it. A wildcard alone stands for the text format
/// that every scraper reads.
fn wants_openmetrics(headers: &HeaderMap) -> bool {
    let (mut open, mut text) = (0.0_f64, 0.0_f64);
    for range in
        headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(','))
    {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
        let (mut quality, mut version) = (1.0, None);
        for parameter in parts {
            match parameter.split_once('=') {
                Some((name, value)) if name.trim().eq_ignore_ascii_case("q") => {
                    quality = value.trim().parse().ok().filter(|q| (0.0..=1.0).contains(q)).unwrap_or(0.0);
                }
                Some((name, value)) if name.trim().eq_ignore_ascii_case("version") => {
                    version = Some(value.trim().trim_matches('"').to_owned());
                }
                _ => {}
            }
        }
        match (kind.as_str(), version.as_deref()) {
            ("application/openmetrics-text", None | Some("1.0.0")) => open = open.max(quality),
            ("text/plain", None | Some("0.0.4")) => text = text.max(quality),
            _ => {}
        }
    }
    open > 0.0 && open >= text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_the_one_that_the_scraper_prefers() {
        for (accept, expected) in [
            ("", false),
            ("*/*", false),
            ("text/plain", false),
            ("application/openmetrics-text", true),
            ("application/openmetrics-text; version=1.0.0; charset=utf-8", true),
            ("application/openmetrics-text;version=\"1.0.0\"", true),
            ("application/openmetrics-text;version=0.0.1", false),
            ("application/openmetrics-text;version=1.0.0;q=0", false),
            ("application/openmetrics-text;q=nonsense", false),
            ("application/openmetrics-text;q=0.3, text/plain;q=0.5", false),
            // Prometheus 2.42 and 3.
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                 text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                true,
            ),
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=1.0.0;q=0.5,\
                 text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                true,
            ),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            assert_eq!(wants_openmetrics(&headers), expected, "{accept}");
        }
    }
}
