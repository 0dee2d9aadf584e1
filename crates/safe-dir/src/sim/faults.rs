//! Faults at the n-th call, over any directory.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{Directory, Entry, File, FileError, LockError, Metadata, OpenError, Space};

/// A kind of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The call has no effect and fails with this error number, such as 5 for `EIO` or 28 for `ENOSPC`.
    Errno(i32),
    /// A write takes half of the bytes, and returns their number; other calls succeed.
    ShortWrite,
    /// A write takes half of the bytes, and then fails with this error number; other calls fail without an effect.
    TornWrite(i32),
}

/// The plan which calls fail, and a counter of calls. A clone is the same plan.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    plan: Arc<Mutex<Plan>>,
}

#[derive(Debug, Default)]
struct Plan {
    calls: u64,
    fired: u64,
    /// The number of the call, counted from 1, and its failure; if the last part is true, all later calls fail too.
    planned: Option<(u64, Fault, bool)>,
    /// The name of the file that no reader survives.
    panics_on: Option<String>,
}

/// A directory whose calls fail as planned by [`Faults`]. Every call of it and its files counts, also for the lock.
#[derive(Debug)]
pub struct Faulty<D> {
    inner: D,
    faults: Faults,
}

/// A file of a [`Faulty`] directory.
#[derive(Debug)]
pub struct FaultyFile<F> {
    inner: F,
    faults: Faults,
}

impl Faults {
    /// A plan without a fault.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Lets the `nth` call from now on fail, counted from 1; and all after it, if `persistent`.
    pub fn plan(&self, nth: u64, fault: Fault, persistent: bool) {
        let mut plan = self.lock();
        *plan = Plan { planned: Some((nth, fault, persistent)), panics_on: plan.panics_on.take(), ..Plan::default() };
    }

    /// Lets each call that opens a file of this name for reading panic, as a reader with a bug does; `None` ends that.
    pub fn panic_on(&self, name: Option<&str>) {
        self.lock().panics_on = name.map(str::to_owned);
    }

    /// Ends all faults.
    pub fn clear(&self) {
        self.lock().planned = None;
    }

    /// The calls since the last [`plan`](Self::plan).
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.lock().calls
    }

    /// The number of calls that have failed since the last [`plan`](Self::plan). A test in which this stays 0 has shown
    /// nothing.
    #[must_use]
    pub fn fired(&self) -> u64 {
        self.lock().fired
    }

    /// Counts a call; returns its failure, if one is planned.
    fn next(&self) -> Option<Fault> {
        let mut plan = self.lock();
        plan.calls += 1;
        let (nth, fault, persistent) = plan.planned?;
        let due = if persistent { plan.calls >= nth } else { plan.calls == nth };
        plan.fired += u64::from(due);
        due.then_some(fault)
    }

    /// Counts a call that is not a write.
    fn check(&self) -> io::Result<()> {
        match self.next() {
            Some(Fault::Errno(errno) | Fault::TornWrite(errno)) => Err(io::Error::from_raw_os_error(errno)),
            Some(Fault::ShortWrite) | None => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<D: Directory> Faulty<D> {
    /// `inner`, with the failures of `faults`.
    #[must_use]
    pub fn new(inner: D, faults: Faults) -> Self {
        Self { inner, faults }
    }

    fn check(&self, name: &str, action: &'static str) -> Result<(), FileError> {
        let failed = |source| FileError::Io { path: self.inner.path().join(name), action, source };
        self.faults.check().map_err(failed)
    }

    fn check_subdirectory(&self, name: &str) -> Result<(), OpenError> {
        let failed = |source| OpenError::Io { path: self.inner.path().join(name), action: "open", source };
        self.faults.check().map_err(failed)
    }

    fn wrap(&self, inner: D) -> Self {
        Self { inner, faults: self.faults.clone() }
    }

    fn file(&self, inner: D::File) -> FaultyFile<D::File> {
        FaultyFile { inner, faults: self.faults.clone() }
    }
}

impl<D: Directory> Directory for Faulty<D> {
    type File = FaultyFile<D::File>;
    type Lock = D::Lock;

    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn list(&self) -> Result<Vec<Entry>, FileError> {
        self.check("", "read")?;
        self.inner.list()
    }

    fn metadata(&self, name: &str) -> Result<Metadata, FileError> {
        self.check(name, "look at")?;
        self.inner.metadata(name)
    }

    fn open_read(&self, name: &str) -> Result<Self::File, FileError> {
        self.check(name, "open")?;
        let panics = self.faults.lock().panics_on.as_deref() == Some(name);
        assert!(!panics, "a reader of {name} has a bug");
        self.inner.open_read(name).map(|file| self.file(file))
    }

    fn open_append(&self, name: &str) -> Result<Self::File, FileError> {
        self.check(name, "open")?;
        self.inner.open_append(name).map(|file| self.file(file))
    }

    fn create(&self, name: &str) -> Result<Self::File, FileError> {
        self.check(name, "create")?;
        self.inner.create(name).map(|file| self.file(file))
    }

    fn rename(&self, from: &str, target: &Self, to: &str) -> Result<(), FileError> {
        self.check(to, "rename a file to")?;
        self.inner.rename(from, &target.inner, to)
    }

    fn replace(&self, from: &str, to: &str) -> Result<(), FileError> {
        self.check(to, "replace")?;
        self.inner.replace(from, to)
    }

    fn remove(&self, name: &str) -> Result<(), FileError> {
        self.check(name, "remove")?;
        self.inner.remove(name)
    }

    fn sync(&self) -> Result<(), FileError> {
        self.check("", "sync")?;
        self.inner.sync()
    }

    fn space(&self) -> Result<Space, FileError> {
        self.check("", "measure the space of")?;
        self.inner.space()
    }

    /// A failing call tells nothing, as for a file system that does not answer.
    fn is_gone(&self) -> bool {
        self.faults.check().is_ok() && self.inner.is_gone()
    }

    fn is_on_network(&self) -> bool {
        self.inner.is_on_network()
    }

    fn subdirectory(&self, name: &str) -> Result<Self, OpenError> {
        self.check_subdirectory(name)?;
        Ok(self.wrap(self.inner.subdirectory(name)?))
    }

    fn create_subdirectory(&self, name: &str) -> Result<Self, OpenError> {
        self.check_subdirectory(name)?;
        Ok(self.wrap(self.inner.create_subdirectory(name)?))
    }

    fn existing_subdirectory(&self, name: &str) -> Result<Option<Self>, OpenError> {
        self.check_subdirectory(name)?;
        Ok(self.inner.existing_subdirectory(name)?.map(|dir| self.wrap(dir)))
    }

    fn holds_subdirectory(&self, name: &str, dir: &Self) -> Result<bool, FileError> {
        self.check(name, "look at")?;
        self.inner.holds_subdirectory(name, &dir.inner)
    }

    fn rename_subdirectory(&self, from: &str, to: &str) -> Result<(), FileError> {
        self.check(to, "rename a directory to")?;
        self.inner.rename_subdirectory(from, to)
    }

    fn remove_subdirectory(&self, name: &str) -> Result<(), FileError> {
        self.check(name, "remove")?;
        self.inner.remove_subdirectory(name)
    }

    fn lock(&self) -> Result<Self::Lock, LockError> {
        self.check(crate::LOCK_FILE, "lock").map_err(LockError::File)?;
        self.inner.lock()
    }
}

impl<F: Read> Read for FaultyFile<F> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.faults.check()?;
        self.inner.read(out)
    }
}

impl<F: Write> Write for FaultyFile<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let half = bytes.len().div_ceil(2);
        match self.faults.next() {
            None => self.inner.write(bytes),
            Some(Fault::ShortWrite) => self.inner.write(&bytes[..half]),
            Some(Fault::Errno(errno)) => Err(io::Error::from_raw_os_error(errno)),
            Some(Fault::TornWrite(errno)) => {
                self.inner.write_all(&bytes[..half])?;
                Err(io::Error::from_raw_os_error(errno))
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<F: Seek> Seek for FaultyFile<F> {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.faults.check()?;
        self.inner.seek(position)
    }
}

impl<F: File> File for FaultyFile<F> {
    fn sync(&mut self) -> io::Result<()> {
        self.faults.check()?;
        self.inner.sync()
    }

    fn len(&self) -> io::Result<u64> {
        self.faults.check()?;
        self.inner.len()
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.faults.check()?;
        self.inner.truncate(len)
    }

    fn is_gone(&self) -> io::Result<bool> {
        self.faults.check()?;
        self.inner.is_gone()
    }
}
