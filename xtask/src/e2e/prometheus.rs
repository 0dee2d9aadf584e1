//! The metrics before Prometheus' own tool: alert rules and their unit tests, the queries of the dashboard, and the
//! page of a running service. Then a real Prometheus scrapes a service through an outage (`prometheus/scrape.rs`).

mod scrape;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use super::programs::lines_of;
use crate::fail::Failure;
use crate::process::{self, cargo};
use crate::workspace::Workspace;

const TOOL: &str = "promtool";
const GET: &str = "apt-get install --no-install-recommends prometheus";

/// Far above the time of any step.
const LONG: Duration = Duration::from_secs(30);

/// No collector listens here.
const NOWHERE: &str = "http://127.0.0.1:9";

/// Checks all of it.
pub(crate) fn run(workspace: &Workspace) -> Result<(), Failure> {
    process::require(TOOL, "--version", GET)?;
    let docs = workspace.root.join("docs");
    let rules = docs.join("prometheus/holdfast.rules.yaml");
    let tests = docs.join("prometheus/holdfast.test.yaml");
    process::run(promtool("rules").arg(&rules))?;
    process::run(Command::new(TOOL).args(["test", "rules"]).arg(&tests))?;
    let home = workspace.target.join("e2e-prometheus");
    let _ = fs::remove_dir_all(&home);
    fs::create_dir_all(&home).map_err(at(&home))?;
    let dashboard = docs.join("grafana/holdfast.json");
    check_queries(&dashboard, &home.join("queries.yaml"))?;
    process::run(cargo().args(["build", "--quiet", "--package", "holdfast", "--package", "mock-collector"]))?;
    let programs = workspace.target.join("debug");
    let page = page_of_an_outage(&programs.join("holdfast"), &home)?;
    check_page(&page)?;
    scrape::run(&programs, &home, &rules, &queries_of(&dashboard)?)?;
    fs::remove_dir_all(&home).map_err(at(&home))
}

fn promtool(check: &str) -> Command {
    let mut command = Command::new(TOOL);
    command.args(["check", check]);
    command
}

fn at(path: &Path) -> impl FnOnce(std::io::Error) -> Failure {
    let path = PathBuf::from(path);
    |source| Failure::File { path, source }
}

/// Has the tool parse the queries of a dashboard, each as a rule that records it.
fn check_queries(dashboard: &Path, rules: &Path) -> Result<(), Failure> {
    let queries = queries_of(dashboard)?;
    println!("dashboard: {} queries", queries.len());
    fs::write(rules, as_rules(&queries)).map_err(at(rules))?;
    process::run(promtool("rules").arg(rules))
}

fn queries_of(dashboard: &Path) -> Result<Vec<String>, Failure> {
    let text = fs::read_to_string(dashboard).map_err(at(dashboard))?;
    queries(&text).map_err(|why| Failure::Unreadable { what: dashboard.display().to_string(), why })
}

/// The queries of all panels of a dashboard, with times in the place of Grafana's variables.
fn queries(dashboard: &str) -> Result<Vec<String>, String> {
    let dashboard: serde_json::Value = serde_json::from_str(dashboard).map_err(|error| error.to_string())?;
    let panels = dashboard["panels"].as_array().ok_or("no panels")?;
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let queries: Option<Vec<_>> = targets.map(|target| target["expr"].as_str()).collect();
    let queries = queries.filter(|queries| !queries.is_empty()).ok_or("a panel without a query")?;
    let times = [("$__rate_interval", "20s"), ("$__range", "5m"), ("$job", ".*"), ("$instance", ".*")];
    let filled = |query: &str| times.iter().fold(query.to_owned(), |query, (name, value)| query.replace(name, value));
    Ok(queries.into_iter().map(filled).collect())
}

fn as_rules(queries: &[String]) -> String {
    let mut text = String::from("groups:\n  - name: dashboard\n    rules:\n");
    for (number, query) in queries.iter().enumerate() {
        let query = serde_json::Value::from(query.as_str());
        text.push_str(&format!("      - record: dashboard:query:{number}\n        expr: {query}\n"));
    }
    text
}

/// The page of a service whose collector is away: calls have failed, items wait, and the journal and the files are on.
fn page_of_an_outage(program: &Path, home: &Path) -> Result<String, Failure> {
    let service = Service::start(program, home, &[("OTEL_EXPORTER_OTLP_ENDPOINT", NOWHERE)])?;
    service.load(50)?;
    eventually("a call fails", || {
        let page = ask(&service.address, "GET", "/metrics", "")?;
        Ok(page.contains("error_type=\"connection\"").then_some(page))
    })
}

/// Asks again until there is an answer.
fn eventually<T>(expected: &str, mut look: impl FnMut() -> Result<Option<T>, Failure>) -> Result<T, Failure> {
    let started = process::now();
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if started.elapsed() > LONG {
            return Err(Failure::Found(format!("waited {LONG:?} in vain: {expected}")));
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

/// A process that is killed when it is dropped.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Result<Self, Failure> {
        let child = command.spawn();
        child.map(Self).map_err(|error| Failure::Command { what: process::line(command), status: error.to_string() })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `holdfast serve` in durable mode.
struct Service {
    _running: Running,
    address: String,
    /// Its further lines find a reader.
    _output: Receiver<String>,
}

impl Service {
    fn start(program: &Path, home: &Path, vars: &[(&str, &str)]) -> Result<Self, Failure> {
        let mut command = Command::new(program);
        command.args(["serve", "--listen", "127.0.0.1:0"]).env_clear().env("HOME", home);
        command
            .env("OTEL_BSP_SCHEDULE_DELAY", "50")
            .env("TELEMETRY_JOURNAL_ENABLED", "true")
            .envs(vars.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut running = Running::start(&mut command)?;
        let output = lines_of(running.0.stdout.take().expect("piped above"));
        let line = output.recv_timeout(LONG).unwrap_or_default();
        let address = line.trim_end().strip_prefix("holdfast: listening on http://").map(str::to_owned);
        let address = address.ok_or_else(|| Failure::Found(format!("the service began with {line:?}")))?;
        Ok(Self { _running: running, address, _output: output })
    }

    /// Has the service make spans.
    fn load(&self, spans: u32) -> Result<(), Failure> {
        let load = format!("{{\"span_count\": {spans}, \"delay_ms\": 0, \"include_errors\": false}}");
        ask(&self.address, "POST", "/telemetry-test/generate-loads", &load).map(drop)
    }
}

/// The body of an answer with a status of success.
fn ask(address: &str, method: &str, path: &str, body: &str) -> Result<String, Failure> {
    let answer = exchange(address, method, path, body);
    let answer =
        answer.map_err(|error| Failure::Command { what: format!("{method} {path}"), status: error.to_string() })?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    match head.split(' ').nth(1) {
        Some(status) if status.starts_with('2') => Ok(body.to_owned()),
        _ => Err(Failure::Found(format!("{method} {path}: {answer}"))),
    }
}

fn exchange(address: &str, method: &str, path: &str, body: &str) -> std::io::Result<String> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(LONG))?;
    let length = body.len();
    // Version 1.0: no part of the answer is encoded, and the connection ends with it.
    let head = format!("{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {length}");
    write!(socket, "{head}\r\nContent-Type: application/json\r\n\r\n{body}")?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Has the tool read a page. It ends with an error for a page that it cannot read, and for one with bad names.
fn check_page(page: &str) -> Result<(), Failure> {
    let families = page.lines().filter(|line| line.starts_with("# TYPE ")).count();
    println!("page: {families} metrics, {} lines", page.lines().count());
    let mut command = promtool("metrics");
    let child = command.stdin(Stdio::piped()).spawn();
    let failed = |status: String| Failure::Command { what: format!("{TOOL} check metrics"), status };
    let mut child = child.map_err(|error| failed(error.to_string()))?;
    let mut input = child.stdin.take().expect("piped above");
    let written = input.write_all(page.as_bytes());
    drop(input);
    let status = child.wait().and_then(|status| written.map(|()| status)).map_err(|error| failed(error.to_string()))?;
    if status.success() { Ok(()) } else { Err(failed(status.to_string())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_of_panels_become_rules_with_times() {
        let dashboard = r#"{"panels": [{"type": "row"},
            {"targets": [{"expr": "rate(a{b=~\"$job\"}[$__rate_interval])"}, {"expr": "increase(d[$__range])"}]}]}"#;
        let queries = queries(dashboard).expect("a dashboard");
        assert_eq!(queries, ["rate(a{b=~\".*\"}[20s])", "increase(d[5m])"]);
        let rules = as_rules(&queries);
        assert!(
            rules.contains("record: dashboard:query:0\n        expr: \"rate(a{b=~\\\".*\\\"}[20s])\"\n"),
            "{rules}"
        );
        assert!(super::queries(r#"{"panels": [{"targets": [{"refId": "A"}]}]}"#).is_err());
        assert!(super::queries(r#"{"panels": []}"#).is_err());
    }
}
