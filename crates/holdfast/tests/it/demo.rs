//! `holdfast demo` as a process: a short run, its numbers, its exit code.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_holdfast");

/// The demo with its temporary files in `temp`, and none of this machine's OpenTelemetry settings.
fn demo(temp: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.arg("demo").args(arguments).env("TMPDIR", temp);
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("OTEL_")) {
            command.env_remove(name);
        }
    }
    command
}

fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).expect("readable").next().is_none()
}

/// The object on the last line of standard output.
fn result(output: &Output) -> Value {
    let text = String::from_utf8(output.stdout.clone()).expect("text");
    serde_json::from_str(text.lines().last().expect("a last line")).expect("a JSON object")
}

/// The outage is more than twice as long as five failures take (after 0, 0.1, 0.2, 0.4 and 0.8 s of waiting, each 25 %
/// longer at most), for machines that are busy.
fn an_outage_loses_nothing(protocol: &str) {
    let temp = tempfile::tempdir().expect("temp dir");
    let arguments = ["--outage", "5s", "--duration", "7s", "--rate", "1000", "--json", "--protocol", protocol];
    let output = demo(temp.path(), &arguments).output().expect("runs");
    let live = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{live}");

    let result = result(&output);
    let number = |pointer: &str| {
        let value = result.pointer(pointer).unwrap_or_else(|| panic!("{pointer} is missing in {result}"));
        value.as_u64().unwrap_or_else(|| panic!("{pointer} is no number in {result}"))
    };
    let made = number("/made");
    assert!(made > 1_000, "{result}");
    assert_eq!((number("/bsp_dropped"), number("/collector/missing")), (0, 0), "{result}");
    assert_eq!((number("/ledger/offered"), number("/ledger/delivered")), (made, made), "{result}");
    assert_eq!(number("/collector/unique"), made, "{result}");
    assert_eq!(number("/collector/received"), made + number("/collector/duplicates"), "{result}");
    assert!(number("/breaker/trips") >= 1, "{result}");
    assert_eq!(result["verdict"], "nothing lost");

    for expected in ["100ms", "request time-out 1s", "the collector is dead", "the collector is back", "closed -> open"]
    {
        assert!(live.contains(expected), "{expected} is missing in\n{live}");
    }
    let down = live.lines().filter(|line| line.contains("collector down")).count();
    assert!((2..=9).contains(&down), "a line a second, not {down}:\n{live}");
    assert!(!live.contains('\r') && !live.contains('\x1b'), "no terminal");
    assert!(is_empty(temp.path()), "the state directory is removed");
}

#[test]
fn an_outage_loses_nothing_over_grpc() {
    an_outage_loses_nothing("grpc");
}

#[test]
fn an_outage_loses_nothing_over_http() {
    an_outage_loses_nothing("http");
}

#[test]
fn without_json_the_result_is_for_people_and_on_standard_output() {
    let temp = tempfile::tempdir().expect("temp dir");
    let output = demo(temp.path(), &["--outage", "0s", "--duration", "1s", "--rate", "50"]).output().expect("runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    assert!(text.contains("the collector lives all the time") && text.contains("verdict       nothing lost"), "{text}");
}

#[test]
fn settings_of_this_machine_change_nothing() {
    let temp = tempfile::tempdir().expect("temp dir");
    let mut command = demo(temp.path(), &["--outage", "0s", "--duration", "1s", "--rate", "5000", "--json"]);
    command.env("OTEL_BSP_MAX_QUEUE_SIZE", "1").env("OTEL_BSP_SCHEDULE_DELAY", "3600000");
    command.env("OTEL_TRACES_SAMPLER", "always_off").env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9");
    let output = command.output().expect("runs");
    let result = result(&output);
    assert!(output.status.success(), "{result}");
    assert!(result["made"].as_u64().is_some_and(|made| made > 0), "{result}");
}

#[test]
fn an_interrupt_ends_the_run_early_with_a_full_account() {
    let temp = tempfile::tempdir().expect("temp dir");
    let mut command = demo(temp.path(), &["--outage", "1s", "--duration", "60m", "--rate", "100", "--json"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("runs");
    let mut live = BufReader::new(child.stderr.take().expect("piped")).lines();
    let started = live.by_ref().any(|line| line.expect("text").contains("collector up"));
    assert!(started && !is_empty(temp.path()));
    kill_process(Pid::from_child(&child), Signal::INT).expect("it lives");
    let ended = live.any(|line| line.expect("text").contains("the application ended"));
    let output = child.wait_with_output().expect("ends");
    assert!(ended && output.status.success(), "{output:?}");
    assert_eq!(result(&output)["verdict"], "nothing lost");
    assert!(is_empty(temp.path()), "the state directory is removed");
}

#[test]
fn a_state_directory_that_cannot_be_made_is_an_error() {
    let output = demo(Path::new("/no/such/directory"), &["--duration", "1s", "--outage", "0s"]).output().expect("runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("the demo could not run") && text.contains("/no/such/directory"), "{text}");
}

#[test]
fn bad_arguments_are_refused_by_name() {
    let temp = tempfile::tempdir().expect("temp dir");
    let cases: [(&[&str], &str); 7] = [
        (&["--outage", "9s", "--duration", "8s"], "--outage is 9s"),
        (&["--rate", "0"], "--rate"),
        (&["--rate", "4000000000"], "--rate"),
        (&["--duration", "3h"], "--duration"),
        (&["--duration", "0s", "--outage", "0s"], "--duration"),
        (&["--rate", "50000", "--duration", "30m"], "90000000 spans"),
        (&["--protocol", "udp"], "--protocol"),
    ];
    for (arguments, named) in cases {
        let output = demo(temp.path(), arguments).output().expect("runs");
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text.contains(named), "{arguments:?}: {text}");
    }
    assert!(is_empty(temp.path()));
}
