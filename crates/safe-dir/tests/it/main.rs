//! The directory on real file systems, and the test doubles.

mod doubles;
mod files;
mod interleavings;
mod locks;
mod network;
mod opening;
mod places;
mod processes;
mod quarantine;
mod shared;

use std::path::{Path, PathBuf};
use std::process::Command;

/// A scratch directory that is safe above: it belongs to this user, and no other user can write in it.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::symlink_metadata(path).expect("it exists").mode() & 0o7777
}

fn chmod(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("it is ours");
}

/// Runs one test of this binary in a process of its own, because it changes the umask of the whole process.
fn in_own_process(test: &str, umask: &str, dir: &Path) {
    let binary: PathBuf = std::env::current_exe().expect("this binary");
    let status = Command::new("sh")
        .args(["-c", "umask \"$1\"; exec \"$2\" --exact \"$3\" --nocapture", "sh", umask])
        .arg(&binary)
        .arg(test)
        .env("SAFE_DIR_TEST", dir)
        .output()
        .expect("a shell");
    let output = String::from_utf8_lossy(&status.stdout).into_owned() + &String::from_utf8_lossy(&status.stderr);
    assert!(status.status.success() && output.contains("1 passed"), "umask {umask}: {output}");
}
