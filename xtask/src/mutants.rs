//! Planted bugs: each patch of `xtask/mutants/` is one, and the tests must find it.
//!
//! The tree is copied to a temporary directory and the patches are applied there, one at a time; the working tree is never touched. A patch
//! that no longer applies or no longer compiles fails the lane too: it proves nothing.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use crate::fail::Failure;
use crate::process::{self, capture, cargo, run_quietly};
use crate::workspace::Workspace;

/// Runs those patches whose name contains the filter or whose crate has that name, or all.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<(), Failure> {
    let filter = match arguments {
        [] => "",
        [filter] => filter.as_str(),
        [_, second, ..] => return Err(Failure::Usage(format!("one filter at most, got {second:?} too"))),
    };
    process::require("git", "--version", "install git: the patches are applied by `git apply`")?;
    let mutants = load(&workspace.root.join("xtask/mutants"), filter)?;
    if mutants.is_empty() {
        return Err(Failure::Usage(format!("no planted bug has {filter:?} in its name")));
    }
    let copy = Copy::of(&workspace.root)?;
    let mut baselines: Vec<(&str, Lane)> =
        mutants.iter().map(|mutant| (mutant.package.as_str(), mutant.lane)).collect();
    baselines.sort_unstable();
    baselines.dedup();
    for (package, lane) in baselines {
        println!("without a bug: {package}, {}", lane.name());
        run_quietly(&mut copy.tests(package, lane, &["--no-run"]), BUILD_LIMIT)?;
        run_quietly(&mut copy.tests(package, lane, &[]), LIMIT)?;
    }
    let mut survivors = Vec::new();
    for mutant in &mutants {
        copy.patch(mutant, false)?;
        run_quietly(&mut copy.tests(&mutant.package, mutant.lane, &["--no-run"]), BUILD_LIMIT)?;
        let found = !passes(&mut copy.tests(&mutant.package, mutant.lane, &[]))?;
        copy.patch(mutant, true)?;
        println!("{}  {}: {}", if found { "found   " } else { "SURVIVED" }, mutant.name, mutant.bug);
        if !found {
            survivors.push(mutant.name.as_str());
        }
    }
    println!("{} of {} planted bugs found", mutants.len() - survivors.len(), mutants.len());
    if survivors.is_empty() {
        return Ok(());
    }
    Err(Failure::Command { what: "the tests".into(), status: format!("did not find {}", survivors.join(", ")) })
}

/// One planted bug: three lines of words, an empty one, a patch.
struct Mutant {
    name: String,
    bug: String,
    package: String,
    lane: Lane,
    path: PathBuf,
}

/// Which tests must find it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Lane {
    Tests,
    Loom,
}

impl Lane {
    fn name(self) -> &'static str {
        match self {
            Lane::Tests => "its tests",
            Lane::Loom => "loom",
        }
    }
}

fn load(directory: &Path, filter: &str) -> Result<Vec<Mutant>, Failure> {
    let unreadable = |path: &Path, why: String| Failure::Unreadable { what: path.display().to_string(), why };
    let entries = fs::read_dir(directory).map_err(|error| unreadable(directory, error.to_string()))?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "patch"));
    paths.sort();
    let mut mutants = Vec::new();
    for path in paths {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).map_err(|error| unreadable(&path, error.to_string()))?;
        let mutant = parse(&name, &text, &path).map_err(|why| unreadable(&path, why))?;
        if mutant.name.contains(filter) || mutant.package == filter {
            mutants.push(mutant);
        }
    }
    Ok(mutants)
}

fn parse(name: &str, text: &str, path: &Path) -> Result<Mutant, String> {
    let field = |key: &str| {
        let line = text.lines().take_while(|line| !line.is_empty()).find_map(|line| line.strip_prefix(key));
        line.map(str::trim).ok_or_else(|| format!("its head has no line {key:?}"))
    };
    let lane = match field("lane:")? {
        "tests" => Lane::Tests,
        "loom" => Lane::Loom,
        other => return Err(format!("lane {other:?}, accepted: tests, loom")),
    };
    let (bug, package) = (field("bug:")?.to_owned(), field("crate:")?.to_owned());
    Ok(Mutant { name: name.to_owned(), bug, package, lane, path: path.to_owned() })
}

/// A copy of the sources, removed when it is dropped.
struct Copy {
    root: PathBuf,
    /// Kept between runs, so that only what a patch changes is built again.
    target: PathBuf,
}

impl Copy {
    fn of(root: &Path) -> Result<Copy, Failure> {
        let base = std::env::temp_dir().join(format!("mutants-{}", std::process::id()));
        let copy = Copy { root: base.join("tree"), target: base.join("target") };
        let listed = capture(Command::new("git").current_dir(root).args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ]))?;
        for file in listed.split('\0').filter(|file| !file.is_empty()) {
            let (from, to) = (root.join(file), copy.root.join(file));
            // Listed, but deleted in the working tree.
            if !from.is_file() {
                continue;
            }
            let made = to.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::copy(&from, &to));
            made.map_err(|error| Failure::Unreadable { what: file.into(), why: error.to_string() })?;
        }
        Ok(copy)
    }

    fn patch(&self, mutant: &Mutant, back: bool) -> Result<(), Failure> {
        let mut command = Command::new("git");
        // The copy is no repository, and must not be taken for a part of one above it.
        command.current_dir(&self.root).env("GIT_CEILING_DIRECTORIES", &self.root).arg("apply");
        if back {
            command.arg("--reverse");
        }
        process::run(command.arg(&mutant.path))
    }

    fn tests(&self, package: &str, lane: Lane, more: &[&str]) -> Command {
        let mut command = cargo();
        command.current_dir(&self.root).args(["test", "--package", package]);
        // A found bug need not be shrunk, nor be remembered.
        command.env("PROPTEST_MAX_SHRINK_ITERS", "0").env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1");
        match lane {
            Lane::Tests => command.args(["--all-features", "--test", "it"]).env("CARGO_TARGET_DIR", &self.target),
            Lane::Loom => command
                .args(["--test", "loom", "--release"])
                .env("RUSTFLAGS", "--cfg loom")
                .env("CARGO_TARGET_DIR", self.target.join("loom")),
        };
        command.args(more);
        command
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        if let Some(base) = self.root.parent() {
            // What cannot be removed from the temporary directory is the system's to clean up.
            let _ = fs::remove_dir_all(base);
        }
    }
}

/// Whether it passes within the limit. The first test that fails ends it, as do tests that hang: both have found the bug.
fn passes(command: &mut Command) -> Result<bool, Failure> {
    // Cargo starts the tests as a child of its own: they are ended as a group.
    let mut child = command
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| Failure::Command { what: process::line(command), status: error.to_string() })?;
    let output = child.stdout.take().expect("piped above");
    let (failed, first_failure) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let lines = BufReader::new(output).split(b'\n').map_while(Result::ok);
        // The tests may have ended meanwhile; then nobody waits for the message.
        for _ in lines.filter(|line| is_failure(line)) {
            let _ = failed.send(());
        }
    });
    let heard = first_failure.recv_timeout(LIMIT);
    if !matches!(heard, Err(RecvTimeoutError::Disconnected)) {
        // They may have ended just now; then there is nothing to kill.
        let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", child.id())]).stderr(Stdio::null()).status();
    }
    let status =
        child.wait().map_err(|error| Failure::Unreadable { what: "cargo's end".into(), why: error.to_string() })?;
    // It reads on until the pipe is closed, and all of its writers have ended.
    drop(reader.join());
    Ok(heard.is_err_and(|error| error == RecvTimeoutError::Disconnected) && status.success())
}

/// What libtest says of a test.
fn is_failure(line: &[u8]) -> bool {
    line.starts_with(b"test ") && line.ends_with(b" ... FAILED")
}

/// What the dependencies of a first run take on a machine that has other work.
const BUILD_LIMIT: Duration = Duration::from_secs(3_600);

const LIMIT: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_planted_bug_has_a_readable_head() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("mutants");
        let mutants = load(&directory, "").unwrap_or_else(|failure| panic!("{failure}"));
        assert!(mutants.len() >= 60);
        assert!(mutants.iter().all(|mutant| !mutant.bug.is_empty()));
    }

    #[test]
    fn the_first_failure_ends_the_tests_and_whatever_they_started() {
        let sh = |script: &str| {
            passes(Command::new("sh").args(["-c", script])).unwrap_or_else(|failure| panic!("{failure}"))
        };
        assert!(sh("echo test a ... ok; echo the test b ... FAILED again"));
        assert!(!sh("echo test a ... ok; exit 1"));
        assert!(!sh("echo test a ... FAILED; sh -c 'sleep 1000' & wait"));
    }

    #[test]
    fn a_head_without_its_lines_is_refused() {
        let error = |text: &str| parse("name", text, Path::new("name.patch")).err();
        assert_eq!(error("bug: x\n\nlane: tests\n").as_deref(), Some("its head has no line \"lane:\""));
        assert_eq!(error("bug: x\nlane: all\n").as_deref(), Some("lane \"all\", accepted: tests, loom"));
    }
}
