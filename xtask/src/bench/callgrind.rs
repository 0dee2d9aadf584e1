//! Counting instructions: a program under callgrind; for a client, its collector beside it in a process of its own.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::fail::Failure;
use crate::process;

/// Batches of a short run and of a long one. What both do once (start, connect, end) falls out of their difference.
const BATCHES: [u32; 2] = [8, 40];

/// Spans in a batch: as in the programs.
const BATCH: u32 = 512;

/// A collector that takes everything; ends when dropped.
pub(super) struct Sink {
    child: Child,
    grpc: String,
    http: String,
}

impl Sink {
    pub(super) fn start(program: &Path) -> Result<Self, Failure> {
        let what = "the greeting of the collector".to_owned();
        // Standard input stays open as long as we live: the collector ends with it.
        let mut command = Command::new(program);
        command.arg("collector").stdin(Stdio::piped()).stdout(Stdio::piped());
        let started = command.spawn();
        let mut child = started.map_err(|source| Failure::File { path: program.to_owned(), source })?;
        let mut line = String::new();
        let read = BufReader::new(child.stdout.as_mut().expect("piped above")).read_line(&mut line);
        let greeting: Value = read.ok().and_then(|_| serde_json::from_str(&line).ok()).unwrap_or_default();
        match (greeting["grpc"].as_str(), greeting["http"].as_str()) {
            (Some(grpc), Some(http)) => Ok(Self { grpc: grpc.to_owned(), http: http.to_owned(), child }),
            _ => Err(Failure::Unreadable { what, why: line }),
        }
    }

    pub(super) fn endpoint(&self, protocol: &str) -> &str {
        if protocol == "grpc" { &self.grpc } else { &self.http }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Instructions a span of the whole process, all threads, kernel not included. The program takes the number of batches
/// as its last argument.
pub(super) fn instructions_per_span(program: &Path, arguments: &[&str]) -> Result<f64, Failure> {
    process::require("valgrind", "--version", "apt-get install valgrind")?;
    let [short, long] = BATCHES;
    let counted = |batches: u32| {
        let mut command = Command::new("valgrind");
        command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program);
        command.args(arguments).arg(batches.to_string());
        collected(&mut command)
    };
    let (short_run, long_run) = (counted(short)?, counted(long)?);
    let per_span = (long_run as f64 - short_run as f64) / f64::from((long - short) * BATCH);
    println!("{}: {per_span:.0} instructions a span ({short_run} and {long_run} in all)", arguments.join(" "));
    Ok(per_span)
}

fn collected(command: &mut Command) -> Result<u64, Failure> {
    let what = process::line(command);
    let output =
        command.output().map_err(|error| Failure::Command { what: what.clone(), status: error.to_string() })?;
    let text = String::from_utf8_lossy(&output.stderr);
    match read_total(&text) {
        Some(total) if output.status.success() => Ok(total),
        _ => Err(Failure::Command { what, status: format!("{}\n{text}", output.status) }),
    }
}

/// The total from callgrind's last words: `==12== Collected : 1234`.
fn read_total(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_read_from_what_callgrind_says() {
        let text =
            "==7== Callgrind, a call-graph generating cache profiler\n==7== Events    : Ir\n==7== Collected : 123456\n";
        assert_eq!(read_total(text), Some(123_456));
        assert_eq!(read_total("==7== Process terminating\n"), None);
    }
}
