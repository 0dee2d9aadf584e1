//! Directories and files of the disk in memory.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::disk::{DirId, Disk, FileId, Host, Node, Reach, State};
use crate::{Directory, Entry, File, FileError, Kind, LOCK_FILE, LockError, Metadata, OpenError, Space, name};

/// A directory of a [`Disk`].
#[derive(Debug)]
pub struct MemoryDir {
    disk: Disk,
    id: DirId,
    path: PathBuf,
    epoch: u64,
    host: Host,
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
    file: FileId,
    epoch: u64,
    host: Host,
}

impl MemoryDir {
    pub(super) fn new(disk: Disk, id: DirId, path: PathBuf, epoch: u64, host: Host) -> Self {
        Self { disk, id, path, epoch, host }
    }

    fn inner(&self, name: &str, id: DirId) -> Self {
        Self::new(self.disk.clone(), id, self.path.join(name), self.epoch, self.host)
    }

    fn failed(&self, name: &str, action: &'static str, source: io::Error) -> FileError {
        let path = if name.is_empty() { self.path.clone() } else { self.path.join(name) };
        FileError::Io { path, action, source }
    }

    /// Calls `act` with the state as one step, if the directory still exists and all names are valid.
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
        self.disk.step();
        let mut state = self.disk.lock();
        let done = if state.epoch != self.epoch {
            Err(dead())
        } else if !state.dirs.contains_key(&self.id) {
            // As on a real one: a removed directory has no names and takes none.
            Err(io::ErrorKind::NotFound.into())
        } else {
            act(&mut state)
        };
        done.map_err(|source| self.failed(names.last().copied().unwrap_or(""), action, source))
    }

    fn missing(&self, name: &str) -> OpenError {
        self.not_opened(name, self.failed(name, "open", io::ErrorKind::NotFound.into()))
    }

    fn not_opened(&self, name: &str, error: FileError) -> OpenError {
        match error {
            FileError::InvalidName { path, name, problem } => OpenError::InvalidName { path, name, problem },
            FileError::Io { source, action, .. } => OpenError::Io { path: self.path.join(name), action, source },
            _ => OpenError::NotADirectory { path: self.path.join(name) },
        }
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
            let (len, modified) = match node {
                Node::File(id) => {
                    let content = state.files.get(&id);
                    (content.map_or(0, |content| content.data.len() as u64), content.map(|content| content.modified))
                }
                Node::Dir(id) => (0, state.dirs_modified.get(&id).copied()),
            };
            Ok(Metadata { kind: kind(node), len, allocated: len, owner: 0, links: 1, modified })
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
            if !self.disk.is(&target.disk) {
                return Err(io::ErrorKind::CrossesDevices.into());
            }
            if !state.dirs.contains_key(&target.id) {
                return Err(io::ErrorKind::NotFound.into());
            }
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

    fn space(&self) -> Result<Space, FileError> {
        self.with(&[], "measure the space of", |state| {
            let total = state.capacity.unwrap_or(u64::MAX);
            Ok(Space { free: total.saturating_sub(state.used()), total })
        })
    }

    fn is_gone(&self) -> bool {
        self.disk.step();
        let state = self.disk.lock();
        state.epoch == self.epoch && !state.dirs.contains_key(&self.id)
    }

    fn is_on_network(&self) -> bool {
        self.disk.lock().reach != Reach::Local
    }

    fn subdirectory(&self, name: &str) -> Result<Self, OpenError> {
        match self.create_subdirectory(name) {
            Err(error) if error.is_already_exists() => {}
            made => return made,
        }
        self.existing_subdirectory(name)?.ok_or_else(|| self.missing(name))
    }

    fn create_subdirectory(&self, name: &str) -> Result<Self, OpenError> {
        let made = self.with(&[name], "create", |state| {
            if self.look_up(state, name).is_ok() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let id = state.new_dir();
            state.change(None, Some((self.id, name.to_owned(), Node::Dir(id))));
            Ok(())
        });
        made.map_err(|error| self.not_opened(name, error))?;
        let opened = self.existing_subdirectory(name)?.ok_or_else(|| self.missing(name))?;
        self.sync().map_err(|error| self.not_opened(name, error))?;
        Ok(opened)
    }

    fn existing_subdirectory(&self, name: &str) -> Result<Option<Self>, OpenError> {
        match self.with(&[name], "open", |state| self.look_up(state, name)) {
            Ok(Node::Dir(id)) => Ok(Some(self.inner(name, id))),
            Ok(Node::File(_)) => Err(OpenError::NotADirectory { path: self.path.join(name) }),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(self.not_opened(name, error)),
        }
    }

    fn holds_subdirectory(&self, name: &str, dir: &Self) -> Result<bool, FileError> {
        match self.with(&[name], "look at", |state| self.look_up(state, name)) {
            Ok(node) => Ok(node == Node::Dir(dir.id)),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn rename_subdirectory(&self, from: &str, to: &str) -> Result<(), FileError> {
        self.with(&[from, to], "rename a directory to", |state| match self.look_up(state, from)? {
            Node::File(_) => Err(io::ErrorKind::NotADirectory.into()),
            Node::Dir(_) if self.look_up(state, to).is_ok() => Err(io::ErrorKind::AlreadyExists.into()),
            node @ Node::Dir(_) => {
                state.change(Some((self.id, from.to_owned())), Some((self.id, to.to_owned(), node)));
                Ok(())
            }
        })
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
        // The steps of the real one, so that another thread may act between them.
        let file = self.open_append(LOCK_FILE).map_err(LockError::File)?.id;
        let taken = self.with(&[LOCK_FILE], "lock", |state| Ok(state.take_lock(self.host, file)));
        if !taken.map_err(LockError::File)? {
            return Err(LockError::Held { path: self.path.clone() });
        }
        let lock = MemoryLock { disk: self.disk.clone(), file, epoch: self.epoch, host: self.host };
        match self.with(&[LOCK_FILE], "lock", |state| self.look_up(state, LOCK_FILE)) {
            Ok(node) if node == Node::File(file) => Ok(lock),
            Err(error) if !error.is_not_found() => Err(LockError::File(error)),
            // Another holder has removed the file since: a new one has to be made, if the directory still exists.
            Ok(_) | Err(_) => self.lock(),
        }
    }
}

impl MemoryFile {
    fn with<T>(&self, act: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        self.disk.step();
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
            state.modify(self.id, |content| content.data.extend_from_slice(&bytes[..len]));
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
            let len = usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?;
            state.modify(self.id, |content| content.resize(len));
            Ok(())
        })
    }

    fn is_gone(&self) -> io::Result<bool> {
        self.with(|state| Ok(!state.is_named(self.id)))
    }
}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        let mut state = self.disk.lock();
        if state.epoch == self.epoch {
            state.release_lock(self.host, self.file);
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
