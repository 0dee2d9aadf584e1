use std::collections::BTreeSet;

use super::*;
use crate::OpenTelemetryManager;

fn is_name(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._".contains(&byte))
}

#[test]
fn names_are_unique_and_have_the_prefix_and_helps_need_no_escapes() {
    let (mut names, mut pages) = (BTreeSet::new(), BTreeSet::new());
    for metric in METRICS {
        assert!(names.insert(metric.name) && pages.insert(metric.prometheus_name()), "{} twice", metric.name);
        let is_ours = metric.name.starts_with("holdfast.");
        let is_of_conventions = metric.name.starts_with("otel.sdk.");
        assert!(is_ours != is_of_conventions && is_name(metric.name), "{}", metric.name);
        assert_eq!(is_of_conventions, metric.question == Question::Conventions, "{}", metric.name);
        assert!(metric.help.ends_with('.') && !metric.help.contains(['"', '\\', '\n']), "{}", metric.name);
        for label in metric.labels {
            assert!(is_name(label.key), "{}", label.key);
            if let Values::OneOf(values) = label.values {
                assert!(values.iter().all(|value| !value.is_empty() && !value.contains(['"', '\\', '\n'])));
            }
        }
    }
}

#[test]
fn names_for_prometheus_are_those_that_prometheus_itself_makes() {
    let name = |wanted| METRICS.iter().find(|metric| metric.name == wanted).expect("a row").prometheus_name();
    assert_eq!(name("holdfast.items.delivered"), "holdfast_items_delivered_total");
    assert_eq!(name("holdfast.buffer.size"), "holdfast_buffer_size_bytes");
    assert_eq!(name("holdfast.endpoint.pause"), "holdfast_endpoint_pause_seconds");
    assert_eq!(name("holdfast.calls.success_rate_5m"), "holdfast_calls_success_rate_5m_ratio");
    assert_eq!(name("holdfast.build_info"), "holdfast_build_info");
    assert_eq!(name("otel.sdk.exporter.span.exported"), "otel_sdk_exporter_span_exported_total");
    assert_eq!(name("holdfast.delivery.lateness"), "holdfast_delivery_lateness_seconds");
    assert_eq!(name("otel.sdk.exporter.operation.duration"), "otel_sdk_exporter_operation_duration_seconds");
}

#[test]
fn the_rows_of_a_question_stand_together() {
    let mut questions: Vec<_> = METRICS.iter().map(|metric| metric.question).collect();
    questions.dedup();
    assert_eq!(questions, Question::ALL);
}

#[test]
fn each_pipeline_has_its_signal_and_what_pipelines_may_share_has_none() {
    const SHARED: [&str; 6] = ["exporter", "health", "build_info", "thread", "breaker", "endpoint"];
    for metric in METRICS.iter().filter(|metric| metric.question != Question::Conventions) {
        let has_signal = metric.labels.iter().any(|label| label.key == "signal");
        let subject = metric.name.split('.').nth(1).expect("a name of holdfast's");
        assert_eq!(has_signal, !SHARED.contains(&subject), "{}", metric.name);
    }
}

#[test]
fn samples_have_the_kind_and_the_labels_of_their_row() {
    let vars = |name: &str| match name {
        "OTEL_EXPORTER_OTLP_ENDPOINT" => Some("http://127.0.0.1:9".into()),
        "TELEMETRY_FAILOVER_ENDPOINTS" => Some("http://127.0.0.1:10".into()),
        _ => None,
    };
    let builder = OpenTelemetryManager::builder().with_fallback_enabled(false).with_globals(false).with_vars(vars);
    let telemetry = builder.build().expect("valid");
    let snapshot = Snapshot::of(&telemetry.observer());
    for metric in METRICS {
        for sample in metric.samples(&snapshot) {
            let kind = match sample.value {
                Value::Count(_) => Kind::Counter,
                Value::Sum(_) => Kind::UpDownCounter,
                Value::Number(_) => Kind::Gauge,
                Value::Buckets(_) => Kind::Histogram,
            };
            assert_eq!(kind, metric.kind, "{}", metric.name);
            let mut labels = metric.labels.iter();
            for (key, value) in &sample.labels {
                let label = labels.find(|label| label.key == *key);
                let label = label.unwrap_or_else(|| panic!("{}: {key} is no label, or not in order", metric.name));
                match label.values {
                    Values::OneOf(values) => assert!(values.contains(&value.as_ref()), "{}: {value}", metric.name),
                    Values::Fixed(_) => assert!(!value.is_empty() && !value.contains("127.0.0.1"), "{value}"),
                }
            }
        }
    }
    let refusing = METRICS.iter().find(|metric| metric.name == "holdfast.endpoint.refusing").expect("a row");
    let endpoints: Vec<_> = refusing.samples(&snapshot).iter().map(|sample| sample.labels[0].1.clone()).collect();
    assert_eq!(endpoints, ["primary", "2"]);
}
