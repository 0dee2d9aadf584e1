//! The metrics before Prometheus' own tool: alert rules and their unit tests, the queries of the dashboard, and the
//! page of a running service. Then a real Prometheus scrapes a service through an outage (`prometheus/scrape.rs`).

mod scrape;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::http;
use super::programs::{Programs, Service};
use crate::fail::Failure;
use crate::process;
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
    let programs = Programs::build(workspace, "prometheus", false)?;
    let dashboard = docs.join("grafana/holdfast.json");
    check_queries(&dashboard, &programs.home.join("queries.yaml"))?;
    check_page(&page_of_an_outage(&programs)?)?;
    scrape::run(&programs, &rules, &queries_of(&dashboard)?)
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
fn page_of_an_outage(programs: &Programs) -> Result<String, Failure> {
    let service = serve(programs, &[("OTEL_EXPORTER_OTLP_ENDPOINT", NOWHERE)])?;
    load(&service, 50)?;
    eventually("a call fails", || {
        let page = http::get(service.address, "/metrics")?.body;
        Ok(page.contains("error_type=\"connection\"").then_some(page))
    })
}

/// `holdfast serve` in durable mode.
fn serve(programs: &Programs, vars: &[(&str, &str)]) -> Result<Service, Failure> {
    let durable = [("OTEL_BSP_SCHEDULE_DELAY", "50"), ("TELEMETRY_JOURNAL_ENABLED", "true")];
    programs.serve(&durable.iter().chain(vars).copied().collect::<Vec<_>>())
}

/// Has the service make spans.
fn load(service: &Service, spans: u32) -> Result<(), Failure> {
    let load = format!("{{\"span_count\": {spans}}}");
    let answer = http::post(service.address, "/telemetry-test/generate-loads", &load)?;
    if answer.status == 200 { Ok(()) } else { Err(Failure::Found(format!("generate-loads: {}", answer.body))) }
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
        // A process that has ended by itself leaves nothing to kill.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
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
