//! The values that operations return, besides their errors.

/// The contents of a store: its files, the units in them by the file names less the settled ones, and their bytes on
/// disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Files with records that are not settled.
    pub files: u64,
    /// Units in them that are not settled, in the unit of [`Record::count`](crate::Record::count).
    pub count: u64,
    /// The sum of their lengths, in bytes.
    pub bytes: u64,
}

/// The files in `quarantine`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAside {
    /// How many.
    pub files: u64,
    /// The units that the names of those promise that were files of the store: no fewer than left it undelivered.
    pub count: u64,
}

/// The files of another directory that one call has moved into the store. A notice reports them too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "more files may be left in the other directory"]
pub struct TakenOver {
    /// How many files; those that went to the quarantine are not counted.
    pub files: u64,
    /// The units in them.
    pub count: u64,
    /// More is left in the other directory: call again.
    pub more: bool,
}

/// A file that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "older files may have been removed for it"]
pub struct Spilled {
    /// Its name in the store's directory.
    pub name: String,
    /// The sum over its records.
    pub count: u64,
    /// Its length on disk.
    pub bytes: u64,
    /// Older files that were removed to stay within the limits.
    pub evicted: Vec<Evicted>,
}

/// The caller's decision about one record of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The record is not read again: it was delivered, or is stored elsewhere. The caller found this many units in it;
    /// a file in whose records fewer were found than its name promises is set aside after its last record, not removed.
    Done(u64),
    /// The caller cannot decode the record. Its file is set aside after its last record; the notice then counts the
    /// units that are missing.
    Rejected,
    /// The record is read again; its attempts stay as they are.
    Keep,
    /// The record is read again, after all records with fewer failed attempts. The store keeps these attempts with it,
    /// also over a restart, and returns them in its [`Source`](crate::Source).
    Failed(Attempts),
}

/// The failed attempts of a record that stays, in the caller's count. The default is that of a new record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Attempts {
    /// How many attempts failed: records with fewer are read first.
    pub failed: u32,
    /// Numbers of the caller's, without a meaning to the store.
    pub note: [u32; NOTE],
}

/// The numbers in a note.
pub(crate) const NOTE: usize = 6;

/// The result of settling a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// The units that left the store: [`stored`](crate::FileFallback::stored) has so many fewer now.
    pub count: u64,
    /// The settled units beyond those that the file's name promises; 0 unless another program wrote the file.
    pub surplus: u64,
}

/// A file that was removed to stay within a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evicted {
    /// Its name.
    pub name: String,
    /// The units in it that were not settled.
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
