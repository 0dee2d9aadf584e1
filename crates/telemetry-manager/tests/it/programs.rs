//! Programs as a process of their own, set up from their environment: a command-line tool, and one that forks. The
//! program of the tests starts itself.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::time::Duration;

use fork::{Fork, fork, waitpid};
use telemetry_manager::opentelemetry::{global, trace::Tracer as _};
use telemetry_manager::resilient_exporter::{Status, WaitFailure};
use telemetry_manager::{FlushError, OpenTelemetryManager, ShutdownError};

use crate::support::{LONG, Setup};

/// Set in the process of a program.
const PROGRAM: &str = "HOLDFAST_TEST_PROGRAM";

/// Starts `program` in a process of its own. Returns false in that process, once the program has ended.
#[track_caller]
fn start(setup: &Setup, test: &str, program: fn()) -> bool {
    if std::env::var_os(PROGRAM).is_some() {
        program();
        return false;
    }
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", test, "--nocapture", "--test-threads", "1"]).env(PROGRAM, "1").envs(setup.vars(&[]));
    let output = command.output().expect("this program starts");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{}\n{out}\n{err}", output.status);
    true
}

/// What the README shows.
fn tool() {
    let telemetry = OpenTelemetryManager::from_env().expect("telemetry starts");
    global::tracer("tool").in_span("backup", |_| {});
    drop(telemetry);
}

#[test]
fn a_good_run_of_a_tool_delivers_the_spans_of_those_that_failed() {
    let setup = Setup::new();
    const NAME: &str = "programs::a_good_run_of_a_tool_delivers_the_spans_of_those_that_failed";
    if std::env::var_os(PROGRAM).is_some() {
        return tool();
    }
    setup.collector.stop();
    for _ in 0..5 {
        start(&setup, NAME, tool);
    }
    setup.collector.start_again().expect("the same ports");
    start(&setup, NAME, tool);
    let received = setup.collector.received();
    assert_eq!((received.unique, received.duplicates), (6, 0), "{received:?}");
}

/// A server that forks after set-up, and goes on.
fn server() {
    let telemetry = OpenTelemetryManager::from_env().expect("telemetry starts");
    let mut of_child = Some(telemetry);
    match fork().expect("a child") {
        Fork::Child => {
            let passed = catch_unwind(AssertUnwindSafe(|| child(of_child.take().expect("once")))).is_ok();
            std::process::exit(i32::from(!passed));
        }
        Fork::Parent(child) => assert_eq!(waitpid(child).expect("a child"), 0, "the child has failed"),
    }
    let telemetry = of_child.expect("the child has its own copy");
    global::tracer("server").in_span("request", |_| {});
    telemetry.shutdown().expect("delivered");
    assert_eq!(telemetry.handle().expect("an exporter").ledger().delivered, 1);
}

#[expect(clippy::disallowed_methods, reason = "the deadline of a real wait")]
fn child(telemetry: OpenTelemetryManager) {
    let start = std::time::Instant::now();
    (0..50).for_each(|_| global::tracer("child").in_span("work", |_| {}));
    let refused = telemetry.handle().expect("an exporter").ledger().refused["forked"];
    assert!((19..=50).contains(&refused), "{refused}");
    let health = telemetry.health();
    assert!(health.status == Status::Unhealthy && health.issues[0].contains("after the fork"), "{health:?}");
    let flushed = telemetry.settled(LONG).expect_err("refused");
    assert!(matches!(flushed, FlushError::Unsettled(error) if matches!(error.failure, WaitFailure::Forked(_))));
    let ended = telemetry.shutdown().expect_err("refused");
    assert!(matches!(ended, ShutdownError::Exporter(error) if error.forked.is_some()));
    drop(telemetry);
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
}

#[test]
fn a_child_of_a_server_is_refused_and_ends_at_once() {
    let setup = Setup::new();
    if start(&setup, "programs::a_child_of_a_server_is_refused_and_ends_at_once", server) {
        assert_eq!(setup.collector.received().unique, 1);
    }
}
