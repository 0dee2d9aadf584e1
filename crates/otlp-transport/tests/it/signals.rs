//! Each signal by its path, its gRPC method and its variables.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::time::UNIX_EPOCH;

use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use otlp_payload::{BatchId, Payload};
use otlp_transport::{Config, ConfigError, ExporterTransport, Protocol, Signal, SignalTransport, Transport, connect};

use crate::support::{Log, Raw, field, frame, grpc_answer, http_answer, listen, serve_grpc, serve_raw, summary};

const GRPC: [&str; 3] = [
    "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
    "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
];
const HTTP: [&str; 3] = ["/v1/traces", "/v1/logs", "/v1/metrics"];

fn payload(signal: Signal) -> Payload {
    let bytes = format!("the bytes of {signal}").into_bytes();
    Payload::of(signal, BatchId { incarnation: 1, seq: 1 }, UNIX_EPOCH, 5, bytes.into())
}

fn settings(signal: Signal, vars: &BTreeMap<&str, String>) -> Result<Config, ConfigError> {
    Config::builder().with_signal(signal).build_over(|name| vars.get(name).map(OsString::from))
}

/// The path and the value of the header `tenant` of each request.
fn seen(log: &Log) -> Vec<(String, Option<String>)> {
    let log = log.lock().expect("not poisoned");
    let tenant = |seen: &crate::support::Seen| seen.header("tenant").map(str::to_owned);
    log.iter().map(|seen| (seen.target.replace("http://127.0.0.1", ""), tenant(seen))).collect()
}

fn path_of(target: &str) -> &str {
    target.find("/opentelemetry").map_or(target, |at| &target[at..])
}

/// A partial success: field 1 of the answer, with the rejected items in its field 1.
fn rejected_two() -> Vec<u8> {
    field(1, &[1 << 3, 2])
}

async fn peer(protocol: Protocol) -> (SocketAddr, Log) {
    let (listener, address) = listen().await;
    let log = match protocol {
        Protocol::Grpc => serve_grpc(listener, |_| {
            grpc_answer(Some(frame(0, &rejected_two())), vec![("grpc-status", "0".to_owned())])
        }),
        _ => serve_raw(listener, |_| Raw::Answer(http_answer(200, &[], &rejected_two()))),
    };
    (address, log)
}

#[tokio::test]
async fn each_signal_has_its_path_and_method_and_the_same_acknowledgement() {
    for (protocol, name, paths) in [(Protocol::Grpc, "grpc", GRPC), (Protocol::HttpProtobuf, "http/protobuf", HTTP)] {
        for (signal, path) in Signal::ALL.into_iter().zip(paths) {
            let (address, log) = peer(protocol).await;
            let vars = BTreeMap::from([
                ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{address}")),
                ("OTEL_EXPORTER_OTLP_PROTOCOL", name.to_owned()),
            ]);
            let transport = connect(settings(signal, &vars).expect("valid")).expect("valid");
            assert_eq!(summary(&transport.send(&payload(signal)).await), "delivered, 2 rejected", "{signal}");
            assert_eq!(path_of(&seen(&log)[0].0), path);
            assert!(log.lock().expect("not poisoned")[0].body.ends_with(payload(signal).bytes()));
            for other in Signal::ALL.into_iter().filter(|other| *other != signal) {
                let outcome = transport.send(&payload(other)).await;
                assert_eq!(summary(&outcome), "retryable: connect", "{other} by settings for {signal}");
            }
            assert_eq!(seen(&log).len(), 1, "nothing else was sent");
        }
    }
}

#[tokio::test]
async fn a_transport_for_all_signals_sends_each_by_its_own_variables() {
    let (general, general_log) = peer(Protocol::HttpProtobuf).await;
    let (own, own_log) = peer(Protocol::HttpProtobuf).await;
    let vars = BTreeMap::from([
        ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{general}/otlp/")),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf".to_owned()),
        ("OTEL_EXPORTER_OTLP_HEADERS", "tenant=all".to_owned()),
        ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", format!("http://{own}/insert/logs")),
        ("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "tenant=logs".to_owned()),
        ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "2500".to_owned()),
    ]);
    let all = Signal::ALL.map(|signal| settings(signal, &vars).expect("valid"));
    assert_eq!(all.each_ref().map(|config| config.timeout().as_millis()), [10_000, 10_000, 2_500]);
    let transport = SignalTransport::new(all).expect("valid");
    for signal in Signal::ALL {
        assert_eq!(summary(&transport.send(&payload(signal)).await), "delivered, 2 rejected", "{signal}");
    }
    let of = |path: &str, tenant: &str| (path.to_owned(), Some(tenant.to_owned()));
    assert_eq!(seen(&general_log), [of("/otlp/v1/traces", "all"), of("/otlp/v1/metrics", "all")]);
    assert_eq!(seen(&own_log), [of("/insert/logs", "logs")]);
    assert_eq!(transport.endpoint(), format!("http://{general}/otlp/v1/traces"));
    assert_eq!(transport.endpoint_of(Signal::Logs), format!("http://{own}/insert/logs"));
    let twice = [Signal::Logs, Signal::Logs].map(|signal| settings(signal, &vars).expect("valid"));
    let error = SignalTransport::new(twice).expect_err("which one?").to_string();
    assert_eq!(error, "there are two settings for logs: give one of each signal");

    let only_traces = SignalTransport::new([settings(Signal::Traces, &vars).expect("valid")]).expect("valid");
    let outcome = format!("{:?}", only_traces.send(&payload(Signal::Metrics)).await);
    let told = "the settings are for traces, and the payload is of metrics: build settings with_signal(Metrics) too";
    assert!(outcome.contains(told), "{outcome}");
    let none = SignalTransport::new([]).expect("valid");
    assert_eq!(
        (summary(&none.send(&payload(Signal::Traces)).await).as_str(), none.endpoint()),
        ("retryable: connect", "")
    );
}

#[test]
fn errors_and_notes_name_the_variable_of_the_signal() {
    let vars = BTreeMap::from([
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://traces:4318/v1/traces".to_owned()),
        ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "metrics".to_owned()),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:4318/v1/logs".to_owned()),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf".to_owned()),
        ("OTEL_EXPORTER_OTLP_LOGS_COMPRESSION", "brotli".to_owned()),
    ]);
    let notes = |config: &Config| config.notes().iter().map(ToString::to_string).collect::<Vec<_>>();
    let traces = settings(Signal::Traces, &vars).expect("the variables of other signals are not read");
    assert_eq!((traces.endpoint(), notes(&traces)), ("http://traces:4318/v1/traces", vec![]));
    let logs = settings(Signal::Logs, &vars).expect("valid");
    assert_eq!(logs.endpoint(), "http://all:4318/v1/logs");
    let [brotli, path] = &notes(&logs)[..] else { panic!("{:?}", notes(&logs)) };
    assert!(brotli.contains("OTEL_EXPORTER_OTLP_LOGS_COMPRESSION=\"brotli\" is ignored"), "{brotli}");
    assert!(path.contains("ends in /v1/logs") && path.contains("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT"), "{path}");
    let general = BTreeMap::from([
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:4318/otlp/v1/traces/".to_owned()),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf".to_owned()),
    ]);
    let metrics = settings(Signal::Metrics, &general).expect("valid");
    assert_eq!(metrics.endpoint(), "http://all:4318/otlp/v1/metrics");
    let [note] = &notes(&metrics)[..] else { panic!("{:?}", notes(&metrics)) };
    assert!(note.contains("ends in /v1/traces, and metrics go to /v1/metrics in its place"), "{note}");
    let config = Config::builder().with_signal(Signal::Logs).with_traces_endpoint("http://traces:4318/v1/traces");
    let error = config.build().expect_err("of another signal").to_string();
    assert!(error.contains("with_traces_endpoint") && error.contains("with_signal_endpoint"), "{error}");
    let error = settings(Signal::Metrics, &vars).expect_err("no scheme").to_string();
    assert!(error.contains("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"), "{error}");
}

#[tokio::test]
async fn a_span_exporter_gets_no_other_signal() {
    #[derive(Debug)]
    struct Never;
    impl SpanExporter for Never {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            panic!("{} spans", batch.len());
        }
    }
    let transport = ExporterTransport::new(Never);
    let outcome = format!("{:?}", transport.send(&payload(Signal::Logs)).await);
    assert!(outcome.contains("traces, by a span exporter") && outcome.starts_with("Retryable"), "{outcome}");
}
