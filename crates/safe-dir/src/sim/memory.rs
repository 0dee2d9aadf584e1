//! Directories and files of the disk in memory.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::disk::{DirId, Disk, FileId, Node, State};
use crate::{Directory, Entry, File, FileError, Kind, LockError, Metadata, OpenError, name};

/// A directory of a [`Disk`].
#[derive(Debug)]
pub struct MemoryDir {
    disk: Disk,
    id: DirId,
    path: PathBuf,
    epoch: u64,
}

/// A file of a [`Disk`].
#[derive(Debug)]
pub struct MemoryFile {
    disk: Disk,
    id: FileId,
    position: u64,
    writable: bool,
    epoch: u64,
}

/// The lock of a [`MemoryDir`].
#[derive(Debug)]
pub struct MemoryLock {
    disk: Disk,
    id: DirId,
    epoch: u64,
}

impl MemoryDir {
    pub(super) fn new(disk: Disk, id: DirId, path: PathBuf, epoch: u64) -> Self {
        Self { disk, id, path, epoch }
    }

    fn failed(&self, name: &str, action: &'static str, source: io::Error) -> FileError {
        let path = if name.is_empty() { self.path.clone() } else { self.path.join(name) };
        FileError::Io { path, action, source }
    }

    /// Calls `act` with the state, if the directory still exists and all names are valid.
    fn with<T>(
        &self,
        names: &[&str],
        action: &'static str,
        act: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> Result<T, FileError> {
        for name in names {
            let invalid =
                |problem| FileError::InvalidName { path: self.path.clone(), name: (*name).to_owned(), problem };
            name::check(name).map_err(invalid)?;
        }
        let mut state = self.disk.lock();
        let alive = state.epoch == self.epoch && state.dirs.contains_key(&self.id);
        let done = if alive { act(&mut state) } else { Err(dead()) };
        done.map_err(|source| self.failed(names.last().copied().unwrap_or(""), action, source))
    }

    fn look_up(&self, state: &State, name: &str) -> io::Result<Node> {
        let node = state.dirs.get(&self.id).and_then(|names| names.get(name)).copied();
        node.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn file(&self, id: FileId, writable: bool) -> MemoryFile {
        MemoryFile { disk: self.disk.clone(), id, position: 0, writable, epoch: self.epoch }
    }

    fn open(&self, name: &str, writable: bool) -> Result<MemoryFile, FileError> {
        match self.with(&[name], "open", |state| self.look_up(state, name))? {
            Node::File(id) => Ok(self.file(id, writable)),
            Node::Dir(_) => Err(FileError::NotAFile { path: self.path.join(name), kind: Kind::Directory }),
        }
    }
}

impl Directory for MemoryDir {
    type File = MemoryFile;
    type Lock = MemoryLock;

    fn path(&self) -> &Path {
        &self.path
    }

    fn list(&self) -> Result<Vec<Entry>, FileError> {
        self.with(&[], "read", |state| {
            let names = state.dirs.get(&self.id).into_iter().flatten();
            Ok(names.map(|(name, node)| Entry { name: name.into(), kind: Some(kind(*node)) }).collect())
        })
    }

    fn metadata(&self, name: &str) -> Result<Metadata, FileError> {
        self.with(&[name], "look at", |state| {
            let node = self.look_up(state, name)?;
            let len = match node {
                Node::File(id) => state.files.get(&id).map_or(0, |content| content.data.len() as u64),
                Node::Dir(_) => 0,
            };
            Ok(Metadata { kind: kind(node), len, allocated: len, owner: 0, links: 1, modified: None })
        })
    }

    fn open_read(&self, name: &str) -> Result<MemoryFile, FileError> {
        self.open(name, false)
    }

    fn open_append(&self, name: &str) -> Result<MemoryFile, FileError> {
        match self.create(name) {
            Err(error) if error.is_already_exists() => self.open(name, true),
            other => other,
        }
    }

    fn create(&self, name: &str) -> Result<MemoryFile, FileError> {
        self.with(&[name], "create", |state| {
            if self.look_up(state, name).is_ok() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let id = state.new_file();
            state.change(None, Some((self.id, name.to_owned(), Node::File(id))));
            Ok(self.file(id, true))
        })
    }

    fn rename(&self, from: &str, target: &Self, to: &str) -> Result<(), FileError> {
        self.with(&[from, to], "rename a file to", |state| {
            let node = self.look_up(state, from)?;
            if target.look_up(state, to).is_ok() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            state.change(Some((self.id, from.to_owned())), Some((target.id, to.to_owned(), node)));
            Ok(())
        })
    }

    fn replace(&self, from: &str, to: &str) -> Result<(), FileError> {
        self.with(&[from, to], "replace", |state| {
            let node = self.look_up(state, from)?;
            state.change(Some((self.id, from.to_owned())), Some((self.id, to.to_owned(), node)));
            Ok(())
        })
    }

    fn remove(&self, name: &str) -> Result<(), FileError> {
        self.with(&[name], "remove", |state| match self.look_up(state, name)? {
            Node::File(_) => {
                state.change(Some((self.id, name.to_owned())), None);
                Ok(())
            }
            Node::Dir(_) => Err(io::ErrorKind::IsADirectory.into()),
        })
    }

    fn sync(&self) -> Result<(), FileError> {
        self.with(&[], "sync", |state| {
            state.sync_dir(self.id);
            Ok(())
        })
    }

    fn free_bytes(&self) -> Result<u64, FileError> {
        self.with(&[], "measure the space of", |state| {
            Ok(state.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(state.used())))
        })
    }

    fn subdirectory(&self, name: &str) -> Result<Self, OpenError> {
        let path = self.path.join(name);
        let opened = self.with(&[name], "open", |state| match self.look_up(state, name) {
            Ok(node) => Ok(node),
            Err(_) => {
                let id = state.new_dir();
                state.change(None, Some((self.id, name.to_owned(), Node::Dir(id))));
                state.sync_dir(self.id);
                Ok(Node::Dir(id))
            }
        });
        match opened {
            Ok(Node::Dir(id)) => Ok(Self::new(self.disk.clone(), id, path, self.epoch)),
            Ok(Node::File(_)) => Err(OpenError::NotADirectory { path }),
            Err(FileError::InvalidName { path, name, problem }) => Err(OpenError::InvalidName { path, name, problem }),
            Err(FileError::Io { source, .. }) => Err(OpenError::Io { path, action: "open", source }),
            Err(_) => Err(OpenError::NotADirectory { path }),
        }
    }

    fn remove_subdirectory(&self, name: &str) -> Result<(), FileError> {
        self.with(&[name], "remove", |state| match self.look_up(state, name)? {
            Node::Dir(id) if state.dirs.get(&id).is_some_and(|names| names.is_empty()) => {
                state.change(Some((self.id, name.to_owned())), None);
                state.dirs.remove(&id);
                Ok(())
            }
            Node::Dir(_) => Err(io::ErrorKind::DirectoryNotEmpty.into()),
            Node::File(_) => Err(io::ErrorKind::NotADirectory.into()),
        })
    }

    fn lock(&self) -> Result<MemoryLock, LockError> {
        let taken = self.with(&[], "lock", |state| Ok(state.locked.insert(self.id))).map_err(LockError::File)?;
        if taken {
            Ok(MemoryLock { disk: self.disk.clone(), id: self.id, epoch: self.epoch })
        } else {
            Err(LockError::Held { path: self.path.clone() })
        }
    }
}

impl MemoryFile {
    fn with<T>(&self, act: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.disk.lock();
        if state.epoch == self.epoch { act(&mut state) } else { Err(dead()) }
    }
}

impl Read for MemoryFile {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let len = self.with(|state| {
            let data = state.files.get(&self.id).map_or(&[][..], |content| &content.data);
            let start = usize::try_from(self.position).unwrap_or(usize::MAX).min(data.len());
            let len = out.len().min(data.len() - start);
            out[..len].copy_from_slice(&data[start..start + len]);
            Ok(len)
        })?;
        self.position += len as u64;
        Ok(len)
    }
}

impl Write for MemoryFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.writable {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        self.with(|state| {
            let room = state.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(state.used()));
            let len = bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX));
            if len == 0 && !bytes.is_empty() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            if let Some(content) = state.files.get_mut(&self.id) {
                content.data.extend_from_slice(&bytes[..len]);
            }
            Ok(len)
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for MemoryFile {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        let end = self.len()?;
        let target = match position {
            SeekFrom::Start(target) => Some(target),
            SeekFrom::End(offset) => end.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = target.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

impl File for MemoryFile {
    fn sync(&mut self) -> io::Result<()> {
        self.with(|state| state.sync_file(self.id))
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|state| Ok(state.files.get(&self.id).map_or(0, |content| content.data.len() as u64)))
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.with(|state| {
            if let Some(content) = state.files.get_mut(&self.id) {
                content.resize(usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?);
            }
            Ok(())
        })
    }
}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        let mut state = self.disk.lock();
        if state.epoch == self.epoch {
            state.locked.remove(&self.id);
        }
    }
}

fn kind(node: Node) -> Kind {
    match node {
        Node::File(_) => Kind::File,
        Node::Dir(_) => Kind::Directory,
    }
}

/// The error of a handle from before a crash.
fn dead() -> io::Error {
    io::Error::other("the disk has crashed since")
}
