//! The core in virtual time: random answers, a slow or failing disk, a shutdown at any moment. After every step each
//! term of the ledger is recounted from the spans in the place that the term names.
//!
//! | File | Purpose |
//! | --- | --- |
//! | `history` | the steps of a random history |
//! | `world`, `replicas` | the surroundings in virtual time, from event to event: peer, disk, load |
//! | `worlds` | random worlds, and the rules that hold in all of them |
//! | `oracle` | the rules of dead letters, written anew |
//! | `credentials` | credentials that change, and the peer's opinion of them |
//! | `refusals`, `order`, `stored`, `sizes`, `steady`, `early`, `drains` | scenarios with a name |
//! | `ages` | spans that are too old to be sent |
//! | `failover`, `watch` | several endpoints: scenarios and random worlds, and the rules of moves written anew |
//! | `disk` | the two fallbacks of the simulation: one in memory, one in files, each with an independent count |
//! | `recount` | the independent count of each term of the ledger |
//! | `packing` | batches that are compressed while they wait |
//! | `kept`, `vanished` | batches that leave memory for the journal; a journal that is full, or that loses batches |
//! | `saves` | flushes and checkpoints |
//! | `stage` | the processor: spans of several producers on their way into batches |
//! | `rules` | the rules of the core, one a test: turns, charges, replay, recovery, commits |

mod ages;
mod credentials;
mod disk;
mod drains;
mod early;
mod failover;
mod history;
mod kept;
mod oracle;
mod order;
mod packing;
mod recount;
mod refusals;
mod replicas;
mod rules;
mod saves;
mod sizes;
mod slow;
mod stage;
mod steady;
mod stored;
mod vanished;
mod watch;
mod world;
mod worlds;

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use breaker::Machine;
use otlp_payload::{Encoder, Payload, Signal};
use otlp_transport::{Cause, Outcome, RefusalKind};
use proptest::prelude::*;
use span_buffer::Limits;

use self::disk::{Disk, Files, MemoryFallback};
use self::history::{Action, Answer, Disturbance, action, history};
use crate::core::{AgeLimit, Call, Core, Effect, Endpoint, Endpoints, Policy, refusals_of, requests_in};
use crate::proofs::spans::spans;
use crate::report::ledger::DropReason;
use crate::seams::backoff::Backoff;
use crate::seams::clock::{Clock as _, SystemClock};
use crate::seams::fallback::{Change, ReadBack, Usage};
use crate::seams::fates::{Fate, Refusal};
use crate::seams::settings::{FallbackFormat, ReplayOrder};
use crate::shell::disk::requests_of;

type SpanKey = ([u8; 16], [u8; 8]);

fn span_ids(request: &[u8]) -> impl Iterator<Item = SpanKey> {
    otlp_payload::span_ids(request).expect("the core holds well-formed payloads")
}

/// The number that a test gave to this span.
fn number((_, span): &SpanKey) -> u64 {
    u64::from_be_bytes(*span)
}

fn numbers(request: &Payload) -> impl Iterator<Item = u64> + use<> {
    let keys = span_ids(request.bytes()).collect::<Vec<_>>();
    keys.into_iter().map(|key| number(&key))
}

/// The transport sends this call over a new connection.
fn is_fresh(call: &Call) -> bool {
    call.is_fresh
}

/// A user, or new credentials, ask for a call at once.
fn retry_now(core: &mut Core) {
    core.retry_now();
}

/// The batches that the disk thread writes to a file.
fn spilled(effect: &Effect) -> Vec<Payload> {
    match effect {
        Effect::Spill(spill) => spill.entries.iter().map(|entry| entry.item.payload.request()).collect(),
        _ => Vec::new(),
    }
}

/// The batches that are to become dead letters.
fn letters(effect: &Effect) -> Vec<Payload> {
    let refusals = match effect {
        Effect::StoreDeadLetters(letters) => refusals_of(letters).1,
        Effect::SettleGroup(fates) => fates.iter().flat_map(refused).cloned().collect(),
        _ => Vec::new(),
    };
    refusals.into_iter().map(|refusal| refusal.payload).collect()
}

fn refused(fate: &Fate) -> &[Refusal] {
    match fate {
        Fate::Finished { refused, .. } => refused,
        Fate::Pending(_) => &[],
    }
}

/// The core of an exporter with the collector, the disk and the clock that a history moves.
struct Simulation {
    core: Core,
    setup: Setup,
    backoff: Box<dyn Backoff>,
    now: Instant,
    encoder: Encoder,
    made: HashSet<SpanKey>,
    next_span: u64,
    calls: Vec<Call>,
    /// Calls whose answers no longer count, since the last look.
    abandoned: Vec<Call>,
    /// Instants at which the core had the transport asked for changed credentials.
    looks: Vec<Instant>,
    effects: VecDeque<Effect>,
    disk: Box<dyn Disk>,
    thread: packing::Thread,
    /// How often the collector received each span, also where its answer was lost.
    received: HashMap<SpanKey, u32>,
    /// Spans beyond the first of each.
    duplicates: u64,
    /// Batches that the core has made dead letters since the last look.
    condemned: Vec<Payload>,
    /// Spans that the collector acknowledged as accepted, and as rejected.
    acknowledged: i64,
    rejected: i64,
    /// Acknowledged spans of replays whose marks are not written yet.
    unmarked: i64,
    /// Spans of redriven dead letters.
    redriven: u64,
    /// Spans in the dead letters of earlier processes.
    earlier_letters: u64,
}

/// The settings of a core and of its breaker.
#[derive(Clone, Debug)]
struct Setup {
    limits: Limits,
    max_calls: u32,
    request_max_bytes: usize,
    request_max_spans: usize,
    age_limit: Option<AgeLimit>,
    failure_threshold: u32,
    fallback: bool,
    /// Batches that wait are compressed.
    compression: bool,
    replay_order: ReplayOrder,
    strict: bool,
    seed: u64,
    /// Endpoints in the list.
    endpoints: usize,
    failback_delay: Duration,
}

impl Setup {
    /// Small limits, which a short history reaches.
    fn small(fallback: bool, seed: u64) -> Self {
        Self {
            limits: Limits { max_count: 200, max_bytes: 60_000, max_age: Duration::from_secs(300) },
            max_calls: 3,
            request_max_bytes: 6_000,
            age_limit: None,
            request_max_spans: if seed.is_multiple_of(2) { usize::MAX } else { 20 },
            failure_threshold: 3,
            fallback,
            compression: false,
            replay_order: if seed.is_multiple_of(3) { ReplayOrder::Newest } else { ReplayOrder::Oldest },
            strict: false,
            seed,
            endpoints: 1,
            failback_delay: Duration::from_secs(30),
        }
    }

    /// The defaults of an exporter, with a smaller buffer.
    fn usual() -> Self {
        Self {
            limits: Limits { max_count: 2_000, max_bytes: 400_000, max_age: Duration::from_secs(300) },
            max_calls: 6,
            request_max_bytes: 100_000,
            request_max_spans: usize::MAX,
            age_limit: None,
            failure_threshold: 5,
            fallback: true,
            compression: false,
            replay_order: ReplayOrder::Oldest,
            strict: false,
            seed: 1,
            endpoints: 1,
            failback_delay: Duration::from_secs(30),
        }
    }

    /// The core of a process that starts now, with `recovered` spans in the fallback.
    fn core(&self, recovered: u64, now: Instant) -> Core {
        let Self { limits, max_calls, failure_threshold, fallback, strict, seed, .. } = self.clone();
        let endpoint = |at: usize| {
            let seed = seed.wrapping_add(at as u64);
            let breaker = breaker::Config::builder().with_failure_threshold(failure_threshold).with_seed(seed);
            Endpoint::new(Machine::new(breaker.build().expect("valid")), now)
        };
        let endpoints = Endpoints::new((0..self.endpoints).map(endpoint).collect(), self.failback_delay);
        let policy = Policy {
            limits,
            max_calls,
            request_max_bytes: self.request_max_bytes,
            request_max_spans: self.request_max_spans,
            fallback,
            replay_rate: None,
            replay_order: self.replay_order,
            strict,
            incarnation: seed,
        };
        let core = Core::new(policy, endpoints, recovered, seed);
        if self.compression { core.with_compression() } else { core }
    }
}

impl Simulation {
    fn new(disk: Box<dyn Disk>, setup: Setup) -> Self {
        let now = SystemClock.now();
        Self {
            core: setup.core(0, now),
            setup,
            backoff: Box::new(backoff::Exponential::builder().build().expect("valid")),
            now,
            encoder: Encoder::new(&opentelemetry_sdk::Resource::builder_empty().build()),
            made: HashSet::new(),
            next_span: 1,
            calls: Vec::new(),
            abandoned: Vec::new(),
            looks: Vec::new(),
            effects: VecDeque::new(),
            disk,
            thread: packing::Thread::new(),
            received: HashMap::new(),
            duplicates: 0,
            condemned: Vec::new(),
            acknowledged: 0,
            rejected: 0,
            unmarked: 0,
            redriven: 0,
            earlier_letters: 0,
        }
    }

    /// A new process over the same fallback. The spans in the memory of the old one are lost.
    fn restart(&mut self) {
        self.disk.restart();
        self.thread.restart();
        self.setup.seed += 1;
        self.core = self.setup.core(self.disk.usage().spans, self.now);
        self.calls.clear();
        self.abandoned.clear();
        self.effects.clear();
        self.made.clear();
        (self.acknowledged, self.rejected, self.unmarked, self.redriven) = (0, 0, 0, 0);
        self.earlier_letters = self.disk.dead_lettered() as u64;
    }

    /// Reports an event to the core and appends the core's effects to the disk thread's queue.
    fn report<T>(&mut self, event: impl FnOnce(&mut Core) -> T) -> T {
        let result = event(&mut self.core);
        while let Some(effect) = self.core.poll_effect() {
            self.condemned.extend(letters(&effect));
            match effect {
                Effect::Publish(_) | Effect::Stop => {}
                Effect::Pack(requests) => self.thread.set_job(requests),
                Effect::StoreDeadLetters(letters) if !self.setup.fallback => {
                    self.core.on_dead_letters_stored(letters, None, self.now);
                }
                effect => self.effects.push_back(effect),
            }
        }
        result
    }

    fn poll(&mut self) {
        let now = self.now;
        let age_limit = self.setup.age_limit;
        let (calls, looks) = self.report(|core| {
            core.on_age_limit(age_limit);
            (core.poll_calls(now), core.poll_looks(now))
        });
        self.note_abandoned();
        let last = self.calls.len();
        self.calls.extend(calls);
        self.end_damaged_calls();
        self.check_limits(&self.calls[last.min(self.calls.len())..]);
        self.looks.extend(looks.contains(&0).then_some(now));
        if self.core.is_stopped() {
            self.calls.clear();
        }
    }

    /// A flush has the unsafe batches moved to the disk.
    fn save(&mut self) {
        let now = self.now;
        self.report(|core| core.save(now, now));
        self.note_abandoned();
    }

    fn note_abandoned(&mut self) {
        if !self.core.is_stopped() {
            let core = &self.core;
            self.abandoned.extend(self.calls.extract_if(.., |call| !core.is_awaited(call.id)));
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

    /// The collector stores this many spans of a request, counted from the first.
    fn receive_first(&mut self, request: &Payload, count: usize) {
        for key in span_ids(request.bytes()).take(count) {
            let received = self.received.entry(key).or_default();
            self.duplicates += u64::from(*received > 0);
            *received += 1;
        }
    }

    fn answer(&mut self, call: usize, answer: Answer) {
        if self.calls.is_empty() {
            return;
        }
        let call = self.calls.swap_remove(call % self.calls.len());
        let spans = call.payload.item_count();
        let cause = Cause::Http { status: 503, message: String::new() };
        let outcome = match answer {
            Answer::Accept => Outcome::Delivered { rejected: 0, message: None },
            Answer::PartlyReject(rejected) => Outcome::Delivered { rejected: rejected.min(spans), message: None },
            Answer::Unavailable => Outcome::Retryable { after: None, cause, possible_duplicate: false },
            Answer::Throttle(ms) => {
                Outcome::Retryable { after: Some(Duration::from_millis(ms)), cause, possible_duplicate: false }
            }
            Answer::Unacknowledged => Outcome::Retryable { after: None, cause, possible_duplicate: true },
            Answer::TooLarge => Outcome::TooLarge { cause, possible_duplicate: false },
            Answer::Renew(generation) => Outcome::CredentialsRenewed { cause, generation },
            Answer::Refuse => Outcome::Refused { kind: RefusalKind::Batch, cause, possible_duplicate: false },
        };
        if matches!(answer, Answer::Accept | Answer::PartlyReject(_) | Answer::Unacknowledged) {
            self.receive_first(&call.payload.request(), spans);
        }
        self.end_call(&call, &outcome);
    }

    /// The net thread reports the outcome of a call.
    fn end_call(&mut self, call: &Call, outcome: &Outcome) {
        let spans = call.payload.item_count();
        let before = self.core.ledger().in_flight;
        let hint = match outcome {
            Outcome::Retryable { after, .. } => *after,
            _ => None,
        };
        let attempts = self.core.attempts(call.id, hint);
        let own = attempts.map_or(Duration::ZERO, |attempts| attempts.delay(&*self.backoff, hint));
        let now = self.now;
        self.report(|core| core.on_answered(call.id, outcome.clone(), own, now, SystemClock.wall()));
        let rejected = match outcome {
            Outcome::Delivered { rejected, .. } => *rejected,
            Outcome::AcknowledgedUnreadably { .. } => 0,
            _ => return,
        };
        self.acknowledged += (spans - rejected) as i64;
        self.rejected += rejected as i64;
        if before == self.core.ledger().in_flight {
            // A replay: the ledger counts its spans when the mark is written.
            self.unmarked += spans as i64;
        }
    }

    /// The disk thread acts on one effect.
    fn run_effect(&mut self, disturbance: Disturbance) {
        self.disk.set_failing(disturbance == Disturbance::Failure);
        self.disk.set_refusing(disturbance == Disturbance::Refusal);
        let (now, wall) = (self.now, SystemClock.wall());
        match self.effects.pop_front() {
            None => {}
            Some(effect) if disturbance == Disturbance::Panic => {
                if matches!(effect, Effect::SettleGroup(_)) {
                    // Without their marks the delivered batches of the group will be delivered again.
                    self.acknowledged -= self.unmarked;
                    self.unmarked = 0;
                }
                self.report(|core| core.on_undone(effect, now));
            }
            Some(Effect::Spill(mut spill)) => {
                let (payloads, damaged) = requests_in(&mut spill.entries);
                self.report(|core| core.on_write_damaged(&damaged));
                if spill.entries.is_empty() {
                    return self.report(|core| core.on_spill_empty(&spill));
                }
                let entries = spill.entries.clone();
                let stored = self.disk.store(&payloads, wall);
                self.report(|core| match stored {
                    Ok(stored) => core.on_spilled(&spill, &stored.name),
                    Err(error) if error.is_of_batches() => core.on_spill_refused(entries, &error.to_string(), now),
                    Err(error) => core.on_spill_failed(entries, &error.to_string(), now),
                });
            }
            Some(Effect::StoreDeadLetters(letters)) => {
                let (letters, refusals, damaged) = refusals_of(&letters);
                let stored = self.disk.store_dead_letters(&refusals, "", wall);
                self.report(|core| {
                    core.on_write_damaged(&damaged);
                    core.on_dead_letters_stored(letters, stored, now);
                });
            }
            Some(Effect::ReadGroup { order, merge }) => {
                let read = self.disk.read(order, 0);
                self.report(|core| match read {
                    Ok(ReadBack::Group(batches)) => {
                        let requests = requests_of(Signal::Traces, &batches, merge);
                        core.on_group_read(batches, requests, now, wall);
                    }
                    Ok(_) => core.on_group_deferred(now),
                    Err(error) => core.on_read_failed(&error.to_string(), now),
                });
                if self.effects.is_empty() {
                    self.disk.read_ahead(order, 0);
                }
            }
            Some(Effect::SettleGroup(fates)) => {
                let refusals = fates.iter().flat_map(refused).cloned().collect::<Vec<_>>();
                let stored = self.disk.store_dead_letters(&refusals, "", wall);
                self.disk.settle(&fates).expect("no fallback of the simulation fails to settle");
                self.report(|core| core.on_group_settled(&fates, stored));
                let marked = fates.iter().map(|fate| match fate {
                    Fate::Finished { delivered, rejected, .. } => (delivered + rejected) as i64,
                    Fate::Pending(_) => 0,
                });
                // A batch that stays stored is replayed as a whole: its delivered parts are delivered again.
                self.acknowledged -= self.unmarked - marked.sum::<i64>();
                self.unmarked = 0;
            }
            // The rules of durable mode take the effects of the journal thread themselves.
            Some(Effect::LookForMarks) => {}
            Some(other) => unreachable!("neither a journal nor a user asks for it: {other:?}"),
        }
    }

    /// The fallback's limits remove the oldest stored batch, unless it is being replayed.
    fn evict(&mut self) {
        if let Some(spans) = self.disk.lose_oldest() {
            let change = Change::Dropped { spans: spans as u64, reason: DropReason::FallbackFull };
            self.report(|core| core.on_fallback_changed(change));
        }
    }

    /// Redrives the oldest dead letter. A letter that the fallback cannot store stays a dead letter.
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

    fn step(&mut self, action: Action) {
        match action {
            Action::Offer(count) => self.offer(count),
            Action::Advance(ms) => self.now += Duration::from_millis(ms),
            Action::Answer(call, answer) => self.answer(call, answer),
            Action::RunEffect(disturbance) => self.run_effect(disturbance),
            Action::Evict => self.evict(),
            Action::Redrive { fails } => self.redrive(fails),
            Action::ChangeCredentials { endpoint } => {
                let endpoint = endpoint % self.setup.endpoints;
                self.report(|core| core.on_credentials_changed(endpoint));
            }
            Action::Pack(packed) => self.pack(packed),
            Action::Save { attempts } => {
                if attempts {
                    self.report(Core::attempt_now);
                }
                self.save();
            }
        }
        self.poll();
        for call in std::mem::take(&mut self.abandoned) {
            // The collector may have stored them.
            self.receive_first(&call.payload.request(), call.payload.item_count());
        }
    }

    /// Runs a healthy collector and disk until no span waits.
    fn deliver_everything(&mut self) {
        for _ in 0..10_000 {
            let ledger = self.core.ledger();
            if ledger.buffered + ledger.in_flight + ledger.in_fallback == 0 && self.effects.is_empty() {
                return;
            }
            self.now += Duration::from_millis(500);
            while !self.calls.is_empty() {
                self.answer(0, Answer::Accept);
            }
            while !self.effects.is_empty() {
                self.run_effect(Disturbance::None);
            }
            self.poll();
        }
    }
}

fn run(mut simulation: Simulation, history: Vec<Action>) -> Result<Simulation, TestCaseError> {
    for action in history {
        let name = format!("{action:?}");
        simulation.step(action);
        simulation.check_ledger().map_err(|error| TestCaseError::fail(format!("after {name}: {error}")))?;
    }
    Ok(simulation)
}

fn in_memory(fallback: bool, seed: u64) -> Simulation {
    Simulation::new(Box::new(MemoryFallback::in_groups_of(3)), Setup::small(fallback, seed))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn every_span_is_accounted_for_after_every_step(
        fallback: bool,
        seed: u64,
        endpoints in 1..=4_usize,
        history in history(),
    ) {
        let mut setup = Setup::small(fallback, seed);
        setup.endpoints = endpoints;
        let mut simulation = Simulation::new(Box::new(MemoryFallback::in_groups_of(3)), setup);
        simulation.setup.age_limit = (seed % 4 == 1).then(ages::limit);
        let mut simulation = run(simulation, history)?;
        simulation.deliver_everything();
        simulation.check_ledger().map_err(TestCaseError::fail)?;
        let ledger = simulation.core.ledger();
        prop_assert_eq!(ledger.buffered + ledger.in_flight + ledger.in_fallback, 0, "spans still wait: {:?}", ledger);
        // The collector has no other spans than these, and each span that it has not is counted as lost or refused.
        prop_assert!(simulation.received.keys().all(|key| simulation.made.contains(key)));
        let gone = ledger.lost() + ledger.dead_lettered + ledger.rejected;
        prop_assert!(simulation.received.len() as u64 + gone >= simulation.made.len() as u64, "{:?}", ledger);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn the_files_hold_the_spans_that_the_ledger_counts(
        seed: u64,
        format in prop::sample::select(&[FallbackFormat::Json, FallbackFormat::Protobuf]),
        history in prop::collection::vec(action(), 0..120),
    ) {
        let mut setup = Setup::small(true, seed);
        setup.age_limit = (seed % 4 == 1).then(ages::limit);
        let simulation = Simulation::new(Box::new(Files::new(format)), setup);
        let mut simulation = run(simulation, history)?;
        simulation.deliver_everything();
        simulation.check_ledger().map_err(TestCaseError::fail)?;
        prop_assert_eq!(simulation.disk.stored().len(), 0);
        prop_assert_eq!(simulation.disk.usage(), Usage::default());
    }
}
