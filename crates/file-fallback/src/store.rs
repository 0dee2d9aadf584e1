//! The store: composes the parts; each operation is a call of one of them.

use std::fmt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use safe_dir::{Claim, ClaimError, Directory, FileError, Locked, SafeDir};

use crate::config::{Config, SecondProcess};
use crate::error::{AdoptError, OpenError, ReplayError, SettleError, SpillError};
use crate::files::{Files, PROCESSES, adopt};
use crate::form::record::Record;
use crate::limits::evict::Limits;
use crate::notice::Notice;
use crate::outcome::{Evicted, SetAside, Settled, Spilled, Stored, Verdict};
use crate::read::group::{Group, Next};
use crate::write::writer::{Target, WhenFull, Writer};

/// Records in files until they are replayed. Made by [`open`](FileFallback::open); used by one thread, which may block
/// on the disk.
pub struct FileFallback<D: Directory = SafeDir> {
    config: Config,
    files: Files<D>,
    limits: Limits,
    writer: Writer,
    /// Whether the directory is the configured one, not a subdirectory of it that a further process uses.
    is_first: bool,
    /// The process that opened the store.
    process: u32,
    /// Declared last: released after every file is closed.
    _lock: D::Lock,
}

impl FileFallback {
    /// Opens the store in the configured directory and takes the directory's lock.
    ///
    /// Reads names and the small log of the progress, but no file: the time grows with the number of files, not with
    /// their size. No file is truncated or overwritten, and files of other programs are not touched. Call
    /// [`clean_up`](Self::clean_up) soon after, as limits may have changed.
    ///
    /// # Errors
    ///
    /// If the directory is not safe, is in use (see [`SecondProcess`]), or cannot be read.
    pub fn open(config: Config) -> Result<Self, OpenError> {
        let dir = SafeDir::open(config.dir()).map_err(OpenError::Directory)?;
        Self::open_in(config, dir)
    }
}

impl<D: Directory> FileFallback<D> {
    /// [`open`](FileFallback::open) in a directory that the caller has opened; the one in the settings is ignored.
    ///
    /// # Errors
    ///
    /// If the directory is in use (see [`SecondProcess`]) or cannot be read.
    pub fn open_in(config: Config, dir: D) -> Result<Self, OpenError> {
        let claim = match config.second_process {
            SecondProcess::Refuse => Claim { locked: Locked::new(dir).map_err(OpenError::Lock)?, is_first: true },
            SecondProcess::Subdirectory => PROCESSES.claim(dir).map_err(|error| match error {
                ClaimError::Directory(error) => OpenError::Directory(error),
                ClaimError::Lock(error) => OpenError::Lock(error),
            })?,
        };
        let Locked { dir, lock } = claim.locked;
        let mut store = Self {
            files: Files::load(dir, &config).map_err(OpenError::File)?,
            limits: Limits::new(&config),
            writer: Writer::new(&config),
            config,
            is_first: claim.is_first,
            process: std::process::id(),
            _lock: lock,
        };
        // A file that cannot be moved now is moved by the next `adopt`.
        drop(store.adopt());
        Ok(store)
    }

    /// Moves the files of further processes that have ended into this store, with their progress; returns the units in
    /// them. Opening does the same; call it at intervals, so that the files of a process that ends later do not wait
    /// for the next start. Does nothing in the store of a further process.
    ///
    /// # Errors
    ///
    /// The first failure to move a directory or file. The files that were moved from this and the other directories
    /// count, and are in the notices.
    pub fn adopt(&mut self) -> Result<u64, AdoptError> {
        if self.is_forked() {
            return Err(AdoptError::Forked);
        }
        if self.is_first { adopt::adopt(&mut self.files) } else { Ok(0) }
    }

    /// Writes the records to one new file, durable when this returns; compressed, if the text is longer than
    /// `compress_above`.
    ///
    /// Older files are removed, oldest first, where a limit demands it; a file with a group that is handed out stays.
    /// Blocks on the disk: two or three syncs.
    ///
    /// # Errors
    ///
    /// If a record cannot be written as one, the store or the disk is full, or the file system refuses: then no file of
    /// the records is left, and the caller still has them. [`SpillError::evicted`] lists the files that were removed
    /// before that.
    pub fn spill(&mut self, records: &[Record], now: SystemTime) -> Result<Spilled, SpillError> {
        self.spill_announced(records, now, &mut |_| {})
    }

    /// As [`spill`](Self::spill). Calls `announce` with the file's name before the first byte of the file is written,
    /// so that a journal can note which file will hold the records; and once more, with another name, where another
    /// program has made a file of the first name: the last name is the file's.
    ///
    /// # Errors
    ///
    /// As [`spill`](Self::spill). A file of an announced name then does not exist, or is another program's.
    pub fn spill_announced(
        &mut self,
        records: &[Record],
        now: SystemTime,
        announce: &mut dyn FnMut(&str),
    ) -> Result<Spilled, SpillError> {
        self.write(records, now, WhenFull::EvictOldest, announce)
    }

    /// As [`spill`](Self::spill), but no older file is removed: a file that does not fit is refused.
    ///
    /// # Errors
    ///
    /// As [`spill`](Self::spill), and [`SpillError::Full`].
    pub fn spill_beside(&mut self, records: &[Record], now: SystemTime) -> Result<Spilled, SpillError> {
        self.write(records, now, WhenFull::Refuse, &mut |_| {})
    }

    fn write(
        &mut self,
        records: &[Record],
        now: SystemTime,
        when_full: WhenFull,
        announce: &mut dyn FnMut(&str),
    ) -> Result<Spilled, SpillError> {
        if self.is_forked() {
            return Err(SpillError::Forked);
        }
        let target = Target { files: &mut self.files, limits: &mut self.limits };
        self.writer.spill(target, records, now, when_full, announce)
    }

    /// Whether a file of this name stands in the store, or in that of a further process beside it, and survives a power
    /// cut: the directory is synced before the answer is yes. For a journal that asks at its start whether a spill that
    /// was announced has succeeded. A file that was replayed to its end or set aside does not stand there any more.
    ///
    /// # Errors
    ///
    /// If the directory cannot be read or synced: then the answer is not known.
    pub fn holds(&self, name: &str) -> Result<bool, FileError> {
        adopt::holds(&self.files, name, self.is_first)
    }

    /// Reads the next records that are neither settled nor handed out: of those with the fewest failed attempts, and
    /// oldest file first among equals, as many as fit into `max_bytes`, and at least one. They may be of up to 64 files
    /// and all have failed equally often (see [`Attempts`](crate::Attempts)).
    ///
    /// Files without such a record do not block the disk thread for long: see [`Next::Pause`].
    ///
    /// Memory: the group, and a constant. Damage on the way is noted (see [`take_notices`](Self::take_notices)), and
    /// the good records around it are read. Blocks on the disk.
    ///
    /// # Errors
    ///
    /// If a file cannot be opened or read now. It stays for the next call; one that fails three times in a row is set
    /// aside as unreadable, so that it does not hold up the others.
    pub fn next_group(&mut self, max_bytes: usize) -> Result<Next, ReplayError> {
        if self.is_forked() {
            return Err(ReplayError::Forked);
        }
        self.files.next_group(max_bytes).map_err(ReplayError::File)
    }

    /// Takes one verdict for each record. The records that are done are durably so when this returns, and the attempts
    /// of the others are stored: one write and one sync, and the removal of each file after its last record with one
    /// sync for all.
    ///
    /// A file that left the store while its records were handed out, as another program removed it, is skipped; the
    /// units of its records that are done count as surplus.
    ///
    /// # Errors
    ///
    /// [`SettleError::NotDurable`] if the verdicts count and are not on the disk; the next call writes them too. Any
    /// other error changes nothing.
    pub fn settle(&mut self, group: Group, verdicts: &[Verdict]) -> Result<Settled, SettleError> {
        if self.is_forked() {
            return Err(SettleError::Forked);
        }
        self.files.settle(&group, verdicts)
    }

    /// [`settle`](Self::settle) for a group whose records are all done, each with so many `units`. Reads
    /// [`Group::records`]: a caller who took them out calls `settle`.
    ///
    /// # Errors
    ///
    /// The same.
    pub fn acknowledge(&mut self, group: Group, mut units: impl FnMut(&[u8]) -> u64) -> Result<Settled, SettleError> {
        let verdicts = group.records.iter().map(|record| Verdict::Done(units(record))).collect::<Vec<_>>();
        self.settle(group, &verdicts)
    }

    /// [`settle`](Self::settle) for a group of which no record is done or failed: all are read again. Touches no disk.
    ///
    /// # Errors
    ///
    /// If the group is not one of this store's.
    pub fn give_back(&mut self, group: Group) -> Result<(), SettleError> {
        let verdicts = vec![Verdict::Keep; group.len()];
        self.settle(group, &verdicts).map(drop)
    }

    /// Removes files that are too old or too much, and files that could not be removed before. To be called regularly,
    /// at least every hour: ages grow by the differences of `now`, and a step of more than an hour counts as one hour.
    ///
    /// A file that the file system refuses to remove stays counted, for the next time.
    #[must_use = "the files that are returned have left the store"]
    pub fn clean_up(&mut self, now: SystemTime) -> Vec<Evicted> {
        if self.is_forked() { Vec::new() } else { self.limits.clean_up(&mut self.files, now) }
    }

    /// How long it takes until the oldest files must go, at the rate of the last ten minutes: because of `max_bytes`,
    /// or because the file system runs into the reserve. `None` if no file was written in that time.
    pub fn full_in(&mut self, now: SystemTime) -> Option<Duration> {
        self.limits.full_in(&self.files, now)
    }

    /// The present contents. O(1).
    #[must_use]
    pub const fn stored(&self) -> Stored {
        self.files.catalog().total()
    }

    /// Counts the files in `quarantine`, also those of earlier runs: an operator inspects them and removes them. Reads
    /// names alone, 1,000 at most.
    ///
    /// # Errors
    ///
    /// If the subdirectory cannot be read.
    pub fn set_aside(&self) -> Result<SetAside, FileError> {
        self.files.count_aside()
    }

    /// The events since the last call that no other result reports: to be logged, and to be counted where units left
    /// the store. Ask after each operation.
    #[must_use = "notices are given once"]
    pub fn take_notices(&mut self) -> Vec<Notice> {
        self.files.take_notices()
    }

    /// The directory in use: the configured one, or a subdirectory of it while another process uses that one.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.files.dir().path()
    }

    /// The settings.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Whether this process may not use the store, because it is a child by `fork` of the one that may.
    pub(crate) fn is_forked(&self) -> bool {
        std::process::id() != self.process
    }

    pub(crate) fn files(&self) -> &Files<D> {
        &self.files
    }

    pub(crate) fn files_mut(&mut self) -> &mut Files<D> {
        &mut self.files
    }
}

impl<D: Directory> fmt::Debug for FileFallback<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileFallback")
            .field("path", &self.path())
            .field("stored", &self.stored())
            .finish_non_exhaustive()
    }
}
