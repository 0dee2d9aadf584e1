//! The subscribers of the application: a call makes no span and no event of theirs, whatever h2 and hyper record.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use mock_collector::MockCollector;
use otlp_payload::{BatchId, Payload};
use otlp_transport::{Config, Protocol, Transport, connect};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt as _};

use crate::support::*;

/// Counts all spans and events.
#[derive(Clone, Default)]
struct Counts {
    spans: Arc<AtomicUsize>,
    events: Arc<AtomicUsize>,
}

impl<S: tracing::Subscriber> Layer<S> for Counts {
    fn on_new_span(&self, _: &tracing::span::Attributes<'_>, _: &tracing::span::Id, _: Context<'_, S>) {
        self.spans.fetch_add(1, Ordering::Relaxed);
    }

    fn on_event(&self, _: &tracing::Event<'_>, _: Context<'_, S>) {
        self.events.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_call_leaves_nothing_with_a_subscriber() {
    // Its threads have no subscriber.
    let collector = MockCollector::start().expect("a port");
    let counts = Counts::default();
    // A request without spans is a whole one.
    let payload = Payload::new(BatchId { incarnation: 7, seq: 1 }, UNIX_EPOCH, 0, Bytes::new());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let subscriber = tracing_subscriber::registry().with(counts.clone());
    tracing::subscriber::with_default(subscriber, || {
        tracing::info_span!("a span of the application").in_scope(|| tracing::info!("an event"));
        for (protocol, endpoint) in
            [(Protocol::HttpProtobuf, collector.http_endpoint()), (Protocol::Grpc, collector.grpc_endpoint())]
        {
            let config = Config::builder().with_protocol(protocol).with_endpoint(endpoint).build().expect("valid");
            let transport = connect(config).expect("valid");
            for _ in 0..3 {
                let outcome = runtime.block_on(transport.send(&payload));
                assert_eq!(summary(&outcome), "delivered, 0 rejected");
            }
            assert_eq!((counts.spans.load(Ordering::Relaxed), counts.events.load(Ordering::Relaxed)), (1, 1));
        }
    });
    assert_eq!(collector.received().requests, 6);
}
