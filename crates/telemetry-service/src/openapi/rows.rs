//! The table of routes: a row for each operation. A test compares it with the router.

use serde_json::{Value, json};

use super::PATH;
use super::row::Row;
use crate::access::Need;
use crate::health::{Own, Telemetry};
use crate::letters::{Content, LISTED, Listed as Letters, Redriven};
use crate::numbers::{Numbers, Outages};
use crate::query;
use crate::tests::routes::{
    FAILURE, Failing, LOADS, Listed, Repaired, START, Started, TEST, TESTS, failure_schema, loads_schema, plan_schema,
};
use crate::tests::{Generated, TestReport};
use crate::verbs::{self, Waited};

/// Ids of tests.
const TEST_ID: &str = "^[0-9a-f]{16}$";
/// A test, and a letter, of the examples.
const A_TEST: &str = "3f6c1b0a9d2e4857";
const A_LETTER: &str = "dead-00000000000000000007.dlq";

/// Every operation, in the order of the document's readers.
pub(super) fn all() -> Vec<Row> {
    [health(), numbers(), tests(), letters(), waits()].into_iter().flatten().collect()
}

fn health() -> Vec<Row> {
    let own = |path, id, summary| {
        let example = json!({"status": "healthy", "uptime_seconds": 86_400});
        Row::new("get", path, Need::Nothing, id, summary).answers::<Own>(200, "The application answers", example)
    };
    let not_ready = json!({"status": "not ready", "uptime_seconds": 3});
    vec![
        own("/health", "getHealth", "The application's own health")
            .about("Never red because telemetry is lost or the collector is down."),
        own("/health/live", "getLiveness", "Whether the application lives"),
        own("/health/ready", "getReadiness", "Whether the application is ready").answers::<Own>(
            503,
            "The application is not ready",
            not_ready,
        ),
        Row::new(
            "get",
            "/telemetry-test/health",
            Need::TokenElsewhere,
            "getTelemetryHealth",
            "The health of telemetry",
        )
        .about("An open circuit breaker is degraded, and 200. Each issue is a sentence with cause and remedy.")
        .answers::<Telemetry>(200, "healthy or degraded", example(include_str!("examples/health.json")))
        .answers::<Telemetry>(
            503,
            "unhealthy: spans were lost within 5 minutes, or telemetry is off since its set-up failed",
            example(include_str!("examples/unhealthy.json")),
        )
        .refuses(&[500]),
        Row::new("get", PATH, Need::TokenElsewhere, "getOpenApi", "This document").answers::<Value>(
            200,
            "OpenAPI 3.1",
            json!({"openapi": "3.1.0", "info": {"title": "holdfast telemetry service", "version": "0.1.0"}}),
        ),
    ]
}

fn numbers() -> Vec<Row> {
    const TEXT: &str = "# HELP holdfast_exporter_up 1 while spans are exported.\n\
                        # TYPE holdfast_exporter_up gauge\nholdfast_exporter_up 1\n";
    vec![
        Row::new("get", "/metrics", Need::Nothing, "getMetricsPage", "The numbers for Prometheus")
            .about("OpenMetrics 1.0 for an Accept that names it, else Prometheus' text format 0.0.4.")
            .answers_text("The page in the format that Accept prefers", "text/plain", TEXT)
            .answers_text(
                "The page in the format that Accept prefers",
                "application/openmetrics-text",
                &format!("{TEXT}# EOF\n"),
            ),
        Row::new("get", "/telemetry-test/metrics", Need::TokenElsewhere, "getMetrics", "The nine resilience metrics")
            .answers::<Numbers>(200, "The metrics, and the ledger", example(include_str!("examples/metrics.json"))),
        Row::new("get", "/telemetry-test/outages", Need::TokenElsewhere, "getOutages", "The outages of the collector")
            .about(
                "The newest 32, of earlier processes too: the reason of a gap in the spans. `to` is null while one \
                 lasts, and for good where its process ended before it did: then `interrupted` is true. The state \
                 directory keeps them.",
            )
            .answers::<Outages>(200, "The outages, the oldest first", outages()),
        Row::new("get", "/telemetry-test/events", Need::TokenElsewhere, "getEvents", "Events as they happen")
            .about(
                "Server-sent events without an end: `event` for each change, and `snapshot` with the numbers each \
                 second. 16 listeners at a time.",
            )
            .answers_text(
                "The stream",
                "text/event-stream",
                "event: event\ndata: {\"type\":\"breaker\",\"from\":\"closed\",\"to\":\"open\"}\n\n",
            ),
    ]
}

fn outages() -> Value {
    json!({"outages": [{
        "endpoint": "http://collector:4317",
        "from": "2026-11-28T10:15:02.120Z",
        "to": "2026-11-28T10:17:40.003Z",
        "interrupted": false,
        "cause": "HTTP status 503",
        "remedy": "wait, or look at the collector's own health",
        "waited": 48_120,
        "lost": {},
        "possible_duplicates": 512,
        "lateness_seconds": 161.204,
        "peak_memory_bytes": 9_175_040,
        "peak_disk_bytes": 21_012_480
    }]})
}

fn tests() -> Vec<Row> {
    let row = |method, path, id, summary| Row::new(method, path, Need::Tests, id, summary);
    let one =
        |method, id, summary| row(method, TEST, id, summary).in_path("test_id", Some(TEST_ID), A_TEST).refuses(&[404]);
    let (report, running) = (example(include_str!("examples/report.json")), running());
    let burst = json!({"test_type": "burst_load", "duration_seconds": 30, "span_rate": 100, "severity": "high"});
    vec![
        row("post", START, "startTest", "Start a resilience test")
            .about(
                "Load and faults in a pipeline of its own; its verdict accounts for each span. span_rate is in spans a \
                 second, and severity multiplies it and the share of failing calls by 0.5, 1 or 2. A test has 1,000,000 \
                 spans at most (422). Two tests run at a time (429).",
            )
            .takes(
                true,
                told(
                    plan_schema(),
                    &[
                        ("test_type", "The kind of load and fault."),
                        ("duration_seconds", "The time in which spans are made."),
                        ("span_rate", "Spans a second, before the severity multiplies them."),
                        ("severity", "The factor of the rate and of the share of failing calls: 0.5, 1 or 2."),
                    ],
                ),
                &[("burst", burst), ("shortest", json!({"test_type": "flapping", "duration_seconds": 1}))],
            )
            .answers::<Started<'_>>(202, "The test runs", json!({"test_id": A_TEST}))
            .with_headers(&[("Location", "The path of the test.")])
            .refuses(&[409, 422, 429, 500]),
        row("get", TESTS, "listTests", "The tests that run and the last 20")
            .answers::<Listed>(200, "Newest first, without figures", json!({"tests": [running.clone()]})),
        one("get", "getTest", "A test: progress, figures, verdict")
            .answers::<TestReport>(200, "The test as it is now", report.clone()),
        one("delete", "cancelTest", "Cancel a test")
            .answers::<TestReport>(200, "It had ended already", report)
            .answers::<TestReport>(202, "It ends now", running),
        row("post", LOADS, "generateLoads", "Spans through the process's own pipeline")
            .about(
                "Answers when the exporter has the spans. With include_errors every tenth span has the status error. \
                 delay_ms times span_count is 60000 at most (422). Two loads run at a time (429).",
            )
            .takes(
                false,
                told(
                    loads_schema(),
                    &[
                        ("span_count", "Spans to be made."),
                        ("delay_ms", "Milliseconds between two spans."),
                        ("include_errors", "Whether every tenth span has the status error."),
                    ],
                ),
                &[("errors", json!({"span_count": 20, "delay_ms": 5, "include_errors": true})), ("defaults", json!({}))],
            )
            .answers::<Generated>(200, "The spans", json!({"generated": 20, "errors": 2, "test_id": A_TEST}))
            .refuses(&[409, 422, 429]),
        row("post", FAILURE, "failCollector", "Have the process's calls to its collector fail")
            .about("refuse: no connection. hang: no answer. status: that HTTP status. slow: each call 2 s late.")
            .takes(
                false,
                told(
                    failure_schema(),
                    &[
                        ("mode", "The way in which calls fail."),
                        ("duration_seconds", "The time after which the failure ends by itself."),
                        ("status", "The HTTP status of the mode status."),
                    ],
                ),
                &[
                    ("status", json!({"mode": "status", "status": 503, "duration_seconds": 5})),
                    ("refuse", json!({"mode": "refuse", "duration_seconds": 30})),
                ],
            )
            .answers::<Failing>(200, "Calls fail from now on", json!({"mode": "status", "duration_seconds": 5}))
            .refuses(&[409]),
        row("delete", FAILURE, "repairCollector", "End such a failure")
            .answers::<Repaired>(200, "There is no failure any more", json!({"ended": true}))
            .refuses(&[409]),
    ]
}

fn letters() -> Vec<Row> {
    const LETTERS: &str = "/telemetry-test/dead-letters";
    const LETTER: &str = "/telemetry-test/dead-letters/{id}";
    let row = |method, path, id, summary| Row::new(method, path, Need::Token, id, summary).refuses(&[409, 504]);
    let letter = || example(include_str!("examples/letter.json"));
    let text = json!({"type": "string", "maxLength": query::MAX_CHARS});
    let limit = json!({"type": "integer", "minimum": 1, "maximum": LISTED.1, "default": LISTED.0});
    let redriven = || json!({"letters": 1, "spans": 512, "failed": [], "left": 0});
    let listed = json!({"total": 7, "dead_letters": [letter()["dead_letter"]]});
    vec![
        Row::new("get", LETTERS, Need::TokenElsewhere, "listDeadLetters", "The newest dead letters")
            .in_query("limit", "Letters, at most.", &limit, &json!(10))
            .answers::<Letters>(200, "Newest first, without their spans", listed)
            .refuses(&[409, 504]),
        row("get", LETTER, "getDeadLetter", "A dead letter with its spans")
            .in_path("id", None, A_LETTER)
            .answers::<Content>(200, "The letter, and its spans as OTLP JSON", letter())
            .refuses(&[404]),
        row("post", "/telemetry-test/dead-letters/{id}/redrive", "redriveDeadLetter", "Send a dead letter again")
            .in_path("id", None, A_LETTER)
            .takes_none()
            .answers::<Redriven>(200, "Its spans are stored for delivery", redriven())
            .refuses(&[404, 507]),
        row("post", "/telemetry-test/dead-letters/redrive", "redriveDeadLetters", "Send dead letters again")
            .about("Those that match every parameter; without one, all.")
            .in_query("reason", "A part of the collector's reason.", &text, &json!("invalid span"))
            .in_query("status", "The status of its answer.", &text, &json!("HTTP 400"))
            .in_query("endpoint", "The collector.", &text, &json!("http://localhost:4317"))
            .takes_none()
            .answers::<Redriven>(200, "The letters that were tried", redriven()),
    ]
}

fn waits() -> Vec<Row> {
    let seconds = [("timeout_seconds", "The longest time that the request takes.")];
    let [checkpoint, drain] = verbs::schemas().map(|schema| told(schema, &seconds));
    let row = |path, id, summary| Row::new("post", path, Need::Token, id, summary).refuses(&[409]);
    vec![
        row(verbs::CHECKPOINT, "checkpoint", "Have spans safe before the process may be stopped")
            .about(
                "One attempt outside of backoff and breaker; the rest is moved to the disk. 503 if spans are in memory \
                 only when the time is over. Four checkpoints and drains run at a time (503).",
            )
            .takes(false, checkpoint, &[("seconds", json!({"timeout_seconds": 5}))])
            .answers::<Waited>(
                200,
                "Each span that ended before is delivered or stored",
                json!({"delivered": 512, "stored": 0, "in_memory": 0}),
            ),
        row(verbs::DRAIN, "drain", "Send what is stored")
            .about("The next call goes out at once. 503 if spans wait when the time is over.")
            .takes(false, drain, &[("seconds", json!({"timeout_seconds": 2}))])
            .answers::<Waited>(200, "No span waits", json!({"delivered": 2048, "stored": 0, "in_memory": 0})),
    ]
}

/// The schema of a body with a sentence for each of its fields. Tests find a field without one.
fn told(mut schema: Value, fields: &[(&str, &str)]) -> Value {
    for (name, sentence) in fields {
        schema["properties"][*name]["description"] = (*sentence).into();
    }
    schema
}

/// A test that runs: the report without figures and verdict.
fn running() -> Value {
    let mut report = example(include_str!("examples/report.json"));
    if let Some(report) = report.as_object_mut() {
        report.remove("figures");
    }
    (report["state"], report["progress"], report["verdict"]) = ("running".into(), 0.4.into(), Value::Null);
    report
}

/// An example of this folder. Tests compare each with its schema.
fn example(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}
