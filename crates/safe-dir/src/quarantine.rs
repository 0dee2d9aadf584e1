//! Files that cannot be used: moved out of the way, within limits.

use std::io;

use crate::{Directory, FileError, move_file};

/// The limits of a [`Quarantine`]; [`trim`](Quarantine::trim) enforces them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuarantineLimits {
    /// The most bytes that its files take on disk together; a sparse file counts with its allocated bytes.
    pub max_bytes: u64,
    /// The most files.
    pub max_files: usize,
}

/// A subdirectory for files that cannot be used, such as damaged ones, where an operator can inspect them.
///
/// Its directory is made when the first file is moved into it. No file is ever overwritten: where a name is taken, the
/// file is named `<name>.1`, `<name>.2` and so on.
///
/// ```
/// use std::io::Write as _;
/// use safe_dir::{Directory as _, Quarantine, QuarantineLimits, SafeDir, publish};
///
/// # let scratch = tempfile::tempdir()?;
/// # let path = scratch.path().join("queue");
/// let dir = SafeDir::open(&path)?;
/// let mut quarantine = Quarantine::new("quarantine", QuarantineLimits { max_bytes: 64 << 20, max_files: 100 });
///
/// for content in ["damaged", "damaged too"] {
///     publish(&dir, "a.json", |file| file.write_all(content.as_bytes()))?;
///     quarantine.set_aside(&dir, "a.json")?;
/// }
/// quarantine.sync(&dir)?; // durable from here on
/// assert!(path.join("quarantine/a.json").exists() && path.join("quarantine/a.json.1").exists());
/// assert_eq!(quarantine.trim(), 0, "two files are within the limits");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Quarantine<D> {
    name: &'static str,
    limits: QuarantineLimits,
    /// `None` until this process moves a file into it.
    dir: Option<D>,
    moved_since_trim: usize,
}

impl<D: Directory> Quarantine<D> {
    /// The quarantine in the subdirectory `name` of the directory that the calls name. Touches no disk.
    #[must_use]
    pub const fn new(name: &'static str, limits: QuarantineLimits) -> Self {
        Self { name, limits, dir: None, moved_since_trim: 0 }
    }

    /// Moves the file `name` of `home`, the directory that the quarantine is in; returns its name in the quarantine.
    /// Durable after [`sync`](Self::sync).
    ///
    /// # Errors
    ///
    /// If the file does not exist, the quarantine cannot be opened, or the file system refuses: the file stays.
    pub fn set_aside(&mut self, home: &D, name: &str) -> Result<String, FileError> {
        self.set_aside_from(home, home, name)
    }

    /// [`set_aside`](Self::set_aside) for a file of another directory, `from`, such as that of a process that has
    /// ended. On another file system the file is copied.
    ///
    /// # Errors
    ///
    /// The same.
    pub fn set_aside_from(&mut self, home: &D, from: &D, name: &str) -> Result<String, FileError> {
        let moved = match self.move_in(home, from, name) {
            // The file is there, and thus the quarantine is not: an operator has removed it since it was opened.
            Err(error) if error.is_not_found() && from.metadata(name).is_ok() => {
                self.dir = None;
                self.move_in(home, from, name)
            }
            moved => moved,
        };
        self.moved_since_trim += usize::from(moved.is_ok());
        moved
    }

    /// Makes all moves from the directory `from` durable. A power cut before may bring a file back to its old place.
    ///
    /// # Errors
    ///
    /// If a directory cannot be synced.
    pub fn sync(&self, from: &D) -> Result<(), FileError> {
        let Some(quarantine) = &self.dir else { return Ok(()) };
        // The new names before the old ones go: in between a power cut may leave both, never neither.
        quarantine.sync()?;
        from.sync()
    }

    /// Moves the files of the quarantine in `ended`, the directory of a process that has ended, into this one, durably,
    /// and removes that quarantine. Does nothing if `ended` has none.
    ///
    /// # Errors
    ///
    /// If a file cannot be moved: it and the ones behind it stay, for the next attempt.
    pub fn take_over(&mut self, home: &D, ended: &D) -> Result<(), FileError> {
        if ended.metadata(self.name).is_err() {
            return Ok(());
        }
        // A file or a link of that name is no quarantine: it stays.
        let Ok(from) = ended.subdirectory(self.name) else { return Ok(()) };
        // Before anything moves, so that `sync` covers the moves of an earlier attempt too.
        self.open(home)?;
        for entry in from.list()? {
            if let Some(name) = entry.name.to_str() {
                self.set_aside_from(home, &from, name)?;
            }
        }
        self.sync(&from)?;
        ended.remove_subdirectory(self.name)
    }

    /// Removes files, oldest first by modification time and then by name, until the limits hold; returns how many.
    /// Lists the quarantine and looks at each file's metadata. Does nothing before this process has moved a file into
    /// it.
    ///
    /// A file that the file system refuses to remove stays. A power cut may bring a removed file back, until the next
    /// call.
    pub fn trim(&mut self) -> usize {
        self.moved_since_trim = 0;
        let Some(quarantine) = &self.dir else { return 0 };
        let Ok(entries) = quarantine.list() else { return 0 };
        let mut files = Vec::new();
        for entry in entries {
            let Ok(name) = entry.name.into_string() else { continue };
            let Ok(metadata) = quarantine.metadata(&name) else { continue };
            files.push((metadata.modified, name, metadata.allocated));
        }
        files.sort();
        let mut bytes = files.iter().fold(0_u64, |sum, file| sum.saturating_add(file.2));
        let mut left = files.len();
        for (_, name, allocated) in &files {
            if bytes <= self.limits.max_bytes && left <= self.limits.max_files {
                break;
            }
            if quarantine.remove(name).is_ok() {
                bytes = bytes.saturating_sub(*allocated);
                left -= 1;
            }
        }
        files.len() - left
    }

    /// [`trim`](Self::trim), if 100 files were moved since the last time: for callers that move many files at once and
    /// also trim at regular times.
    pub fn trim_if_due(&mut self) -> usize {
        if self.moved_since_trim < TRIM_EVERY { 0 } else { self.trim() }
    }

    fn move_in(&mut self, home: &D, from: &D, name: &str) -> Result<String, FileError> {
        let max_files = self.limits.max_files;
        let quarantine = self.open(home)?;
        let mut target = name.to_owned();
        let mut copy = 1;
        loop {
            match move_file(from, name, quarantine, &target) {
                Ok(_) => return Ok(target),
                Err(error) if error.is_already_exists() && copy < max_files => {
                    target = format!("{name}.{copy}");
                    copy += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn open(&mut self, home: &D) -> Result<&D, FileError> {
        let opened = match self.dir.take() {
            Some(opened) => opened,
            None => home.subdirectory(self.name).map_err(|error| FileError::Io {
                path: home.path().join(self.name),
                action: "open",
                source: io::Error::other(error),
            })?,
        };
        Ok(self.dir.insert(opened))
    }
}

/// Listing the quarantine takes time: only each so many moves are worth it.
const TRIM_EVERY: usize = 100;
