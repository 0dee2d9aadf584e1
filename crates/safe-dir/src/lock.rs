//! The lock of a directory.

use std::fs::File;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FlockOperation};
use rustix::io::{Errno, retry_on_intr};

use crate::{Directory, FileError, LockError};

/// The lock of a directory, held until it is dropped or the process ends.
///
/// The lock is an advisory one (`flock`) on the file `.lock`, which stays. A child made by `fork` shares it until it
/// calls `exec`: a drop in the process that took the lock releases it for both at once, a drop in the child has no
/// effect.
#[derive(Debug)]
pub struct Lock {
    file: File,
    /// The process that took it.
    process: u32,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing the file would not suffice: a child between `fork` and `exec` still has it open.
        if self.process == std::process::id() {
            let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
        }
    }
}

/// The name of the lock file. A process that removes its directory removes this file last, while it holds the lock.
pub const LOCK_FILE: &str = ".lock";

/// Takes the lock of `dir`, whose handle is `fd`.
pub(crate) fn take(dir: &impl Directory<File = File>, fd: &OwnedFd) -> Result<Lock, LockError> {
    // A holder that removes its directory removes the lock file with it: a process that had opened that file before
    // holds a lock on a file without a name. Each round means that this happened once more, so a few are plenty.
    for _ in 0..ROUNDS {
        let file = dir.open_append(LOCK_FILE).map_err(LockError::File)?;
        match retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(LockError::Held { path: dir.path().to_owned() }),
            Err(errno) => return Err(failed(dir, errno)),
        }
        let mine = rustix::fs::fstat(&file).map_err(|errno| failed(dir, errno))?;
        match rustix::fs::statat(fd, LOCK_FILE, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(named) if (named.st_dev, named.st_ino) == (mine.st_dev, mine.st_ino) => {
                return Ok(Lock { file, process: std::process::id() });
            }
            Ok(_) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(failed(dir, errno)),
        }
    }
    Err(LockError::Held { path: dir.path().to_owned() })
}

const ROUNDS: u32 = 16;

fn failed(dir: &impl Directory, errno: Errno) -> LockError {
    LockError::File(FileError::Io { path: dir.path().join(LOCK_FILE), action: "lock", source: errno.into() })
}
