use std::fs;

use crate::support::{Setup, trace};
use telemetry_manager::opentelemetry::trace::{Span as _, Tracer as _, TracerProvider as _};

/// Threads of ours or of the SDK's batch processor in the child process below.
fn threads() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").expect("Linux");
    let name = |entry: fs::DirEntry| fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
    tasks
        .map(|entry| name(entry.expect("a thread")))
        .filter(|name| name.starts_with("holdfast") || name.starts_with("OpenTel"))
        .collect()
}

fn sockets() -> usize {
    let descriptors = fs::read_dir("/proc/self/fd").expect("Linux");
    let target = |entry: fs::DirEntry| fs::read_link(entry.path()).unwrap_or_default();
    descriptors
        .filter(|entry| entry.as_ref().is_ok())
        .map(|entry| target(entry.expect("checked")))
        .filter(|target| target.to_string_lossy().starts_with("socket:"))
        .count()
}

/// Threads and sockets belong to the whole process, so each case runs in one of its own: this test, started again.
#[test]
fn disabled_or_without_exporter_there_is_no_thread_no_file_and_no_socket() {
    const CASE: &str = "HOLDFAST_TEST_QUIET_CASE";
    if let Ok(case) = std::env::var(CASE) {
        return quiet(&case);
    }
    for case in ["OTEL_SDK_DISABLED=true", "OTEL_TRACES_EXPORTER=none", "with code"] {
        let output = std::process::Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "disabled::disabled_or_without_exporter_there_is_no_thread_no_file_and_no_socket"])
            .env(CASE, case)
            .output()
            .expect("the child runs");
        assert!(output.status.success(), "{case}: {}", String::from_utf8_lossy(&output.stdout));
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{case}: the child ran nothing");
    }
}

fn quiet(case: &str) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let home = dir.path().to_owned();
    let before = sockets();
    let (name, value) = case.split_once('=').unwrap_or(("", ""));
    let (name, value) = (name.to_owned(), value.to_owned());
    let mut builder = telemetry_manager::OpenTelemetryManager::builder().with_vars(move |asked| match asked {
        "HOME" => Some(home.clone().into()),
        _ => (asked == name).then(|| value.clone().into()),
    });
    if case == "with code" {
        builder = builder.with_sdk_disabled(true);
    }
    let manager = builder.build().expect("telemetry starts");
    trace(&manager, 1_000);
    assert_eq!(threads(), [""; 0]);
    assert_eq!(sockets(), before);
    assert_eq!(fs::read_dir(dir.path()).expect("the directory").count(), 0);
    let health = manager.health();
    assert!(!health.initialized && health.healthy && health.issues.len() == 1, "{health:?}");
    assert!(manager.handle().is_none());
    manager.shutdown().expect("nothing to do");
}

#[test]
fn without_exporter_spans_have_ids_and_disabled_they_have_none() {
    let setup = Setup::new();
    let valid = |vars: &[(&str, &str)]| {
        let manager = setup.manager(vars);
        let span = manager.tracer_provider().tracer("test").start("work");
        span.span_context().is_valid()
    };
    assert!(valid(&[("OTEL_TRACES_EXPORTER", "none")]));
    assert!(!valid(&[("OTEL_SDK_DISABLED", "true")]));
}

#[test]
fn off_is_off_whatever_code_and_environment_say() {
    let setup = Setup::new();
    for off in [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")] {
        let bad = [off, ("TELEMETRY_STATE_DIR_REQUIRED", "true"), ("TELEMETRY_STATE_DIR", "/proc/self/nowhere")];
        let manager = setup
            .builder(&bad)
            .with_endpoint("grpc://collector.example")
            .with_header("a header", "canary")
            .with_timeout(std::time::Duration::ZERO)
            .with_buffer_size(0)
            .build()
            .expect("off is off");
        let [warning] = manager.warnings() else { panic!("{:?}", manager.warnings()) };
        assert_eq!(warning.setting, off.0);
        assert!(warning.message.contains("buffer.max_spans is 0"), "{warning}");
        assert!(!warning.message.contains("canary"), "{warning}");
        assert!(manager.handle().is_none() && !manager.health().initialized);
    }
    // Code that turns telemetry off beats an environment that cannot be used.
    let vars = [("OTEL_EXPORTER_OTLP_ENDPOINT", "grpc://collector.example")];
    let manager = setup.builder(&vars).with_sdk_disabled(true).build().expect("off is off");
    assert_eq!(manager.warnings()[0].setting, "with_sdk_disabled");
    assert_eq!(manager.health().issues, ["telemetry is disabled: with_sdk_disabled is true"]);
}
