//! Planted bugs: each entry of the tables in `xtask/mutants/` is one, and the tests of its crate must find it.
//!
//! A run works on a copy of the tree. Each bug is a replacement of a few lines, one incremental build of the target
//! that holds the named test, and that test; only if it passes are all other tests of the crate built and run. A bug
//! that does not compile fails the lane: its verdict would prove nothing.

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

/// Plants the selected bugs one after the other and fails if one of them survives.
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
    let survivors: Vec<&str> =
        rows.iter().filter(|row| row.verdict == Verdict::Survived).map(|row| row.bug.entry.name.as_str()).collect();
    let minutes = started.elapsed().as_secs_f64() / 60.0;
    println!(
        "{} of {} planted bugs found in {minutes:.1} min, builds included",
        rows.len() - survivors.len(),
        rows.len()
    );
    if survivors.is_empty() {
        return Ok(());
    }
    Err(Failure::Found(format!("the tests did not find {}", survivors.join(", "))))
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

fn judge_all<'a>(copy: &Copy, bugs: &[&'a Bug]) -> Result<Vec<Row<'a>>, Failure> {
    let lanes: BTreeSet<(&str, Lane)> = bugs.iter().map(|bug| (bug.package.as_str(), bug.entry.lane)).collect();
    let mut rows = Vec::new();
    for (package, lane) in lanes {
        let started = process::now();
        let suite = Suite::baseline(copy, package, lane)?;
        println!("{package}, lane {}, without a bug: passes, {}", lane.name(), seconds(started.elapsed()));
        let of_this_lane = bugs.iter().filter(|bug| bug.package == package && bug.entry.lane == lane);
        let of_this_lane: Vec<&'a Bug> = of_this_lane.copied().collect();
        for bug in &of_this_lane {
            if suite.selected(bug).is_empty() {
                let why = format!("{:?} is no test and no module with tests", bug.entry.test);
                return Err(Failure::Unreadable { what: format!("`test` of {}", bug.entry.name), why });
            }
        }
        for bug in of_this_lane {
            let started = process::now();
            let planted = copy.plant(bug)?;
            let verdict = suite.judge(bug)?;
            planted.restore()?;
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
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
