//! The API fuzzed by schemathesis from its own OpenAPI document, with and without the token: no server error, no
//! undocumented answer, no answer beside its schema.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::programs::{Programs, Service, TOKEN};
use super::{found, http};
use crate::fail::Failure;
use crate::process;
use crate::workspace::Workspace;

/// The version whose checks and configuration this part knows.
const SCHEMATHESIS: &str = "4.32.5";

const DOCUMENT: &str = "/telemetry-test/openapi.json";
/// Its answer has no end, for which a fuzzer waits. This part listens to it itself.
const EVENTS: &str = "/telemetry-test/events";

/// The check that a resource is gone after DELETE. That of a test cancels it, and its verdict is there to be read.
const ON_PURPOSE: &str = "use_after_free";

/// Seconds of each of the two runs, and the time after which one is killed.
const BUDGET: (&str, Duration) = ("80", Duration::from_secs(150));

pub(super) fn run(workspace: &Workspace) -> Result<(), Failure> {
    let schemathesis = install(workspace, "schemathesis", SCHEMATHESIS)?.join("bin/schemathesis");
    let programs = Programs::build(workspace, "api", false)?;
    let mut collector = programs.collector()?;
    let (endpoint, refused) = (collector.endpoint(), "dead-letter");
    let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), ("TELEMETRY_REFUSED", refused)];
    let mut service = programs.serve(&variables)?;

    // The fuzzer finds dead letters, and redriven ones come again.
    let refusal = json!({"action": {"answer": {"status": {"grpc": 3}}}});
    collector.ask(&json!({"command": "set", "behavior": refusal}))?;
    http::post(service.address, "/telemetry-test/generate-loads", r#"{"span_count": 30}"#)?;
    let letters = "/telemetry-test/dead-letters";
    service.wait_for(letters, Duration::from_secs(30), "a dead letter", |list| list["total"].as_u64() > Some(0))?;

    listen(&service)?;
    let config = workspace.root.join("xtask/e2e/schemathesis.toml");
    for (name, token) in [("with the token", Some(TOKEN)), ("without the token", None)] {
        let report = programs.home.join(format!("{}.json", name.replace(' ', "-")));
        let fuzzed = fuzz(&schemathesis, &config, &service, token, &report);
        service.check_alive()?;
        println!("e2e api: {name}: {}", fuzzed?);
    }
    let log = programs.home.join("serve.log");
    let log = fs::read_to_string(&log).map_err(|source| Failure::File { path: log, source })?;
    match log.lines().find(|line| line.contains("panicked")) {
        Some(line) => Err(found(format!("a thread of the service panicked: {line}"))),
        None => Ok(()),
    }
}

/// The stream of events by a plain request: a snapshot comes at once.
fn listen(service: &Service) -> Result<(), Failure> {
    // Parts of a chunked answer lie between its events.
    let is_whole = |text: &str| text.split_once("event: snapshot").is_some_and(|(_, rest)| rest.contains("\n\n"));
    let answer = http::listen(service.address, EVENTS, is_whole)?;
    let data = answer.body.lines().find_map(|line| line.strip_prefix("data: ")).unwrap_or_default();
    let snapshot: Value = serde_json::from_str(data).unwrap_or_default();
    let is_stream = answer.head.to_ascii_lowercase().contains("content-type: text/event-stream");
    if answer.status == 200 && is_stream && snapshot["ledger"].is_object() {
        return Ok(());
    }
    Err(found(format!("{EVENTS}: status {}, {:?}", answer.status, answer.body)))
}

/// One run: the counts of its report in words.
fn fuzz(
    schemathesis: &Path,
    config: &Path,
    service: &Service,
    token: Option<&str>,
    report: &Path,
) -> Result<String, Failure> {
    let (seconds, limit) = BUDGET;
    let mut command = Command::new(schemathesis);
    // One worker: with several, Python 3.11 can fail at its own parser, and a seed gives other requests each time.
    command.arg("--no-color").arg("--config-file").arg(config).arg("run");
    command.arg(format!("http://{}{DOCUMENT}", service.address)).args(["--exclude-path", EVENTS]);
    command
        .args([
            "--checks",
            "all",
            "--exclude-checks",
            ON_PURPOSE,
            "--max-time",
            seconds,
            "--workers",
            "1",
            "--report-json-path",
        ])
        .arg(report);
    if let Some(token) = token {
        command.args(["--header", &format!("Authorization: Bearer {token}")]);
    }
    // Reports and examples that it keeps of a failure lie beside ours.
    command.current_dir(report.parent().unwrap_or_else(|| Path::new(".")));
    let ran = process::run_quietly(&mut command, limit);
    let text = fs::read_to_string(report);
    ran?;
    let text = text.map_err(|source| Failure::File { path: report.to_owned(), source })?;
    judge(&text)
}

/// Reads a report. A run that tested less than it should is no success.
fn judge(report: &str) -> Result<String, Failure> {
    let report: Value = serde_json::from_str(report)
        .map_err(|error| Failure::Unreadable { what: "the report of schemathesis".into(), why: error.to_string() })?;
    let number = |part: &str, name: &str| report[part][name].as_u64().unwrap_or(0);
    let (selected, tested) = (number("operations", "selected"), number("operations", "tested"));
    let (cases, failures) = (number("test_cases", "generated"), number("test_cases", "with_failures"));
    let phases = report["phases"].as_object().into_iter().flatten();
    let unfinished: Vec<_> =
        phases.filter(|(_, phase)| phase["status"] != "success").map(|(name, _)| name.as_str()).collect();
    let is_empty = |name: &str| report[name].as_array().is_some_and(Vec::is_empty);
    let summary = format!("{tested} operations, {cases} requests or chains of them, {failures} failures");
    if selected < 17 || tested < selected || cases < 500 || failures > 0 || !unfinished.is_empty() {
        return Err(found(format!("schemathesis: {summary}; phases without success: {unfinished:?}")));
    }
    if !is_empty("failures") || !is_empty("errors") {
        return Err(found(format!("schemathesis: {} {}", report["failures"], report["errors"])));
    }
    Ok(summary)
}

/// A virtual environment with this version of a package, made once. Gives its folder.
pub(super) fn install(workspace: &Workspace, package: &str, version: &str) -> Result<PathBuf, Failure> {
    process::require("python3", "--version", "apt-get install python3 python3-venv; 3.10 or later")?;
    let home = workspace.target.join(format!("e2e-python-{package}-{version}"));
    let whole = home.join("installed");
    if whole.exists() {
        return Ok(home);
    }
    let venv = process::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&home));
    let python = home.join("bin/python");
    if venv.is_err() || !python.exists() {
        return Err(Failure::MissingTool { tool: "python3 -m venv".into(), get: "apt-get install python3-venv" });
    }
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
    process::run(pip.arg(format!("{package}=={version}")))?;
    // Last: an installation that was interrupted lacks this file and begins anew.
    fs::write(&whole, "").map_err(|source| Failure::File { path: whole, source })?;
    Ok(home)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_with_a_failure_or_with_few_cases_is_no_success() {
        let report = |cases: u64, failures: u64, stateful: &str| {
            let report = json!({
                "operations": {"selected": 17, "tested": 17},
                "test_cases": {"generated": cases, "with_failures": failures},
                "phases": {"coverage": {"status": "success"}, "stateful": {"status": stateful}},
                "failures": [],
                "errors": [],
            });
            judge(&report.to_string()).map_err(|failure| failure.to_string())
        };
        assert!(report(2_000, 0, "success").expect("a success").starts_with("17 operations, 2000 requests"));
        assert!(report(2_000, 1, "success").unwrap_err().contains("1 failures"));
        assert!(report(20, 0, "success").is_err());
        assert!(report(2_000, 0, "skip").unwrap_err().contains("stateful"));
    }
}
