//! The switch in front of the transport.

use std::time::Duration;

use crate::support::{LONG, Setup, trace};
use telemetry_manager::otlp_transport::{Cause, Fault, FaultMode, Outcome, Transport};

#[test]
fn a_fault_of_the_observer_fails_calls_and_every_span_is_delivered_after_it() {
    let setup = Setup::new();
    let manager = setup.manager(&[("TELEMETRY_RETRY_INITIAL_DELAY", "10ms"), ("OTEL_BSP_SCHEDULE_DELAY", "10")]);
    let observer = manager.observer();
    let faults = observer.faults().expect("spans are exported");
    faults.begin(Fault::new(FaultMode::Refuse), Some(Duration::from_secs(3_600)));
    let handle = manager.handle().expect("an exporter");
    let events = handle.subscribe();
    trace(&manager, 7);
    while handle.health().metrics.failed_exports == 0 {
        events.recv_timeout(LONG).expect("a call fails");
    }
    assert_eq!((setup.collector.received().spans, handle.ledger().delivered), (0, 0));
    assert!(faults.injected() > 0);
    assert!(faults.end());
    handle.retry_now();
    manager.settled(LONG).expect("the collector takes them");
    assert_eq!((setup.collector.received().unique, handle.ledger().imbalance()), (7, 0));
}

/// Answers each call as a collector that is away.
struct Away;

#[async_trait::async_trait]
impl Transport for Away {
    async fn send(&self, _: &otlp_payload::Payload) -> Outcome {
        let cause = Cause::Connect("away".to_owned());
        Outcome::Retryable { after: None, cause, possible_duplicate: false }
    }

    fn endpoint(&self) -> &str {
        "away"
    }
}

#[test]
fn the_observer_knows_the_transport_of_the_settings_and_no_other() {
    let setup = Setup::new();
    let manager = setup.manager(&[]);
    let observer = manager.observer();
    let config = observer.transport_config().expect("the one of the settings");
    assert_eq!(config.endpoint(), setup.collector.grpc_endpoint());
    assert_eq!(observer.settings().service_name, "my-api");

    let own = setup.builder(&[("OTEL_SERVICE_NAME", "own")]).with_primary(Away).build().expect("telemetry starts");
    assert!(own.observer().transport_config().is_none() && own.observer().faults().is_some());

    let off = setup.manager(&[("OTEL_TRACES_EXPORTER", "none")]);
    assert!(off.observer().transport_config().is_none() && off.observer().faults().is_none());
}
