//! Sends one payload to a collector that is busy first and accepts it then.
//! `cargo run -p otlp-transport --example one_payload`
//!
//! The collector is a thread of this program. No retry policy is involved: each outcome says what may be done with the
//! bytes.

use std::time::{Duration, SystemTime};

use mock_collector::{Answer, Behavior, MockCollector};
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanData;
use otlp_payload::{BatchId, Encoder};
use otlp_transport::{Config, Outcome, Protocol, connect};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let resource = Resource::builder_empty().with_service_name("shop").build();
    let batch = BatchId { incarnation: 1, seq: 0 };
    let payload = Encoder::new(&resource).encode(batch, SystemTime::UNIX_EPOCH, &[span("GET /orders")]);

    let collector = MockCollector::start()?;
    let config = Config::builder().with_protocol(Protocol::Grpc).with_endpoint(collector.grpc_endpoint()).build()?;
    let transport = connect(config)?; // no I/O yet
    let busy = Answer::grpc(14).with_message("warming up").with_retry_after(Duration::from_secs(2));
    collector.set_next(1, Behavior::answer(busy));

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for attempt in 1..=2 {
        match runtime.block_on(transport.send(&payload)) {
            Outcome::Delivered { rejected, .. } => println!("attempt {attempt}: delivered, {rejected} spans rejected"),
            Outcome::Retryable { after, cause, .. } => println!("attempt {attempt}: again after {after:?}: {cause}"),
            Outcome::TooLarge { cause, .. } => println!("attempt {attempt}: to be split: {cause}"),
            Outcome::Refused { kind, cause, .. } => println!("attempt {attempt}: refused, {kind:?}: {cause}"),
            other => println!("attempt {attempt}: {other:?}"),
        }
    }
    let received = collector.received();
    println!("the collector has {} span from {} requests", received.unique, received.requests);
    assert_eq!((received.unique, received.duplicates, received.requests), (1, 0, 2));
    Ok(())
}

fn span(name: &'static str) -> SpanData {
    let (trace, id) = (TraceId::from(7_u128), SpanId::from(7_u64));
    SpanData {
        span_context: SpanContext::new(trace, id, TraceFlags::SAMPLED, false, TraceState::NONE),
        parent_span_id: SpanId::INVALID,
        parent_span_is_remote: false,
        span_kind: SpanKind::Server,
        name: name.into(),
        start_time: SystemTime::UNIX_EPOCH,
        end_time: SystemTime::UNIX_EPOCH,
        attributes: Vec::new(),
        dropped_attributes_count: 0,
        events: Default::default(),
        links: Default::default(),
        status: Status::Unset,
        instrumentation_scope: Default::default(),
    }
}
