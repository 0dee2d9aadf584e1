//! Chaos: what happens to telemetry when processes die at random. The trials package plays it.

use std::process::Command;

use crate::fail::Failure;
use crate::process::{self, cargo};
use crate::workspace::Workspace;

const STORMS: &str = "\
usage: cargo xtask chaos <storm> [options]

  kill                 an application under load is killed (SIGKILL) at random moments, its collector fails in every way;
                       an outside ledger of span ids judges: docs/chaos.md
    --kills N          so many kills, 300 if it is not said
    --minutes M        for so long at most, 5 if it is not said; one clean life follows
    --seed S           the same plan again; a new one each time if it is not said
    --no-journal       without durable mode: only what was on disk once is owed
";

/// Builds the trials as an application would be built, and runs a storm.
pub(crate) fn run(workspace: &Workspace, options: &[String]) -> Result<(), Failure> {
    match options.split_first() {
        None => {
            print!("{STORMS}");
            Ok(())
        }
        Some((storm, rest)) if storm == "kill" => {
            process::run(cargo().args(["build", "--release", "--package", "trials"]))?;
            let folder = workspace.target.join("chaos");
            let mut trials = Command::new(workspace.target.join("release/trials"));
            process::run(trials.args(["chaos", "kill"]).args(rest).arg("--folder").arg(folder))
        }
        Some((storm, _)) => Err(Failure::Usage(format!("there is no storm {storm:?}; `cargo xtask chaos` lists them"))),
    }
}
