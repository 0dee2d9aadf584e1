//! Trials: whole programs against each other. They know their options.

use std::process::Command;

use crate::fail::Failure;
use crate::process::{self, cargo};
use crate::workspace::Workspace;

const TRIALS: [&str; 1] = ["slow-disk"];

/// Builds the trials as an application is built, and runs one.
pub(crate) fn lane(workspace: &Workspace, trial: &str, options: &[String]) -> Result<(), Failure> {
    process::run(cargo().args(["build", "--release", "--package", "trials"]))?;
    process::run(Command::new(workspace.target.join("release/trials")).arg(trial).args(options))
}

/// Runs a trial that is no lane.
pub(crate) fn run(workspace: &Workspace, options: &[String]) -> Result<(), Failure> {
    let known = options.split_first().filter(|(name, _)| TRIALS.contains(&name.as_str()));
    let Some((trial, options)) = known else {
        return Err(Failure::Usage(format!("the trials are: {}", TRIALS.join(", "))));
    };
    process::require("strace", "--version", "apt-get install strace")?;
    lane(workspace, trial, options)
}
