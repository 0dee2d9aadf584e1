use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::{Setup, trace};
use telemetry_manager::opentelemetry::KeyValue;
use telemetry_manager::opentelemetry_sdk::trace::{Sampler, SpanData, SpanExporter, SpanLimits};
use telemetry_manager::resilient_exporter::{
    BufferCompression, Compression, FallbackFormat, Refused, ReplayOrder, SyncPolicy,
};
use telemetry_manager::{Builder, Propagator, SETTINGS, SetupError, TracesExporter, TracesProcessor, otlp_transport};

#[test]
fn code_beats_the_environment() {
    let setup = Setup::new();
    let vars = [
        ("OTEL_SERVICE_VERSION", "1"),
        ("TELEMETRY_BUFFER_MAX_SPANS", "nonsense that is not reported"),
        ("TELEMETRY_FALLBACK_ENABLED", "nonsense"),
        ("CIRCUIT_BREAKER_RECOVERY_TIMEOUT", "7"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "nonsense:"),
    ];
    let settings = setup
        .builder(&vars)
        .with_service_name("coded")
        .with_buffer_size(77)
        .with_fallback_enabled(false)
        .with_endpoint("http://127.0.0.1:1")
        .settings()
        .expect("valid");
    assert_eq!((settings.service_name.as_str(), settings.service_version.as_deref()), ("coded", Some("1")));
    let exporter = &settings.exporter;
    assert_eq!((exporter.buffer.max_spans, exporter.fallback.enabled), (77, false));
    assert_eq!(exporter.circuit_breaker.recovery_timeout, Duration::from_secs(7));
    assert_eq!(settings.transport.endpoint(), "http://127.0.0.1:1");
    assert!(settings.warnings().is_empty(), "{:?}", settings.warnings());
}

#[test]
fn a_closure_beats_the_environment() {
    let setup = Setup::new();
    let vars = [
        ("TELEMETRY_BUFFER_MAX_SPANS", "nonsense that is not reported"),
        ("TELEMETRY_FALLBACK_ENABLED", "nonsense"),
        ("TELEMETRY_BUFFER_MAX_AGE", "7s"),
        ("TELEMETRY_RETRY_MULTIPLIER", "nonsense"),
    ];
    let settings = setup
        .builder(&vars)
        .buffer(|buffer| buffer.max_spans = 77)
        .fallback(|fallback| fallback.enabled = false)
        .retry(|retry| retry.max_retries += 1)
        .settings()
        .expect("valid");
    let exporter = &settings.exporter;
    assert_eq!((exporter.buffer.max_spans, exporter.fallback.enabled), (77, false));
    assert_eq!((exporter.buffer.max_age, exporter.retry.max_retries), (Duration::from_secs(7), 6));
    // No closure changes the multiplier, so its variable is reported.
    let about = settings.warnings().iter().map(|warning| warning.setting.as_str()).collect::<Vec<_>>();
    assert_eq!(about, ["TELEMETRY_RETRY_MULTIPLIER"]);
    // A closure that sets the default cannot be told from one that leaves the field: the bad variable is an error.
    let mut same = setup.builder(&vars).fallback(|fallback| fallback.enabled = true).with_state_dir_required(true);
    let error = same.settings().unwrap_err();
    assert!(error.to_string().contains("TELEMETRY_FALLBACK_ENABLED"), "{error}");
}

/// Every setting of the table, given in code and different from its default.
fn given_in_code() -> Builder {
    let minute = Duration::from_secs(60);
    let limits = SpanLimits {
        max_attributes_per_span: 1,
        max_events_per_span: 2,
        max_links_per_span: 3,
        max_attributes_per_event: 4,
        max_attributes_per_link: 5,
    };
    Builder::default()
        .with_vars(|_| None)
        .with_sdk_disabled(true)
        .with_service_name("n")
        .with_service_version("v")
        .with_traces_exporter(TracesExporter::None)
        .with_endpoint("http://192.0.2.1:9")
        .with_proxy("http://192.0.2.2:3128")
        .with_protocol(otlp_transport::Protocol::HttpProtobuf)
        .with_headers_file("/h")
        .with_timeout(minute)
        .with_certificate("/ca.pem")
        .with_client_certificate("/c.pem")
        .with_client_key("/k.pem")
        .with_compression(otlp_transport::Compression::Gzip)
        .with_failover_endpoints(["http://192.0.2.3:9"])
        .with_failback_delay(minute)
        .with_vendor("xray")
        .with_request_max_bytes(65_536)
        .with_connection_max_age(minute)
        .with_request_max_spans(NonZeroUsize::new(77))
        .with_response_max_bytes(2_048)
        .with_propagators([Propagator::Baggage])
        .with_attribute_value_length_limit(Some(70))
        .with_span_attribute_value_length_limit(Some(71))
        .with_span_limits(limits)
        .with_processor(TracesProcessor::Batch)
        .with_schedule_delay(minute)
        .with_max_queue_size(9)
        .with_max_export_batch_size(8)
        .with_export_timeout(minute)
        .with_circuit_breaker_threshold(2)
        .with_circuit_breaker_timeout(minute * 2)
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
        .buffer(|buffer| buffer.compression = BufferCompression::Zstd)
        .with_state_dir("/s")
        .with_state_dir_required(true)
        .with_free_space_reserve(13 << 20)
        .with_refused(Refused::DeadLetter)
        .with_max_age_at_send(Some(minute))
        .with_max_concurrency(3)
        .with_fallback_enabled(false)
        .with_fallback_dir("/f")
        .with_fallback_max_bytes(2 << 20)
        .with_fallback_max_age(minute)
        .with_fallback_format(FallbackFormat::Protobuf)
        .with_fallback_compression(Compression::Gzip)
        .with_fallback_compress_above(11)
        .with_journal_enabled(true)
        .with_journal_sync(SyncPolicy::Interval(minute))
        .with_journal_sync_timeout(Duration::from_millis(20))
        .with_journal_staging(Duration::from_millis(30))
        .with_journal_max_bytes(17 << 20)
        .with_dead_letter_max_bytes(12 << 20)
        .with_dead_letter_max_age(minute * 3)
        .with_replay_rate(NonZeroU32::new(12))
        .with_replay_order(ReplayOrder::Newest)
        .shutdown(|shutdown| {
            shutdown.timeout = Duration::from_secs(8);
            shutdown.replay = Duration::from_millis(300);
        })
        .threads(|threads| threads.niceness = 7)
        .with_outage_span(true)
}

#[test]
fn each_setting_of_the_table_can_be_given_in_code() {
    // Headers are secret, the transport shows neither `insecure` nor hosts without a proxy, the fallback endpoint is
    // one of the others, and a sampler or attributes in code are values of the SDK: other tests look at their effects.
    let unseen = [
        "with_header",
        "with_insecure",
        "without_proxy",
        "with_fallback_endpoint",
        "with_sampler",
        "with_resource_attributes",
    ];
    let settings = given_in_code().settings().expect("valid");
    for row in SETTINGS.iter().filter(|row| !unseen.contains(&row.builder)) {
        assert_ne!(row.value(&settings), row.default(), "{} is not set by {}", row.name, row.builder);
    }
}

#[test]
fn the_greatest_age_of_a_connection_reaches_the_transport() {
    for (text, seconds) in [("90", 90), ("90s", 90), ("7d", 604_800), ("8d", 300), ("0", 300), ("soon", 300)] {
        let vars = |name: &str| (name == "TELEMETRY_CONNECTION_MAX_AGE").then(|| text.into());
        let settings = Builder::default().with_vars(vars).with_fallback_enabled(false).settings().expect("valid");
        assert_eq!(settings.transport.connection_max_age(), Duration::from_secs(seconds), "{text}");
        assert_eq!(settings.warnings().len(), usize::from(seconds == 300), "{text}: {:?}", settings.warnings());
    }
}

#[test]
fn each_method_sets_its_own_field() {
    let minute = Duration::from_secs(60);
    let s = &given_in_code().settings().expect("valid");
    assert_eq!((s.service_name.as_str(), s.service_version.as_deref()), ("n", Some("v")));
    assert_eq!((s.traces_exporter, s.transport.endpoint()), (TracesExporter::None, "http://192.0.2.1:9/v1/traces"));
    assert_eq!(s.transport.proxy(), Some("http://192.0.2.2:3128"));
    assert_eq!((s.transport.timeout(), s.transport.max_request_bytes()), (minute, 65_536));
    assert_eq!(s.vendor.as_deref(), Some("xray"));
    assert_eq!(s.transport.headers_file(), Some("/h"));
    let files = [s.transport.certificate(), s.transport.client_certificate(), s.transport.client_key()];
    assert_eq!(
        files.map(|path| path.and_then(std::path::Path::to_str)),
        [Some("/ca.pem"), Some("/c.pem"), Some("/k.pem")]
    );
    assert_eq!((s.response_max_bytes, s.transport.max_response_bytes()), (2_048, 2_048));
    assert_eq!(s.transport.compression(), otlp_transport::Compression::Gzip);
    assert_eq!((s.connection_max_age, s.transport.connection_max_age()), (minute, minute));
    assert_eq!((s.processor, s.batch.schedule_delay, s.batch.export_timeout), (TracesProcessor::Batch, minute, minute));
    assert_eq!((s.batch.max_queue_size, s.batch.max_export_batch_size), (9, 8));
    let s = &s.exporter;
    assert_eq!((s.circuit_breaker.failure_threshold, s.circuit_breaker.recovery_timeout), (2, minute * 2));
    assert_eq!((s.circuit_breaker.half_open_probes, s.circuit_breaker.half_open_successes), (3, 4));
    assert_eq!((s.retry.max_retries, s.retry.initial_delay, s.retry.max_delay), (6, minute, minute * 2));
    assert_eq!((s.retry.multiplier, s.retry.jitter), (1.5, 0.5));
    assert_eq!((s.buffer.max_spans, s.buffer.max_bytes, s.buffer.max_age), (10, 70_000, minute));
    assert_eq!((s.state_dir.as_deref(), s.refused), (Some("/s/n".as_ref()), Refused::DeadLetter));
    assert_eq!((s.state_dir_required, s.free_space_reserve, s.max_concurrency), (true, 13 << 20, 3));
    assert_eq!((s.fallback.enabled, s.fallback.dir.as_deref()), (false, Some("/f/n".as_ref())));
    assert_eq!((s.fallback.max_bytes, s.fallback.max_age), (2 << 20, minute));
    assert_eq!(
        (s.fallback.format, s.fallback.compression, s.fallback.compress_above),
        (FallbackFormat::Protobuf, Compression::Gzip, 11)
    );
    assert_eq!((s.journal.enabled, s.journal.sync), (true, SyncPolicy::Interval(minute)));
    assert_eq!((s.journal.sync_timeout, s.journal.max_bytes), (Duration::from_millis(20), 17 << 20));
    assert_eq!((s.dead_letter.max_bytes, s.dead_letter.max_age), (12 << 20, minute * 3));
    assert_eq!((s.replay.rate, s.request.max_bytes), (NonZeroU32::new(12), 65_536));
    assert_eq!(s.replay.order, ReplayOrder::Newest);
    assert_eq!((s.attribute_value_length_limit, s.span_attribute_value_length_limit), (Some(70), Some(71)));
    assert_eq!(s.max_age_at_send, Some(minute));
    assert_eq!(s.request.max_spans, NonZeroUsize::new(77));
    assert_eq!(s.journal.staging, Duration::from_millis(30));
    assert_eq!((s.shutdown.timeout, s.shutdown.replay), (Duration::from_secs(8), Duration::from_millis(300)));
    assert_eq!((s.threads.niceness, s.processor.max_export_batch_size), (7, 8));
    assert_eq!((s.processor.scheduled_delay, s.processor.export_timeout), (minute, minute));
    assert_eq!(s.request.attempt_timeout, minute * 2, "twice the time-out of the transport");
}

#[test]
fn a_bad_value_in_code_is_an_error_that_names_setting_value_and_range() {
    let builder = || Builder::default().with_vars(|_| None);
    let day = Duration::from_secs(24 * 60 * 60);
    for (mut bad, parts) in [
        (builder().with_buffer_size(0), ["buffer.max_spans", "is 0;", "from 1 to 1000000000"]),
        (builder().with_retry_jitter(f64::NAN), ["retry.jitter", "NaN", "from 0 to 1"]),
        (builder().with_buffer_max_age(Duration::ZERO), ["buffer.max_age", "0s", "from 1s to 30d"]),
        (
            builder().circuit_breaker(|breaker| breaker.recovery_timeout = Duration::MAX),
            ["circuit_breaker.recovery_timeout", "d", "from 1ms to 1d"],
        ),
        (builder().fallback(|files| files.max_bytes = 1), ["fallback.max_bytes", "is 1;", "from 1MiB"]),
        (builder().journal(|journal| journal.max_bytes = 1 << 20), ["journal.max_bytes", "is 1MiB;", "from 16MiB"]),
        (
            builder().with_journal_sync(SyncPolicy::Interval(day)),
            ["journal.sync is 1d;", "batch, never, or a duration", "from 1ms to 1h"],
        ),
        (builder().with_max_concurrency(0), ["with_max_concurrency", "is 0;", "from 1 to 64"]),
        (builder().with_state_dir(""), ["with_state_dir", "an empty path", "a path"]),
        (builder().with_service_name(" "), ["with_service_name", "empty", "any text"]),
        (builder().with_timeout(Duration::ZERO), ["with_timeout", "0ns", "1 ms to 1 h"]),
        (builder().with_endpoint("ftp://x"), ["with_endpoint", "ftp://x", "http://"]),
        (builder().with_response_max_bytes(1), ["with_response_max_bytes", "is 1;", "from 1KiB to 64MiB"]),
        (builder().with_connection_max_age(day * 8), ["with_connection_max_age", "is 8d;", "from 1s to 7d"]),
        (builder().with_max_age_at_send(Some(Duration::ZERO)), ["with_max_age_at_send", "is 0s;", "from "]),
        (builder().with_vendor("acme"), ["with_vendor", "acme", "newrelic"]),
        (builder().with_headers_file("/"), ["with_headers_file", "is a directory", "regular file"]),
        (
            builder().with_proxy("socks5://proxy:1080").with_endpoint("http://c:4317"),
            ["with_proxy", "SOCKS", "http://host:port"],
        ),
    ] {
        let error = bad.settings().unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "{error:?} lacks {part:?}");
        }
    }
}

#[test]
fn the_builder_has_each_method_that_the_table_names() {
    let source = include_str!("../../src/builder.rs");
    for setting in SETTINGS {
        let method = match setting.builder.split_once('.') {
            Some((group, _)) => format!(", {group}: "),
            None => format!("pub fn {}", setting.builder),
        };
        assert!(source.contains(&method), "{}: no {}", setting.name, setting.builder);
    }
}

#[test]
fn sampler_limits_propagators_and_attributes_are_given_as_values() {
    let setup = Setup::new();
    let limits = SpanLimits { max_attributes_per_span: 1, ..SpanLimits::default() };
    let manager = setup
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
    assert_eq!(setup.resource_attribute("team").as_deref(), Some("coded"));
    assert_eq!(setup.resource_attribute("service.name").as_deref(), Some("attributed"));
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
    let setup = Setup::new();
    let foreign = Foreign::default();
    let manager = setup.builder(&[]).with_primary(foreign.clone()).build().expect("telemetry starts");
    trace(&manager, 20);
    manager.shutdown().expect("everything is delivered");
    assert_eq!(foreign.0.load(Ordering::Relaxed), 20);
    assert_eq!(setup.collector.received().requests, 0);
}

#[test]
fn settings_of_our_transport_end_no_program_that_has_one_of_its_own() {
    let setup = Setup::new();
    let bad = [("OTEL_EXPORTER_OTLP_ENDPOINT", "grpc://collector.example"), ("OTEL_EXPORTER_OTLP_TIMEOUT", "1")];
    let foreign = Foreign::default();
    let manager = setup.builder(&bad).with_primary(foreign.clone()).build().expect("telemetry starts");
    let [warning] = manager.warnings() else { panic!("{:?}", manager.warnings()) };
    assert_eq!(warning.setting, "OTEL_EXPORTER_OTLP_ENDPOINT");
    assert!(warning.message.contains("scheme") && warning.message.contains("no effect"), "{warning}");
    trace(&manager, 3);
    manager.shutdown().expect("everything is delivered");
    assert_eq!(foreign.0.load(Ordering::Relaxed), 3);
}

#[test]
fn a_program_gives_names_and_values_of_its_own() {
    let vars = [("OTEL_SERVICE_NAME", "mine"), ("TELEMETRY_BUFER_MAX_SPANS", "7")];
    let settings = Builder::default().with_environment(vars).settings().expect("valid");
    assert_eq!(settings.service_name, "mine");
    assert_eq!(settings.warnings()[0].setting, "TELEMETRY_BUFER_MAX_SPANS");
}

#[test]
fn the_exporter_can_be_adjusted_where_there_is_no_variable() {
    let setup = Setup::new();
    let adjusted = |exporter: telemetry_manager::resilient_exporter::Builder| exporter.with_buffer_size(0);
    let error = setup.builder(&[]).with_exporter(adjusted).build().unwrap_err();
    assert!(matches!(error, SetupError::Exporter(_)), "{error}");
}
