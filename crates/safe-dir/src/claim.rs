//! One directory for several processes: the first locks the directory itself, each further one a numbered subdirectory.

use std::fmt;

use crate::{Directory, FileError, Kind, LOCK_FILE, LockError, OpenError};

/// How the processes that are given one directory share it.
///
/// The first process locks the directory itself. Each further one, while another process holds it, locks a
/// subdirectory: its name is `prefix` and a number from 1 to `max_further`. The first process takes over the
/// subdirectories of processes that have ended.
///
/// ```
/// use safe_dir::{Directory as _, ProcessDirs, SafeDir};
///
/// # let scratch = tempfile::tempdir()?;
/// # let path = scratch.path().join("queue");
/// const DIRS: ProcessDirs = ProcessDirs { prefix: "process-", max_further: 64 };
///
/// let first = DIRS.claim(SafeDir::open(&path)?)?;
/// let further = DIRS.claim(SafeDir::open(&path)?)?; // in another process
/// assert!(first.is_first && further.locked.dir.path().ends_with("process-1"));
/// assert!(DIRS.open_abandoned(&first.locked.dir, "process-1")?.is_none(), "its process is alive");
/// drop(further); // its process exits, or is killed
///
/// let root = &first.locked.dir;
/// for name in DIRS.list(root)? {
///     let Some(abandoned) = DIRS.open_abandoned(root, &name)? else { continue };
///     // Move the files of `abandoned.locked.dir` into `root`, durably. Then:
///     abandoned.remove(root)?;
/// }
/// assert_eq!(DIRS.list(root)?, [""; 0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessDirs {
    /// Begins the names of the subdirectories.
    pub prefix: &'static str,
    /// The most subdirectories, and thus the most processes beside the first.
    pub max_further: u32,
}

/// A directory and its lock. The lock is released when this is dropped or the process ends.
pub struct Locked<D: Directory> {
    /// The directory.
    pub dir: D,
    /// Its lock. Declared last: it is released after the directory is closed.
    pub lock: D::Lock,
}

/// The directory that a process has for itself.
#[derive(Debug)]
pub struct Claim<D: Directory> {
    /// The directory, locked.
    pub locked: Locked<D>,
    /// Whether it is the shared directory itself. Only its process takes over the subdirectories of ended ones.
    pub is_first: bool,
}

/// The subdirectory of a process that has ended.
#[derive(Debug)]
pub struct Abandoned<D: Directory> {
    /// Its name in the shared directory.
    pub name: String,
    /// The directory, locked by this process now.
    pub locked: Locked<D>,
}

/// Why no directory was claimed, or a subdirectory was not opened.
#[derive(Debug)]
pub enum ClaimError {
    /// The subdirectory cannot be opened or made.
    Directory(OpenError),
    /// The lock cannot be used. [`LockError::Held`] means that other processes hold the shared directory and all of its
    /// subdirectories.
    Lock(LockError),
}

impl ProcessDirs {
    /// Locks `root` or, while another process holds it, the first subdirectory that no process holds; makes that one if
    /// it does not exist. Such a subdirectory may contain files of a process that has ended. Never waits.
    ///
    /// A name that is not a usable directory (a file, a link, a directory that other users may write in, one whose lock
    /// cannot be taken) is passed over.
    ///
    /// # Errors
    ///
    /// [`LockError::Held`] with the path of `root`, if other processes hold all directories. Another error, if the lock
    /// of `root` cannot be used, or no subdirectory is free and the file system refused one of them: the first refusal.
    pub fn claim<D: Directory>(&self, root: D) -> Result<Claim<D>, ClaimError> {
        let mut error = match root.lock() {
            Ok(lock) => return Ok(Claim { locked: Locked { dir: root, lock }, is_first: true }),
            Err(error @ LockError::Held { .. }) => ClaimError::Lock(error),
            Err(error) => return Err(ClaimError::Lock(error)),
        };
        for number in 1..=self.max_further {
            match Locked::open(&root, &format!("{}{number}", self.prefix)) {
                Ok(locked) => return Ok(Claim { locked, is_first: false }),
                Err(refusal) if error.is_held() && refusal.is_io() => error = refusal,
                Err(_) => {}
            }
        }
        Err(error)
    }

    /// The names of the subdirectories in `root`, in no order. Neither opens nor locks any of them.
    ///
    /// # Errors
    ///
    /// If `root` cannot be read.
    pub fn list<D: Directory>(&self, root: &D) -> Result<Vec<String>, FileError> {
        let entries = root.list()?.into_iter();
        let directories = entries.filter(|entry| entry.kind.is_none_or(|kind| kind == Kind::Directory));
        let names = directories.filter_map(|entry| entry.name.into_string().ok());
        Ok(names.filter(|name| self.is_further(name)).collect())
    }

    /// Opens the subdirectory `name` and takes its lock, which a process releases by ending; `None` while its process
    /// is alive. The caller is the process that holds `root` itself.
    ///
    /// # Errors
    ///
    /// If the subdirectory or its lock cannot be used.
    pub fn open_abandoned<D: Directory>(&self, root: &D, name: &str) -> Result<Option<Abandoned<D>>, ClaimError> {
        match Locked::open(root, name) {
            Ok(locked) => Ok(Some(Abandoned { name: name.to_owned(), locked })),
            Err(error) if error.is_held() => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn is_further(&self, name: &str) -> bool {
        let number = name.strip_prefix(self.prefix).and_then(|number| number.parse().ok());
        number.is_some_and(|number: u32| (1..=self.max_further).contains(&number))
    }
}

impl<D: Directory> Abandoned<D> {
    /// Removes the subdirectory from `root`, durably, after the caller has moved or removed its files. Removes its lock
    /// file too.
    ///
    /// # Errors
    ///
    /// If a file is left in it, or the file system refuses. The subdirectory stays then, without an owner.
    pub fn remove(self, root: &D) -> Result<(), FileError> {
        let Self { name, locked: Locked { dir, lock } } = self;
        match dir.remove(LOCK_FILE) {
            Err(error) if !error.is_not_found() => return Err(error),
            Ok(()) | Err(_) => {}
        }
        // A process that claims the subdirectory from here on makes a new lock file: the removal fails then.
        drop(lock);
        root.remove_subdirectory(&name)?;
        root.sync()
    }
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

    fn open(root: &D, name: &str) -> Result<Self, ClaimError> {
        let dir = root.subdirectory(name).map_err(ClaimError::Directory)?;
        Self::new(dir).map_err(ClaimError::Lock)
    }
}

impl ClaimError {
    fn is_held(&self) -> bool {
        matches!(self, Self::Lock(LockError::Held { .. }))
    }

    /// Whether the file system refused; else the name is not a directory for this user, or its owner has removed it
    /// since.
    fn is_io(&self) -> bool {
        match self {
            Self::Directory(error) => matches!(error, OpenError::Io { .. }),
            Self::Lock(LockError::File(error)) => error.io().is_some() && !error.is_not_found(),
            Self::Lock(LockError::Held { .. }) => false,
        }
    }
}

impl<D: Directory> fmt::Debug for Locked<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Locked").field("path", &self.dir.path()).field("lock", &self.lock).finish()
    }
}

impl fmt::Display for ClaimError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(_) => f.write_str("the subdirectory of a process cannot be used"),
            Self::Lock(_) => f.write_str("the directory was not locked"),
        }
    }
}

impl std::error::Error for ClaimError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Directory(error) => Some(error),
            Self::Lock(error) => Some(error),
        }
    }
}
