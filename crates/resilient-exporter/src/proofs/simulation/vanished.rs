//! Batches that vanish from the journal: one of its segments, several, or all of it, in random histories. The journal
//! of these histories has a list of segments, from which each term of the ledger is recounted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use otlp_payload::{BatchId, Payload};
use proptest::prelude::*;
use span_buffer::Limits;

use super::{Answer, MemoryFallback, Setup, Simulation, numbers};
use crate::core::{Commit, Core, Effect, Written};
use crate::seams::journal::{Lost, Vanished};

#[derive(Clone, Debug)]
enum Step {
    Export,
    /// A segment vanishes during the commit of the batch.
    ExportAndLose(usize),
    /// The journal begins another segment.
    Rotate,
    /// The journal finds a batch of a process that has ended.
    Find,
    Poll,
    Answer(usize, Reply),
    Advance(u64),
    /// The journal thread acts on its effects, reads aside.
    Commit,
    Read,
    /// A segment vanishes.
    Lose(usize, Moment),
    /// Another process takes a segment over.
    TakeOver(usize),
    /// The journal finds the batches again that another process has taken over.
    FindAgain,
    LoseAll,
    /// The journal gives its oldest segment up.
    GiveUp,
}

/// The operation during which the journal thread finds that a segment has vanished.
#[derive(Clone, Copy, Debug)]
enum Moment {
    Maintenance,
    /// After the appends of a commit, before the core knows of its end.
    Commit,
    /// The read of a batch.
    Read,
}

#[derive(Clone, Copy, Debug)]
enum Reply {
    Accept,
    Unavailable,
    Throttle,
}

fn step() -> impl Strategy<Value = Step> {
    let reply = prop_oneof![3 => Just(Reply::Accept), 2 => Just(Reply::Unavailable), 1 => Just(Reply::Throttle)];
    let moment = prop_oneof![Just(Moment::Maintenance), Just(Moment::Commit), Just(Moment::Read)];
    prop_oneof![
        10 => Just(Step::Export),
        1 => any::<usize>().prop_map(Step::ExportAndLose),
        3 => Just(Step::Rotate),
        2 => Just(Step::Find),
        6 => Just(Step::Poll),
        6 => (any::<usize>(), reply).prop_map(|(call, reply)| Step::Answer(call, reply)),
        4 => prop_oneof![0..300_u64, 1_000..70_000_u64].prop_map(Step::Advance),
        5 => Just(Step::Commit),
        4 => Just(Step::Read),
        3 => (any::<usize>(), moment).prop_map(|(segment, moment)| Step::Lose(segment, moment)),
        1 => any::<usize>().prop_map(Step::TakeOver),
        1 => Just(Step::FindAgain),
        1 => Just(Step::LoseAll),
        1 => Just(Step::GiveUp),
    ]
}

#[derive(Default)]
struct Segment {
    /// Batches that the core knows.
    batches: BTreeMap<BatchId, Payload>,
    /// Batches that were found and not read.
    unread: Vec<Payload>,
}

/// A simulation in durable mode without a fallback, and its journal.
struct World {
    simulation: Simulation,
    segments: Vec<Segment>,
    /// Spans that were exported or found.
    made: BTreeSet<u64>,
    /// Spans that the collector took.
    ended: BTreeSet<u64>,
    /// Spans that no place has any more, by the reason of the ledger; `taken_over` among them.
    gone: BTreeMap<&'static str, BTreeSet<u64>>,
    /// Spans that the ledger counts as `taken_over` once more, since they were found again.
    twice: u64,
    /// Batches that another process has taken over.
    away: BTreeMap<BatchId, Payload>,
    /// Batches that were found again.
    again: BTreeSet<BatchId>,
}

impl World {
    fn new(seed: u64) -> Self {
        let setup = Setup::small(false, seed);
        // Beyond the history: age drops batches that wait to be appended again.
        let limits = Limits { max_age: Duration::from_secs(86_400), ..setup.limits };
        let setup = Setup { limits, ..setup };
        let mut simulation = Simulation::new(Box::new(MemoryFallback::in_groups_of(3)), setup);
        simulation.core = simulation.core.with_journal(0, true, simulation.now);
        let (made, ended, gone, twice) = (BTreeSet::new(), BTreeSet::new(), BTreeMap::new(), 0);
        let (away, again) = (BTreeMap::new(), BTreeSet::new());
        Self { simulation, segments: vec![Segment::default()], made, ended, gone, twice, away, again }
    }

    fn payload(&mut self) -> Payload {
        let first = self.simulation.next_span;
        self.simulation.next_span += 10;
        let payload = self.simulation.payload(first, 10);
        self.made.extend(numbers(&payload));
        payload
    }

    /// Spans in memory and in calls.
    fn held(&self) -> BTreeSet<u64> {
        let waiting = self.simulation.core.memory.waiting().map(|entry| &entry.item.payload);
        waiting
            .chain(self.simulation.calls.iter().map(|call| &call.payload))
            .flat_map(|content| numbers(&content.request()))
            .collect()
    }

    /// The spans of these batches that neither memory nor a call has, and that have not ended.
    fn alone<'a>(&self, batches: impl Iterator<Item = &'a Payload>) -> BTreeSet<u64> {
        let held = self.held();
        let is_alone = |number: &u64| !held.contains(number) && !self.ended.contains(number);
        batches.flat_map(numbers).filter(is_alone).collect()
    }

    fn act(&mut self, step: &Step) {
        let now = self.simulation.now;
        match *step {
            // No second loss before the core has read what was found again.
            Step::ExportAndLose(_) if self.finds_again() => self.export(None),
            Step::Lose(..) | Step::TakeOver(_) | Step::LoseAll | Step::GiveUp if self.finds_again() => {}
            Step::Export => self.export(None),
            Step::ExportAndLose(segment) => self.export(Some(segment)),
            Step::Rotate => self.segments.push(Segment::default()),
            Step::Find => {
                let payload = self.payload();
                self.segments.insert(0, Segment { unread: vec![payload], ..Segment::default() });
                self.simulation.report(|core| core.on_found(10));
            }
            Step::Poll => self.simulation.poll(),
            Step::Answer(call, reply) => {
                if let Some(call) = call.checked_rem(self.simulation.calls.len()) {
                    let answer = match reply {
                        Reply::Accept => Answer::Accept,
                        Reply::Unavailable => Answer::Unavailable,
                        Reply::Throttle => Answer::Throttle(2_000),
                    };
                    if matches!(reply, Reply::Accept) {
                        self.ended.extend(numbers(&self.simulation.calls[call].payload.request()));
                    }
                    self.simulation.answer(call, answer);
                }
            }
            Step::Advance(ms) => self.simulation.now += Duration::from_millis(ms),
            Step::Commit => self.commit(),
            Step::Read => self.read(None),
            Step::Lose(segment, Moment::Maintenance) => {
                let vanished = self.take(segment, "vanished");
                self.simulation.report(|core| core.on_journal_vanished(&vanished.into(), &[], now));
            }
            Step::Lose(segment, Moment::Commit) => self.commit_once(Some(segment)),
            Step::Lose(segment, Moment::Read) => self.read(Some(segment)),
            Step::TakeOver(segment) => {
                let Segment { batches, unread } = &self.segments[segment % self.segments.len()];
                self.away.extend(batches.values().chain(unread).map(|payload| (payload.id(), payload.clone())));
                let taken_over = self.take(segment, "taken_over");
                let vanished = Vanished::Batches { lost: Lost::default(), taken_over };
                self.simulation.report(|core| core.on_journal_vanished(&vanished, &[], now));
            }
            Step::FindAgain => self.find_again(),
            Step::LoseAll => {
                for _ in 0..self.segments.len() {
                    self.take(0, "vanished");
                }
                self.simulation.report(|core| core.on_journal_vanished(&Vanished::All, &[], now));
            }
            Step::GiveUp => {
                let given_up = self.take(0, "journal_full");
                self.simulation.report(|core| core.on_removed(Some(given_up), now));
            }
        }
    }

    /// Those that were appended again meanwhile, have ended or are lost, are not found again.
    fn find_again(&mut self) {
        let lost = ["vanished", "journal_full"].iter().filter_map(|reason| self.gone.get(reason)).flatten();
        let over = self.ended.iter().chain(lost).copied().collect::<BTreeSet<_>>();
        let is_away = |payload: &Payload| {
            let has = |segment: &Segment| segment.batches.contains_key(&payload.id());
            !numbers(payload).any(|number| over.contains(&number)) && !self.segments.iter().any(has)
        };
        let unread = std::mem::take(&mut self.away).into_values().filter(is_away).collect::<Vec<_>>();
        let taken_over = self.gone.entry("taken_over").or_default();
        let spans = unread.iter().map(|payload| payload.item_count() as u64).sum();
        for number in unread.iter().flat_map(numbers) {
            if taken_over.remove(&number) {
                self.twice += 1;
            }
        }
        self.again.extend(unread.iter().map(Payload::id));
        self.segments.insert(0, Segment { unread, ..Segment::default() });
        self.simulation.report(|core| core.on_found(spans));
    }

    fn finds_again(&self) -> bool {
        let mut unread = self.segments.iter().flat_map(|segment| &segment.unread);
        unread.any(|payload| self.again.contains(&payload.id()))
    }

    fn export(&mut self, vanishes: Option<usize>) {
        let (payload, now) = (self.payload(), self.simulation.now);
        let id = payload.id();
        assert!(self.simulation.report(|core| core.on_submitted(&payload)));
        self.commit_once(vanishes);
        let is_stored = self.segments.iter().any(|segment| segment.batches.contains_key(&id));
        assert!(is_stored || self.simulation.core.durable.is_committing(id), "the call waits on");
        self.commit();
        self.simulation.core.durable.on_wait_ended(id, 10, now);
        assert_eq!(self.simulation.core.durable.accepted_not_durable(), Some(0));
        self.simulation.report(|core| core.on_offered(payload, now)).expect("the core runs");
    }

    /// Removes a segment from the journal. Batches that another segment has too, as after an append and a read of what
    /// was found again, are not lost with this one.
    fn take(&mut self, at: usize, reason: &'static str) -> Lost {
        let Segment { mut batches, unread } = self.segments.remove(at % self.segments.len());
        batches.retain(|id, _| !self.segments.iter().any(|other| other.batches.contains_key(id)));
        let alone = self.alone(batches.values().chain(&unread));
        self.gone.entry(reason).or_default().extend(alone);
        if self.segments.is_empty() {
            self.segments.push(Segment::default());
        }
        let unread = unread.iter().map(|payload| payload.item_count() as u64).sum();
        Lost { batches: batches.into_keys().collect(), unread }
    }

    fn commit(&mut self) {
        while self.simulation.effects.iter().any(|effect| matches!(effect, Effect::Commit(_) | Effect::LookForMarks)) {
            self.commit_once(None);
        }
    }

    /// The journal thread acts on its next effect. A segment that vanishes meanwhile may have batches of the commit.
    fn commit_once(&mut self, vanishes: Option<usize>) {
        let now = self.simulation.now;
        if self.simulation.take_effect(|effect| matches!(effect, Effect::LookForMarks)).is_some() {
            self.simulation.report(Core::on_look);
        }
        let effect = self.simulation.take_effect(|effect| matches!(effect, Effect::Commit(_)));
        let Some(Effect::Commit(Commit { append, done })) = effect else { return };
        let head = self.segments.last_mut().expect("a segment");
        head.batches.extend(append.iter().map(|payload| (payload.id(), payload.clone())));
        let vanished = Vanished::from(vanishes.map_or_else(Lost::default, |segment| self.take(segment, "vanished")));
        for id in &done {
            self.segments.iter_mut().for_each(|segment| drop(segment.batches.remove(id)));
        }
        let unread = self.segments.iter_mut().flat_map(|segment| {
            segment.unread.extract_if(.., |payload| done.contains(&payload.id())).collect::<Vec<_>>()
        });
        let unread = unread.map(|payload| payload.item_count() as u64).sum();
        self.twice += unread;
        let taken_over = Lost { batches: Vec::new(), unread };
        let marked = Vanished::Batches { lost: Lost::default(), taken_over };
        let synced = append.iter().map(Payload::id).filter(|id| !vanished.has(*id)).collect::<Vec<_>>();
        self.simulation.core.durable.on_written(&synced, Written::Synced);
        if vanishes.is_some() {
            // The core has no other copy of a batch that is lost in the commit before its `export` ends.
            let lost = append.iter().filter(|payload| vanished.has(payload.id())).flat_map(numbers);
            let lost = lost.collect::<BTreeSet<_>>();
            self.gone.entry("vanished").or_default().retain(|number| !lost.contains(number));
            self.simulation.report(|core| core.on_journal_vanished(&vanished, &append, now));
        }
        if unread > 0 {
            self.simulation.report(|core| core.on_journal_vanished(&marked, &append, now));
        }
        self.simulation.report(|core| core.on_committed(false));
    }

    /// The journal thread reads a batch, and may find that a segment has vanished.
    fn read(&mut self, vanishes: Option<usize>) {
        let now = self.simulation.now;
        let effect = self.simulation.take_effect(|effect| matches!(effect, Effect::Recover(_)));
        let Some(Effect::Recover(asked)) = effect else { return };
        if let Some(segment) = vanishes {
            let vanished = self.take(segment, "vanished").into();
            self.simulation.report(|core| core.on_journal_vanished(&vanished, &[], now));
        }
        let found = match asked {
            Some(id) => self.segments.iter().find_map(|segment| segment.batches.get(&id).cloned()),
            None => self.find(),
        };
        self.simulation.report(|core| match found {
            Some(payload) => core.on_recovered(payload, now),
            None => core.on_recovery_ended(asked, now),
        });
    }

    /// Reads a batch of an ended process. One that is found again may be somewhere else too.
    fn find(&mut self) -> Option<Payload> {
        let at = self.segments.iter().position(|segment| !segment.unread.is_empty())?;
        let payload = self.segments[at].unread.remove(0);
        let (id, held) = (payload.id(), self.held());
        let is_stored = self.segments.iter().any(|segment| segment.batches.contains_key(&id));
        let is_known = is_stored || self.simulation.core.durable.is_marking(id);
        if is_known || numbers(&payload).any(|number| held.contains(&number)) {
            self.twice += payload.item_count() as u64;
        } else {
            // One that has ended since it was found again is delivered twice.
            for number in numbers(&payload) {
                self.ended.remove(&number);
            }
        }
        self.segments[at].batches.insert(id, payload.clone());
        Some(payload)
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let ledger = self.simulation.core.ledger();
        prop_assert_eq!(ledger.imbalance(), 0, "{:?}", ledger);
        let read = self.segments.iter().flat_map(|segment| segment.batches.values());
        let unread = self.segments.iter().flat_map(|segment| &segment.unread).map(Payload::item_count);
        let in_journal = self.alone(read).len() + unread.sum::<usize>();
        prop_assert_eq!(ledger.in_journal, in_journal as u64, "{:?}", ledger);
        let gone = |reason: &str| self.gone.get(reason).map_or(0, |numbers| numbers.len() as u64);
        for reason in ["vanished", "journal_full"] {
            prop_assert_eq!(ledger.dropped.get(reason).copied().unwrap_or(0), gone(reason), "{}: {:?}", reason, ledger);
        }
        prop_assert_eq!(ledger.taken_over, gone("taken_over") + self.twice, "{:?}", ledger);
        prop_assert_eq!(ledger.lost(), gone("vanished") + gone("journal_full"), "{:?}", ledger);
        // No span counts as durable that the journal does not have.
        let safe = self.segments.iter().flat_map(|segment| segment.batches.values()).flat_map(numbers);
        let safe = safe.collect::<BTreeSet<_>>();
        let in_memory = self.held().into_iter().filter(|number| !safe.contains(number)).count();
        prop_assert_eq!(self.simulation.core.only_in_memory(), in_memory as u64, "{:?}", ledger);
        Ok(())
    }

    /// A collector that takes all, and a journal that loses nothing more.
    fn end(mut self) -> Result<(), TestCaseError> {
        for _ in 0..2_000 {
            self.simulation.now += Duration::from_millis(500);
            self.simulation.poll();
            while !self.simulation.calls.is_empty() {
                self.act(&Step::Answer(0, Reply::Accept));
            }
            self.commit();
            self.read(None);
            let ledger = self.simulation.core.ledger();
            if ledger.buffered + ledger.in_flight + ledger.in_journal == 0 && self.simulation.effects.is_empty() {
                break;
            }
        }
        self.check()?;
        let ledger = self.simulation.core.ledger();
        prop_assert_eq!(ledger.buffered + ledger.in_flight + ledger.in_journal, 0, "{:?}", ledger);
        let batches = self.segments.iter().map(|segment| segment.batches.len() + segment.unread.len());
        prop_assert_eq!(batches.sum::<usize>(), 0, "ended batches are marked");
        let gone = self.gone.values().flatten().copied().collect::<BTreeSet<_>>();
        prop_assert_eq!(gone.intersection(&self.ended).count(), 0, "no lost span is delivered");
        prop_assert_eq!(gone.len() + self.ended.len(), self.made.len());
        Ok(())
    }
}

fn play(seed: u64, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut world = World::new(seed);
    for step in steps {
        world.act(&step);
        world.check().map_err(|error| TestCaseError::fail(format!("after {step:?}: {error}")))?;
    }
    world.end()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, max_shrink_iters: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn the_batches_of_a_vanished_segment_are_lost_or_appended_again_and_all_others_stay(
        seed: u64,
        steps in prop::collection::vec(step(), 0..150),
    ) {
        play(seed, steps)?;
    }
}

#[test]
fn a_batch_that_is_found_again_while_it_is_in_memory_is_there_once_and_the_journal_has_it_again() {
    let steps = vec![Step::Export, Step::TakeOver(0), Step::FindAgain, Step::Poll, Step::Read, Step::Export];
    play(1, steps).expect("one batch of that id, durable, and marked where it was found");
}

#[test]
fn a_batch_that_is_read_while_memory_is_full_of_lost_ones_stays_in_the_journal() {
    let exports = |count| std::iter::repeat_n(Step::Export, count);
    let steps =
        exports(3).chain([Step::Find]).chain(exports(2)).chain([Step::Poll]).chain(exports(3)).chain([Step::Poll]);
    let steps = steps.chain([Step::ExportAndLose(0)]).chain(exports(11));
    let steps = steps.chain([Step::Lose(0, Moment::Maintenance), Step::Find, Step::Read]);
    play(0, steps.collect()).expect("no batch in memory is dropped for it");
}

#[test]
fn a_commit_that_has_not_begun_appends_its_batches_once_to_a_journal_that_has_lost_all() {
    let lose = Step::Lose(0, Moment::Maintenance);
    play(1, vec![Step::Export, Step::Export, lose, Step::LoseAll]).expect("each batch is marked where it is");
}

#[test]
fn a_batch_that_has_ended_before_its_append_is_marked_in_a_journal_that_has_lost_all() {
    let steps = vec![Step::Export, Step::Export, Step::Poll, Step::TakeOver(0), Step::Answer(0, Reply::Accept)];
    play(1, steps.into_iter().chain([Step::LoseAll]).collect()).expect("no later process finds it");
}

#[test]
fn a_read_that_was_under_way_when_all_was_lost_may_return_a_batch_that_is_found_after_that() {
    let steps = vec![Step::Find, Step::Poll, Step::LoseAll, Step::Find, Step::Read, Step::Export];
    play(1, steps).expect("the second batch is delivered");
}
