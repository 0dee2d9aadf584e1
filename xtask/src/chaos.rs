//! Chaos: processes that die at random. The trials play the storms and know their options.

use std::process::Command;

use crate::fail::Failure;
use crate::process::{self, cargo};
use crate::workspace::Workspace;

/// Builds the trials as an application is built, and runs a storm; without a name the trials list the storms.
pub(crate) fn run(workspace: &Workspace, options: &[String]) -> Result<(), Failure> {
    process::run(cargo().args(["build", "--release", "--package", "trials"]))?;
    let mut trials = Command::new(workspace.target.join("release/trials"));
    trials.arg("chaos").args(options);
    if !options.is_empty() {
        trials.arg("--folder").arg(workspace.target.join("chaos"));
    }
    process::run(&mut trials)
}
