//! A collector dies and comes back; the handle shows where the spans are.
//! `cargo run -p resilient-exporter --example outage`
//!
//! The collector is a thread of this program, the state directory a temporary one, and the delays are shorter than
//! their defaults so that the program ends within about a second.

use std::time::Duration;

use breaker::State;
use mock_collector::MockCollector;
use opentelemetry::trace::{Tracer as _, TracerProvider as _};
use opentelemetry_sdk::trace::SdkTracerProvider;
use otlp_transport::{Config, Protocol, connect};
use resilient_exporter::{Event, Handle, ResilientSpanExporter};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let collector = MockCollector::start()?;
    let state = tempfile::tempdir()?;
    let config = Config::builder().with_protocol(Protocol::Grpc).with_endpoint(collector.grpc_endpoint()).build()?;
    let exporter = ResilientSpanExporter::builder()
        .with_primary(connect(config)?)
        .with_state_dir(state.path().join("state"))
        .with_buffer_size(4_000) // spans in memory: above 3,500 the oldest go to files
        .with_retry_initial_delay(Duration::from_millis(10))
        .with_retry_max_delay(Duration::from_millis(100))
        .with_circuit_breaker_timeout(Duration::from_millis(100))
        .build()?;
    let handle = exporter.handle(); // stays with the program when the SDK owns the exporter
    let events = handle.subscribe();
    let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).build();

    trace(&provider, 500)?;
    handle.settled(PATIENCE)?;
    show("the collector is up", &handle);

    collector.stop(); // its ports refuse
    for _ in 0..8 {
        trace(&provider, 450)?; // `export` does not wait for the collector
    }
    let (mut spilled, mut open) = (false, false);
    while !(spilled && open) {
        match events.recv_timeout(PATIENCE)? {
            Event::Spilled { .. } => spilled = true,
            Event::Breaker { to: State::Open, .. } => open = true,
            _ => {}
        }
    }
    show("the collector is down", &handle);

    collector.start_again()?; // the same ports
    handle.settled(PATIENCE)?;
    show("the collector is back", &handle);
    provider.shutdown()?;

    let ledger = handle.ledger();
    let received = collector.received();
    println!("the collector has {} different spans, {} came again", received.unique, received.duplicates);
    assert_eq!((ledger.delivered, ledger.lost(), ledger.imbalance()), (4_100, 0, 0));
    assert_eq!(received.unique, 4_100);
    Ok(())
}

/// A bound for each wait: no wait of this program comes near it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Makes `count` spans and hands them from the SDK's queue to the exporter.
fn trace(provider: &SdkTracerProvider, count: usize) -> Result<(), Box<dyn std::error::Error>> {
    let tracer = provider.tracer("shop");
    for _ in 0..count {
        tracer.in_span("checkout", |_| {});
    }
    Ok(provider.force_flush()?)
}

fn show(title: &str, handle: &Handle) {
    let (health, ledger) = (handle.health(), handle.ledger());
    println!(
        "{title}: {:?}, breaker {}; {} offered = {} in memory + {} in files + {} delivered",
        health.status,
        health.breaker,
        ledger.offered,
        ledger.buffered + ledger.in_flight,
        ledger.in_fallback,
        ledger.delivered
    );
}
