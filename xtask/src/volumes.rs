//! Directories as container platforms mount them: the trials play the cases under other users.

use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

use crate::fail::Failure;
use crate::process::{self, cargo};
use crate::workspace::Workspace;

const GET: &str = "apt-get install util-linux";

/// Builds the trials and plays the cases, or those whose name contains an option.
pub(crate) fn run(workspace: &Workspace, options: &[String]) -> Result<(), Failure> {
    require_root("volumes")?;
    for tool in ["setpriv", "mount", "umount"] {
        process::require(tool, "--version", GET)?;
    }
    process::run(cargo().args(["build", "--package", "trials"]))?;
    process::run(Command::new(workspace.target.join("debug/trials")).arg("volumes").args(options))
}

/// Fails if this process is not root's.
pub(crate) fn require_root(lane: &str) -> Result<(), Failure> {
    // This process's entry belongs to its effective user.
    let user = std::fs::metadata("/proc/self").map_or(u32::MAX, |process| process.uid());
    root_or(user, lane)
}

fn root_or(user: u32, lane: &str) -> Result<(), Failure> {
    if user == 0 {
        return Ok(());
    }
    let why =
        format!("{lane}: the lane changes users and owners: run it as root, or in a container whose user is root");
    Err(Failure::Found(why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_root_the_lane_fails_and_says_so() {
        assert!(root_or(0, "volumes").is_ok());
        for user in [1_000, u32::MAX] {
            assert!(root_or(user, "volumes").unwrap_err().to_string().contains("run it as root"));
        }
    }
}
