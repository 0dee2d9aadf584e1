//! Planted bugs: each entry of the tables in `xtask/mutants/` is one, and the tests of its crate must find it.
//!
//! A run works on a copy of the tree. Each bug is a replacement of a few lines, one incremental build of the target
//! that holds the named test, and that test; only if it passes are all other tests of the crate built and run. A bug
//! that does not compile, or whose crate fails its tests without a bug, is not judged: the lane goes on with the other
//! bugs and fails at the end.

mod copy;
mod report;
mod select;
mod suite;
mod table;

use std::collections::BTreeSet;
use std::time::Duration;

use crate::fail::Failure;
use crate::process;
use crate::workspace::Workspace;

use copy::Copy;
use report::Row;
use select::{Changed, Options, Scope};
use suite::{Suite, Verdict};
use table::{Bug, Lane};

/// Plants the selected bugs one after the other and fails if one of them survives or cannot be judged.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<(), Failure> {
    let options = Options::parse(arguments)?;
    process::require("git", "--version", "install git: it lists the files to copy and the crates that changed")?;
    let all = table::load(&workspace.root.join("xtask/mutants"))?;
    let problems = table::check(workspace, &all);
    if !problems.is_empty() {
        return Err(Failure::Found(format!("these entries cannot be planted:\n{}", problems.join("\n"))));
    }
    let bugs = selected(workspace, &options, &all)?;
    if bugs.is_empty() {
        return Ok(());
    }
    let started = process::now();
    let copy = Copy::sync(&workspace.root, &workspace.target.join("mutants"))?;
    let rows = judge_all(&copy, &bugs)?;
    println!("\n{}", report::table(&rows));
    if options.write {
        report::write(&workspace.root.join("docs/mutants.md"), &rows, &all)?;
    }
    let minutes = started.elapsed().as_secs_f64() / 60.0;
    let found = rows.iter().filter(|row| row.is_found()).count();
    println!("{found} of {} planted bugs found in {minutes:.1} min, builds included", rows.len());
    outcome(&rows)
}

/// Fails with the names of the bugs that no test has found, and of those that the tests could not judge.
fn outcome(rows: &[Row<'_>]) -> Result<(), Failure> {
    let mut problems = Vec::new();
    let survivors = rows.iter().filter(|row| row.verdict == Verdict::Survived);
    let survivors: Vec<&str> = survivors.map(|row| row.bug.entry.name.as_str()).collect();
    if !survivors.is_empty() {
        problems.push(format!("the tests did not find {}", survivors.join(", ")));
    }
    let broken: Vec<String> = rows
        .iter()
        .filter_map(|row| match &row.verdict {
            Verdict::Broken { why } => Some(format!("{} ({why})", row.bug.entry.name)),
            _ => None,
        })
        .collect();
    if !broken.is_empty() {
        problems.push(format!("the tests could not judge {}", broken.join(", ")));
    }
    if problems.is_empty() { Ok(()) } else { Err(Failure::Found(problems.join("; "))) }
}

/// The bugs of this run; prints why these crates and no others.
fn selected<'a>(workspace: &Workspace, options: &Options, all: &'a [Bug]) -> Result<Vec<&'a Bug>, Failure> {
    let filter = options.filter.as_str();
    let matches = |bug: &&Bug| bug.entry.name.contains(filter) || bug.package == filter;
    if !all.iter().any(|bug| matches(&bug)) {
        return Err(Failure::Usage(format!(
            "no planted bug has {filter:?} in its name, and no crate with bugs is called so"
        )));
    }
    let since = match &options.scope {
        Scope::All if filter.is_empty() => {
            println!("every planted bug, because of --all");
            return Ok(all.iter().collect());
        }
        Scope::All => {
            println!("the planted bugs whose name contains {filter:?} or whose crate is {filter:?}");
            return Ok(all.iter().filter(matches).collect());
        }
        Scope::Since(commit) => Some(commit.as_str()),
        Scope::Changed => None,
    };
    let Changed { crates, since } = Changed::find(&workspace.root, since)?;
    let bugs: Vec<&Bug> = all.iter().filter(matches).filter(|bug| crates.contains(&bug.package)).collect();
    let packages: BTreeSet<&str> = bugs.iter().map(|bug| bug.package.as_str()).collect();
    for package in &packages {
        println!("{package}: it, or its table of bugs, differs from {since}");
    }
    if packages.is_empty() {
        println!("no crate with planted bugs differs from {since}; --all runs every bug");
    }
    Ok(bugs)
}

/// Judges every bug. A failure of one bug, or of a crate without a bug, is a verdict of that bug or of the crate's
/// bugs, so that the other rows are not lost. An error is a copy that cannot be written or repaired.
fn judge_all<'a>(copy: &Copy, bugs: &[&'a Bug]) -> Result<Vec<Row<'a>>, Failure> {
    let lanes: BTreeSet<(&str, Lane)> = bugs.iter().map(|bug| (bug.package.as_str(), bug.entry.lane)).collect();
    let mut rows = Vec::new();
    for (package, lane) in lanes {
        let started = process::now();
        let suite = Suite::baseline(copy, package, lane);
        match &suite {
            Ok(_) => println!("{package}, lane {}, without a bug: passes, {}", lane.name(), seconds(started.elapsed())),
            Err(failure) => eprintln!("{package}, lane {}, without a bug: {failure}", lane.name()),
        }
        for bug in bugs.iter().copied().filter(|bug| bug.package == package && bug.entry.lane == lane) {
            let started = process::now();
            let verdict = match &suite {
                Err(_) => Verdict::broken("baseline failed"),
                Ok(suite) if suite.selected(bug).is_empty() => Verdict::broken("`test` is no test and no module"),
                Ok(suite) => {
                    let planted = copy.plant(bug)?;
                    let judged = suite.judge(bug);
                    planted.restore()?;
                    judged.unwrap_or_else(|failure| {
                        eprintln!("{}: {failure}", bug.entry.name);
                        Verdict::broken("its tests could not be run")
                    })
                }
            };
            let took = started.elapsed();
            println!("{}: {}, {}", bug.entry.name, describe(&verdict, bug), seconds(took));
            rows.push(Row { bug, verdict, seconds: took.as_secs_f64() });
        }
    }
    Ok(rows)
}

fn describe(verdict: &Verdict, bug: &Bug) -> String {
    match verdict {
        Verdict::Found { by } => format!("found by {by}"),
        Verdict::FoundByAnother { by } => format!("found by {by}, not by the named {}", bug.entry.test),
        Verdict::Survived => format!("SURVIVED: {}", bug.entry.bug),
        Verdict::Broken { why } => format!("NOT JUDGED: {why}"),
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;
    use table::Entry;

    /// A workspace of crates without dependencies, each with a function and one test of it.
    fn workspace(name: &str, crates: &[(&str, &str)]) -> (PathBuf, Copy) {
        let home = std::env::temp_dir().join(format!("xtask-judge-{name}-{}", std::process::id()));
        let write = |path: &str, text: &str| {
            let path = home.join("tree").join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a temporary folder");
            fs::write(path, text).expect("a temporary file");
        };
        write("Cargo.toml", "[workspace]\nresolver = \"3\"\nmembers = [\"crates/*\"]\n");
        for (package, answer) in crates {
            let manifest = format!("[package]\nname = \"{package}\"\nversion = \"0.0.0\"\nedition = \"2024\"\n");
            write(&format!("crates/{package}/Cargo.toml"), &manifest);
            let source = format!(
                "pub fn answer() -> u8 {{\n    {answer}\n}}\n\
                 #[test]\nfn the_answer_is_right() {{\n    assert_eq!(answer(), 42);\n}}\n"
            );
            write(&format!("crates/{package}/src/lib.rs"), &source);
        }
        let copy = Copy { root: home.join("tree"), target: home.join("target") };
        (home, copy)
    }

    fn bug(package: &str, name: &str, replace: &str, test: &str) -> Bug {
        let entry = Entry {
            name: name.into(),
            bug: "the answer is wrong".into(),
            file: Path::new("src/lib.rs").into(),
            find: "-> u8 {\n".into(),
            replace: format!("-> u8 {{\n{replace}\n"),
            lane: Lane::Tests,
            test: test.into(),
        };
        Bug { package: package.into(), entry }
    }

    #[test]
    fn a_bug_that_cannot_be_judged_fails_the_lane_and_costs_no_other_row() {
        let (home, copy) = workspace("broken", &[("flaky", "41"), ("leaf", "42")]);
        let test = "lib::the_answer_is_right";
        let bugs = [
            bug("flaky", "of-a-failing-crate", "return 41;", test),
            bug("leaf", "no-rust", "no such thing;", test),
            bug("leaf", "without-a-test", "return 41;", "lib::renamed"),
            bug("leaf", "wrong", "return 41;", test),
            bug("leaf", "harmless", "if false { return 41; }", test),
        ];
        let rows = judge_all(&copy, &bugs.iter().collect::<Vec<_>>()).unwrap_or_else(|failure| panic!("{failure}"));
        let left = fs::read_to_string(copy.package("leaf").join("src/lib.rs")).expect("written above");
        fs::remove_dir_all(&home).expect("made above");
        let verdicts: Vec<_> = rows.iter().map(|row| (row.bug.entry.name.as_str(), &row.verdict)).collect();
        let found = Verdict::Found { by: test.into() };
        let expected = [
            ("of-a-failing-crate", &Verdict::broken("baseline failed")),
            ("no-rust", &Verdict::broken("does not compile")),
            ("without-a-test", &Verdict::broken("`test` is no test and no module")),
            ("wrong", &found),
            ("harmless", &Verdict::Survived),
        ];
        assert_eq!(verdicts, expected);
        assert!(left.starts_with("pub fn answer() -> u8 {\n    42\n}"), "{left}");
        assert!(report::table(&rows).contains("| no-rust | the answer is wrong | **does not compile** |"));
        assert_eq!(
            outcome(&rows).expect_err("two kinds of failures").to_string(),
            "the tests did not find harmless; the tests could not judge of-a-failing-crate (baseline failed), no-rust \
             (does not compile), without-a-test (`test` is no test and no module)"
        );
    }

    #[test]
    fn the_lane_passes_when_every_bug_is_found() {
        let bug = bug("leaf", "wrong", "return 41;", "lib");
        let row = |verdict| Row { bug: &bug, verdict, seconds: 1.0 };
        let by = || "lib::x".to_owned();
        let found = [row(Verdict::Found { by: by() }), row(Verdict::FoundByAnother { by: by() })];
        assert!(outcome(&found).is_ok());
        assert!(outcome(&[row(Verdict::broken("baseline failed"))]).is_err());
    }
}
