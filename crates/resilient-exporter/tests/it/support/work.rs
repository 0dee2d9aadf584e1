//! The work of a thread.

use std::fs;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The work of this thread, which a busy machine does not add to. The exporter opens its state directory on the thread
/// that builds it, and its other threads work beside.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    /// Reads of files, and their bytes.
    pub(crate) reads: u64,
    pub(crate) bytes: u64,
    pub(crate) processor: Duration,
}

impl Work {
    pub(crate) fn of_this_thread() -> Self {
        let io = fs::read_to_string("/proc/thread-self/io").expect("Linux");
        let number = |key: &str| {
            let line = io.lines().find_map(|line| line.strip_prefix(key)).expect("a count");
            line.trim().parse().expect("a number")
        };
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Self {
            reads: number("syscr:"),
            bytes: number("rchar:"),
            processor: time.try_into().expect("a thread uses no negative time"),
        }
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            reads: self.reads - before.reads,
            bytes: self.bytes - before.bytes,
            processor: self.processor - before.processor,
        }
    }
}
