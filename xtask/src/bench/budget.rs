//! What is measured against a gate, and how.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::{Gate, Unit, Verdict, callgrind};
use crate::fail::Failure;
use crate::process::{self, cargo};

/// What is measured against a gate.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Budget {
    ExportGrpc,
    ExportHttp,
    JsonOut,
    JsonIn,
    BufferedSpans,
    BufferPushTake,
    JournalAppend,
    ReplayZstd,
    ReplayPlain,
    StartUp,
}

const MIB: f64 = 1_048_576.0;

/// How much text is replayed, in MiB.
const STORED: u32 = 1_024;

impl Budget {
    pub(super) const ALL: [Self; 10] = [
        Self::ExportGrpc,
        Self::ExportHttp,
        Self::JsonOut,
        Self::JsonIn,
        Self::BufferedSpans,
        Self::BufferPushTake,
        Self::JournalAppend,
        Self::ReplayZstd,
        Self::ReplayPlain,
        Self::StartUp,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::ExportGrpc => "export/grpc/instructions",
            Self::ExportHttp => "export/http/instructions",
            Self::JsonOut => "payload/json-out/instructions",
            Self::JsonIn => "payload/json-in/instructions",
            Self::BufferedSpans => "buffer/10000-spans/bytes",
            Self::BufferPushTake => "buffer/push+take/time",
            Self::JournalAppend => "journal/append/time",
            Self::ReplayZstd => "replay/1-GiB-zstd/memory",
            Self::ReplayPlain => "replay/1-GiB-plain/memory",
            Self::StartUp => "start/10000-files/time",
        }
    }

    pub(super) fn measure(self, programs: &Path) -> Result<Verdict, Failure> {
        match self {
            // A trial stood at 0.15 and 0.17; the gates leave room for what it lacked: breaker, ledger, files, flush.
            Self::ExportGrpc => export(self, programs, "grpc", 0.25),
            Self::ExportHttp => export(self, programs, "http", 0.30),
            // Half of what structs and serde take.
            Self::JsonOut => json(self, programs, "json-out", 26_000.0),
            Self::JsonIn => json(self, programs, "json-in", 40_000.0),
            Self::BufferedSpans => buffered(self, programs),
            Self::BufferPushTake => storage(self, programs, "buffer", Unit::NanosPerBatch, 1_000.0),
            Self::JournalAppend => storage(self, programs, "journal", Unit::NanosPerSpan, 300.0),
            Self::ReplayZstd => replay(self, programs, "zstd"),
            Self::ReplayPlain => replay(self, programs, "plain"),
            Self::StartUp => start_up(self, programs),
        }
    }

    fn is_of_payload(self) -> bool {
        matches!(self, Self::JsonOut | Self::JsonIn)
    }
}

/// Builds the programs that these budgets run.
pub(super) fn build(budgets: &[Budget]) -> Result<(), Failure> {
    if budgets.iter().any(|budget| !budget.is_of_payload()) {
        // As an application is built, and as the outage lane has built them already.
        process::run(cargo().args(["build", "--release", "--package", "trials"]))?;
    }
    if budgets.iter().any(|budget| budget.is_of_payload()) {
        // As the criterion benches are built.
        let example = ["--package", "benches", "--example", PAYLOAD];
        process::run(cargo().args(["build", "--profile", "bench"]).args(example))?;
    }
    Ok(())
}

const PAYLOAD: &str = "payload_instructions";

/// User-space instructions a span from `export` to the acknowledgement, beside those of the stock exporter.
fn export(budget: Budget, programs: &Path, protocol: &str, gate: f64) -> Result<Verdict, Failure> {
    let sink = callgrind::Sink::start(&programs.join("trials"))?;
    let load = programs.join("export_load");
    let per_span = |exporter| callgrind::instructions_per_span(&load, &[exporter, protocol, sink.endpoint(protocol)]);
    let (none, stock, ours) = (per_span("none")?, per_span("stock")?, per_span("ours")?);
    let (peer, ours) = (stock - none, ours - none);
    Ok(Verdict { name: budget.name(), unit: Unit::Instructions, peer, ours, gate: Gate::TimesPeer(gate) })
}

/// User-space instructions a span of one direction of the JSON codec, beside structs, prost and serde.
fn json(budget: Budget, programs: &Path, operation: &str, gate: f64) -> Result<Verdict, Failure> {
    let program = programs.join("examples").join(PAYLOAD);
    let per_span = |operation: &str| callgrind::instructions_per_span(&program, &[operation]);
    let (peer, ours) = (per_span(&format!("{operation}-stock"))?, per_span(operation)?);
    Ok(Verdict { name: budget.name(), unit: Unit::Instructions, peer, ours, gate: Gate::AtMost(gate) })
}

/// Bytes held for 10,000 spans in our buffer, beside the form in which the SDK hands them over.
fn buffered(budget: Budget, programs: &Path) -> Result<Verdict, Failure> {
    let [peer, ours] = ask(Command::new(programs.join("buffered_spans")), ["sdk_form_bytes", "bytes"])?;
    Ok(Verdict { name: budget.name(), unit: Unit::MiB, peer: peer / MIB, ours: ours / MIB, gate: Gate::AtMost(10.0) })
}

/// Time in the buffer or the journal, beside a bare queue or bare writes to a file.
fn storage(budget: Budget, programs: &Path, what: &str, unit: Unit, gate: f64) -> Result<Verdict, Failure> {
    let mut command = Command::new(programs.join("storage_costs"));
    command.arg(what);
    let [peer, ours] = ask(command, ["peer", "ours"])?;
    Ok(Verdict { name: budget.name(), unit, peer, ours, gate: Gate::AtMost(gate) })
}

/// The most memory that a start and the replay of 1 GiB of text took, over what the process had at its start; beside
/// it, the size of the files.
fn replay(budget: Budget, programs: &Path, compression: &str) -> Result<Verdict, Failure> {
    let program = programs.join("stored_replay");
    let scratch = Scratch::new(compression)?;
    let folder = scratch.path.join("traces");
    let mut write = Command::new(&program);
    write.arg("write").arg(&folder).args([&STORED.to_string(), compression]);
    let [disk, written] = ask(write, ["disk_bytes", "spans"])?;
    let mut read = Command::new(&program);
    read.arg("replay").arg(&folder);
    let [baseline, peak, delivered, seconds] = ask(read, ["baseline_bytes", "peak_bytes", "spans", "seconds"])?;
    println!("{}: {delivered} spans of {:.0} MiB on disk in {seconds:.1} s", budget.name(), disk / MIB);
    if delivered != written {
        return Err(Failure::Found(format!("{written} spans were stored and {delivered} replayed")));
    }
    let ours = (peak - baseline) / MIB;
    Ok(Verdict { name: budget.name(), unit: Unit::MiB, peer: disk / MIB, ours, gate: Gate::AtMost(64.0) })
}

/// From the builder to the first accepted batch, in durable mode, with 10,000 files and a journal of 64 MiB on disk, 1
/// GiB together; beside a start with nothing there.
fn start_up(budget: Budget, programs: &Path) -> Result<Verdict, Failure> {
    let [peer, ours] = ask(Command::new(programs.join("start_up")), ["empty_seconds", "full_seconds"])?;
    Ok(Verdict { name: budget.name(), unit: Unit::Seconds, peer, ours, gate: Gate::AtMost(2.0) })
}

/// Runs a program that prints one JSON object, and takes these numbers from it.
fn ask<const N: usize>(mut command: Command, keys: [&str; N]) -> Result<[f64; N], Failure> {
    let text = process::capture(&mut command)?;
    let json: Value = serde_json::from_str(&text).unwrap_or_default();
    let mut numbers = [0.0; N];
    for (number, key) in numbers.iter_mut().zip(keys) {
        let unreadable = || Failure::Unreadable { what: process::line(&command), why: format!("no {key} in {text}") };
        *number = json[key].as_f64().ok_or_else(unreadable)?;
    }
    Ok(numbers)
}

/// A folder of the system's temporary directory; dropping it removes it.
struct Scratch {
    path: std::path::PathBuf,
}

impl Scratch {
    fn new(name: &str) -> Result<Self, Failure> {
        let path = std::env::temp_dir().join(format!("bench-{}-{name}", std::process::id()));
        match std::fs::create_dir(&path) {
            Ok(()) => Ok(Self { path }),
            Err(source) => Err(Failure::File { path, source }),
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is the system's to clean.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
