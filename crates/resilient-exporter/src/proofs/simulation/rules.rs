//! Who waits, who is charged, whose turn it is: one rule a test.

use std::time::Duration;

use otlp_payload::Payload;

use super::{Answer, World, in_memory};
use crate::core::Written;
use crate::proofs::spans::spans;
use crate::seams::clock::{Clock as _, SystemClock};

const BUSY: Answer = Answer::Busy;

/// Time passes in steps of half a second; every call is answered as `answer` says of its first span's number.
fn run(world: &mut World, seconds: u64, mut answer: impl FnMut(u64) -> Answer) {
    for _ in 0..seconds * 2 {
        world.now += Duration::from_millis(500);
        world.plan();
        while let Some(call) = world.calls.first() {
            let first = super::span_ids(call.payload.bytes()).next().expect("a span");
            world.answer(0, answer(u64::from_be_bytes(first.1)));
        }
        world.plan();
    }
    world.check().expect("the ledger is right");
}

#[test]
fn an_outage_spends_no_batch() {
    let mut world = in_memory(true, 1);
    // One call more than it takes to open the breaker.
    world.core.policy.max_calls = 4;
    world.offer(10);
    run(&mut world, 250, |_| BUSY);
    assert!(world.core.endpoint.trips() >= 3, "several probes have failed");
    let calls = world.core.buffer.iter().map(|entry| entry.calls).collect::<Vec<_>>();
    assert_eq!(calls, [3], "only the calls before the breaker opened are charged");
    assert!(world.jobs.is_empty());
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
    assert_eq!((world.core.ledger.delivered, world.jobs.len()), (20, 1), "what is spent is to be spilled");
}

#[test]
fn a_throttled_batch_is_not_charged() {
    let mut world = in_memory(true, 3);
    world.offer(10);
    run(&mut world, 200, |_| Answer::Throttle(5_000));
    let calls = world.core.buffer.iter().map(|entry| entry.calls).collect::<Vec<_>>();
    assert_eq!((calls, world.core.endpoint.trips()), (vec![0], 0));
    let attempts = world.core.counters.failures;
    assert!((20..=40).contains(&attempts), "one call each 5 s: {attempts}");
}

/// Twelve batches on the disk, and a collector that is well.
fn backlog(seed: u64) -> World {
    let mut world = in_memory(true, seed);
    for _ in 0..12 {
        world.offer(30);
        while !world.jobs.is_empty() {
            world.disk(false);
        }
    }
    assert!(world.core.ledger.in_fallback >= 200, "{:?}", world.core.ledger);
    world
}

#[test]
fn replay_gets_a_quarter_of_the_calls_beside_live_traffic_and_none_while_memory_is_more_than_half_full() {
    let mut world = backlog(4);
    let (mut live, mut replayed) = (0, 0);
    while world.core.ledger.in_fallback > 0 {
        let half = world.core.policy.limits.max_count / 2;
        let full = world.core.buffer.total().count > half;
        world.now += Duration::from_millis(100);
        world.plan();
        for call in &world.calls {
            match world.core.is_live(call.id) {
                true => live += 1,
                false => {
                    assert!(!full, "a replay while {} spans wait", world.core.buffer.total().count);
                    replayed += 1;
                }
            }
        }
        while !world.calls.is_empty() {
            world.answer(0, Answer::Take);
        }
        while !world.jobs.is_empty() {
            world.disk(false);
        }
        // There is always something live to send, however many calls go out at once.
        while world.core.buffer.total().count < half - 10 {
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
        while !world.jobs.is_empty() {
            world.disk(false);
        }
    }
    let ledger = &world.core.ledger;
    assert_eq!((ledger.dead_lettered, ledger.lost(), ledger.in_fallback), (30, 0, 0), "{ledger:?}");
}

#[test]
fn failed_replays_lose_nothing_however_often_the_collector_goes_away() {
    let mut world = backlog(5);
    let before = world.core.ledger.in_fallback;
    for outage in 0..15 {
        run(&mut world, 90, |_| BUSY);
        while !world.jobs.is_empty() {
            world.disk(false);
        }
        // Back for one answer, then away again.
        let mut answers = 0;
        world.offer(5);
        run(&mut world, 70, |_| {
            answers += 1;
            if answers == 1 { Answer::Take } else { BUSY }
        });
        assert_eq!(world.core.ledger.lost() + world.core.ledger.dead_lettered, 0, "outage {outage}");
    }
    assert!(world.core.ledger.in_fallback + world.core.ledger.delivered >= before);
    world.recover();
    assert_eq!(world.core.ledger.lost() + world.core.ledger.dead_lettered, 0);
}

#[test]
fn what_is_found_in_the_journal_waits_there_while_memory_is_on_its_way_to_the_disk() {
    let mut world = in_memory(true, 8);
    world.core.keep_shadows(1_000, world.now);
    // All of it is old at once, and the disk does not get to it.
    world.now += world.core.policy.limits.max_age;
    for found in 0..100 {
        if world.core.wants_recovered() {
            let batch = spans(1 + found * 10, 10);
            let payload = world.encoder.encode(world.core.next_id(), SystemClock.wall(), &batch);
            let mut effects = Vec::new();
            world.core.recovered(payload, &mut effects);
            world.act(effects);
        }
        world.plan();
    }
    let ledger = &world.core.ledger;
    assert_eq!((ledger.lost(), ledger.imbalance()), (0, 0), "{ledger:?}");
    assert!(world.core.unread() < 1_000, "it began");
    // The disk does its work: the rest follows.
    let before = world.core.unread();
    while !world.jobs.is_empty() {
        world.disk(false);
    }
    assert!(world.core.wants_recovered(), "{before} are left");
}

#[test]
fn a_batch_that_is_read_from_the_journal_when_the_end_comes_stays_there() {
    let mut world = in_memory(true, 8);
    world.core.keep_shadows(10, world.now);
    assert!(world.core.wants_recovered());
    let payload = world.encoder.encode(world.core.next_id(), SystemClock.wall(), &spans(1, 10));
    let mut effects = Vec::new();
    world.core.stop_now(world.now, &mut effects);
    world.core.recovered(payload, &mut effects);
    assert_eq!((world.core.left_in_journal(), world.core.buffer.total().count), (10, 0));
    assert_eq!((world.core.ledger.buffered, world.core.ledger.imbalance()), (10, 0));
}

#[test]
fn a_disk_that_hangs_for_ever_costs_no_memory_for_what_is_delivered() {
    let mut world = in_memory(true, 8);
    world.core.keep_shadows(0, world.now);
    let payload = world.encoder.encode(world.core.next_id(), SystemClock.wall(), &spans(1, 1));
    for _ in 0..10_000 {
        let payload = Payload::new(world.core.next_id(), SystemClock.wall(), 1, payload.bytes().clone());
        assert!(world.core.open_shadow(&payload));
        // It had its end before the disk thread came to it.
        world.core.settle(payload.id());
    }
    assert!(world.core.shadow_names() < 2_000, "{}", world.core.shadow_names());
}

/// A world without a fallback, with one batch of 9 spans in memory whose shadow was asked for.
fn shadowed() -> (World, otlp_payload::BatchId) {
    let mut world = in_memory(false, 11);
    world.core.keep_shadows(0, world.now);
    let id = world.core.next_id();
    let payload = world.encoder.encode(id, SystemClock.wall(), &spans(1, 9));
    assert!(world.core.open_shadow(&payload));
    assert_eq!(world.core.shadows_to_write(1_000_000).len(), 1);
    let _ = world.core.offer(payload, world.now, &mut Vec::new());
    (world, id)
}

#[test]
fn what_the_journal_would_not_take_is_offered_to_it_once_more() {
    let (mut world, id) = shadowed();
    world.core.shadows_written(&[id], Written::Failed);
    world.core.write_failed_again();
    let again = world.core.shadows_to_write(1_000_000);
    assert_eq!(again.iter().map(otlp_payload::Payload::id).collect::<Vec<_>>(), [id]);
    world.core.shadows_written(&[id], Written::Failed);
    world.core.write_failed_again();
    assert!(world.core.shadows_to_write(1_000_000).is_empty(), "it is at fault itself");
}

#[test]
fn the_last_sync_decides_what_a_shutdown_leaves_in_the_journal() {
    for (last, left, dropped) in [(Written::Kept, 9, None), (Written::Unsynced, 0, Some(&9))] {
        let (mut world, id) = shadowed();
        world.core.shadows_written(&[id], Written::Unsynced);
        world.core.drain(world.now);
        world.core.stop_now(world.now, &mut Vec::new());
        assert_eq!((world.core.ledger.buffered, world.core.ledger.lost()), (9, 0), "it is not decided yet");
        world.core.shadows_written(&[id], last);
        world.core.journal_closes(&mut Vec::new());
        assert_eq!(world.core.left_in_journal(), left);
        assert_eq!(world.core.ledger.dropped.get("shutdown"), dropped);
        assert_eq!(world.core.ledger.imbalance(), 0);
    }
}
