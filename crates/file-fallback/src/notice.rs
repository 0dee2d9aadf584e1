//! Events that no result reports, for a log and a ledger.

use std::time::SystemTime;

/// An event in a store that no result of a call reports.
///
/// Where `count` units left the store, [`stored`](crate::FileFallback::stored) no longer counts them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// A file is damaged, or was not written by a store in spite of its name. All good records were delivered; the file
    /// was moved to the subdirectory `quarantine`, where an operator can inspect it.
    SetAside {
        /// Its name.
        name: String,
        /// Its name in `quarantine`; none if it could not be moved.
        moved_to: Option<String>,
        /// The first damage that was found in it.
        damage: Damage,
        /// The units that left the store undelivered: those that its name promises, less the settled ones.
        count: u64,
        /// The units that its name promises.
        promised: u64,
    },
    /// Another program removed a file.
    Vanished {
        /// Its name.
        name: String,
        /// The units that left the store with it.
        count: u64,
    },
    /// Files of a process that has ended were moved into this store: some of them, if the directory has more than one
    /// call moves.
    Adopted {
        /// The path of the directory they were in.
        from: String,
        /// How many files.
        files: u64,
        /// The units that came into the store with them.
        count: u64,
    },
    /// The wall clock is more than 24 hours beyond the newest time that an earlier process has seen: no file is removed
    /// for its age before `until`. Check the clock.
    AgeRests {
        /// By the wall clock.
        until: SystemTime,
    },
    /// A file was removed for its age after such a rest; the call returned it too.
    RemovedAfterRest {
        /// Its name.
        name: String,
    },
    /// The newest time that an earlier process has seen is more than 24 hours beyond the wall clock, which counts.
    ClockSetBack {
        /// The time that was remembered.
        from: SystemTime,
        /// The wall clock's time.
        to: SystemTime,
    },
    /// The directory of the store was removed: see [`FileFallback::renew`](crate::FileFallback::renew).
    DirectoryVanished,
    /// The log of the replay progress was damaged: some records may be delivered again.
    ProgressDamaged {
        /// How many marks in it could not be read.
        marks: u64,
    },
    /// Old files in `quarantine` were removed to stay within its limits.
    QuarantineTrimmed {
        /// How many.
        files: u64,
    },
}

/// The damage of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Damage {
    /// The file ends in the middle of compressed data, or of a framed record.
    Torn,
    /// A compressed part does not decode, or its checksum is wrong.
    Corrupt,
    /// A framed record has an impossible length: 0, or more than a record may have. The records behind it cannot be
    /// separated.
    BadLength,
    /// A record is longer than a record may be.
    RecordTooLong,
    /// The caller could not decode a record.
    Rejected,
    /// The caller found fewer units in all records than the file's name promises: a part of the content is under names
    /// or in a form that the caller does not know.
    Incomplete,
    /// The file unpacks to more than a file may hold.
    TextTooLarge,
    /// The file is larger than a file of this crate can be.
    FileTooLarge,
    /// The disk failed to read the file three times in a row.
    Unreadable,
    /// Reading the file has panicked three times in a row.
    ReaderPanicked,
    /// Three processes in a row have ended while they read the file, without a record of it settled in between.
    EndsProcess,
    /// The entry is a link, a pipe or a directory, or belongs to another user.
    NotOurs,
}

impl Damage {
    /// A short text for a log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Torn => "torn: it ends in the middle of a record or of compressed data",
            Self::Corrupt => "corrupt: a compressed part does not decode",
            Self::BadLength => "the length of a record is damaged, and the records behind it cannot be read",
            Self::RecordTooLong => "a record is too long",
            Self::Rejected => "a record cannot be decoded",
            Self::Incomplete => "fewer units were found in it than its name promises",
            Self::TextTooLarge => "it unpacks to more than a file may hold",
            Self::FileTooLarge => "it is larger than a file of a store can be",
            Self::Unreadable => "the disk fails to read it",
            Self::ReaderPanicked => "reading it panicked three times in a row",
            Self::EndsProcess => "three processes in a row died while they read it",
            Self::NotOurs => "it is not a regular file of this user",
        }
    }
}
