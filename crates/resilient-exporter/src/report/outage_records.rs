//! The outages of this process, for users who ask afterwards.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;

use super::health::rfc3339;
use super::position::Position;

/// The number of outages that an exporter keeps, the newest.
const KEPT: usize = 32;

/// One outage of a collector: from its first failed call to its first successful one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct OutageRecord {
    /// The collector, by its endpoint.
    pub endpoint: String,
    /// The first failed call.
    #[serde(serialize_with = "rfc3339")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
    pub from: Option<SystemTime>,
    /// The first call that succeeded again; none while the outage lasts.
    #[serde(serialize_with = "rfc3339")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
    pub to: Option<SystemTime>,
    /// The cause of the last failed call before the outage was certain.
    pub cause: String,
    /// The remedy, as part of a sentence.
    pub remedy: &'static str,
    /// The most spans that waited at a time, in memory and on the disk.
    pub waited: u64,
    /// The spans that were dropped or not accepted meanwhile, by reason.
    pub lost: BTreeMap<&'static str, u64>,
    /// Spans of the outage's calls that the collector may have taken although no answer said so.
    pub possible_duplicates: u64,
}

/// The numbers of an outage so far.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Numbers {
    pub(crate) waited: u64,
    pub(crate) lost: BTreeMap<&'static str, u64>,
    pub(crate) possible_duplicates: u64,
}

/// An outage by the instants of a monotonic clock.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    pub(crate) endpoint: Position,
    since: Instant,
    until: Option<Instant>,
    cause: String,
    remedy: &'static str,
    pub(crate) numbers: Numbers,
}

impl Recorded {
    pub(crate) fn is_over(&self) -> bool {
        self.until.is_some()
    }

    /// The record with the times of the wall clock, which shows `wall` now.
    pub(crate) fn at(self, endpoint: &str, now: Instant, wall: SystemTime) -> OutageRecord {
        let time = |instant: Instant| wall.checked_sub(ago(instant, now));
        let Self { since, until, cause, remedy, numbers, endpoint: _ } = self;
        let Numbers { waited, lost, possible_duplicates } = numbers;
        let (from, to) = (time(since), until.and_then(time));
        OutageRecord { endpoint: endpoint.to_owned(), from, to, cause, remedy, waited, lost, possible_duplicates }
    }
}

fn ago(instant: Instant, now: Instant) -> Duration {
    now.saturating_duration_since(instant)
}

/// The newest outages, the oldest first.
#[derive(Default)]
pub(crate) struct Records(VecDeque<Recorded>);

impl Records {
    pub(crate) fn on_began(&mut self, endpoint: Position, since: Instant, cause: String, remedy: &'static str) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(Recorded { endpoint, since, until: None, cause, remedy, numbers: Numbers::default() });
    }

    pub(crate) fn on_ended(&mut self, endpoint: Position, until: Instant, numbers: Numbers) {
        let last = self.0.iter_mut().rfind(|record| record.endpoint == endpoint);
        if let Some(last) = last {
            (last.until, last.numbers) = (Some(until), numbers);
        }
    }

    /// `current` are the numbers of an outage of this endpoint that lasts.
    pub(crate) fn all(&self, current: impl Fn(Position) -> Numbers) -> Vec<Recorded> {
        let mut all = self.0.iter().cloned().collect::<Vec<_>>();
        for record in all.iter_mut().filter(|record| !record.is_over()) {
            record.numbers = current(record.endpoint);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "any instant serves: the records read no clock")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn the_newest_outages_are_kept_with_the_times_of_the_wall_clock() {
        let (mut records, start) = (Records::default(), start());
        let at = |seconds| start + Duration::from_secs(seconds);
        for number in 0..40_u64 {
            records.on_began(Position::PRIMARY, at(10 * number), number.to_string(), "wait");
            records.on_ended(Position::PRIMARY, at(10 * number + 3), Numbers { waited: number, ..Numbers::default() });
        }
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let all = records.all(|_| unreachable!("none lasts"));
        assert_eq!(all.len(), KEPT);
        let last = all.into_iter().next_back().expect("kept").at("collector", at(400), wall);
        let seconds = |time: Option<SystemTime>| wall.duration_since(time.expect("known")).expect("before").as_secs();
        assert_eq!((seconds(last.from), seconds(last.to), last.waited), (10, 7, 39));
        assert_eq!((last.cause.as_str(), last.endpoint.as_str()), ("39", "collector"));
    }

    #[test]
    fn an_outage_that_lasts_has_the_numbers_of_the_moment_and_no_end() {
        let (mut records, start) = (Records::default(), start());
        records.on_began(Position::PRIMARY, start, "refused".to_owned(), "wait");
        let all = records.all(|_| Numbers { waited: 7, possible_duplicates: 2, ..Numbers::default() });
        let [current] = &all[..] else { panic!("one") };
        assert!(!current.is_over() && current.numbers.waited == 7 && current.numbers.possible_duplicates == 2);
        let record = all[0].clone().at("collector", start, SystemTime::UNIX_EPOCH);
        assert_eq!((record.from, record.to), (Some(SystemTime::UNIX_EPOCH), None));
        let json = serde_json::to_value(record).expect("serializes");
        assert_eq!(
            (&json["from"], &json["to"], &json["waited"]),
            (&"1970-01-01T00:00:00.000Z".into(), &().into(), &7.into())
        );
    }
}
