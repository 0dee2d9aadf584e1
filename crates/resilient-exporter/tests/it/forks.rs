//! A process that forks after set-up. Its child has the exporter's memory and none of its threads: it refuses
//! everything at once and touches nothing of its parent's. A child that sets up an exporter of its own works.
//!
//! The process that forks is one of its own, with the threads of an exporter beside the main one.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use fork::{Fork, fork, waitpid};
use futures_util::FutureExt as _;
use mock_collector::MockCollector;
use opentelemetry::trace::{Span as _, Tracer as _, TracerProvider as _};
use opentelemetry_sdk::trace::{BatchSpanProcessor, SdkTracerProvider, SpanExporter as _};
use otlp_transport::{Config, Protocol, connect};
use resilient_exporter::{Builder, DeadLetterError, ForkGuard, Handle, ResilientSpanExporter, Status, WaitFailure};
use rustix::fs::FlockOperation;

use crate::support::{PATIENCE, eventually, now, own_process, processes, some_spans};

/// The variables of the process that forks.
const COLLECTOR: &str = "HOLDFAST_TEST_COLLECTOR";
const STATE: &str = "HOLDFAST_TEST_STATE";

/// The longest time of everything that a child does: no wait of the exporter is as short as this.
const AT_ONCE: Duration = Duration::from_millis(500);

/// A collector, a state directory, and a test that runs in a process of its own.
struct Scene {
    test: &'static str,
    collector: MockCollector,
    scratch: tempfile::TempDir,
}

impl Scene {
    /// None in the process of its own, whose `work` is done then.
    fn new(test: &'static str, work: fn()) -> Option<Self> {
        if std::env::var_os(STATE).is_some() {
            work();
            return None;
        }
        let collector = MockCollector::start().expect("loopback");
        Some(Self { test, collector, scratch: tempfile::tempdir().expect("temp dir") })
    }

    fn state(&self) -> PathBuf {
        self.scratch.path().join("state")
    }

    fn command(&self) -> std::process::Command {
        let mut command = own_process::command(self.test);
        command.env(COLLECTOR, self.collector.http_endpoint()).env(STATE, self.state());
        command
    }

    #[track_caller]
    fn play(&self) {
        own_process::assert_passed(&self.command().output().expect("this program starts"));
    }
}

fn state() -> PathBuf {
    std::env::var_os(STATE).expect("the test sets it").into()
}

fn builder() -> Builder {
    let endpoint = std::env::var(COLLECTOR).expect("the test sets it");
    let config = Config::builder().with_protocol(Protocol::HttpProtobuf).with_endpoint(endpoint);
    let transport = connect(config.build().expect("valid")).expect("no I/O yet");
    ResilientSpanExporter::builder().with_primary(transport).with_state_dir(state())
}

fn durable() -> Builder {
    builder().with_journal_enabled(true).with_journal_sync_timeout(PATIENCE)
}

/// Runs `work` in a child and returns its process id. A panic ends the child alone, with another code.
fn in_child(work: impl FnOnce()) -> i32 {
    match fork().expect("a child") {
        Fork::Parent(child) => child,
        Fork::Child => {
            let passed = catch_unwind(AssertUnwindSafe(work)).is_ok();
            std::process::exit(i32::from(!passed));
        }
    }
}

#[track_caller]
fn assert_passed(child: i32) {
    assert_eq!(waitpid(child).expect("a child of this process"), 0, "the child has panicked or hung");
}

/// Each file below a directory: its time of change and its content.
fn tree(dir: &Path) -> BTreeMap<PathBuf, (SystemTime, Vec<u8>)> {
    let mut tree = BTreeMap::new();
    for entry in fs::read_dir(dir).expect("readable") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            tree.append(&mut self::tree(&path));
        } else {
            let changed = fs::metadata(&path).expect("there").modified().expect("a time");
            tree.insert(path.clone(), (changed, fs::read(&path).expect("readable")));
        }
    }
    tree
}

fn export(exporter: &ResilientSpanExporter, spans: u64) -> opentelemetry_sdk::error::OTelSdkResult {
    exporter.export(some_spans(spans)).now_or_never().expect("export never waits")
}

/// Waits until no thread of the exporter has work.
fn settle(handle: &Handle) {
    eventually("the spans wait", || handle.ledger().in_flight == 0 && handle.health().metrics.failed_exports > 0);
}

/// Everything that a program can ask for, in the child.
fn use_everything(exporter: ResilientSpanExporter, handle: &Handle) {
    let start = now();
    let text = export(&exporter, 3).expect_err("refused").to_string();
    assert!(text.contains("forked") && text.contains("after the fork"), "reason and remedy: {text}");
    export(&exporter, 2).expect_err("refused");
    let ledger = handle.ledger();
    assert_eq!((ledger.offered, ledger.refused.get("forked"), ledger.imbalance()), (5, Some(&5), 0), "{ledger:?}");
    let forked = handle.forked().expect("a child");
    assert_eq!(forked.refused, 5);
    let health = handle.health();
    assert_eq!((health.status, &health.ledger), (Status::Unhealthy, &ledger), "{health:?}");
    assert!(health.issues.len() == 1 && health.issues[0].contains("after the fork"), "{:?}", health.issues);
    handle.retry_now();
    assert!(handle.subscribe().recv().is_err(), "no event will come");
    let flushed = handle.settled(PATIENCE).expect_err("refused");
    assert_eq!((flushed.buffered, flushed.failure), (0, WaitFailure::Forked(forked)));
    let flushed = handle.flush(PATIENCE).expect_err("refused");
    assert_eq!((flushed.in_memory, flushed.failure), (0, WaitFailure::Forked(forked)));
    exporter.force_flush().expect_err("refused");
    assert!(matches!(handle.dead_letter_ids(), Err(DeadLetterError::Forked(_))));
    let report = handle.redrive_all();
    assert_eq!((report.letters, report.failed.len()), (0, 1));
    let text = exporter.shutdown().expect_err("refused").to_string();
    assert!(text.contains("forked") && !text.contains("disk"), "{text}");
    let result = handle.shutdown_result().expect_err("refused");
    assert_eq!((result.in_memory, result.forked), (0, Some(forked)));
    drop(exporter);
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
}

fn a_child_refuses() {
    for builder in [builder, durable] {
        let exporter = builder().build().expect("valid");
        let handle = exporter.handle();
        export(&exporter, 3).expect("accepted");
        settle(&handle);
        let directories = processes(&state());
        let before = tree(&state());
        let start = now();
        let mut exporter = Some(exporter);
        let child = in_child(|| use_everything(exporter.take().expect("once"), &handle));
        assert_passed(child);
        // The program of the tests exits too.
        assert!(start.elapsed() < 2 * AT_ONCE, "{:?}", start.elapsed());
        assert_eq!(processes(&state()), directories);
        assert!(tree(&state()) == before, "the child has changed {:?}", before.keys());
        let lock = fs::File::open(directories.last().expect("one at least").join(".lock")).expect("there");
        let locked = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive);
        assert_eq!(locked, Err(rustix::io::Errno::WOULDBLOCK), "the child has released the lock of its parent");
        let exporter = exporter.expect("the child has its own copy");
        export(&exporter, 3).expect("the parent goes on");
        exporter.shutdown().expect("all are in files");
        let ledger = handle.ledger();
        assert_eq!((ledger.refused.len(), ledger.lost(), ledger.imbalance()), (0, 0, 0), "{ledger:?}");
    }
}

#[test]
fn a_child_refuses_everything_at_once_and_touches_nothing_of_its_parent() {
    const NAME: &str = "forks::a_child_refuses_everything_at_once_and_touches_nothing_of_its_parent";
    let Some(scene) = Scene::new(NAME, a_child_refuses) else { return };
    scene.collector.stop();
    scene.play();
    scene.collector.start_again().expect("the same ports");
    let next = ResilientSpanExporter::builder().with_primary(crate::support::http(&scene.collector));
    let next = next.with_state_dir(scene.state()).build().expect("valid");
    next.handle().settled(PATIENCE).expect("delivered");
    // Two processes of six spans each: those of their children are nowhere.
    assert_eq!(next.handle().ledger().delivered, 12);
}

/// A master that sets nothing up forks four workers, each of which does.
fn workers() {
    // The fork copies the seed of the standard library's hash maps, which names the directory of each process.
    drop(std::hash::RandomState::new());
    let children = (0..4).map(|_| in_child(|| work("worker"))).collect::<Vec<_>>();
    children.into_iter().for_each(assert_passed);
    let mut numbers = seen().iter().map(|name| u64::from_str_radix(name, 16).expect("a number")).collect::<Vec<_>>();
    numbers.sort_unstable();
    assert_eq!(numbers.len(), 4);
    assert!(numbers.is_sorted_by(|one, next| next - one > 1_000_000), "brothers choose the same number: {numbers:x?}");
    // One that was set up before the fork, and children that set up anew.
    let exporter = durable().build().expect("valid");
    export(&exporter, 3).expect("accepted");
    let children = (0..2).map(|_| in_child(|| work("worker"))).collect::<Vec<_>>();
    children.into_iter().for_each(assert_passed);
    exporter.shutdown().expect("delivered");
    let (ledger, delivered) = (exporter.handle().ledger(), exporter.handle().ledger().delivered);
    assert_eq!((delivered, ledger.imbalance()), (3, 0), "{ledger:?}");
}

/// Notes the directories of processes that this child sees.
fn note_seen() {
    for process in processes(&state()) {
        let name = process.file_name().expect("a name");
        fs::write(state().with_file_name(name).with_extension("seen"), "").expect("noted");
    }
}

/// The directories that any child has seen.
fn seen() -> Vec<String> {
    let notes = fs::read_dir(state().parent().expect("a parent")).expect("readable");
    let names = notes.map(|note| note.expect("readable").file_name().into_string().expect("text"));
    names.filter_map(|name| Some(name.strip_suffix(".seen")?.to_owned())).collect()
}

fn work(name: &'static str) {
    let exporter = durable().build().expect("valid");
    note_seen();
    let handle = exporter.handle();
    assert_eq!(handle.forked(), None);
    let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).build();
    (0..3).for_each(|_| provider.tracer(name).in_span("request", |_| {}));
    provider.force_flush().expect("accepted");
    eventually("delivery", || handle.ledger().delivered == 3);
    provider.shutdown().expect("in time");
    assert_eq!((handle.shutdown_result(), handle.ledger().imbalance()), (Ok(()), 0));
}

#[test]
fn children_that_set_up_after_the_fork_work_beside_each_other() {
    const NAME: &str = "forks::children_that_set_up_after_the_fork_work_beside_each_other";
    let Some(scene) = Scene::new(NAME, workers) else { return };
    scene.play();
    let received = scene.collector.received();
    assert_eq!((received.unique, received.duplicates), (21, 0), "{received:?}");
    assert_eq!(processes(&scene.state()), Vec::<PathBuf>::new());
}

/// The process forks and is killed; its child waits for the end of its standard input.
fn killed_beside_a_child() {
    let exporter = durable().with_fallback_enabled(false).build().expect("valid");
    export(&exporter, 3).expect("accepted and durable");
    in_child(|| drop(std::io::stdin().read_to_end(&mut Vec::new())));
    std::process::abort();
}

/// A lock is shared with each child: nobody can tell a parent that has ended from one that lives.
#[test]
fn the_spans_of_a_killed_process_wait_for_the_end_of_its_children() {
    const NAME: &str = "forks::the_spans_of_a_killed_process_wait_for_the_end_of_its_children";
    let Some(scene) = Scene::new(NAME, killed_beside_a_child) else { return };
    scene.collector.stop();
    let mut parent = scene.command().stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("this program");
    let (input, mut output) = (parent.stdin.take().expect("piped"), parent.stdout.take().expect("piped"));
    assert!(!parent.wait().expect("started").success());
    let recovered = || {
        let next = ResilientSpanExporter::builder().with_primary(crate::support::http(&scene.collector));
        let next = next.with_state_dir(scene.state()).build().expect("valid");
        next.handle().ledger().recovered
    };
    assert_eq!(recovered(), 0, "the child holds the lock of its parent");
    drop(input);
    output.read_to_end(&mut Vec::new()).expect("the child has ended");
    assert_eq!(recovered(), 3);
}

/// Behind the SDK's batch processor, whose thread the child has not either.
fn behind_the_batch_processor() {
    let exporter = builder().build().expect("valid");
    let handle = exporter.handle();
    let processor = ForkGuard::new(BatchSpanProcessor::builder(exporter).build(), handle.clone());
    let mut provider = Some(SdkTracerProvider::builder().with_span_processor(processor).build());
    let child = in_child(|| {
        let start = now();
        let provider = provider.take().expect("once");
        let tracer = provider.tracer("child");
        (0..100).for_each(|_| tracer.in_span("work", |_| {}));
        let refused = handle.forked().expect("a child").refused;
        assert!((69..=100).contains(&refused), "{refused}");
        provider.force_flush().expect_err("refused");
        provider.shutdown().expect_err("refused");
        assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
    });
    assert_passed(child);
    let child = in_child(|| {
        let start = now();
        drop(provider.take());
        assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
    });
    assert_passed(child);
    let provider = provider.expect("each child has its own copy");
    provider.tracer("parent").in_span("work", |_| {});
    provider.shutdown().expect("in time");
    assert_eq!((handle.ledger().offered, handle.ledger().delivered), (1, 1), "{:?}", handle.ledger());
}

#[test]
fn behind_the_batch_processor_a_child_is_refused_and_ends_at_once() {
    const NAME: &str = "forks::behind_the_batch_processor_a_child_is_refused_and_ends_at_once";
    let Some(scene) = Scene::new(NAME, behind_the_batch_processor) else { return };
    scene.play();
    assert_eq!(scene.collector.received().unique, 1);
}

/// Behind the processor of our own, while other threads of the parent end spans: the locks that they hold at the fork
/// are held in the child for ever.
fn behind_our_processor() {
    const FORKS: u64 = 10;
    let processor = builder().build_processor().expect("valid");
    let handle = processor.handle();
    let mut provider = Some(SdkTracerProvider::builder().with_span_processor(processor).build());
    let tracer = provider.as_ref().expect("not taken").tracer("parent");
    let is_done = AtomicBool::new(false);
    let mut ended = 0;
    std::thread::scope(|scope| {
        let producers = [(); 3].map(|()| {
            scope.spawn(|| {
                let mut ended = 0;
                while !is_done.load(Ordering::Relaxed) {
                    if handle.ledger().buffered < 5_000 {
                        (0..200).for_each(|_| tracer.start("work").end());
                        ended += 200;
                    }
                }
                ended
            })
        });
        for _ in 0..FORKS {
            let child = in_child(|| {
                let start = now();
                let tracer = provider.as_ref().expect("not taken").tracer("child");
                (0..1_000).for_each(|_| tracer.start("work").end());
                let ledger = handle.ledger();
                let refused = handle.forked().expect("a child").refused;
                // In each of eight parts 31 spans may wait for the next look, and 31 of the parent's may be counted.
                assert!((1_000 - 8 * 31..=1_000 + 8 * 31).contains(&refused), "{refused}");
                assert_eq!((ledger.offered, ledger.imbalance()), (refused, 0));
                let provider = provider.take().expect("once");
                provider.force_flush().expect_err("refused");
                provider.shutdown().expect_err("refused");
                drop(provider);
                assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
            });
            assert_passed(child);
        }
        is_done.store(true, Ordering::Relaxed);
        ended = producers.map(|producer| producer.join().expect("no panic")).into_iter().sum::<u64>();
    });
    provider.take().expect("each child has its own copy").shutdown().expect("in time");
    let ledger = handle.ledger();
    assert_eq!((ledger.offered, ledger.delivered, ledger.lost()), (ended, ended, 0), "{ledger:?}");
}

#[test]
fn a_child_hangs_at_no_lock_of_the_staging_area_and_sends_no_span_of_its_parent() {
    const NAME: &str = "forks::a_child_hangs_at_no_lock_of_the_staging_area_and_sends_no_span_of_its_parent";
    let Some(scene) = Scene::new(NAME, behind_our_processor) else { return };
    scene.play();
    let received = scene.collector.received();
    assert!(received.unique > 0 && received.duplicates == 0, "{received:?}");
}

/// A child that ends fewer spans than a part is looked at for.
fn few_spans() {
    let processor = builder().build_processor().expect("valid");
    let handle = processor.handle();
    let mut provider = Some(SdkTracerProvider::builder().with_span_processor(processor).build());
    let tracer = provider.as_ref().expect("not taken").tracer("work");
    (0..5).for_each(|_| tracer.start("of the parent").end());
    let child = in_child(|| {
        (0..10).for_each(|_| tracer.start("of the child").end());
        let refused = handle.forked().expect("a child").refused;
        // The parent's five are in the copy of its part, and no look at the process came between.
        assert!((10..=15).contains(&refused), "{refused}");
        assert_eq!(handle.ledger().refused.get("forked"), Some(&refused));
        let error = provider.take().expect("once").shutdown().expect_err("refused").to_string();
        assert!(error.contains("forked"), "{error}");
        assert_eq!(handle.forked().expect("a child").refused, refused, "each once");
    });
    assert_passed(child);
    provider.take().expect("the child has its own copy").shutdown().expect("in time");
    assert_eq!((handle.ledger().offered, handle.ledger().delivered), (5, 5), "{:?}", handle.ledger());
}

#[test]
fn a_child_counts_the_few_spans_that_it_has_staged() {
    const NAME: &str = "forks::a_child_counts_the_few_spans_that_it_has_staged";
    let Some(scene) = Scene::new(NAME, few_spans) else { return };
    scene.play();
    assert_eq!(scene.collector.received().unique, 5);
}
