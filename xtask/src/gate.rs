//! The gate, lane by lane, or a part of it. All lanes run even if an early one fails, so that one run shows everything.
//!
//! The order and the flags reduce compilation: clippy and `check` share the metadata of the dependencies; tests,
//! benches in test mode and examples are one build of one profile with one set of features.

use std::time::Duration;

use crate::fail::Failure;
use crate::process::{self, Counts, cargo};
use crate::tidy;
use crate::workspace::Workspace;

/// An example is a small program that ends by itself: this is its deadline.
const EXAMPLE_LIMIT: Duration = Duration::from_secs(60);

/// Lanes that only the whole gate runs.
const NOT_QUICK: &str = "doc tests, benches in test mode, examples, loom, docs, each crate alone";

/// The part of the gate that a command line selects.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    Whole,
    /// The lanes that find most mistakes, over every crate.
    Quick,
    /// One package alone.
    Package(String),
}

impl Part {
    fn parse(arguments: &[String]) -> Result<Self, Failure> {
        match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            [] => Ok(Self::Whole),
            ["--quick"] => Ok(Self::Quick),
            ["-p" | "--package", package] => Ok(Self::Package(package.to_owned())),
            _ => Err(Failure::Usage(format!("test takes --quick or -p CRATE, got {}", arguments.join(" ")))),
        }
    }
}

/// Runs every lane of the selected part, prints the summary, and fails if any lane failed.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<(), Failure> {
    match Part::parse(arguments)? {
        Part::Whole => whole(workspace),
        Part::Quick => quick(workspace),
        Part::Package(package) => one_package(workspace, &package),
    }
}

fn whole(workspace: &Workspace) -> Result<(), Failure> {
    let mut gate = Gate::default();
    gate.lane("format", |_| process::run(cargo().args(["fmt", "--all", "--check"])));
    gate.lane("tidy", |_| tidy::run(workspace));
    gate.lane("clippy", |_| clippy(&["--workspace"]));
    gate.lane("tests, doc tests", |counts| {
        // No kind of target is named: only then does cargo also build the examples as programs.
        process::run_tests(cargo().args(["test", "--workspace", "--all-features", "--no-fail-fast"]), counts)
    });
    gate.lane("benches, test mode", |counts| {
        let mut command = cargo();
        // The glob selects bench targets only.
        command.args(["test", "--workspace", "--all-features", "--no-fail-fast", "--bench", "*", "--", "--test"]);
        process::run_tests(&mut command, counts)
    });
    gate.lane("examples", |_| run_examples(workspace));
    gate.lane("loom", |counts| {
        // Every order of accesses to the breaker's atomic state; another cfg, hence a folder of its own.
        let mut command = cargo();
        command.args(["test", "--package", "breaker", "--test", "loom", "--release", "--target-dir"]);
        process::run_tests(command.arg(workspace.target.join("loom")).env("RUSTFLAGS", "--cfg loom"), counts)
    });
    gate.lane("docs", |_| {
        let mut command = cargo();
        process::run(
            command.args(["doc", "--workspace", "--all-features", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"),
        )
    });
    gate.lane("each crate alone", |_| check_each_alone(workspace));
    gate.finish()
}

/// The same builds as in the whole gate, so that each of the two finds the other's.
fn quick(workspace: &Workspace) -> Result<(), Failure> {
    let mut gate = Gate::default();
    gate.lane("format", |_| process::run(cargo().args(["fmt", "--all", "--check"])));
    gate.lane("tidy", |_| tidy::run(workspace));
    gate.lane("clippy", |_| clippy(&["--workspace"]));
    gate.lane("tests", |counts| {
        let mut command = cargo();
        process::run_tests(command.args(["test", "--workspace", "--all-features", "--no-fail-fast", "--tests"]), counts)
    });
    println!("\nleft out: {NOT_QUICK}");
    gate.finish()
}

fn one_package(workspace: &Workspace, package: &str) -> Result<(), Failure> {
    if !workspace.packages.iter().any(|member| member.name == package) {
        let names: Vec<&str> = workspace.packages.iter().map(|member| member.name.as_str()).collect();
        return Err(Failure::Usage(format!("there is no package {package:?}; there are {}", names.join(", "))));
    }
    let mut gate = Gate::default();
    gate.lane("format", |_| process::run(cargo().args(["fmt", "--package", package, "--check"])));
    gate.lane("tidy", |_| tidy::run(workspace));
    gate.lane("clippy", |_| clippy(&["--package", package]));
    gate.lane("tests, doc tests", |counts| {
        let mut command = cargo();
        process::run_tests(command.args(["test", "--package", package, "--all-features", "--no-fail-fast"]), counts)
    });
    println!(
        "\nleft out: other crates, those that use {package} included, and of this one benches, loom, docs, features"
    );
    gate.finish()
}

fn clippy(packages: &[&str]) -> Result<(), Failure> {
    let mut command = cargo();
    command.arg("clippy").args(packages).args(["--all-features", "--all-targets", "--", "-D", "warnings"]);
    process::run(&mut command)
}

/// Features unify within one build of a workspace, so a crate may compile only thanks to its neighbours, and one
/// feature only thanks to another.
fn check_each_alone(workspace: &Workspace) -> Result<(), Failure> {
    let mut broken = Vec::new();
    for package in workspace.crates() {
        for features in feature_sets(&package.features) {
            let mut command = cargo();
            command.args(["check", "--quiet", "--package", &package.name]).args(&features);
            if process::run(&mut command).is_err() {
                broken.push(format!("{} {}", package.name, features.join(" ")));
            }
        }
    }
    found(&broken.iter().map(String::as_str).collect::<Vec<_>>(), "do not compile alone")
}

/// The flags of each build: as it comes, bare, and with each feature by itself.
fn feature_sets(features: &[String]) -> Vec<Vec<String>> {
    const BARE: &str = "--no-default-features";
    let mut sets = vec![vec![]];
    if features.iter().any(|feature| feature == "default") {
        sets.push(vec![BARE.to_owned()]);
    }
    // A feature with a leading `_` is a part of others, and means nothing without them.
    let named = features.iter().filter(|feature| *feature != "default" && !feature.starts_with('_'));
    sets.extend(named.map(|feature| vec![BARE.to_owned(), "--features".to_owned(), feature.clone()]));
    sets
}

fn run_examples(workspace: &Workspace) -> Result<(), Failure> {
    let mut broken = Vec::new();
    // Those of the benches are tools that want arguments, not examples.
    for package in workspace.crates() {
        for example in &package.examples {
            println!("{}: example {example}", package.name);
            let program = workspace.target.join("debug/examples").join(example);
            if let Err(failure) = process::run_quietly(&mut std::process::Command::new(program), EXAMPLE_LIMIT) {
                eprintln!("{failure}");
                broken.push(example.as_str());
            }
        }
    }
    found(&broken, "did not end well")
}

fn found(broken: &[&str], verdict: &str) -> Result<(), Failure> {
    if broken.is_empty() { Ok(()) } else { Err(Failure::Found(format!("{}: {verdict}", broken.join(", ")))) }
}

/// The outcomes of the lanes so far.
#[derive(Default)]
struct Gate {
    lanes: Vec<(&'static str, Duration, Result<(), Failure>)>,
    counts: Counts,
}

impl Gate {
    fn lane(&mut self, name: &'static str, body: impl FnOnce(&mut Counts) -> Result<(), Failure>) {
        println!("\n== {name}");
        let started = process::now();
        let outcome = body(&mut self.counts);
        let took = started.elapsed();
        match &outcome {
            Ok(()) => println!("== {name}: ok, {:.1} s", took.as_secs_f64()),
            Err(failure) => println!("== {name}: FAILED, {:.1} s: {failure}", took.as_secs_f64()),
        }
        self.lanes.push((name, took, outcome));
    }

    fn finish(self) -> Result<(), Failure> {
        println!("\n{:<20} {:>8}", "lane", "seconds");
        for (name, took, outcome) in &self.lanes {
            let verdict = outcome.as_ref().map_or("FAILED", |()| "ok");
            println!("{name:<20} {:>8.1}  {verdict}", took.as_secs_f64());
        }
        let total: Duration = self.lanes.iter().map(|(_, took, _)| *took).sum();
        println!("{:<20} {:>8.1}", "all", total.as_secs_f64());
        println!("{} passed, {} failed", self.counts.passed, self.counts.failed);
        let failed: Vec<&str> =
            self.lanes.iter().filter(|(_, _, outcome)| outcome.is_err()).map(|(name, ..)| *name).collect();
        if self.counts.passed == 0 {
            return Err(Failure::Found("no test ran at all".into()));
        }
        found(&failed, "the gate is closed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_that_fails_does_not_stop_the_next_and_closes_the_gate() {
        let mut gate = Gate { counts: Counts { passed: 1, failed: 0 }, ..Gate::default() };
        gate.lane("first", |_| Err(Failure::Found("planted".into())));
        let mut ran = false;
        gate.lane("second", |_| {
            ran = true;
            Ok(())
        });
        assert!(ran);
        assert_eq!(gate.finish().unwrap_err().to_string(), "first: the gate is closed");
    }

    #[test]
    fn a_command_line_selects_a_part() {
        let parse = |line: &str| Part::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(parse("").expect("valid"), Part::Whole);
        assert_eq!(parse("--quick").expect("valid"), Part::Quick);
        assert_eq!(parse("-p backoff").expect("valid"), Part::Package("backoff".into()));
        for wrong in ["-p", "--slow", "--quick -p backoff"] {
            assert!(matches!(parse(wrong), Err(Failure::Usage(_))), "{wrong}");
        }
    }

    #[test]
    fn each_feature_is_built_by_itself() {
        let sets = feature_sets(&["default", "serde"].map(str::to_owned));
        let lines: Vec<String> = sets.iter().map(|flags| flags.join(" ")).collect();
        assert_eq!(lines, ["", "--no-default-features", "--no-default-features --features serde"]);
        assert_eq!(feature_sets(&[]).len(), 1);
    }

    #[test]
    fn a_gate_in_which_no_test_ran_is_closed() {
        assert!(Gate::default().finish().is_err());
    }
}
