//! Resilience tests by their Rust API.

use std::collections::BTreeSet;
use std::time::Duration;

use mock_collector::Behavior;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use prost::Message as _;
use telemetry_manager::OpenTelemetryManager;
use telemetry_manager::opentelemetry_sdk::error::OTelSdkResult;
use telemetry_manager::opentelemetry_sdk::trace::{SpanData, SpanExporter};
use telemetry_manager::resilient_exporter::Ledger;
use telemetry_service::{Loads, Severity, StartError, TestPlan, TestState, TestType, Tests, Verdict};

use crate::support::{LONG, World};

/// Retries and a breaker that are quick.
const QUICK: [(&str, &str); 3] = [
    ("TELEMETRY_RETRY_INITIAL_DELAY", "10ms"),
    ("CIRCUIT_BREAKER_FAILURE_THRESHOLD", "2"),
    ("OTEL_BSP_SCHEDULE_DELAY", "10"),
];

fn short(test_type: TestType) -> TestPlan {
    TestPlan::new(test_type).with_duration(Duration::from_millis(300)).with_span_rate(200)
}

fn verdict(tests: &Tests, plan: TestPlan) -> Verdict {
    let id = tests.start(plan).expect("a place");
    assert!(tests.wait(&id, LONG), "{:?}", tests.get(&id));
    let report = tests.get(&id).expect("remembered");
    assert_eq!((report.state, report.progress), (TestState::Completed, 1.0));
    let verdict = report.verdict.expect("the test has ended");
    let last = report.figures.last().expect("figures");
    assert_eq!((last.made, last.delivered, last.lost), (verdict.made, verdict.delivered, verdict.lost));
    assert_eq!(verdict.made, verdict.delivered + verdict.stored + verdict.rejected + verdict.lost, "{verdict:?}");
    verdict
}

/// The values of `holdfast.test_id` in the spans that the collector received.
pub(crate) fn test_ids(world: &World) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    for request in world.collector.requests() {
        let request = ExportTraceServiceRequest::decode(request.body).expect("protobuf");
        let scopes = request.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
        for attribute in scopes.flat_map(|scope| scope.spans).flat_map(|span| span.attributes) {
            if attribute.key == "holdfast.test_id"
                && let Some(Value::StringValue(id)) = attribute.value.and_then(|value| value.value)
            {
                ids.insert(id);
            }
        }
    }
    ids
}

#[test]
fn a_test_has_a_pipeline_of_its_own_and_its_spans_carry_its_id() {
    let world = World::new(&QUICK);
    let tests = Tests::new(world.telemetry.observer());
    let plan = short(TestType::ContinuousLoad);
    let verdict = verdict(&tests, plan);
    assert!(verdict.passed && verdict.ledger_balanced, "{verdict:?}");
    assert_eq!((verdict.made, verdict.delivered, verdict.faults_injected), (60, 60, 0));
    assert_eq!(world.collector.received().unique, 60);
    assert_eq!(test_ids(&world), BTreeSet::from([tests.list()[0].test_id.clone()]));
    let of_process = world.telemetry.handle().expect("an exporter").ledger();
    assert_eq!(of_process, Ledger::default(), "the process's own pipeline saw nothing");
}

#[test]
fn a_burst_of_high_severity_opens_the_breaker_and_every_span_arrives() {
    let world = World::new(&QUICK);
    let tests = Tests::new(world.telemetry.observer());
    let verdict = verdict(&tests, short(TestType::BurstLoad).with_severity(Severity::High));
    assert_eq!((verdict.made, verdict.delivered, verdict.lost), (120, 120, 0));
    assert!(verdict.circuit_breaker_trips > 0 && verdict.failed_exports >= 2, "{verdict:?}");
    assert!(verdict.passed, "{verdict:?}");
    assert_eq!(world.telemetry.health().resilience_metrics.expect("an exporter").circuit_breaker_trips, 0);
}

#[test]
fn faults_of_every_kind_end_with_the_load_and_every_span_arrives() {
    let world = World::new(&QUICK);
    let tests = Tests::new(world.telemetry.observer());
    for kind in [TestType::CollectorOutage, TestType::Flapping, TestType::SlowCollector, TestType::RefusingCollector] {
        let verdict = verdict(&tests, short(kind));
        assert!(verdict.faults_injected > 0, "{kind:?}: {verdict:?}");
        assert!(verdict.passed && verdict.delivered == 60, "{kind:?}: {verdict:?}");
    }
}

#[test]
fn with_the_collector_down_spans_are_stored_or_counted_as_lost() {
    let world = World::new(&QUICK);
    world.collector.stop();
    let plan = short(TestType::ContinuousLoad).with_settle(Duration::ZERO);
    let stored = verdict(&Tests::new(world.telemetry.observer()), plan);
    assert!(stored.passed, "{stored:?}");
    assert_eq!((stored.made, stored.delivered, stored.stored, stored.lost), (60, 0, 60, 0));

    let without_files = World::new(&[("TELEMETRY_FALLBACK_ENABLED", "false"), ("TELEMETRY_BUFFER_MAX_SPANS", "10")]);
    without_files.collector.stop();
    let lost = verdict(&Tests::new(without_files.telemetry.observer()), plan);
    assert!(!lost.passed && lost.ledger_balanced, "{lost:?}");
    assert_eq!((lost.made, lost.delivered, lost.stored, lost.lost), (60, 0, 0, 60));
}

#[test]
fn a_test_is_cancelled_with_a_verdict_about_the_spans_that_it_made() {
    let world = World::new(&QUICK);
    let tests = Tests::new(world.telemetry.observer());
    let hour = TestPlan::new(TestType::BurstLoad).with_duration(Duration::from_secs(3_600));
    let id = tests.start(hour).expect("a place");
    let report = tests.cancel(&id).expect("known");
    assert_eq!(report.test_id, id);
    assert!(tests.wait(&id, LONG));
    let report = tests.get(&id).expect("remembered");
    let verdict = report.verdict.expect("a verdict");
    assert_eq!((report.state, verdict.made, verdict.lost), (TestState::Cancelled, report.made, 0));
    assert!(verdict.ledger_balanced && report.progress < 0.1, "{verdict:?}");
    assert_eq!(tests.cancel(&id).expect("remembered").state, TestState::Cancelled, "it has ended");
    assert!(tests.cancel("unknown").is_none() && tests.get("unknown").is_none() && !tests.wait("", LONG));
}

/// A collector that does not answer holds the end of a test up, but not that of one which is cancelled.
#[test]
fn a_test_that_waits_for_an_answer_at_its_end_is_cancelled_within_a_second_or_two() {
    let world = World::new(&QUICK);
    world.collector.set(Behavior::never_answer());
    let tests = Tests::new(world.telemetry.observer());
    let plan = short(TestType::ContinuousLoad).with_settle(Duration::ZERO);
    let id = tests.start(plan).expect("a place");
    // The load takes 0.3 s, and there is no time for the rest of the spans.
    assert!(!tests.wait(&id, Duration::from_millis(1_200)), "it waits for the collector");
    assert_eq!(tests.get(&id).expect("running").state, TestState::Settling);
    tests.cancel(&id);
    assert!(tests.wait(&id, Duration::from_millis(1_500)), "{:?}", tests.get(&id));
    let report = tests.get(&id).expect("remembered");
    let verdict = report.verdict.expect("a verdict");
    assert_eq!((report.state, verdict.made, verdict.delivered), (TestState::Cancelled, 60, 0));
    assert!(verdict.ledger_balanced && verdict.stored == 60, "{verdict:?}");
}

#[test]
fn tests_are_limited_at_a_time_and_in_memory_and_end_with_their_registry() {
    let world = World::new(&QUICK);
    let tests = Tests::new(world.telemetry.observer());
    let nothing = TestPlan::new(TestType::ContinuousLoad).with_duration(Duration::ZERO);
    let mut ids = Vec::new();
    for _ in 0..22 {
        ids.push(tests.start(nothing).expect("a place"));
        assert!(tests.wait(ids.last().expect("one"), LONG));
    }
    let listed: Vec<_> = tests.list().into_iter().map(|report| report.test_id).collect();
    assert_eq!(listed, ids[2..].iter().rev().cloned().collect::<Vec<_>>(), "newest first");

    let hour = TestPlan::new(TestType::ContinuousLoad).with_duration(Duration::from_secs(3_600));
    let running = [tests.start(hour).expect("a place"), tests.start(hour).expect("a place")];
    let error = tests.start(hour).expect_err("two run");
    assert!(matches!(error, StartError::TooMany { limit: 2 }), "{error}");
    tests.cancel(&running[0]);
    assert!(tests.wait(&running[0], LONG));
    tests.start(hour).expect("a place again");
    let clone = tests.clone();
    drop(tests);
    assert_eq!(clone.get(&running[1]).expect("running").state, TestState::Running);
    // Waits for the threads, which end within their shutdown.
    drop(clone);
}

/// A program's own way to send.
#[derive(Debug)]
struct Own;

impl SpanExporter for Own {
    async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
        Ok(())
    }
}

#[test]
fn without_an_export_or_with_a_transport_of_ones_own_no_test_starts() {
    let builder = || OpenTelemetryManager::builder().with_vars(|_| None).with_globals(false);
    let plan = short(TestType::ContinuousLoad);
    let off = builder().with_sdk_disabled(true).build().expect("nothing starts");
    let error = Tests::new(off.observer()).start(plan).expect_err("off");
    assert!(matches!(error, StartError::NotExported), "{error}");

    let own = builder().with_fallback_enabled(false).with_primary(Own).build().expect("telemetry starts");
    let tests = Tests::new(own.observer());
    let error = tests.start(plan).expect_err("its own");
    assert!(matches!(error, StartError::OwnTransport), "{error}");
    assert!(tests.list().is_empty(), "a test that did not start takes no place");
}

#[test]
fn a_load_goes_through_the_pipeline_of_the_process() {
    for processor in ["resilient", "batch"] {
        let world = World::new(&[("TELEMETRY_PROCESSOR", processor), ("OTEL_BSP_MAX_QUEUE_SIZE", "600")]);
        let tests = Tests::new(world.telemetry.observer());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let generated = runtime.block_on(tests.generate(Loads::new(1_205).with_errors(true))).expect("a place");
        assert_eq!((generated.generated, generated.errors), (1_205, 120));
        let handle = world.telemetry.handle().expect("an exporter");
        assert_eq!(handle.ledger().offered, 1_205, "none is left in the SDK's queue, none was dropped there");
        handle.settled(LONG).expect("delivered");
        assert_eq!(world.collector.received().unique, 1_205);
        assert_eq!(test_ids(&world), BTreeSet::from([generated.test_id]));
    }
}

/// At full speed a load would fill memory faster than the disk empties it, and the application's spans would be lost.
#[test]
fn a_load_takes_no_memory_from_the_spans_of_the_application() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for (files, all) in [("true", true), ("false", false)] {
        let world = World::new(&[("TELEMETRY_BUFFER_MAX_SPANS", "3000"), ("TELEMETRY_FALLBACK_ENABLED", files)]);
        world.collector.stop();
        let tests = Tests::new(world.telemetry.observer());
        let generated = runtime.block_on(tests.generate(Loads::new(10_000))).expect("a place").generated;
        let ledger = world.telemetry.handle().expect("an exporter").ledger();
        assert_eq!((ledger.lost(), ledger.offered), (0, generated.into()), "{ledger:?}");
        assert_eq!(generated == 10_000, all, "{generated} with files: {files}");
    }
}

#[test]
fn a_load_goes_through_a_buffer_of_three_spans() {
    let world = World::new(&[("TELEMETRY_BUFFER_MAX_SPANS", "3")]);
    let tests = Tests::new(world.telemetry.observer());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    assert_eq!(runtime.block_on(tests.generate(Loads::new(10))).expect("a place").generated, 10);
    let handle = world.telemetry.handle().expect("an exporter");
    handle.settled(LONG).expect("delivered");
    assert_eq!(world.collector.received().unique, 10, "{:?}", handle.ledger());
    assert_eq!(handle.health().staging_capacity, Some(1));
}

#[test]
fn loads_are_limited_at_a_time_and_one_whose_client_goes_gives_its_place_back() {
    let world = World::new(&[]);
    let tests = Tests::new(world.telemetry.observer());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let hour = Loads::new(2).with_delay(Duration::from_secs(3_600));
    runtime.block_on(async {
        let load = || {
            let tests = tests.clone();
            tokio::spawn(async move { tests.generate(hour).await })
        };
        let (first, _second) = (load(), load());
        tokio::task::yield_now().await;
        let error = tests.generate(Loads::new(1)).await.expect_err("two run");
        assert!(matches!(error, StartError::TooMany { limit: 2 }), "{error}");
        first.abort();
        assert!(first.await.expect_err("aborted").is_cancelled());
        assert_eq!(tests.generate(Loads::new(1)).await.expect("a place again").generated, 1);
    });
}
