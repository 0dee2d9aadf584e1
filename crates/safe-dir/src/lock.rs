//! At most one holder of a directory.

use std::fs::File;

use rustix::fs::{AtFlags, FlockOperation};
use rustix::io::{Errno, retry_on_intr};

use crate::{Directory as _, FileError, LockError, SafeDir};

/// The lock of a directory, held until it is dropped or the process ends.
///
/// It is an advisory lock (`flock`) on the file `.lock`, which stays. A child made by `fork` shares it until it calls `exec`: dropping
/// it in the process that took it releases it for both at once, dropping it in the child does nothing.
#[derive(Debug)]
pub struct Lock {
    file: File,
    /// The process that took it.
    process: u32,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing would not do: a child between `fork` and `exec` still has the file open.
        if self.process == std::process::id() {
            let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
        }
    }
}

/// The name of the lock file. Whoever gives a directory up removes it last, while holding the lock.
pub const LOCK_FILE: &str = ".lock";

pub(crate) fn take(dir: &SafeDir) -> Result<Lock, LockError> {
    // A holder that gives the directory up removes the lock file with it: whoever waited on that file has locked nothing.
    // Each round means that this happened once more, so a few are plenty.
    for _ in 0..ROUNDS {
        let file = dir.open_append(LOCK_FILE).map_err(LockError::File)?;
        match retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(LockError::Held { path: dir.path().to_owned() }),
            Err(errno) => return Err(failed(dir, errno)),
        }
        let mine = rustix::fs::fstat(&file).map_err(|errno| failed(dir, errno))?;
        match rustix::fs::statat(dir.fd(), LOCK_FILE, AtFlags::SYMLINK_NOFOLLOW) {
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

fn failed(dir: &SafeDir, errno: Errno) -> LockError {
    LockError::File(FileError::Io { path: dir.path().join(LOCK_FILE), action: "lock", source: errno.into() })
}
