//! The store's own time, for ages: it follows the wall clock, and ignores the jumps of it.

use std::time::{Duration, SystemTime};

/// Starts with the first reading and goes on by the difference of successive readings, an hour at most, and never back.
/// A wall clock that is set wrong while the process runs removes no file early; at worst a file stays longer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Clock {
    last: Option<Reading>,
}

#[derive(Clone, Copy, Debug)]
struct Reading {
    wall: SystemTime,
    ours: SystemTime,
}

impl Clock {
    pub(crate) fn read(&mut self, wall: SystemTime) -> SystemTime {
        let ours = match self.last {
            None => wall,
            Some(last) => {
                let step = wall.duration_since(last.wall).unwrap_or_default().min(MAX_STEP);
                last.ours.checked_add(step).unwrap_or(last.ours)
            }
        };
        self.last = Some(Reading { wall, ours });
        ours
    }
}

/// The most that one reading adds.
const MAX_STEP: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_of_the_wall_clock_counts_an_hour_at_most_and_time_never_goes_back() {
        let at = |hours: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(hours * 3600);
        let mut clock = Clock::default();
        assert_eq!(clock.read(at(1000)), at(1000));
        assert_eq!(clock.read(at(1000) + Duration::from_secs(5)), at(1000) + Duration::from_secs(5));
        assert_eq!(clock.read(at(9000)), at(1001) + Duration::from_secs(5));
        assert_eq!(clock.read(at(10)), at(1001) + Duration::from_secs(5));
        assert_eq!(clock.read(at(11)), at(1002) + Duration::from_secs(5));
    }
}
