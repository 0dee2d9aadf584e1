//! The names of one store: its signal, and the number that the next file gets.

use std::time::SystemTime;

use crate::form::name::{Extension, FileName, MAX_TRUSTED_SEQ};

/// Numbers go up by one from the highest that was ever seen, so that a name is not used twice.
#[derive(Debug)]
pub(crate) struct Names {
    signal: String,
    next_seq: u64,
}

impl Names {
    pub(crate) fn new(signal: String) -> Self {
        Self { signal, next_seq: 1 }
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
    pub(crate) fn take(&mut self, time: SystemTime, count: u64, extension: Extension) -> FileName {
        let name = FileName { time, seq: self.next_seq, count, extension };
        self.next_seq += 1;
        name
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
