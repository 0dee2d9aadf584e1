//! Programs that live for a moment: each run is a process of its own that traces three spans and ends. A run that meets
//! a collector which answers delivers its own spans and those that failed runs have left, in its shutdown.

use std::path::PathBuf;
use std::process::{Command, ExitStatus};

use mock_collector::MockCollector;
use opentelemetry::trace::{Tracer as _, TracerProvider as _};
use opentelemetry_sdk::trace::SdkTracerProvider;
use otlp_transport::{Config, Protocol, connect};
use resilient_exporter::{Builder, ResilientSpanExporter};

use crate::support::{PATIENCE, http, own_process, processes};

/// The variables of a run: its kind, its collector, its state directory.
const KIND: &str = "HOLDFAST_TEST_RUN";
const COLLECTOR: &str = "HOLDFAST_TEST_COLLECTOR";
const STATE: &str = "HOLDFAST_TEST_STATE";

/// Spans of one run.
const SPANS: u64 = 3;

/// The set-up of a run, and its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// The defaults.
    Files,
    /// Durable mode.
    Durable,
    /// Durable mode without a fallback: batches stay in the journal.
    Journal,
    /// Durable mode, and the process ends without a shutdown.
    Killed,
}

impl Kind {
    const ALL: [(Self, &str); 4] =
        [(Self::Files, "files"), (Self::Durable, "durable"), (Self::Journal, "journal"), (Self::Killed, "killed")];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(kind, _)| *kind == self).map_or("", |(_, name)| name)
    }

    fn named(name: &str) -> Self {
        Self::ALL.iter().find(|(_, own)| *own == name).expect("a kind").0
    }

    fn set_up(self, builder: Builder) -> Builder {
        // A busy machine must not make a commit late.
        let durable = |builder: Builder| builder.with_journal_enabled(true).with_journal_sync_timeout(PATIENCE);
        match self {
            Self::Files => builder,
            Self::Durable | Self::Killed => durable(builder),
            Self::Journal => durable(builder).with_fallback_enabled(false),
        }
    }
}

/// The runs of one tool: the program of the tests starts itself, once for each.
struct Tool {
    /// The name of the test, which is what a run executes.
    test: &'static str,
    collector: MockCollector,
    scratch: tempfile::TempDir,
}

impl Tool {
    /// None in the process of a run, which has ended its work then.
    fn new(test: &'static str) -> Option<Self> {
        if let Ok(kind) = std::env::var(KIND) {
            run(Kind::named(&kind));
            return None;
        }
        let collector = MockCollector::start().expect("loopback");
        let scratch = tempfile::tempdir().expect("temp dir");
        Some(Self { test, collector, scratch })
    }

    fn state(&self) -> PathBuf {
        self.scratch.path().join("state")
    }

    fn command(&self, kind: Kind) -> Command {
        let mut command = own_process::command(self.test);
        command.env(KIND, kind.name()).env(COLLECTOR, self.collector.http_endpoint()).env(STATE, self.state());
        command
    }

    /// One run.
    #[track_caller]
    fn run(&self, kind: Kind) {
        let output = self.command(kind).output().expect("this program starts");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(has_ended(kind, output.status), "{}\n{out}\n{err}", output.status);
    }

    /// Runs that fail, since the collector is down.
    fn fail(&self, runs: u64, kind: Kind) {
        self.collector.stop();
        (0..runs).for_each(|_| self.run(kind));
        self.collector.start_again().expect("the same ports");
    }

    /// The collector has the spans of so many runs, each of them once.
    #[track_caller]
    fn assert_delivered(&self, runs: u64) {
        let received = self.collector.received();
        assert_eq!((received.unique, received.duplicates), (runs * SPANS, 0), "{received:?}");
    }
}

/// A run that is killed ends by a signal.
fn has_ended(kind: Kind, status: ExitStatus) -> bool {
    if kind == Kind::Killed { !status.success() && status.code().is_none() } else { status.success() }
}

/// The program of one run: what a command-line tool does.
fn run(kind: Kind) {
    let variable = |name| std::env::var(name).expect("the test sets it");
    let config = Config::builder().with_protocol(Protocol::HttpProtobuf).with_endpoint(variable(COLLECTOR));
    let transport = connect(config.build().expect("valid")).expect("no I/O yet");
    let builder = ResilientSpanExporter::builder().with_primary(transport).with_state_dir(variable(STATE));
    let exporter = kind.set_up(builder).build().expect("valid");
    let handle = exporter.handle();
    let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).build();
    for _ in 0..SPANS {
        provider.tracer("tool").in_span("work", |_| {});
    }
    if kind == Kind::Killed {
        provider.force_flush().expect("accepted");
        std::process::abort();
    }
    provider.shutdown().expect("in time");
    assert_eq!((handle.shutdown_result(), handle.ledger().imbalance()), (Ok(()), 0), "{:?}", handle.ledger());
}

#[test]
fn a_good_run_after_sixty_failed_ones_delivers_all() {
    let Some(tool) = Tool::new("moments::a_good_run_after_sixty_failed_ones_delivers_all") else { return };
    tool.fail(60, Kind::Files);
    tool.run(Kind::Files);
    tool.assert_delivered(61);
    assert_eq!(processes(&tool.state()), Vec::<PathBuf>::new(), "nothing is stored any more");
}

#[test]
fn the_second_run_of_a_tool_delivers_the_spans_of_the_first() {
    let Some(tool) = Tool::new("moments::the_second_run_of_a_tool_delivers_the_spans_of_the_first") else { return };
    for (runs, (kind, _)) in Kind::ALL.iter().enumerate() {
        tool.fail(1, *kind);
        tool.run(Kind::Files);
        tool.assert_delivered(2 * (runs as u64 + 1));
    }
}

#[test]
fn a_good_run_delivers_what_journals_hold() {
    let Some(tool) = Tool::new("moments::a_good_run_delivers_what_journals_hold") else { return };
    let mut runs = 0;
    for failed in [Kind::Durable, Kind::Journal, Kind::Killed] {
        for good in [Kind::Files, Kind::Durable, Kind::Journal] {
            tool.fail(6, failed);
            tool.run(good);
            runs += 7;
            if good == Kind::Journal {
                // Files wait for a process that has a fallback.
                tool.run(Kind::Files);
                runs += 1;
            }
            tool.assert_delivered(runs);
        }
    }
}

/// More directories than a start takes over: the shutdown goes on with that while the collector answers.
#[test]
fn a_good_run_after_forty_failed_ones_at_the_same_time_delivers_all() {
    const NAME: &str = "moments::a_good_run_after_forty_failed_ones_at_the_same_time_delivers_all";
    let Some(tool) = Tool::new(NAME) else { return };
    tool.collector.stop();
    let program = || {
        let transport = http(&tool.collector);
        let builder = ResilientSpanExporter::builder().with_primary(transport).with_state_dir(tool.state());
        SdkTracerProvider::builder().with_batch_exporter(builder.build().expect("valid")).build()
    };
    let providers = (0..40).map(|_| program()).collect::<Vec<_>>();
    for provider in &providers {
        (0..SPANS).for_each(|_| provider.tracer("tool").in_span("work", |_| {}));
    }
    std::thread::scope(|scope| {
        providers.iter().for_each(|provider| drop(scope.spawn(|| provider.shutdown().expect("in time"))));
    });
    assert!(processes(&tool.state()).len() > 32, "each leaves a directory");
    tool.collector.start_again().expect("the same ports");
    tool.run(Kind::Files);
    tool.assert_delivered(41);
}
