//! The tests of one crate: builds their programs, and runs them until the first test fails.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use serde_json::Value;

use super::copy::Copy;
use super::table::{Bug, LIBRARY, Lane};
use crate::fail::Failure;
use crate::process::{self, capture, cargo};

/// The dependencies of a first build on a machine that has other work are the longest step.
const BUILD_LIMIT: Duration = Duration::from_secs(3_600);

/// A test program that runs longer hangs, and thereby finds the bug.
const RUN_LIMIT: Duration = Duration::from_secs(600);

/// The tests of one crate in one lane.
pub(super) struct Suite<'a> {
    copy: &'a Copy,
    package: &'a str,
    lane: Lane,
    /// The tests of each target, as the build without a bug lists them.
    tests: Vec<(String, Vec<String>)>,
}

/// The verdict of the tests about one planted bug.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The named test, or a test of the named module, has failed.
    Found {
        by: String,
    },
    /// The named test has passed and another one has failed.
    FoundByAnother {
        by: String,
    },
    Survived,
    /// The tests could not judge the bug: it does not compile, or its crate fails without a bug.
    Broken {
        why: String,
    },
}

impl Verdict {
    pub(super) fn broken(why: &str) -> Self {
        Self::Broken { why: why.to_owned() }
    }
}

/// A test program: one target of the crate.
struct Program {
    target: String,
    path: PathBuf,
}

impl<'a> Suite<'a> {
    /// Builds and runs all tests without a bug: they must pass, else a failure later proves nothing.
    pub(super) fn baseline(copy: &'a Copy, package: &'a str, lane: Lane) -> Result<Self, Failure> {
        let mut suite = Self { copy, package, lane, tests: Vec::new() };
        for program in suite.build(None)? {
            let listed = capture(suite.command(&program).args(["--list", "--format", "terse"]))?;
            suite.tests.push((program.target.clone(), test_names(&listed)));
            if let Some(failed) = suite.run(&program, &[])? {
                let why = format!("fails without a bug: {}", full_name(&program.target, &failed));
                return Err(Failure::Command { what: format!("the tests of {package}"), status: why });
            }
        }
        Ok(suite)
    }

    /// The tests that `test` of a table selects: the test of that path, or all tests of the module.
    pub(super) fn selected(&self, bug: &Bug) -> Vec<&str> {
        let (target, path) = bug.entry.named_test();
        let tests = self.tests.iter().find(|(name, _)| name == target).map_or(&[][..], |(_, tests)| tests);
        tests.iter().map(String::as_str).filter(|test| is_selected(test, path)).collect()
    }

    /// Judges the bug that is planted in the copy: the named tests first, then all others of the crate.
    pub(super) fn judge(&self, bug: &Bug) -> Result<Verdict, Failure> {
        let (target, _) = bug.entry.named_test();
        let named = self.selected(bug);
        let build = |target| match self.build(target) {
            Err(Failure::Command { .. }) => Ok(None),
            built => built.map(Some),
        };
        let does_not_compile = || Ok(Verdict::broken("does not compile"));
        let Some(programs) = build(Some(target))? else { return does_not_compile() };
        for program in programs.iter().filter(|program| program.target == target) {
            if let Some(by) = self.run(program, &named)? {
                return Ok(Verdict::Found { by: full_name(target, &by) });
            }
        }
        let Some(programs) = build(None)? else { return does_not_compile() };
        for program in programs {
            if let Some(by) = self.run(&program, &[])? {
                let by_named = program.target == target && named.contains(&by.as_str());
                let by = full_name(&program.target, &by);
                return Ok(if by_named { Verdict::Found { by } } else { Verdict::FoundByAnother { by } });
            }
        }
        Ok(Verdict::Survived)
    }

    /// Builds the test programs of one target or of all. A failed build shows the compiler's messages.
    fn build(&self, target: Option<&str>) -> Result<Vec<Program>, Failure> {
        let mut command = cargo();
        command.current_dir(&self.copy.root).args(["test", "--no-run", "--quiet", "--package", self.package]);
        command.arg("--message-format=json-render-diagnostics");
        match self.lane {
            Lane::Tests => {
                command.arg("--all-features").env("CARGO_TARGET_DIR", &self.copy.target);
                match target {
                    None => command.arg("--tests"),
                    Some(LIBRARY) => command.arg("--lib"),
                    Some(target) => command.args(["--test", target]),
                };
            }
            Lane::Loom => {
                command.args(["--test", "loom", "--release"]);
                command.env("RUSTFLAGS", "--cfg loom").env("CARGO_TARGET_DIR", self.copy.target.join("loom"));
            }
        }
        Ok(programs(&process::capture_quietly(&mut command, BUILD_LIMIT)?))
    }

    /// Runs the selected tests of a program, all if none is selected. Gives the first test that failed.
    fn run(&self, program: &Program, tests: &[&str]) -> Result<Option<String>, Failure> {
        let mut command = self.command(program);
        if !tests.is_empty() {
            command.arg("--exact").args(tests);
        }
        first_failure(&mut command, RUN_LIMIT)
    }

    fn command(&self, program: &Program) -> Command {
        let mut command = Command::new(&program.path);
        let folder = self.copy.package(self.package);
        command.current_dir(&folder).env("CARGO_MANIFEST_DIR", &folder);
        // A history that has found a bug need not be shrunk, nor be stored.
        command.env("PROPTEST_MAX_SHRINK_ITERS", "0").env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1");
        command
    }
}

fn full_name(target: &str, test: &str) -> String {
    format!("{target}::{test}")
}

fn is_selected(test: &str, path: &str) -> bool {
    path.is_empty() || test.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// The test programs among cargo's messages.
fn programs(messages: &str) -> Vec<Program> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let built = messages.filter(|message| message["profile"]["test"] == true);
    built
        .filter_map(|message| {
            let path = PathBuf::from(message["executable"].as_str()?);
            let target = match message["target"]["kind"][0].as_str()? {
                "test" | "bin" => message["target"]["name"].as_str()?,
                _ => LIBRARY,
            };
            Some(Program { target: target.to_owned(), path })
        })
        .collect()
}

/// The names in the output of `--list --format terse`.
fn test_names(listed: &str) -> Vec<String> {
    listed.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect()
}

/// Runs a test program until its first test fails, which ends the program and every process that it has started. Tests
/// that hang, or end without a verdict, have failed too.
fn first_failure(command: &mut Command, limit: Duration) -> Result<Option<String>, Failure> {
    // Tests start processes of their own: all are ended as one group.
    let mut child = command
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| Failure::Command { what: process::line(command), status: error.to_string() })?;
    let output = child.stdout.take().expect("piped above");
    let (failed, first) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            if let Some(test) = failed_test(&String::from_utf8_lossy(&line)) {
                // The receiver takes the first failure only and may be gone.
                let _ = failed.send(test.to_owned());
            }
        }
    });
    let heard = first.recv_timeout(limit);
    if !matches!(heard, Err(RecvTimeoutError::Disconnected)) {
        // The group may have ended just now; then there is nothing to kill.
        let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", child.id())]).stderr(Stdio::null()).status();
    }
    let status =
        child.wait().map_err(|error| Failure::Unreadable { what: "a test's end".into(), why: error.to_string() })?;
    // The reader ends when every process that can write to the pipe has ended.
    drop(reader.join());
    Ok(match heard {
        Ok(test) => Some(test),
        Err(RecvTimeoutError::Timeout) => Some(format!("(still running after {} s)", limit.as_secs())),
        Err(RecvTimeoutError::Disconnected) if status.success() => None,
        Err(RecvTimeoutError::Disconnected) => Some(format!("({status})")),
    })
}

/// The test in a line `test NAME ... FAILED` of libtest.
fn failed_test(line: &str) -> Option<&str> {
    let name = line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?;
    // `#[should_panic]` tests carry a remark behind their name.
    Some(name.split(" - ").next().unwrap_or(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_ends_the_tests_and_the_processes_that_they_started() {
        let sh = |script: &str| {
            first_failure(Command::new("sh").args(["-c", script]), RUN_LIMIT)
                .unwrap_or_else(|failure| panic!("{failure}"))
        };
        assert_eq!(sh("echo test a ... ok; echo the test b ... FAILED again"), None);
        assert_eq!(sh("echo test a ... ok; exit 1").as_deref(), Some("(exit status: 1)"));
        assert_eq!(sh("echo test a::b ... FAILED; sh -c 'sleep 1000' & wait").as_deref(), Some("a::b"));
    }

    #[test]
    fn tests_that_hang_have_failed() {
        let failed = first_failure(Command::new("sleep").arg("600"), Duration::from_millis(50));
        assert_eq!(failed.unwrap_or_else(|failure| panic!("{failure}")).as_deref(), Some("(still running after 0 s)"));
    }

    #[test]
    fn a_module_selects_its_tests_and_no_neighbour() {
        let tests = ["limits::full", "limits::deep::age", "limits_of_zero", "other::limits"];
        let selected = |path: &str| tests.iter().copied().filter(|test| is_selected(test, path)).collect::<Vec<_>>();
        assert_eq!(selected("limits"), ["limits::full", "limits::deep::age"]);
        assert_eq!(selected("limits::full"), ["limits::full"]);
        assert_eq!(selected("").len(), tests.len());
    }

    #[test]
    fn test_programs_are_read_from_the_messages_of_cargo() {
        let messages = r#"{"reason": "compiler-artifact", "target": {"kind": ["lib"], "name": "leaf"}, "profile": {"test": false}, "executable": null}
{"reason": "compiler-artifact", "target": {"kind": ["lib"], "name": "leaf"}, "profile": {"test": true}, "executable": "/t/leaf-1"}
{"reason": "compiler-artifact", "target": {"kind": ["test"], "name": "it"}, "profile": {"test": true}, "executable": "/t/it-1"}
{"reason": "build-finished", "success": true}"#;
        let found: Vec<_> = programs(messages).into_iter().map(|program| program.target).collect();
        assert_eq!(found, ["lib", "it"]);
    }

    #[test]
    fn the_list_of_tests_is_read_without_benches() {
        assert_eq!(test_names("a::b: test\nc: benchmark\nd: test\n"), ["a::b", "d"]);
    }
}
