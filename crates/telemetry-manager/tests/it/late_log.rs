//! A log subscriber that is set after telemetry gets the lines of the start, each once.

use std::fmt::{Debug, Write as _};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use telemetry_manager::OpenTelemetryManager;
use telemetry_manager::resilient_exporter::Status;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::support::{LONG, Setup, eventually, trace};

/// A subscriber that keeps each line of the manager and its exporter: level, setting, text.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<(Level, String, String)>>>);

impl Log {
    fn lines(&self) -> Vec<(Level, String, String)> {
        self.0.lock().expect("no panic").clone()
    }

    /// How often a line of this level about this setting has this text in it.
    fn count(&self, level: Level, setting: &str, text: &str) -> usize {
        let is_it = |line: &&(Level, String, String)| line.0 == level && line.1 == setting && line.2.contains(text);
        self.lines().iter().filter(is_it).count()
    }
}

#[derive(Default)]
struct Fields {
    setting: String,
    text: String,
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "setting" {
            self.setting = value.to_owned();
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            let _ = write!(self.text, "{value:?}");
        }
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let is_ours = |ours| metadata.target().starts_with(ours);
        metadata.is_event() && (is_ours("telemetry_manager") || is_ours("resilient_exporter"))
    }

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let line = (*event.metadata().level(), fields.setting, fields.text);
        self.0.lock().expect("no panic").push(line);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Two settings that are warned about, and a directory that is not there, about which the exporter warns too.
const VARS: [(&str, &str); 4] = [
    ("CIRCUIT_BREAKER_FAILURE_THRESHOLD", "many"),
    ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
    ("HOME", ""),
    ("OTEL_SERVICE_NAME", "late"),
];

/// Every line of a start with [`VARS`]: level, setting, a part of the text.
const LINES: [(Level, &str, &str); 4] = [
    (Level::WARN, "CIRCUIT_BREAKER_FAILURE_THRESHOLD", "many"),
    (Level::WARN, "OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
    (Level::WARN, "TELEMETRY_STATE_DIR", "memory only"),
    (Level::INFO, "", "service late;"),
];

#[track_caller]
fn assert_each_once(log: &Log) {
    for (level, setting, text) in LINES {
        assert_eq!(log.count(level, setting, text), 1, "{setting} {text}: {:?}", log.lines());
    }
}

/// A subscriber for all threads belongs to the whole process, so each case runs in one of its own: this test, started
/// again.
#[test]
fn a_subscriber_for_all_threads_gets_every_line_of_the_start_once() {
    const CASE: &str = "HOLDFAST_TEST_LATE_LOG";
    match std::env::var(CASE).as_deref() {
        Ok("idle") => return idle(),
        Ok("export") => return export("resilient"),
        Ok("export of the SDK's") => return export("batch"),
        Ok("before") => return before(),
        Ok(other) => panic!("{other}"),
        Err(_) => {}
    }
    for case in ["idle", "export", "export of the SDK's", "before"] {
        let output = std::process::Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "late_log::a_subscriber_for_all_threads_gets_every_line_of_the_start_once"])
            .env(CASE, case)
            .output()
            .expect("the child runs");
        assert!(output.status.success(), "{case}: {}", String::from_utf8_lossy(&output.stdout));
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{case}: the child ran nothing");
    }
}

fn use_all_hooks(setup: &Setup, manager: &OpenTelemetryManager) {
    trace(manager, 3);
    manager.settled(LONG).expect("delivered");
    assert_eq!(setup.collector.received().unique, 3);
    let _ = (manager.health(), manager.handle(), manager.observer().health());
    manager.shutdown().expect("nothing waits");
}

/// The subscriber is set right after telemetry, and no span ends.
fn idle() {
    let setup = Setup::new();
    let manager = setup.manager(&VARS);
    assert_eq!(manager.warnings().len(), 3, "{:?}", manager.warnings());
    let log = Log::default();
    tracing::subscriber::set_global_default(log.clone()).expect("the first");
    eventually("the lines come by themselves", || log.count(Level::INFO, "", "service late;") > 0);
    assert_each_once(&log);
    use_all_hooks(&setup, &manager);
    assert_each_once(&log);
    assert_eq!(manager.warnings().len(), 3);
}

/// The subscriber comes after the wait for it: the first export logs the lines.
fn export(processor: &str) {
    let setup = Setup::new();
    let more = [("OTEL_BSP_SCHEDULE_DELAY", "10"), ("TELEMETRY_PROCESSOR", processor)];
    let manager = setup.manager(&[&VARS[..], &more].concat());
    // A thread gives itself its name.
    eventually("a thread waits for a subscriber", || threads().contains(&"holdfast-start".to_owned()));
    eventually("the wait for a subscriber ends", || !threads().contains(&"holdfast-start".to_owned()));
    let log = Log::default();
    tracing::subscriber::set_global_default(log.clone()).expect("the first");
    trace(&manager, 1);
    eventually("the first export brings the lines", || log.count(Level::INFO, "", "service late;") > 0);
    assert_each_once(&log);
}

/// The subscriber is there: the exporter's own warning is not repeated.
fn before() {
    let log = Log::default();
    tracing::subscriber::set_global_default(log.clone()).expect("the first");
    let setup = Setup::new();
    let manager = setup.manager(&VARS);
    use_all_hooks(&setup, &manager);
    let all = log.lines().into_iter().filter(|(_, _, text)| text.contains("memory only")).count();
    assert_eq!(all, 2, "the exporter's, and the line of settings: {:?}", log.lines());
    for (level, setting, text) in LINES.into_iter().filter(|(_, setting, _)| *setting != "TELEMETRY_STATE_DIR") {
        assert_eq!(log.count(level, setting, text), 1, "{:?}", log.lines());
    }
    assert!(!threads().contains(&"holdfast-start".to_owned()));
}

fn threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux");
    let name = |entry: std::fs::DirEntry| std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
    tasks.filter_map(|entry| Some(name(entry.ok()?).trim().to_owned())).collect()
}

#[test]
fn each_call_of_the_manager_brings_the_lines_to_a_subscriber_of_its_thread() {
    type Call = fn(&OpenTelemetryManager);
    let calls: [Call; 5] = [
        |manager| drop(manager.health()),
        |manager| drop(manager.observer().health()),
        |manager| drop(manager.handle()),
        |manager| drop(manager.settled(LONG)),
        |manager| drop(manager.shutdown()),
    ];
    for call in calls {
        let setup = Setup::new();
        // Without an exporter there is neither an export nor a thread that waits.
        let manager = setup.manager(&[&VARS[..], &[("OTEL_TRACES_EXPORTER", "none")]].concat());
        let log = Log::default();
        tracing::subscriber::with_default(log.clone(), || {
            call(&manager);
            let _ = (manager.health(), manager.settled(Duration::ZERO));
        });
        let expected = [(Level::WARN, "OTEL_TRACES_EXPORTER"), (Level::INFO, "")];
        let found = log.lines().into_iter().map(|(level, setting, _)| (level, setting)).collect::<Vec<_>>();
        assert_eq!(found, expected.map(|(level, setting)| (level, setting.to_owned())), "{:?}", log.lines());
    }
    // A manager that is dropped has a last chance.
    let setup = Setup::new();
    let manager = setup.manager(&[("OTEL_SDK_DISABLED", "true")]);
    let log = Log::default();
    tracing::subscriber::with_default(log.clone(), || drop(manager));
    assert_eq!(log.count(Level::INFO, "", "telemetry is disabled"), 1);
}

#[test]
fn a_set_up_that_fails_is_an_error_or_by_choice_a_program_without_telemetry() {
    let setup = Setup::new();
    for bad in [
        [("OTEL_EXPORTER_OTLP_ENDPOINT", "grpc://collector.example"), ("OTEL_PROPAGATORS", "tracecontext")],
        [("OTEL_EXPORTER_OTLP_HEADERS", "no equals sign"), ("OTEL_PROPAGATORS", "tracecontext")],
        [("TELEMETRY_STATE_DIR_REQUIRED", "true"), ("TELEMETRY_STATE_DIR", "/proc/self/nowhere")],
        [("TELEMETRY_STATE_DIR_REQUIRED", "true"), ("TELEMETRY_FALLBACK_ENABLED", "perhaps")],
    ] {
        let error = setup.builder(&bad).build().expect_err("an error of set-up").to_string();
        let log = Log::default();
        let manager = tracing::subscriber::with_default(log.clone(), || setup.builder(&bad).build_or_disabled());
        assert_eq!(manager.setup_error().map(ToString::to_string).as_ref(), Some(&error));
        let [warning] = manager.warnings() else { panic!("{:?}", manager.warnings()) };
        assert!(bad.iter().any(|(name, _)| *name == warning.setting), "{warning:?}");
        assert!(warning.message.contains(&error), "{warning}");
        assert_eq!(log.lines(), [(Level::ERROR, String::new(), warning.message.clone())]);

        trace(&manager, 3);
        manager.settled(LONG).expect("nothing waits");
        let health = manager.health();
        assert_eq!((health.status, health.initialized, health.issues.len()), (Status::Unhealthy, false, 1));
        assert!(health.issues[0].contains(&error) && manager.handle().is_none(), "{health:?}");
        assert_eq!(health.service_name, "my-api");
        manager.shutdown().expect("nothing to do");
    }
    assert_eq!(setup.collector.received().requests, 0);
    // Where set-up works, both are the same.
    let manager = setup.builder(&[]).build_or_disabled();
    assert!(manager.setup_error().is_none());
    trace(&manager, 3);
    manager.shutdown().expect("delivered");
    assert_eq!(setup.collector.received().unique, 3);
}

/// The slip that explains the error is a warning.
#[test]
fn warnings_beside_an_error_of_set_up_are_logged_too() {
    let setup = Setup::new();
    for bad in [("OTEL_EXPORTER_OTLP_ENDPOINT", "grpc://collector.example"), ("TELEMETRY_STATE_DIR_REQUIRED", "true")] {
        let vars = [bad, ("TELEMETRY_STATE_DIR", "/proc/self/nowhere"), ("OTEL_SDK_DISABLED", "1")];
        let log = Log::default();
        let manager = tracing::subscriber::with_default(log.clone(), || setup.builder(&vars).build_or_disabled());
        assert!(manager.setup_error().is_some());
        let about = manager.warnings().iter().map(|warning| warning.setting.as_str()).collect::<Vec<_>>();
        assert!(about.len() == 2 && about[1] == "OTEL_SDK_DISABLED", "{:?}", manager.warnings());
        assert_eq!(log.count(Level::WARN, "OTEL_SDK_DISABLED", "write true"), 1, "{:?}", log.lines());
        assert_eq!((log.lines().len(), log.count(Level::ERROR, "", "telemetry is off")), (2, 1), "{:?}", log.lines());
    }
}

#[test]
fn a_panic_in_a_closure_of_the_program_ends_no_program_that_goes_on_without_telemetry() {
    let setup = Setup::new();
    let builders: [fn(telemetry_manager::Builder) -> telemetry_manager::Builder; 2] = [
        |builder| builder.buffer(|_| std::panic::resume_unwind(Box::new("a bug"))),
        |builder| builder.with_exporter(|_| std::panic::resume_unwind(Box::new("a bug".to_owned()))),
    ];
    for broken in builders {
        let manager = broken(setup.builder(&[])).build_or_disabled();
        let error = manager.setup_error().expect("a panic").to_string();
        assert!(error.contains("panicked") && error.contains("a bug"), "{error}");
        trace(&manager, 1);
        assert!(!manager.health().initialized);
    }
}
