//! What a person should hear of.

use super::{Id, SyncError};

/// Something happened that is nobody's mistake here and no error of a call; see [`Journal::take_notices`](super::Journal::take_notices).
#[derive(Debug)]
#[non_exhaustive]
pub enum Notice {
    /// A segment is damaged, or is not a file that may be read. What is whole in it is kept.
    Damaged {
        /// Its name in the journal's directory.
        name: String,
        /// Damaged places in it.
        places: u64,
        /// How many bytes these are.
        bytes: u64,
    },
    /// A damaged segment was moved away, after what was whole in it and still waits had been written elsewhere.
    SetAside {
        /// The name that it had.
        name: String,
        /// Its name in the subdirectory `quarantine`.
        moved_to: String,
    },
    /// A batch cannot be read any more and is given up; if the caller still has it in memory, it should append it again, under
    /// a new id.
    Lost {
        /// Which one.
        id: Id,
        /// How many items were in it.
        count: u32,
    },
    /// A sync of this segment failed. It is never synced again; what waits in it is written to a new one.
    Poisoned {
        /// Its name in the journal's directory.
        name: String,
    },
}

/// What opening found.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Report {
    /// Segments that were there.
    pub segments: usize,
    /// Bytes of them.
    pub bytes: u64,
    /// Batches that wait: not done, and without a file that took them over.
    pub batches: usize,
    /// Items in these batches.
    pub items: u64,
    /// Batches whose spill had been announced, whose file is there, and whose mark was missing: the file wins.
    pub taken_over: usize,
    /// Batches whose spill had been announced and whose file is not there: they are among [`batches`](Self::batches).
    pub taken_back: usize,
    /// Further copies of a batch that also stands elsewhere, and batches that stand behind their own mark.
    pub duplicates: usize,
    /// Segments that end in something that is no whole record, as a crash leaves it.
    pub torn: usize,
    /// Bytes of these ends; they are not read.
    pub torn_bytes: u64,
    /// Segments with damage before their end.
    pub damaged: usize,
    /// Damaged places in them: one or more records each.
    pub damaged_places: u64,
    /// Something that is to be written did not become durable: what became of spills that a crash interrupted, or what stands in a segment of
    /// which a sync failed. Until a [`sync`](super::Journal::sync) succeeds, files of the fallback must not be replayed or removed, and what
    /// was found may be as little safe from a power cut as it was before.
    pub unsynced: Option<SyncError>,
}

/// The journal in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// Batches that wait.
    pub batches: usize,
    /// Items in them.
    pub items: u64,
    /// Segments on disk.
    pub segments: usize,
    /// Bytes that these take.
    pub bytes: u64,
    /// Bytes of records that no sync has made durable yet.
    pub unsynced_bytes: u64,
    /// Batches found at open that [`next_recovered`](super::Journal::next_recovered) has not given out yet.
    pub to_recover: usize,
    /// The last attempt to write or sync failed.
    pub trouble: bool,
}
