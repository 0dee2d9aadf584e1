//! The rules of the core, one a test: which batch is sent next, which call charges a batch, when a stored or recovered
//! batch is read, which batches a commit holds.

use std::time::Duration;

use otlp_payload::{BatchId, Payload};

use super::{Answer, Disturbance, Simulation, in_memory};
use crate::core::{Core, Effect, Written};
use crate::proofs::spans::spans;
use crate::seams::clock::{Clock as _, SystemClock};

const UNAVAILABLE: Answer = Answer::Unavailable;

/// Advances the clock in steps of half a second. The collector gives every call the answer that `answer` returns for
/// the number of its first span.
fn run(simulation: &mut Simulation, seconds: u64, mut answer: impl FnMut(u64) -> Answer) {
    for _ in 0..seconds * 2 {
        simulation.now += Duration::from_millis(500);
        simulation.poll();
        while let Some(call) = simulation.calls.first() {
            let first = super::span_ids(call.payload.request().bytes()).next().expect("a span");
            simulation.answer(0, answer(u64::from_be_bytes(first.1)));
        }
        simulation.poll();
    }
    simulation.check_ledger().expect("the ledger is right");
}

#[test]
fn an_outage_spends_no_batch() {
    let mut simulation = in_memory(true, 1);
    // One call more than the three that open the breaker.
    simulation.core.policy_mut().max_calls = 4;
    simulation.offer(10);
    run(&mut simulation, 250, |_| UNAVAILABLE);
    assert!(simulation.core.endpoints.current().trips() >= 3, "several probes failed");
    let calls = simulation.core.memory.waiting().map(|entry| entry.calls).collect::<Vec<_>>();
    assert_eq!(calls, [3], "only the calls before the breaker opened are charged");
    assert!(simulation.effects.is_empty());
}

#[test]
fn a_batch_that_always_fails_lets_the_others_go_first_and_ends_on_the_disk() {
    let mut simulation = in_memory(true, 2);
    for _ in 0..3 {
        simulation.offer(10); // the collector takes none of the spans 1 to 10
    }
    let mut order = Vec::new();
    run(&mut simulation, 60, |first| {
        order.push(first);
        if first == 1 { UNAVAILABLE } else { Answer::Accept }
    });
    assert_eq!(order, [1, 1, 11, 21, 1], "two failures, then the others, then its last call");
    assert_eq!(
        (simulation.core.ledger().delivered, simulation.effects.len()),
        (20, 1),
        "the batch without calls left is to be spilled"
    );
}

#[test]
fn a_throttled_batch_is_not_charged() {
    let mut simulation = in_memory(true, 3);
    simulation.offer(10);
    run(&mut simulation, 200, |_| Answer::Throttle(5_000));
    let calls = simulation.core.memory.waiting().map(|entry| entry.calls).collect::<Vec<_>>();
    assert_eq!((calls, simulation.core.endpoints.current().trips()), (vec![0], 0));
    let attempts = simulation.core.accounts.counters.failures();
    assert!((20..=40).contains(&attempts), "one call each 5 s: {attempts}");
}

#[test]
fn a_mark_that_is_written_ends_the_wait_of_full_memory_for_a_disk_that_has_failed() {
    let mut simulation = in_memory(true, 6);
    let most = simulation.core.memory.limits().max_count;
    while simulation.core.memory.held_size().count < most {
        simulation.offer(10);
        while !simulation.effects.is_empty() {
            simulation.run_effect(Disturbance::Failure);
        }
    }
    let now = simulation.now;
    simulation.report(|core| core.on_disk_recovered(now));
    assert!(simulation.take_effect(|effect| matches!(effect, Effect::Spill(_))).is_some(), "before the next batch");
    simulation.report(|core| core.on_disk_recovered(now));
    assert!(simulation.effects.is_empty(), "nothing has failed since");
}

/// A simulation with twelve stored batches and a healthy collector.
fn backlog(seed: u64) -> Simulation {
    let mut simulation = in_memory(true, seed);
    for _ in 0..12 {
        simulation.offer(30);
        while !simulation.effects.is_empty() {
            simulation.run_effect(Disturbance::None);
        }
    }
    assert!(simulation.core.ledger().in_fallback >= 200, "{:?}", simulation.core.ledger());
    simulation
}

#[test]
fn replay_gets_a_quarter_of_the_calls_beside_live_traffic_and_none_while_memory_is_more_than_half_full() {
    let mut simulation = backlog(4);
    let (mut live, mut replayed) = (0, 0);
    while simulation.core.ledger().in_fallback > 0 {
        let half = simulation.core.memory.limits().max_count / 2;
        let full = simulation.core.memory.waiting_size().count > half;
        simulation.now += Duration::from_millis(100);
        simulation.poll();
        for call in &simulation.calls {
            match simulation.core.is_live(call.id) {
                true => live += 1,
                false => {
                    assert!(!full, "a replay while {} spans wait", simulation.core.memory.waiting_size().count);
                    replayed += 1;
                }
            }
        }
        while !simulation.calls.is_empty() {
            simulation.answer(0, Answer::Accept);
        }
        while !simulation.effects.is_empty() {
            simulation.run_effect(Disturbance::None);
        }
        // Live batches always wait, however many calls go out at once.
        while simulation.core.memory.waiting_size().count < half - 10 {
            simulation.offer(5);
        }
        assert!(live < 1_000, "no replay gets a call");
    }
    // One in four, less the calls that go out while the disk reads the next group.
    assert!(replayed * 6 >= live, "{replayed} replays beside {live} live calls");
    simulation.check_ledger().expect("the ledger is right");
}

#[test]
fn failed_replays_lose_no_span_however_many_outages_follow() {
    let mut simulation = backlog(5);
    let before = simulation.core.ledger().in_fallback;
    for outage in 0..15 {
        run(&mut simulation, 90, |_| UNAVAILABLE);
        while !simulation.effects.is_empty() {
            simulation.run_effect(Disturbance::None);
        }
        // The collector accepts one batch, then is unavailable again.
        let mut answers = 0;
        simulation.offer(5);
        run(&mut simulation, 70, |_| {
            answers += 1;
            if answers == 1 { Answer::Accept } else { UNAVAILABLE }
        });
        assert_eq!(simulation.core.ledger().lost() + simulation.core.ledger().dead_lettered, 0, "outage {outage}");
    }
    assert!(simulation.core.ledger().in_fallback + simulation.core.ledger().delivered >= before);
    simulation.deliver_everything();
    assert_eq!(simulation.core.ledger().lost() + simulation.core.ledger().dead_lettered, 0);
}

/// A simulation in durable mode, with `found` spans of an earlier process in the journal.
fn durable(fallback: bool, found: u64, seed: u64) -> Simulation {
    let mut simulation = in_memory(fallback, seed);
    simulation.core = simulation.core.with_journal(found, true, simulation.now);
    simulation
}

impl Simulation {
    pub(super) fn payload(&mut self, first: u64, count: usize) -> Payload {
        let id = self.core.next_id();
        self.encoder.encode(id, SystemClock.wall(), &spans(first, count))
    }

    /// Takes the first such effect from the disk thread's queue.
    pub(super) fn take_effect(&mut self, wanted: fn(&Effect) -> bool) -> Option<Effect> {
        let index = self.effects.iter().position(wanted)?;
        self.effects.remove(index)
    }

    fn takes_recover_effect(&mut self) -> bool {
        self.take_effect(|effect| matches!(effect, Effect::Recover(_))).is_some()
    }

    /// Takes the next commit from the queue and returns the ids of the batches that it appends.
    fn take_append(&mut self) -> Vec<BatchId> {
        match self.take_effect(|effect| matches!(effect, Effect::Commit(_))) {
            Some(Effect::Commit(commit)) => commit.append.iter().map(Payload::id).collect(),
            _ => Vec::new(),
        }
    }
}

#[test]
fn recovered_batches_wait_in_the_journal_while_spills_are_not_written() {
    let mut simulation = durable(true, 1_000, 8);
    simulation.poll();
    for found in 0..100 {
        if simulation.takes_recover_effect() {
            let (payload, now) = (simulation.payload(1 + found * 10, 10), simulation.now);
            simulation.report(|core| core.on_recovered(payload, now));
        }
    }
    assert_eq!(simulation.core.durable.unread(), 890, "memory is a little more than half full");
    // Every recovered batch is beyond the age limit, and the disk thread writes none of the spills.
    simulation.now += simulation.core.memory.limits().max_age + Duration::from_secs(1);
    simulation.poll();
    assert_eq!(simulation.core.memory.writing_size().count, 110);
    assert!(!simulation.takes_recover_effect(), "their memory is not free before they are written");
    // The disk thread writes the spills, and the core asks for the next batch.
    while !simulation.effects.is_empty() {
        simulation.run_effect(Disturbance::None);
    }
    simulation.poll();
    assert!(simulation.takes_recover_effect());
    let ledger = simulation.core.ledger();
    assert_eq!((ledger.in_journal, ledger.lost(), ledger.imbalance()), (890, 0, 0), "{ledger:?}");
}

#[test]
fn a_batch_that_is_read_from_the_journal_after_the_stop_stays_in_the_journal() {
    let mut simulation = durable(true, 10, 8);
    simulation.poll();
    assert!(simulation.takes_recover_effect());
    let (payload, now) = (simulation.payload(1, 10), simulation.now);
    simulation.report(|core| core.stop(now));
    simulation.report(|core| core.on_recovered(payload, now));
    assert_eq!((simulation.core.only_in_memory(), simulation.core.memory.waiting_size().count), (0, 0));
    assert_eq!((simulation.core.ledger().in_journal, simulation.core.ledger().imbalance()), (10, 0));
}

#[test]
fn a_disk_that_hangs_for_ever_costs_no_memory_for_delivered_batches() {
    let mut simulation = durable(true, 0, 8);
    let bytes = simulation.payload(1, 1).bytes().clone();
    for _ in 0..10_000 {
        let payload = Payload::new(simulation.core.next_id(), SystemClock.wall(), 1, bytes.clone());
        assert!(simulation.report(|core| core.on_submitted(&payload)));
        // The batch ends before the disk thread appends it.
        simulation.core.durable.end_for_test(payload.id());
    }
    assert!(simulation.core.durable.entries() < 2_000, "{}", simulation.core.durable.entries());
    assert_eq!(simulation.effects.len(), 1, "the disk thread has one commit at a time");
}

/// A simulation without a fallback, with one batch of 9 spans in memory, which the disk thread appends.
fn appending() -> (Simulation, BatchId) {
    let mut simulation = durable(false, 0, 11);
    let payload = simulation.payload(1, 9);
    let (id, now) = (payload.id(), simulation.now);
    assert!(simulation.report(|core| core.on_submitted(&payload)));
    assert_eq!(simulation.take_append(), [id]);
    simulation.report(|core| core.on_offered(payload, now)).expect("there is room");
    (simulation, id)
}

#[test]
fn a_batch_that_the_journal_refused_is_appended_once_more() {
    let (mut simulation, id) = appending();
    simulation.core.durable.on_written(&[id], Written::Failed);
    simulation.report(|core| core.on_committed(true));
    assert_eq!(simulation.take_append(), [id]);
    simulation.core.durable.on_written(&[id], Written::Failed);
    simulation.report(|core| core.on_committed(true));
    assert!(simulation.take_append().is_empty(), "after a second failure the batch itself is the cause");
}

#[test]
fn the_last_sync_decides_which_batches_a_shutdown_leaves_in_the_journal() {
    for (last, left, dropped) in [(Written::Synced, 9, None), (Written::Unsynced, 0, Some(&9))] {
        let (mut simulation, id) = appending();
        simulation.core.durable.on_written(&[id], Written::Unsynced);
        let now = simulation.now;
        simulation.report(|core| core.drain(now, Duration::ZERO, now));
        simulation.report(|core| core.stop(now));
        let ledger = simulation.core.ledger();
        assert_eq!((ledger.buffered, ledger.lost()), (9, 0), "the batch waits for the last sync");
        simulation.core.durable.on_written(&[id], last);
        simulation.report(Core::on_journal_closed);
        assert_eq!((simulation.core.ledger().in_journal, simulation.core.only_in_memory()), (left, 0));
        assert_eq!(simulation.core.ledger().dropped.get("shutdown"), dropped);
        assert_eq!(simulation.core.ledger().imbalance(), 0);
    }
}

#[test]
fn batches_that_arrive_during_a_commit_form_the_next_one() {
    let (mut simulation, first) = appending();
    let later = [simulation.payload(10, 3), simulation.payload(13, 3)];
    for payload in &later {
        assert!(simulation.report(|core| core.on_submitted(payload)));
    }
    assert!(simulation.take_append().is_empty(), "the disk thread has one commit at a time");
    simulation.core.durable.on_written(&[first], Written::Synced);
    simulation.report(|core| core.on_committed(false));
    assert_eq!(simulation.take_append(), later.map(|payload| payload.id()));
}

#[test]
fn a_commit_that_is_undone_is_followed_by_the_next_one() {
    let mut simulation = durable(true, 0, 12);
    let [first, later] = [simulation.payload(1, 3), simulation.payload(4, 3)];
    assert!(simulation.report(|core| core.on_submitted(&first)));
    let commit = simulation.take_effect(|effect| matches!(effect, Effect::Commit(_))).expect("the first batch");
    assert!(simulation.report(|core| core.on_submitted(&later)));
    // The disk thread panics in the middle of the first commit.
    let now = simulation.now;
    simulation.report(|core| core.on_undone(commit, now));
    assert!(!simulation.core.durable.is_committing(first.id()), "no `export` call waits for it any more");
    assert_eq!(simulation.take_append(), [later.id()]);
}
