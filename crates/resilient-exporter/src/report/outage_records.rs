//! The outages of this process, for users who ask afterwards.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant, SystemTime};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use super::health::{rfc3339, seconds};
use super::position::Position;

/// The number of outages that an exporter keeps, the newest.
pub(crate) const KEPT: usize = 32;

/// One outage of a collector: from its first failed call to its first successful one. Its JSON is read back by
/// `Deserialize`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct OutageRecord {
    /// The collector, by its endpoint.
    pub endpoint: String,
    /// The first failed call, by the wall clock of that moment.
    #[serde(serialize_with = "rfc3339", deserialize_with = "time")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
    pub from: Option<SystemTime>,
    /// The first call that succeeded again, by the wall clock of that moment; none while the outage lasts.
    #[serde(serialize_with = "rfc3339", deserialize_with = "time")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
    pub to: Option<SystemTime>,
    /// The outage has no end that a call tells: `to` is none for good. Either the process ended while it lasted, and
    /// the numbers are those of its last minute, or calls went back to a collector of a higher priority.
    #[serde(default)]
    pub interrupted: bool,
    /// The cause of the last failed call before the outage was certain.
    pub cause: String,
    /// The remedy, as part of a sentence.
    pub remedy: Cow<'static, str>,
    /// The most spans that waited at a time, in memory and on the disk.
    pub waited: u64,
    /// The spans that were dropped or not accepted meanwhile, by reason.
    pub lost: BTreeMap<Cow<'static, str>, u64>,
    /// Spans of the outage's calls that the collector may have taken although no answer said so.
    pub possible_duplicates: u64,
    /// The greatest [lateness](crate::Lateness) of the batches that were delivered since the outage began and whose
    /// spans had ended before it was over. Grows until the last of them is delivered, in a later outage no more. None
    /// before the first. In JSON it is `lateness_seconds`.
    #[serde(rename = "lateness_seconds", serialize_with = "seconds", deserialize_with = "duration", default)]
    #[cfg_attr(feature = "schema", schemars(with = "Option<f64>"))]
    pub lateness: Option<Duration>,
    /// The most bytes of batches in memory at a time.
    #[serde(default)]
    pub peak_memory_bytes: u64,
    /// The most bytes of fallback files and journal on the disk at a time, those from before the outage included.
    #[serde(default)]
    pub peak_disk_bytes: u64,
}

fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SystemTime>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    let time = text.map(|text| text.parse::<jiff::Timestamp>()).transpose().map_err(D::Error::custom)?;
    Ok(time.map(SystemTime::from))
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let seconds = Option::<f64>::deserialize(deserializer)?;
    seconds.map(Duration::try_from_secs_f64).transpose().map_err(D::Error::custom)
}

/// The numbers of an outage so far.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Numbers {
    pub(crate) waited: u64,
    pub(crate) lost: BTreeMap<&'static str, u64>,
    pub(crate) possible_duplicates: u64,
    pub(crate) lateness: Option<Duration>,
    pub(crate) peak_memory_bytes: u64,
    pub(crate) peak_disk_bytes: u64,
}

/// An outage of this process.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    pub(crate) endpoint: Position,
    /// The outages of this process before this one.
    pub(crate) number: u64,
    from: Option<SystemTime>,
    to: Option<SystemTime>,
    /// The instant of `to`.
    until: Option<Instant>,
    interrupted: bool,
    cause: String,
    remedy: &'static str,
    pub(crate) numbers: Numbers,
}

impl Recorded {
    pub(crate) fn is_over(&self) -> bool {
        self.until.is_some()
    }

    /// The first failed call, its cause and its remedy.
    pub(crate) fn beginning(&self) -> (Option<SystemTime>, &str) {
        (self.from, &self.cause)
    }

    /// The record, with the name of its collector.
    pub(crate) fn of(self, endpoint: &str) -> OutageRecord {
        let Self { endpoint: _, number: _, from, to, until: _, interrupted, cause, remedy, numbers } = self;
        let Numbers { waited, lost, possible_duplicates, lateness, peak_memory_bytes, peak_disk_bytes } = numbers;
        OutageRecord {
            endpoint: endpoint.to_owned(),
            from,
            to,
            interrupted,
            cause,
            remedy: remedy.into(),
            waited,
            lost: lost.into_iter().map(|(reason, spans)| (reason.into(), spans)).collect(),
            possible_duplicates,
            lateness,
            peak_memory_bytes,
            peak_disk_bytes,
        }
    }
}

/// The newest outages, the oldest first.
#[derive(Default)]
pub(crate) struct Records {
    outages: VecDeque<Recorded>,
    began: u64,
}

impl Records {
    /// An outage has begun, `from` a time of the wall clock on.
    pub(crate) fn on_began(
        &mut self,
        endpoint: Position,
        from: Option<SystemTime>,
        cause: String,
        remedy: &'static str,
    ) {
        if self.outages.len() == KEPT {
            // One that lasts has numbers to come.
            let over = self.outages.iter().position(Recorded::is_over).unwrap_or(0);
            self.outages.remove(over);
        }
        let (number, numbers) = (self.began, Numbers::default());
        self.began += 1;
        let (to, until, interrupted) = (None, None, false);
        let record = Recorded { endpoint, number, from, to, until, interrupted, cause, remedy, numbers };
        self.outages.push_back(record);
    }

    /// The outage of this endpoint has ended at the instant `until`, which is `to` by the wall clock.
    pub(crate) fn on_ended(&mut self, endpoint: Position, until: Instant, to: Option<SystemTime>, numbers: Numbers) {
        let last = self.outages.iter_mut().rfind(|record| record.endpoint == endpoint);
        if let Some(last) = last {
            (last.until, last.to, last.numbers) = (Some(until), to, numbers);
        }
    }

    /// Nothing tells of the end of this endpoint's outage any more.
    pub(crate) fn on_interrupted(&mut self, endpoint: Position, now: Instant, numbers: Numbers) {
        let last = self.outages.iter_mut().rfind(|record| record.endpoint == endpoint && !record.is_over());
        if let Some(last) = last {
            (last.until, last.interrupted, last.numbers) = (Some(now), true, numbers);
        }
    }

    /// A batch was delivered, so late. It counts for the outage that ended last if its spans had ended before that was
    /// over. Returns whether the record is another one now.
    pub(crate) fn on_delivered(&mut self, lateness: Duration, now: Instant) -> bool {
        // One that lasts has numbers of the core's; a later one of the same collector has the batches.
        let lasting = self.outages.iter().filter(|record| !record.is_over()).map(|record| record.endpoint);
        let lasting = lasting.collect::<Vec<_>>();
        let ended = self.outages.iter_mut().filter(|record| record.is_over() && !lasting.contains(&record.endpoint));
        let Some(last) = ended.max_by_key(|record| record.until) else { return false };
        let has_waited = last.until.is_some_and(|until| lateness >= now.saturating_duration_since(until));
        if !has_waited || last.numbers.lateness >= Some(lateness) {
            return false;
        }
        last.numbers.lateness = Some(lateness);
        true
    }

    /// The last outage.
    #[cfg(test)]
    pub(crate) fn last(&self) -> Option<&Recorded> {
        self.outages.back()
    }

    /// The last outage of this endpoint.
    pub(crate) fn last_of(&self, endpoint: Position) -> Option<&Recorded> {
        self.outages.iter().rfind(|record| record.endpoint == endpoint)
    }

    /// An outage lasts.
    pub(crate) fn has_current(&self) -> bool {
        self.outages.iter().any(|record| !record.is_over())
    }

    /// `current` are the numbers of an outage of this endpoint that lasts.
    pub(crate) fn all(&self, current: impl Fn(Position) -> Numbers) -> Vec<Recorded> {
        let mut all = self.outages.iter().cloned().collect::<Vec<_>>();
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

    fn wall(seconds: u64) -> Option<SystemTime> {
        Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
    }

    #[test]
    fn the_newest_outages_are_kept_with_the_times_of_the_wall_clock() {
        let (mut records, start) = (Records::default(), start());
        for number in 0..40_u64 {
            records.on_began(Position::PRIMARY, wall(10 * number), number.to_string(), "wait");
            let numbers = Numbers { waited: number, ..Numbers::default() };
            records.on_ended(
                Position::PRIMARY,
                start + Duration::from_secs(10 * number + 3),
                wall(10 * number + 3),
                numbers,
            );
        }
        let all = records.all(|_| unreachable!("none lasts"));
        assert_eq!((all.len(), all[0].number, records.last().expect("kept").number), (KEPT, 8, 39));
        let last = all.into_iter().next_back().expect("kept").of("collector");
        assert_eq!((last.from, last.to, last.waited, last.interrupted), (wall(390), wall(393), 39, false));
        assert_eq!((last.cause.as_str(), last.endpoint.as_str()), ("39", "collector"));
    }

    #[test]
    fn an_outage_that_lasts_has_the_numbers_of_the_moment_and_no_end() {
        let mut records = Records::default();
        records.on_began(Position::PRIMARY, wall(0), "refused".to_owned(), "wait");
        let all = records.all(|_| Numbers { waited: 7, possible_duplicates: 2, ..Numbers::default() });
        let [current] = &all[..] else { panic!("one") };
        assert!(!current.is_over() && current.numbers.waited == 7 && current.numbers.possible_duplicates == 2);
        let record = all[0].clone().of("collector");
        assert_eq!((record.from, record.to), (wall(0), None));
        let json = serde_json::to_value(record).expect("serializes");
        assert_eq!(
            (&json["from"], &json["to"], &json["waited"], &json["lateness_seconds"]),
            (&"1970-01-01T00:00:00.000Z".into(), &().into(), &7.into(), &().into())
        );
    }

    #[test]
    fn the_lateness_of_an_outage_is_that_of_batches_whose_spans_had_ended_before_its_end() {
        let (mut records, start) = (Records::default(), start());
        let (secs, at) = (Duration::from_secs, |seconds| start + Duration::from_secs(seconds));
        assert!(!records.on_delivered(secs(90), at(0)), "no outage");
        records.on_began(Position::PRIMARY, wall(0), String::new(), "");
        assert!(!records.on_delivered(secs(90), at(50)), "the numbers of an outage that lasts are the core's");
        records.on_ended(
            Position::PRIMARY,
            at(60),
            wall(60),
            Numbers { lateness: Some(secs(20)), ..Numbers::default() },
        );
        let lateness = |records: &Records| records.last().expect("one").numbers.lateness;
        assert!(!records.on_delivered(secs(9), at(70)), "the spans ended 61 s after the start");
        assert!(!records.on_delivered(secs(20), at(70)), "no greater one");
        assert!(records.on_delivered(secs(70), at(70)));
        assert!(!records.on_delivered(secs(100), at(161)), "ended after the outage");
        assert_eq!(lateness(&records), Some(secs(70)));
        records.on_began(Position::PRIMARY, wall(200), String::new(), "");
        assert!(!records.on_delivered(secs(300), at(201)), "a new outage has begun");
    }

    #[test]
    fn a_record_is_read_back_as_it_was_written_and_one_of_an_earlier_version_too() {
        let mut records = Records::default();
        records.on_began(Position::PRIMARY, wall(5), "HTTP status 503".to_owned(), "wait");
        let numbers = Numbers {
            waited: 3,
            lost: BTreeMap::from([("buffer_full", 2)]),
            possible_duplicates: 1,
            lateness: Some(Duration::from_millis(1_250)),
            peak_memory_bytes: 4_096,
            peak_disk_bytes: 512,
        };
        records.on_ended(Position::PRIMARY, start(), wall(9), numbers);
        let record = records.all(|_| Numbers::default()).remove(0).of("http://collector:4317");
        let mut json = serde_json::to_value(&record).expect("serializes");
        assert_eq!(serde_json::from_value::<OutageRecord>(json.clone()).expect("read"), record);
        let fields = json.as_object_mut().expect("an object");
        for field in ["interrupted", "lateness_seconds", "peak_memory_bytes", "peak_disk_bytes"] {
            assert!(fields.remove(field).is_some(), "{field}");
        }
        let earlier = serde_json::from_value::<OutageRecord>(json.clone()).expect("read");
        assert_eq!((earlier.lateness, earlier.peak_memory_bytes, earlier.lost["buffer_full"]), (None, 0, 2));
        json["lateness_seconds"] = (-1.0).into();
        assert!(serde_json::from_value::<OutageRecord>(json).is_err());
    }
}
