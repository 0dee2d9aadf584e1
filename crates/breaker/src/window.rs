//! Sliding windows over outcomes. Each records in constant time and allocates only when it is made.

use alloc::boxed::Box;
use alloc::vec;
use core::time::Duration;

use crate::config::{self, Rate};

/// The content of a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) calls: u32,
    pub(crate) failures: u32,
    pub(crate) slow: u32,
}

#[derive(Clone, Debug)]
pub(crate) enum Ring {
    Calls(Calls),
    Time(Time),
}

impl Ring {
    pub(crate) fn new(window: config::Window) -> Ring {
        match window {
            config::Window::Calls(length) => Ring::Calls(Calls::new(length)),
            config::Window::Time(length) => Ring::Time(Time::new(nanos(length))),
        }
    }

    pub(crate) fn clear(&mut self) {
        match self {
            Ring::Calls(calls) => calls.clear(),
            Ring::Time(time) => time.clear(),
        }
    }

    pub(crate) fn record(&mut self, failed: bool, slow: bool, now: u64) -> Tally {
        match self {
            Ring::Calls(calls) => calls.record(failed, slow),
            Ring::Time(time) => time.record(failed, slow, now),
        }
    }

    pub(crate) fn tally(&self) -> Tally {
        match self {
            Ring::Calls(calls) => calls.tally,
            Ring::Time(time) => time.tally,
        }
    }
}

/// The last `length` outcomes, two bits each: failed, slow.
#[derive(Clone, Debug)]
pub(crate) struct Calls {
    bits: Box<[u64]>,
    length: u32,
    next: u32,
    tally: Tally,
}

impl Calls {
    fn new(length: u32) -> Calls {
        let words = length.div_ceil(PER_WORD) as usize;
        Calls { bits: vec![0; words].into_boxed_slice(), length, next: 0, tally: Tally::default() }
    }

    fn clear(&mut self) {
        self.tally = Tally::default();
        self.next = 0;
    }

    fn record(&mut self, failed: bool, slow: bool) -> Tally {
        let (word, shift) = ((self.next / PER_WORD) as usize, (self.next % PER_WORD) * 2);
        if self.tally.calls == self.length {
            let oldest = self.bits[word] >> shift;
            self.tally.failures -= (oldest & 1) as u32;
            self.tally.slow -= (oldest >> 1 & 1) as u32;
        } else {
            self.tally.calls += 1;
        }
        let outcome = u64::from(failed) | u64::from(slow) << 1;
        self.bits[word] = self.bits[word] & !(0b11 << shift) | outcome << shift;
        self.tally.failures += u32::from(failed);
        self.tally.slow += u32::from(slow);
        self.next = if self.next + 1 == self.length { 0 } else { self.next + 1 };
        self.tally
    }
}

/// The outcomes of the last `BUCKETS` spans of `bucket` nanoseconds, the current one among them.
#[derive(Clone, Debug)]
pub(crate) struct Time {
    buckets: [Tally; BUCKETS as usize],
    bucket: u64,
    /// The number of the newest span since time 0.
    newest: u64,
    tally: Tally,
}

impl Time {
    fn new(length: u64) -> Time {
        let bucket = (length / BUCKETS).max(1);
        Time { buckets: [Tally::default(); BUCKETS as usize], bucket, newest: 0, tally: Tally::default() }
    }

    fn clear(&mut self) {
        self.buckets = [Tally::default(); BUCKETS as usize];
        self.tally = Tally::default();
        self.newest = 0;
    }

    fn record(&mut self, failed: bool, slow: bool, now: u64) -> Tally {
        // A clock that went back is taken to have stood still.
        let span = (now / self.bucket).max(self.newest);
        for gone in self.newest..span.min(self.newest.saturating_add(BUCKETS)) {
            let left = &mut self.buckets[((gone + 1) % BUCKETS) as usize];
            self.tally.calls -= left.calls;
            self.tally.failures -= left.failures;
            self.tally.slow -= left.slow;
            *left = Tally::default();
        }
        self.newest = span;
        let current = &mut self.buckets[(span % BUCKETS) as usize];
        // A full count stays full: 2^32 calls in one window say nothing new.
        if self.tally.calls < u32::MAX {
            for tally in [current, &mut self.tally] {
                tally.calls += 1;
                tally.failures += u32::from(failed);
                tally.slow += u32::from(slow);
            }
        }
        self.tally
    }
}

/// Whether the window says that too many failed, or were slow.
pub(crate) fn verdict(rate: &Rate, tally: Tally) -> Verdict {
    if tally.calls < rate.minimum_calls {
        return Verdict::Fine;
    }
    match (rate.failure_rate, rate.slow) {
        (Some(limit), _) if reaches(tally.failures, tally.calls, limit) => Verdict::Failing,
        (_, Some((limit, _))) if reaches(tally.slow, tally.calls, limit) => Verdict::Slow,
        _ => Verdict::Fine,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Fine,
    Failing,
    Slow,
}

/// In whole millionths, so that 7 of 10 reach 0.7 exactly; rounded down, so that 2 of 3 reach two thirds.
fn reaches(part: u32, whole: u32, limit: f64) -> bool {
    let limit = ((limit * 1e6) as u64).max(1);
    u64::from(part) * 1_000_000 >= limit * u64::from(whole)
}

const PER_WORD: u32 = 32;
/// A tenth of the window is the step in which it slides.
const BUCKETS: u64 = 10;

/// The nanoseconds of `time`, in which the machine and its windows count; saturates after 584 years.
#[inline]
pub(crate) fn nanos(time: Duration) -> u64 {
    const NANOS: u64 = 1_000_000_000;
    let (seconds, rest) = (time.as_secs(), u64::from(time.subsec_nanos()));
    if seconds < u64::MAX / NANOS { seconds * NANOS + rest } else { seconds.saturating_mul(NANOS).saturating_add(rest) }
}
