//! Fuzzing: libFuzzer drives each target for a bounded time, from the committed seeds.
//!
//! A run writes only below the target folder: programs, logs, findings, and the inputs that it has found.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::fail::Failure;
use crate::process::{self, capture};
use crate::workspace::Workspace;

/// Builds the targets that the filter selects, runs one after the other, and prints the figures of each.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<(), Failure> {
    let options = Options::parse(arguments)?;
    process::require("cargo-fuzz", "--version", "cargo install --locked cargo-fuzz")?;
    process::require("rustup", "--version", "https://rustup.rs; nightly is started through it")?;
    if capture(nightly("rustc").arg("--version").stderr(Stdio::null())).is_err() {
        let get = "rustup toolchain install nightly --profile minimal";
        return Err(Failure::MissingTool { tool: "rustc of the toolchain nightly".into(), get });
    }
    let places = Places { source: workspace.root.join("xtask/fuzz"), target: workspace.target.join("fuzz") };
    let names = select(targets(&places.source)?, &options.filter)?;
    check_lock(&places.source)?;
    let host = host()?;
    build(&places, &host, &names, options.filter.is_empty())?;
    let mut failed = Vec::new();
    println!("{HEADINGS}");
    for name in &names {
        let program = places.target.join(&host).join("release").join(name);
        let outcome = run_target(&places, &program, name, &options)?;
        println!("{}", outcome.row(name));
        if let Some(finding) = outcome.finding {
            explain(name, &finding, &places.log(name));
            failed.push(name.as_str());
        }
    }
    match failed.len() {
        0 => Ok(()),
        _ => Err(Failure::Found(format!("fuzz: {} failed, see above", failed.join(", ")))),
    }
}

/// The command line.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    filter: String,
    seconds: u64,
    /// Inputs that were found go on being used by the next run.
    keep: bool,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self, Failure> {
        let mut options = Self { filter: String::new(), seconds: SMOKE, keep: false };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--long" => options.seconds = LONG,
                "--keep" => options.keep = true,
                "--seconds" => {
                    let seconds = arguments.next().and_then(|text| text.parse().ok()).filter(|seconds| *seconds > 0);
                    options.seconds =
                        seconds.ok_or_else(|| Failure::Usage("--seconds takes a number from 1".into()))?;
                }
                flag if flag.starts_with('-') => return Err(Failure::Usage(format!("fuzz does not know {flag:?}"))),
                filter if options.filter.is_empty() => options.filter = filter.to_owned(),
                second => return Err(Failure::Usage(format!("one filter at most, got {second:?} too"))),
            }
        }
        Ok(options)
    }
}

/// Where things are.
struct Places {
    source: PathBuf,
    target: PathBuf,
}

impl Places {
    /// Inputs that a run has found worth keeping.
    fn corpus(&self, name: &str) -> PathBuf {
        self.target.join("corpus").join(name)
    }

    /// Inputs that failed.
    fn findings(&self, name: &str) -> PathBuf {
        self.target.join("findings").join(name)
    }

    fn log(&self, name: &str) -> PathBuf {
        self.target.join("logs").join(format!("{name}.log"))
    }
}

/// The names of the targets: one source each.
fn targets(source: &Path) -> Result<Vec<String>, Failure> {
    let folder = source.join("fuzz_targets");
    let failed = |source| Failure::File { path: folder.clone(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

fn select(mut names: Vec<String>, filter: &str) -> Result<Vec<String>, Failure> {
    let all = names.join(", ");
    names.retain(|name| name.contains(filter));
    if names.is_empty() {
        return Err(Failure::Usage(format!("no target has {filter:?} in its name; there are {all}")));
    }
    Ok(names)
}

/// A command of the toolchain that libFuzzer's instrumentation needs.
fn nightly(tool: &str) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", tool]);
    command
}

/// The targets are a workspace of their own, whose lock file no other lane updates.
fn check_lock(source: &Path) -> Result<(), Failure> {
    let manifest = source.join("Cargo.toml");
    let mut command = nightly("cargo");
    command.args(["metadata", "--locked", "--format-version", "1", "--manifest-path"]).arg(&manifest);
    capture(&mut command).map(drop).map_err(|_| {
        Failure::Found(
            "fuzz: xtask/fuzz/Cargo.lock is behind the workspace; mend it by `cargo update --workspace --manifest-path \
             xtask/fuzz/Cargo.toml` and commit it"
                .into(),
        )
    })
}

fn host() -> Result<String, Failure> {
    let version = capture(nightly("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned)
        .ok_or_else(|| Failure::Unreadable { what: "rustc -vV".into(), why: "it names no host".into() })
}

/// Without a sanitizer: no crate of ours has unsafe code, and memory is counted by the targets themselves.
fn build(places: &Places, host: &str, names: &[String], all: bool) -> Result<(), Failure> {
    let build = |name: Option<&String>| {
        let mut command = nightly("cargo");
        command.args(["fuzz", "build", "--sanitizer", "none", "--target", host, "--fuzz-dir"]).arg(&places.source);
        process::run(command.arg("--target-dir").arg(&places.target).args(name))
    };
    if all { build(None) } else { names.iter().try_for_each(|name| build(Some(name))) }
}

/// The figures of one run.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    runs: u64,
    runs_per_second: u64,
    /// Edges of the control flow that were reached.
    edges: u64,
    /// libFuzzer's features: edges with how often, compared values and others.
    features: u64,
    inputs: u64,
    /// The input for which something did not hold.
    finding: Option<PathBuf>,
}

fn run_target(places: &Places, program: &Path, name: &str, options: &Options) -> Result<Outcome, Failure> {
    let (corpus, findings, log) = (places.corpus(name), places.findings(name), places.log(name));
    if !options.keep {
        remove(&corpus)?;
    }
    for folder in [&corpus, &findings, &places.target.join("logs")] {
        fs::create_dir_all(folder).map_err(|source| Failure::File { path: folder.clone(), source })?;
    }
    let before = list(&findings)?;
    let output = fs::File::create(&log).map_err(|source| Failure::File { path: log.clone(), source })?;
    let former = places.source.join("findings").join(name);
    let mut command = Command::new(program);
    command
        .arg(&corpus)
        .arg(places.source.join("seeds").join(name))
        .args(former.exists().then_some(former))
        .arg(format!("-max_total_time={}", options.seconds))
        .args([TIMEOUT, MEMORY, MAX_LEN, "-print_final_stats=1"])
        .arg(format!("-artifact_prefix={}/", findings.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(output);
    let ended = wait(&mut command, Duration::from_secs(options.seconds) + GRACE);
    let text = fs::read(&log).map_err(|source| Failure::File { path: log, source })?;
    let mut outcome = Outcome::read(&String::from_utf8_lossy(&text));
    outcome.finding = list(&findings)?.into_iter().find(|path| !before.contains(path));
    // The same input may have failed in an earlier run already.
    outcome.finding = outcome.finding.or_else(|| named_finding(&String::from_utf8_lossy(&text)));
    if !options.keep {
        remove(&corpus)?;
    }
    match ended {
        Err(failure) if outcome.finding.is_none() => Err(failure),
        _ => Ok(outcome),
    }
}

/// Waits for the end; an end that is no success, or too late, is a failure.
fn wait(command: &mut Command, limit: Duration) -> Result<(), Failure> {
    let what = process::line(command);
    let failed = |status: String| Failure::Command { what: what.clone(), status };
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    let started = process::now();
    loop {
        match child.try_wait().map_err(|error| failed(error.to_string()))? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(failed(status.to_string())),
            None if started.elapsed() > limit => {
                // It may have ended just now; then there is nothing to kill.
                let _ = child.kill();
                let _ = child.wait();
                return Err(failed(format!("still running after {limit:?}")));
            }
            None => thread::park_timeout(Duration::from_millis(50)),
        }
    }
}

impl Outcome {
    /// From libFuzzer's own output.
    fn read(log: &str) -> Self {
        let stat = |name: &str| {
            let text = log.lines().rev().find_map(|line| line.strip_prefix("stat::")?.strip_prefix(name))?;
            text.trim_start_matches(':').trim().parse().ok()
        };
        // #1234  NEW    cov: 1 ft: 2 corp: 3/4b lim: ..
        let status =
            log.lines().rev().find(|line| line.starts_with('#') && line.contains(" cov: ")).unwrap_or_default();
        let count = |name: &str| {
            let (_, rest) = status.split_once(name)?;
            let digits = rest.trim_start().split(|c: char| !c.is_ascii_digit()).next()?;
            digits.parse().ok()
        };
        Self {
            runs: stat("number_of_executed_units").unwrap_or(0),
            runs_per_second: stat("average_exec_per_sec").unwrap_or(0),
            edges: count(" cov:").unwrap_or(0),
            features: count(" ft:").unwrap_or(0),
            inputs: count(" corp:").unwrap_or(0),
            finding: None,
        }
    }

    fn row(&self, name: &str) -> String {
        let Self { runs, runs_per_second, edges, features, inputs, finding } = self;
        let verdict = if finding.is_some() { "FAILED" } else { "ok" };
        format!("{name:<14} {runs:>11} {runs_per_second:>9} {edges:>8} {features:>9} {inputs:>8}  {verdict}")
    }
}

/// The path in libFuzzer's message about a finding that it has written.
fn named_finding(log: &str) -> Option<PathBuf> {
    log.lines().rev().find_map(|line| Some(PathBuf::from(line.split_once("Test unit written to ")?.1.trim())))
}

fn explain(name: &str, finding: &Path, log: &Path) {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    for line in text.lines().skip_while(|line| !line.contains("panicked at")).take(3) {
        eprintln!("  {line}");
    }
    eprintln!("  input: {}", finding.display());
    eprintln!("  log:   {}", log.display());
    eprintln!("  again: cargo run --package fuzz-oracles -- {name} {}", finding.display());
    eprintln!("  mended: keep it as xtask/fuzz/findings/{name}/<what it was>; the gate runs it from then on");
}

fn list(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let failed = |source| Failure::File { path: folder.to_owned(), source };
    let entries = fs::read_dir(folder).map_err(failed)?;
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(failed)).collect()
}

fn remove(folder: &Path) -> Result<(), Failure> {
    match fs::remove_dir_all(folder) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(Failure::File { path: folder.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Seconds a target, by default and with `--long`.
const SMOKE: u64 = 60;
const LONG: u64 = 600;

/// For reading the seeds before and a slow input after.
const GRACE: Duration = Duration::from_secs(120);

/// An input that takes longer than 20 s, or a process above 2 GiB, is a finding. Longer inputs than 8 KiB show nothing
/// that shorter ones do not, and slower.
const TIMEOUT: &str = "-timeout=20";
const MEMORY: &str = "-rss_limit_mb=2048";
const MAX_LEN: &str = "-max_len=8192";

const HEADINGS: &str = "target                runs    runs/s    edges  features   inputs";

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Options, Failure> {
        Options::parse(&arguments.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn options_are_read_and_nonsense_is_refused() {
        let defaults = Options { filter: String::new(), seconds: SMOKE, keep: false };
        assert_eq!(parse(&[]).expect("valid"), defaults);
        let all = parse(&["json", "--seconds", "5", "--keep"]).expect("valid");
        assert_eq!(all, Options { filter: "json".into(), seconds: 5, keep: true });
        assert_eq!(parse(&["--long"]).expect("valid").seconds, LONG);
        for wrong in [&["--seconds"][..], &["--seconds", "0"], &["--seconds", "x"], &["a", "b"], &["--fast"]] {
            assert!(matches!(parse(wrong), Err(Failure::Usage(_))), "{wrong:?}");
        }
    }

    #[test]
    fn a_filter_that_selects_nothing_names_what_there_is() {
        let names = || vec!["journal".to_owned(), "settings".to_owned()];
        assert_eq!(select(names(), "jour").expect("one"), ["journal"]);
        let failure = select(names(), "x").unwrap_err();
        assert_eq!(failure.to_string(), "no target has \"x\" in its name; there are journal, settings");
    }

    /// A program that behaves as libFuzzer does, and then runs the script `more`.
    fn play(more: &str) -> (Result<Outcome, Failure>, Vec<bool>) {
        use std::os::unix::fs::PermissionsExt as _;
        static NUMBER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("xtask-fuzz-{}-{number}", std::process::id()));
        let places = Places { source: root.join("source"), target: root.join("target") };
        fs::create_dir_all(places.source.join("seeds/it")).expect("a temporary folder");
        let program = root.join("it");
        let script = format!(
            "#!/bin/sh\necho new > \"$1/input\"\nfor a in \"$@\"; do case $a in -artifact_prefix=*) to=${{a#*=}};; esac; done\n\
             printf '#7\\tNEW    cov: 11 ft: 22 corp: 3/44b lim: 4\\n#9\\tDONE   cov: 12 ft: 23 corp: 4/45b lim: 4\\n' >&2\n\
             printf 'stat::number_of_executed_units: 1234\\nstat::average_exec_per_sec:     617\\n' >&2\n{more}\n"
        );
        fs::write(&program, script).expect("a temporary file");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).expect("our own file");
        let options = Options { filter: String::new(), seconds: 1, keep: false };
        let outcome = run_target(&places, &program, "it", &options);
        let left = [places.corpus("it").join("input"), places.findings("it").join("crash-1")].map(|path| path.exists());
        fs::remove_dir_all(&root).expect("made above");
        (outcome, left.to_vec())
    }

    #[test]
    fn a_run_without_findings_leaves_its_figures_and_nothing_else() {
        let (outcome, left) = play("");
        let expected = Outcome { runs: 1234, runs_per_second: 617, edges: 12, features: 23, inputs: 4, finding: None };
        assert_eq!((outcome.expect("it ran"), left), (expected, vec![false, false]));
    }

    #[test]
    fn a_finding_is_kept_and_named() {
        let (outcome, left) = play("echo bad > \"${to}crash-1\"; exit 77");
        let finding = outcome.expect("it ran").finding.expect("one");
        assert!(finding.ends_with("target/findings/it/crash-1"), "{}", finding.display());
        assert_eq!(left, [false, true]);
    }

    #[test]
    fn a_program_that_fails_without_a_finding_fails_the_lane() {
        let (outcome, _) = play("exit 3");
        assert!(outcome.unwrap_err().to_string().contains("exit status: 3"));
    }
}
