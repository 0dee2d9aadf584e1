//! The store: which files there are, and what is left in them.

use std::collections::{BTreeMap, VecDeque};
use std::time::SystemTime;

use safe_dir::{Directory, Quarantine, SafeDir};

use crate::books::progress::{Mark, Progress};
use crate::books::ranges::Ranges;
use crate::config::Config;
use crate::form::name::FileName;
use crate::limits::clock::Clock;
use crate::limits::rate::Rate;
use crate::notice::{Damage, Notice};
use crate::read::reader::Reader;

/// Records in files until they are replayed. Made by [`open`](FileFallback::open); used by one thread, which may block on the disk.
pub struct FileFallback<D: Directory = SafeDir> {
    pub(crate) config: Config,
    pub(crate) dir: D,
    /// The directory that was asked for, if we had to take one inside it.
    pub(crate) is_second: bool,
    pub(crate) quarantine: Quarantine<D>,
    /// The process that opened it.
    pub(crate) process: u32,
    pub(crate) clock: Clock,
    pub(crate) rate: Rate,
    /// Oldest first. Files whose last record is settled are not in here any more, even if they could not be removed.
    pub(crate) files: BTreeMap<Key, StoredFile>,
    /// The sums over `files`; changed by `insert`, `forget` and `settled` only.
    pub(crate) total: Stored,
    pub(crate) next_seq: u64,
    pub(crate) progress: Progress<D::File>,
    pub(crate) reader: Option<Reader<D::File>>,
    /// What has our names and cannot be ours, to be moved away: seen at the start, and too many to be waited for.
    pub(crate) strangers: VecDeque<Stranger>,
    /// Files that are finished and could not be removed yet.
    pub(crate) leftovers: Vec<String>,
    pub(crate) notices: VecDeque<Notice>,
    /// Declared last: released after everything else is closed.
    pub(crate) _lock: D::Lock,
}

/// The place of a file in the order: by number, not by time, as clocks are set and numbers are not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) seq: u64,
    pub(crate) name: String,
}

/// Something with a name of ours that is not to be read.
#[derive(Debug)]
pub(crate) struct Stranger {
    pub(crate) name: String,
    pub(crate) damage: Damage,
    pub(crate) promised: u64,
}

/// A file with records that are not settled.
#[derive(Debug)]
pub(crate) struct StoredFile {
    /// What its name promises.
    pub(crate) promised: u64,
    pub(crate) bytes: u64,
    /// When it was written, by the store's own clock; by its name if an earlier run did that.
    pub(crate) born: SystemTime,
    /// Records that need not be read again, and what was settled with them.
    pub(crate) done: Ranges,
    pub(crate) done_count: u64,
    /// Records that are handed out.
    pub(crate) out: Ranges,
    /// How many records it has, once its end was seen.
    pub(crate) records: Option<u64>,
    /// Every record that is neither done nor out was seen to be neither; until one is given back.
    pub(crate) exhausted: bool,
    pub(crate) damage: Option<Damage>,
    pub(crate) rejected: bool,
    /// Failed attempts to read it, in a row.
    pub(crate) read_failures: u32,
}

/// What a store holds: files, their count by the file names less what was settled, and their bytes on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Files with records that are not settled.
    pub files: u64,
    /// What is in them, as the caller counted when it wrote them.
    pub count: u64,
    /// Their length.
    pub bytes: u64,
}

/// A file that was removed to keep a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evicted {
    /// Its name.
    pub name: String,
    /// What was left in it.
    pub count: u64,
    /// Its length.
    pub bytes: u64,
    /// Which limit.
    pub reason: Reason,
}

/// The limit that a file was removed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// More bytes on disk than `max_bytes`.
    MaxBytes,
    /// Older than `max_age`.
    MaxAge,
    /// More files than `max_files`.
    MaxFiles,
    /// Less free on the file system than `free_space_reserve`.
    FreeSpace,
}

impl Reason {
    /// A short fixed name, fit for a label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MaxBytes => "max_bytes",
            Self::MaxAge => "max_age",
            Self::MaxFiles => "max_files",
            Self::FreeSpace => "free_space",
        }
    }
}

impl<D: Directory> FileFallback<D> {
    /// What it holds now. O(1).
    #[must_use]
    pub const fn stored(&self) -> Stored {
        self.total
    }

    /// The directory that it uses: the configured one, or one inside it if that one is in use by another process.
    #[must_use]
    pub fn path(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// The settings.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// What has happened by the way since the last call: to be logged, and to be counted where something left the store.
    /// Ask after each operation.
    #[must_use = "notices are given once"]
    pub fn take_notices(&mut self) -> Vec<Notice> {
        self.notices.drain(..).collect()
    }

    /// Whether this process may not use the store, having been forked from the one that may.
    pub(crate) fn is_forked(&self) -> bool {
        std::process::id() != self.process
    }

    pub(crate) fn insert(&mut self, key: Key, file: StoredFile) {
        self.total.files += 1;
        self.total.count += file.remaining();
        self.total.bytes += file.bytes;
        self.files.insert(key, file);
    }

    /// Takes a file out of the books; not from the disk.
    pub(crate) fn forget(&mut self, key: &Key) -> Option<StoredFile> {
        let file = self.files.remove(key)?;
        self.total.files -= 1;
        self.total.count -= file.remaining();
        self.total.bytes -= file.bytes;
        self.progress.forget(&key.name);
        self.reader.take_if(|reader| reader.key == *key);
        Some(file)
    }
}

impl<D: Directory> std::fmt::Debug for FileFallback<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileFallback")
            .field("path", &self.dir.path())
            .field("stored", &self.total)
            .finish_non_exhaustive()
    }
}

impl StoredFile {
    pub(crate) fn new(name: &FileName, bytes: u64, born: SystemTime) -> Self {
        Self {
            promised: name.count,
            bytes,
            born,
            done: Ranges::default(),
            done_count: 0,
            out: Ranges::default(),
            records: None,
            exhausted: false,
            damage: None,
            rejected: false,
            read_failures: 0,
        }
    }

    pub(crate) fn resume(&mut self, mark: Mark) {
        self.done = mark.records;
        self.done_count = mark.count;
        self.rejected = mark.rejected;
        if mark.rejected {
            self.damage = Some(Damage::Rejected);
        }
    }

    pub(crate) fn mark(&self, name: &str) -> Mark {
        Mark {
            file: name.to_owned(),
            bytes: self.bytes,
            records: self.done.clone(),
            count: self.done_count,
            rejected: self.rejected,
        }
    }

    /// What is left of what the name promises.
    pub(crate) fn remaining(&self) -> u64 {
        self.promised.saturating_sub(self.done_count)
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.exhausted && self.out.is_empty() && self.records.is_some_and(|records| self.done.covers_to(records))
    }

    pub(crate) fn note_damage(&mut self, damage: Damage) {
        self.damage.get_or_insert(damage);
    }
}
