//! Resilience tests over HTTP.

use std::io::{Read as _, Write as _};

use serde_json::Value;

use crate::resilience::test_ids;
use crate::support::{Answer, LONG, World};

const START: &str = "/telemetry-test/test/start";
const LOADS: &str = "/telemetry-test/generate-loads";
const FAILURE: &str = "/telemetry-test/simulate/collector-failure";

/// One request on a connection of its own.
pub(crate) fn exchange(world: &World, method: &str, path: &str, headers: &[&str], body: &str) -> Answer {
    let mut socket = world.connect();
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", world.address);
    for header in headers {
        head += &format!("{header}\r\n");
    }
    if !body.is_empty() {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    // The server may answer a large body before it has read all of it.
    let _ = write!(socket, "{head}\r\n{body}");
    let mut answer = String::new();
    let _ = socket.read_to_string(&mut answer);
    let answer = Answer::parse(&answer);
    crate::documented::judge(method, path, &answer);
    answer
}

fn post(world: &World, path: &str, body: &str) -> Answer {
    exchange(world, "POST", path, &["Content-Type: application/json"], body)
}

/// Asks for the test until it has ended.
fn ended(world: &World, path: &str) -> Value {
    let deadline = std::time::Duration::from_secs(30);
    let clock = telemetry_manager::resilient_exporter::SystemClock;
    let now = || telemetry_manager::resilient_exporter::Clock::now(&clock);
    let begin = now();
    loop {
        let report = world.get(path).json();
        if !report["verdict"].is_null() {
            return report;
        }
        assert!(now().saturating_duration_since(begin) < deadline, "{report}");
    }
}

#[test]
fn the_scenario_of_a_burst_opens_the_breaker() {
    let world = World::new(&[("TELEMETRY_RETRY_INITIAL_DELAY", "10ms"), ("CIRCUIT_BREAKER_FAILURE_THRESHOLD", "3")]);
    let body = r#"{"test_type": "burst_load", "duration_seconds": 1, "span_rate": 100, "severity": "high"}"#;
    let started = post(&world, START, body);
    assert_eq!(started.status, 202, "{}", started.body);
    let id = started.json()["test_id"].as_str().expect("an id").to_owned();
    let path = format!("/telemetry-test/test/{id}");
    assert_eq!(started.header("location"), path);
    let first = world.get(&path);
    assert_eq!((first.status, first.header("content-type")), (200, "application/json"));
    let report = ended(&world, &path);
    assert_eq!(
        (&report["state"], &report["progress"], &report["severity"]),
        (&"completed".into(), &1.0.into(), &"high".into())
    );
    let verdict = &report["verdict"];
    assert!(verdict["circuit_breaker_trips"].as_u64() > Some(0), "{verdict}");
    assert_eq!((&verdict["made"], &verdict["delivered"], &verdict["lost"]), (&200.into(), &200.into(), &0.into()));
    assert_eq!((&verdict["passed"], &verdict["ledger_balanced"]), (&true.into(), &true.into()));
    assert!(report["figures"].as_array().expect("figures").len() > 1);
    let listed = world.get("/telemetry-test/tests").json();
    assert_eq!((&listed["tests"][0]["test_id"], &listed["tests"][0]["figures"]), (&id.into(), &Value::Null));
}

#[test]
fn a_running_test_is_cancelled_and_one_too_many_is_refused() {
    let mut world = World::new(&[]);
    let body = r#"{"test_type": "continuous_load", "duration_seconds": 3600, "span_rate": 1}"#;
    let id = |answer: Answer| answer.json()["test_id"].as_str().expect("an id").to_owned();
    let ids = [id(post(&world, START, body)), id(post(&world, START, body))];
    let refused = post(&world, START, body);
    assert_eq!((refused.status, refused.header("content-type")), (429, "application/problem+json"));
    let path = format!("/telemetry-test/test/{}", ids[0]);
    let cancelled = exchange(&world, "DELETE", &path, &[], "");
    assert_eq!((cancelled.status, &cancelled.json()["test_id"]), (202, &ids[0].as_str().into()));
    assert_eq!(ended(&world, &path)["state"], "cancelled");
    assert_eq!(exchange(&world, "DELETE", &path, &[], "").status, 200, "it has ended");
    assert_eq!(post(&world, START, body).status, 202, "a place again");
    for method in ["GET", "DELETE"] {
        let unknown = exchange(&world, method, "/telemetry-test/test/0000", &[], "");
        assert_eq!((unknown.status, unknown.header("content-type")), (404, "application/problem+json"));
    }
    // The tests that run end with the server, and remove their directories.
    world.stop().expect("the server ends");
}

#[test]
fn each_refusal_names_the_field_and_the_accepted_values() {
    let world = World::new(&[]);
    let start = |rest: &str| format!(r#"{{"test_type": "flapping", {rest}}}"#);
    for (path, body, field, accepted) in [
        (START, "{}".to_owned(), "test_type", "\"continuous_load\""),
        (START, r#"{"test_type": "load"}"#.to_owned(), "test_type", "\"refusing_collector\""),
        (START, start(r#""duration_seconds": 3601, "span_rate": 1"#), "duration_seconds is 3601", "1 to 3600"),
        (START, start(r#""duration_seconds": 1.5, "span_rate": 1"#), "duration_seconds is 1.5", "1 to 3600"),
        (START, start(r#""duration_seconds": 1, "span_rate": -1"#), "span_rate is -1", "1 to 1000"),
        (START, start(r#""duration_seconds": 1, "span_rate": 1e999"#), "span_rate is 1e999", "1 to 1000"),
        (START, start(r#""duration_seconds": 3600, "span_rate": 1000"#), "span_rate makes 3600000 spans", "1000000"),
        (START, start(r#""duration_seconds": 1, "span_rate": 1, "severity": 1"#), "severity is 1", "\"moderate\""),
        (START, start(r#""duration_seconds": 1, "span_rate": 1, "rate": 1"#), "rate is an unknown", "span_rate"),
        (LOADS, r#"{"span_count": "1"}"#.to_owned(), "span_count is \"1\"", "1 to 10000"),
        (LOADS, r#"{"span_count": 1, "delay_ms": 10001}"#.to_owned(), "delay_ms", "0 to 10000"),
        (LOADS, r#"{"span_count": 1000, "delay_ms": 61}"#.to_owned(), "delay_ms times span_count", "60000"),
        (LOADS, r#"{"span_count": 1, "include_errors": 1}"#.to_owned(), "include_errors", "true or false"),
        (FAILURE, r#"{"mode": "explode"}"#.to_owned(), "mode", "\"refuse\", \"hang\", \"status\", \"slow\""),
        (FAILURE, r#"{"duration_seconds": 0}"#.to_owned(), "duration_seconds", "1 to 3600"),
        (FAILURE, r#"{"mode": "status", "status": 200}"#.to_owned(), "status", "300 to 599"),
        (FAILURE, "[]".to_owned(), "the body", "one JSON object"),
    ] {
        let refused = post(&world, path, &body);
        // Fields that are accepted each are refused together.
        let is_product = ["makes", "times"].iter().any(|word| field.contains(word));
        let status = if is_product { 422 } else { 400 };
        assert_eq!((refused.status, refused.header("content-type")), (status, "application/problem+json"), "{body}");
        let detail = refused.json()["detail"].as_str().expect("text").to_owned();
        assert!(detail.contains(field) && detail.contains(accepted), "{body}: {detail}");
        let is_of_a_field = body != "[]";
        assert_eq!(
            refused.json()["accepted"].is_string() && refused.json()["field"].is_string(),
            is_of_a_field,
            "{body}"
        );
    }
    let large = post(&world, START, &" ".repeat(65_537));
    assert_eq!((large.status, large.header("content-type")), (413, "application/problem+json"));
    for (method, path) in [("GET", "/telemetry-test/test/%ff"), ("DELETE", "/telemetry-test/test/%ff")] {
        let refused = exchange(&world, method, path, &[], "");
        assert_eq!((refused.status, refused.header("content-type")), (400, "application/problem+json"), "{path}");
    }
    for path in [START, LOADS, FAILURE] {
        let refused = post(&world, &format!("{path}?duration_seconds=5"), "{}");
        assert_eq!((refused.status, &refused.json()["field"]), (400, &"duration_seconds".into()), "{path}");
    }
    let form = exchange(&world, "POST", START, &["Content-Type: application/x-www-form-urlencoded"], "a=b");
    assert_eq!(form.status, 415);
    assert_eq!(exchange(&world, "PUT", START, &[], "").status, 405);
    assert!(world.telemetry.observer().faults().expect("an exporter").current().is_none(), "no fault began");
    assert_eq!(world.get("/telemetry-test/tests").json()["tests"], Value::Array(Vec::new()), "no test began");
}

#[test]
fn a_load_over_http_is_of_the_processs_own_spans() {
    let world = World::new(&[]);
    let answer = post(&world, LOADS, r#"{"span_count": 100, "delay_ms": 1, "include_errors": true}"#);
    assert_eq!(answer.status, 200, "{}", answer.body);
    let generated = answer.json();
    assert_eq!((&generated["generated"], &generated["errors"]), (&100.into(), &10.into()));
    world.telemetry.settled(LONG).expect("delivered");
    let ids: Vec<_> = test_ids(&world).into_iter().collect();
    assert_eq!(ids, [generated["test_id"].as_str().expect("an id")]);
}

#[test]
fn a_test_and_a_load_have_default_numbers() {
    let world = World::new(&[]);
    let started = post(&world, START, r#"{"test_type": "continuous_load"}"#);
    assert_eq!(started.status, 202, "{}", started.body);
    let report = world.get(started.header("location")).json();
    let numbers = (&report["duration_seconds"], &report["span_rate"], &report["severity"]);
    assert_eq!(numbers, (&60.0.into(), &20.into(), &"moderate".into()));
    let id = report["test_id"].as_str().expect("an id");
    exchange(&world, "DELETE", &format!("/telemetry-test/test/{id}"), &[], "");
    for body in ["", "{}"] {
        let generated = post(&world, LOADS, body);
        assert_eq!((generated.status, &generated.json()["generated"]), (200, &100.into()), "{body:?}");
    }
}

#[test]
fn a_simulated_failure_is_one_of_the_processs_own_collector_until_it_ends() {
    let world = World::new(&[("CIRCUIT_BREAKER_FAILURE_THRESHOLD", "1")]);
    let begun = exchange(&world, "POST", FAILURE, &[], "");
    assert_eq!(
        (begun.status, &begun.json()["mode"], &begun.json()["duration_seconds"]),
        (200, &"refuse".into(), &30.into())
    );
    world.trace(5);
    world.wait_for(|health| health.metrics.circuit_breaker_trips == 1);
    assert_eq!(world.collector.received().spans, 0);
    let health = world.get("/telemetry-test/health");
    assert_eq!((health.status, &health.json()["status"]), (200, &"degraded".into()));
    let ended = exchange(&world, "DELETE", FAILURE, &[], "");
    assert_eq!((ended.status, &ended.json()["ended"]), (200, &true.into()));
    assert_eq!(exchange(&world, "DELETE", FAILURE, &[], "").json()["ended"], false);
    world.telemetry.handle().expect("an exporter").retry_now();
    world.telemetry.settled(LONG).expect("delivered");
    assert!(world.collector.received().unique >= 5);

    let status = post(&world, FAILURE, r#"{"mode": "status", "duration_seconds": 3600, "status": 503}"#);
    assert_eq!(status.status, 200);
    world.trace(5);
    world.wait_for(|health| health.metrics.circuit_breaker_trips == 2);
    exchange(&world, "DELETE", FAILURE, &[], "");
}

#[test]
fn health_tells_of_a_simulated_failure_and_how_to_end_it() {
    let world = World::new(&[]);
    let body = r#"{"mode": "status", "duration_seconds": 3600, "status": 429}"#;
    assert_eq!(post(&world, FAILURE, body).status, 200);
    let health = world.get("/telemetry-test/health");
    let report = health.json();
    // No call has failed yet: the failure itself is the news.
    assert_eq!((health.status, &report["status"], &report["healthy"]), (200, &"degraded".into(), &false.into()));
    let simulated = &report["simulated_failure"];
    assert_eq!(
        (&simulated["mode"], &simulated["status"], &simulated["share"]),
        (&"status".into(), &429.into(), &1.0.into())
    );
    let left = simulated["remaining_seconds"].as_f64().expect("a number");
    assert!((3_500.0..=3_600.0).contains(&left), "{left}");
    let issue = report["issues"][0].as_str().expect("a sentence");
    assert!(issue.contains("HTTP status 429") && issue.contains(&format!("DELETE {FAILURE}")), "{issue}");
    assert_eq!(world.get("/health").json()["status"], "healthy");
    exchange(&world, "DELETE", FAILURE, &[], "");
    let report = world.get("/telemetry-test/health").json();
    assert_eq!((&report["status"], &report["simulated_failure"]), (&"healthy".into(), &Value::Null));
}
