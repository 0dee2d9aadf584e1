//! A directory in which the disk fails to read some bytes of some files.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};

use safe_dir::{Directory, Entry, File, FileError, LockError, Metadata, OpenError, Space};

/// The unreadable bytes by file. A clone is the same disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct BadSectors(Arc<Mutex<BTreeMap<String, Range<u64>>>>);

impl BadSectors {
    pub(crate) fn set(&self, name: &str, bytes: Range<u64>) {
        self.0.lock().expect("no panic").insert(name.to_owned(), bytes);
    }

    pub(crate) fn clear(&self) {
        self.0.lock().expect("no panic").clear();
    }

    pub(crate) fn dir<D: Directory>(&self, inner: D) -> BadDir<D> {
        BadDir { inner, sectors: self.clone() }
    }
}

#[derive(Debug)]
pub(crate) struct BadDir<D> {
    inner: D,
    sectors: BadSectors,
}

pub(crate) struct BadFile<F> {
    inner: F,
    name: String,
    at: u64,
    sectors: BadSectors,
}

impl<D: Directory> BadDir<D> {
    fn file(&self, name: &str, inner: D::File) -> BadFile<D::File> {
        BadFile { inner, name: name.to_owned(), at: 0, sectors: self.sectors.clone() }
    }
}

impl<D: Directory> Directory for BadDir<D> {
    type File = BadFile<D::File>;
    type Lock = D::Lock;

    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn list(&self) -> Result<Vec<Entry>, FileError> {
        self.inner.list()
    }

    fn metadata(&self, name: &str) -> Result<Metadata, FileError> {
        self.inner.metadata(name)
    }

    fn open_read(&self, name: &str) -> Result<Self::File, FileError> {
        self.inner.open_read(name).map(|file| self.file(name, file))
    }

    fn open_append(&self, name: &str) -> Result<Self::File, FileError> {
        self.inner.open_append(name).map(|file| self.file(name, file))
    }

    fn create(&self, name: &str) -> Result<Self::File, FileError> {
        self.inner.create(name).map(|file| self.file(name, file))
    }

    fn rename(&self, from: &str, target: &Self, to: &str) -> Result<(), FileError> {
        self.inner.rename(from, &target.inner, to)
    }

    fn replace(&self, from: &str, to: &str) -> Result<(), FileError> {
        self.inner.replace(from, to)
    }

    fn remove(&self, name: &str) -> Result<(), FileError> {
        self.inner.remove(name)
    }

    fn sync(&self) -> Result<(), FileError> {
        self.inner.sync()
    }

    fn space(&self) -> Result<Space, FileError> {
        self.inner.space()
    }

    fn is_gone(&self) -> bool {
        self.inner.is_gone()
    }

    fn is_on_network(&self) -> bool {
        self.inner.is_on_network()
    }

    fn create_subdirectory(&self, name: &str) -> Result<Self, OpenError> {
        Ok(self.sectors.dir(self.inner.create_subdirectory(name)?))
    }

    fn existing_subdirectory(&self, name: &str) -> Result<Option<Self>, OpenError> {
        Ok(self.inner.existing_subdirectory(name)?.map(|inner| self.sectors.dir(inner)))
    }

    fn holds_subdirectory(&self, name: &str, dir: &Self) -> Result<bool, FileError> {
        self.inner.holds_subdirectory(name, &dir.inner)
    }

    fn rename_subdirectory(&self, from: &str, to: &str) -> Result<(), FileError> {
        self.inner.rename_subdirectory(from, to)
    }

    fn subdirectory(&self, name: &str) -> Result<Self, OpenError> {
        Ok(self.sectors.dir(self.inner.subdirectory(name)?))
    }

    fn remove_subdirectory(&self, name: &str) -> Result<(), FileError> {
        self.inner.remove_subdirectory(name)
    }

    fn lock(&self) -> Result<Self::Lock, LockError> {
        self.inner.lock()
    }
}

impl<F: Read> Read for BadFile<F> {
    /// As Linux: the bytes before the bad ones, then an error.
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let bad = self.sectors.0.lock().expect("no panic").get(&self.name).cloned().unwrap_or(0..0);
        let mut len = out.len();
        if bad.contains(&self.at) {
            return Err(io::Error::from_raw_os_error(5));
        }
        if self.at < bad.start {
            len = len.min(usize::try_from(bad.start - self.at).expect("small"));
        }
        let read = self.inner.read(&mut out[..len])?;
        self.at += read as u64;
        Ok(read)
    }
}

impl<F: Write> Write for BadFile<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<F: Seek> Seek for BadFile<F> {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.at = self.inner.seek(position)?;
        Ok(self.at)
    }
}

impl<F: File> File for BadFile<F> {
    fn sync(&mut self) -> io::Result<()> {
        self.inner.sync()
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.inner.truncate(len)
    }

    fn is_gone(&self) -> io::Result<bool> {
        self.inner.is_gone()
    }
}
