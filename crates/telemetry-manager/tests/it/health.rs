use std::time::Duration;

use crate::support::{LONG, Setup, trace};
use serde_json::Value;

fn json(manager: &telemetry_manager::OpenTelemetryManager) -> Value {
    serde_json::to_value(manager.health()).expect("JSON")
}

/// Keys of an object, sorted.
fn keys(value: &Value) -> Vec<&str> {
    value
        .as_object()
        .expect("an object")
        .keys()
        .map(String::as_str)
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect()
}

const KEYS: [&str; 7] =
    ["collector_endpoint", "healthy", "initialized", "issues", "resilience_metrics", "service_name", "status"];
const METRICS: [&str; 9] = [
    "buffer_size",
    "circuit_breaker_trips",
    "failed_exports",
    "fallback_usage",
    "last_export_failure",
    "last_export_success",
    "success_rate",
    "successful_exports",
    "total_exports",
];

#[test]
fn the_report_has_the_documented_shape() {
    let setup = Setup::new();
    let manager = setup.manager(&[]);
    let fresh = json(&manager);
    assert_eq!(keys(&fresh), KEYS);
    assert_eq!(keys(&fresh["resilience_metrics"]), METRICS);
    assert_eq!(fresh["status"], "healthy");
    assert_eq!((&fresh["healthy"], &fresh["initialized"]), (&Value::Bool(true), &Value::Bool(true)));
    assert_eq!(fresh["issues"], serde_json::json!([]));
    assert_eq!(fresh["collector_endpoint"], setup.collector.grpc_endpoint());
    assert_eq!(fresh["service_name"], "my-api");
    assert_eq!(fresh["resilience_metrics"]["success_rate"], 1.0);
    assert_eq!(fresh["resilience_metrics"]["last_export_success"], Value::Null);

    trace(&manager, 3);
    manager.settled(LONG).expect("delivered");
    let metrics = &json(&manager)["resilience_metrics"];
    assert_eq!((&metrics["total_exports"], &metrics["successful_exports"]), (&1.into(), &1.into()));
    let time = metrics["last_export_success"].as_str().expect("a time");
    assert!(time.len() == "2025-01-22T10:30:45.123Z".len() && time.ends_with('Z'), "{time}");
}

#[test]
fn without_an_exporter_the_shape_is_the_same() {
    let setup = Setup::new();
    let report = json(&setup.manager(&[("OTEL_SDK_DISABLED", "true")]));
    assert_eq!(keys(&report), KEYS);
    assert_eq!(keys(&report["resilience_metrics"]), METRICS);
    assert_eq!(report["initialized"], false);
    assert_eq!(report["resilience_metrics"]["success_rate"], 1.0);
}

#[test]
fn an_open_breaker_is_degraded_and_after_shutdown_it_is_not_initialized() {
    let setup = Setup::new();
    setup.collector.stop();
    let manager = setup.manager(&[("CIRCUIT_BREAKER_FAILURE_THRESHOLD", "1"), ("OTEL_BSP_SCHEDULE_DELAY", "3600s")]);
    let events = manager.handle().expect("an exporter").subscribe();
    trace(&manager, 3);
    assert_eq!(json(&manager)["resilience_metrics"]["buffer_size"], 3, "staged");
    // Fails, and has the batch on its way.
    manager.settled(Duration::ZERO).expect_err("nothing is delivered");
    // Events come as things happen; each look costs nothing.
    while manager.health().resilience_metrics.expect("an exporter").circuit_breaker_trips == 0 {
        events.recv_timeout(LONG).expect("the breaker opens");
    }
    let report = json(&manager);
    assert_eq!((&report["status"], &report["healthy"]), (&"degraded".into(), &false.into()));
    assert!(!report["issues"].as_array().expect("a list").is_empty());
    assert_eq!(report["resilience_metrics"]["buffer_size"], 3);

    let observer = manager.observer();
    drop(manager);
    let report = serde_json::to_value(observer.health()).expect("JSON");
    assert_eq!(report["initialized"], false);
    assert_eq!(observer.exporter_health().expect("the last numbers").ledger.in_fallback, 3);
}
