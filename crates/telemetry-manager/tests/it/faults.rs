//! The switch in front of the transport.

use std::time::Duration;

use crate::support::{LONG, Setup, trace};
use telemetry_manager::otlp_transport::{Cause, Fault, FaultMode, Outcome, Transport};
use telemetry_manager::resilient_exporter::Status;

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

/// A person who looks at health must not search the collector for a fault that is made here.
#[test]
fn a_fault_that_holds_is_an_issue_with_its_cause_its_time_and_its_remedy() {
    let setup = Setup::new();
    let manager = setup.manager(&[]);
    let faults = manager.observer().faults().expect("spans are exported").clone();
    assert_eq!((manager.health().status, manager.health().issues), (Status::Healthy, Vec::new()));
    let slow = FaultMode::Slow(Duration::from_millis(1_500));
    for (fault, duration, parts) in [
        (Fault::new(FaultMode::Refuse), Some(30), ["30 s more", "every call gets no connection"]),
        (Fault::new(FaultMode::Hang), None, ["until it is ended", "every call gets no answer"]),
        (Fault::new(FaultMode::Status(503)).with_share(0.5), Some(3_600), ["3600 s more", "a part of the calls"]),
        (Fault::new(slow), Some(1), ["for 1 s more", "goes out 1.5s late"]),
    ] {
        faults.begin(fault, duration.map(Duration::from_secs));
        let health = manager.health();
        let [issue] = health.issues.as_slice() else { panic!("{:?}", health.issues) };
        assert_eq!((health.status, health.healthy), (Status::Degraded, false));
        for part in parts.into_iter().chain(["DELETE /telemetry-test/simulate/collector-failure", "Faults::end"]) {
            assert!(issue.contains(part), "{part} in {issue}");
        }
    }
    assert!(faults.end());
    assert_eq!((manager.health().status, manager.health().issues), (Status::Healthy, Vec::new()));
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
