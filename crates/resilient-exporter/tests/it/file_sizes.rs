//! A limit on file sizes (`ulimit -f`) is trouble of the storage, not the end of the process: SIGXFSZ, whose default
//! action ends a process, stays blocked wherever files are written.
//!
//! The limit is the process's, so each test runs in a process of its own: the program of the tests starts itself.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::FutureExt as _;
use mock_collector::{Answer, Behavior, MockCollector};
use opentelemetry_sdk::trace::SpanExporter as _;
use resilient_exporter::{Builder, FileSpanExporter, Handle, Refused, ResilientSpanExporter, Status};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::support::{App, PATIENCE, eventually, http, own_process, quick, some_spans};

/// Set in the process of one test.
const ALONE: &str = "HOLDFAST_TEST_ALONE";

/// Runs a test in a process of its own, which must not end by a signal.
fn alone(name: &str, test: fn(&Path)) {
    if let Some(state) = std::env::var_os(ALONE) {
        return test(&PathBuf::from(state));
    }
    let scratch = tempfile::tempdir().expect("temp dir");
    let output = own_process::command(name).env(ALONE, scratch.path().join("state")).output();
    own_process::assert_passed(&output.expect("this program starts"));
}

/// Sets the largest size of a file; none: as large as the system allows.
fn limit_files(bytes: Option<u64>) {
    let maximum = getrlimit(Resource::Fsize).maximum;
    setrlimit(Resource::Fsize, Rlimit { current: bytes.or(maximum), maximum }).expect("below the hard limit");
}

fn builder(collector: &MockCollector, state: &Path) -> Builder {
    quick(ResilientSpanExporter::builder().with_primary(http(collector)))
        .with_state_dir(state)
        .with_journal_enabled(true)
        .with_journal_sync_timeout(PATIENCE)
        .with_buffer_size(1_000)
}

/// Health names the cause and the remedy.
fn names_the_limit(handle: &Handle) -> bool {
    let health = handle.health();
    health.status != Status::Healthy && health.issues.iter().any(|issue| issue.contains("ulimit -f"))
}

#[track_caller]
fn assert_balanced(handle: &Handle) {
    let ledger = handle.ledger();
    assert_eq!(ledger.imbalance(), 0, "{ledger:?}");
}

#[test]
fn a_journal_and_files_beyond_the_limit() {
    alone("file_sizes::a_journal_and_files_beyond_the_limit", |state| {
        let collector = MockCollector::start().expect("loopback");
        collector.stop();
        let mut app = App::new(builder(&collector, state).build().expect("valid"));
        app.trace(300);
        assert_eq!(app.handle.health().accepted_not_durable, Some(0));
        limit_files(Some(0));
        app.trace(300);
        app.wait_until("health names the limit", names_the_limit);
        assert!(app.handle.health().accepted_not_durable > Some(0), "{:?}", app.handle.health());
        // Twice as many as memory takes: no file takes the others.
        app.trace(1_400);
        app.wait_until("health names the limit", names_the_limit);
        assert_balanced(&app.handle);
        let ledger = app.handle.ledger();
        assert!(ledger.lost() > 0 && ledger.lost() < 1_400 && ledger.in_fallback == 0, "{ledger:?}");
        limit_files(None);
        eventually("files take spans again", || {
            app.trace(1);
            app.handle.ledger().in_fallback > 0
        });
        let lost = app.handle.ledger().lost();
        collector.start_again().expect("the same ports");
        app.handle.settled(PATIENCE).unwrap_or_else(|error| panic!("{error}: {:#?}", app.handle.health()));
        assert_balanced(&app.handle);
        assert_eq!(app.handle.ledger().lost(), lost, "nothing more was lost");
        assert_eq!(app.missing(&[&collector]) as u64, lost);
        app.wait_until("the trouble is over", |handle| !names_the_limit(handle));
    });
}

#[test]
fn files_without_a_collector_beyond_the_limit() {
    alone("file_sizes::files_without_a_collector_beyond_the_limit", |state| {
        let exporter = FileSpanExporter::builder(state).with_rotate_after(Duration::ZERO).build().expect("valid");
        limit_files(Some(0));
        exporter.export(some_spans(10)).now_or_never().expect("ends at once").expect_err("no file takes them");
        limit_files(None);
        exporter.force_flush().expect("written");
        assert_eq!(exporter.handle().counts().written, 10);
    });
}

#[test]
fn marks_of_a_replay_beyond_the_limit() {
    alone("file_sizes::marks_of_a_replay_beyond_the_limit", |state| {
        let collector = MockCollector::start().expect("loopback");
        collector.stop();
        let mut app = App::new(builder(&collector, state).build().expect("valid"));
        for _ in 0..15 {
            app.trace(200);
            let held = |handle: &Handle| handle.ledger().buffered + handle.ledger().in_flight;
            app.wait_until("the disk thread writes the surplus", |handle| held(handle) <= 800);
        }
        assert!(app.handle.ledger().in_fallback > 1_000, "{:?}", app.handle.ledger());
        limit_files(Some(0));
        collector.start_again().expect("the same ports");
        app.wait_until("health names the limit", names_the_limit);
        eventually("batches of memory are delivered", || collector.received().spans > 0);
        assert_balanced(&app.handle);
        limit_files(None);
        app.handle.settled(PATIENCE).unwrap_or_else(|error| panic!("{error}: {:#?}", app.handle.health()));
        app.wait_until("the trouble is over", |handle| !names_the_limit(handle));
        assert_eq!((app.handle.ledger().lost(), app.handle.ledger().delivered), (0, 3_000));
        app.shutdown().expect("nothing waits");
    });
}

#[test]
fn dead_letters_beyond_the_limit() {
    alone("file_sizes::dead_letters_beyond_the_limit", |state| {
        let collector = MockCollector::start().expect("loopback");
        collector.set(Behavior::answer(Answer::http(400)));
        let exporter = builder(&collector, state).with_refused(Refused::DeadLetter).build().expect("valid");
        let mut app = App::new(exporter);
        limit_files(Some(0));
        app.trace(50);
        app.wait_until("health names the limit", names_the_limit);
        assert_balanced(&app.handle);
        let ledger = app.handle.ledger();
        assert_eq!((ledger.dead_lettered, ledger.lost()), (0, 0), "{ledger:?}");
        limit_files(None);
        eventually("the letter is stored", || {
            app.handle.retry_now();
            app.handle.ledger().dead_lettered == 50
        });
        assert_balanced(&app.handle);
    });
}

#[test]
fn a_start_and_a_shutdown_beyond_the_limit() {
    alone("file_sizes::a_start_and_a_shutdown_beyond_the_limit", |state| {
        let collector = MockCollector::start().expect("loopback");
        limit_files(Some(0));
        match builder(&collector, state).build() {
            // The storage is missing or in trouble.
            Ok(exporter) => {
                let mut app = App::new(exporter);
                app.trace(10);
                app.wait_until("health names the limit", names_the_limit);
                app.assert_delivered(&collector);
            }
            Err(error) => {
                let mut text = error.to_string();
                let mut source = std::error::Error::source(&error);
                while let Some(error) = source {
                    text.push_str(&error.to_string());
                    source = error.source();
                }
                assert!(text.contains("ulimit -f"), "{text}");
            }
        }
        limit_files(None);
        collector.stop();
        let mut app = App::new(builder(&collector, state).build().expect("valid"));
        app.trace(300);
        limit_files(Some(0));
        let _ = app.shutdown();
        assert_balanced(&app.handle);
    });
}
