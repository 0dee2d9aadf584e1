//! Counts the instructions of a program with callgrind.

use std::path::Path;
use std::process::Command;

use crate::fail::Failure;
use crate::process;

/// Spans, or calls, of a short run and of a long one. The instructions of the start and the end are the same in both,
/// and leave the difference.
const RUNS: [u32; 2] = [8 * 512, 40 * 512];

/// User-space instructions per span or call, of all threads of the process and without its child processes. The program
/// takes their number as its last argument.
pub(super) fn instructions_each(program: &Path, arguments: &[&str]) -> Result<f64, Failure> {
    process::require("valgrind", "--version", "apt-get install valgrind")?;
    let [short, long] = RUNS;
    let counted = |number: u32| {
        let mut command = Command::new("valgrind");
        command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program);
        collected(command.args(arguments).arg(number.to_string()))
    };
    let (short_run, long_run) = (counted(short)?, counted(long)?);
    Ok((long_run as f64 - short_run as f64) / f64::from(long - short))
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

/// The total in callgrind's last lines: `==12== Collected : 1234`.
fn read_total(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_read_from_the_output_of_callgrind() {
        let text =
            "==7== Callgrind, a call-graph generating cache profiler\n==7== Events    : Ir\n==7== Collected : 123456\n";
        assert_eq!(read_total(text), Some(123_456));
        assert_eq!(read_total("==7== Process terminating\n"), None);
    }
}
