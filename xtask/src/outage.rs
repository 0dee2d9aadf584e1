//! Outages, the stock exporter and ours side by side: the trials package plays them.

use std::process::Command;

use crate::fail::Failure;
use crate::process::{self, cargo};
use crate::workspace::Workspace;

/// Builds the trials as an application would be built, and runs them.
pub(crate) fn run(workspace: &Workspace, options: &[String]) -> Result<(), Failure> {
    if let Some(option) = options.iter().find(|option| !matches!(option.as_str(), "--short" | "--long")) {
        return Err(Failure::Usage(format!("outage takes --short or --long, got {option:?}")));
    }
    process::run(cargo().args(["build", "--release", "--package", "trials"]))?;
    process::run(Command::new(workspace.target.join("release/trials")).arg("outage").args(options))
}
