//! An older version and the present one on one state directory: builds the trial's service against both.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::fail::Failure;
use crate::process::{self, cargo};
use crate::workspace::Workspace;

/// The last commit with the layout before the present one.
const BEFORE: &str = "cffa22b";

/// The one source that is compiled against both versions.
const SERVICE: &str = "upgraded_service";

/// Builds both programs and lets the trials drive them.
pub(crate) fn run(workspace: &Workspace, options: &[String]) -> Result<(), Failure> {
    let commit = match options {
        [] => BEFORE,
        [commit] if !commit.starts_with('-') => commit,
        _ => return Err(Failure::Usage("upgrade takes one commit".into())),
    };
    process::require("git", "--version", "apt-get install git")?;
    let full = resolve(workspace, commit)?;
    let home = workspace.target.join("upgrade");
    let tree = home.join(&full);
    if !tree.exists() {
        fs::create_dir_all(&home).map_err(|source| Failure::File { path: home.clone(), source })?;
        // Forced: git may still know a tree that was deleted with the target folder.
        let mut add = Command::new("git");
        add.current_dir(&workspace.root).args(["worktree", "add", "--quiet", "--force", "--detach"]);
        process::run(add.arg(&tree).arg(&full))?;
    }
    let source = workspace.root.join("xtask/trials/src/bin").join(SERVICE).with_extension("rs");
    let example = tree.join("crates/telemetry-manager/examples").join(SERVICE).with_extension("rs");
    copy(&source, &example)?;
    let built = home.join("target");
    let mut old = cargo();
    old.current_dir(&tree).args(["build", "--release", "--package", "telemetry-manager", "--example", SERVICE]);
    process::run(old.arg("--target-dir").arg(&built))?;
    process::run(cargo().args(["build", "--release", "--package", "trials"]))?;
    let release = workspace.target.join("release");
    let mut trials = Command::new(release.join("trials"));
    trials.arg("upgrade").arg(built.join("release/examples").join(SERVICE)).arg(release.join(SERVICE));
    process::run(&mut trials)
}

/// The whole name of the commit, if the clone has it.
fn resolve(workspace: &Workspace, commit: &str) -> Result<String, Failure> {
    let mut parse = Command::new("git");
    parse.current_dir(&workspace.root).args(["rev-parse", "--verify", "--quiet"]).arg(format!("{commit}^{{commit}}"));
    let full = process::capture(&mut parse).map(|text| text.trim().to_owned());
    full.map_err(|_| {
        Failure::Found(format!(
            "this clone has no commit {commit}; a shallow clone gets its history by: git fetch --unshallow"
        ))
    })
}

fn copy(from: &Path, to: &Path) -> Result<(), Failure> {
    let failed = |source| Failure::File { path: to.to_owned(), source };
    let folder = to.parent().unwrap_or(to);
    fs::create_dir_all(folder).map_err(failed)?;
    fs::copy(from, to).map(drop).map_err(failed)
}
