//! The two span processors that the manager installs.

use std::time::{Duration, Instant};

use mock_collector::Behavior;
use telemetry_manager::resilient_exporter::{Clock as _, SystemClock};
use telemetry_manager::{FlushError, OpenTelemetryManager, ShutdownError, TracesProcessor};

use crate::support::{LONG, Setup, has_fallback_file, trace};

/// The value of the variable, and whether the processor is ours.
const PROCESSORS: [(&str, bool); 3] = [("", true), ("resilient", true), ("batch", false)];

/// Seals no batch by itself within the test.
const LATE: (&str, &str) = ("OTEL_BSP_SCHEDULE_DELAY", "3600s");

fn manager(setup: &Setup, processor: &str, more: &[(&str, &str)]) -> OpenTelemetryManager {
    setup.manager(&[&[("TELEMETRY_PROCESSOR", processor), LATE], more].concat())
}

fn now() -> Instant {
    SystemClock.now()
}

/// The end of the process right after a flush loses nothing.
#[test]
fn after_a_force_flush_of_the_provider_the_collector_has_every_span() {
    for (processor, is_ours) in PROCESSORS {
        let setup = Setup::new();
        let manager = manager(&setup, processor, &[]);
        let installed = manager.settings().processor;
        assert_eq!(installed == TracesProcessor::Resilient, is_ours, "{processor:?}: {installed:?}");
        let handle = manager.handle().expect("an exporter");
        assert_eq!(handle.health().staging_capacity.is_some(), is_ours, "{processor:?}");
        trace(&manager, 5);
        assert_eq!(handle.ledger().staged, if is_ours { 5 } else { 0 }, "{processor:?}");
        trace(&manager, 1_995);
        manager.tracer_provider().force_flush().expect("an answer for each");
        let received = setup.collector.received();
        assert_eq!((received.unique, received.duplicates), (2_000, 0), "{processor:?}");
        let ledger = handle.ledger();
        assert_eq!((ledger.delivered, ledger.staged, ledger.buffered, ledger.in_flight), (2_000, 0, 0, 0));
        assert_eq!(setup.resource_attribute("service.name").as_deref(), Some("my-api"), "{processor:?}");
    }
}

#[test]
fn a_force_flush_keeps_to_the_export_timeout_and_has_the_spans_on_the_disk_within_it() {
    for (processor, _) in PROCESSORS {
        let setup = Setup::new();
        setup.collector.set(Behavior::never_answer());
        let timeout = ("OTEL_BSP_EXPORT_TIMEOUT", "1000");
        let kept = manager(&setup, processor, &[timeout]);
        trace(&kept, 100);
        let start = now();
        kept.tracer_provider().force_flush().expect("safe in a file");
        assert!(now() - start < LONG / 3, "{processor:?}: {:?}", now() - start);
        assert!(has_fallback_file(setup.dir.path()), "{processor:?}");

        let memory = manager(&setup, processor, &[timeout, ("TELEMETRY_FALLBACK_ENABLED", "false")]);
        trace(&memory, 100);
        let start = now();
        let error = memory.tracer_provider().force_flush().expect_err("no answer, and no place");
        let taken = now() - start;
        assert!(error.to_string().contains("100 spans are in memory only"), "{processor:?}: {error}");
        assert!((Duration::from_millis(900)..LONG / 3).contains(&taken), "{processor:?}: {taken:?}");
    }
}

/// Not to the 30 s of the provider's flush.
#[test]
fn each_wait_of_the_manager_keeps_to_its_own_timeout() {
    for (processor, _) in PROCESSORS {
        let setup = Setup::new();
        setup.collector.set(Behavior::never_answer());
        let manager = manager(&setup, processor, &[("TELEMETRY_FALLBACK_ENABLED", "false")]);
        let short = Duration::from_millis(50);
        type Wait = fn(&OpenTelemetryManager, Duration) -> Result<(), FlushError>;
        let waits: [Wait; 3] =
            [OpenTelemetryManager::flush, OpenTelemetryManager::checkpoint, OpenTelemetryManager::settled];
        for wait in waits {
            trace(&manager, 10);
            let start = now();
            wait(&manager, short).expect_err("no answer");
            assert!(now() - start < LONG / 3, "{processor:?}: {:?}", now() - start);
            let ledger = manager.handle().expect("an exporter").ledger();
            assert_eq!((ledger.staged, ledger.accepted()), (0, ledger.offered), "the spans are in the exporter");
        }
    }
}

#[test]
fn a_shutdown_keeps_to_its_timeout_and_counts_the_spans_that_it_drops() {
    for (processor, _) in PROCESSORS {
        let setup = Setup::new();
        setup.collector.set(Behavior::never_answer());
        let more = [("TELEMETRY_FALLBACK_ENABLED", "false"), ("TELEMETRY_SHUTDOWN_TIMEOUT", "1s")];
        let manager = manager(&setup, processor, &more);
        trace(&manager, 7);
        let start = now();
        let error = manager.shutdown().expect_err("no place for the spans");
        let taken = now() - start;
        // The default is 5 s, of which a call without an answer takes 4.5 s, or 3.1 s behind a queue.
        assert!(taken < Duration::from_secs(3), "{processor:?}: {taken:?}");
        let ShutdownError::Exporter(error) = error else { panic!("{processor:?}: {error:?}") };
        assert_eq!(error.dropped.values().sum::<u64>(), 7, "{processor:?}");
        let ledger = manager.handle().expect("an exporter").ledger();
        assert_eq!((ledger.staged, ledger.imbalance()), (0, 0));
    }
}
