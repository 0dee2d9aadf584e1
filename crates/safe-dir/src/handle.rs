//! Calls on the handle of a directory that other users may be able to change.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

#[cfg(not(target_os = "linux"))]
use rustix::fs::AtFlags;
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};

use crate::OpenError;

/// The effective user of this process.
pub(crate) fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Gives the owner all rights of the directory `name`, and no other user any, if it belongs to this user. By its
/// handle: another user who may write in `parent` could replace the name.
#[cfg(target_os = "linux")]
pub(crate) fn grant_owner(parent: &OwnedFd, name: &Path) -> Result<(), Errno> {
    use std::os::fd::AsRawFd as _;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = retry_on_intr(|| rustix::fs::openat(parent, name, flags, Mode::empty()))?;
    if rustix::fs::fstat(&fd)?.st_uid != user() {
        return Err(Errno::PERM);
    }
    // A handle that cannot be read has no `fchmod`; this name of it leads nowhere else.
    rustix::fs::chmod(format!("/proc/self/fd/{}", fd.as_raw_fd()), Mode::RWXU)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn grant_owner(parent: &OwnedFd, name: &Path) -> Result<(), Errno> {
    if rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?.st_uid != user() {
        return Err(Errno::PERM);
    }
    rustix::fs::chmodat(parent, name, Mode::RWXU, AtFlags::SYMLINK_NOFOLLOW)
}

/// Makes the names in the directory behind `parent` durable.
pub(crate) fn sync_parent(parent: &OwnedFd) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match retry_on_intr(|| rustix::fs::openat(parent, ".", flags, Mode::empty())) {
        Ok(readable) => retry_on_intr(|| rustix::fs::fsync(&readable)),
        // A directory that this user may write in but not read: its names become durable when the system writes them.
        Err(Errno::ACCESS | Errno::PERM) => Ok(()),
        Err(errno) => Err(errno),
    }
}

pub(crate) fn failed(path: &Path, action: &'static str, source: io::Error) -> OpenError {
    OpenError::Io { path: path.to_owned(), action, source }
}
