use std::collections::{BTreeMap, BTreeSet};

use crate::support::{LONG, World};

/// The ends of the names of a histogram's samples.
const HISTOGRAM: [&str; 3] = ["_bucket", "_sum", "_count"];

fn is_name(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

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
            assert!(helped.contains(name) && ["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(kinds.insert(name, kind).is_none(), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
        } else {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            let name = series.split('{').next().expect("a name");
            assert!(is_name(name), "{line}");
            let is_of_histogram = HISTOGRAM.iter().filter_map(|suffix| name.strip_suffix(suffix));
            let is_of_histogram = is_of_histogram.into_iter().any(|family| kinds.get(family) == Some(&"histogram"));
            assert!(kinds.contains_key(name) || is_of_histogram, "{line}");
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
    world.telemetry.settled(LONG).expect("delivered");
    let answer = world.get("/metrics");
    assert_eq!((answer.status, answer.header("content-type")), (200, "text/plain; version=0.0.4; charset=utf-8"));
    let samples = samples(&answer.body);
    let at = |name: &str| *samples.get(name).unwrap_or_else(|| panic!("no {name} in\n{}", answer.body));
    assert_eq!((at("holdfast_exporter_up"), at("holdfast_ledger_imbalance{signal=\"traces\"}")), (1.0, 0.0));
    assert_eq!(
        (
            at("holdfast_items_offered_total{signal=\"traces\"}"),
            at("holdfast_items_delivered_total{signal=\"traces\"}")
        ),
        (25.0, 25.0)
    );
    assert_eq!(at("holdfast_items_delivered_total{signal=\"traces\"}"), world.collector.received().unique as f64);
    assert_eq!(at("holdfast_calls_total{signal=\"traces\",outcome=\"success\"}"), 1.0);
    assert!(at("holdfast_calls_last_success_timestamp_seconds{signal=\"traces\"}") > 1.7e9);
    assert!(!samples.keys().any(|name| name.starts_with("holdfast_calls_last_failure_timestamp_seconds")));
    let duration = |end: &str, label: &str| {
        let name = format!("otel_sdk_exporter_operation_duration_seconds_{end}{{");
        let mut series = samples.iter().filter(|(series, _)| series.starts_with(&name) && series.contains(label));
        *series.next().expect("a series").1
    };
    assert_eq!(duration("count", ""), 1.0);
    assert_eq!((duration("bucket", "le=\"30.0\""), duration("bucket", "le=\"+Inf\"")), (1.0, 1.0));
    assert!(duration("sum", "") > 0.0);
    let lateness = |end: &str| at(&format!("holdfast_delivery_lateness_seconds_{end}"));
    assert_eq!(lateness("count{signal=\"traces\"}"), 1.0);
    assert_eq!(lateness("bucket{signal=\"traces\",le=\"86400.0\"}"), 1.0);
    assert!(lateness("sum{signal=\"traces\"}") > 0.0);
    assert_eq!(at("holdfast_items_oldest_age_seconds{signal=\"traces\"}"), 0.0);
}

#[test]
fn the_breakers_state_is_one_series_of_ones_and_zeros() {
    let world = World::new(&[("CIRCUIT_BREAKER_FAILURE_THRESHOLD", "1")]);
    let state = || {
        let samples = samples(&world.get("/metrics").body);
        let mut on =
            samples.into_iter().filter(|(name, value)| name.starts_with("holdfast_breaker_state{") && *value == 1.0);
        let state = on.next().expect("one state").0;
        assert!(on.next().is_none());
        state
    };
    assert_eq!(state(), "holdfast_breaker_state{endpoint=\"primary\",state=\"closed\"}");
    world.collector.stop();
    world.trace(3);
    world.wait_for(|health| health.metrics.circuit_breaker_trips > 0);
    assert_eq!(state(), "holdfast_breaker_state{endpoint=\"primary\",state=\"open\"}");
}

#[test]
fn losses_are_labelled_with_their_reason() {
    let world = World::new(&[("TELEMETRY_FALLBACK_ENABLED", "false"), ("TELEMETRY_BUFFER_MAX_SPANS", "10")]);
    world.collector.stop();
    for _ in 0..3 {
        world.trace(8);
    }
    world.wait_for(|health| health.ledger.lost() > 0);
    let samples = samples(&world.get("/metrics").body);
    assert!(samples["holdfast_items_dropped_total{signal=\"traces\",reason=\"buffer_full\"}"] > 0.0, "{samples:?}");
}

#[test]
fn without_an_exporter_the_page_says_so() {
    let world = World::new(&[("OTEL_SDK_DISABLED", "true")]);
    let samples = samples(&world.get("/metrics").body);
    assert_eq!((samples.len(), samples["holdfast_exporter_up"]), (5, 0.0), "{samples:?}");
    assert_eq!(samples["holdfast_health_status{status=\"healthy\"}"], 1.0);
    assert!(samples.keys().any(|name| name.starts_with("holdfast_build_info{version=")));
}

/// Samples by name and labels, of a page in OpenMetrics 1.0. Fails on anything that its grammar does not allow.
fn open_samples(page: &str) -> BTreeMap<String, f64> {
    let mut samples = BTreeMap::new();
    let mut families = BTreeMap::<&str, &str>::new();
    let (mut family, mut metadata, mut has_samples) = ("", BTreeSet::new(), false);
    let body = page.strip_suffix("# EOF\n").expect("the page ends with # EOF");
    assert!(!body.contains("# EOF") && !body.contains('\r') && !body.contains("\n\n") && body.ends_with('\n'));
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# ") {
            let mut words = rest.splitn(3, ' ');
            let (keyword, name, text) = (words.next().expect("a word"), words.next().expect("a name"), words.next());
            let text = text.filter(|text| !text.is_empty()).unwrap_or_else(|| panic!("{line} has no text"));
            if name != family {
                (family, has_samples) = (name, false);
                metadata.clear();
                assert!(families.insert(name, "unknown").is_none(), "{name} has two places");
            }
            assert!(!has_samples, "{line}: metadata stands before the samples");
            assert!(metadata.insert(keyword), "{line} twice");
            match keyword {
                "TYPE" => {
                    assert!(["counter", "gauge", "histogram"].contains(&text), "{line}");
                    assert!(!name.ends_with("_total"), "{line}: a family of counters has no suffix");
                    families.insert(name, text);
                }
                "UNIT" => assert!(name.ends_with(&format!("_{text}")), "{line}: the name ends with the unit"),
                "HELP" => assert!(!text.contains(['\\', '"']), "{line} needs escapes"),
                _ => panic!("{line} is no metadata"),
            }
            continue;
        }
        has_samples = true;
        let (series, value) = line.rsplit_once(' ').expect("a value");
        let (name, labels) = series.split_once('{').map_or((series, None), |(name, labels)| (name, Some(labels)));
        let suffix = name.strip_prefix(family).unwrap_or_else(|| panic!("{line} is no sample of {family}"));
        match families[family] {
            "counter" => assert_eq!(suffix, "_total", "{line}"),
            "histogram" => assert!(HISTOGRAM.contains(&suffix), "{line}"),
            _ => assert_eq!(suffix, "", "{line}"),
        }
        if let Some(labels) = labels {
            let labels = labels.strip_suffix('}').expect("the end of the labels");
            let mut names = BTreeSet::new();
            for label in labels.split(',') {
                let (label, text) = label.split_once('=').expect("a label");
                assert!(is_name(label) && names.insert(label), "{line}");
                let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).expect("a quoted value");
                assert!(!text.contains(['"', '\\']), "{line}");
                let is_float = text == "+Inf" || text.contains('.') && text.parse::<f64>().is_ok();
                assert!(label != "le" || is_float, "{line}: OpenMetrics writes a bound with its point");
            }
        }
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
        assert!(families[family] != "counter" || value >= 0.0 && value.is_finite(), "{line}");
        assert!(samples.insert(series.to_owned(), value).is_none(), "{line} twice");
    }
    samples
}

#[test]
fn a_scraper_that_asks_for_openmetrics_gets_the_same_numbers() {
    let world = World::new(&[("OTEL_TRACES_SAMPLER", "always_on")]);
    world.trace(25);
    world.telemetry.settled(LONG).expect("delivered");
    let accept = "Accept: application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1\r\n";
    let answer = world.request("GET", "/metrics", accept);
    let expected = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!((answer.status, answer.header("content-type")), (200, expected));
    assert_eq!(answer.header("vary"), "accept");
    let open = open_samples(&answer.body);
    let text = samples(&world.get("/metrics").body);
    assert_eq!(open.keys().collect::<Vec<_>>(), text.keys().collect::<Vec<_>>());
    assert_eq!(open["holdfast_items_delivered_total{signal=\"traces\"}"], 25.0);
    assert!(answer.body.contains("# UNIT holdfast_buffer_size_bytes bytes\n"));
    let off = World::new(&[("OTEL_SDK_DISABLED", "true")]);
    let answer = off.request("GET", "/metrics", accept);
    assert_eq!(open_samples(&answer.body).len(), 5);
}
