//! The walk of a person through docs/testing.md with a collector that is killed: each line as it is printed, apart from
//! the port. `docker compose` stands for a child process here; compose.yaml itself is checked as YAML.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::page::{self, Curl, Line};
use super::programs::{Collector, Programs, Service};
use super::{api, found, http};
use crate::fail::Failure;
use crate::process::{self, now};
use crate::workspace::Workspace;

/// The sections of the page.
const WALK: &str = "## With a collector of your own";
const BREAKER: &str = "### The circuit breaker";

/// The address that the page prints.
const PRINTED: &str = "http://127.0.0.1:5210";

/// The longest time until an answer has its word: the load of 30 s of a test, and 10 s for the rest of its spans.
const WORD: Duration = Duration::from_secs(60);

/// Only a YAML reader is needed of it.
const PYYAML: (&str, &str) = ("PyYAML", "6.0.2");

pub(super) fn run(workspace: &Workspace) -> Result<(), Failure> {
    process::require("curl", "--version", "apt-get install curl")?;
    check_compose(workspace)?;
    let path = workspace.root.join("docs/testing.md");
    let page = fs::read_to_string(&path).map_err(|source| Failure::File { path, source })?;
    let read = |heading| page::lines(&page, heading).map_err(|why| found(format!("docs/testing.md: {why}")));
    let (walk, breaker) = (read(WALK)?, read(BREAKER)?);

    let mut person = Person {
        programs: Programs::build(workspace, "walk", false)?,
        collector: None,
        service: None,
        delivered: 0,
        test_id: String::new(),
    };
    walk.iter().try_for_each(|line| person.types(line))?;
    let spans = person.account()?;
    println!("e2e walk: {} lines, one outage, {spans} spans delivered, each once", walk.len());
    breaker.iter().try_for_each(|line| person.types(line))?;
    println!("e2e walk: {}", person.verdict()?);
    Ok(())
}

/// The reader of the page, who has typed some of its lines.
struct Person {
    programs: Programs,
    collector: Option<Collector>,
    service: Option<Service>,
    /// Spans that collectors had taken when they were killed.
    delivered: u64,
    /// The test that was started last.
    test_id: String,
}

impl Person {
    fn types(&mut self, line: &Line) -> Result<(), Failure> {
        match line {
            Line::StartCollector => match &mut self.collector {
                Some(collector) => collector.start_again(),
                None => {
                    self.collector = Some(self.programs.collector()?);
                    Ok(())
                }
            },
            Line::StopCollector => {
                // The account is exact if no span is on its way.
                let metrics =
                    self.service()?.wait_for("/telemetry-test/metrics", WORD, "everything delivered", |metrics| {
                        metrics["ledger"]["offered"] == metrics["ledger"]["delivered"]
                    })?;
                let collector = self.collector.as_mut().ok_or_else(|| found("no collector to stop"))?;
                self.delivered += collector.unique_spans()?;
                collector.kill();
                if metrics["ledger"]["offered"] == 0 {
                    return Err(found("the page stops its collector before a span was sent"));
                }
                Ok(())
            }
            Line::Serve => {
                let endpoint = self.collector.as_ref().map(Collector::endpoint);
                let endpoint = endpoint.ok_or_else(|| found("the page serves before it starts a collector"))?;
                self.service = Some(self.programs.serve(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)])?);
                Ok(())
            }
            Line::Curl(curl) => self.curl(curl),
        }
    }

    fn service(&self) -> Result<&Service, Failure> {
        self.service.as_ref().ok_or_else(|| found("the page has no `holdfast serve`"))
    }

    /// Runs the line in a shell, again and again if it has a word.
    fn curl(&mut self, Curl { command, status, word }: &Curl) -> Result<(), Failure> {
        let body = self.programs.home.join("answer");
        let address = format!("http://{}", self.service()?.address);
        let script = format!("{} -o {:?} -w '%{{http_code}}'", command.replace(PRINTED, &address), body);
        let begin = now();
        loop {
            let mut shell = Command::new("sh");
            shell.args(["-c", &script]).env("TEST_ID", &self.test_id);
            let code = process::capture_quietly(&mut shell, WORD)?;
            let text = fs::read_to_string(&body).map_err(|source| Failure::File { path: body.clone(), source })?;
            if code.trim() != status.to_string() {
                return Err(found(format!("{command}: status {code} and not {status}: {text}")));
            }
            // With `-i` the head is in front of it.
            let json: Value =
                serde_json::from_str(text.rsplit("\r\n\r\n").next().unwrap_or_default()).unwrap_or_default();
            if let (true, Some(id)) = (command.contains("/test/start"), json["test_id"].as_str()) {
                id.clone_into(&mut self.test_id);
            }
            let Some(word) = word else { return Ok(()) };
            if json["status"] == word.as_str() || json["state"] == word.as_str() {
                return Ok(());
            }
            if begin.elapsed() > WORD {
                return Err(found(format!("{command}: not {word} within {WORD:?}: {text}")));
            }
            thread::park_timeout(Duration::from_millis(200));
        }
    }

    /// Each span that was made has arrived, and no more than these.
    fn account(&mut self) -> Result<u64, Failure> {
        let all = |metrics: &Value| metrics["ledger"]["offered"] == metrics["ledger"]["delivered"];
        let metrics = self.service()?.wait_for("/telemetry-test/metrics", WORD, "everything delivered", all)?;
        let offered = metrics["ledger"]["offered"].as_u64().unwrap_or(0);
        let collector = self.collector.as_mut().ok_or_else(|| found("the page has no collector"))?;
        let (before, after) = (self.delivered, collector.unique_spans()?);
        if before == 0 || after == 0 || before + after != offered {
            return Err(found(format!(
                "{offered} spans were made; the collector took {before} before it was killed and {after} afterwards"
            )));
        }
        Ok(offered)
    }

    /// The verdict of the last test, in words.
    fn verdict(&self) -> Result<String, Failure> {
        let report = http::get(self.service()?.address, &format!("/telemetry-test/test/{}", self.test_id))?.json()?;
        let verdict = &report["verdict"];
        let trips = verdict["circuit_breaker_trips"].as_u64().unwrap_or(0);
        let is_whole = verdict["made"] == verdict["delivered"] && verdict["made"].as_u64() > Some(0);
        if trips == 0 || !is_whole || verdict["lost"] != 0 || verdict["passed"] != true {
            return Err(found(format!("the burst does not open the breaker without a loss: {verdict}")));
        }
        Ok(format!("a burst: {trips} trips of the breaker, {} spans delivered, none lost", verdict["made"]))
    }
}

/// compose.yaml is YAML with the service of the page: an image of one version, the ports of OTLP, and a configuration
/// whose pipeline takes traces by both protocols.
fn check_compose(workspace: &Workspace) -> Result<(), Failure> {
    const TO_JSON: &str = "import json, sys, yaml\n\
        compose = yaml.safe_load(open(sys.argv[1]))\n\
        content = compose['configs']['collector']['content']\n\
        print(json.dumps({'compose': compose, 'collector': yaml.safe_load(content)}))";
    let python = api::install(workspace, PYYAML.0, PYYAML.1)?.join("bin/python");
    let mut reader = Command::new(python);
    reader.args(["-c", TO_JSON]).arg(workspace.root.join("docs/compose.yaml"));
    let text = process::capture_quietly(&mut reader, Duration::from_secs(30))?;
    let read: Value = serde_json::from_str(&text)
        .map_err(|error| Failure::Unreadable { what: "docs/compose.yaml".into(), why: error.to_string() })?;
    compose_fault(&read).map_or(Ok(()), |fault| Err(found(format!("docs/compose.yaml: {fault}"))))
}

fn compose_fault(read: &Value) -> Option<String> {
    let service = &read["compose"]["services"]["otel-collector"];
    let image = service["image"].as_str().unwrap_or_default();
    let version = image.strip_prefix("otel/opentelemetry-collector-contrib:").unwrap_or_default();
    let is_version = version.split('.').count() == 3 && version.split('.').all(|part| part.parse::<u32>().is_ok());
    if !is_version {
        return Some(format!("the image of otel-collector is {image:?}, and not a contrib one of one version"));
    }
    if service["ports"] != json!(["127.0.0.1:4317:4317", "127.0.0.1:4318:4318"]) {
        return Some(format!("the ports are {}", service["ports"]));
    }
    if service["configs"][0]["source"] != "collector" {
        return Some("otel-collector does not use the configuration".into());
    }
    let (collector, pipeline) = (&read["collector"], &read["collector"]["service"]["pipelines"]["traces"]);
    let has_protocol = |name: &str| collector["receivers"]["otlp"]["protocols"][name]["endpoint"].is_string();
    let exporter = pipeline["exporters"][0].as_str().unwrap_or_default();
    let is_whole = pipeline["receivers"] == json!(["otlp"]) && collector["exporters"][exporter].is_object();
    (!has_protocol("grpc") || !has_protocol("http") || !is_whole)
        .then(|| format!("its collector takes no traces by both protocols: {collector}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_floating_image_or_another_port_is_a_fault() {
        let protocols = json!({"grpc": {"endpoint": "0.0.0.0:4317"}, "http": {"endpoint": "0.0.0.0:4318"}});
        let good = json!({
            "compose": {"services": {"otel-collector": {
                "image": "otel/opentelemetry-collector-contrib:0.165.0",
                "ports": ["127.0.0.1:4317:4317", "127.0.0.1:4318:4318"],
                "configs": [{"source": "collector"}],
            }}},
            "collector": {
                "receivers": {"otlp": {"protocols": protocols}},
                "exporters": {"debug": {"verbosity": "basic"}},
                "service": {"pipelines": {"traces": {"receivers": ["otlp"], "exporters": ["debug"]}}},
            },
        });
        assert_eq!(compose_fault(&good), None);
        for (pointer, value) in [
            ("/compose/services/otel-collector/image", json!("otel/opentelemetry-collector-contrib:latest")),
            ("/compose/services/otel-collector/ports", json!(["4317:4317"])),
            ("/compose/services/otel-collector/configs", json!([])),
            ("/collector/receivers/otlp/protocols/http", json!({})),
            ("/collector/service/pipelines/traces/exporters", json!(["none"])),
        ] {
            let mut bad = good.clone();
            *bad.pointer_mut(pointer).expect("is there") = value;
            assert!(compose_fault(&bad).is_some(), "{pointer}");
        }
    }
}
