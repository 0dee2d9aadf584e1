//! The store's own time, for ages: it follows the wall clock, and believes no jump of it.

use std::time::{Duration, SystemTime};

use crate::form::names::CLOCK_SET;

/// Starts with the first reading and goes on by the difference of successive readings, an hour at most, and never back.
/// A wall clock that is set wrong while the process runs removes no file early; at worst a file stays longer.
///
/// A wall clock that is wrong at the start is found out by the newest time that an earlier process has seen: if it is
/// more than a day beyond that, no file is removed for its age until the process has run for an hour (a wrong clock is
/// mostly put right within minutes), and then one file a second until no file is too old.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Clock {
    /// The newest time that an earlier process has seen.
    remembered: Option<SystemTime>,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Unread,
    Trusted(Reading),
    /// The wall clock is far beyond `remembered`, and the process has run for so long.
    Resting {
        reading: Reading,
        remembered: SystemTime,
        ran: Duration,
    },
    /// The wall clock is believed after an hour; the last file was removed for its age at this time.
    Slow {
        reading: Reading,
        removed: SystemTime,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reading {
    wall: SystemTime,
    ours: SystemTime,
}

/// A step of the clock that an operator should know of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClockEvent {
    /// Age removes nothing before this time of the wall clock.
    Rests { until: SystemTime },
    /// The remembered time was more than a day beyond the wall clock, which counts.
    SetBack { from: SystemTime, to: SystemTime },
}

impl Clock {
    pub(crate) fn new(remembered: Option<SystemTime>) -> Self {
        Self { remembered, state: State::Unread }
    }

    /// The store's own time.
    pub(crate) fn read(&mut self, wall: SystemTime) -> (SystemTime, Option<ClockEvent>) {
        let event;
        (self.state, event) = step(self.state, self.remembered, wall);
        (self.state.reading().map_or(wall, |reading| reading.ours), event)
    }

    /// The newest time that can be believed, for the next process to remember.
    pub(crate) fn newest(&self) -> Option<SystemTime> {
        match self.state {
            State::Unread => self.remembered,
            State::Trusted(reading) | State::Slow { reading, .. } => Some(reading.ours),
            State::Resting { remembered, ran, .. } => remembered.checked_add(ran),
        }
    }

    /// Until when age removes nothing, by the wall clock.
    pub(crate) fn rests_until(&self) -> Option<SystemTime> {
        match self.state {
            State::Resting { reading, ran, .. } => reading.wall.checked_add(REST.saturating_sub(ran)),
            State::Unread | State::Trusted(_) | State::Slow { .. } => None,
        }
    }

    /// Whether files leave one a second.
    pub(crate) fn is_slow(&self) -> bool {
        matches!(self.state, State::Slow { .. })
    }

    /// How many of `old` files may be removed for their age now.
    pub(crate) fn allow(&mut self, old: usize) -> usize {
        match &mut self.state {
            State::Unread | State::Trusted(_) => old,
            State::Resting { .. } => 0,
            // No file is too old any more.
            State::Slow { reading, .. } if old == 0 => {
                self.state = State::Trusted(*reading);
                0
            }
            State::Slow { reading, removed } => {
                let seconds = reading.ours.duration_since(*removed).unwrap_or_default().as_secs();
                let allowed = usize::try_from(seconds).unwrap_or(usize::MAX).min(MAX_AT_ONCE).min(old);
                if allowed > 0 {
                    *removed = reading.ours;
                }
                allowed
            }
        }
    }
}

impl State {
    fn reading(self) -> Option<Reading> {
        match self {
            Self::Unread => None,
            Self::Trusted(reading) | Self::Resting { reading, .. } | Self::Slow { reading, .. } => Some(reading),
        }
    }
}

/// The state after one more reading of the wall clock.
fn step(state: State, remembered: Option<SystemTime>, wall: SystemTime) -> (State, Option<ClockEvent>) {
    let trusted = |ours| State::Trusted(Reading { wall, ours });
    match state {
        State::Unread => match remembered {
            None => (trusted(wall), None),
            // The clock of a machine that has just started, and was not set yet, says nothing.
            Some(remembered) if wall < SystemTime::UNIX_EPOCH + CLOCK_SET => (trusted(remembered.max(wall)), None),
            Some(remembered) if is_beyond(wall, remembered) => {
                let reading = Reading { wall, ours: wall };
                let until = wall.checked_add(REST).unwrap_or(wall);
                (State::Resting { reading, remembered, ran: Duration::ZERO }, Some(ClockEvent::Rests { until }))
            }
            Some(from) if is_beyond(from, wall) => (trusted(wall), Some(ClockEvent::SetBack { from, to: wall })),
            Some(remembered) => (trusted(remembered.max(wall)), None),
        },
        State::Trusted(last) => (trusted(last.next(wall, MAX_STEP)), None),
        State::Resting { reading, remembered, ran } => {
            let ran = ran + wall.duration_since(reading.wall).unwrap_or_default().min(MAX_STEP_AT_REST);
            if !is_beyond(wall, remembered.checked_add(ran).unwrap_or(remembered)) {
                // The clock was put right.
                return (trusted(wall.max(remembered)), None);
            }
            let reading = Reading { wall, ours: wall };
            if ran < REST {
                (State::Resting { reading, remembered, ran }, None)
            } else {
                (State::Slow { reading, removed: wall }, None)
            }
        }
        // The clock was put right after all, unless this time is as far ahead of ours as a wrong one.
        State::Slow { reading, .. } if is_beyond(reading.wall, wall) && !is_beyond(wall, reading.ours) => {
            (trusted(wall), None)
        }
        State::Slow { reading, removed } => {
            let ours = reading.next(wall, MAX_STEP);
            (State::Slow { reading: Reading { wall, ours }, removed }, None)
        }
    }
}

impl Reading {
    /// Our time at the next reading.
    fn next(self, wall: SystemTime, most: Duration) -> SystemTime {
        let step = wall.duration_since(self.wall).unwrap_or_default().min(most);
        self.ours.checked_add(step).unwrap_or(self.ours)
    }
}

fn is_beyond(time: SystemTime, other: SystemTime) -> bool {
    time.duration_since(other).is_ok_and(|ahead| ahead > MAX_AHEAD)
}

/// The most that one reading adds.
const MAX_STEP: Duration = Duration::from_secs(3600);

/// The most that one reading adds to the time that a process has run for: a jump must not end the rest.
const MAX_STEP_AT_REST: Duration = Duration::from_secs(600);

/// How long age removes nothing.
const REST: Duration = Duration::from_secs(3600);

/// A time that is so far beyond another one is not believed.
const MAX_AHEAD: Duration = Duration::from_secs(24 * 3600);

/// One clean-up removes at most so many files for seconds that have passed.
const MAX_AT_ONCE: usize = 60;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + CLOCK_SET + Duration::from_secs(seconds)
    }

    const HOUR: u64 = 3600;
    const DAY: u64 = 24 * HOUR;

    #[test]
    fn a_jump_of_the_wall_clock_counts_an_hour_at_most_and_time_never_goes_back() {
        let mut clock = Clock::default();
        let mut read = |seconds| clock.read(at(seconds)).0;
        assert_eq!(read(1000 * HOUR), at(1000 * HOUR));
        assert_eq!(read(1000 * HOUR + 5), at(1000 * HOUR + 5));
        assert_eq!(read(9000 * HOUR), at(1001 * HOUR + 5));
        assert_eq!(read(10 * HOUR), at(1001 * HOUR + 5));
        assert_eq!(read(11 * HOUR), at(1002 * HOUR + 5));
    }

    #[test]
    fn a_clock_that_is_ahead_at_the_start_rests_for_an_hour_and_then_goes_by_the_second() {
        for ahead in [2 * DAY, 10 * DAY, 74 * 365 * DAY] {
            let mut clock = Clock::new(Some(at(0)));
            assert_eq!(clock.read(at(ahead)).1, Some(ClockEvent::Rests { until: at(ahead + HOUR) }));
            for second in 1..HOUR {
                assert_eq!((clock.read(at(ahead + second)).1, clock.allow(9)), (None, 0));
                assert_eq!(clock.rests_until(), Some(at(ahead + HOUR)));
                assert_eq!(clock.newest(), Some(at(second)), "a restart would rest again");
            }
            for second in HOUR..HOUR + 100 {
                clock.read(at(ahead + second));
                assert_eq!((clock.allow(9), clock.rests_until()), (usize::from(second > HOUR), None));
            }
            assert_eq!((clock.is_slow(), clock.allow(0), clock.is_slow()), (true, 0, false));
            assert_eq!(clock.allow(9), 9);
            assert_eq!(clock.newest(), Some(at(ahead + HOUR + 99)));
        }
    }

    #[test]
    fn a_clock_that_is_put_right_counts_at_once() {
        let mut clock = Clock::new(Some(at(10 * DAY)));
        clock.read(at(20 * DAY));
        assert_eq!(
            (clock.read(at(10 * DAY + 30)).0, clock.allow(9), clock.rests_until()),
            (at(10 * DAY + 30), 9, None)
        );
        // And after the rest.
        let mut clock = Clock::new(Some(at(10 * DAY)));
        for minute in 0..70 {
            clock.read(at(20 * DAY + 60 * minute));
        }
        assert!(clock.is_slow());
        assert_eq!(clock.read(at(10 * DAY + HOUR)).0, at(10 * DAY + HOUR));
    }

    #[test]
    fn a_clock_that_was_wrong_twice_is_not_right_because_it_is_less_wrong() {
        let mut clock = Clock::new(Some(at(10 * DAY)));
        for minute in 0..70 {
            clock.read(at(12 * DAY + 60 * minute));
        }
        assert!(clock.is_slow());
        clock.read(at(9_000 * DAY));
        let ours = clock.newest().expect("read");
        let (time, _) = clock.read(at(5_000 * DAY));
        assert_eq!((time, clock.is_slow()), (ours, true));
    }

    #[test]
    fn a_memory_that_is_ahead_is_set_back_but_not_to_a_clock_that_was_never_set() {
        let mut clock = Clock::new(Some(at(10 * DAY)));
        let (time, event) = clock.read(at(8 * DAY));
        assert_eq!((time, event), (at(8 * DAY), Some(ClockEvent::SetBack { from: at(10 * DAY), to: at(8 * DAY) })));
        assert_eq!(clock.newest(), Some(at(8 * DAY)));
        let mut clock = Clock::new(Some(at(10 * DAY)));
        assert_eq!(clock.read(SystemTime::UNIX_EPOCH), (at(10 * DAY), None));
        let mut clock = Clock::new(Some(at(10 * DAY)));
        assert_eq!(clock.read(at(9 * DAY)), (at(10 * DAY), None), "within a day");
    }

    proptest! {
        /// A process with a clock that jumps anywhere, restarted at any time with the memory of the last one.
        #[test]
        fn the_memory_of_time_advances_no_faster_than_an_hour_a_reading(
            script in prop::collection::vec((0..100 * 365 * DAY, any::<bool>()), 1..60),
        ) {
            let mut clock = Clock::new(Some(at(0)));
            let mut newest = at(0);
            for (wall, restart) in script {
                if restart {
                    clock = Clock::new(clock.newest());
                }
                let first = clock.state == State::Unread;
                clock.read(at(wall));
                let now = clock.newest().expect("read");
                // The start of the slow time alone takes the wall clock over, after an hour of readings.
                let most = if clock.is_slow() { at(wall).max(newest) } else { newest } + MAX_STEP;
                let most = if first { most + MAX_AHEAD } else { most };
                let is_right = !is_beyond(at(wall), newest + MAX_STEP);
                prop_assert!(now <= most || is_right && now <= at(wall) + MAX_STEP, "{:?}", clock);
                prop_assert!(clock.allow(9) == 9 || clock.rests_until().is_some() || clock.is_slow());
                newest = now;
            }
        }
    }
}
