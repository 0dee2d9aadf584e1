//! The log lines of outages: one pair a minute at most.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::log;

/// The log has at most one pair of lines in this time.
const PAIR_EVERY: Duration = Duration::from_secs(60);

/// The beginning of an outage, as its event states it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Began {
    pub(crate) cause: String,
    pub(crate) remedy: &'static str,
    pub(crate) next_attempt: Option<Duration>,
}

/// The end of an outage, as its event states it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Ended {
    pub(crate) duration: Duration,
    pub(crate) waited: u64,
    pub(crate) lost: BTreeMap<&'static str, u64>,
    pub(crate) possible_duplicates: u64,
    pub(crate) lateness: Option<Duration>,
    pub(crate) peak_memory_bytes: u64,
    pub(crate) peak_disk_bytes: u64,
}

/// A line of the log. `suppressed` counts the outages since the last line that had no lines of their own.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use = "the line is lost unless it is logged"]
pub(crate) enum Line {
    Began {
        began: Began,
        suppressed: u64,
    },
    Ended(Ended),
    /// The exporter ends.
    Unlogged {
        suppressed: u64,
    },
}

impl Line {
    /// Logs the line. Runs a user's code: no lock is held.
    pub(crate) fn log(&self, endpoint: &str) {
        match self {
            Self::Began { began: Began { cause, remedy, next_attempt }, suppressed } => {
                let suppressed = (*suppressed > 0).then_some(*suppressed);
                let next_attempt = next_attempt.map(|wait| format!("in {:?}", rounded(wait)));
                log::warn_contained!(
                    endpoint,
                    cause,
                    remedy,
                    next_attempt,
                    suppressed,
                    "an outage has begun: the collector takes no spans; they wait and are sent again"
                );
            }
            Self::Ended(ended) => {
                let Ended { duration, waited, lost, possible_duplicates, .. } = ended;
                let Ended { lateness, peak_memory_bytes, peak_disk_bytes, .. } = ended;
                let duration = rounded(*duration);
                let lateness = lateness.map(|lateness| format!("{:?}", rounded(lateness)));
                log::info_contained!(
                    endpoint,
                    ?duration,
                    waited,
                    ?lost,
                    possible_duplicates,
                    lateness,
                    peak_memory_bytes,
                    peak_disk_bytes,
                    "the outage has ended: the collector takes spans again"
                );
            }
            Self::Unlogged { suppressed } => {
                log::info_contained!(endpoint, suppressed, "outages of the last minute had no lines of their own");
            }
        }
    }
}

/// In whole milliseconds: no reader needs more.
fn rounded(duration: Duration) -> Duration {
    Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// Decides which outages the log names. Pure: a caller with a lock takes the lines and logs them outside.
#[derive(Default)]
pub(crate) struct Outages {
    /// The instant of the last line about a beginning.
    logged: Option<Instant>,
    current: Current,
    suppressed: u64,
}

#[derive(Default)]
enum Current {
    #[default]
    None,
    /// The log has its beginning.
    Logged,
    /// The outage began within [`PAIR_EVERY`] of the last line; the log names it if it lasts.
    Pending(Began),
}

impl Outages {
    pub(crate) fn on_began(&mut self, began: Began, now: Instant) -> Option<Line> {
        self.current = Current::Pending(began);
        self.take_due(now, false)
    }

    pub(crate) fn on_ended(&mut self, ended: Ended) -> Option<Line> {
        match std::mem::take(&mut self.current) {
            Current::Logged => Some(Line::Ended(ended)),
            Current::Pending(_) => {
                self.suppressed += 1;
                None
            }
            Current::None => None,
        }
    }

    /// Takes the line that is due; at the end of the exporter (`all`) each that is left.
    pub(crate) fn take_due(&mut self, now: Instant, all: bool) -> Option<Line> {
        match std::mem::take(&mut self.current) {
            Current::Pending(began) if all || self.due().is_none_or(|due| due <= now) => {
                self.current = Current::Logged;
                self.logged = Some(now);
                Some(Line::Began { began, suppressed: std::mem::take(&mut self.suppressed) })
            }
            current => {
                self.current = current;
                let suppressed = if all { std::mem::take(&mut self.suppressed) } else { 0 };
                (suppressed > 0).then_some(Line::Unlogged { suppressed })
            }
        }
    }

    /// The instant at which a line is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        matches!(self.current, Current::Pending(_)).then(|| self.due()).flatten()
    }

    fn due(&self) -> Option<Instant> {
        self.logged.map(|logged| logged + PAIR_EVERY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "any instant serves: the outages read no clock")]
    fn start() -> Instant {
        Instant::now()
    }

    fn began() -> Began {
        Began { cause: "HTTP status 503".to_owned(), remedy: "wait", next_attempt: None }
    }

    fn ended() -> Ended {
        Ended {
            duration: Duration::from_secs(2),
            waited: 3,
            lost: BTreeMap::new(),
            possible_duplicates: 0,
            lateness: None,
            peak_memory_bytes: 0,
            peak_disk_bytes: 0,
        }
    }

    #[test]
    fn short_outages_of_one_minute_are_one_pair_and_the_next_line_counts_them() {
        let (mut outages, start) = (Outages::default(), start());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(outages.on_began(began(), at(0)), Some(Line::Began { began: began(), suppressed: 0 }));
        assert_eq!(outages.on_ended(ended()), Some(Line::Ended(ended())));
        for second in 1..=5 {
            assert_eq!(outages.on_began(began(), at(10 * second)), None);
            assert_eq!(outages.on_ended(ended()), None);
        }
        assert_eq!(outages.next_due(), None);
        assert_eq!(outages.on_began(began(), at(60)), Some(Line::Began { began: began(), suppressed: 5 }));
    }

    #[test]
    fn an_outage_that_lasts_is_logged_when_the_minute_is_over() {
        let (mut outages, start) = (Outages::default(), start());
        let at = |seconds| start + Duration::from_secs(seconds);
        let _ = outages.on_began(began(), at(0));
        let _ = outages.on_ended(ended());
        assert_eq!(outages.on_began(began(), at(10)), None);
        assert_eq!((outages.next_due(), outages.take_due(at(59), false)), (Some(at(60)), None));
        assert_eq!(outages.take_due(at(60), false), Some(Line::Began { began: began(), suppressed: 0 }));
        assert_eq!((outages.next_due(), outages.take_due(at(90), false)), (None, None));
        assert_eq!(outages.on_ended(ended()), Some(Line::Ended(ended())), "a logged begin has a logged end");
    }

    #[test]
    fn the_end_of_the_exporter_leaves_none_unnamed() {
        let (mut outages, start) = (Outages::default(), start());
        let _ = outages.on_began(began(), start);
        let _ = outages.on_ended(ended());
        assert_eq!(outages.take_due(start, true), None);
        assert_eq!((outages.on_began(began(), start), outages.on_ended(ended())), (None, None));
        assert_eq!(outages.take_due(start, true), Some(Line::Unlogged { suppressed: 1 }));
        assert_eq!(outages.on_began(began(), start), None);
        assert_eq!(outages.take_due(start, true), Some(Line::Began { began: began(), suppressed: 0 }));
    }
}
