//! An operator's acts, the order of batches, and one bad record in the store, while the collector refuses.

use std::time::{Duration, Instant};

use breaker::Machine;
use otlp_payload::{Encoder, Payload};
use otlp_transport::{Cause, Outcome, RefusalKind};
use span_buffer::Limits;

use crate::core::{Call, Core, Effect, Endpoint, Policy};
use crate::proofs::spans::spans;
use crate::report::events::Event;
use crate::seams::clock::{Clock as _, SystemClock};
use crate::seams::dead_letters::Redriven;
use crate::seams::fallback::{Change, StoredBatch};
use crate::seams::fates::{Fate, store_letters};
use crate::seams::settings::ReplayOrder;

/// A core without a disk, in virtual time.
pub(super) struct World {
    pub(super) core: Core,
    pub(super) now: Instant,
    pub(super) encoder: Encoder,
    first: u64,
}

pub(super) fn policy() -> Policy {
    Policy {
        limits: Limits::default(),
        max_calls: 6,
        request_max_bytes: 1 << 20,
        request_max_spans: usize::MAX,
        fallback: false,
        replay_rate: None,
        replay_order: ReplayOrder::Oldest,
        strict: false,
        incarnation: 1,
    }
}

pub(super) fn endpoint(now: Instant) -> Endpoint {
    Endpoint::new(Machine::new(breaker::Config::default()), now)
}

impl World {
    pub(super) fn new() -> Self {
        let now = SystemClock.now();
        let core = Core::new(policy(), endpoint(now), 0, 7);
        Self { core, now, encoder: Encoder::new(&opentelemetry_sdk::Resource::builder_empty().build()), first: 1 }
    }

    pub(super) fn offer(&mut self, count: usize) {
        let id = self.core.next_id();
        let payload = self.encoder.encode(id, SystemClock.wall(), &spans(self.first, count));
        self.first += count as u64;
        self.core.on_offered(payload, self.now).expect("there is room");
    }

    /// The one call that goes out within `seconds`, and the time until then.
    #[track_caller]
    pub(super) fn call_within(&mut self, seconds: u64) -> (Call, Duration) {
        let start = self.now;
        loop {
            let mut calls = self.core.poll_calls(self.now);
            if let Some(call) = calls.pop() {
                assert!(calls.is_empty(), "one call at a time");
                return (call, self.now - start);
            }
            let wakeup = self.core.next_wakeup().expect("a batch waits");
            assert!(wakeup <= start + Duration::from_secs(seconds), "the next poll is {:?} away", wakeup - self.now);
            self.now = wakeup;
        }
    }

    pub(super) fn answer(&mut self, call: &Call, outcome: Outcome) {
        self.core.on_answered(call.id, outcome, Duration::from_secs(1), self.now, SystemClock.wall());
    }

    /// The dead letters that a disk thread would store.
    pub(super) fn letters(&mut self) -> usize {
        std::iter::from_fn(|| self.core.poll_effect())
            .filter(|effect| matches!(effect, Effect::StoreDeadLetters(_)))
            .count()
    }
}

pub(super) fn delivered() -> Outcome {
    Outcome::Delivered { rejected: 0, message: None }
}

pub(super) fn refused(kind: RefusalKind, status: u16) -> Outcome {
    Outcome::Refused { kind, cause: Cause::Http { status, message: String::new() }, possible_duplicate: false }
}

pub(super) fn too_large() -> Outcome {
    Outcome::TooLarge { cause: Cause::Http { status: 413, message: String::new() }, possible_duplicate: false }
}

#[test]
fn five_bad_batches_in_a_row_do_not_delay_good_ones_for_longer_than_one_probe() {
    let mut world = World::new();
    let mut bad = Vec::new();
    for batch in 0..8 {
        world.offer(10);
        let id = world.core.memory.waiting().last().expect("offered").item.payload.id();
        bad.extend((batch < 5).then_some(id));
    }
    let mut refusals = 0;
    let probe = loop {
        let (call, _) = world.call_within(120);
        if !bad.contains(&call.payload.id()) {
            break call;
        }
        refusals += 1;
        assert!(refusals <= 5, "a bad batch is sent again before a good one was");
        world.answer(&call, refused(RefusalKind::Batch, 400));
    };
    assert_eq!((refusals, world.core.endpoints.current().trips()), (5, 1), "the probe takes the first good batch");
    world.answer(&probe, delivered());
}

#[test]
fn retry_now_sends_a_batch_that_waits_alone_after_its_refusal() {
    let mut world = World::new();
    world.offer(1);
    let (call, _) = world.call_within(0);
    world.answer(&call, delivered());
    world.offer(1);
    let (call, _) = world.call_within(0);
    world.answer(&call, refused(RefusalKind::Sender, 401));
    assert!(world.core.poll_calls(world.now).is_empty(), "the batch waits");
    world.core.retry_now();
    let (call, wait) = world.call_within(0);
    assert_eq!((call.payload.item_count(), wait), (1, Duration::ZERO));
    world.answer(&call, delivered());
    assert_eq!(world.core.ledger().delivered, 2);
}

#[test]
fn in_strict_mode_a_refusal_holds_up_no_other_batch_of_a_shutdown() {
    let mut world = World::new();
    let policy = Policy { strict: true, ..policy() };
    world.core = Core::new(policy, endpoint(world.now), 0, 7);
    world.offer(1);
    let (call, _) = world.call_within(0);
    world.answer(&call, broken());
    world.offer(1);
    let until = world.now + Duration::from_secs(1);
    world.core.drain(until, Duration::ZERO, world.now);
    let (call, wait) = world.call_within(0);
    assert_eq!(wait, Duration::ZERO, "one attempt passes the backoff");
    world.answer(&call, refused(RefusalKind::Batch, 400));
    let (call, wait) = world.call_within(0);
    assert_eq!(wait, Duration::ZERO, "the refusal says nothing about the other batch");
    world.answer(&call, delivered());
    assert_eq!((world.letters(), world.core.ledger().delivered), (1, 1));
}

/// An act of an operator.
type Act = fn(&mut Core);

#[test]
fn after_an_operator_has_raised_the_limit_no_span_is_too_large_without_a_call() {
    let acts: [Act; 2] = [Core::retry_now, |core| core.on_redriven(Redriven { spans: 1, letter_stays: false })];
    for act in acts {
        let mut world = World::new();
        world.offer(1);
        let (call, _) = world.call_within(0);
        world.answer(&call, too_large());
        assert_eq!(world.letters(), 1);
        world.offer(1);
        assert!(world.core.poll_calls(world.now).is_empty(), "the same size is not sent");
        assert_eq!(world.letters(), 1);
        act(&mut world.core);
        world.offer(1);
        let (call, _) = world.call_within(0);
        world.answer(&call, delivered());
        assert_eq!((world.letters(), world.core.ledger().delivered), (0, 1));
    }
}

#[test]
fn retry_now_ends_the_pause_between_two_splits() {
    let mut world = World::new();
    world.offer(8);
    let (call, _) = world.call_within(0);
    world.answer(&call, too_large());
    assert!(world.core.poll_calls(world.now).is_empty(), "the pieces wait for a second");
    world.core.retry_now();
    let (call, wait) = world.call_within(0);
    let payload: Payload = call.payload.request();
    assert!(payload.item_count() < 8 && wait == Duration::ZERO, "{payload:?} after {wait:?}");
}

#[test]
fn pauses_of_more_than_ten_seconds_in_all_are_told_with_cause_and_remedy() {
    let mut world = World::new();
    world.offer(1);
    let mut told = Vec::new();
    for _ in 0..4 {
        let (call, _) = world.call_within(10);
        let (cause, after) = (Cause::Http { status: 429, message: String::new() }, Some(Duration::from_secs(4)));
        world.answer(&call, Outcome::Retryable { after, cause, possible_duplicate: false });
        for effect in std::iter::from_fn(|| world.core.poll_effect()) {
            if let Effect::Publish(Event::Throttled { pause, cause, remedy, .. }) = effect {
                assert!(cause.contains("429") && remedy.contains("limit"), "{cause}; {remedy}");
                told.push(pause.as_secs());
            }
        }
    }
    assert_eq!(told, [12, 16], "4 and 8 s are short");
}

#[test]
fn spans_that_the_fallback_refuses_are_not_dropped_for_a_slow_disk() {
    let mut world = World::new();
    let limits = Limits { max_count: 100, ..Limits::default() };
    world.core = Core::new(Policy { fallback: true, limits, ..policy() }, endpoint(world.now), 0, 7);
    let mut refused = 0;
    for _ in 0..600 {
        world.offer(1);
        // The fallback is slower than the spans that arrive: it is always at work.
        for _ in 0..2 {
            if let Some(Effect::Spill(spill)) = world.core.poll_effect() {
                refused += 1;
                world.core.on_spill_refused(spill.entries, "no batch of this kind", world.now);
            }
        }
    }
    let dropped = &world.core.ledger().dropped;
    assert!(refused > 100 && dropped.contains_key("buffer_full"), "{refused} refusals, {dropped:?}");
    assert!(!dropped.contains_key("disk_slow"), "{dropped:?}");
}

/// A core without a batch in memory and one record in its store, which has nothing else.
struct Stored {
    world: World,
    record: StoredBatch,
    /// The live calls, and those for the record.
    calls: (u64, u64),
    /// The attempts of the letter with which the record left the store.
    letter: Option<u32>,
    /// The fallback keeps dead letters.
    has_letters: bool,
}

impl Stored {
    fn new() -> Self {
        let mut world = World::new();
        let payload = world.encoder.encode(world.core.next_id(), SystemClock.wall(), &spans(1_000_000, 5));
        let record = StoredBatch::new(payload.bytes().clone(), payload.item_count());
        let policy = Policy { fallback: true, ..policy() };
        world.core = Core::new(policy, endpoint(world.now), 5, 7);
        Self { world, record, calls: (0, 0), letter: None, has_letters: true }
    }

    /// The disk thread's part.
    fn act(&mut self) {
        while let Some(effect) = self.world.core.poll_effect() {
            match effect {
                Effect::ReadGroup { .. } => {
                    let merged = otlp_payload::Merged { bytes: self.record.request.clone(), requests: 0..1 };
                    let (now, wall) = (self.world.now, SystemClock.wall());
                    self.world.core.on_group_read(vec![self.record.clone()], vec![merged], now, wall);
                }
                Effect::SettleGroup(mut fates) => {
                    let read = [self.record.failures];
                    let stored = store_letters(&mut fates, &read, |parts| self.has_letters.then_some(parts.len()));
                    self.world.core.on_group_settled(&fates, stored);
                    match &fates[..] {
                        [Fate::Pending(failures)] => self.record.failures = *failures,
                        [Fate::Finished { refused, .. }] => self.letter = refused.first().map(|one| one.attempts),
                        other => panic!("one record, {} fates", other.len()),
                    }
                }
                _ => {}
            }
        }
    }

    /// `seconds` with a live batch each `every` milliseconds; the collector takes all but the record.
    fn run(&mut self, seconds: u64, every: u64, answer: impl Fn() -> Outcome) {
        for step in 0..seconds * 10 {
            self.world.now += Duration::from_millis(100);
            if step * 100 % every == 0 {
                self.world.offer(3);
            }
            for _ in 0..4 {
                for call in self.world.core.poll_calls(self.world.now) {
                    let is_record = call.payload.request().bytes() == &self.record.request;
                    *if is_record { &mut self.calls.1 } else { &mut self.calls.0 } += 1;
                    self.world.answer(&call, if is_record { answer() } else { delivered() });
                }
                self.act();
            }
        }
        assert_eq!(self.world.core.ledger().imbalance(), 0);
    }
}

fn broken() -> Outcome {
    Outcome::Retryable { after: None, cause: Cause::Broken("closed".to_owned()), possible_duplicate: true }
}

/// Live traffic of both kinds: several batches a second, and one in ten seconds.
const PACES: [u64; 2] = [200, 10_000];

#[test]
fn a_record_that_always_fails_is_sent_by_its_own_waits_and_ends_after_twelve_failures() {
    for every in PACES {
        let mut stored = Stored::new();
        stored.run(600, every, broken);
        assert!(stored.letter.is_none() && stored.calls.1 <= 60, "{} calls in 10 minutes", stored.calls.1);
        stored.run(9_000, every, broken);
        assert!(stored.letter >= Some(12), "{:?} with a live batch each {every} ms", stored.letter);
        assert_eq!(stored.world.core.ledger().in_fallback, 0);
    }
}

#[test]
fn dead_letters_that_their_limits_remove_are_told_as_a_loss() {
    let mut world = World::new();
    world.core.on_fallback_changed(Change::DeadLettersEvicted { spans: 0 });
    world.core.on_fallback_changed(Change::DeadLettersEvicted { spans: 7 });
    let told = world.core.poll_effect();
    assert!(matches!(told, Some(Effect::Publish(Event::DeadLettersEvicted { spans: 7 }))));
    assert!(world.core.poll_effect().is_none());
}

#[test]
fn without_dead_letters_a_record_that_always_fails_stays_and_one_that_is_refused_is_dropped() {
    for every in PACES {
        let mut stored = Stored { has_letters: false, ..Stored::new() };
        stored.run(9_600, every, broken);
        let ledger = stored.world.core.ledger();
        assert_eq!((ledger.in_fallback, ledger.lost()), (5, 0), "no answer ended it: {ledger:?}");
        assert!(stored.record.failures.calls > 12, "{:?}", stored.record.failures);
        assert!(stored.calls.1 <= 960, "{} calls in 160 minutes: one in ten seconds at most", stored.calls.1);
        let mut stored = Stored { has_letters: false, ..Stored::new() };
        stored.run(9_600, every, || refused(RefusalKind::Sender, 403));
        assert_eq!(stored.world.core.ledger().dropped.get("permanent"), Some(&5));
    }
}

#[test]
fn a_record_that_is_refused_as_bad_ends_with_the_first_acceptance_of_another_batch() {
    for every in PACES {
        let mut stored = Stored::new();
        stored.run(60, every, || refused(RefusalKind::Batch, 400));
        assert!(stored.letter.is_some() && stored.calls.1 <= 3, "{} calls, a live one each {every} ms", stored.calls.1);
        assert_eq!(stored.world.core.ledger().dead_lettered, 5);
    }
}

#[test]
fn a_refusal_that_an_endpoint_gave_before_it_refused_all_never_counts() {
    let mut stored = Stored::new();
    stored.run(1, 10_000, || refused(RefusalKind::Batch, 400));
    assert_eq!((stored.calls, stored.record.failures.uncounted.batch), ((1, 1), 1));
    // The endpoint refuses a live batch that no batch was accepted shortly before.
    stored.world.now += Duration::from_secs(5);
    stored.world.offer(3);
    let (call, _) = stored.world.call_within(0);
    stored.world.answer(&call, refused(RefusalKind::Sender, 401));
    stored.run(5, 10_000, || refused(RefusalKind::Batch, 400));
    assert_eq!(stored.calls.1, 2, "the acceptance does not end the record without a call");
}
