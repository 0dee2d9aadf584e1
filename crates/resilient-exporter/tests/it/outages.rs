//! The records of outages, of a real collector that stops and comes back.

use std::time::Duration;

use mock_collector::MockCollector;
use resilient_exporter::{Clock as _, ResilientSpanExporter, SystemClock};

use crate::support::{App, grpc, quick};

#[test]
fn an_outage_is_recorded_while_it_lasts_and_afterwards() {
    let collector = MockCollector::start().expect("loopback");
    let builder = quick(ResilientSpanExporter::builder().with_primary(grpc(&collector)).with_fallback_enabled(false));
    let mut app = App::new(builder.build().expect("valid"));
    app.trace(10);
    app.assert_delivered(&collector);
    assert_eq!(app.handle.outages(), []);
    let begin = SystemClock.wall();
    collector.stop();
    app.trace(50);
    app.wait_until("the breaker opens", |handle| handle.health().metrics.circuit_breaker_trips > 0);
    app.wait_until("an outage", |handle| handle.outages().len() == 1);
    let lasting = app.handle.outages().remove(0);
    assert_eq!((lasting.to, lasting.waited), (None, 50), "{lasting:?}");
    assert!(!lasting.cause.is_empty() && !lasting.remedy.is_empty() && lasting.endpoint.contains("127.0.0.1"));
    let from = lasting.from.expect("known");
    assert!(from + Duration::from_secs(1) > begin && from <= SystemClock.wall(), "{from:?}");
    collector.start_again().expect("the same ports");
    app.assert_delivered(&collector);
    app.trace(10);
    app.assert_delivered(&collector);
    app.wait_until("two successes end it", |handle| handle.outages()[0].to.is_some());
    let [over] = &app.handle.outages()[..] else { panic!("one outage") };
    assert!(over.to > over.from && over.waited == 50 && over.lost.is_empty(), "{over:?}");
    assert_eq!(over.cause, lasting.cause);
}
