//! Batches that leave memory for the journal and return; a journal that is full, or that vanishes. The journal of these
//! tests has its own list of batches, from which each term is recounted.

use std::collections::BTreeMap;
use std::time::Duration;

use otlp_payload::{BatchId, Payload};
use span_buffer::Limits;

use super::{Answer, Disturbance, MemoryFallback, Setup, Simulation};
use crate::core::{Commit, Core, Effect, Written};
use crate::seams::journal::{JournalUsage, Lost, Vanished};

const FULL: JournalUsage = JournalUsage { batches: 1, bytes: 99, max_bytes: 100 };

/// A simulation in durable mode, and its journal.
struct World {
    simulation: Simulation,
    journal: BTreeMap<BatchId, Payload>,
    /// Every batch in the order of the reads.
    read: Vec<BatchId>,
    /// Appends find no room.
    is_full: bool,
}

impl World {
    fn new(fallback: bool, can_read: bool) -> Self {
        Self::with(Setup::small(fallback, 3), can_read)
    }

    fn with(setup: Setup, can_read: bool) -> Self {
        let mut simulation = Simulation::new(Box::new(MemoryFallback::in_groups_of(3)), setup);
        simulation.core = simulation.core.with_journal(0, can_read, simulation.now);
        Self { simulation, journal: BTreeMap::new(), read: Vec::new(), is_full: false }
    }

    fn core(&self) -> &Core {
        &self.simulation.core
    }

    /// Exports a batch of ten spans; returns its id.
    fn export(&mut self) -> BatchId {
        let (first, now) = (self.simulation.next_span, self.simulation.now);
        self.simulation.next_span += 10;
        let payload = self.simulation.payload(first, 10);
        let id = payload.id();
        assert!(self.simulation.report(|core| core.on_submitted(&payload)));
        self.journal_turns();
        self.simulation.core.durable.on_wait_ended(id, 10, now);
        self.simulation.report(|core| core.on_offered(payload, now)).expect("the core runs");
        self.check();
        id
    }

    fn export_one(&mut self) {
        let _ = self.export();
    }

    /// The journal thread acts on all of its effects.
    fn journal_turns(&mut self) {
        self.journal_turns_with(|effect| {
            matches!(effect, Effect::Commit(_) | Effect::LookForMarks | Effect::Recover(_))
        });
    }

    /// The journal thread acts on its commits and marks.
    fn journal_turns_without_reads(&mut self) {
        self.journal_turns_with(|effect| matches!(effect, Effect::Commit(_) | Effect::LookForMarks));
    }

    fn journal_turns_with(&mut self, is_of_journal: fn(&Effect) -> bool) {
        while let Some(effect) = self.simulation.take_effect(is_of_journal) {
            let now = self.simulation.now;
            match effect {
                Effect::Commit(Commit { append, done }) => {
                    let mut full = Vec::new();
                    if self.is_full {
                        full = append;
                    } else {
                        let ids = append.iter().map(Payload::id).collect::<Vec<_>>();
                        self.journal.extend(append.into_iter().map(|payload| (payload.id(), payload)));
                        self.simulation.core.durable.on_written(&ids, Written::Synced);
                    }
                    done.iter().for_each(|id| drop(self.journal.remove(id)));
                    self.is_full &= done.is_empty();
                    self.simulation.report(|core| {
                        if !full.is_empty() {
                            core.on_journal_full(full, FULL, now);
                        }
                        core.on_committed(false);
                    });
                }
                Effect::LookForMarks => self.simulation.report(Core::on_look),
                Effect::Recover(id) => {
                    let id = id.expect("no batch of an earlier process");
                    self.read.push(id);
                    let payload = self.journal[&id].clone();
                    self.simulation.report(|core| core.on_recovered(payload, now));
                }
                _ => {}
            }
        }
    }

    /// Delivers all that is sent for so many seconds.
    fn deliver(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.simulation.poll();
            self.journal_turns();
            while !self.simulation.calls.is_empty() {
                self.simulation.answer(0, Answer::Accept);
                self.simulation.poll();
                self.journal_turns();
            }
            self.simulation.now += Duration::from_secs(1);
            self.check();
        }
    }

    /// Each batch of the journal that is neither in memory nor in a call is in the journal alone.
    fn check(&self) {
        let core = self.core();
        let in_memory = core.memory.waiting().map(|entry| entry.item.payload.id());
        let out = self.simulation.calls.iter().map(|call| call.payload.id());
        let held = in_memory.chain(out).collect::<Vec<_>>();
        let alone = self.journal.values().filter(|payload| !held.contains(&payload.id()));
        let in_journal = alone.map(|payload| payload.item_count() as u64).sum::<u64>();
        let spilling = core.memory.writing_size().count as u64;
        let ledger = core.ledger();
        assert_eq!(ledger.in_journal + spilling, in_journal, "{ledger:?}");
        assert_eq!(ledger.imbalance(), 0, "{ledger:?}");
        let limits = core.memory.limits();
        assert!(core.memory.held_size().count <= limits.max_count, "memory is over its limit");
    }

    fn dropped(&self, reason: &str) -> u64 {
        self.core().ledger().dropped.get(reason).copied().unwrap_or(0)
    }
}

#[test]
fn durable_batches_leave_memory_oldest_first_and_return_once_under_their_ids() {
    let mut world = World::new(false, true);
    let ids = (0..35).map(|_| world.export()).collect::<Vec<_>>();
    let ledger = world.core().ledger();
    assert_eq!((ledger.buffered, ledger.in_journal, ledger.lost()), (200, 150, 0), "{ledger:?}");
    assert!(world.read.is_empty(), "memory is full");
    world.deliver(60);
    let ledger = world.core().ledger();
    assert_eq!((ledger.delivered, ledger.in_journal, ledger.lost()), (350, 0, 0), "{ledger:?}");
    assert_eq!(world.read, ids[..15], "each once, the oldest first");
    assert!(world.journal.is_empty(), "delivered batches are marked");
    assert!(world.simulation.received.values().all(|&count| count == 1));
}

#[test]
fn a_batch_that_is_not_durable_stays_in_memory_before_those_that_are() {
    let mut world = World::new(false, true);
    let first = world.export();
    world.journal.remove(&first);
    world.simulation.core.durable.on_written(&[first], Written::Failed);
    (0..30).for_each(|_| world.export_one());
    assert_eq!(world.core().ledger().lost(), 0);
    assert!(world.core().memory.waiting().any(|entry| entry.item.payload.id() == first));
}

#[test]
fn a_journal_that_reads_nothing_back_keeps_its_batches_in_memory() {
    let mut world = World::new(false, false);
    (0..20).for_each(|_| world.export_one());
    world.simulation.now += world.core().memory.limits().max_age * 2;
    world.simulation.poll();
    let ledger = world.core().ledger();
    assert_eq!((ledger.buffered + ledger.in_flight, ledger.lost()), (200, 0), "age drops nothing durable");
}

#[test]
fn age_leaves_durable_batches_in_the_journal_until_the_endpoint_takes_batches() {
    let small = Setup::small(false, 3);
    let limits = Limits { max_age: Duration::from_secs(60), ..small.limits };
    let mut world = World::with(Setup { limits, ..small }, true);
    (0..5).for_each(|_| world.export_one());
    world.simulation.poll();
    world.simulation.answer(0, Answer::Throttle(200_000));
    for _ in 0..3 {
        world.simulation.now += Duration::from_secs(60);
        world.simulation.poll();
        world.journal_turns();
    }
    let ledger = world.core().ledger();
    assert_eq!((ledger.in_journal, ledger.lost(), world.read.len()), (50, 0, 0), "{ledger:?}");
    world.simulation.now += Duration::from_secs(30);
    world.deliver(20);
    assert_eq!((world.core().ledger().delivered, world.core().ledger().lost(), world.read.len()), (50, 0, 5));
}

#[test]
fn a_full_journal_gives_its_oldest_batch_to_a_file_and_takes_the_new_one() {
    let mut world = World::new(true, true);
    (0..4).for_each(|_| world.export_one());
    // Age moves nothing, and no file is written, while the fallback is in trouble.
    let now = world.simulation.now;
    world.simulation.report(|core| core.on_disk_failed("no space left", now));
    (0..20).for_each(|_| world.export_one());
    assert_eq!(world.core().ledger().in_journal, 40);
    world.simulation.now += Duration::from_secs(2);
    world.deliver(1);
    world.is_full = true;
    let before = world.core().ledger().clone();
    world.export();
    while !world.simulation.effects.is_empty() {
        world.simulation.run_effect(Disturbance::None);
        world.is_full = false;
        world.journal_turns();
    }
    let ledger = world.core().ledger();
    assert_eq!((ledger.lost(), ledger.imbalance()), (0, 0), "{ledger:?}");
    assert!(ledger.in_fallback > before.in_fallback || before.in_journal == 0, "{ledger:?}");
}

#[test]
fn a_full_journal_without_a_fallback_drops_its_oldest_batch_for_the_new_one() {
    let mut world = World::new(false, true);
    let ids = (0..25).map(|_| world.export()).collect::<Vec<_>>();
    assert_eq!(world.core().ledger().in_journal, 50);
    world.is_full = true;
    let newest = world.export();
    assert_eq!((world.dropped("journal_full"), world.core().ledger().lost()), (10, 10));
    assert!(!world.journal.contains_key(&ids[0]) && world.journal.contains_key(&newest));
}

#[test]
fn on_a_disk_that_takes_no_byte_the_journal_gives_its_oldest_segment_up_before_memory_drops() {
    let mut world = World::new(true, true);
    let now = world.simulation.now;
    world.simulation.report(|core| core.on_disk_failed("no space left", now));
    let ids = (0..22).map(|_| world.export()).collect::<Vec<_>>();
    let in_memory = ids[21];
    let payload = world.simulation.payload(10_000, 10);
    world.simulation.report(|core| {
        assert!(core.on_submitted(&payload));
        core.on_journal_full(vec![payload.clone()], JournalUsage::default(), now);
    });
    drop(world.simulation.take_effect(|effect| matches!(effect, Effect::Commit(_))));
    world.simulation.report(|core| core.on_offered(payload, now)).expect("the core runs");
    let remove = world.simulation.take_effect(|effect| matches!(effect, Effect::RemoveOldest));
    assert!(remove.is_some() && world.core().ledger().lost() == 0);
    let given_up = Lost { batches: vec![ids[0], in_memory], unread: 0 };
    given_up.batches.iter().for_each(|id| drop(world.journal.remove(id)));
    world.simulation.report(|core| core.on_removed(Some(given_up), now));
    assert_eq!((world.dropped("journal_full"), world.core().ledger().lost()), (10, 10), "one was in the journal only");
    world.simulation.report(|core| core.on_committed(false));
    world.journal_turns();
    assert!(world.journal.contains_key(&in_memory), "the other one is appended anew");
}

#[test]
fn after_the_journal_has_vanished_all_of_memory_is_appended_anew() {
    let mut world = World::new(false, true);
    (0..23).for_each(|_| world.export_one());
    world.simulation.poll();
    assert_eq!((world.core().ledger().in_journal, world.core().only_in_memory()), (30, 0));
    world.journal.clear();
    let now = world.simulation.now;
    world.simulation.report(|core| core.on_journal_vanished(&Vanished::All, &[], now));
    assert_eq!((world.dropped("vanished"), world.core().ledger().in_journal), (30, 0));
    assert_eq!(world.core().only_in_memory(), 200, "nothing is durable before the next sync");
    world.journal_turns();
    assert_eq!((world.core().only_in_memory(), world.journal.len()), (0, 20));
    assert!(world.core().durable.has_recently_vanished(now));
    world.deliver(60);
    assert_eq!(world.core().ledger().delivered, 200);
}

#[test]
fn the_late_answer_of_a_read_that_was_ended_says_nothing_about_the_next_read() {
    let mut world = World::new(false, true);
    (0..25).for_each(|_| world.export_one());
    let is_read = |effect: &Effect| matches!(effect, Effect::Recover(_));
    let first = loop {
        world.simulation.poll();
        if let Some(Effect::Recover(id)) = world.simulation.take_effect(is_read) {
            break id.expect("no batch of an earlier process");
        }
        world.simulation.answer(0, Answer::Accept);
        world.journal_turns_without_reads();
    };
    world.journal.remove(&first);
    let now = world.simulation.now;
    let given_up = Lost { batches: vec![first], unread: 0 };
    world.simulation.report(|core| core.on_removed(Some(given_up), now));
    world.simulation.poll();
    assert!(world.simulation.effects.iter().any(is_read), "the next batch is asked for");
    world.simulation.report(|core| core.on_recovery_ended(Some(first), now));
    world.deliver(60);
    let ledger = world.core().ledger();
    assert_eq!((ledger.delivered, ledger.in_journal, ledger.lost()), (240, 0, 10), "{ledger:?}");
}

#[test]
fn a_batch_that_is_not_appended_yet_is_marked_after_its_append_although_a_file_has_it() {
    let mut world = World::new(true, true);
    let now = world.simulation.now;
    let payloads = [0, 10].map(|first| world.simulation.payload(first, 10));
    for payload in &payloads {
        assert!(world.simulation.report(|core| core.on_submitted(payload)));
        world.simulation.core.durable.on_wait_ended(payload.id(), 10, now);
    }
    let ids = payloads.each_ref().map(Payload::id);
    drop(world.simulation.take_effect(|effect| matches!(effect, Effect::Commit(_))).expect("the first batch"));
    for payload in payloads {
        world.simulation.report(|core| core.on_offered(payload, now)).expect("the core runs");
    }
    world.simulation.report(|core| core.stop(now));
    let spill = world.simulation.take_effect(|effect| matches!(effect, Effect::Spill(_)));
    let Some(Effect::Spill(spill)) = spill else { panic!("a shutdown writes a file") };
    // The disk thread has noted the hand-over already when the second batch is appended.
    world.simulation.report(|core| {
        core.durable.on_written(&ids[..1], Written::Synced);
        core.on_committed(false);
        core.on_spilled(&spill, "a file");
    });
    world.journal_turns();
    assert!(world.journal.is_empty(), "no later start returns it: {:?}", world.journal.keys());
}

#[test]
fn batches_that_return_from_a_failed_file_are_appended_to_the_new_journal_at_once() {
    let mut world = World::new(true, true);
    (0..18).for_each(|_| world.export_one());
    let spill = world.simulation.take_effect(|effect| matches!(effect, Effect::Spill(_)));
    let Some(Effect::Spill(spill)) = spill else { panic!("memory is nearly full") };
    world.journal.clear();
    let now = world.simulation.now;
    world.simulation.report(|core| core.on_journal_vanished(&Vanished::All, &[], now));
    world.journal_turns();
    assert!(world.core().only_in_memory() > 0, "the batches on their way to the file are not at hand");
    world.simulation.report(|core| core.on_spill_failed(spill.entries, "no space left", now));
    world.journal_turns();
    assert_eq!((world.core().only_in_memory(), world.journal.len()), (0, 18));
}

#[test]
fn recovered_batches_are_sent_in_the_order_of_their_reads() {
    let mut simulation = Simulation::new(Box::new(MemoryFallback::in_groups_of(3)), Setup::small(false, 3));
    simulation.core = simulation.core.with_journal(50, true, simulation.now);
    simulation.poll();
    let mut read = Vec::new();
    while simulation.take_effect(|effect| matches!(effect, Effect::Recover(_))).is_some() {
        let payload = simulation.payload(10 * read.len() as u64, 10);
        read.push(payload.id());
        let now = simulation.now;
        simulation.report(|core| core.on_recovered(payload, now));
    }
    let mut sent = Vec::new();
    while sent.len() < 5 {
        simulation.poll();
        sent.push(simulation.calls[0].payload.id());
        simulation.answer(0, Answer::Accept);
    }
    assert_eq!(sent, read);
}

#[test]
fn a_batch_that_was_delivered_is_not_lost_with_its_segment_and_neither_is_another_for_it() {
    let mut world = World::new(false, true);
    let delivered = world.export();
    world.simulation.poll();
    world.simulation.answer(0, Answer::Accept);
    let now = world.simulation.now;
    world.simulation.report(|core| {
        core.on_found(10);
        // Before its mark is written.
        core.on_removed(Some(Lost { batches: vec![delivered], unread: 0 }), now);
    });
    let (core, ledger) = (world.core(), world.core().ledger());
    assert_eq!((core.durable.unread(), ledger.delivered, ledger.lost()), (10, 10, 0), "{ledger:?}");
}

#[test]
fn a_batch_larger_than_all_of_memory_holds_up_no_other_in_a_journal_that_is_nearly_full() {
    let mut world = World::new(true, true);
    world.simulation.now += Duration::from_secs(1);
    let now = world.simulation.now;
    world.simulation.report(|core| core.on_disk_failed("no space left", now));
    let ids = (0..24).map(|_| world.export()).collect::<Vec<_>>();
    world.simulation.now += Duration::from_secs(2);
    world.export();
    while !world.simulation.effects.is_empty() {
        world.simulation.run_effect(Disturbance::None);
        world.journal_turns();
    }
    // A batch of an earlier process, which had a larger memory.
    let (large, now) = (world.simulation.payload(10_000, 300), world.simulation.now);
    let is_read = |effect: &Effect| matches!(effect, Effect::Recover(_));
    world.simulation.report(|core| {
        core.on_found(300);
        core.on_journal_usage(FULL, now);
    });
    assert!(matches!(world.simulation.take_effect(is_read), Some(Effect::Recover(None))));
    world.simulation.report(|core| core.on_recovered(large, now));
    world.simulation.report(|core| core.on_journal_usage(FULL, now));
    let next = world.simulation.take_effect(is_read);
    assert!(matches!(next, Some(Effect::Recover(Some(id))) if ids.contains(&id)), "{next:?}");
}

/// A world whose journal alone holds twenty batches. A shutdown begins, with time for stored batches.
fn draining() -> World {
    let mut world = World::new(false, true);
    (0..40).for_each(|_| world.export_one());
    assert_eq!(world.core().ledger().in_journal, 200);
    let now = world.simulation.now;
    let (until, replay) = (now + Duration::from_millis(2_100), Duration::from_secs(1));
    world.simulation.report(|core| core.drain(until, replay, now));
    world
}

#[test]
fn a_shutdown_sends_what_only_the_journal_holds() {
    let mut world = draining();
    while !world.core().is_stopped() {
        world.simulation.poll();
        world.journal_turns();
        world.simulation.answer(0, Answer::Accept);
        world.simulation.now += Duration::from_millis(2);
    }
    let ledger = world.core().ledger();
    assert_eq!((ledger.delivered, ledger.in_journal, ledger.lost()), (400, 0, 0), "{ledger:?}");
}

#[test]
fn a_shutdown_reads_no_more_of_the_journal_than_the_collector_takes() {
    let mut world = draining();
    while world.core().ledger().delivered < 200 {
        world.simulation.poll();
        world.journal_turns();
        world.simulation.answer(0, Answer::Accept);
    }
    // The collector answers no more.
    while !world.core().is_stopped() {
        world.simulation.poll();
        world.journal_turns();
        world.simulation.now += Duration::from_millis(100);
    }
    let limit = world.core().endpoints.current().concurrency() + 1;
    assert!(world.read.len() <= limit, "{} reads, and room for {limit} calls", world.read.len());
    world.simulation.report(Core::on_journal_closed);
    let ledger = world.core().ledger();
    assert_eq!((ledger.delivered, ledger.in_journal, ledger.lost()), (200, 200, 0), "{ledger:?}");
}

/// A batch whose `export` call has not offered it yet is no place for the spans of another one.
#[test]
fn a_batch_that_is_synced_and_not_offered_yet_makes_no_other_one_safe() {
    let mut world = World::new(true, true);
    let (first, now) = (world.simulation.next_span, world.simulation.now);
    world.simulation.next_span += 20;
    let lost = world.simulation.payload(first, 10);
    assert!(world.simulation.report(|core| core.on_submitted(&lost)));
    let fails = |effect: &Effect| matches!(effect, Effect::Commit(_));
    assert!(world.simulation.take_effect(fails).is_some());
    world.simulation.report(|core| {
        core.durable.on_written(&[lost.id()], Written::Failed);
        core.on_committed(false);
        core.durable.on_wait_ended(lost.id(), 10, now);
        core.on_offered(lost, now).expect("the core runs");
    });
    assert!(world.core().has_unsafe_since(now));
    let other = world.simulation.payload(first + 10, 10);
    assert!(world.simulation.report(|core| core.on_submitted(&other)));
    world.journal_turns();
    assert!(world.core().has_unsafe_since(now), "the first batch is in memory and nowhere else");
    assert_eq!(world.core().only_in_memory(), 10);
}
