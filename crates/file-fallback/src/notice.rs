//! What happened by the way, for a log and a ledger.

/// Something that happened to kept files apart from what the calls return.
///
/// Where it says that `count` left the store, [`stored`](crate::FileFallback::stored) no longer has it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// A file was damaged, or is not one of ours in spite of its name. All good records were delivered; the file was moved to the
    /// subdirectory `quarantine`, for somebody to look at.
    SetAside {
        /// Its name.
        name: String,
        /// Its name in `quarantine`; none if it could not be moved.
        moved_to: Option<String>,
        /// What is wrong with it; of several things the first.
        damage: Damage,
        /// What left the store undelivered: what its name promised, less what was settled.
        count: u64,
        /// What its name promises.
        promised: u64,
    },
    /// A file without damage held less than its name promised; it was removed after its last record.
    Missing {
        /// Its name.
        name: String,
        /// What left the store undelivered.
        count: u64,
    },
    /// A file was taken away by somebody else.
    Vanished {
        /// Its name.
        name: String,
        /// What left the store with it.
        count: u64,
    },
    /// Files of a process that has ended were found and are now in this store.
    Adopted {
        /// The subdirectory they were in.
        from: String,
        /// How many files.
        files: u64,
        /// What came into the store with them.
        count: u64,
    },
    /// The log of the replay progress was damaged: some records may be delivered again.
    ProgressDamaged {
        /// How many marks in it could not be read.
        marks: u64,
    },
    /// Old files in `quarantine` were removed to keep its limit.
    QuarantineTrimmed {
        /// How many.
        files: u64,
    },
}

/// What is wrong with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Damage {
    /// It ends in the middle of compressed data, or of a framed record.
    Torn,
    /// A compressed part does not decode, or its checksum is wrong.
    Corrupt,
    /// A framed record has a length that cannot be: nothing, or more than a record may have. What follows it cannot be told apart.
    BadLength,
    /// A record is longer than a record may be.
    RecordTooLong,
    /// The caller could not use a record.
    Rejected,
    /// It unpacks to more than a file may hold.
    TextTooLarge,
    /// It is larger than the whole store may be.
    FileTooLarge,
    /// The disk fails to read it.
    Unreadable,
    /// It is a link, a pipe, a directory, or belongs to somebody else.
    NotOurs,
}

impl Damage {
    /// In a few words.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Torn => "torn: it ends in the middle of a record or of compressed data",
            Self::Corrupt => "corrupt: a compressed part does not decode",
            Self::BadLength => "the length of a record is damaged, and the rest cannot be read",
            Self::RecordTooLong => "a record is too long",
            Self::Rejected => "a record cannot be decoded",
            Self::TextTooLarge => "it unpacks to more than a file may hold",
            Self::FileTooLarge => "it is larger than the store may be",
            Self::Unreadable => "the disk fails to read it",
            Self::NotOurs => "it is not a file of our own",
        }
    }
}
