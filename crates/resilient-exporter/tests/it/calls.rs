//! The durations of calls, their observers, and the numbers of memory, waits and wake-ups beside them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use mock_collector::MockCollector;
use resilient_exporter::{CallEnded, CallResult, ResilientSpanExporter};

use crate::support::{App, grpc, quick};

#[test]
fn each_call_is_counted_and_observed_once_by_its_result() {
    let collector = MockCollector::start().expect("loopback");
    let builder = ResilientSpanExporter::builder().with_primary(grpc(&collector));
    let exporter = quick(builder).with_buffer_size(2_000).build().expect("valid");
    let mut app = App::new(exporter);
    let seen = Arc::new(Mutex::new(Vec::<CallEnded>::new()));
    let into = Arc::clone(&seen);
    let observer: Arc<dyn Fn(CallEnded) + Send + Sync> = Arc::new(move |call| {
        into.lock().expect("no panic").push(call);
    });
    app.handle.observe_calls(&observer);
    app.trace(100);
    app.assert_delivered(&collector);
    collector.stop();
    app.trace(100);
    app.wait_until("a call fails, and the endpoint waits", |handle| {
        let health = handle.health();
        health.metrics.failed_exports > 0 && health.collectors[0].wait.is_some()
    });
    let health = app.handle.health();
    let (memory, wakeups) = (health.memory, health.wakeups);
    assert!(memory.spans <= 100 && memory.bytes > 0 && memory.max_spans == 2_000, "{memory:?}");
    assert!(wakeups.net > 0 && wakeups.disk == 0 && wakeups.journal == 0, "{wakeups:?}");
    assert!(health.uptime > Duration::ZERO);
    app.wait_until("observers are told of all calls that are counted", |handle| {
        let counted: u64 = handle.health().calls.iter().map(|calls| calls.count()).sum();
        seen.lock().expect("no panic").len() as u64 == counted
    });
    let health = app.handle.health();
    let of = |result| health.calls.iter().find(|calls| calls.result == result);
    assert_eq!(of(CallResult::Accepted).expect("accepted calls").count(), health.metrics.successful_exports);
    let failed: u64 = health.calls.iter().filter(|calls| calls.result != CallResult::Accepted).map(|c| c.count()).sum();
    assert!(failed > 0 && failed <= app.handle.health().metrics.failed_exports);
    assert!(of(CallResult::Refused).is_none(), "results without a call are left out");
    drop(observer);
    collector.start_again().expect("the same ports");
    app.assert_delivered(&collector);
}
