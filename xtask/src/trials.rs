//! Trials that are no lane of their own. They know their options.

use std::process::Command;

use crate::fail::Failure;
use crate::process::{self, cargo};
use crate::workspace::Workspace;

const TRIALS: [&str; 1] = ["slow-disk"];

/// Builds the trials as an application is built, and runs one.
pub(crate) fn run(workspace: &Workspace, options: &[String]) -> Result<(), Failure> {
    let known = options.first().is_some_and(|name| TRIALS.contains(&name.as_str()));
    if !known {
        return Err(Failure::Usage(format!("the trials are: {}", TRIALS.join(", "))));
    }
    process::require("strace", "--version", "apt-get install strace")?;
    process::run(cargo().args(["build", "--release", "--package", "trials"]))?;
    process::run(Command::new(workspace.target.join("release/trials")).args(options))
}
