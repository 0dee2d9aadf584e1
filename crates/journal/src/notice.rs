//! Events for the log, and the journal in numbers.

use std::io;

use super::{Id, SyncError};

/// An event for an operator that is not the error of a call; see
/// [`Journal::take_notices`](super::Journal::take_notices).
#[derive(Debug)]
#[non_exhaustive]
pub enum Notice {
    /// A segment is damaged, or is not a file that may be read. Its whole records count all the same.
    Damaged {
        /// Its name in the journal's directory.
        name: String,
        /// Damaged places in it.
        places: u64,
        /// The length of these places together.
        bytes: u64,
    },
    /// A damaged segment was moved to the quarantine, after its waiting batches had been copied elsewhere.
    SetAside {
        /// The name that it had.
        name: String,
        /// Its name in the subdirectory `quarantine`.
        moved_to: String,
    },
    /// Batches are lost that stood in damaged places of a segment. Their ids are not known, and some may have been
    /// done.
    Missing {
        /// The name of the segment.
        name: String,
        /// The number of batches: exact where the next segment states it, otherwise one for each damaged place.
        batches: u64,
        /// The number of their items, likewise.
        items: u64,
    },
    /// A segment has whole records of a newer version. They are not read; the segment moves to the quarantine, as it
    /// is, once no other batch in it waits.
    Newer {
        /// The name of the segment.
        name: String,
        /// The number of these records.
        records: u64,
        /// The version of one of them.
        version: u8,
    },
    /// A batch cannot be read and is lost. A caller that still has it in memory should append it again, under a new id.
    Lost {
        /// Its id.
        id: Id,
        /// The number of its items.
        count: u32,
    },
    /// Another program has removed this segment; see [`Journal::take_vanished`](super::Journal::take_vanished).
    Vanished {
        /// Its name.
        name: String,
        /// The number of batches that were only there.
        batches: u64,
        /// The number of their items.
        items: u64,
    },
    /// A sync of this segment failed. It is never synced again; its waiting batches are copied to a new one.
    SyncFailed {
        /// Its name in the journal's directory.
        name: String,
    },
}

/// A segment that the disk does not read, or not as a whole; see [`Report::kept`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Kept {
    /// Its name in the journal's directory.
    pub name: String,
    /// The answer of the disk.
    pub source: io::Error,
}

/// The result of opening a journal.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Report {
    /// Segments found.
    pub segments: usize,
    /// Their length together.
    pub bytes: u64,
    /// Batches that wait: neither done nor taken over by a file.
    pub batches: usize,
    /// Items in these batches.
    pub items: u64,
    /// Batches of announced spills whose file exists and whose mark is missing: the file has them.
    pub taken_over: usize,
    /// Batches of announced spills whose file does not exist: they are among [`batches`](Self::batches).
    pub taken_back: usize,
    /// Further copies of a batch, and batches that stand behind their own mark.
    pub duplicates: usize,
    /// Segments that end in bytes which are not a whole record, as a crash leaves them.
    pub torn: usize,
    /// The number of these bytes; they are not read.
    pub torn_bytes: u64,
    /// Segments with damage: anywhere in one that was finished, and so synced as a whole; before the end of the last
    /// one.
    pub damaged: usize,
    /// Damaged places in them: one or more records each.
    pub damaged_places: u64,
    /// Batches that were lost in the damaged places, and their items: see [`Notice::Missing`]. Not among
    /// [`batches`](Self::batches) and [`items`](Self::items).
    pub lost_batches: u64,
    /// Their items.
    pub lost_items: u64,
    /// Records of a newer version: see [`Notice::Newer`].
    pub newer: u64,
    /// Segments that the disk does not read, or not as a whole. They are not changed, and neither they nor later
    /// segments are removed: the next opening tries again. Records that can be read count all the same. A mark that
    /// cannot be read does not: its batches come again.
    pub kept: Vec<Kept>,
    /// Why marks or batches are not durable yet: the marks of spills that a crash interrupted, or the batches in a
    /// segment whose sync failed. Until a [`sync`](super::Journal::sync) succeeds, the caller must neither replay nor
    /// remove files of the fallback, and a power cut may take as much as before.
    pub unsynced: Option<SyncError>,
}

/// The journal in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// Batches that wait.
    pub batches: usize,
    /// Items in these batches.
    pub items: u64,
    /// Segments on disk.
    pub segments: usize,
    /// Their length together.
    pub bytes: u64,
    /// The limit of `bytes`; see [`Journal::set_max_bytes`](super::Journal::set_max_bytes).
    pub max_bytes: u64,
    /// Bytes of records that no sync has made durable yet.
    pub unsynced_bytes: u64,
    /// The last attempt to write or sync failed.
    pub trouble: bool,
    /// Another program has removed the directory, and no batch is durable; see
    /// [`Journal::renew`](super::Journal::renew).
    pub vanished: bool,
}
