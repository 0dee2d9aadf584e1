//! Each span in full, as the collector got it: from our processor through memory and through files.

use std::collections::BTreeMap;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use mock_collector::MockCollector;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, Span, TracesData};
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::trace::SdkTracerProvider;
use prost::Message as _;
use resilient_exporter::Handle;
use trials::app::{App, Recorder};
use trials::contender::{self, Protocol, Settings, resource};

const PATIENCE: Duration = Duration::from_secs(60);
const PRODUCERS: usize = 4;

/// A span with the resource and the scope that stand above it, by its ids.
type Spans = BTreeMap<(Vec<u8>, Vec<u8>), (Option<Resource>, Option<InstrumentationScope>, Span)>;

fn by_id(groups: Vec<ResourceSpans>) -> Spans {
    let mut spans = Spans::new();
    for mut group in groups {
        // A map in the SDK, of no order.
        if let Some(resource) = &mut group.resource {
            resource.attributes.sort_by(|one, other| one.key.cmp(&other.key));
        }
        for scope in group.scope_spans {
            for span in scope.spans {
                let ids = (span.trace_id.clone(), span.span_id.clone());
                spans.insert(ids, (group.resource.clone(), scope.scope.clone(), span));
            }
        }
    }
    spans
}

/// Several threads end spans at the same time.
fn make(provider: &SdkTracerProvider, handle: &Handle, each: usize) {
    let together = Arc::new(Barrier::new(PRODUCERS));
    let producers = (0..PRODUCERS).map(|_| {
        let (mut app, together, handle) = (App::new(provider), Arc::clone(&together), handle.clone());
        thread::spawn(move || {
            together.wait();
            for number in 0..each {
                if number.is_multiple_of(100) {
                    // The disk is given the time to take the spans that memory has no room for.
                    let has_room = || handle.ledger().buffered < 8_000;
                    trials::wait_until("room in memory", PATIENCE, has_room).expect("a disk that works");
                }
                app.serve_nested();
            }
        })
    });
    producers.collect::<Vec<_>>().into_iter().for_each(|producer| producer.join().expect("a producer"));
}

#[test]
fn each_span_arrives_unchanged_through_the_processor_memory_and_files() {
    for protocol in [Protocol::Grpc, Protocol::Http] {
        let collector = MockCollector::builder().with_kept_requests(10_000).start().expect("loopback");
        let endpoint = match protocol {
            Protocol::Grpc => collector.grpc_endpoint(),
            Protocol::Http => collector.http_endpoint(),
        };
        let state = tempfile::tempdir().expect("a folder");
        let builder = contender::builder(Settings::Quick, protocol, &endpoint, state.path()).expect("an endpoint");
        let processor = builder.build_processor().expect("valid");
        let (handle, recorder) = (processor.handle(), Recorder::default());
        let provider = SdkTracerProvider::builder()
            .with_span_processor(recorder.clone())
            .with_span_processor(processor)
            .with_resource(resource())
            .build();
        make(&provider, &handle, 100);
        provider.force_flush().expect("the collector takes them");
        collector.stop();
        make(&provider, &handle, 2_000);
        handle.flush(PATIENCE).expect("the disk takes them");
        assert!(handle.ledger().in_fallback > 0, "{:?}", handle.ledger());
        collector.start_again().expect("the same ports");
        handle.settled(PATIENCE).expect("the collector takes them");
        provider.shutdown().expect("nothing waits");

        let spans = recorder.take();
        assert_eq!(spans.len(), 2 * PRODUCERS * 2_100);
        let resource = ResourceAttributesWithSchema::from(&resource());
        let made = by_id(group_spans_by_resource_and_scope(spans, &resource));
        let requests = collector.requests();
        let bodies = requests.iter().map(|request| TracesData::decode(request.body.clone()).expect("OTLP"));
        let received = by_id(bodies.flat_map(|request| request.resource_spans).collect());
        assert_eq!(made.len(), received.len(), "{protocol}: {:?}", handle.ledger());
        for (ids, span) in &made {
            assert_eq!(received.get(ids), Some(span), "{protocol}");
        }
    }
}
