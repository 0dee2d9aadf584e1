//! Wrong and unusual set-ups: the README's program, in a folder of its own, starts with each of them.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use crate::fail::Failure;
use crate::process::{self, cargo};
use crate::volumes::require_root;
use crate::workspace::Workspace;

/// Builds the program as a stranger does, and plays the set-ups, or those whose name contains an option; `--write` puts
/// the table into `docs/setups.md`.
pub(crate) fn run(workspace: &Workspace, options: &[String]) -> Result<(), Failure> {
    require_root("setups")?;
    process::require("setpriv", "--version", "apt-get install util-linux")?;
    let folder = workspace.target.join("setups");
    make(workspace, &folder).map_err(|source| Failure::File { path: folder.clone(), source })?;
    let program = workspace.target.join("debug/setups-program");
    process::run(cargo().arg("build").current_dir(&folder).env("CARGO_TARGET_DIR", &workspace.target))?;
    process::run(cargo().args(["build", "--package", "trials"]))?;
    let mut trials = Command::new(workspace.target.join("debug/trials"));
    trials.arg("setups").arg(program).arg(workspace.root.join("docs/setups.md")).args(options);
    process::run(&mut trials)
}

/// The program's folder. It is elsewhere, and its versions are those that the workspace has tried.
fn make(workspace: &Workspace, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder.join("src"))?;
    let origin = workspace.root.join("xtask/setups");
    let manifest = fs::read_to_string(origin.join("Cargo.toml"))?;
    let crates = workspace.root.join("crates");
    fs::write(folder.join("Cargo.toml"), manifest.replace("../../crates", &crates.to_string_lossy()))?;
    fs::copy(workspace.root.join("Cargo.lock"), folder.join("Cargo.lock"))?;
    fs::copy(origin.join("src/main.rs"), folder.join("src/main.rs"))?;
    Ok(())
}
