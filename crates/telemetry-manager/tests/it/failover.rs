//! Several collectors: spans go to the next one while the first one is away, with the credentials that it may have.

use mock_collector::MockCollector;
use telemetry_manager::otlp_transport::FailoverEndpoint;

use crate::support::{LONG, Setup, trace};

/// Another collector, by the same address under another name.
fn another() -> (MockCollector, String) {
    let collector = MockCollector::builder().with_kept_requests(100).start().expect("a collector on loopback");
    let endpoint = collector.grpc_endpoint().replace("127.0.0.1", "localhost");
    (collector, endpoint)
}

#[test]
fn while_the_first_collector_is_away_spans_go_to_the_next_with_the_credentials_that_it_may_have() {
    let own = |setup: &Setup| {
        let path = setup.path("headers");
        std::fs::write(&path, "tenant=mine\n").expect("a file");
        path
    };
    let list = "TELEMETRY_FAILOVER_ENDPOINTS";
    for (name, is_same_host, has_file, api_key, tenant) in [
        (list, false, false, None, None),
        (list, true, false, Some("s3cret"), None),
        (list, false, true, None, Some("mine")),
        (list, true, true, None, Some("mine")),
        ("OTEL_EXPORTER_OTLP_FALLBACK_ENDPOINT", false, false, Some("s3cret"), None),
    ] {
        let setup = Setup::new();
        let (other, by_name) = another();
        setup.collector.stop();
        let mut endpoint = if is_same_host { other.grpc_endpoint() } else { by_name };
        if has_file {
            endpoint = format!("{endpoint};headers-file={}", own(&setup));
        }
        let vars = [(name, &*endpoint), ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=s3cret")];
        let manager = setup.manager(&vars);
        assert!(manager.warnings().is_empty(), "{vars:?}: {:?}", manager.warnings());
        let is_kept_back = !is_same_host && !has_file && name == list;
        assert_eq!(manager.settings().remarks().len(), usize::from(is_kept_back), "{vars:?}");
        trace(&manager, 20);
        manager.settled(LONG).expect("the other collector takes them");
        assert_eq!((setup.collector.received().unique, other.received().unique), (0, 20), "{vars:?}");
        for request in other.requests() {
            assert_eq!((request.header("api-key"), request.header("tenant")), (api_key, tenant), "{vars:?}");
        }
        assert_eq!(manager.handle().expect("an exporter").ledger().imbalance(), 0);
    }
}

#[test]
fn endpoints_in_code_take_over_and_spans_return_to_the_first_one() {
    let setup = Setup::new();
    let (other, endpoint) = another();
    let second = FailoverEndpoint::new(endpoint).with_header("tenant", "mine");
    let manager = setup
        .builder(&[("TELEMETRY_RETRY_INITIAL_DELAY", "10ms"), ("OTEL_BSP_SCHEDULE_DELAY", "10")])
        .with_failover_endpoints([second])
        .with_failback_delay(std::time::Duration::from_secs(1))
        .build()
        .expect("telemetry starts");
    trace(&manager, 5);
    manager.settled(LONG).expect("the first collector takes them");
    assert_eq!((setup.collector.received().unique, other.received().unique), (5, 0));
    setup.collector.stop();
    trace(&manager, 5);
    manager.settled(LONG).expect("the second collector takes them");
    assert_eq!(other.received().unique, 5);
    assert_eq!(other.requests()[0].header("tenant"), Some("mine"));
    setup.collector.start_again().expect("the same port");
    crate::support::eventually("spans return to the first collector", || {
        trace(&manager, 1);
        manager.settled(LONG).expect("one of them takes it");
        setup.collector.received().unique > 5
    });
}

/// A fault on command is one of the first collector: the others show how they take over.
#[test]
fn a_fault_of_the_observer_is_one_of_the_first_collector() {
    use telemetry_manager::otlp_transport::{Fault, FaultMode};

    let setup = Setup::new();
    let (other, endpoint) = another();
    let manager = setup.manager(&[("TELEMETRY_FAILOVER_ENDPOINTS", &endpoint)]);
    let observer = manager.observer();
    observer.faults().expect("spans are exported").begin(Fault::new(FaultMode::Refuse), None);
    trace(&manager, 7);
    manager.settled(LONG).expect("the second collector takes them");
    assert_eq!((setup.collector.received().unique, other.received().unique), (0, 7));
}
