//! The core against a simulated world in virtual time: random answers, a slow or failing disk, a shutdown at any moment.
//! After every step each term of the ledger is recounted from the thing it speaks of.

mod disk;
mod rules;

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use breaker::Machine;
use otlp_payload::{Encoder, Payload};
use otlp_transport::{Cause, Outcome};
use proptest::prelude::*;
use span_buffer::Limits;

use self::disk::{Disk, Files, MemoryFallback};
use crate::core::{Call, Core, Effect, Endpoint, Policy, Spill};
use crate::proofs::spans::spans;
use crate::report::ledger::DropReason;
use crate::seams::backoff::Backoff;
use crate::seams::clock::{Clock as _, SystemClock};
use crate::seams::fallback::{Change, ReadBack, Usage};
use crate::seams::fates::Fate;
use crate::seams::settings::FallbackFormat;

type SpanKey = ([u8; 16], [u8; 8]);

fn span_ids(request: &[u8]) -> impl Iterator<Item = SpanKey> {
    otlp_payload::span_ids(request).expect("what the core holds can be read")
}

/// What can happen next.
#[derive(Clone, Debug)]
enum Action {
    Offer(usize),
    Advance(u64),
    Answer(usize, Answer),
    Disk {
        fails: bool,
    },
    Evict,
    /// The oldest dead letter is put back on its way.
    Redrive {
        fails: bool,
    },
}

#[derive(Clone, Copy, Debug)]
enum Answer {
    Take,
    Reject(usize),
    Busy,
    Throttle(u64),
    /// The collector stores the batch, and its answer is lost.
    Ambiguous,
    TooLarge,
    Never,
}

fn answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        6 => Just(Answer::Take),
        1 => (0..5_usize).prop_map(Answer::Reject),
        4 => Just(Answer::Busy),
        1 => (0..60_000_u64).prop_map(Answer::Throttle),
        1 => Just(Answer::Ambiguous),
        1 => Just(Answer::TooLarge),
        1 => Just(Answer::Never),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => (1..40_usize).prop_map(Action::Offer),
        3 => (0..3_000_u64).prop_map(Action::Advance),
        1 => (0..400_000_u64).prop_map(Action::Advance),
        6 => (any::<usize>(), answer()).prop_map(|(call, answer)| Action::Answer(call, answer)),
        4 => prop::bool::weighted(0.2).prop_map(|fails| Action::Disk { fails }),
        1 => Just(Action::Evict),
        1 => prop::bool::weighted(0.2).prop_map(|fails| Action::Redrive { fails }),
    ]
}

struct World {
    core: Core,
    backoff: Box<dyn Backoff>,
    now: Instant,
    encoder: Encoder,
    made: HashSet<SpanKey>,
    next_span: u64,
    calls: Vec<Call>,
    effects: VecDeque<Effect>,
    disk: Box<dyn Disk>,
    /// Acknowledged, with what the collector took; ambiguous answers store without an acknowledgement.
    taken: HashMap<SpanKey, u32>,
    acknowledged: u64,
    rejected: u64,
    /// Acknowledged spans of a replay whose mark is not written yet.
    unmarked: u64,
    /// Spans of letters that were put back on their way.
    redriven: u64,
    fallback: bool,
}

impl World {
    fn new(disk: Box<dyn Disk>, fallback: bool, seed: u64) -> Self {
        let policy = Policy {
            limits: Limits { max_count: 200, max_bytes: 60_000, max_age: Duration::from_secs(300) },
            max_calls: 3,
            request_max_bytes: 6_000,
            fallback,
            replay_rate: None,
            incarnation: seed,
        };
        let breaker = breaker::Config::builder().with_failure_threshold(3).with_seed(seed).build().expect("valid");
        let now = SystemClock.now();
        let backoff = backoff::Exponential::builder().build().expect("valid");
        Self {
            core: Core::new(policy, Endpoint::new(Machine::new(breaker), now), 0, seed),
            backoff: Box::new(backoff),
            now,
            encoder: Encoder::new(&opentelemetry_sdk::Resource::builder_empty().build()),
            made: HashSet::new(),
            next_span: 1,
            calls: Vec::new(),
            effects: VecDeque::new(),
            disk,
            taken: HashMap::new(),
            acknowledged: 0,
            rejected: 0,
            unmarked: 0,
            redriven: 0,
            fallback,
        }
    }

    /// Reports to the core and hands its effects on: to the disk thread's queue, in this order.
    fn report<T>(&mut self, event: impl FnOnce(&mut Core) -> T) -> T {
        let result = event(&mut self.core);
        while let Some(effect) = self.core.poll_effect() {
            match effect {
                Effect::Publish(_) | Effect::Stop => {}
                Effect::StoreDeadLetters(refusals) if !self.fallback => {
                    self.core.on_dead_letters_stored(&refusals, false);
                }
                effect => self.effects.push_back(effect),
            }
        }
        result
    }

    fn poll(&mut self) {
        let now = self.now;
        let calls = self.report(|core| core.poll_calls(now));
        self.calls.extend(calls);
        if self.core.is_stopped() {
            self.calls.clear();
        }
    }

    fn offer(&mut self, count: usize) {
        let batch = spans(self.next_span, count);
        self.next_span += count as u64;
        let id = self.core.next_id();
        let payload = self.encoder.encode(id, SystemClock.wall(), &batch);
        self.made.extend(span_ids(payload.bytes()));
        let now = self.now;
        let _ = self.report(|core| core.on_offered(payload, now));
    }

    fn take(&mut self, payload: &Payload) {
        for key in span_ids(payload.bytes()) {
            *self.taken.entry(key).or_default() += 1;
        }
    }

    fn answer(&mut self, call: usize, answer: Answer) {
        if self.calls.is_empty() {
            return;
        }
        let call = self.calls.swap_remove(call % self.calls.len());
        let spans = call.payload.span_count();
        let before = self.core.ledger().clone();
        let cause = Cause::Http { status: 503, message: String::new() };
        let outcome = match answer {
            Answer::Take => Outcome::Delivered { rejected: 0, message: None },
            Answer::Reject(rejected) => Outcome::Delivered { rejected: rejected.min(spans), message: None },
            Answer::Busy => Outcome::Retryable { after: None, cause, possible_duplicate: false },
            Answer::Throttle(ms) => {
                Outcome::Retryable { after: Some(Duration::from_millis(ms)), cause, possible_duplicate: false }
            }
            Answer::Ambiguous => Outcome::Retryable { after: None, cause, possible_duplicate: true },
            Answer::TooLarge => Outcome::TooLarge { cause },
            Answer::Never => Outcome::Permanent { cause },
        };
        if matches!(answer, Answer::Take | Answer::Reject(_) | Answer::Ambiguous) {
            self.take(&call.payload);
        }
        if let Outcome::Delivered { rejected, .. } = outcome {
            self.acknowledged += (spans - rejected) as u64;
            self.rejected += rejected as u64;
        }
        let hint = match &outcome {
            Outcome::Retryable { after, .. } => *after,
            _ => None,
        };
        let (own, now) = (self.core.attempts().delay(&*self.backoff, hint), self.now);
        self.report(|core| core.on_answered(call.id, outcome.clone(), own, now, SystemClock.wall()));
        if let Outcome::Delivered { .. } = outcome
            && before.in_flight == self.core.ledger().in_flight
        {
            // A replay: the ledger follows when the mark is written.
            self.unmarked += spans as u64;
        }
    }

    /// The disk thread acts on one effect.
    fn disk(&mut self, fails: bool) {
        self.disk.set_failing(fails);
        let (now, wall) = (self.now, SystemClock.wall());
        match self.effects.pop_front() {
            None => {}
            Some(Effect::Spill(Spill { entries, .. })) => {
                let payloads = entries.iter().map(|entry| entry.item.clone()).collect::<Vec<_>>();
                let stored = self.disk.store(&payloads, wall);
                self.report(|core| match stored {
                    Ok(stored) => core.on_spilled(&entries, &stored.name),
                    Err(error) if error.is_of_batches() => core.on_spill_refused(entries, &error.to_string()),
                    Err(error) => core.on_spill_failed(entries, &error.to_string(), now),
                });
            }
            Some(Effect::StoreDeadLetters(refusals)) => {
                let is_stored = self.disk.store_dead_letters(&refusals, "", wall);
                self.report(|core| core.on_dead_letters_stored(&refusals, is_stored));
            }
            Some(Effect::ReadGroup) => {
                let read = self.disk.read(0);
                self.report(|core| match read {
                    Ok(ReadBack::Group(batches)) => core.on_group_read(batches, now, wall),
                    Ok(_) => core.on_group_deferred(now),
                    Err(error) => core.on_read_failed(&error.to_string(), now),
                });
            }
            Some(Effect::SettleGroup(fates)) => {
                let refusals = fates.iter().flat_map(|fate| match fate {
                    Fate::Finished { refused, .. } => refused.clone(),
                    Fate::Pending => Vec::new(),
                });
                let refusals = refusals.collect::<Vec<_>>();
                let is_stored = self.disk.store_dead_letters(&refusals, "", wall);
                self.disk.settle(&fates).expect("memory does not fail here");
                self.report(|core| core.on_group_settled(&fates, is_stored));
                let marked = fates.iter().map(|fate| match fate {
                    Fate::Finished { delivered, rejected, .. } => (delivered + rejected) as u64,
                    Fate::Pending => 0,
                });
                // The delivered parts of a batch that stays whole will be delivered again.
                self.acknowledged -= self.unmarked - marked.sum::<u64>();
                self.unmarked = 0;
            }
            Some(other) => unreachable!("no journal and no user: {other:?}"),
        }
    }

    /// The oldest stored batch is removed by a limit, unless it is being replayed.
    fn evict(&mut self) {
        if let Some(spans) = self.disk.lose_oldest() {
            let change = Change::Dropped { spans: spans as u64, reason: DropReason::FallbackFull };
            self.report(|core| core.on_fallback_changed(change));
        }
    }

    /// Redrives the oldest dead letter. One that cannot be stored stays a dead letter.
    fn redrive(&mut self, fails: bool) {
        self.disk.set_failing(fails);
        let Some(id) = self.disk.dead_letter_ids().expect("there is no fault").into_iter().next() else { return };
        let before = (self.disk.dead_lettered(), self.disk.stored().len());
        match self.disk.redrive(&id, SystemClock.wall()) {
            Ok(redriven) => {
                self.redriven += redriven.spans;
                self.report(|core| core.on_redriven(redriven));
            }
            Err(_) => assert_eq!((self.disk.dead_lettered(), self.disk.stored().len()), before),
        }
    }

    /// Recounts every term from the thing it speaks of.
    fn check(&self) -> Result<(), String> {
        let ledger = self.core.ledger();
        let equal = |what: &str, ledger: u64, world: u64| match ledger == world {
            true => Ok(()),
            false => Err(format!("{what}: the ledger says {ledger}, the world {world}")),
        };
        equal("imbalance", ledger.imbalance().unsigned_abs(), 0)?;
        equal("offered", ledger.offered, self.made.len() as u64)?;
        let writing = self.effects.iter().map(|effect| match effect {
            Effect::Spill(spill) => spill.entries.iter().map(|entry| entry.item.span_count()).sum(),
            Effect::StoreDeadLetters(refusals) => refusals.iter().map(|refusal| refusal.payload.span_count()).sum(),
            _ => 0,
        });
        let writing = writing.sum::<usize>() + self.core.spilling_spans();
        let waiting = self.core.memory.waiting().map(|entry| entry.item.span_count()).sum::<usize>();
        let tried = self.core.memory.tried_size().count;
        equal("buffered", ledger.buffered, (waiting + writing + tried) as u64)?;
        let live = self.calls.iter().filter(|call| self.core.is_live(call.id));
        equal("in_flight", ledger.in_flight, live.map(|call| call.payload.span_count() as u64).sum())?;
        equal("in_fallback", ledger.in_fallback, self.disk.stored().len() as u64)?;
        equal("in_fallback by its own count", ledger.in_fallback, self.disk.usage().spans)?;
        equal("answered", ledger.delivered + ledger.rejected + self.unmarked, self.acknowledged + self.rejected)?;
        equal("redriven", ledger.redriven, self.redriven)?;
        equal("dead_lettered", ledger.dead_lettered, self.disk.dead_lettered() as u64 + self.redriven)?;
        if ledger.delivered > self.taken.len() as u64 {
            return Err(format!("{} delivered, the collector has {}", ledger.delivered, self.taken.len()));
        }
        let held = self.core.memory.waiting_size();
        let limits = self.core.memory.limits();
        let calls = self.calls.iter().filter(|call| self.core.is_live(call.id));
        let flight = calls.map(|call| call.payload.bytes().len()).sum::<usize>();
        let spilling = self.core.memory.writing_size();
        let count = held.count + spilling.count + tried + usize::try_from(ledger.in_flight).expect("small");
        if held.bytes + flight + spilling.bytes > limits.max_bytes || count > limits.max_count {
            return Err(format!("over the limits: {held:?} beside {spilling:?} and {flight} bytes in flight"));
        }
        Ok(())
    }

    fn step(&mut self, action: Action) {
        match action {
            Action::Offer(count) => self.offer(count),
            Action::Advance(ms) => self.now += Duration::from_millis(ms),
            Action::Answer(call, answer) => self.answer(call, answer),
            Action::Disk { fails } => self.disk(fails),
            Action::Evict => self.evict(),
            Action::Redrive { fails } => self.redrive(fails),
        }
        self.poll();
    }

    /// The collector is well and the disk works: everything gets its end.
    fn recover(&mut self) {
        for _ in 0..10_000 {
            let ledger = self.core.ledger();
            if ledger.buffered + ledger.in_flight + ledger.in_fallback == 0 && self.effects.is_empty() {
                return;
            }
            self.now += Duration::from_millis(500);
            while !self.calls.is_empty() {
                self.answer(0, Answer::Take);
            }
            while !self.effects.is_empty() {
                self.disk(false);
            }
            self.poll();
        }
    }
}

fn run(mut world: World, history: Vec<Action>) -> Result<World, TestCaseError> {
    for action in history {
        let told = format!("{action:?}");
        world.step(action);
        world.check().map_err(|error| TestCaseError::fail(format!("after {told}: {error}")))?;
    }
    Ok(world)
}

fn in_memory(fallback: bool, seed: u64) -> World {
    World::new(Box::<MemoryFallback>::default(), fallback, seed)
}

fn history() -> impl Strategy<Value = Vec<Action>> {
    prop::collection::vec(action(), 0..250)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn every_span_is_accounted_for_after_every_step(fallback: bool, seed: u64, history in history()) {
        let mut world = run(in_memory(fallback, seed), history)?;
        world.recover();
        world.check().map_err(TestCaseError::fail)?;
        let ledger = world.core.ledger();
        prop_assert_eq!(ledger.buffered + ledger.in_flight + ledger.in_fallback, 0, "something is stuck: {:?}", ledger);
        // Nothing invented, and what is called delivered arrived.
        prop_assert!(world.taken.keys().all(|key| world.made.contains(key)));
        let gone = ledger.lost() + ledger.dead_lettered + ledger.rejected;
        prop_assert!(world.taken.len() as u64 + gone >= world.made.len() as u64, "{:?}", ledger);
    }

    #[test]
    fn a_shutdown_at_any_moment_leaves_nothing_in_memory(seed: u64, history in history(), answers in prop::collection::vec(answer(), 0..30)) {
        let mut world = run(in_memory(true, seed), history)?;
        let until = world.now + Duration::from_secs(2);
        world.report(|core| core.drain(until));
        world.poll();
        for answer in answers {
            world.answer(0, answer);
            world.poll();
        }
        world.now += Duration::from_secs(2);
        world.poll();
        prop_assert!(world.core.is_stopped());
        while !world.effects.is_empty() {
            world.disk(false);
        }
        world.check().map_err(TestCaseError::fail)?;
        prop_assert_eq!(world.core.ledger().buffered + world.core.ledger().in_flight, 0);
        let lost_at_the_end = world.core.ledger().dropped.get("shutdown").copied().unwrap_or(0);
        prop_assert_eq!(lost_at_the_end, 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn the_files_hold_what_the_ledger_says(
        seed: u64,
        format in prop::sample::select(&[FallbackFormat::Json, FallbackFormat::Protobuf]),
        history in prop::collection::vec(action(), 0..120),
    ) {
        let world = World::new(Box::new(Files::new(format)), true, seed);
        let mut world = run(world, history)?;
        world.recover();
        world.check().map_err(TestCaseError::fail)?;
        prop_assert_eq!(world.disk.stored().len(), 0);
        prop_assert_eq!(world.disk.usage(), Usage::default());
    }
}

/// The check is no tautology: whatever is changed behind its back, it says so.
#[test]
fn a_changed_number_or_a_lost_thing_is_found() {
    let busy = || {
        let mut world = in_memory(true, 7);
        for _ in 0..8 {
            world.offer(20);
        }
        world.poll();
        world.answer(0, Answer::Take);
        world.poll();
        world.offer(39);
        world.poll();
        world.disk(false);
        world.poll();
        let ledger = world.core.ledger();
        let terms = [ledger.offered, ledger.buffered, ledger.in_flight, ledger.in_fallback, ledger.delivered];
        assert!(terms.iter().all(|&term| term > 0), "{ledger:?}");
        world.check().expect("untouched, it is right");
        world
    };
    type Corruption = (&'static str, fn(&mut World));
    let corruptions: [Corruption; 12] = [
        ("offered", |world| world.core.accounts.ledger_mut().offered += 1),
        ("recovered", |world| world.core.accounts.ledger_mut().recovered += 1),
        ("buffered", |world| world.core.accounts.ledger_mut().buffered -= 1),
        ("in_flight", |world| world.core.accounts.ledger_mut().in_flight += 1),
        ("in_fallback", |world| world.core.accounts.ledger_mut().in_fallback -= 1),
        ("delivered", |world| world.core.accounts.ledger_mut().delivered += 1),
        ("dead_lettered", |world| world.core.accounts.ledger_mut().dead_lettered += 1),
        ("buffered and delivered", |world| {
            world.core.accounts.ledger_mut().buffered -= 1;
            world.core.accounts.ledger_mut().delivered += 1;
        }),
        ("in_fallback and dead_lettered", |world| {
            world.core.accounts.ledger_mut().in_fallback -= 1;
            world.core.accounts.ledger_mut().dead_lettered += 1;
        }),
        ("a batch vanishes from the buffer", |world| world.core.memory.lose_oldest()),
        ("a batch vanishes from the fallback", |world| assert!(world.disk.lose_oldest().is_some())),
        ("the collector forgets", |world| world.taken.clear()),
    ];
    for (what, corrupt) in corruptions {
        let mut world = busy();
        corrupt(&mut world);
        assert!(world.check().is_err(), "nobody noticed: {what}");
    }
}
