//! A test in a process of its own: the program of the tests starts itself.

use std::process::{Command, Output};

/// The command that runs the test of this name alone, on the main thread of a new process.
pub(crate) fn command(test: &str) -> Command {
    let program = std::env::current_exe().expect("this program");
    let mut command = Command::new(program);
    command.args(["--exact", test, "--nocapture", "--test-threads", "1"]);
    command
}

/// The process has run its test, and the test has passed.
#[track_caller]
pub(crate) fn assert_passed(output: &Output) {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
    assert!(out.contains("1 passed"), "the test has another name: {out}");
}
