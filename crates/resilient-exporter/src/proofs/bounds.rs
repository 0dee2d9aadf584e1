//! Bounds of the work beside calls: attempts on a disk that fails, and polls while thousands of batches wait.

use std::time::Duration;

use bytes::Bytes;
use otlp_payload::{BatchId, Payload, Signal};
use otlp_transport::{Cause, Outcome, RefusalKind};
use span_buffer::Limits;

use super::refusals::{World, delivered, endpoint, policy, refused, too_large};
use crate::core::{Core, Effect, Policy};
use crate::proofs::spans::spans;
use crate::report::ledger::DropReason;
use crate::seams::clock::{Clock as _, SystemClock};
use crate::seams::fallback::StoredBatch;
use crate::seams::fates::{Failures, Fate};
use crate::shell::commit::counted;
use crate::shell::disk::requests_of;

impl World {
    /// A world whose fallback has so many spans.
    fn with_fallback(strict: bool, stored: u64) -> Self {
        let mut world = Self::new();
        let limits = Limits { max_count: 40_000, max_bytes: 1 << 30, ..Limits::default() };
        let policy = Policy { fallback: true, strict, limits, ..policy() };
        world.core = Core::new(policy, endpoint(world.now), stored, 7);
        world
    }

    /// Offers a batch of one span that is far smaller than those of [`World::offer`].
    fn offer_small(&mut self) {
        let id = self.core.next_id();
        let request = Bytes::from_static(b"\x0a\x07\x12\x05\x12\x03\x2a\x01a");
        self.core.on_offered(Payload::new(id, SystemClock.wall(), 1, request), self.now).expect("there is room");
    }

    fn encode(&mut self, first: u64, count: usize) -> Payload {
        let id = self.core.next_id();
        self.encoder.encode(id, SystemClock.wall(), &spans(first, count))
    }

    /// Sends one batch; the answer comes at once.
    fn send(&mut self, outcome: Outcome) {
        let (call, _) = self.call_within(0);
        self.answer(&call, outcome);
    }

    /// The disk thread reads these records, as soon as the core asks for a group.
    fn read(&mut self, records: &[Payload]) {
        self.core.poll_calls(self.now);
        let merge = std::iter::from_fn(|| self.core.poll_effect()).find_map(|effect| match effect {
            Effect::ReadGroup { merge, .. } => Some(merge),
            _ => None,
        });
        let batches = records.iter().map(|record| StoredBatch::new(record.bytes().clone(), record.item_count()));
        let batches = batches.collect::<Vec<_>>();
        let requests = requests_of(Signal::Traces, &batches, merge.expect("a group is asked for"));
        self.core.on_group_read(batches, requests, self.now, SystemClock.wall());
    }
}

#[test]
fn a_dead_letter_without_room_is_not_tried_again_with_each_acceptance() {
    let mut world = World::with_fallback(false, 0);
    world.offer(3);
    world.send(delivered());
    world.offer(3);
    world.send(refused(RefusalKind::Batch, 400));
    let mut attempts = Vec::new();
    for second in 0..200 {
        world.now += Duration::from_secs(1);
        world.offer_small();
        for call in world.core.poll_calls(world.now) {
            let is_bad = call.payload.item_count() == 3;
            world.answer(&call, if is_bad { refused(RefusalKind::Batch, 400) } else { delivered() });
        }
        while let Some(effect) = world.core.poll_effect() {
            if let Effect::StoreDeadLetters(letters) = effect {
                attempts.push(second);
                world.core.on_dead_letters_stored(letters, Some(0), world.now);
            }
        }
    }
    assert_eq!(attempts.len(), 4, "one a minute: {attempts:?}");
    assert_eq!(world.core.ledger().buffered, 3);
}

/// Polls until no call or batch is left for this instant, and returns the number of calls.
fn poll_all(world: &mut World) -> usize {
    let mut calls = 0;
    loop {
        calls += world.core.poll_calls(world.now).len();
        if world.core.next_wakeup().is_none_or(|wakeup| wakeup > world.now) {
            return calls;
        }
    }
}

#[test]
fn ten_thousand_spans_that_are_too_large_end_in_short_polls_and_hold_up_no_small_one() {
    for is_refusing in [false, true] {
        let mut world = World::with_fallback(false, 0);
        world.offer(1);
        world.send(too_large());
        assert_eq!(world.letters(), 1);
        if is_refusing {
            // Each call is a question to the endpoint, which takes the batch that failed the least.
            world.offer_small();
            world.send(refused(RefusalKind::Sender, 401));
            world.now += Duration::from_secs(2);
        }
        (0..10_000).for_each(|_| world.offer(1));
        world.core.poll_calls(world.now);
        assert!((1..1_000).contains(&world.letters()), "the first poll takes a part");
        world.offer_small();
        assert_eq!(poll_all(&mut world), 1, "the small one");
        assert_eq!(world.core.memory.waiting_size().count, usize::from(is_refusing));
    }
}

#[test]
fn a_live_batch_goes_at_once_although_the_last_stored_record_ends_as_too_large() {
    let mut world = World::with_fallback(false, 1);
    world.offer(1);
    world.send(too_large());
    let large = world.encode(1_000_000, 1);
    world.read(&[large]);
    (0..6).for_each(|_| world.offer_small());
    for _ in 0..6 {
        let (call, wait) = world.call_within(0);
        assert_eq!(wait, Duration::ZERO);
        // A slow answer: one call at a time.
        world.now += Duration::from_secs(1);
        world.answer(&call, delivered());
    }
}

#[test]
fn strict_mode_sends_no_refused_record_again() {
    for strict in [false, true] {
        let mut world = World::with_fallback(strict, 4);
        let records = [world.encode(1, 2), world.encode(3, 2)];
        world.read(&records);
        let mut sent = Vec::new();
        for _ in 0..100 {
            for call in world.core.poll_calls(world.now) {
                sent.push(call.payload.item_count());
                world.answer(&call, refused(RefusalKind::Batch, 400));
            }
            world.now += Duration::from_secs(1);
        }
        assert_eq!(sent, if strict { vec![2, 2] } else { vec![4, 2, 2] });
    }
}

#[test]
fn a_journal_that_misstates_the_number_of_spans_breaks_no_count() {
    for claimed in [1, 5, 9] {
        let mut world = World::new();
        world.core = Core::new(policy(), endpoint(world.now), 0, 7).with_journal(claimed as u64, true, world.now);
        let honest = world.encode(1, 5);
        let id = BatchId { incarnation: 9, seq: 1 };
        let recovered = counted(Signal::Traces, Payload::new(id, honest.created(), claimed, honest.bytes().clone()));
        assert!(world.core.poll_calls(world.now).is_empty(), "the journal thread is asked for the batch first");
        world.core.on_recovered(recovered, world.now);
        world.core.on_recovery_ended(None, world.now);
        world.send(too_large());
        for _ in 0..20 {
            for call in world.core.poll_calls(world.now) {
                world.answer(&call, delivered());
            }
            world.now += Duration::from_secs(1);
        }
        let ledger = world.core.ledger();
        assert_eq!((ledger.delivered, ledger.buffered, ledger.imbalance()), (5, 0, 0), "{claimed} spans claimed");
        let corrupt = ledger.dropped.get(DropReason::Corrupt.as_str()).copied().unwrap_or(0);
        assert_eq!(corrupt, claimed.saturating_sub(5) as u64);
    }
}

fn throttled() -> Outcome {
    let cause = Cause::Http { status: 429, message: String::new() };
    Outcome::Retryable { after: Some(Duration::from_secs(1)), cause, possible_duplicate: false }
}

/// Sends until so many calls are accepted, all but those for requests of `bytes`; the calls that were made.
fn calls_until(world: &mut World, accepted: usize, bytes: usize) -> usize {
    let (mut calls, mut left) = (0, accepted);
    while left > 0 && calls < 1_000 {
        let (call, _) = world.call_within(600);
        calls += 1;
        let is_bad = call.payload.request_len() >= bytes;
        left -= usize::from(!is_bad);
        // A slow answer: one call at a time.
        world.now += Duration::from_secs(1);
        world.answer(&call, if is_bad { throttled() } else { delivered() });
    }
    calls
}

#[test]
fn a_batch_that_is_always_throttled_holds_up_no_other() {
    let mut world = World::new();
    world.offer(9);
    let bytes = world.core.memory.waiting_size().bytes;
    (0..7).for_each(|_| world.offer_small());
    assert!(calls_until(&mut world, 7, bytes) <= 10);
}

#[test]
fn a_stored_record_that_is_always_throttled_holds_up_no_other_and_its_group_ends() {
    let mut world = World::with_fallback(false, 15);
    let records = [world.encode(1, 9), world.encode(100, 3), world.encode(200, 3)];
    let bytes = records[0].bytes().len();
    world.read(&records);
    // The merged request too is above the limit.
    assert!(calls_until(&mut world, 2, bytes) <= 9);
    let mut fates = None;
    for _ in 0..20 {
        for call in world.core.poll_calls(world.now) {
            world.answer(&call, throttled());
        }
        world.now += Duration::from_secs(60);
        fates = fates.or_else(|| {
            std::iter::from_fn(|| world.core.poll_effect()).find_map(|effect| match effect {
                Effect::SettleGroup(fates) => Some(fates),
                _ => None,
            })
        });
    }
    let fates = fates.expect("the group ends");
    let is_behind = matches!(fates[0], Fate::Pending(Failures { calls: 1, .. }));
    assert!(is_behind && fates[1..].iter().all(|fate| fate.delivered() == 3), "{fates:?}");
}

#[test]
fn delivered_records_whose_mark_is_undone_are_possible_duplicates() {
    let mut world = World::with_fallback(false, 3);
    let record = world.encode(1, 3);
    world.read(&[record]);
    world.send(delivered());
    let is_settle = |effect: &Effect| matches!(effect, Effect::SettleGroup(_));
    let settle = std::iter::from_fn(|| world.core.poll_effect()).find(is_settle).expect("the group has ended");
    assert_eq!(world.core.accounts.counters.possible_duplicates(), 0);
    world.core.on_undone(settle, world.now);
    let counters = &world.core.accounts.counters;
    assert_eq!((counters.possible_duplicates(), world.core.ledger().in_fallback), (3, 3), "they are sent again");
}

#[test]
fn live_batches_go_past_a_wait_of_stored_ones_after_one_that_was_too_large_or_refused_alone() {
    let refused_alone = || refused(RefusalKind::Batch, 400);
    let answers: [fn() -> Outcome; 2] = [too_large, refused_alone];
    for answer in answers {
        let mut world = World::with_fallback(false, 3);
        let record = world.encode(1, 3);
        world.read(&[record]);
        world.offer_small();
        world.send(delivered());
        let (call, _) = world.call_within(0);
        let failed = Outcome::Retryable { after: None, cause: Cause::Broken(String::new()), possible_duplicate: true };
        let (now, wall) = (world.now, SystemClock.wall());
        world.core.on_answered(call.id, failed, Duration::from_secs(20), now, wall);
        world.offer(3);
        world.send(answer());
        world.offer_small();
        let (call, wait) = world.call_within(20);
        assert_eq!((call.payload.item_count(), wait), (1, Duration::ZERO));
    }
}
