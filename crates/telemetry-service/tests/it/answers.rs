use crate::support::World;

#[test]
fn health_is_json_and_200_when_all_is_well() {
    let world = World::new(&[]);
    for path in ["/health", "/telemetry-test/health"] {
        let answer = world.get(path);
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-type"), "application/json");
        assert_eq!(answer.header("cache-control"), "no-store");
        let report = answer.json();
        assert_eq!((&report["status"], &report["service_name"]), (&"healthy".into(), &"my-api".into()));
        assert_eq!(report["collector_endpoint"], world.collector.grpc_endpoint());
        assert!(report["resilience_metrics"]["total_exports"].is_u64());
    }
}

#[test]
fn an_open_breaker_is_degraded_and_still_200() {
    let world = World::new(&[("CIRCUIT_BREAKER_FAILURE_THRESHOLD", "1")]);
    world.collector.stop();
    world.trace(3);
    world.wait_for(|health| health.metrics.circuit_breaker_trips > 0);
    let answer = world.get("/health");
    assert_eq!((answer.status, &answer.json()["status"]), (200, &"degraded".into()));
    assert_eq!(answer.json()["healthy"], false);
}

#[test]
fn losing_spans_is_unhealthy_and_503() {
    let world = World::new(&[("TELEMETRY_FALLBACK_ENABLED", "false"), ("TELEMETRY_BUFFER_MAX_SPANS", "10")]);
    world.collector.stop();
    for _ in 0..3 {
        world.trace(8);
    }
    world.wait_for(|health| health.ledger.lost() > 0);
    let answer = world.get("/health");
    assert_eq!((answer.status, &answer.json()["status"]), (503, &"unhealthy".into()));
    assert_eq!(answer.header("content-type"), "application/json");
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
