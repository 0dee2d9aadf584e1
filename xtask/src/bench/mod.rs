//! Benchmarks: budgets, each with a gate that fails the run, then the criterion benches.

mod callgrind;

use std::fmt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::fail::Failure;
use crate::process::{self, cargo};
use crate::workspace::Workspace;

/// Runs the budgets and the criterion benches whose name contains the filter, and fails if a gate was missed.
pub(crate) fn run(workspace: &Workspace, options: &[String]) -> Result<(), Failure> {
    let filter = match options {
        [] => "",
        [filter] if !filter.starts_with('-') => filter,
        _ => return Err(Failure::Usage("bench takes one filter at most, a part of a name".into())),
    };
    let budgets: Vec<Budget> = Budget::ALL.into_iter().filter(|budget| budget.name().contains(filter)).collect();
    let mut verdicts = Vec::new();
    if !budgets.is_empty() {
        // As an application is built, and as the outage lane has built them already.
        process::run(cargo().args(["build", "--release", "--package", "trials"]))?;
        let programs = workspace.target.join("release");
        for budget in budgets {
            verdicts.push(budget.measure(&programs)?);
        }
    }
    process::run(cargo().args(["bench", "--package", "benches", "--"]).args(options))?;
    if !verdicts.is_empty() {
        println!("\n{:<24} {:>14} {:>14} {:>8} {:>8}  verdict", "budget", "peer", "ours", "value", "gate");
    }
    for verdict in &verdicts {
        println!("{verdict}");
    }
    match verdicts.iter().filter(|verdict| !verdict.holds()).count() {
        0 => Ok(()),
        missed => Err(Failure::Found(format!("{missed} gate(s) missed"))),
    }
}

/// What is measured against a gate.
#[derive(Clone, Copy)]
enum Budget {
    ExportGrpc,
    ExportHttp,
    BufferedSpans,
}

impl Budget {
    const ALL: [Self; 3] = [Self::ExportGrpc, Self::ExportHttp, Self::BufferedSpans];

    fn name(self) -> &'static str {
        match self {
            Self::ExportGrpc => "export/grpc/instructions",
            Self::ExportHttp => "export/http/instructions",
            Self::BufferedSpans => "buffer/10000-spans/bytes",
        }
    }

    fn measure(self, programs: &Path) -> Result<Verdict, Failure> {
        match self {
            // A trial stood at 0.15 and 0.17; the gates leave room for what it lacked: breaker, ledger, files, flush.
            Self::ExportGrpc => export(self, programs, "grpc", 0.25),
            Self::ExportHttp => export(self, programs, "http", 0.30),
            Self::BufferedSpans => buffered(self, programs),
        }
    }
}

/// User-space instructions a span from `export` to the acknowledgement, beside those of the stock exporter.
fn export(budget: Budget, programs: &Path, protocol: &str, gate: f64) -> Result<Verdict, Failure> {
    process::require("valgrind", "--version", "apt-get install valgrind")?;
    let sink = callgrind::Sink::start(&programs.join("trials"))?;
    let load = programs.join("export_load");
    let per_span =
        |exporter: &str| callgrind::instructions_per_span(&load, exporter, protocol, sink.endpoint(protocol));
    let (none, stock, ours) = (per_span("none")?, per_span("stock")?, per_span("ours")?);
    let (peer, ours) = (stock - none, ours - none);
    Ok(Verdict { name: budget.name(), unit: "instr/span", peer, ours, value: ours / peer, gate, sign: "x" })
}

/// Bytes held for 10,000 spans in our buffer, beside the form in which the SDK hands them over.
fn buffered(budget: Budget, programs: &Path) -> Result<Verdict, Failure> {
    const MIB: f64 = 1_048_576.0;
    let text = process::capture(&mut Command::new(programs.join("buffered_spans")))?;
    let number = |json: &Value, key: &str| json[key].as_f64().map(|bytes| bytes / MIB);
    let read = serde_json::from_str(&text)
        .ok()
        .and_then(|json| Some((number(&json, "sdk_form_bytes")?, number(&json, "bytes")?)));
    let (peer, ours) = read.ok_or(Failure::Unreadable { what: "the output of buffered_spans".into(), why: text })?;
    Ok(Verdict { name: budget.name(), unit: "MiB", peer, ours, value: ours, gate: 10.0, sign: "MiB" })
}

/// One line of the table.
struct Verdict {
    name: &'static str,
    unit: &'static str,
    peer: f64,
    ours: f64,
    value: f64,
    gate: f64,
    sign: &'static str,
}

impl Verdict {
    fn holds(&self) -> bool {
        self.value <= self.gate
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, unit, peer, ours, value, gate, sign } = self;
        let digits = if *unit == "MiB" { 2 } else { 0 };
        let verdict = if self.holds() { "ok" } else { "MISSED" };
        write!(
            f,
            "{name:<24} {peer:>14.digits$} {ours:>14.digits$} {value:>8.3} {gate:>8.2}  {verdict} ({unit}; gate in {sign})"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_above_its_gate_is_a_missed_gate_and_says_so() {
        let verdict = |value| Verdict { name: "x", unit: "MiB", peer: 1.0, ours: 1.0, value, gate: 0.25, sign: "x" };
        assert!(verdict(0.25).holds() && verdict(0.25).to_string().contains("ok"));
        assert!(!verdict(0.26).holds() && verdict(0.26).to_string().contains("MISSED"));
        assert!(!verdict(f64::NAN).holds());
    }
}
