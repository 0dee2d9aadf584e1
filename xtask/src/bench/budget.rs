//! The budgets: one row each with the program that measures it and the gate. The programs are those of the trials and
//! the benches; a budget knows their names and arguments, and nothing else about them.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::{Gate, Unit, Verdict, callgrind};
use crate::fail::Failure;
use crate::process::{self, cargo};

/// One measured value with a gate that fails the run.
pub(super) struct Budget {
    pub(super) name: &'static str,
    unit: Unit,
    gate: Gate,
    program: Program,
    method: Method,
}

/// Which package builds the program.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Program {
    /// A program of the trials, built as an application is built.
    Trial(&'static str),
    /// An example of the benches, built as the criterion benches are built.
    BenchExample(&'static str),
}

/// How a program gives its two numbers.
enum Method {
    /// With these arguments it prints one JSON object with the numbers `peer` and `ours`, in the unit of the row.
    Prints(&'static [&'static str]),
    /// Under callgrind, with these arguments and a number of spans or calls behind them. `base`, where there is one, is
    /// the run whose instructions are subtracted from both others.
    Instructions { base: &'static [&'static str], peer: &'static [&'static str], ours: &'static [&'static str] },
}

/// Every budget, in the order of the table.
pub(super) const ALL: [Budget; 31] = [
    Budget {
        name: "export/grpc/instructions",
        unit: Unit::Instructions,
        // A trial without breaker, ledger, files and flush stood at 0.15, and over HTTP at 0.17.
        gate: Gate::TimesPeer(0.17),
        program: Program::Trial("export_load"),
        method: Method::Instructions { base: &["none", "grpc"], peer: &["stock", "grpc"], ours: &["ours", "grpc"] },
    },
    Budget {
        name: "export/http/instructions",
        unit: Unit::Instructions,
        gate: Gate::TimesPeer(0.20),
        program: Program::Trial("export_load"),
        method: Method::Instructions { base: &["none", "http"], peer: &["stock", "http"], ours: &["ours", "http"] },
    },
    // The same behind TLS 1.3 with ring on both sides: the records cost both as much.
    Budget {
        name: "export/grpc-tls/instructions",
        unit: Unit::Instructions,
        gate: Gate::TimesPeer(0.5),
        program: Program::Trial("export_load"),
        method: Method::Instructions {
            base: &["none", "grpc-tls"],
            peer: &["stock", "grpc-tls"],
            ours: &["ours", "grpc-tls"],
        },
    },
    Budget {
        name: "export/http-tls/instructions",
        unit: Unit::Instructions,
        gate: Gate::TimesPeer(0.5),
        program: Program::Trial("export_load"),
        method: Method::Instructions {
            base: &["none", "http-tls"],
            peer: &["stock", "http-tls"],
            ours: &["ours", "http-tls"],
        },
    },
    // Behind a real tracer: the thread of the application alone, then the whole process, that thread included. The
    // SDK's thread hands the span on, ours encodes and frees it. The wish, 0.90, is not met: 1.41 to 1.49 are seen.
    Budget {
        name: "processor/app-thread/1-producer",
        unit: Unit::NanosPerSpan,
        gate: Gate::TimesPeer(1.7),
        program: PROCESSOR,
        method: Method::Prints(&["thread", "1"]),
    },
    Budget {
        name: "processor/app-thread/2-producers",
        unit: Unit::NanosPerSpan,
        gate: Gate::TimesPeer(1.7),
        program: PROCESSOR,
        method: Method::Prints(&["thread", "2"]),
    },
    Budget {
        name: "processor/process/instructions",
        unit: Unit::Instructions,
        gate: Gate::AtMost(12_500.0),
        program: PROCESSOR,
        method: Method::Instructions { base: &[], peer: &["stock"], ours: &["ours"] },
    },
    // Beside the bytes that a request allocates: those of its payload. TLS copies them into records, once.
    Budget {
        name: "request/grpc/allocated",
        unit: Unit::KiB,
        gate: Gate::TimesPeer(0.1),
        program: Program::Trial("request_bytes"),
        method: Method::Prints(&["grpc"]),
    },
    Budget {
        name: "request/http/allocated",
        unit: Unit::KiB,
        gate: Gate::TimesPeer(0.1),
        program: Program::Trial("request_bytes"),
        method: Method::Prints(&["http"]),
    },
    Budget {
        name: "request/grpc-tls/allocated",
        unit: Unit::KiB,
        gate: Gate::TimesPeer(1.1),
        program: Program::Trial("request_bytes"),
        method: Method::Prints(&["grpc-tls"]),
    },
    Budget {
        name: "request/http-tls/allocated",
        unit: Unit::KiB,
        gate: Gate::TimesPeer(1.1),
        program: Program::Trial("request_bytes"),
        method: Method::Prints(&["http-tls"]),
    },
    Budget {
        name: "payload/encode/instructions",
        unit: Unit::Instructions,
        gate: Gate::AtMost(2_500.0),
        program: Program::BenchExample("payload_instructions"),
        method: Method::Instructions { base: &[], peer: &["clone-stock"], ours: &["encode"] },
    },
    // The gates of JSON are half of the instructions of structs and serde.
    Budget {
        name: "payload/json-out/instructions",
        unit: Unit::Instructions,
        gate: Gate::AtMost(26_000.0),
        program: Program::BenchExample("payload_instructions"),
        method: Method::Instructions { base: &[], peer: &["json-out-stock"], ours: &["json-out"] },
    },
    Budget {
        name: "payload/json-in/instructions",
        unit: Unit::Instructions,
        gate: Gate::AtMost(40_000.0),
        program: Program::BenchExample("payload_instructions"),
        method: Method::Instructions { base: &[], peer: &["json-in-stock"], ours: &["json-in"] },
    },
    Budget {
        name: "buffer/10000-spans/bytes",
        unit: Unit::MiB,
        gate: Gate::AtMost(10.0),
        program: Program::Trial("buffered_spans"),
        method: Method::Prints(&[]),
    },
    Budget {
        name: "buffer/10000-spans-zstd/bytes",
        unit: Unit::MiB,
        gate: Gate::AtMost(1.5),
        program: Program::Trial("buffered_spans"),
        method: Method::Prints(&["zstd"]),
    },
    Budget {
        name: "buffer/push+take/time",
        unit: Unit::NanosPerBatch,
        gate: Gate::AtMost(1_000.0),
        program: Program::Trial("storage_costs"),
        method: Method::Prints(&["buffer"]),
    },
    Budget {
        name: "journal/append/time",
        unit: Unit::NanosPerSpan,
        gate: Gate::AtMost(300.0),
        program: Program::Trial("storage_costs"),
        method: Method::Prints(&["journal"]),
    },
    Budget {
        name: "replay/1-GiB-zstd/memory",
        unit: Unit::MiB,
        gate: Gate::AtMost(64.0),
        program: Program::Trial("stored_replay"),
        method: Method::Prints(&["measure", "1024", "zstd"]),
    },
    Budget {
        name: "replay/1-GiB-plain/memory",
        unit: Unit::MiB,
        gate: Gate::AtMost(64.0),
        program: Program::Trial("stored_replay"),
        method: Method::Prints(&["measure", "1024", "plain"]),
    },
    // Beside 5,000 live spans a second, the peer of the rate. The goal is 20 times as much.
    Budget {
        name: "drain/rate",
        unit: Unit::SpansPerSecond,
        gate: Gate::AtLeastTimesPeer(10.0),
        program: DRAIN,
        method: Method::Prints(&["rate", "512"]),
    },
    Budget {
        name: "drain/small-records/rate",
        unit: Unit::SpansPerSecond,
        gate: Gate::AtLeastTimesPeer(10.0),
        program: DRAIN,
        method: Method::Prints(&["rate", "8"]),
    },
    // The 99th percentile of the time from the offer of a live batch to its acknowledgement, beside that without files.
    Budget {
        name: "drain/live-p99",
        unit: Unit::Millis,
        gate: Gate::TimesPeer(2.0),
        program: DRAIN,
        method: Method::Prints(&["latency", "512"]),
    },
    Budget {
        name: "start/10000-files/time",
        unit: Unit::Seconds,
        gate: Gate::AtMost(2.0),
        program: Program::Trial("start_up"),
        method: Method::Prints(&[]),
    },
    // Beside the breaker: a mutex round a counter, which is the simplest breaker; two threads with a breaker each; a
    // clock read, without which no breaker refuses for a time.
    Budget {
        name: "breaker/closed/instructions",
        unit: Unit::InstructionsPerCall,
        gate: Gate::AtMost(60.0),
        program: BREAKER,
        method: Method::Instructions { base: &[], peer: &["instructions-mutex"], ours: &["instructions-closed"] },
    },
    Budget {
        name: "breaker/refused/instructions",
        unit: Unit::InstructionsPerCall,
        gate: Gate::AtMost(130.0),
        program: BREAKER,
        method: Method::Instructions { base: &[], peer: &["instructions-clock"], ours: &["instructions-refused"] },
    },
    Budget {
        name: "breaker/closed/1-thread",
        unit: Unit::NanosPerCall,
        gate: Gate::TimesPeer(0.8),
        program: BREAKER,
        method: Method::Prints(&["closed-1"]),
    },
    Budget {
        name: "breaker/closed/2-threads",
        unit: Unit::NanosPerCall,
        gate: Gate::TimesPeer(1.5),
        program: BREAKER,
        method: Method::Prints(&["closed-2"]),
    },
    Budget {
        name: "breaker/1-in-10-fails/2-threads",
        unit: Unit::NanosPerCall,
        gate: Gate::TimesPeer(1.2),
        program: BREAKER,
        method: Method::Prints(&["one-failure-in-ten-2"]),
    },
    Budget {
        name: "breaker/refused/1-thread",
        unit: Unit::NanosPerCall,
        gate: Gate::TimesPeer(1.2),
        program: BREAKER,
        method: Method::Prints(&["refused-1"]),
    },
    Budget {
        name: "breaker/refused/2-threads",
        unit: Unit::NanosPerCall,
        // 1.13 on two cores; where the two threads share one, a call waits for more than the clock.
        gate: Gate::TimesPeer(1.3),
        program: BREAKER,
        method: Method::Prints(&["refused-2"]),
    },
];

const DRAIN: Program = Program::Trial("drain");
const PROCESSOR: Program = Program::Trial("processor_costs");
const BREAKER: Program = Program::BenchExample("breaker_costs");

impl Budget {
    /// Whether it counts instructions, which are the same beside other work.
    pub(super) fn counts_instructions(&self) -> bool {
        matches!(self.method, Method::Instructions { .. })
    }

    /// Runs the program; `programs` is the folder of release builds.
    pub(super) fn measure(&self, programs: &Path, notes: Notes) -> Result<Verdict, Failure> {
        let program = match self.program {
            Program::Trial(name) => programs.join(name),
            Program::BenchExample(name) => programs.join("examples").join(name),
        };
        let [peer, ours] = match self.method {
            Method::Prints(arguments) => printed(Command::new(program).args(arguments), notes)?,
            Method::Instructions { base, peer, ours } => {
                let base = if base.is_empty() { 0.0 } else { callgrind::instructions_each(&program, base)? };
                let above_base = |arguments| Ok(callgrind::instructions_each(&program, arguments)? - base);
                [above_base(peer)?, above_base(ours)?]
            }
        };
        Ok(Verdict { name: self.name, unit: self.unit, peer, ours, gate: self.gate })
    }
}

/// How long a program without notes may take.
const LIMIT: Duration = Duration::from_secs(120);

/// Builds the programs that these budgets run.
pub(super) fn build(budgets: &[&Budget]) -> Result<(), Failure> {
    if budgets.iter().any(|budget| matches!(budget.program, Program::Trial(_))) {
        process::run(cargo().args(["build", "--release", "--package", "trials"]))?;
    }
    let mut examples: Vec<&str> = budgets
        .iter()
        .filter_map(|budget| match budget.program {
            Program::BenchExample(name) => Some(name),
            Program::Trial(_) => None,
        })
        .collect();
    examples.dedup();
    examples.into_iter().try_for_each(|example| {
        let mut command = cargo();
        process::run(command.args(["build", "--profile", "bench", "--package", "benches", "--example", example]))
    })
}

/// The notes that a program prints on standard error: figures without a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Notes {
    Shown,
    LeftOut,
}

/// The numbers `peer` and `ours` of the JSON object that the program prints.
fn printed(command: &mut Command, notes: Notes) -> Result<[f64; 2], Failure> {
    let text = match notes {
        Notes::Shown => process::capture(command)?,
        Notes::LeftOut => process::capture_quietly(command, LIMIT)?,
    };
    numbers(&text).map_err(|why| Failure::Unreadable { what: process::line(command), why })
}

fn numbers(text: &str) -> Result<[f64; 2], String> {
    let json: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let number = |key: &str| json[key].as_f64().ok_or_else(|| format!("no number {key:?} in {text}"));
    Ok([number("peer")?, number("ours")?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_numbers_of_a_program_are_needed() {
        assert_eq!(numbers(r#"{"peer": 2, "ours": 1.5, "spans": 7}"#), Ok([2.0, 1.5]));
        assert!(numbers(r#"{"peer": 2}"#).is_err_and(|why| why.starts_with("no number \"ours\"")));
        assert!(numbers("usage: ..").is_err());
    }

    #[test]
    fn a_name_stands_once() {
        let mut names: Vec<&str> = ALL.iter().map(|budget| budget.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
    }
}
