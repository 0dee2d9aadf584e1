//! Foreign exporters as transports.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{Context, InstrumentationScope, Key, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter, SpanLinks};
use otlp_payload::{BatchId, Encoder, Payload};
use otlp_transport::{ExporterTransport, Transport};

use crate::support::{PATIENCE, summary};

/// The calls that an exporter received.
#[derive(Debug, PartialEq)]
enum Told {
    Resource(String),
    Spans(Vec<String>),
    Shutdown(Duration),
    Dropped,
}

/// Records its calls, and acts by the name of a span.
#[derive(Debug)]
struct Foreign {
    told: Sender<Told>,
    /// An export of a span named "hang" waits for a message here.
    release: std::sync::Mutex<Receiver<()>>,
}

impl SpanExporter for Foreign {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        assert!(tokio::runtime::Handle::try_current().is_err(), "inside a runtime");
        assert!(Context::current().is_telemetry_suppressed(), "it would trace itself");
        let first = batch[0].name.clone();
        self.told.send(Told::Spans(batch.into_iter().map(|span| span.name.into_owned()).collect())).expect("a test");
        match first.as_ref() {
            "fail" => Err(OTelSdkError::InternalFailure("no\nway".to_owned())),
            "url" => Err(OTelSdkError::InternalFailure("for url (http://me:s3cret@c/s3cret/v1/traces)".to_owned())),
            "panic" => panic!("oh no"),
            "hang" => {
                self.release.lock().expect("not poisoned").recv().expect("released");
                Ok(())
            }
            // A blocking client brings its own runtime.
            "block" => {
                tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(async { Ok(()) })
            }
            _ => Ok(()),
        }
    }

    fn set_resource(&mut self, resource: &Resource) {
        let name = resource.get(&Key::from_static_str("service.name")).expect("a name");
        self.told.send(Told::Resource(name.to_string())).expect("a test");
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.told.send(Told::Shutdown(timeout)).expect("a test");
        Ok(())
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = self.told.send(Told::Dropped);
        panic!("even so");
    }
}

fn foreign() -> (ExporterTransport, Receiver<Told>, Sender<()>) {
    let ((told, heard), (release, released)) = (channel(), channel());
    (ExporterTransport::new(Foreign { told, release: released.into() }), heard, release)
}

fn payload(service: &str, names: &[&'static str]) -> Payload {
    let resource = Resource::builder_empty().with_attribute(KeyValue::new("service.name", service.to_owned())).build();
    let spans: Vec<SpanData> = names.iter().map(|name| span(name)).collect();
    Encoder::new(&resource).encode(BatchId { incarnation: 1, seq: 1 }, UNIX_EPOCH, &spans)
}

fn span(name: &'static str) -> SpanData {
    let ids = (TraceId::from_bytes([7; 16]), SpanId::from_bytes([7; 8]));
    SpanData {
        span_context: SpanContext::new(ids.0, ids.1, TraceFlags::SAMPLED, false, TraceState::default()),
        parent_span_id: SpanId::INVALID,
        parent_span_is_remote: false,
        span_kind: SpanKind::Internal,
        name: name.into(),
        start_time: UNIX_EPOCH,
        end_time: UNIX_EPOCH,
        attributes: Vec::new(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: Status::Unset,
        instrumentation_scope: InstrumentationScope::builder("test").build(),
    }
}

fn next(heard: &Receiver<Told>) -> Told {
    heard.recv_timeout(PATIENCE).expect("the exporter was told something")
}

fn spans(names: &[&str]) -> Told {
    Told::Spans(names.iter().map(|name| (*name).to_owned()).collect())
}

#[tokio::test]
async fn spans_arrive_and_the_resource_when_it_changes() {
    let (transport, heard, _release) = foreign();
    assert!(transport.endpoint().contains("Foreign"), "{}", transport.endpoint());
    for (service, names) in [("a", ["one", "two"]), ("a", ["three", "block"]), ("b", ["block", "five"])] {
        assert_eq!(summary(&transport.send(&payload(service, &names)).await), "delivered, 0 rejected");
    }
    let heard: Vec<Told> = heard.try_iter().collect();
    let resource = |name: &str| Told::Resource(name.to_owned());
    let expected =
        [resource("a"), spans(&["one", "two"]), spans(&["three", "block"]), resource("b"), spans(&["block", "five"])];
    assert_eq!(heard, expected);
}

#[tokio::test]
async fn an_error_and_a_panic_are_failed_attempts_and_nothing_more() {
    let (transport, _heard, _release) = foreign();
    for (name, expect) in [
        ("fail", "retryable: foreign Operation failed: no way, maybe taken"),
        ("url", "retryable: foreign Operation failed: for url (http://***@c/***/v1/traces), maybe taken"),
        ("panic", "retryable: foreign panicked: oh no, maybe taken"),
        ("fine", "delivered, 0 rejected"),
        ("panic", "retryable: foreign panicked: oh no, maybe taken"),
        ("fine", "delivered, 0 rejected"),
    ] {
        assert_eq!(summary(&transport.send(&payload("a", &[name])).await), expect);
    }
}

#[tokio::test]
async fn an_exporter_that_hangs_is_timed_out_and_never_called_twice_at_once() {
    let (transport, heard, release) = foreign();
    let transport = transport.with_timeout(Duration::from_millis(100));
    assert_eq!(summary(&transport.send(&payload("a", &["hang"])).await), "retryable: timeout, maybe taken");
    // The exporter is still busy: this one never gets to it.
    assert_eq!(summary(&transport.send(&payload("a", &["waiting"])).await), "retryable: timeout");
    release.send(()).expect("it waits");
    let transport = transport.with_timeout(PATIENCE);
    assert_eq!(summary(&transport.send(&payload("a", &["fine"])).await), "delivered, 0 rejected");
    let heard: Vec<Told> = heard.try_iter().collect();
    assert_eq!(heard, [Told::Resource("a".to_owned()), spans(&["hang"]), spans(&["fine"])]);
}

#[tokio::test]
async fn a_time_out_beyond_every_clock_is_none() {
    let (transport, _heard, _release) = foreign();
    let transport = transport.with_timeout(Duration::MAX);
    for (name, expect) in
        [("fine", "delivered, 0 rejected"), ("fail", "retryable: foreign Operation failed: no way, maybe taken")]
    {
        assert_eq!(summary(&transport.send(&payload("a", &[name])).await), expect);
    }
}

#[tokio::test]
async fn bytes_that_are_no_request_never_reach_it() {
    let (transport, heard, _release) = foreign();
    let junk = Payload::new(BatchId { incarnation: 1, seq: 1 }, UNIX_EPOCH, 1, Bytes::from_static(b"\xff\xff"));
    let got = summary(&transport.send(&junk).await);
    assert!(got.starts_with("batch: foreign payload cannot be decoded"), "{got}");
    assert_eq!(heard.try_recv().ok(), None);
}

#[tokio::test]
async fn the_exporter_is_shut_down_with_the_transport() {
    let (transport, heard, _release) = foreign();
    drop(transport);
    assert_eq!(next(&heard), Told::Shutdown(Duration::from_secs(5)));
    assert_eq!(next(&heard), Told::Dropped);
}
