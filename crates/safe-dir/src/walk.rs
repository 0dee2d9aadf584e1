//! The way to a directory, one component at a time: each step starts at the handle of the step before.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::{Errno, retry_on_intr};

use crate::OpenError;
use crate::handle::{failed, grant_owner, sync_parent, user};

/// A directory that a path leads to. Its handle serves for the steps below it and needs no permission to read.
pub(crate) struct Reached {
    pub(crate) fd: OwnedFd,
    /// The path without links.
    pub(crate) path: PathBuf,
}

/// The answer to a component that does not exist.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// It is made, with mode 0700, durably.
    Make,
    /// The walk ends with `ENOENT`.
    Fail,
}

/// Goes to the directory at the absolute `path`. A link is followed only if root or this user owns it: with any other
/// owner, the directory that the next start finds would be that user's choice.
pub(crate) fn walk(path: &Path, missing: Missing) -> Result<Reached, OpenError> {
    let root = open_dir(rustix::fs::CWD, OsStr::new("/")).map_err(|errno| refused(Path::new("/"), "open", errno))?;
    let root_owner = rustix::fs::fstat(&root).map_err(|errno| refused(Path::new("/"), "look at", errno))?.st_uid;
    let mut walk = Walk { above: vec![(root, OsString::new())], root_owner, links: 0 };
    let mut left: VecDeque<_> = components(path).map(|name| (name, missing)).collect();
    while let Some((name, missing)) = left.pop_front() {
        if name == ".." {
            // By the handles of this walk and not by the name: a directory may be moved meanwhile.
            walk.above.truncate(walk.above.len().saturating_sub(1).max(1));
        } else if let Some(target) = walk.step(name, missing)? {
            if target.is_absolute() {
                walk.above.truncate(1);
            }
            // The directories that a link leads to are not made: the link may be a mistake.
            let target: Vec<_> = components(&target).map(|name| (name, Missing::Fail)).collect();
            target.into_iter().rev().for_each(|component| left.push_front(component));
        }
    }
    let path = walk.path();
    // The root is never removed.
    let fd = walk.above.pop().map(|(fd, _)| fd);
    fd.map(|fd| Reached { fd, path }).ok_or_else(|| refused(Path::new("/"), "open", Errno::NOENT))
}

/// A walk under way.
struct Walk {
    /// The directories from the root to the one that was reached, each with its name in the one before.
    above: Vec<(OwnedFd, OsString)>,
    /// In a container without privileges the files of the system belong to an id that stands for root outside.
    root_owner: u32,
    links: u32,
}

impl Walk {
    /// Goes to `name` in the directory that was reached, or returns the target of the link of that name.
    fn step(&mut self, name: OsString, missing: Missing) -> Result<Option<PathBuf>, OpenError> {
        let path = self.path().join(&name);
        let refused = |action, errno| refused(&path, action, errno);
        for _ in 0..MAX_RACES {
            match open_dir(self.last(), &name) {
                Ok(fd) => {
                    self.above.push((fd, name));
                    return Ok(None);
                }
                Err(Errno::NOENT) if missing == Missing::Make => match make(self.last(), &name) {
                    // Another process was faster.
                    Err(Errno::EXIST) => {}
                    made => made.map_err(|errno| refused("create", errno))?,
                },
                // With O_NOFOLLOW and O_DIRECTORY a link is no directory.
                Err(Errno::NOTDIR | Errno::LOOP | Errno::MLINK) => {}
                Err(errno) => return Err(refused("open", errno)),
            }
            match read_link(self.last(), &name) {
                Ok(Entry::Link { owner, target }) => {
                    if owner != 0 && owner != self.root_owner && owner != user() {
                        return Err(OpenError::ForeignLink { path, owner, user: user() });
                    }
                    self.links += 1;
                    if self.links > MAX_LINKS {
                        return Err(refused("open", Errno::LOOP));
                    }
                    return Ok(Some(target));
                }
                Ok(Entry::Other) => return Err(OpenError::NotADirectory { path }),
                // Made a moment ago, replaced or removed: it is opened again.
                Ok(Entry::Directory) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(refused("open", errno)),
            }
        }
        Err(refused("open", Errno::AGAIN))
    }

    fn last(&self) -> &OwnedFd {
        &self.above[self.above.len() - 1].0
    }

    fn path(&self) -> PathBuf {
        std::iter::once(OsStr::new("/")).chain(self.above[1..].iter().map(|(_, name)| name.as_os_str())).collect()
    }
}

enum Entry {
    Link { owner: u32, target: PathBuf },
    Directory,
    Other,
}

fn components(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::CurDir | Component::RootDir | Component::Prefix(_) => None,
    })
}

/// A handle for the steps below. `O_DIRECTORY` lets the system mount a directory that is mounted on demand.
fn open_dir(parent: impl std::os::fd::AsFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    #[cfg(target_os = "linux")]
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    #[cfg(not(target_os = "linux"))]
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    retry_on_intr(|| rustix::fs::openat(&parent, name, flags, Mode::empty()))
}

/// The owner and the target of one and the same link: both are those of a handle.
#[cfg(target_os = "linux")]
fn read_link(parent: &OwnedFd, name: &OsStr) -> Result<Entry, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = retry_on_intr(|| rustix::fs::openat(parent, name, flags, Mode::empty()))?;
    let stat = rustix::fs::fstat(&fd)?;
    // An empty name stands for the handle itself: readlinkat(2), since Linux 2.6.39.
    entry(&stat, || rustix::fs::readlinkat(&fd, "", Vec::new()))
}

/// Without handles of links: the link is the same before and after its target is read.
#[cfg(not(target_os = "linux"))]
fn read_link(parent: &OwnedFd, name: &OsStr) -> Result<Entry, Errno> {
    let look = || rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW);
    let stat = look()?;
    entry(&stat, || {
        let target = rustix::fs::readlinkat(parent, name, Vec::new())?;
        let again = look()?;
        let is_same = (again.st_dev, again.st_ino, again.st_uid) == (stat.st_dev, stat.st_ino, stat.st_uid);
        if is_same { Ok(target) } else { Err(Errno::NOENT) }
    })
}

fn entry(stat: &Stat, target: impl FnOnce() -> Result<std::ffi::CString, Errno>) -> Result<Entry, Errno> {
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => {
            Entry::Link { owner: stat.st_uid, target: OsString::from_vec(target()?.into_bytes()).into() }
        }
        FileType::Directory => Entry::Directory,
        _ => Entry::Other,
    })
}

/// Makes a directory of the way with mode 0700, durably.
fn make(parent: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
    rustix::fs::mkdirat(parent, name, Mode::RWXU)?;
    // The umask may have removed bits that this process needs itself.
    let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if stat.st_mode & 0o700 != 0o700 {
        grant_owner(parent, Path::new(name))?;
    }
    sync_parent(parent)
}

fn refused(path: &Path, action: &'static str, errno: Errno) -> OpenError {
    failed(path, action, errno.into())
}

/// As many as Linux follows: `path_resolution(7)`.
const MAX_LINKS: u32 = 40;

/// Each means that another process has replaced the name between two calls.
const MAX_RACES: u32 = 16;
