//! Opening: names and sizes are looked at, no file is read.

use std::collections::{BTreeMap, VecDeque};

use safe_dir::{
    Claim, ClaimError, Directory, Kind, Locked, Metadata, ProcessDirs, Quarantine, QuarantineLimits, SafeDir,
};

use crate::books::progress::Progress;
use crate::config::{Config, SecondProcess};
use crate::error::OpenError;
use crate::form::name::{FileName, MAX_TRUSTED_SEQ};
use crate::limits::clock::Clock;
use crate::limits::rate::Rate;
use crate::notice::{Damage, Notice};
use crate::read::records::MAX_FILE_TEXT;
use crate::store::{FileFallback, Key, Stored, StoredFile, Stranger};

impl FileFallback {
    /// Opens the store in the configured directory and takes the directory's lock.
    ///
    /// Reads names and the small log of the progress, no file: the time grows with the number of files, not
    /// with their size. Nothing is truncated or overwritten; what is not ours stays untouched. Call
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
        let mut store = Self::load(config, dir, lock, !claim.is_first)?;
        // A file that cannot be moved now is moved by the next `adopt`.
        drop(store.adopt());
        Ok(store)
    }

    fn load(config: Config, dir: D, lock: D::Lock, is_second: bool) -> Result<Self, OpenError> {
        safe_dir::remove_leftovers(&dir).map_err(OpenError::File)?;
        let (progress, damaged) = Progress::load(&dir);
        let quarantine_limits =
            QuarantineLimits { max_bytes: config.quarantine_max_bytes, max_files: MAX_QUARANTINE_FILES };
        let mut store = Self {
            config,
            dir,
            is_second,
            quarantine: Quarantine::new(QUARANTINE, quarantine_limits),
            process: std::process::id(),
            clock: Clock::default(),
            rate: Rate::default(),
            files: BTreeMap::new(),
            total: Stored::default(),
            next_seq: 1,
            progress,
            reader: None,
            strangers: VecDeque::new(),
            leftovers: Vec::new(),
            notices: VecDeque::new(),
            _lock: lock,
        };
        if damaged > 0 {
            store.notices.push_back(Notice::ProgressDamaged { marks: damaged });
        }
        store.scan()?;
        store.set_aside_strangers(STRANGERS_AT_START);
        Ok(store)
    }

    fn scan(&mut self) -> Result<(), OpenError> {
        let mut highest = 0;
        for entry in self.dir.list().map_err(OpenError::File)? {
            let Some(name) = entry.name.to_str() else { continue };
            let Some(parsed) = FileName::parse(&self.config.signal, name) else { continue };
            if parsed.seq <= MAX_TRUSTED_SEQ {
                highest = highest.max(parsed.seq);
            }
            // Gone since, or not to be looked at: then there is nothing to count.
            let Ok(metadata) = self.dir.metadata(name) else { continue };
            let key = Key { seq: parsed.seq, name: name.to_owned() };
            match self.unusable(&metadata) {
                None => {
                    let mut file = StoredFile::new(&parsed, metadata.len, parsed.time);
                    if let Some(mark) = self.progress.claim(name, metadata.len) {
                        file.resume(mark);
                    }
                    self.insert(key, file);
                }
                Some(damage) => {
                    self.strangers.push_back(Stranger { name: key.name, damage, promised: parsed.count });
                }
            }
        }
        let seq_of = |name: &str| FileName::parse(&self.config.signal, name).map(|parsed| parsed.seq);
        let files = &self.files;
        let known =
            |name: &str| seq_of(name).is_some_and(|seq| files.contains_key(&Key { seq, name: name.to_owned() }));
        self.progress.retain(known);
        // A number is not used again while the log on disk speaks of it, or a new file could be taken for a settled one.
        highest = highest.max(self.progress.highest(seq_of).unwrap_or(0));
        self.next_seq = highest + 1;
        Ok(())
    }

    /// Why it is not to be read, if it is not.
    pub(crate) fn unusable(&self, metadata: &Metadata) -> Option<Damage> {
        if metadata.kind != Kind::File || metadata.links != 1 {
            Some(Damage::NotOurs)
        } else if metadata.len > self.config.max_bytes.min(MAX_FILE_BYTES) {
            Some(Damage::FileTooLarge)
        } else {
            None
        }
    }
}

/// No file of ours is longer: its text is at most 256 MiB, and nothing becomes longer by a hundredth in being compressed.
const MAX_FILE_BYTES: u64 = MAX_FILE_TEXT + MAX_FILE_TEXT / 100;

/// So many of them are moved away before the start is done.
const STRANGERS_AT_START: usize = 100;

/// Where further processes on the same directory keep their files.
pub(crate) const PROCESSES: ProcessDirs = ProcessDirs { prefix: "process-", max_further: 64 };

/// The subdirectory for damaged files.
const QUARANTINE: &str = "quarantine";

/// The most files in it.
const MAX_QUARANTINE_FILES: usize = 1_000;
