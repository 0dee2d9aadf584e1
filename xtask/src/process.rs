//! Running commands: with inherited output, with captured output, with an eye on the test counts, with a deadline.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::fail::Failure;

/// `cargo` as the one that started us, so that toolchain overrides hold.
pub(crate) fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs to the end, output inherited.
pub(crate) fn run(command: &mut Command) -> Result<(), Failure> {
    let status = command.status().map_err(|error| not_started(command, &error))?;
    if status.success() { Ok(()) } else { Err(refused(command, status)) }
}

/// Runs to the end and gives standard output back; standard error is inherited.
pub(crate) fn capture(command: &mut Command) -> Result<String, Failure> {
    let output = command.stderr(Stdio::inherit()).output().map_err(|error| not_started(command, &error))?;
    if !output.status.success() {
        return Err(refused(command, output.status));
    }
    String::from_utf8(output.stdout)
        .map_err(|error| Failure::Unreadable { what: line(command), why: error.to_string() })
}

/// Tests counted from the `test result:` lines of libtest.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
}

impl Counts {
    /// Adds the counts of one line of output, if it is a `test result:` line.
    fn add_line(&mut self, line: &str) {
        let Some((_, rest)) = line.split_once("test result: ") else { return };
        for part in rest.split([';', '.']) {
            match part.trim().split_once(' ') {
                Some((count, "passed")) => self.passed += count.parse::<u64>().unwrap_or(0),
                Some((count, "failed")) => self.failed += count.parse::<u64>().unwrap_or(0),
                _ => {}
            }
        }
    }
}

/// Runs `cargo test` in some form: its output goes through, its counts are added up.
pub(crate) fn run_tests(command: &mut Command, counts: &mut Counts) -> Result<(), Failure> {
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(|error| not_started(command, &error))?;
    let output = child.stdout.take().expect("piped above");
    for text in BufReader::new(output).split(b'\n') {
        let Ok(text) = text else { break };
        let text = String::from_utf8_lossy(&text);
        println!("{text}");
        counts.add_line(&text);
    }
    let status = child.wait().map_err(|error| not_started(command, &error))?;
    if status.success() { Ok(()) } else { Err(refused(command, status)) }
}

/// Runs with output captured, killed after `limit`; the output is shown only when the command fails.
pub(crate) fn run_quietly(command: &mut Command, limit: Duration) -> Result<(), Failure> {
    let (output, ended) = run_captured(command, limit)?;
    if ended.is_err() {
        eprint!("{}{}", output.stdout, output.stderr);
    }
    ended
}

/// Runs as `run_quietly` does and gives standard output back. A command that fails has only its standard error shown:
/// its standard output is data for the caller.
pub(crate) fn capture_quietly(command: &mut Command, limit: Duration) -> Result<String, Failure> {
    capture_and_show(command, limit, |text| eprint!("{text}"))
}

fn capture_and_show(command: &mut Command, limit: Duration, show: impl FnOnce(&str)) -> Result<String, Failure> {
    let (output, ended) = run_captured(command, limit)?;
    if ended.is_err() {
        show(&output.stderr);
    }
    ended.map(|()| output.stdout)
}

struct Output {
    stdout: String,
    stderr: String,
}

/// Runs with output captured, killed after `limit`. Fails only if the command cannot be started; the inner result is
/// the command's own.
fn run_captured(command: &mut Command, limit: Duration) -> Result<(Output, Result<(), Failure>), Failure> {
    let started = now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| not_started(command, &error))?;
    // Both pipes are emptied beside the wait: a full pipe would block the child until its deadline.
    let stdout = read_beside(child.stdout.take().expect("piped above"));
    let stderr = read_beside(child.stderr.take().expect("piped above"));
    let ended = loop {
        match child.try_wait().map_err(|error| not_started(command, &error))? {
            Some(status) if status.success() => break Ok(()),
            Some(status) => break Err(refused(command, status)),
            None if started.elapsed() > limit => {
                // The child may have ended just now; then there is nothing to kill.
                let _ = child.kill();
                let _ = child.wait();
                break Err(Failure::Command { what: line(command), status: format!("still running after {limit:?}") });
            }
            None => thread::park_timeout(Duration::from_millis(20)),
        }
    };
    let [stdout, stderr] = [stdout, stderr].map(|output| output.join().unwrap_or_default());
    Ok((Output { stdout, stderr }, ended))
}

fn read_beside(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // Output from before a read error is still shown.
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Fails with the tool's name and the way to get it, unless `tool` can be started with `probe`.
pub(crate) fn require(tool: &str, probe: &str, get: &'static str) -> Result<(), Failure> {
    match Command::new(tool).arg(probe).stdout(Stdio::null()).stderr(Stdio::null()).status() {
        Ok(status) if status.success() => Ok(()),
        _ => Err(Failure::MissingTool { tool: tool.into(), get }),
    }
}

/// The monotonic clock, read in this one place.
pub(crate) fn now() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "lanes measure how long they took")]
    Instant::now()
}

/// The command as one would type it.
pub(crate) fn line(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    let program = program.file_name().unwrap_or(command.get_program());
    std::iter::once(program).chain(command.get_args()).map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

fn not_started(command: &Command, error: &std::io::Error) -> Failure {
    if error.kind() == ErrorKind::NotFound {
        let tool = command.get_program().to_string_lossy().into_owned();
        return Failure::MissingTool { tool, get: "see the lane's description in `cargo xtask help`" };
    }
    Failure::Command { what: line(command), status: error.to_string() }
}

fn refused(command: &Command, status: std::process::ExitStatus) -> Failure {
    Failure::Command { what: line(command), status: status.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_add_up_over_several_result_lines() {
        let mut counts = Counts::default();
        for line in [
            "running 3 tests",
            "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 4 filtered out; finished in 0.00s",
        ] {
            counts.add_line(line);
        }
        assert_eq!(counts, Counts { passed: 4, failed: 2 });
    }

    #[test]
    fn a_tool_that_is_not_there_is_named_with_the_way_to_get_it() {
        let failure = require("no-such-tool-anywhere", "--version", "asking nicely").unwrap_err();
        assert_eq!(failure.to_string(), "`no-such-tool-anywhere` is missing; get it by: asking nicely");
    }

    #[test]
    fn a_failed_capture_shows_standard_error_alone() {
        let run = |script: &str| {
            let mut shown = String::new();
            let limit = Duration::from_secs(600);
            let ended = capture_and_show(Command::new("sh").args(["-c", script]), limit, |text| shown.push_str(text));
            (ended.map_err(|failure| failure.to_string()), shown)
        };
        assert_eq!(run("echo data; echo note >&2"), (Ok("data\n".into()), String::new()));
        let (ended, shown) = run("echo '{\"reason\": \"compiler-artifact\"}'; echo error >&2; exit 3");
        assert!(ended.expect_err("the script fails").ends_with("exit status: 3"));
        assert_eq!(shown, "error\n");
    }

    #[test]
    fn a_program_that_does_not_end_is_killed_at_its_deadline() {
        let failure = run_quietly(Command::new("sleep").arg("600"), Duration::from_millis(50)).unwrap_err();
        assert!(failure.to_string().contains("still running after 50ms"), "{failure}");
    }
}
