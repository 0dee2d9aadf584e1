//! The age of the batches in the oldest file.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use otlp_payload::Payload;

/// Files beyond this number are not remembered: the time in their name counts.
const MOST: usize = 1_024;

/// The files that this process has written, the first of them: a name has the time of the spill, and the batches in the
/// file may have waited in memory before.
#[derive(Default)]
pub(super) struct Spilled(VecDeque<(u128, SystemTime)>);

impl Spilled {
    /// A file of these batches was written at `now`.
    pub(super) fn on_stored(&mut self, batches: &[Payload], now: SystemTime) {
        if let Some(oldest) = batches.iter().map(Payload::created).min()
            && self.0.len() < MOST
        {
            self.0.push_back((millis(now), oldest.min(now)));
        }
    }

    /// The time at which the oldest batch was made of the oldest file, by the time in its name. For a file of another
    /// process that is the time in the name.
    pub(super) fn oldest(&mut self, file: Option<SystemTime>) -> Option<SystemTime> {
        let Some(file) = file else {
            self.0.clear();
            return None;
        };
        while self.0.front().is_some_and(|(stored, _)| *stored < millis(file)) {
            self.0.pop_front();
        }
        let own = self.0.iter().take_while(|(stored, _)| *stored == millis(file)).map(|(_, oldest)| *oldest);
        Some(own.min().unwrap_or(file))
    }
}

/// Milliseconds since 1970, as a name has them.
fn millis(time: SystemTime) -> u128 {
    time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_millis()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use otlp_payload::BatchId;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_micros(1_000_000 * seconds + 7)
    }

    /// The time in the name of a file that was written at `at(seconds)`.
    fn named(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn batch(seconds: u64) -> Payload {
        Payload::new(BatchId { incarnation: 1, seq: seconds }, at(seconds), 1, Bytes::new())
    }

    #[test]
    fn a_file_is_as_old_as_the_oldest_batch_in_it() {
        let mut spilled = Spilled::default();
        spilled.on_stored(&[batch(30), batch(10)], at(100));
        spilled.on_stored(&[batch(40)], at(200));
        assert_eq!(spilled.oldest(Some(named(50))), Some(named(50)), "another process has written it");
        assert_eq!(spilled.oldest(Some(named(100))), Some(at(10)));
        assert_eq!(spilled.oldest(Some(named(200))), Some(at(40)), "the first file has gone");
        assert_eq!(spilled.oldest(None), None);
        assert!(spilled.0.is_empty());
    }

    #[test]
    fn files_without_end_take_no_memory_without_end() {
        let mut spilled = Spilled::default();
        for number in 0..3 * MOST as u64 {
            spilled.on_stored(&[batch(number)], at(number + 5));
        }
        assert_eq!(spilled.0.len(), MOST);
        assert_eq!(spilled.oldest(Some(named(5))), Some(at(0)));
        let last = named(3 * MOST as u64);
        assert_eq!(spilled.oldest(Some(last)), Some(last));
    }
}
