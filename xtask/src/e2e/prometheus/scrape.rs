//! A real Prometheus scrapes a service through an outage and its recovery, evaluates the alert rules, and answers each
//! query of the dashboard.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::super::programs::Programs;
use super::{GET, LONG, Running, at, eventually, load, serve};
use crate::fail::Failure;
use crate::process;

const TOOL: &str = "prometheus";

/// Losses by reason: a service that loses nothing has no line there.
const IS_EMPTY_ON_GOOD_DAYS: &str = "> 0";

/// The recovery must not wait for the usual times, and memory must overflow.
const QUICK: [(&str, &str); 4] = [
    ("CIRCUIT_BREAKER_FAILURE_THRESHOLD", "2"),
    ("CIRCUIT_BREAKER_RECOVERY_TIMEOUT", "1s"),
    ("TELEMETRY_RETRY_MAX_DELAY", "1s"),
    ("TELEMETRY_BUFFER_MAX_SPANS", "200"),
];

/// Plays the outage.
pub(super) fn run(programs: &Programs, rules: &Path, queries: &[String]) -> Result<(), Failure> {
    process::require(TOOL, "--version", GET)?;
    let mut collector = programs.collector()?;
    let endpoint = collector.endpoint();
    let vars: Vec<_> = QUICK.into_iter().chain([("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str())]).collect();
    let service = serve(programs, &vars)?;
    let prometheus = Prometheus::start(&programs.home, rules, &service.address.to_string())?;

    load(&service, 100)?;
    prometheus.wait_for("sum(holdfast_items_delivered_total) >= 100")?;
    collector.ask(&json!({"command": "stop"}))?;
    for _ in 0..5 {
        load(&service, 100)?;
    }
    prometheus.wait_for("sum(holdfast_items_in_fallback) > 0")?;
    prometheus.wait_for("max(holdfast_breaker_state{state=~\"open|half_open\"}) == 1")?;
    prometheus.wait_for("max(holdfast_health_status{status=\"degraded\"}) == 1")?;
    collector.ask(&json!({"command": "start_again"}))?;
    let waiting = ["buffered", "in_flight", "in_fallback", "in_journal"].map(|place| format!("holdfast_items_{place}"));
    prometheus.wait_for(&format!("sum({}) == 0", waiting.join(" + ")))?;
    // The process before, which was killed, left spans to this one.
    prometheus.wait_for(
        "sum(holdfast_items_delivered_total) == sum(holdfast_items_offered_total + holdfast_items_recovered_total)",
    )?;

    prometheus.wait_for("max_over_time(max(abs(holdfast_ledger_imbalance))[5m:1s]) == 0")?;
    for query in queries.iter().filter(|query| !query.ends_with(IS_EMPTY_ON_GOOD_DAYS)) {
        // A rate has an answer from the second scrape of its series on.
        prometheus.wait_for(&format!("count_over_time(({query})[5m:1s])"))?;
    }
    for query in queries {
        prometheus.results(query)?;
    }
    let alerts = prometheus.healthy_rules()?;
    println!("prometheus: {} queries have answers, {alerts} rules were evaluated", queries.len());
    Ok(())
}

fn parsed(what: &str, text: &str) -> Result<Value, Failure> {
    serde_json::from_str(text).map_err(|error| Failure::Unreadable { what: what.to_owned(), why: error.to_string() })
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
    // Version 1.0: Prometheus sends no part of the answer in chunks, and the connection ends with it.
    let head = format!("{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {length}");
    write!(socket, "{head}\r\nContent-Type: application/json\r\n\r\n{body}")?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    Ok(answer)
}

/// A Prometheus that scrapes one service each second.
struct Prometheus {
    _running: Running,
    address: String,
}

impl Prometheus {
    fn start(home: &Path, rules: &Path, service: &str) -> Result<Self, Failure> {
        let config = home.join("prometheus.yml");
        let (rules, job) = (Value::from(rules.display().to_string()), Value::from(service));
        let text = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{rules}]\nscrape_configs:\n  \
             - job_name: shop\n    static_configs: [{{targets: [{job}]}}]\n"
        );
        fs::write(&config, text).map_err(at(&config))?;
        let address = free_address().map_err(at(Path::new("127.0.0.1")))?;
        let mut command = Command::new(TOOL);
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", home.join("tsdb").display()));
        command.arg(format!("--web.listen-address={address}"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let running = Running::start(&mut command)?;
        let prometheus = Self { _running: running, address };
        // Until it listens, it refuses connections.
        eventually("Prometheus listens", || Ok(ask(&prometheus.address, "GET", "/-/ready", "").ok()))?;
        Ok(prometheus)
    }

    /// The results of a query at this moment.
    fn results(&self, query: &str) -> Result<Vec<Value>, Failure> {
        let target = format!("/api/v1/query?query={}", escaped(query));
        let mut answer = parsed(query, &ask(&self.address, "GET", &target, "")?)?;
        match answer["data"]["result"].take() {
            Value::Array(results) if answer["status"] == "success" => Ok(results),
            _ => Err(Failure::Found(format!("{query}: {answer}"))),
        }
    }

    /// Waits until a query has a result, such as a comparison that holds.
    fn wait_for(&self, query: &str) -> Result<(), Failure> {
        eventually(query, || Ok((!self.results(query)?.is_empty()).then_some(())))
    }

    /// The number of rules, each of which was evaluated without an error.
    fn healthy_rules(&self) -> Result<usize, Failure> {
        eventually("each rule is evaluated", || {
            let answer = parsed("rules", &ask(&self.address, "GET", "/api/v1/rules", "")?)?;
            let groups = answer["data"]["groups"].as_array().cloned().unwrap_or_default();
            let rules: Vec<_> = groups.iter().filter_map(|group| group["rules"].as_array()).flatten().collect();
            if let Some(bad) = rules.iter().find(|rule| rule["health"] == "err") {
                return Err(Failure::Found(format!("a rule has failed: {bad}")));
            }
            let is_done = !rules.is_empty() && rules.iter().all(|rule| rule["health"] == "ok");
            Ok(is_done.then_some(rules.len()))
        })
    }
}

/// An address that no program listens on now.
fn free_address() -> std::io::Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

/// A text as a part of a target.
fn escaped(text: &str) -> String {
    text.bytes().fold(String::new(), |mut escaped, byte| {
        let _ = match byte {
            byte if byte.is_ascii_alphanumeric() => write!(escaped, "{}", char::from(byte)),
            byte => write!(escaped, "%{byte:02X}"),
        };
        escaped
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_escaped_byte_by_byte() {
        assert_eq!(escaped("rate(a{b=\"ü\"}[5m])"), "rate%28a%7Bb%3D%22%C3%BC%22%7D%5B5m%5D%29");
    }
}
