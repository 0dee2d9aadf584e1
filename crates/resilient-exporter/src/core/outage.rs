//! An outage of one endpoint: its beginning and its end.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant, SystemTime};

use crate::report::events::Event;
use crate::report::ledger::Ledger;
use crate::report::outage_records::{Numbers, Recorded};
use crate::report::position::Position;

/// An outage begins if no call succeeds for this time after a failure, and ends if no call fails for this time after a
/// success.
const CONFIRMED_AFTER: Duration = Duration::from_secs(5);

/// Finds the outages of one endpoint in the outcomes of its calls. Pure: time is an argument.
///
/// An outage begins with the first failure after which no call succeeds for 5 s, or with the opening of the breaker. It
/// ends with the first of two successes in a row, or with one success after which no call fails for 5 s. A throttle is
/// neither: it is not reported here.
#[derive(Default)]
pub(crate) struct Outage {
    state: State,
    /// Transitions that `poll` has not returned yet.
    transitions: VecDeque<Transition>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Transition {
    /// An outage has begun.
    Began {
        /// The first failure.
        since: Instant,
        failure: Failure,
    },
    /// The outage has ended.
    Ended {
        /// The first failure.
        since: Instant,
        /// The first success.
        until: Instant,
    },
}

/// The last failed call.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Failure {
    pub(crate) cause: String,
    pub(crate) remedy: &'static str,
}

#[derive(Default)]
enum State {
    /// No failure since the last success.
    #[default]
    Up,
    /// The calls since this failure have failed: an outage, if that goes on.
    Suspected { since: Instant, failure: Failure },
    /// An outage; the calls since `failing` have failed.
    Down { since: Instant, failing: Instant },
    /// An outage; the last call succeeded.
    Recovering { since: Instant, succeeded: Instant },
}

impl Outage {
    /// A call has failed.
    pub(crate) fn on_failure(&mut self, failure: Failure, now: Instant) {
        self.advance(now);
        self.state = match std::mem::take(&mut self.state) {
            State::Up => State::Suspected { since: now, failure },
            State::Suspected { since, .. } => State::Suspected { since, failure },
            down @ State::Down { .. } => down,
            State::Recovering { since, .. } => State::Down { since, failing: now },
        };
    }

    /// A call has succeeded.
    pub(crate) fn on_success(&mut self, now: Instant) {
        self.advance(now);
        self.state = match std::mem::take(&mut self.state) {
            State::Up | State::Suspected { .. } => State::Up,
            State::Down { since, .. } => State::Recovering { since, succeeded: now },
            State::Recovering { since, succeeded } => self.end(since, succeeded),
        };
    }

    /// The breaker has opened; the failure that opened it is reported before.
    pub(crate) fn on_breaker_opened(&mut self, now: Instant) {
        self.advance(now);
        self.state = match std::mem::take(&mut self.state) {
            State::Up => self.begin(now, Failure::default()),
            State::Suspected { since, failure } => self.begin(since, failure),
            down @ State::Down { .. } => down,
            State::Recovering { since, .. } => State::Down { since, failing: now },
        };
    }

    /// Takes the next transition. Polled after each event, and at [`next_wakeup`](Self::next_wakeup).
    pub(crate) fn poll(&mut self, now: Instant) -> Option<Transition> {
        self.advance(now);
        self.transitions.pop_front()
    }

    /// The instant of the next poll, if no event comes before.
    pub(crate) fn next_wakeup(&self) -> Option<Instant> {
        match &self.state {
            State::Up | State::Down { .. } => None,
            State::Suspected { since, .. } => Some(*since + CONFIRMED_AFTER),
            State::Recovering { succeeded, .. } => Some(*succeeded + CONFIRMED_AFTER),
        }
    }

    /// An outage has begun and has not ended.
    pub(crate) fn is_active(&self) -> bool {
        self.since().is_some()
    }

    /// The first failure of the outage.
    pub(crate) fn since(&self) -> Option<Instant> {
        match &self.state {
            State::Up | State::Suspected { .. } => None,
            State::Down { since, .. } | State::Recovering { since, .. } => Some(*since),
        }
    }

    /// The first failure since the last success in an outage; none if the last call succeeded: the collector takes
    /// spans then, although the end is not confirmed.
    pub(crate) fn down_since(&self) -> Option<Instant> {
        match &self.state {
            State::Down { failing, .. } => Some(*failing),
            State::Up | State::Suspected { .. } | State::Recovering { .. } => None,
        }
    }

    /// Confirms a beginning or an end whose time is over.
    fn advance(&mut self, now: Instant) {
        if self.next_wakeup().is_none_or(|instant| now < instant) {
            return;
        }
        self.state = match std::mem::take(&mut self.state) {
            State::Suspected { since, failure } => self.begin(since, failure),
            State::Recovering { since, succeeded } => self.end(since, succeeded),
            state @ (State::Up | State::Down { .. }) => state,
        };
    }

    fn begin(&mut self, since: Instant, failure: Failure) -> State {
        self.transitions.push_back(Transition::Began { since, failure });
        State::Down { since, failing: since }
    }

    fn end(&mut self, since: Instant, until: Instant) -> State {
        self.transitions.push_back(Transition::Ended { since, until });
        State::Up
    }
}

/// The numbers of an outage, from its first failure.
pub(super) struct Tally {
    lost: BTreeMap<&'static str, u64>,
    possible_duplicates: u64,
    waited: u64,
    lateness: Option<Duration>,
    peak_memory_bytes: u64,
    peak_disk_bytes: u64,
    /// The first failure by the wall clock.
    began: Option<SystemTime>,
    /// The first success since the last failure, by both clocks.
    succeeded: Option<(Instant, Option<SystemTime>)>,
}

impl Tally {
    /// The numbers at the first failure, which was at `began` by the wall clock.
    pub(super) fn new(ledger: &Ledger, possible_duplicates: u64, began: Option<SystemTime>) -> Self {
        Self {
            lost: lost(ledger),
            possible_duplicates,
            waited: waiting(ledger),
            lateness: None,
            peak_memory_bytes: 0,
            peak_disk_bytes: 0,
            began,
            succeeded: None,
        }
    }

    /// The first failure by the wall clock.
    pub(super) fn began(&self) -> Option<SystemTime> {
        self.began
    }

    /// The success at the instant `until`, by the wall clock.
    pub(super) fn ended_at(&self, until: Instant) -> Option<SystemTime> {
        self.succeeded.filter(|(instant, _)| *instant == until).and_then(|(_, wall)| wall)
    }

    pub(super) fn note_failure(&mut self) {
        self.succeeded = None;
    }

    /// A call has succeeded at `now`, which is `wall` by the wall clock.
    pub(super) fn note_success(&mut self, now: Instant, wall: Option<SystemTime>) {
        self.succeeded.get_or_insert((now, wall));
    }

    /// A batch was delivered, so late. Spans that ended after the first success have not waited for it.
    pub(super) fn note_lateness(&mut self, lateness: Duration, now: Instant) {
        let since = self.succeeded.map(|(instant, _)| now.saturating_duration_since(instant));
        if since.is_none_or(|since| lateness >= since) {
            self.lateness = self.lateness.max(Some(lateness));
        }
    }

    /// The most bytes in memory and on the disk at a time.
    pub(super) fn note_sizes(&mut self, memory: u64, disk: u64) {
        self.peak_memory_bytes = self.peak_memory_bytes.max(memory);
        self.peak_disk_bytes = self.peak_disk_bytes.max(disk);
    }

    /// No span waits in memory or on the disk.
    pub(super) fn has_none_waiting(ledger: &Ledger) -> bool {
        waiting(ledger) == 0
    }

    /// The most spans that wait at a time.
    pub(super) fn note_waiting(&mut self, ledger: &Ledger) {
        self.waited = self.waited.max(waiting(ledger));
    }

    /// The numbers so far.
    pub(super) fn numbers(&self, ledger: &Ledger, possible_duplicates: u64) -> Numbers {
        let mut lost = lost(ledger);
        for (reason, before) in &self.lost {
            lost.entry(reason).and_modify(|spans| *spans -= before);
        }
        lost.retain(|_, spans| *spans > 0);
        let possible_duplicates = possible_duplicates - self.possible_duplicates;
        let Self { waited, lateness, peak_memory_bytes, peak_disk_bytes, .. } = *self;
        Numbers { waited, lost, possible_duplicates, lateness, peak_memory_bytes, peak_disk_bytes }
    }

    /// The event of the end.
    pub(super) fn ended(
        endpoint: Position,
        duration: Duration,
        to: Option<SystemTime>,
        begun: Option<&Recorded>,
        numbers: Numbers,
    ) -> Event {
        let (from, cause) = begun.map(Recorded::beginning).unwrap_or_default();
        let Numbers { waited, lost, possible_duplicates, lateness, peak_memory_bytes, peak_disk_bytes } = numbers;
        Event::OutageEnded {
            endpoint,
            duration,
            from,
            to,
            cause: cause.to_owned(),
            waited,
            lost,
            possible_duplicates,
            lateness,
            peak_memory_bytes,
            peak_disk_bytes,
        }
    }
}

fn lost(ledger: &Ledger) -> BTreeMap<&'static str, u64> {
    ledger.dropped.iter().chain(&ledger.refused).map(|(reason, spans)| (*reason, *spans)).collect()
}

fn waiting(ledger: &Ledger) -> u64 {
    ledger.buffered + ledger.in_flight + ledger.in_journal + ledger.in_fallback
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::seams::clock::{Clock as _, SystemClock};

    #[derive(Clone, Copy, PartialEq, Debug)]
    enum Report {
        Failed,
        Succeeded,
        Opened,
    }

    use Report::{Failed, Opened, Succeeded};

    fn failure() -> Failure {
        Failure { cause: "HTTP status 503".to_owned(), remedy: "wait" }
    }

    /// Outages as pairs of milliseconds since the start; one that has not ended has no second number.
    type Outages = Vec<(u64, Option<u64>)>;

    /// Plays a history, polled as often as the machine asks for it or only at the end.
    fn outages(history: &[(u64, Report)], end: u64, is_polled: bool) -> Outages {
        let (mut outage, start) = (Outage::default(), SystemClock.now());
        let instant = |at| start + Duration::from_millis(at);
        let mut transitions = Vec::new();
        let reports = history.iter().map(|(at, report)| (*at, Some(*report))).chain([(end, None)]);
        for (at, report) in reports {
            while is_polled && let Some(wakeup) = outage.next_wakeup().filter(|wakeup| *wakeup < instant(at)) {
                transitions.extend(std::iter::from_fn(|| outage.poll(wakeup)));
            }
            match report {
                Some(Failed) => outage.on_failure(failure(), instant(at)),
                Some(Succeeded) => outage.on_success(instant(at)),
                Some(Opened) => outage.on_breaker_opened(instant(at)),
                None => {}
            }
            if is_polled {
                transitions.extend(std::iter::from_fn(|| outage.poll(instant(at))));
            }
        }
        transitions.extend(std::iter::from_fn(|| outage.poll(instant(end))));
        let millis = |instant: Instant| (instant - start).as_millis() as u64;
        let mut outages = Vec::new();
        for transition in transitions {
            match transition {
                Transition::Began { since, .. } => outages.push((millis(since), None)),
                Transition::Ended { since, until } => {
                    assert_eq!(outages.pop(), Some((millis(since), None)));
                    outages.push((millis(since), Some(millis(until))));
                }
            }
        }
        let open = outages.last().filter(|(_, until)| until.is_none()).map(|(since, _)| *since);
        assert_eq!(outage.since().map(millis), open);
        assert_eq!(outage.is_active(), open.is_some());
        outages
    }

    /// The definition, looked up in the whole history: for each position the reports behind it.
    fn defined(history: &[(u64, Report)], end: u64) -> Outages {
        const CONFIRMED: u64 = 5_000;
        let (mut outages, mut position) = (Vec::new(), 0);
        while let Some((since, _)) = history.get(position).copied() {
            let run = history[position..].iter().position(|(_, report)| *report == Succeeded);
            let run = position..run.map_or(history.len(), |length| position + length);
            if run.is_empty() {
                position += 1;
                continue;
            }
            let run_ends = history.get(run.end).map_or(u64::MAX, |(at, _)| *at);
            let opened = history[run.clone()].iter().any(|(_, report)| *report == Opened);
            if !opened && since + CONFIRMED > run_ends.min(end) {
                position = run.end;
                continue;
            }
            // The first success that another one follows, or that no failure follows for the time.
            let is_end = |index: &usize| {
                let (at, report) = history[*index];
                let next = history.get(index + 1);
                let quiet = at + CONFIRMED <= next.map_or(end, |(next, _)| *next);
                report == Succeeded && (quiet || next.is_some_and(|(_, report)| *report == Succeeded))
            };
            let last = (run.end..history.len()).find(is_end);
            outages.push((since, last.map(|index| history[index].0)));
            position = last.map_or(history.len(), |index| index + 1);
        }
        outages
    }

    #[test]
    fn refused_connections_for_nine_seconds_are_an_outage_with_its_cause() {
        let (mut outage, start) = (Outage::default(), SystemClock.now());
        let at = |millis| start + Duration::from_millis(millis);
        outage.on_failure(failure(), at(0));
        assert_eq!((outage.poll(at(4_999)), outage.is_active()), (None, false));
        let last = Failure { cause: "no connection".to_owned(), remedy: "start it" };
        outage.on_failure(last.clone(), at(3_000));
        assert_eq!(outage.next_wakeup(), Some(at(5_000)));
        assert_eq!(outage.poll(at(5_000)), Some(Transition::Began { since: at(0), failure: last }));
        assert_eq!((outage.since(), outage.next_wakeup()), (Some(at(0)), None));
        assert_eq!(outage.down_since(), Some(at(0)));
        outage.on_success(at(9_000));
        assert_eq!((outage.poll(at(9_000)), outage.next_wakeup()), (None, Some(at(14_000))));
        assert_eq!((outage.down_since(), outage.since()), (None, Some(at(0))), "the collector takes spans");
        outage.on_failure(failure(), at(9_005));
        assert_eq!((outage.down_since(), outage.since()), (Some(at(9_005)), Some(at(0))), "it took spans at 9 s");
        outage.on_failure(failure(), at(9_006));
        assert_eq!(outage.down_since(), Some(at(9_005)));
        outage.on_success(at(9_009));
        outage.on_success(at(9_010));
        assert_eq!(outage.poll(at(9_010)), Some(Transition::Ended { since: at(0), until: at(9_009) }));
    }

    #[test]
    fn the_rules_by_example() {
        for (history, expected) in [
            (vec![(0, Failed), (1_000, Succeeded), (1_500, Failed), (6_400, Succeeded)], vec![]),
            (vec![(0, Failed), (10, Opened)], vec![(0, None)]),
            (vec![(0, Failed), (6_000, Succeeded), (6_100, Failed), (7_000, Succeeded)], vec![(0, None)]),
            (vec![(0, Failed), (6_000, Succeeded), (11_000, Failed)], vec![(0, Some(6_000))]),
            (vec![(0, Failed), (9_000, Succeeded), (9_001, Succeeded), (9_002, Failed)], vec![(0, Some(9_000))]),
        ] {
            let end = history.last().expect("reports").0 + 500;
            assert_eq!(outages(&history, end, true), expected, "{history:?}");
            assert_eq!(defined(&history, end), expected, "{history:?}");
        }
    }

    fn report() -> impl Strategy<Value = Report> {
        prop_oneof![4 => Just(Failed), 4 => Just(Succeeded), 1 => Just(Opened)]
    }

    proptest! {
        #[test]
        fn the_machine_finds_the_outages_of_the_definition_however_often_it_is_polled(
            script in vec((prop_oneof![0..2_000_u64, Just(5_000), 0..12_000_u64], report()), 0..60),
            rest in 0..12_000_u64,
        ) {
            let mut time = 0;
            let history = script.into_iter().map(|(wait, report)| {
                time += wait;
                (time, report)
            }).collect::<Vec<_>>();
            let expected = defined(&history, time + rest);
            prop_assert_eq!(&outages(&history, time + rest, true), &expected);
            prop_assert_eq!(&outages(&history, time + rest, false), &expected);
        }
    }
}
