//! Idle programs: the wake-ups of our threads. The trials play them and know their options.

use std::process::Command;

use crate::fail::Failure;
use crate::process::{self, cargo};
use crate::workspace::Workspace;

/// Builds the trials as an application is built, and counts.
pub(crate) fn run(workspace: &Workspace, options: &[String]) -> Result<(), Failure> {
    process::run(cargo().args(["build", "--release", "--package", "trials"]))?;
    process::run(Command::new(workspace.target.join("release/trials")).arg("idle").args(options))
}
