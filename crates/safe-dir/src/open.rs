//! Opening a directory, and the checks of its path.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};

use crate::OpenError;

/// The rules of [`SafeDir::open_with`](crate::SafeDir::open_with) for the path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Whether the directories above must be safe too; they must by default.
    pub parents: Parents,
}

/// The requirements on the directories above the one that is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Parents {
    /// Each of them, up to the root, belongs to this user or the system, and no other user can write in it, unless it
    /// is sticky like `/tmp`. Otherwise another user could replace the directory before the next start.
    #[default]
    Checked,
    /// No requirement: for a volume whose mount point has unusual permissions and a single user.
    Trusted,
}

/// A directory that has passed the checks.
pub(crate) struct Opened {
    pub(crate) fd: OwnedFd,
    pub(crate) path: PathBuf,
    /// The user that it belongs to and that this process acts for.
    pub(crate) user: u32,
}

/// Opens `path`; makes it and the missing directories above it.
pub(crate) fn open(path: &Path, options: Options) -> Result<Opened, OpenError> {
    let invalid = || OpenError::InvalidPath { path: path.to_owned() };
    let absolute = std::path::absolute(path).map_err(|_| invalid())?;
    let (Some(name), Some(parent)) = (absolute.file_name(), absolute.parent()) else { return Err(invalid()) };
    let name = name.to_owned();
    if options.parents == Parents::Checked {
        check_before_making(&absolute)?;
    }
    make_missing(parent)?;
    // Links in the path above are set by the system, such as /var/run: the checks are for their targets.
    let parent = parent.canonicalize().map_err(|source| failed(parent, "resolve", source))?;
    let path = parent.join(&name);
    let parent_fd = open_parent(&parent)?;
    // An existing directory is checked before its parents: its remedy is closer to the user.
    let dir = open_or_make(&parent_fd, Path::new(&name), path)?;
    if options.parents == Parents::Checked {
        check_parents(&dir.path, dir.path.ancestors().skip(1))?;
    }
    Ok(dir)
}

/// Before a directory is made, its parents must be safe: another user could put a link in its place before its mode is
/// set. Also, a refused path leaves no directory behind.
fn check_before_making(path: &Path) -> Result<(), OpenError> {
    if fs::symlink_metadata(path).is_ok() {
        return Ok(());
    }
    // A path that cannot be examined fails later, when it is made.
    let existing = path.ancestors().skip(1).find_map(|above| above.canonicalize().ok());
    existing.map_or(Ok(()), |existing| check_parents(path, existing.ancestors()))
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
    // The umask may have removed bits that this process needs itself. No other user can have replaced the name.
    rustix::fs::chmodat(parent, name, Mode::RWXU, AtFlags::empty()).map_err(|errno| failed("create", errno))?;
    let opened = open_existing(parent, name, path.clone())?.ok_or_else(|| failed("open", Errno::NOENT))?;
    sync_parent(parent).map_err(|errno| failed("make durable", errno))?;
    Ok(opened)
}

/// Opens `name` inside the directory behind `parent` and checks it; `None` if it does not exist.
pub(crate) fn open_existing(parent: &OwnedFd, name: &Path, path: PathBuf) -> Result<Option<Opened>, OpenError> {
    let failed = |action, errno: Errno| failed(&path, action, errno.into());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = match retry_on_intr(|| rustix::fs::openat(parent, name, flags, Mode::empty())) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => {
            let kind = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
                .map(|stat| FileType::from_raw_mode(stat.st_mode));
            return Err(match kind {
                Ok(FileType::Symlink) => OpenError::Symlink { path },
                Ok(FileType::Directory) | Err(_) => failed("open", errno),
                Ok(_) => OpenError::NotADirectory { path },
            });
        }
    };
    let stat = rustix::fs::fstat(&fd).map_err(|errno| failed("look at", errno))?;
    let user = user();
    let mode = stat.st_mode & 0o7777;
    if stat.st_uid != user {
        return Err(OpenError::ForeignOwner { path, owner: stat.st_uid, user });
    }
    if others_may_write(mode, stat.st_uid, stat.st_gid) {
        return Err(OpenError::WritableByOthers { path, mode });
    }
    if mode & 0o077 != 0 || mode & 0o700 != 0o700 {
        rustix::fs::fchmod(&fd, Mode::RWXU).map_err(|errno| failed("narrow the permissions of", errno))?;
    }
    Ok(Some(Opened { fd, path, user }))
}

/// The effective user of this process.
pub(crate) fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Whether users other than the owner can write, by the permission bits.
///
/// A group with the id of its user, if that is the user and group of this process, counts as that user: many systems
/// give each user a group of one and an umask of 002.
fn others_may_write(mode: u32, owner: u32, group: u32) -> bool {
    let private_group = owner == user() && group == owner && rustix::process::getegid().as_raw() == group;
    mode & 0o002 != 0 || (mode & 0o020 != 0 && !private_group)
}

fn check_parents<'a>(path: &Path, parents: impl Iterator<Item = &'a Path>) -> Result<(), OpenError> {
    let root_owner = fs::symlink_metadata("/").map_err(|source| failed(Path::new("/"), "look at", source))?.uid();
    for parent in parents {
        let metadata = fs::symlink_metadata(parent).map_err(|source| failed(parent, "look at", source))?;
        let (mode, owner) = (metadata.mode() & 0o7777, metadata.uid());
        // In a container without privileges the files of the system belong to an id that stands for root outside.
        let trusted_owner = owner == 0 || owner == user() || owner == root_owner;
        let sticky = mode & 0o1000 != 0;
        if !trusted_owner || (!sticky && others_may_write(mode, owner, metadata.gid())) {
            return Err(OpenError::UnsafeParent { path: path.to_owned(), parent: parent.to_owned(), mode, owner });
        }
    }
    Ok(())
}

/// Makes the directories above, with mode 0700, each durable before the next.
fn make_missing(path: &Path) -> Result<(), OpenError> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => return Ok(()),
        Ok(_) => return Err(OpenError::NotADirectory { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(failed(path, "open", source)),
    }
    let Some(parent) = path.parent() else { return Err(failed(path, "open", io::ErrorKind::NotFound.into())) };
    make_missing(parent)?;
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return make_missing_again(path),
        Err(source) => return Err(failed(path, "create", source)),
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(|source| failed(path, "create", source))?;
    let synced = open_parent(parent).map(|parent| sync_parent(&parent));
    synced?.map_err(|errno| failed(path, "make durable", errno.into()))
}

/// Another process was faster, or the path is a dangling link.
fn make_missing_again(path: &Path) -> Result<(), OpenError> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(OpenError::NotADirectory { path: path.to_owned() }),
        Err(source) => Err(failed(path, "open", source)),
    }
}

/// A handle that only leads to the directories below: it needs no permission to read.
fn open_parent(path: &Path) -> Result<OwnedFd, OpenError> {
    #[cfg(target_os = "linux")]
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    #[cfg(not(target_os = "linux"))]
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty())).map_err(|errno| failed(path, "open", errno.into()))
}

fn sync_parent(parent: &OwnedFd) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let readable = retry_on_intr(|| rustix::fs::openat(parent, ".", flags, Mode::empty()))?;
    retry_on_intr(|| rustix::fs::fsync(&readable))
}

fn failed(path: &Path, action: &'static str, source: io::Error) -> OpenError {
    OpenError::Io { path: path.to_owned(), action, source }
}
