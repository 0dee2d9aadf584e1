//! A directory that belongs to another user, or that others use too: this user has a subdirectory of it.

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};

use crate::handle::{failed, user};
use crate::open::{self, others_may_write};
use crate::walk::{Missing, Reached, walk};
use crate::{OpenError, SafeDir};

/// The directory that [`SafeDir::open_or_below`] has opened.
#[derive(Debug)]
pub struct Placed {
    /// The directory of this user.
    pub dir: SafeDir,
    /// Where it is.
    pub place: Place,
}

/// Where a directory of this user is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// It is the directory that was asked for.
    Itself,
    /// It is a subdirectory of that one, which belongs to the user `owner`.
    BelowForeign {
        /// The owner.
        owner: u32,
    },
    /// It is a subdirectory of that one, which belongs to this user, and which others can write in.
    BelowShared {
        /// Its permission bits.
        mode: u32,
    },
    /// It is a subdirectory of that one, since an earlier start made it there.
    BelowAsBefore,
}

/// The subdirectory of another user, beside that of this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherBelow {
    /// Its path.
    pub path: PathBuf,
    /// The user it belongs to. Its name may promise another one.
    pub owner: u32,
    /// The bytes of all files in it; `None` if this user may not read it.
    pub bytes: Option<u64>,
}

impl SafeDir {
    /// Opens the directory at `path` if it belongs to this user and no other user can write in it, or makes it.
    /// Otherwise opens its subdirectory `<prefix>-<user id>` under the rules of [`open`](Self::open), and makes that
    /// one if it does not exist: the directory at `path` may be a volume of root that all users write in, or a
    /// directory that users share.
    ///
    /// A directory in use stays in use. If the one at `path` belongs to this user and has a subdirectory of this user
    /// with one of the names `in_use`, it is opened (and narrowed) itself, whatever its mode: a container platform may
    /// have given the group write access between two starts. Else, if it has a subdirectory `<prefix>-<user id>` of
    /// this user, that is opened.
    ///
    /// ```
    /// use safe_dir::{Directory as _, Place, SafeDir};
    /// # use std::os::unix::fs::PermissionsExt as _;
    ///
    /// # let scratch = tempfile::tempdir()?;
    /// # let volume = scratch.path().join("volume");
    /// # std::fs::create_dir(&volume)?;
    /// # std::fs::set_permissions(&volume, std::fs::Permissions::from_mode(0o777))?; // as an `emptyDir` is mounted
    /// let placed = SafeDir::open_or_below(&volume, "queue", &["jobs"])?;
    /// assert_eq!(placed.place, Place::BelowShared { mode: 0o777 });
    /// let name = placed.dir.path().file_name().unwrap().to_str().unwrap();
    /// assert!(name.starts_with("queue-"), "{name}"); // followed by the user id
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If the directory that is to be opened belongs to another user or cannot be made (also because the one at `path`
    /// belongs to another user, and this one may not write in it), if another user owns a link in
    /// the path, or if the file system refuses.
    pub fn open_or_below(path: impl AsRef<Path>, prefix: &str, in_use: &[&str]) -> Result<Placed, OpenError> {
        let absolute = open::absolute(path.as_ref())?;
        let Reached { fd, path } = match walk(&absolute, Missing::Fail) {
            Err(error) if error.is_not_found() => {
                return Ok(Placed { dir: Self::open(&absolute)?, place: Place::Itself });
            }
            reached => reached?,
        };
        let stat = rustix::fs::fstat(&fd).map_err(|errno| failed(&path, "look at", errno.into()))?;
        let (owner, mode, user) = (stat.st_uid, stat.st_mode & 0o7777, user());
        let name = format!("{prefix}-{user}");
        let is_ours = |name: &str| {
            let stat = rustix::fs::statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW);
            stat.is_ok_and(|stat| stat.st_uid == user && FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
        };
        let place = if owner != user {
            Place::BelowForeign { owner }
        } else if in_use.iter().any(|name| is_ours(name)) {
            Place::Itself
        } else if others_may_write(mode, owner, stat.st_gid) {
            Place::BelowShared { mode }
        } else if is_ours(&name) {
            Place::BelowAsBefore
        } else {
            Place::Itself
        };
        let opened = match place {
            Place::Itself => {
                let readable = open_again(&fd).map_err(|errno| failed(&path, "open", errno.into()))?;
                open::accept(readable, path)?
            }
            _ => match open::open_or_make(&fd, Path::new(&name), path.join(&name)) {
                // The reason is not in the subdirectory, but in the directory that this user may not write in.
                Err(OpenError::Io { source, .. }) if owner != user && source.kind() == ErrorKind::PermissionDenied => {
                    return Err(OpenError::ForeignOwner { path, owner, user });
                }
                opened => opened?,
            },
        };
        Ok(Placed { dir: opened.into(), place })
    }
}

/// The subdirectories `<prefix>-<user id>` of other users in the directory at `path`, in no order: for a report on
/// files that this user cannot use. Reads the whole content of those that this user may read: seldom any.
///
/// # Errors
///
/// If the directory at `path` cannot be reached or read.
pub fn others_below(path: impl AsRef<Path>, prefix: &str) -> Result<Vec<OtherBelow>, OpenError> {
    let Reached { fd, path } = walk(&open::absolute(path.as_ref())?, Missing::Fail)?;
    let failed = |errno: Errno| failed(&path, "read", errno.into());
    let own = user().to_string();
    let mut others = Vec::new();
    for entry in Dir::new(open_again(&fd).map_err(failed)?).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        let Some(id) = name.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('-')) else { continue };
        if id == own || id.parse::<u32>().is_err() {
            continue;
        }
        let Ok(stat) = rustix::fs::statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let bytes = bytes_in(&fd, name, MAX_DEPTH);
            others.push(OtherBelow { path: path.join(name), owner: stat.st_uid, bytes });
        }
    }
    Ok(others)
}

/// A readable handle of the same directory.
fn open_again(fd: &OwnedFd) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    retry_on_intr(|| rustix::fs::openat(fd, ".", flags, Mode::empty()))
}

/// The bytes of all files in the directory `name`; `None` if a part of it cannot be read.
fn bytes_in(parent: &OwnedFd, name: &str, depth: u32) -> Option<u64> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = retry_on_intr(|| rustix::fs::openat(parent, name, flags, Mode::empty())).ok()?;
    let mut bytes = 0_u64;
    for entry in Dir::read_from(&fd).ok()? {
        let entry = entry.ok()?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let Ok(stat) = rustix::fs::statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        let inside = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => u64::try_from(stat.st_size).unwrap_or(0),
            FileType::Directory if depth > 0 => bytes_in(&fd, name.to_str().ok()?, depth - 1)?,
            _ => 0,
        };
        bytes = bytes.saturating_add(inside);
    }
    Some(bytes)
}

/// More levels than any of our directories has.
const MAX_DEPTH: u32 = 8;
