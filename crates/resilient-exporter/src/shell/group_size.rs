//! The size of the next group to replay.

use std::time::Duration;

/// The bytes of one group. A crash in the middle of a group repeats the batches of it that were delivered, since its
/// marks are written once all have an answer: therefore a group is as large as the collector takes in about 100 ms.
#[derive(Debug)]
pub(crate) struct GroupSize {
    bytes: usize,
}

impl GroupSize {
    const LEAST: usize = 64 * 1_024;
    const MOST: usize = 4 * 1_024 * 1_024;

    /// The longest that acknowledged spans wait for their mark, as in the journal.
    const TIME: Duration = Duration::from_millis(100);

    pub(crate) fn new() -> Self {
        Self { bytes: Self::LEAST }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The time of the last group, from its read to its last answer.
    pub(crate) fn on_group_ended(&mut self, time: Duration) {
        let bytes = match time {
            time if time <= Self::TIME / 2 => self.bytes * 2,
            time if time <= Self::TIME => self.bytes,
            time => (self.bytes as f64 * Self::TIME.div_duration_f64(time)) as usize,
        };
        self.bytes = bytes.clamp(Self::LEAST, Self::MOST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_as_large_as_the_collector_takes_in_100_ms() {
        let mut size = GroupSize::new();
        // Microseconds for a kilobyte.
        for (micros, bytes) in
            [(1, 4_096 * 1_024..=4_096 * 1_024), (200, 250 * 1_024..=512 * 1_024), (9_000, 65_536..=65_536)]
        {
            for _ in 0..20 {
                size.on_group_ended(Duration::from_micros(size.bytes() as u64 / 1_024 * micros));
            }
            assert!(bytes.contains(&size.bytes()), "{micros} us: {}", size.bytes());
        }
        size.on_group_ended(Duration::ZERO);
        assert_eq!(size.bytes(), 2 * 65_536, "it grows again");
    }
}
