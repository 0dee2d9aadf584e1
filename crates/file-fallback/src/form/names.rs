//! The names of one store: its signal, and the number that the next file gets.

use std::time::{Duration, SystemTime};

use crate::form::name::{Extension, FileName, MAX_TRUSTED_SEQ, as_named};

/// Numbers go up by one from the highest that was ever seen, so that a name is not used twice. The times in the names
/// of new files never go back, so that names are in the order of writing, whatever the wall clock does.
#[derive(Debug)]
pub(crate) struct Names {
    signal: String,
    next_seq: u64,
    /// The newest time in a name that this store has written.
    newest: Option<SystemTime>,
    /// The newest time in a name that an earlier run has left in the directory.
    found: Option<SystemTime>,
}

impl Names {
    pub(crate) fn new(signal: String, first: u64) -> Self {
        Self { signal, next_seq: first.min(MAX_TRUSTED_SEQ), newest: None, found: None }
    }

    /// The parts of a file name of this store; `None` for any other name.
    pub(crate) fn parse(&self, name: &str) -> Option<FileName> {
        FileName::parse(&self.signal, name)
    }

    pub(crate) fn write(&self, name: &FileName) -> String {
        name.format(&self.signal)
    }

    pub(crate) fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Takes the next number for a new file. The number of a file that is not published after all is not used again:
    /// the file may still be on the disk.
    pub(crate) fn take(&mut self, now: SystemTime, count: u64, extension: Extension) -> FileName {
        let time = as_named(now).max(self.floor(now));
        self.newest = Some(time);
        let name = FileName { time, seq: self.next_seq, count, extension };
        self.next_seq += 1;
        name
    }

    /// The time that the name of a new file is not before.
    fn floor(&self, now: SystemTime) -> SystemTime {
        // A file of an earlier run that was named with a clock far ahead does not decide, unless the present clock is
        // the one that is wrong.
        let trusted = |found: &SystemTime| now < SystemTime::UNIX_EPOCH + CLOCK_SET || *found <= now + MAX_AHEAD;
        self.newest.or(self.found.filter(trusted)).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// New files get names behind those of `other`.
    pub(crate) fn continue_from(&mut self, other: &Self) {
        self.next_seq = self.next_seq.max(other.next_seq);
        self.newest = self.newest.max(other.newest);
    }

    /// Notes the time in the name of a file that an earlier run has left in the directory.
    pub(crate) fn note_found(&mut self, time: SystemTime) {
        self.found = self.found.max(Some(time));
    }

    /// Notes the number of a file on the disk. A number that no store can have reached is ignored: the numbers of new
    /// files would end soon after it.
    pub(crate) fn note(&mut self, seq: u64) {
        if seq <= MAX_TRUSTED_SEQ {
            self.reserve(seq);
        }
    }

    /// New files get higher numbers than `seq`.
    pub(crate) fn reserve(&mut self, seq: u64) {
        self.next_seq = self.next_seq.max(seq + 1);
    }
}

/// 2020-01-01, since the epoch. A clock that shows an earlier time was not set: this crate is younger.
pub(crate) const CLOCK_SET: Duration = Duration::from_secs(1_577_836_800);

/// A time in the name of an earlier run that is so far ahead of the wall clock is not continued from.
const MAX_AHEAD: Duration = Duration::from_secs(24 * 3600);
