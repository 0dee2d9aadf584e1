//! Opening a directory: it belongs to this user, and no other user has any access to it.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};

use crate::OpenError;
use crate::handle::{failed, grant_owner, sync_parent, user};
use crate::walk::{Missing, Reached, walk};

/// A directory that has passed the checks.
pub(crate) struct Opened {
    pub(crate) fd: OwnedFd,
    pub(crate) path: PathBuf,
    /// The user that it belongs to and that this process acts for.
    pub(crate) user: u32,
    /// The mode that it had before others lost their access.
    pub(crate) narrowed: Option<u32>,
}

/// Opens `path`; makes it and the missing directories above it.
pub(crate) fn open(path: &Path) -> Result<Opened, OpenError> {
    let absolute = absolute(path)?;
    let (Some(name), Some(parent)) = (absolute.file_name(), absolute.parent()) else { return Err(invalid(path)) };
    let Reached { fd, path: parent } = walk(parent, Missing::Make)?;
    open_or_make(&fd, Path::new(name), parent.join(name))
}

/// The path from the root; an error unless it ends in a name.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf, OpenError> {
    let absolute = std::path::absolute(path).map_err(|_| invalid(path))?;
    if absolute.file_name().is_some() { Ok(absolute) } else { Err(invalid(path)) }
}

fn invalid(path: &Path) -> OpenError {
    OpenError::InvalidPath { path: path.to_owned() }
}

/// Opens `name` inside the directory behind `parent`, makes it if it does not exist, and checks it.
pub(crate) fn open_or_make(parent: &OwnedFd, name: &Path, path: PathBuf) -> Result<Opened, OpenError> {
    match make(parent, name, path.clone()) {
        Err(error) if error.is_already_exists() => {}
        made => return made,
    }
    let missing = || failed(&path, "open", Errno::NOENT.into());
    open_existing(parent, name, path.clone())?.ok_or_else(missing)
}

/// Makes the directory `name` inside the one behind `parent`, durably, and opens it.
pub(crate) fn make(parent: &OwnedFd, name: &Path, path: PathBuf) -> Result<Opened, OpenError> {
    let failed = |action, errno: Errno| failed(&path, action, errno.into());
    rustix::fs::mkdirat(parent, name, Mode::RWXU).map_err(|errno| failed("create", errno))?;
    let opened = open_existing(parent, name, path.clone())?.ok_or_else(|| failed("open", Errno::NOENT))?;
    sync_parent(parent).map_err(|errno| failed("make durable", errno))?;
    // A default access list of the directory above is no earlier state of this one.
    Ok(Opened { narrowed: None, ..opened })
}

/// Opens `name` inside the directory behind `parent` and checks it; `None` if it does not exist.
pub(crate) fn open_existing(parent: &OwnedFd, name: &Path, path: PathBuf) -> Result<Option<Opened>, OpenError> {
    let open = || {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        retry_on_intr(|| rustix::fs::openat(parent, name, flags, Mode::empty()))
    };
    let opened = match open() {
        // The umask, or a person, has removed bits that this process needs itself.
        Err(Errno::ACCESS) if grant_owner(parent, name).is_ok() => open(),
        opened => opened,
    };
    let fd = match opened {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => {
            let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW);
            return Err(match stat.map(|stat| (FileType::from_raw_mode(stat.st_mode), stat.st_uid)) {
                Ok((FileType::Symlink, _)) => OpenError::Symlink { path },
                // The owner explains why it cannot be opened.
                Ok((FileType::Directory, owner)) if owner != user() => {
                    OpenError::ForeignOwner { path, owner, user: user() }
                }
                Ok((FileType::Directory, _)) | Err(_) => failed(&path, "open", errno.into()),
                Ok(_) => OpenError::NotADirectory { path },
            });
        }
    };
    accept(fd, path).map(Some)
}

/// Checks an open directory; takes the access from others.
pub(crate) fn accept(fd: OwnedFd, path: PathBuf) -> Result<Opened, OpenError> {
    let failed = |action, errno: Errno| failed(&path, action, errno.into());
    let stat = rustix::fs::fstat(&fd).map_err(|errno| failed("look at", errno))?;
    let (user, mode) = (user(), stat.st_mode & 0o7777);
    if stat.st_uid != user {
        return Err(OpenError::ForeignOwner { path, owner: stat.st_uid, user });
    }
    let is_wide = mode & 0o077 != 0;
    if is_wide || mode & 0o700 != 0o700 {
        rustix::fs::fchmod(&fd, Mode::RWXU).map_err(|errno| failed("narrow the permissions of", errno))?;
    }
    Ok(Opened { fd, path, user, narrowed: is_wide.then_some(mode) })
}

/// Whether users other than the owner can write, by the permission bits.
///
/// A group with the id of its user, if that is the user and group of this process, counts as that user: many systems
/// give each user a group of one and an umask of 002.
pub(crate) fn others_may_write(mode: u32, owner: u32, group: u32) -> bool {
    let private_group = owner == user() && group == owner && rustix::process::getegid().as_raw() == group;
    mode & 0o002 != 0 || (mode & 0o020 != 0 && !private_group)
}
