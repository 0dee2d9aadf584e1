//! A directory together with its lock.

use std::fmt;

use crate::{Directory, LockError};

/// A directory and its lock. The lock is released when this is dropped or the process ends.
pub struct Locked<D: Directory> {
    /// The directory.
    pub dir: D,
    /// Its lock. Declared last: it is released after the directory is closed.
    pub lock: D::Lock,
}

impl<D: Directory> Locked<D> {
    /// Takes the lock of `dir`. Never waits.
    ///
    /// # Errors
    ///
    /// [`LockError::Held`] if another process, or another handle in this one, has it.
    pub fn new(dir: D) -> Result<Self, LockError> {
        let lock = dir.lock()?;
        Ok(Self { dir, lock })
    }
}

impl<D: Directory> fmt::Debug for Locked<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Locked").field("path", &self.dir.path()).field("lock", &self.lock).finish()
    }
}
