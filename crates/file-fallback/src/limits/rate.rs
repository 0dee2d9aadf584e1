//! How fast the store fills up.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

/// The bytes written lately, by the store's own clock.
#[derive(Debug, Default)]
pub(crate) struct Rate {
    /// The start of each step of time, and the bytes that were written in it. Oldest first.
    written: VecDeque<(SystemTime, u64)>,
}

impl Rate {
    pub(crate) fn note(&mut self, now: SystemTime, bytes: u64) {
        match self.written.back_mut() {
            Some((begin, sum)) if now.duration_since(*begin).is_ok_and(|since| since < STEP) => {
                *sum = sum.saturating_add(bytes);
            }
            _ => self.written.push_back((now, bytes)),
        }
        self.forget(now);
    }

    fn forget(&mut self, now: SystemTime) {
        while self.written.front().is_some_and(|(begin, _)| now.duration_since(*begin).is_ok_and(|age| age > WINDOW)) {
            self.written.pop_front();
        }
    }

    /// How long `free` bytes last; `None` if nothing was written in the window.
    pub(crate) fn lasts(&mut self, free: u64, now: SystemTime) -> Option<Duration> {
        self.forget(now);
        let bytes: u64 = self.written.iter().map(|(_, bytes)| bytes).fold(0, |sum, bytes| sum.saturating_add(*bytes));
        let begin = self.written.front()?.0;
        if bytes == 0 {
            return None;
        }
        let over = now.duration_since(begin).unwrap_or_default().max(STEP);
        Some(Duration::try_from_secs_f64(over.as_secs_f64() * free as f64 / bytes as f64).unwrap_or(Duration::MAX))
    }
}

/// Older writes are ignored.
const WINDOW: Duration = Duration::from_secs(600);

/// Writes within this time are one entry.
const STEP: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_rate_gives_the_time_until_the_room_is_full() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let mut rate = Rate::default();
        assert_eq!(rate.lasts(1_000, start), None);
        for second in 0..3_600 {
            rate.note(start + Duration::from_secs(second), 100);
        }
        let lasts = rate.lasts(60_000, start + Duration::from_secs(3_600)).expect("there is a rate");
        assert!((590..=620).contains(&lasts.as_secs()), "{lasts:?}");
        assert!(rate.written.len() <= 62);
        assert_eq!(rate.lasts(1_000, start + Duration::from_secs(9_000)), None, "the window is empty");
    }
}
