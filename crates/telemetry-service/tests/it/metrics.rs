use std::collections::{BTreeMap, BTreeSet};

use crate::support::{LONG, World};

/// Samples by name and labels. Fails on anything that the text format does not allow.
fn samples(page: &str) -> BTreeMap<String, f64> {
    let (mut kinds, mut helped) = (BTreeMap::new(), BTreeSet::new());
    let mut samples = BTreeMap::new();
    assert!(page.ends_with('\n'));
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a help text");
            assert!(helped.insert(name) && !help.is_empty(), "{line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            assert!(helped.contains(name) && ["counter", "gauge"].contains(&kind), "{line}");
            assert!(kinds.insert(name, kind).is_none(), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
        } else {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            let name = series.split('{').next().expect("a name");
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{line}");
            assert!(kinds.contains_key(name), "{line}");
            let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
            assert!(samples.insert(series.to_owned(), value).is_none(), "{line} twice");
        }
    }
    samples
}

#[test]
fn metrics_are_the_ledger_in_prometheus_text() {
    let world = World::new(&[("OTEL_TRACES_SAMPLER", "always_on")]);
    world.trace(25);
    world.telemetry.flush(LONG).expect("delivered");
    let answer = world.get("/telemetry-test/metrics");
    assert_eq!((answer.status, answer.header("content-type")), (200, "text/plain; version=0.0.4; charset=utf-8"));
    let samples = samples(&answer.body);
    let at = |name: &str| *samples.get(name).unwrap_or_else(|| panic!("no {name} in\n{}", answer.body));
    assert_eq!((at("resilient_exporter_up"), at("resilient_ledger_imbalance")), (1.0, 0.0));
    assert_eq!((at("resilient_spans_offered_total"), at("resilient_spans_delivered_total")), (25.0, 25.0));
    assert_eq!(at("resilient_spans_delivered_total"), world.collector.received().unique as f64);
    assert_eq!(at("resilient_exports_total{outcome=\"success\"}"), 1.0);
    assert!(at("resilient_last_success_timestamp_seconds") > 1.7e9);
    assert!(!samples.contains_key("resilient_last_failure_timestamp_seconds"));
}

#[test]
fn the_breakers_state_is_one_series_of_ones_and_zeros() {
    let world = World::new(&[("CIRCUIT_BREAKER_FAILURE_THRESHOLD", "1")]);
    let state = || {
        let samples = samples(&world.get("/telemetry-test/metrics").body);
        let mut on =
            samples.into_iter().filter(|(name, value)| name.starts_with("resilient_breaker_state{") && *value == 1.0);
        let state = on.next().expect("one state").0;
        assert!(on.next().is_none());
        state
    };
    assert_eq!(state(), "resilient_breaker_state{state=\"closed\"}");
    world.collector.stop();
    world.trace(3);
    world.wait_for(|health| health.metrics.circuit_breaker_trips > 0);
    assert_eq!(state(), "resilient_breaker_state{state=\"open\"}");
}

#[test]
fn losses_are_labelled_with_their_reason() {
    let world = World::new(&[("TELEMETRY_FALLBACK_ENABLED", "false"), ("TELEMETRY_BUFFER_MAX_SPANS", "10")]);
    world.collector.stop();
    for _ in 0..3 {
        world.trace(8);
    }
    world.wait_for(|health| health.ledger.lost() > 0);
    let samples = samples(&world.get("/telemetry-test/metrics").body);
    assert!(samples["resilient_spans_dropped_total{reason=\"buffer_full\"}"] > 0.0, "{samples:?}");
}

#[test]
fn without_an_exporter_the_page_says_so() {
    let world = World::new(&[("OTEL_SDK_DISABLED", "true")]);
    let samples = samples(&world.get("/telemetry-test/metrics").body);
    assert_eq!(samples, BTreeMap::from([("resilient_exporter_up".to_owned(), 0.0)]));
}
