//! The real directory, by handle: the path is used once, to open it.

use std::fs::File as StdFile;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::{Errno, retry_on_intr};

use crate::{
    Directory, Entry, File, FileError, Kind, Lock, LockError, Metadata, OpenError, Space, lock, name, network, open,
};

/// An open directory that belongs to this user and that no other user can read or change.
///
/// The value is a handle: it stays the same directory, even if its path is moved or replaced.
#[derive(Debug)]
pub struct SafeDir {
    fd: OwnedFd,
    path: PathBuf,
    user: u32,
    narrowed: Option<u32>,
}

impl SafeDir {
    /// Opens the directory at `path` with mode 0700; if it does not exist, makes it and the missing directories above
    /// it, durably.
    ///
    /// A directory of this user that others may use is narrowed to 0700: see [`narrowed`](Self::narrowed). The
    /// directories above may belong to other users, who can then take this one away, and not read it. A link above is
    /// followed if root or this user owns it.
    ///
    /// # Errors
    ///
    /// If it belongs to another user, if the path ends in a symbolic link or leads through one of another user, or if
    /// the file system refuses.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        open::open(path.as_ref()).map(Self::from)
    }

    /// The mode that the directory had when this call opened it, if other users had any access then. They have none
    /// now; they may have read names, or planted files, before. Worth one warning.
    #[must_use]
    pub const fn narrowed(&self) -> Option<u32> {
        self.narrowed
    }

    fn check(&self, name: &str) -> Result<(), FileError> {
        let invalid = |problem| FileError::InvalidName { path: self.path.clone(), name: name.to_owned(), problem };
        name::check(name).map_err(invalid)
    }

    fn check_subdirectory(&self, name: &str) -> Result<(), OpenError> {
        let invalid = |problem| OpenError::InvalidName { path: self.path.clone(), name: name.to_owned(), problem };
        name::check(name).map_err(invalid)
    }

    fn failed(&self, name: &str, action: &'static str, errno: Errno) -> FileError {
        let path = if name.is_empty() { self.path.clone() } else { self.path.join(name) };
        FileError::Io { path, action, source: errno.into() }
    }

    /// Opens an existing file, if it is a regular file of this user with one name. Takes the access from others, as far
    /// as the file system lets it: a file on a read-only one is read all the same.
    fn open_existing(&self, name: &str, flags: OFlags) -> Result<StdFile, FileError> {
        // Checked before it is opened, as opening a device may have effects, and checked again after that, as only the
        // handle counts.
        let stat = rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| self.failed(name, "open", errno))?;
        self.accept(name, &stat)?;
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let fd = retry_on_intr(|| rustix::fs::openat(&self.fd, name, flags, Mode::empty()))
            .map_err(|errno| self.failed(name, "open", errno))?;
        let stat = rustix::fs::fstat(&fd).map_err(|errno| self.failed(name, "look at", errno))?;
        self.accept(name, &stat)?;
        if stat.st_mode & 0o077 != 0
            && let Err(errno) = rustix::fs::fchmod(&fd, OWNER_ONLY)
            && errno != Errno::ROFS
        {
            return Err(self.failed(name, "narrow the permissions of", errno));
        }
        Ok(StdFile::from(fd))
    }

    fn accept(&self, name: &str, stat: &Stat) -> Result<(), FileError> {
        let metadata = metadata(stat);
        let path = || self.path.join(name);
        if metadata.kind != Kind::File {
            Err(FileError::NotAFile { path: path(), kind: metadata.kind })
        } else if metadata.owner != self.user {
            Err(FileError::ForeignOwner { path: path(), owner: metadata.owner, user: self.user })
        } else if metadata.links == 0 {
            // Another process has removed it since it was opened.
            Err(FileError::Io { path: path(), action: "open", source: io::ErrorKind::NotFound.into() })
        } else if metadata.links != 1 {
            Err(FileError::SeveralLinks { path: path(), links: metadata.links })
        } else {
            Ok(())
        }
    }
}

impl From<open::Opened> for SafeDir {
    fn from(open::Opened { fd, path, user, narrowed }: open::Opened) -> Self {
        Self { fd, path, user, narrowed }
    }
}

impl Directory for SafeDir {
    type File = StdFile;
    type Lock = Lock;

    fn path(&self) -> &Path {
        &self.path
    }

    fn list(&self) -> Result<Vec<Entry>, FileError> {
        let failed = |errno| self.failed("", "read", errno);
        let mut entries = Vec::new();
        for entry in Dir::read_from(&self.fd).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                let kind = match entry.file_type() {
                    FileType::Unknown => None,
                    known => Some(kind(known)),
                };
                entries.push(Entry { name: std::ffi::OsStr::from_bytes(name).to_owned(), kind });
            }
        }
        Ok(entries)
    }

    fn metadata(&self, name: &str) -> Result<Metadata, FileError> {
        self.check(name)?;
        let stat = rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW);
        stat.map(|stat| metadata(&stat)).map_err(|errno| self.failed(name, "look at", errno))
    }

    fn open_read(&self, name: &str) -> Result<StdFile, FileError> {
        self.check(name)?;
        self.open_existing(name, OFlags::RDONLY)
    }

    fn open_append(&self, name: &str) -> Result<StdFile, FileError> {
        match self.create(name) {
            Err(error) if error.is_already_exists() => {}
            other => return other,
        }
        self.open_existing(name, OFlags::WRONLY | OFlags::APPEND)
    }

    fn create(&self, name: &str) -> Result<StdFile, FileError> {
        self.check(name)?;
        // O_EXCL follows no link and overwrites no file. O_APPEND: after a cut, writes continue at the new end.
        let flags =
            OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = retry_on_intr(|| rustix::fs::openat(&self.fd, name, flags, OWNER_ONLY))
            .map_err(|errno| self.failed(name, "create", errno))?;
        // The umask may have removed bits that this process needs itself.
        rustix::fs::fchmod(&fd, OWNER_ONLY).map_err(|errno| self.failed(name, "create", errno))?;
        Ok(StdFile::from(fd))
    }

    fn rename(&self, from: &str, target: &Self, to: &str) -> Result<(), FileError> {
        self.check(from)?;
        target.check(to)?;
        rename_without_overwriting(&self.fd, from, &target.fd, to)
            .map_err(|errno| target.failed(to, "rename a file to", errno))
    }

    fn replace(&self, from: &str, to: &str) -> Result<(), FileError> {
        self.check(from)?;
        self.check(to)?;
        rustix::fs::renameat(&self.fd, from, &self.fd, to).map_err(|errno| self.failed(to, "replace", errno))
    }

    fn remove(&self, name: &str) -> Result<(), FileError> {
        self.check(name)?;
        rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()).map_err(|errno| self.failed(name, "remove", errno))
    }

    fn sync(&self) -> Result<(), FileError> {
        retry_on_intr(|| rustix::fs::fsync(&self.fd)).map_err(|errno| self.failed("", "sync", errno))
    }

    fn space(&self) -> Result<Space, FileError> {
        let stat = rustix::fs::fstatvfs(&self.fd).map_err(|errno| self.failed("", "measure the space of", errno))?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok(Space { free: bytes(stat.f_bavail), total: bytes(stat.f_blocks) })
    }

    fn is_gone(&self) -> bool {
        is_gone(rustix::fs::fstat(&self.fd)).unwrap_or(false)
    }

    fn is_on_network(&self) -> bool {
        network::is_on_network(&self.fd)
    }

    fn subdirectory(&self, name: &str) -> Result<Self, OpenError> {
        self.check_subdirectory(name)?;
        open::open_or_make(&self.fd, Path::new(name), self.path.join(name)).map(Self::from)
    }

    fn create_subdirectory(&self, name: &str) -> Result<Self, OpenError> {
        self.check_subdirectory(name)?;
        open::make(&self.fd, Path::new(name), self.path.join(name)).map(Self::from)
    }

    fn existing_subdirectory(&self, name: &str) -> Result<Option<Self>, OpenError> {
        self.check_subdirectory(name)?;
        Ok(open::open_existing(&self.fd, Path::new(name), self.path.join(name))?.map(Self::from))
    }

    fn holds_subdirectory(&self, name: &str, dir: &Self) -> Result<bool, FileError> {
        self.check(name)?;
        let named = match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT | Errno::STALE) => return Ok(false),
            Err(errno) => return Err(self.failed(name, "look at", errno)),
        };
        match rustix::fs::fstat(&dir.fd) {
            Ok(stat) => Ok((named.st_dev, named.st_ino) == (stat.st_dev, stat.st_ino)),
            Err(Errno::STALE) => Ok(false),
            Err(errno) => Err(self.failed(name, "look at", errno)),
        }
    }

    fn rename_subdirectory(&self, from: &str, to: &str) -> Result<(), FileError> {
        if self.metadata(from)?.kind != Kind::Directory {
            return Err(self.failed(from, "rename", Errno::NOTDIR));
        }
        self.check(to)?;
        rename_directory(&self.fd, from, to).map_err(|errno| self.failed(to, "rename a directory to", errno))
    }

    fn remove_subdirectory(&self, name: &str) -> Result<(), FileError> {
        self.check(name)?;
        rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR).map_err(|errno| self.failed(name, "remove", errno))
    }

    fn lock(&self) -> Result<Lock, LockError> {
        lock::take(self, &self.fd)
    }
}

impl File for StdFile {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }

    fn is_gone(&self) -> io::Result<bool> {
        Ok(is_gone(rustix::fs::fstat(self))?)
    }
}

/// Whether an open file or directory has no name any more. A server that has forgotten it answers `ESTALE`.
fn is_gone(stat: Result<Stat, Errno>) -> Result<bool, Errno> {
    match stat {
        Ok(stat) => Ok(stat.st_nlink == 0),
        Err(Errno::STALE) => Ok(true),
        Err(errno) => Err(errno),
    }
}

const OWNER_ONLY: Mode = Mode::RUSR.union(Mode::WUSR);

#[cfg(any(target_os = "linux", target_vendor = "apple"))]
fn rename_without_overwriting(from_dir: &OwnedFd, from: &str, to_dir: &OwnedFd, to: &str) -> Result<(), Errno> {
    match rustix::fs::renameat_with(from_dir, from, to_dir, to, rustix::fs::RenameFlags::NOREPLACE) {
        // Some file systems (such as NFS) do not know the flag.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => link_and_unlink(from_dir, from, to_dir, to),
        other => other,
    }
}

#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
fn rename_without_overwriting(from_dir: &OwnedFd, from: &str, to_dir: &OwnedFd, to: &str) -> Result<(), Errno> {
    link_and_unlink(from_dir, from, to_dir, to)
}

#[cfg(any(target_os = "linux", target_vendor = "apple"))]
fn rename_directory(dir: &OwnedFd, from: &str, to: &str) -> Result<(), Errno> {
    match rustix::fs::renameat_with(dir, from, dir, to, rustix::fs::RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => look_and_rename(dir, from, to),
        other => other,
    }
}

#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
fn rename_directory(dir: &OwnedFd, from: &str, to: &str) -> Result<(), Errno> {
    look_and_rename(dir, from, to)
}

/// A directory has no second name that could be made first: the rename alone replaces an empty directory, nothing else.
fn look_and_rename(dir: &OwnedFd, from: &str, to: &str) -> Result<(), Errno> {
    match rustix::fs::statat(dir, to, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Err(Errno::EXIST),
        Err(Errno::NOENT) => rustix::fs::renameat(dir, from, dir, to),
        Err(errno) => Err(errno),
    }
}

/// A crash between the two leaves two names; a start that removes temporary files repairs that.
fn link_and_unlink(from_dir: &OwnedFd, from: &str, to_dir: &OwnedFd, to: &str) -> Result<(), Errno> {
    rustix::fs::linkat(from_dir, from, to_dir, to, AtFlags::empty())?;
    rustix::fs::unlinkat(from_dir, from, AtFlags::empty())
}

fn kind(file_type: FileType) -> Kind {
    match file_type {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        _ => Kind::Special,
    }
}

fn metadata(stat: &Stat) -> Metadata {
    let since = |seconds: i64| {
        let distance = Duration::from_secs(seconds.unsigned_abs());
        let epoch = SystemTime::UNIX_EPOCH;
        if seconds < 0 { epoch.checked_sub(distance) } else { epoch.checked_add(distance) }
    };
    Metadata {
        kind: kind(FileType::from_raw_mode(stat.st_mode)),
        len: u64::try_from(stat.st_size).unwrap_or(0),
        // `st_blocks` counts units of 512 bytes, independent of the block size.
        allocated: u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512),
        owner: stat.st_uid,
        links: stat.st_nlink,
        modified: since(stat.st_mtime),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_removed_since_it_was_opened_does_not_exist() {
        let scratch = tempfile::tempdir().expect("temp dir");
        let dir = SafeDir::open(scratch.path().join("dir")).expect("a well disk");
        let file = std::fs::File::create_new(scratch.path().join("dir/file")).expect("new");
        let stat = || rustix::fs::fstat(&file).expect("open");
        dir.accept("file", &stat()).expect("a file of this user");
        dir.remove("file").expect("there");
        let error = dir.accept("file", &stat()).expect_err("it was removed");
        assert!(error.is_not_found() && !error.is_refused(), "{error}");
    }
}
