use axum::Router;
use axum::routing::get;
use telemetry_manager::Observer;
use telemetry_service::Limits;

use crate::support::World;

/// The keys that readers of the report of health rely on.
const KEYS: [&str; 7] =
    ["status", "healthy", "initialized", "issues", "resilience_metrics", "collector_endpoint", "service_name"];

/// The keys of the resilience metrics.
const METRICS: [&str; 9] = [
    "total_exports",
    "successful_exports",
    "failed_exports",
    "success_rate",
    "buffer_size",
    "fallback_usage",
    "circuit_breaker_trips",
    "last_export_success",
    "last_export_failure",
];

fn keys(value: &serde_json::Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[test]
fn health_of_telemetry_has_the_report_and_its_details() {
    let world = World::new(&[]);
    let answer = world.get("/telemetry-test/health");
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
    assert_eq!(answer.header("cache-control"), "no-store");
    let report = answer.json();
    let details = [
        "ledger",
        "collectors",
        "storage",
        "success_rate_5m",
        "oldest_waiting_seconds",
        "recent_lateness_seconds",
        "simulated_failure",
        "version",
        "uptime_seconds",
    ];
    let mut expected: Vec<&str> = KEYS.into_iter().chain(details).collect();
    expected.sort_unstable();
    let mut found = keys(&report);
    found.sort_unstable();
    assert_eq!(found, expected);
    let mut metrics = keys(&report["resilience_metrics"]);
    metrics.sort_unstable();
    let mut expected = METRICS;
    expected.sort_unstable();
    assert_eq!(metrics, expected);
    assert_eq!((&report["status"], &report["service_name"]), (&"healthy".into(), &"my-api".into()));
    assert_eq!(report["collector_endpoint"], world.collector.grpc_endpoint());
    let collector = &report["collectors"][0];
    assert_eq!((&collector["endpoint"], &collector["breaker"]), (&report["collector_endpoint"], &"closed".into()));
    assert!(collector["next_attempt"].is_null() && collector["refusing"].is_null());
    assert!(report["simulated_failure"].is_null());
    assert_eq!(report["storage"]["fallback"]["max_bytes"], 1 << 30);
    assert_eq!(report["version"], env!("CARGO_PKG_VERSION"));
    assert!(report["uptime_seconds"].is_u64() && report["success_rate_5m"] == 1.0);
}

#[test]
fn an_outage_is_told_with_its_cause_and_its_next_attempt_and_the_application_is_healthy() {
    let world = World::new(&[("CIRCUIT_BREAKER_FAILURE_THRESHOLD", "1")]);
    world.collector.stop();
    world.trace(3);
    world.wait_for(|health| health.metrics.circuit_breaker_trips > 0);
    let answer = world.get("/telemetry-test/health");
    let report = answer.json();
    assert_eq!((answer.status, &report["status"], &report["healthy"]), (200, &"degraded".into(), &false.into()));
    assert_eq!(report["collectors"][0]["breaker"], "open");
    assert!(report["collectors"][0]["next_attempt"].as_str().is_some_and(|time| time.ends_with('Z')), "{report}");
    let issue = report["issues"][0].as_str().expect("a sentence");
    assert!(issue.contains("refused") && issue.contains("start the collector"), "{issue}");
    for path in ["/health", "/health/live", "/health/ready"] {
        assert_eq!(world.get(path).status, 200, "{path}");
    }
}

#[test]
fn losing_spans_is_unhealthy_and_503_and_the_application_is_healthy() {
    let world = World::new(&[("TELEMETRY_FALLBACK_ENABLED", "false"), ("TELEMETRY_BUFFER_MAX_SPANS", "10")]);
    world.collector.stop();
    for _ in 0..3 {
        world.trace(8);
    }
    world.wait_for(|health| health.ledger.lost() > 0);
    let answer = world.get("/telemetry-test/health");
    assert_eq!((answer.status, &answer.json()["status"]), (503, &"unhealthy".into()));
    assert_eq!(answer.header("content-type"), "application/json");
    for path in ["/health", "/health/live", "/health/ready"] {
        let answer = world.get(path);
        assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"), "{path}");
    }
    assert_eq!(world.get("/health").json()["status"], "healthy");
}

#[test]
fn the_applications_own_readiness_is_answered() {
    let world = World::changed(|service| service.with_readiness(|| false));
    assert_eq!(world.get("/health/ready").status, 503);
    assert_eq!(world.get("/health/ready").json()["status"], "not ready");
    assert_eq!((world.get("/health").status, world.get("/health/live").status), (200, 200));
}

/// An application with its own health, metrics and answer to unknown paths, which mounts the router.
fn own_health(service: Router, _: &Observer) -> Router {
    let own = Router::new().route("/health", get(async || "mine")).route("/metrics", get(async || "my metrics"));
    // axum panics where two routers with the same path, or with an answer to unknown ones each, are merged.
    own.fallback(async || "unknown").merge(service)
}

#[test]
fn an_application_with_its_own_health_mounts_the_rest() {
    let world = World::with(&[], own_health, Limits::default(), |service| service.with_root_routes(false));
    for (path, body) in [
        ("/health", "mine"),
        ("/metrics", "my metrics"),
        ("/health/live", "unknown"),
        ("/health/ready", "unknown"),
        ("/telemetry-test/nothing", "unknown"),
    ] {
        // The document says nothing about the answers of an application.
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let answer = world.send(request.as_bytes());
        assert_eq!((answer.status, answer.body.as_str()), (200, body), "{path}");
    }
    assert_eq!(world.get("/telemetry-test/health").json()["service_name"], "my-api");
    assert_eq!(world.request("PUT", "/telemetry-test/health", "").status, 405);
    assert_eq!(world.get("/telemetry-test/dead-letters/x").status, 401, "the guard is there");

    // An application without an answer to unknown paths has axum's, which no guard stands in front of.
    let world = World::changed(|service| service.with_root_routes(false));
    for path in ["/health", "/metrics", "/telemetry-test/nothing"] {
        let answer = world.request("GET", path, "Origin: http://evil.example\r\n");
        assert_eq!((answer.status, answer.body.as_str()), (404, ""), "{path}");
    }
}

/// Load balancers and Prometheus add parameters; a person who has misspelled one is told.
#[test]
fn parameters_are_ignored_where_machines_poll_and_refused_elsewhere() {
    let world = World::new(&[]);
    for path in ["/health", "/health/live", "/health/ready", "/metrics"] {
        assert_eq!(world.get(&format!("{path}?collect=all&x=%ff")).status, 200, "{path}");
    }
    for (method, path, _) in crate::access::ROUTES.into_iter().chain(crate::access::TESTS) {
        if path.starts_with("/telemetry-test/") {
            let answer = world.with_token(method, &format!("{path}?verbose=1"));
            assert_eq!((answer.status, answer.header("content-type")), (400, "application/problem+json"), "{path}");
            assert_eq!(answer.json()["field"], "verbose", "{path}");
        }
    }
}

#[test]
fn metrics_for_scripts_are_the_nine_and_the_ledger() {
    let world = World::new(&[]);
    world.trace(25);
    world.telemetry.settled(crate::support::LONG).expect("delivered");
    let answer = world.get("/telemetry-test/metrics");
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
    let numbers = answer.json();
    let mut found = keys(&numbers);
    found.sort_unstable();
    let mut expected: Vec<&str> = METRICS.into_iter().chain(["ledger"]).collect();
    expected.sort_unstable();
    assert_eq!(found, expected);
    assert_eq!((&numbers["total_exports"], &numbers["ledger"]["delivered"]), (&1.into(), &25.into()));

    let off = World::new(&[("OTEL_SDK_DISABLED", "true")]);
    let numbers = off.get("/telemetry-test/metrics").json();
    assert_eq!((&numbers["total_exports"], &numbers["ledger"]["offered"]), (&0.into(), &0.into()));
    assert_eq!(off.get("/telemetry-test/health").json()["collectors"], serde_json::json!([]));
}

#[test]
fn head_is_get_without_a_body() {
    let world = World::new(&[]);
    let answer = world.request("HEAD", "/telemetry-test/health", "");
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
    assert_eq!(answer.header("content-type"), "application/json");
}

#[test]
fn unknown_paths_and_methods_are_problems_that_say_what_there_is() {
    let world = World::new(&[]);
    let answer = world.get("/nowhere/%22%0a?x=1");
    assert_eq!((answer.status, answer.header("content-type")), (404, "application/problem+json"));
    let problem = answer.json();
    assert_eq!((&problem["status"], &problem["title"]), (&404.into(), &"Not Found".into()));
    assert_eq!(problem["instance"], "/nowhere/%22%0a");
    assert!(problem["detail"].as_str().expect("text").contains("/telemetry-test/health"));

    let answer = world.request("POST", "/telemetry-test/metrics", "Content-Length: 0\r\n");
    assert_eq!((answer.status, answer.header("content-type")), (405, "application/problem+json"));
    assert_eq!(answer.header("allow"), "GET,HEAD");
    assert!(answer.json()["detail"].as_str().expect("text").contains("POST"));
}

#[test]
fn garbage_is_refused_and_the_next_request_served() {
    use std::io::{Read as _, Write as _};
    let world = World::new(&[]);
    let mut socket = world.connect();
    socket.write_all(b"\x16\x03\x01 not HTTP at all\r\n\r\n").expect("sent");
    let mut answer = Vec::new();
    // The server may answer 400 or just end the connection.
    let _ = socket.read_to_end(&mut answer);
    assert_eq!(world.get("/health").status, 200);
}
