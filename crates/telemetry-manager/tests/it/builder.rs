use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::{World, trace};
use telemetry_manager::opentelemetry::KeyValue;
use telemetry_manager::opentelemetry_sdk::trace::{Sampler, SpanData, SpanExporter, SpanLimits};
use telemetry_manager::resilient_exporter::{Compression, FallbackFormat};
use telemetry_manager::{Builder, Propagator, SETTINGS, SetupError, StateDir, TracesExporter, otlp_transport};

#[test]
fn code_beats_the_environment() {
    let world = World::new();
    let vars = [
        ("OTEL_SERVICE_VERSION", "1"),
        ("TELEMETRY_BUFFER_MAX_SPANS", "nonsense that nobody needs to hear of"),
        ("TELEMETRY_FALLBACK_ENABLED", "nonsense"),
        ("CIRCUIT_BREAKER_RECOVERY_TIMEOUT", "7"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "nonsense:"),
    ];
    let settings = world
        .builder(&vars)
        .with_service_name("coded")
        .with_buffer_size(77)
        .with_fallback_enabled(false)
        .with_endpoint("http://127.0.0.1:1")
        .settings()
        .expect("valid");
    assert_eq!((settings.service_name.as_str(), settings.service_version.as_deref()), ("coded", Some("1")));
    assert_eq!((settings.buffer.max_spans, settings.fallback.enabled), (77, false));
    assert_eq!(settings.breaker.recovery_timeout, Duration::from_secs(7));
    assert_eq!(settings.transport.endpoint(), "http://127.0.0.1:1");
    assert!(settings.warnings().is_empty(), "{:?}", settings.warnings());
}

#[test]
fn each_setting_has_its_method() {
    let minute = Duration::from_secs(60);
    let settings = Builder::default()
        .with_vars(|_| None)
        .with_sdk_disabled(false)
        .with_service_name("n")
        .with_service_version("v")
        .with_traces_exporter(TracesExporter::None)
        .with_endpoint("http://127.0.0.1:9")
        .with_protocol(otlp_transport::Protocol::HttpProtobuf)
        .with_insecure(true)
        .with_header("a", "b")
        .with_timeout(minute)
        .with_compression(otlp_transport::Compression::Gzip)
        .with_request_max_bytes(65_536)
        .with_schedule_delay(minute)
        .with_max_queue_size(9)
        .with_max_export_batch_size(8)
        .with_circuit_breaker_threshold(2)
        .with_circuit_breaker_timeout(minute)
        .with_half_open_probes(3)
        .with_half_open_successes(4)
        .with_retry_max_retries(6)
        .with_retry_initial_delay(minute)
        .with_retry_multiplier(1.5)
        .with_retry_max_delay(minute * 2)
        .with_retry_jitter(0.5)
        .with_buffer_size(10)
        .with_buffer_max_bytes(70_000)
        .with_buffer_max_age(minute)
        .with_state_dir("/s")
        .with_fallback_enabled(true)
        .with_fallback_dir("/f")
        .with_fallback_max_bytes(2 << 20)
        .with_fallback_max_age(minute)
        .with_fallback_format(FallbackFormat::Protobuf)
        .with_fallback_compression(Compression::Gzip)
        .with_fallback_compress_above(11)
        .with_dead_letter_max_bytes(12 << 20)
        .with_dead_letter_max_age(Duration::from_secs(120))
        .with_replay_rate(NonZeroU32::new(12))
        .settings()
        .expect("valid");
    let s = &settings;
    assert_eq!((s.service_name.as_str(), s.service_version.as_deref()), ("n", Some("v")));
    assert_eq!((s.traces_exporter, s.transport.endpoint()), (TracesExporter::None, "http://127.0.0.1:9/v1/traces"));
    assert_eq!((s.transport.timeout(), s.transport.max_request_bytes()), (minute, 65_536));
    assert_eq!(s.transport.compression(), otlp_transport::Compression::Gzip);
    assert_eq!(s.batch.schedule_delay, minute);
    assert_eq!((s.batch.max_queue_size, s.batch.max_export_batch_size), (9, 8));
    assert_eq!((s.breaker.failure_threshold, s.breaker.recovery_timeout), (2, minute));
    assert_eq!((s.breaker.half_open_probes, s.breaker.half_open_successes), (3, 4));
    assert_eq!((s.retry.max_retries, s.retry.initial_delay, s.retry.max_delay), (6, minute, minute * 2));
    assert_eq!((s.retry.multiplier, s.retry.jitter), (1.5, 0.5));
    assert_eq!((s.buffer.max_spans, s.buffer.max_bytes, s.buffer.max_age), (10, 70_000, minute));
    assert_eq!(s.state_dir, Some(StateDir::Chosen("/s".into())));
    assert_eq!((s.fallback.dir.as_deref(), s.fallback.max_bytes), (Some("/f".as_ref()), 2 << 20));
    assert_eq!(
        (s.fallback.max_age, s.fallback.format, s.fallback.compression, s.fallback.compress_above),
        (minute, FallbackFormat::Protobuf, Compression::Gzip, 11)
    );
    assert_eq!((s.dead_letters.max_bytes, s.dead_letters.max_age), (12 << 20, Duration::from_secs(120)));
    assert_eq!(s.replay_rate, NonZeroU32::new(12));
}

#[test]
fn a_bad_value_in_code_is_an_error_that_names_method_value_and_range() {
    let builder = || Builder::default().with_vars(|_| None);
    for (mut bad, parts) in [
        (builder().with_buffer_size(0), ["with_buffer_size", "is 0;", "from 1 to 1000000000"]),
        (builder().with_retry_jitter(f64::NAN), ["with_retry_jitter", "NaN", "from 0 to 1"]),
        (builder().with_buffer_max_age(Duration::ZERO), ["with_buffer_max_age", "0s", "from 1s to 30d"]),
        (
            builder().with_circuit_breaker_timeout(Duration::MAX),
            ["with_circuit_breaker_timeout", "d", "from 1ms to 1d"],
        ),
        (builder().with_fallback_max_bytes(1), ["with_fallback_max_bytes", "is 1;", "from 1MiB"]),
        (builder().with_state_dir(""), ["with_state_dir", "an empty path", "directory"]),
        (builder().with_service_name(" "), ["with_service_name", "empty", "any text"]),
        (builder().with_timeout(Duration::ZERO), ["with_timeout", "0ns", "1 ms to 1 h"]),
        (builder().with_endpoint("ftp://x"), ["with_endpoint", "ftp://x", "http://"]),
    ] {
        let error = bad.settings().unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "{error:?} lacks {part:?}");
        }
    }
}

#[test]
fn every_builder_method_of_the_table_exists() {
    let source = include_str!("../../src/builder.rs");
    for setting in SETTINGS {
        assert!(source.contains(&format!("pub fn {}", setting.builder)), "{}: no {}", setting.name, setting.builder);
    }
}

#[test]
fn sampler_limits_propagators_and_attributes_are_given_as_values() {
    let world = World::new();
    let limits = SpanLimits { max_attributes_per_span: 1, ..SpanLimits::default() };
    let manager = world
        .builder(&[("OTEL_TRACES_SAMPLER", "always_off"), ("OTEL_RESOURCE_ATTRIBUTES", "team=listed")])
        .with_sampler(Sampler::AlwaysOn)
        .with_span_limits(limits)
        .with_propagators([Propagator::Baggage])
        .with_resource_attributes([KeyValue::new("team", "coded"), KeyValue::new("service.name", "attributed")])
        .build()
        .expect("telemetry starts");
    assert_eq!(manager.settings().service_name, "attributed");
    trace(&manager, 1);
    drop(manager);
    assert_eq!(world.resource_attribute("team").as_deref(), Some("coded"));
    assert_eq!(world.resource_attribute("service.name").as_deref(), Some("attributed"));
}

#[test]
fn a_default_name_gives_way_to_the_environment() {
    let name = |vars: &'static str| {
        let vars = move |asked: &str| (asked == "OTEL_SERVICE_NAME" && !vars.is_empty()).then(|| vars.into());
        Builder::default().with_vars(vars).with_default_service_name("mine").settings().expect("valid").service_name
    };
    assert_eq!(name("theirs"), "theirs");
    assert_eq!(name(""), "mine");
    let unnamed = Builder::default().with_vars(|_| None).settings().expect("valid").service_name;
    assert!(unnamed.starts_with("unknown_service:"), "{unnamed}");
}

#[derive(Debug, Default, Clone)]
struct Foreign(Arc<AtomicUsize>);

impl SpanExporter for Foreign {
    async fn export(&self, batch: Vec<SpanData>) -> telemetry_manager::opentelemetry_sdk::error::OTelSdkResult {
        self.0.fetch_add(batch.len(), Ordering::Relaxed);
        Ok(())
    }
}

#[test]
fn a_foreign_exporter_may_be_primary() {
    let world = World::new();
    let foreign = Foreign::default();
    let manager = world.builder(&[]).with_primary(foreign.clone()).build().expect("telemetry starts");
    trace(&manager, 20);
    manager.shutdown().expect("everything is delivered");
    assert_eq!(foreign.0.load(Ordering::Relaxed), 20);
    assert_eq!(world.collector.received().requests, 0);
}

#[test]
fn the_exporter_can_be_adjusted_where_there_is_no_variable() {
    let world = World::new();
    let adjusted = |exporter: telemetry_manager::resilient_exporter::Builder| exporter.with_buffer_size(0);
    let error = world.builder(&[]).with_exporter(adjusted).build().unwrap_err();
    assert!(matches!(error, SetupError::Exporter(_)), "{error}");
}
