//! The scratch directory of a test, and those that processes which were killed have left.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use safe_dir::{Directory as _, LOCK_FILE, Locked, SafeDir};
use tempfile::TempDir;

/// The beginning of a scratch directory's name; the id of the process and random letters follow.
const PREFIX: &str = "holdfast-test-";
/// Random letters of a name.
const RANDOM: usize = 6;
/// The mode of a scratch directory.
const PRIVATE: u32 = 0o700;
/// Directories that a start removes, at most.
const MOST: usize = 16;
/// Directories that are made until one has been locked.
const ROUNDS: usize = 8;

/// A directory of one test below the system's temporary one, removed when dropped.
///
/// Its lock is held as long as the test runs, and the system releases the lock of a process that is killed: a directory
/// whose lock is free has no test any more.
pub(super) struct Scratch {
    dir: TempDir,
    _lock: Locked<SafeDir>,
}

impl Scratch {
    /// Makes a directory, and removes those that killed processes have left beside it.
    pub(super) fn new() -> io::Result<Self> {
        Self::below(&std::env::temp_dir())
    }

    fn below(temporary: &Path) -> io::Result<Self> {
        let mut error = io::Error::from(io::ErrorKind::AlreadyExists);
        for _ in 0..ROUNDS {
            match Self::make(temporary) {
                Ok(scratch) => {
                    scratch.remove_abandoned(temporary);
                    return Ok(scratch);
                }
                // Another process took the directory for an abandoned one, before its lock was taken here.
                Err(other) => error = other,
            }
        }
        Err(error)
    }

    fn make(temporary: &Path) -> io::Result<Self> {
        let prefix = format!("{PREFIX}{}-", std::process::id());
        // The directory is made with this mode, and not narrowed afterwards.
        let private = Permissions::from_mode(PRIVATE);
        let mut builder = tempfile::Builder::new();
        let dir = builder.prefix(&prefix).rand_bytes(RANDOM).permissions(private).tempdir_in(temporary)?;
        let opened = SafeDir::open(dir.path()).map_err(io::Error::other)?;
        let lock = Locked::new(opened).map_err(io::Error::other)?;
        Ok(Self { dir, _lock: lock })
    }

    /// The directory itself.
    #[cfg(test)]
    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The path for the files of the test's exporter.
    pub(super) fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// Removes directories like this one whose process has ended. One that cannot be removed is left.
    fn remove_abandoned(&self, temporary: &Path) {
        let (Ok(own), Ok(entries)) = (self.dir.path().symlink_metadata(), fs::read_dir(temporary)) else { return };
        let named = entries.flatten().filter(|entry| is_scratch(&entry.file_name()));
        let _ = named.filter(|entry| remove_if_abandoned(&entry.path(), own.uid())).take(MOST).count();
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // After an error the `TempDir` removes the rest.
        let _ = remove(self.dir.path());
    }
}

/// Whether the name is one that [`Scratch`] gives.
fn is_scratch(name: &OsStr) -> bool {
    let Some((process, random)) =
        name.to_str().and_then(|name| name.strip_prefix(PREFIX)).and_then(|rest| rest.split_once('-'))
    else {
        return false;
    };
    let is_number = !process.is_empty() && process.len() <= 10 && process.bytes().all(|byte| byte.is_ascii_digit());
    is_number && random.len() == RANDOM && random.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// Removes the directory if it is a private one of this user whose lock is free. Returns whether it is gone.
///
/// The id in the name decides nothing: another process may have it by now, or a process of another container.
fn remove_if_abandoned(path: &Path, user: u32) -> bool {
    let is_private =
        |metadata: fs::Metadata| metadata.is_dir() && metadata.uid() == user && metadata.mode() & 0o7777 == PRIVATE;
    // The metadata of a link is that of the link itself.
    if !path.symlink_metadata().is_ok_and(is_private) {
        return false;
    }
    // Opened without following a link, whatever the name leads to by now.
    let Ok(dir) = SafeDir::open(path) else { return false };
    // There a lock may bind the processes of one machine only.
    if dir.is_on_network() {
        return false;
    }
    let Ok(_lock) = Locked::new(dir) else { return false };
    remove(path).is_ok()
}

/// Removes a directory whose lock is held here. The lock file goes last: without it another process could take the lock
/// of a directory that is half removed.
fn remove(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_name() == LOCK_FILE {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    fs::remove_file(path.join(LOCK_FILE))?;
    fs::remove_dir(path)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::os::unix::fs::symlink;

    use super::*;

    fn private(path: &Path) {
        fs::create_dir(path).expect("a directory");
        fs::set_permissions(path, Permissions::from_mode(PRIVATE)).expect("its mode");
    }

    fn names(dir: &Path) -> BTreeSet<String> {
        let entries = fs::read_dir(dir).expect("a directory");
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect()
    }

    #[test]
    fn abandoned_directories_are_removed_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        // Left by killed processes: with files and a free lock; before its lock was taken; with the id of this process.
        private(&at("holdfast-test-1-abcDE9"));
        private(&at("holdfast-test-1-abcDE9/state"));
        fs::write(at("holdfast-test-1-abcDE9/state/file"), "spans").expect("a file");
        fs::write(at("holdfast-test-1-abcDE9/.lock"), "").expect("a file");
        private(&at("holdfast-test-4294967295-000000"));
        let own = format!("holdfast-test-{}-aaaaaa", std::process::id());
        private(&at(&own));
        let alive = Scratch::below(dir.path()).expect("a directory");
        assert_eq!(names(dir.path()).len(), 1, "{:?}", names(dir.path()));

        // A link inside leads out of the directory: the link goes, and its target stays.
        let target = tempfile::tempdir().expect("a directory");
        fs::write(target.path().join("kept"), "").expect("a file");
        private(&at("holdfast-test-2-abcdef"));
        symlink(target.path(), at("holdfast-test-2-abcdef/link")).expect("a link");
        // Not ours: other names, other modes, a link, a file, and one that is in use.
        for name in [
            "holdfast-test-abcdef",
            "holdfast-test-x1-abcdef",
            "holdfast-test-1-abcde",
            "holdfast-test-1-abc/",
            "other",
        ] {
            private(&at(name));
        }
        private(&at("holdfast-test-3-shared"));
        fs::set_permissions(at("holdfast-test-3-shared"), Permissions::from_mode(0o750)).expect("its mode");
        symlink(target.path(), at("holdfast-test-4-linked")).expect("a link");
        fs::write(at("holdfast-test-5-afiles"), "").expect("a file");
        let before = names(dir.path());
        let second = Scratch::below(dir.path()).expect("a directory");
        let mut expected = before;
        assert!(expected.remove("holdfast-test-2-abcdef"));
        expected.insert(second.path().file_name().expect("a name").to_str().expect("UTF-8").to_owned());
        assert_eq!(names(dir.path()), expected);
        assert!(target.path().join("kept").exists() && alive.path().exists());
        let mode = at("holdfast-test-3-shared").metadata().expect("a directory").permissions().mode();
        assert_eq!(mode & 0o7777, 0o750, "a directory that is left stays as it was");
        let (first, second) = (alive.path().to_owned(), second);
        drop((alive, second));
        assert!(!first.exists());
    }

    #[test]
    fn a_start_removes_a_bounded_number() {
        let dir = tempfile::tempdir().expect("a directory");
        for number in 0..MOST + 5 {
            private(&dir.path().join(format!("holdfast-test-1-{number:06}")));
        }
        let first = Scratch::below(dir.path()).expect("a directory");
        assert_eq!(names(dir.path()).len(), 5 + 1);
        let second = Scratch::below(dir.path()).expect("a directory");
        assert_eq!(names(dir.path()).len(), 2);
        drop((first, second));
        assert_eq!(names(dir.path()).len(), 0);
    }

    #[test]
    fn processes_that_start_at_once_take_nothing_from_each_other() {
        let dir = tempfile::tempdir().expect("a directory");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..25 {
                        let scratch = Scratch::below(dir.path()).expect("a directory");
                        fs::create_dir(scratch.state_dir()).expect("it is there");
                        fs::write(scratch.state_dir().join("file"), "spans").expect("it is there");
                        assert!(scratch.state_dir().join("file").exists());
                    }
                });
            }
        });
        assert_eq!(names(dir.path()).len(), 0);
    }
}
