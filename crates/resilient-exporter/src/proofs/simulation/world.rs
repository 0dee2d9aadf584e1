//! The exporter's surroundings in virtual time: the peer, the disk, the load. Nothing happens between two events, so
//! the clock goes from one to the next: an answer, a result of the disk thread, a new batch, the core's own wake-up.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use otlp_payload::Payload;

use super::credentials::Tokens;
use super::oracle::Oracle;
use super::replicas::{Handled, Peer, Replica, Reply};
use super::stage::Stage;
use super::watch::Watch;
use super::{Disturbance, MemoryFallback, Setup, Simulation, is_fresh, numbers};
use crate::report::ledger::Ledger;

pub(super) const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

pub(super) const fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

pub(super) const MINUTE: Duration = secs(60);
pub(super) const HOUR: Duration = secs(3_600);

/// The longest time from the opening of the breaker to its probe: 60 s and up to a tenth more.
pub(super) const OPEN: Duration = secs(66);

/// Polls in a row without progress of the clock: more than all calls, effects and answers of one instant.
const POLLS_OF_AN_INSTANT: u32 = 2_000;

/// Batches of `spans` spans, one `every` so often.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) spans: usize,
    pub(super) every: Duration,
}

/// Calls that fail within one second, at most, in any world: ten bad batches and a hundred refused in a row are fewer,
/// and so are several hundred small stored records of which a stale replica refuses each second one. More only beside
/// [`FAILURES_OF_AN_ACCEPTANCE`]: records that were refused go singly, as fast as the replicas answer.
const FAILURES_OF_A_SECOND: usize = 400;

/// Calls that fail for one that is accepted, where two of three replicas refuse all: two, and as many by chance.
const FAILURES_OF_AN_ACCEPTANCE: usize = 4;

/// One call.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) at: Instant,
    /// The place of its endpoint.
    pub(super) endpoint: usize,
    pub(super) answered: Option<Instant>,
    /// The numbers of its spans.
    pub(super) spans: Vec<u64>,
    pub(super) bytes: usize,
    /// For a batch in memory.
    pub(super) live: bool,
    /// Sent while the breaker was half-open.
    pub(super) probe: bool,
    pub(super) fresh: bool,
    pub(super) replica: usize,
    pub(super) reply: Reply,
    /// The generation of its credentials.
    pub(super) generation: u64,
    /// Repeats a call whose credentials were refused.
    pub(super) repeat: bool,
}

impl Sent {
    pub(super) fn holds(&self, span: u64) -> bool {
        self.spans.contains(&span)
    }
}

pub(super) struct World {
    pub(super) simulation: Simulation,
    pub(super) peer: Peer,
    /// The peers of the endpoints behind the primary.
    pub(super) others: Vec<Peer>,
    pub(super) tokens: Option<Tokens>,
    pub(super) load: Option<Load>,
    /// A processor stands in front of the core: the spans of a load enter its area.
    pub(super) stage: Option<Stage>,
    /// The state of the disk thread during each effect.
    pub(super) disturbance: Box<dyn FnMut(&crate::core::Effect) -> Disturbance>,
    /// The time that the disk thread takes for one effect.
    pub(super) disk_time: Duration,
    /// The longest time of a shutdown for stored batches.
    pub(super) replay: Duration,
    /// Recounts the ledger after every event, and less often while many batches are stored.
    pub(super) recounts: bool,
    /// Instants at which something happened.
    pub(super) events: u64,
    pub(super) sent: Vec<Sent>,
    /// The places in `sent` of the calls for these spans.
    places: HashMap<Vec<u64>, Vec<usize>>,
    pub(super) oracle: Oracle,
    /// Those of the endpoints behind the primary.
    pub(super) other_oracles: Vec<Oracle>,
    pub(super) watch: Watch,
    /// The end of each running call: its id, its place in `sent`, and when its answer comes.
    awaited: Vec<(Instant, u64, usize)>,
    last_call: u64,
    /// Calls that repeat refused ones, until they are received.
    pub(super) repeats: HashSet<u64>,
    /// The answers of the last second that were acceptances, and the others.
    accepted: VecDeque<Instant>,
    failed: VecDeque<Instant>,
    disk_ends: Option<Instant>,
    /// The beginning of the shutdown.
    drain_begun: Option<Instant>,
    next_batch: Option<Instant>,
    offered: HashMap<u64, Instant>,
    delivered: HashMap<u64, Instant>,
    /// Spans that a kill took from memory, and those that the killed process had lost before.
    pub(super) killed: HashSet<u64>,
    /// Spans that earlier processes lost, by their ledgers, without those in `killed`.
    lost_before: u64,
    /// Possible duplicates by the counts of earlier processes, and those that no count covers: the calls and the
    /// unwritten marks at a kill.
    duplicates_before: u64,
    start: Instant,
}

impl World {
    pub(super) fn new(replicas: Vec<Replica>, setup: Setup) -> Self {
        let oracle = Oracle::new(&setup);
        let other_oracles = (1..setup.endpoints).map(|_| Oracle::new(&setup)).collect();
        let others = (1..setup.endpoints).map(|_| Peer::new(vec![Replica::accepting()])).collect();
        let watch = Watch::new(&setup);
        let simulation = Simulation::new(Box::new(MemoryFallback::in_groups_of(64)), setup);
        let start = simulation.now;
        Self {
            simulation,
            peer: Peer::new(replicas),
            others,
            tokens: None,
            load: None,
            stage: None,
            disturbance: Box::new(|_| Disturbance::None),
            disk_time: ms(2),
            replay: secs(1),
            recounts: false,
            events: 0,
            sent: Vec::new(),
            places: HashMap::new(),
            oracle,
            other_oracles,
            watch,
            awaited: Vec::new(),
            last_call: 0,
            repeats: HashSet::new(),
            accepted: VecDeque::new(),
            failed: VecDeque::new(),
            disk_ends: None,
            drain_begun: None,
            next_batch: None,
            offered: HashMap::new(),
            delivered: HashMap::new(),
            killed: HashSet::new(),
            lost_before: 0,
            duplicates_before: 0,
            start,
        }
    }

    /// Offers a batch and returns the numbers of its spans.
    pub(super) fn offer(&mut self, spans: usize) -> Vec<u64> {
        // No two batches have the same age.
        self.simulation.now += Duration::from_micros(1);
        let first = self.simulation.next_span;
        self.simulation.offer(spans);
        let numbers = (first..first + spans as u64).collect::<Vec<_>>();
        numbers.iter().for_each(|number| self.note_offered(*number));
        self.settle();
        numbers
    }

    pub(super) fn note_offered(&mut self, span: u64) {
        self.offered.insert(span, self.simulation.now);
    }

    /// Offers a batch whose spans each replica answers by `reply`, and returns their numbers.
    pub(super) fn offer_bad(&mut self, spans: usize, reply: Reply) -> Vec<u64> {
        let first = self.simulation.next_span;
        for replica in &mut self.peer.replicas {
            replica.bad.push(((first..first + spans as u64).collect(), reply));
        }
        self.offer(spans)
    }

    pub(super) fn run(&mut self, time: Duration) {
        let end = self.simulation.now + time;
        self.run_until(end, |_| false);
        self.simulation.now = end;
        self.settle();
        if time >= secs(1) {
            self.check_ledger();
        }
    }

    /// Runs until `is_reached` holds, for `limit` at most, and returns the time that it took.
    #[track_caller]
    pub(super) fn run_to(&mut self, name: &str, limit: Duration, is_reached: impl Fn(&Self) -> bool) -> Duration {
        let begin = self.simulation.now;
        self.run_until(begin + limit, &is_reached);
        self.check_ledger();
        assert!(is_reached(self), "not within {limit:?}: {name}; {}", self.state());
        self.simulation.now - begin
    }

    /// Ends at the first event that makes `is_reached` true, or before the first event at or behind `end`.
    pub(super) fn run_until(&mut self, end: Instant, is_reached: impl Fn(&Self) -> bool) {
        let mut polls = 0;
        if self.next_batch.is_none_or(|next| next < self.simulation.now) {
            self.next_batch = Some(self.simulation.now);
        }
        self.settle();
        while !is_reached(self) {
            let answer = self.awaited.iter().map(|(at, ..)| *at).min();
            let batch = self.load.and(self.next_batch);
            let wakeup = self.simulation.core.next_wakeup();
            let seal = self.stage.as_ref().and_then(Stage::next);
            let times = [answer, batch, self.disk_ends, wakeup, seal];
            let Some(next) = times.into_iter().flatten().min() else { break };
            if next >= end {
                break;
            }
            polls = if next > self.simulation.now { 0 } else { polls + 1 };
            assert!(polls < POLLS_OF_AN_INSTANT, "the core asks for polls without an end; {}", self.state());
            self.simulation.now = next.max(self.simulation.now);
            self.act();
        }
    }

    /// All events of this instant, in this order: results of the disk, answers, new batches.
    fn act(&mut self) {
        let now = self.simulation.now;
        if self.disk_ends.take_if(|end| *end <= now).is_some() {
            self.run_effect();
        }
        while let Some(index) = self.awaited.iter().position(|(at, ..)| *at <= now) {
            let (_, id, sent) = self.awaited.swap_remove(index);
            self.answer(id, sent);
        }
        if let (Some(load), Some(next)) = (self.load, self.next_batch)
            && next <= now
        {
            self.next_batch = Some(now + load.every);
            self.end_spans(load.spans);
        }
        self.settle();
        self.events += 1;
        if self.recounts && self.events.is_multiple_of(1 + self.ledger().in_fallback / 20) {
            self.check_ledger();
        }
    }

    fn run_effect(&mut self) {
        let Some(effect) = self.simulation.effects.front() else { return };
        let disturbance = (self.disturbance)(effect);
        let spilled = super::spilled(effect);
        let before = self.simulation.core.ledger().in_fallback;
        self.simulation.run_effect(disturbance);
        if self.simulation.core.ledger().in_fallback > before {
            for oracle in self.other_oracles.iter_mut().chain([&mut self.oracle]) {
                spilled.iter().for_each(|batch| oracle.on_spilled(batch));
            }
        }
    }

    fn answer(&mut self, id: u64, sent: usize) {
        let Some(index) = self.simulation.calls.iter().position(|call| call.id == id) else { return };
        let call = self.simulation.calls.swap_remove(index);
        let now = self.simulation.now;
        self.sent[sent].answered = Some(now);
        self.judge(sent);
        let reply = self.sent[sent].reply;
        let same = if reply.is_acceptance() { &mut self.accepted } else { &mut self.failed };
        same.push_back(now);
        for calls in [&mut self.accepted, &mut self.failed] {
            while calls.front().is_some_and(|at| *at + secs(1) <= now) {
                calls.pop_front();
            }
        }
        let most = FAILURES_OF_A_SECOND.max(FAILURES_OF_AN_ACCEPTANCE * self.accepted.len());
        assert!(self.failed.len() <= most, "a storm of calls that fail; {}", self.state());
        let judged = self.as_judged(sent);
        match judged.endpoint {
            0 => self.oracle.on_answered(&judged, now),
            at => self.other_oracles[at - 1].on_answered(&judged, now),
        }
        self.watch.on_answered(&judged, now);
        let outcome = reply.outcome(call.payload.item_count());
        if outcome.is_delivered() {
            for number in numbers(&call.payload.request()) {
                self.delivered.entry(number).or_insert(now);
            }
        }
        let expected = self.expected_repeat(sent);
        self.simulation.end_call(&call, &outcome);
        self.check_letters();
        if let Some(expected) = expected {
            self.check_repeat(&call.payload.request(), expected);
        }
    }

    /// Polls the core as the net thread does, hands its calls to the peer and its effects to the disk thread.
    pub(super) fn settle(&mut self) {
        self.seal_due();
        self.simulation.poll();
        // Their answers no longer matter; the collector has stored the requests when it received them.
        self.simulation.abandoned.clear();
        self.look_at_tokens();
        self.check_letters();
        let now = self.simulation.now;
        let new = self.simulation.calls.iter().filter(|call| call.id > self.last_call).collect::<Vec<_>>();
        let mut received = Vec::new();
        for call in new {
            self.last_call = self.last_call.max(call.id);
            let fresh = is_fresh(call);
            let tokens = self.tokens.as_mut().filter(|_| call.endpoint == 0);
            let handled = match (tokens.and_then(Tokens::on_call), call.endpoint) {
                (Some(reply), _) => Handled { replica: 0, reply, time: self.peer.replicas[0].latency },
                (None, 0) => self.peer.handle(&call.payload.request(), fresh),
                (None, at) => self.others[at - 1].handle(&call.payload.request(), fresh),
            };
            let generation = self.tokens.as_ref().map_or(0, |tokens| tokens.held);
            received.push((call.payload.request(), handled.reply.stored_of(call.payload.item_count())));
            self.awaited.push((now + handled.time, call.id, self.sent.len()));
            let spans = numbers(&call.payload.request()).collect::<Vec<_>>();
            self.places.entry(spans.clone()).or_default().push(self.sent.len());
            self.sent.push(Sent {
                at: now,
                endpoint: call.endpoint,
                answered: None,
                spans,
                bytes: call.payload.request_len(),
                live: self.simulation.core.is_live(call.id),
                probe: self.simulation.core.endpoints.of(call.endpoint).state() == breaker::State::HalfOpen,
                fresh,
                replica: handled.replica,
                reply: handled.reply,
                generation,
                repeat: self.repeats.remove(&call.id),
            });
        }
        let calls = &self.simulation.calls;
        let is_out = |id: &u64| calls.iter().any(|call| call.id == *id);
        let awaited = self.awaited.iter().filter(|(_, id, _)| is_out(id)).map(|(.., sent)| *sent).collect::<Vec<_>>();
        if let Err(error) = self.watch.on_sent(&self.sent, &awaited, self.simulation.core.endpoints.in_use(), now) {
            panic!("{error}; {}", self.state());
        }
        for (payload, stored) in received {
            self.simulation.receive_first(&payload, stored);
        }
        self.check_drain();
        if self.simulation.core.is_stopped() {
            self.awaited.clear();
        }
        if self.disk_ends.is_none() && !self.simulation.effects.is_empty() {
            self.disk_ends = Some(now + self.disk_time);
        }
    }

    // Ends of processes.

    /// `kill -9` and a new process over the same fallback.
    pub(super) fn kill(&mut self) {
        let simulation = &self.simulation;
        let alive = simulation.made.iter().map(super::number);
        let stored = simulation.disk.stored().iter().map(super::number).collect::<HashSet<_>>();
        let gone = alive.filter(|number| !stored.contains(number) && !self.delivered.contains_key(number));
        self.killed.extend(gone);
        let out = simulation.calls.iter().map(|call| call.payload.item_count() as u64).sum::<u64>();
        self.duplicates_before += out + simulation.unmarked.max(0).cast_unsigned();
        self.start_anew();
    }

    /// A shutdown that ends after this time at the latest, and a new process over the same fallback. Returns the time
    /// that the calls took.
    pub(super) fn shut_down(&mut self, time: Duration) -> Duration {
        let load = self.load.take();
        let (replay, begun) = (self.replay, self.simulation.now);
        let until = begun + time;
        self.seal_all(true);
        self.simulation.report(|core| core.drain(until, replay, begun));
        self.drain_begun = Some(begun);
        self.run_until(until + ms(1), |world| world.simulation.core.is_stopped());
        if !self.simulation.core.is_stopped() {
            self.simulation.now = self.simulation.now.max(until);
            self.settle();
        }
        assert!(self.simulation.core.is_stopped(), "the shutdown has no end; {}", self.state());
        let took = self.simulation.now - begun;
        while !self.simulation.effects.is_empty() {
            self.run_effect();
        }
        self.check_ledger();
        self.drain_begun = None;
        self.load = load;
        self.lost_before += self.ledger().lost();
        self.start_anew();
        took
    }

    fn start_anew(&mut self) {
        self.duplicates_before += self.simulation.core.accounts.counters.possible_duplicates();
        self.simulation.restart();
        let staged = self.stage_anew();
        self.killed.extend(staged);
        self.other_oracles.iter_mut().chain([&mut self.oracle]).for_each(Oracle::on_restart);
        self.watch.on_restart(self.sent.len());
        self.awaited.clear();
        self.disk_ends = None;
        self.last_call = 0;
        self.repeats.clear();
        self.simulation.core.set_can_change(0, self.tokens.is_some());
        self.settle();
    }

    // Checks.

    /// In a shutdown a stored batch goes out once no live one waits for a call or for an answer, and not later than its
    /// time allows.
    fn check_drain(&self) {
        let Some(begun) = self.drain_begun else { return };
        let calls = self.sent_since(begun);
        let Some(last) = calls.last().filter(|sent| !sent.live && sent.at == self.now()) else { return };
        let live = self.awaited.iter().filter(|(.., sent)| self.sent[*sent].live).count();
        let waiting = self.simulation.core.memory.waiting_size().count;
        assert_eq!((live, waiting), (0, 0), "live batches go first; {}", self.state());
        let live_end =
            self.sent.iter().rev().take(1_000).filter(|sent| sent.live).filter_map(|sent| sent.answered).max();
        let live_end = live_end.map_or(begun, |end| end.max(begun));
        assert!(last.at < live_end + self.replay, "a stored batch is sent too late; {}", self.state());
    }

    fn check_letters(&mut self) {
        for letter in std::mem::take(&mut self.simulation.condemned) {
            if let Err(error) = self.judge_letter(&letter) {
                let spans = numbers(&letter).collect::<Vec<_>>();
                let calls = self.sent.iter().filter(|sent| spans.iter().any(|span| sent.holds(*span)));
                let calls = calls.map(|sent| self.line(sent)).collect::<String>();
                panic!("no dead letter by the rules: {error}; {}; its calls:{calls}", self.state());
            }
        }
    }

    /// The refusals of one endpoint make the letter.
    fn judge_letter(&mut self, letter: &Payload) -> Result<(), String> {
        let now = self.simulation.now;
        let mut errors = Vec::new();
        for oracle in [&mut self.oracle].into_iter().chain(&mut self.other_oracles) {
            match oracle.check_letter(letter, now) {
                Ok(()) => return Ok(()),
                Err(error) => errors.push(error),
            }
        }
        Err(errors.join("; "))
    }

    #[track_caller]
    pub(super) fn check_ledger(&self) {
        if let Err(error) = self.simulation.check_ledger() {
            panic!("{error}; {}", self.state());
        }
        let counted = self.duplicates_before + self.simulation.core.accounts.counters.possible_duplicates();
        let real = self.simulation.duplicates;
        assert!(real <= counted, "{real} spans were stored twice, {counted} are counted; {}", self.state());
    }

    /// No span of this process is lost, and none is a dead letter.
    #[track_caller]
    pub(super) fn assert_nothing_lost(&self) {
        let ledger = self.ledger();
        let letters = self.letters().count();
        assert_eq!((ledger.lost(), ledger.dead_lettered, letters), (0, 0, 0), "{}", self.state());
    }

    /// Each span is delivered or a dead letter.
    #[track_caller]
    pub(super) fn assert_nothing_missing(&self) {
        let missing = self.missing();
        assert!(missing.is_empty(), "{} are missing: {:?}; {}", missing.len(), missing.first(), self.state());
    }

    // Queries.

    /// The spans of each dead letter.
    fn letters(&self) -> impl Iterator<Item = &Vec<u64>> {
        self.other_oracles.iter().chain([&self.oracle]).flat_map(|oracle| &oracle.letters)
    }

    /// The peer of the endpoint at this place.
    pub(super) fn peer_at(&mut self, endpoint: usize) -> &mut Peer {
        match endpoint {
            0 => &mut self.peer,
            at => &mut self.others[at - 1],
        }
    }

    pub(super) fn in_use(&self) -> usize {
        self.simulation.core.endpoints.in_use()
    }

    pub(super) fn ledger(&self) -> &Ledger {
        self.simulation.core.ledger()
    }

    /// Spans that all processes lost, by their ledgers, without those in `killed`: each of them is in `missing`.
    pub(super) fn lost(&self) -> u64 {
        self.lost_before + self.ledger().lost()
    }

    /// Spans that wait for their delivery in this process or its files.
    pub(super) fn waiting(&self) -> u64 {
        let ledger = self.ledger();
        ledger.buffered + ledger.in_flight + ledger.in_fallback
    }

    pub(super) fn is_delivered(&self, spans: &[u64]) -> bool {
        spans.iter().all(|span| self.delivered.contains_key(span))
    }

    /// The time from the offer of a span to the answer that delivered it.
    pub(super) fn delay(&self, span: u64) -> Option<Duration> {
        Some(*self.delivered.get(&span)? - self.offered[&span])
    }

    /// Spans that were offered and neither delivered, nor taken by a kill, nor stored as dead letters.
    pub(super) fn missing(&self) -> Vec<u64> {
        let mut missing = self.offered.keys().copied().collect::<Vec<_>>();
        // Without a fallback no dead letter is stored: the ledger counts its spans as lost.
        let letters = self.letters().filter(|_| self.simulation.setup.fallback);
        let letters = letters.flatten().copied().collect::<HashSet<_>>();
        missing.retain(|span| {
            !self.delivered.contains_key(span) && !self.killed.contains(span) && !letters.contains(span)
        });
        missing.sort_unstable();
        missing
    }

    /// The calls for exactly these spans.
    pub(super) fn calls_of(&self, spans: &[u64]) -> Vec<&Sent> {
        self.places.get(spans).into_iter().flatten().map(|&place| &self.sent[place]).collect()
    }

    pub(super) fn now(&self) -> Instant {
        self.simulation.now
    }

    /// The calls since this instant.
    pub(super) fn sent_since(&self, instant: Instant) -> &[Sent] {
        &self.sent[self.sent.partition_point(|sent| sent.at < instant)..]
    }

    /// The largest number of calls within one second since this instant.
    pub(super) fn most_calls_in_a_second(&self, since: Instant) -> usize {
        let calls = self.sent_since(since);
        let within = |index: usize| {
            let end = calls[index].at + secs(1);
            calls[index..].iter().take_while(|sent| sent.at < end).count()
        };
        (0..calls.len()).map(within).max().unwrap_or(0)
    }

    pub(super) fn trips(&self) -> u64 {
        self.simulation.core.endpoints.current().trips()
    }

    /// For the messages of failed tests.
    pub(super) fn state(&self) -> String {
        let last = self.sent.iter().rev().take(12).map(|sent| self.line(sent)).collect::<String>();
        format!("at {:?}: {:?}\nlast calls:{last}", self.simulation.now - self.start, self.ledger())
    }

    /// A call in one line.
    fn line(&self, sent: &Sent) -> String {
        let kind = if sent.live { "live" } else { "stored" };
        let (endpoint, replica) = (sent.endpoint, sent.replica);
        let probe = if sent.probe { ", probe" } else { "" };
        let (first, count) = (sent.spans.first(), sent.spans.len());
        format!(
            "\n  {:?}: {kind}{probe} {first:?} ({count}) -> {endpoint}.{replica}: {:?}",
            sent.at - self.start,
            sent.reply
        )
    }
}
