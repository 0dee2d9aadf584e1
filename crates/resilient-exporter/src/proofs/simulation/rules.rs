//! Who waits, who is charged, whose turn it is: one rule a test.

use std::time::Duration;

use otlp_payload::{BatchId, Payload};

use super::{Answer, World, in_memory};
use crate::core::{Core, Effect, Written};
use crate::proofs::spans::spans;
use crate::seams::clock::{Clock as _, SystemClock};

const BUSY: Answer = Answer::Busy;

/// Time passes in steps of half a second; every call is answered as `answer` says of its first span's number.
fn run(world: &mut World, seconds: u64, mut answer: impl FnMut(u64) -> Answer) {
    for _ in 0..seconds * 2 {
        world.now += Duration::from_millis(500);
        world.poll();
        while let Some(call) = world.calls.first() {
            let first = super::span_ids(call.payload.bytes()).next().expect("a span");
            world.answer(0, answer(u64::from_be_bytes(first.1)));
        }
        world.poll();
    }
    world.check().expect("the ledger is right");
}

#[test]
fn an_outage_spends_no_batch() {
    let mut world = in_memory(true, 1);
    // One call more than it takes to open the breaker.
    world.core.policy_mut().max_calls = 4;
    world.offer(10);
    run(&mut world, 250, |_| BUSY);
    assert!(world.core.endpoint.trips() >= 3, "several probes have failed");
    let calls = world.core.memory.waiting().map(|entry| entry.calls).collect::<Vec<_>>();
    assert_eq!(calls, [3], "only the calls before the breaker opened are charged");
    assert!(world.effects.is_empty());
}

#[test]
fn a_poison_batch_lets_the_others_go_first_and_ends_on_the_disk() {
    let mut world = in_memory(true, 2);
    for _ in 0..3 {
        world.offer(10); // spans 1 to 10 are poison
    }
    let mut order = Vec::new();
    run(&mut world, 60, |first| {
        order.push(first);
        if first == 1 { BUSY } else { Answer::Take }
    });
    assert_eq!(order, [1, 1, 11, 21, 1], "two failures, then the others, then its last call");
    assert_eq!((world.core.ledger().delivered, world.effects.len()), (20, 1), "what is spent is to be spilled");
}

#[test]
fn a_throttled_batch_is_not_charged() {
    let mut world = in_memory(true, 3);
    world.offer(10);
    run(&mut world, 200, |_| Answer::Throttle(5_000));
    let calls = world.core.memory.waiting().map(|entry| entry.calls).collect::<Vec<_>>();
    assert_eq!((calls, world.core.endpoint.trips()), (vec![0], 0));
    let attempts = world.core.accounts.counters.failures();
    assert!((20..=40).contains(&attempts), "one call each 5 s: {attempts}");
}

/// Twelve batches on the disk, and a collector that is well.
fn backlog(seed: u64) -> World {
    let mut world = in_memory(true, seed);
    for _ in 0..12 {
        world.offer(30);
        while !world.effects.is_empty() {
            world.disk(false);
        }
    }
    assert!(world.core.ledger().in_fallback >= 200, "{:?}", world.core.ledger());
    world
}

#[test]
fn replay_gets_a_quarter_of_the_calls_beside_live_traffic_and_none_while_memory_is_more_than_half_full() {
    let mut world = backlog(4);
    let (mut live, mut replayed) = (0, 0);
    while world.core.ledger().in_fallback > 0 {
        let half = world.core.memory.limits().max_count / 2;
        let full = world.core.memory.waiting_size().count > half;
        world.now += Duration::from_millis(100);
        world.poll();
        for call in &world.calls {
            match world.core.is_live(call.id) {
                true => live += 1,
                false => {
                    assert!(!full, "a replay while {} spans wait", world.core.memory.waiting_size().count);
                    replayed += 1;
                }
            }
        }
        while !world.calls.is_empty() {
            world.answer(0, Answer::Take);
        }
        while !world.effects.is_empty() {
            world.disk(false);
        }
        // There is always something live to send, however many calls go out at once.
        while world.core.memory.waiting_size().count < half - 10 {
            world.offer(5);
        }
        assert!(live < 1_000, "replay starves");
    }
    // One in four, less the calls that go out while the disk reads the next group.
    assert!(replayed * 6 >= live, "{replayed} replays beside {live} live calls");
    world.check().expect("the ledger is right");
}

#[test]
fn a_stored_batch_that_fails_while_others_do_not_becomes_a_dead_letter() {
    let mut world = backlog(6);
    for _ in 0..200 {
        // The oldest stored batch is poison.
        run(&mut world, 1, |first| if first == 1 { BUSY } else { Answer::Take });
        world.offer(5);
        while !world.effects.is_empty() {
            world.disk(false);
        }
    }
    let ledger = world.core.ledger();
    assert_eq!((ledger.dead_lettered, ledger.lost(), ledger.in_fallback), (30, 0, 0), "{ledger:?}");
}

#[test]
fn failed_replays_lose_nothing_however_often_the_collector_goes_away() {
    let mut world = backlog(5);
    let before = world.core.ledger().in_fallback;
    for outage in 0..15 {
        run(&mut world, 90, |_| BUSY);
        while !world.effects.is_empty() {
            world.disk(false);
        }
        // Back for one answer, then away again.
        let mut answers = 0;
        world.offer(5);
        run(&mut world, 70, |_| {
            answers += 1;
            if answers == 1 { Answer::Take } else { BUSY }
        });
        assert_eq!(world.core.ledger().lost() + world.core.ledger().dead_lettered, 0, "outage {outage}");
    }
    assert!(world.core.ledger().in_fallback + world.core.ledger().delivered >= before);
    world.recover();
    assert_eq!(world.core.ledger().lost() + world.core.ledger().dead_lettered, 0);
}

/// A world in durable mode with `found` spans of an earlier process in the journal.
fn durable(fallback: bool, found: u64, seed: u64) -> World {
    let mut world = in_memory(fallback, seed);
    world.core = world.core.with_journal(found, world.now);
    world
}

impl World {
    fn payload(&mut self, first: u64, count: usize) -> Payload {
        let id = self.core.next_id();
        self.encoder.encode(id, SystemClock.wall(), &spans(first, count))
    }

    fn disk_turn(&mut self) {
        let now = self.now;
        self.report(|core| core.on_disk_turn(now));
    }

    /// Takes an effect of the journal from the disk thread's queue.
    fn take_effect(&mut self, wanted: fn(&Effect) -> bool) -> Option<Effect> {
        let index = self.effects.iter().position(wanted)?;
        self.effects.remove(index)
    }

    fn is_asked_for_recovered(&mut self) -> bool {
        self.take_effect(|effect| matches!(effect, Effect::Recover)).is_some()
    }

    /// Ids that the next commit appends.
    fn take_append(&mut self) -> Vec<BatchId> {
        match self.take_effect(|effect| matches!(effect, Effect::Commit(_))) {
            Some(Effect::Commit(commit)) => commit.append.iter().map(Payload::id).collect(),
            _ => Vec::new(),
        }
    }
}

#[test]
fn recovered_batches_wait_in_the_journal_while_memory_is_on_its_way_to_the_disk() {
    let mut world = durable(true, 1_000, 8);
    // Every recovered batch is at the age limit at once, and the disk thread does not get to the spills.
    world.now += world.core.memory.limits().max_age;
    world.disk_turn();
    for found in 0..100 {
        if world.is_asked_for_recovered() {
            let (payload, now) = (world.payload(1 + found * 10, 10), world.now);
            world.report(|core| core.on_recovered(payload, now));
        }
        world.poll();
    }
    let ledger = world.core.ledger();
    assert_eq!((ledger.lost(), ledger.imbalance()), (0, 0), "{ledger:?}");
    assert!(world.core.durable.unread() < 1_000, "the first batches are in memory");
    // The disk thread writes the spills: the next batch is asked for.
    let before = world.core.durable.unread();
    while !world.effects.is_empty() {
        world.disk(false);
    }
    world.disk_turn();
    assert!(world.is_asked_for_recovered(), "{before} are left");
}

#[test]
fn a_batch_that_is_read_from_the_journal_after_the_end_stays_there() {
    let mut world = durable(true, 10, 8);
    world.disk_turn();
    assert!(world.is_asked_for_recovered());
    let (payload, now) = (world.payload(1, 10), world.now);
    world.report(|core| core.stop(now));
    world.report(|core| core.on_recovered(payload, now));
    assert_eq!((world.core.durable.left_in_journal(), world.core.memory.waiting_size().count), (10, 0));
    assert_eq!((world.core.ledger().buffered, world.core.ledger().imbalance()), (10, 0));
}

#[test]
fn a_disk_that_hangs_for_ever_costs_no_memory_for_delivered_batches() {
    let mut world = durable(true, 0, 8);
    let bytes = world.payload(1, 1).bytes().clone();
    for _ in 0..10_000 {
        let payload = Payload::new(world.core.next_id(), SystemClock.wall(), 1, bytes.clone());
        assert!(world.report(|core| core.on_submitted(&payload)));
        // The batch ends before the disk thread gets to it.
        world.core.durable.end_for_test(payload.id());
    }
    assert!(world.core.durable.entries() < 2_000, "{}", world.core.durable.entries());
    assert_eq!(world.effects.len(), 1, "one commit at a time");
}

/// A world without a fallback, with one batch of 9 spans in memory that the disk thread appends.
fn appending() -> (World, BatchId) {
    let mut world = durable(false, 0, 11);
    let payload = world.payload(1, 9);
    let (id, now) = (payload.id(), world.now);
    assert!(world.report(|core| core.on_submitted(&payload)));
    assert_eq!(world.take_append(), [id]);
    world.report(|core| core.on_offered(payload, now)).expect("there is room");
    (world, id)
}

#[test]
fn a_batch_that_the_journal_refused_is_appended_once_more() {
    let (mut world, id) = appending();
    world.core.durable.on_written(&[id], Written::Failed);
    world.report(|core| core.on_committed(true));
    assert_eq!(world.take_append(), [id]);
    world.core.durable.on_written(&[id], Written::Failed);
    world.report(|core| core.on_committed(true));
    assert!(world.take_append().is_empty(), "the batch itself is the cause");
}

#[test]
fn the_last_sync_decides_which_batches_a_shutdown_leaves_in_the_journal() {
    for (last, left, dropped) in [(Written::Synced, 9, None), (Written::Unsynced, 0, Some(&9))] {
        let (mut world, id) = appending();
        world.core.durable.on_written(&[id], Written::Unsynced);
        let now = world.now;
        world.report(|core| core.drain(now));
        world.report(|core| core.stop(now));
        let ledger = world.core.ledger();
        assert_eq!((ledger.buffered, ledger.lost()), (9, 0), "the batch waits for the last sync");
        world.core.durable.on_written(&[id], last);
        world.report(Core::on_journal_closed);
        assert_eq!(world.core.durable.left_in_journal(), left);
        assert_eq!(world.core.ledger().dropped.get("shutdown"), dropped);
        assert_eq!(world.core.ledger().imbalance(), 0);
    }
}

#[test]
fn batches_that_arrive_during_a_commit_form_the_next_one() {
    let (mut world, first) = appending();
    let later = [world.payload(10, 3), world.payload(13, 3)];
    for payload in &later {
        assert!(world.report(|core| core.on_submitted(payload)));
    }
    assert!(world.take_append().is_empty(), "one commit at a time");
    world.core.durable.on_written(&[first], Written::Synced);
    world.report(|core| core.on_committed(false));
    assert_eq!(world.take_append(), later.map(|payload| payload.id()));
}
