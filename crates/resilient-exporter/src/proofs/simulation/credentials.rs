//! Credentials that change: the transport's, and the peer's opinion of them. The rules hold in every world that has
//! tokens; the scenarios have a name.

use std::time::{Duration, Instant};

use otlp_payload::Payload;

use super::replicas::{Replica, Reply};
use super::world::{HOUR, Load, MINUTE, OPEN, Sent, World, ms, secs};
use super::{Setup, numbers};

/// Between two refreshes of a token.
const REFRESH_EVERY: Duration = secs(10);

/// Between two looks for changed credentials.
const LOOK_EVERY: Duration = secs(5);

/// The credentials of the transport.
#[derive(Clone, Debug)]
pub(super) struct Tokens {
    /// The generation that the next call uses; none before a file is there.
    pub(super) held: u64,
    /// The first generation that the peer takes.
    pub(super) valid: u64,
    /// The generation that a refresh gets beyond the one that is held; 0 for a file, which changes by itself.
    pub(super) gains: u64,
    /// Each refusal gets a new generation at once, against the rules of a transport.
    is_hasty: bool,
    /// The peer refuses them in the handshake, as a client certificate: there is no connection then.
    in_handshake: bool,
    used: u64,
    refreshed: Option<Instant>,
    /// The generations whose first repeated call has passed backoff and breaker.
    passed: u64,
}

impl Tokens {
    /// A token service that has a token which the peer takes.
    pub(super) fn of_service() -> Self {
        Self { held: 1, valid: 1, gains: 1, is_hasty: false, in_handshake: false, used: 0, refreshed: None, passed: 0 }
    }

    /// A file of headers that the peer takes.
    pub(super) fn of_file() -> Self {
        Self { gains: 0, ..Self::of_service() }
    }

    /// The answer to a call because of its credentials, if they are not good.
    pub(super) fn on_call(&mut self) -> Option<Reply> {
        if self.held == 0 {
            return Some(Reply::NoCredentials);
        }
        self.used = self.used.max(self.held);
        let refusal = if self.in_handshake { Reply::ConnectionRefused } else { Reply::Status(401) };
        (self.held < self.valid).then_some(refusal)
    }

    /// The peer has refused credentials of this generation.
    fn on_refused(&mut self, generation: u64, now: Instant) -> Option<u64> {
        let may_refresh = self.is_hasty || self.refreshed.is_none_or(|at| now - at >= REFRESH_EVERY);
        if self.held == generation && self.gains > 0 && may_refresh {
            self.refreshed = Some(now);
            self.held += self.gains;
        }
        (self.held > generation).then_some(self.held)
    }

    /// The transport has a new token, and the peer takes it.
    pub(super) fn repair(&mut self) {
        self.held += 1;
        self.valid = self.held;
    }

    /// The peer takes no token of so far; the next one that the transport gets is taken.
    pub(super) fn expire(&mut self) {
        self.valid = self.held + 1;
    }
}

impl World {
    pub(super) fn set_tokens(&mut self, tokens: Tokens) {
        self.tokens = Some(tokens);
        self.simulation.core.set_can_change(0, true);
    }

    fn tokens(&mut self) -> &mut Tokens {
        self.tokens.as_mut().expect("set before")
    }

    /// The transport looks for newer credentials before it reports a refusal of these. The answer to a repeated call is
    /// the core's last word on it.
    pub(super) fn judge(&mut self, sent: usize) {
        let now = self.now();
        let call = &mut self.sent[sent];
        if let (Some(tokens), Reply::Status(401 | 403)) = (&mut self.tokens, call.reply)
            && let Some(newer) = tokens.on_refused(call.generation, now)
        {
            call.reply = Reply::Renewed(newer);
        }
    }

    /// A call as the core judges it: the refusal of a repeated call is one like any other, and each one in strict mode.
    pub(super) fn as_judged(&self, sent: usize) -> Sent {
        let mut call = self.sent[sent].clone();
        if matches!(call.reply, Reply::Renewed(_)) && (call.repeat || self.simulation.setup.strict) {
            call.reply = Reply::Status(401);
        }
        call
    }

    /// Whether a call whose credentials were refused is repeated at once, if that is certain.
    pub(super) fn expected_repeat(&mut self, sent: usize) -> Option<Option<bool>> {
        let now = self.now();
        let call = &self.sent[sent];
        let Reply::Renewed(generation) = call.reply else { return None };
        let (is_repeat, strict) = (call.repeat, self.simulation.setup.strict);
        if is_repeat || strict {
            return Some(Some(false));
        }
        let endpoint = &self.simulation.core.endpoints.current();
        let (is_paused, waits) = (endpoint.pause(now).is_some(), endpoint.waits_until(now).is_some());
        let is_closed = endpoint.state() == breaker::State::Closed;
        // Another call may be the probe.
        let is_half_open = endpoint.state() == breaker::State::HalfOpen && !self.sent[sent].probe;
        let tokens = self.tokens();
        let is_first = tokens.passed < generation;
        tokens.passed = tokens.passed.max(generation);
        Some(match (is_paused, is_first || !waits && is_closed) {
            (true, _) => Some(false),
            (false, true) if !is_half_open => Some(true),
            // A pass that an operator or a shutdown has granted may be left.
            (false, _) => None,
        })
    }

    /// The call that repeats one for this batch goes out with the next poll, or none does.
    pub(super) fn check_repeat(&mut self, batch: &Payload, expected: Option<bool>) {
        let before = self.simulation.calls.iter().map(|call| call.id).max().unwrap_or(0);
        self.simulation.poll();
        let spans = numbers(batch).collect::<Vec<_>>();
        let calls = self.simulation.calls.iter().filter(|call| call.id > before);
        let calls = calls.filter(|call| numbers(&call.payload.request()).eq(spans.iter().copied()));
        let repeats = calls.map(|call| call.id).collect::<Vec<_>>();
        match expected {
            Some(true) => assert_eq!(repeats.len(), 1, "the call is repeated at once; {}", self.state()),
            Some(false) => assert!(repeats.is_empty(), "no call may follow at once; {}", self.state()),
            None => {}
        }
        if expected != Some(false) {
            self.repeats.extend(repeats);
        }
    }

    /// The transport answers a look for changes.
    pub(super) fn look_at_tokens(&mut self) {
        let Some(looked) = self.simulation.looks.last().copied().filter(|at| *at == self.simulation.now) else {
            return;
        };
        let looks = &self.simulation.looks;
        let earlier = looks.len().checked_sub(2).map(|at| looks[at]);
        assert!(earlier.is_none_or(|at| looked - at >= LOOK_EVERY), "looks follow too soon; {}", self.state());
        let tokens = self.tokens.as_ref().expect("looks without credentials that change");
        if tokens.held > tokens.used {
            self.simulation.report(|core| core.on_credentials_changed(0));
            self.simulation.poll();
        }
    }

    fn renewed(&self, since: Instant) -> usize {
        self.sent_since(since).iter().filter(|sent| matches!(sent.reply, Reply::Renewed(_))).count()
    }
}

const BUSY: Load = Load { spans: 10, every: ms(200) };

fn world(setup: Setup, tokens: Tokens) -> World {
    let mut world = World::new(vec![Replica::accepting()], setup);
    world.set_tokens(tokens);
    world
}

#[test]
fn a_token_that_expires_every_minute_delays_nothing_and_opens_no_breaker() {
    let mut world = world(Setup::usual(), Tokens::of_service());
    world.load = Some(BUSY);
    for _ in 0..10 {
        world.run(MINUTE);
        let now = world.now();
        world.tokens().expire();
        world.run(secs(1));
        let renewed = world.renewed(now);
        assert!((1..=8).contains(&renewed), "{renewed} calls met the old token: {}", world.state());
    }
    world.load = None;
    world.run(secs(1));
    world.assert_nothing_lost();
    world.assert_nothing_missing();
    assert_eq!((world.trips(), world.ledger().in_fallback), (0, 0));
    let slowest = (1..world.simulation.next_span).filter_map(|span| world.delay(span)).max();
    assert!(slowest < Some(ms(500)), "{slowest:?}");
    assert!(world.simulation.looks.is_empty(), "nothing waited for credentials");
}

#[test]
fn new_tokens_that_are_refused_too_cost_one_call_each_and_lose_nothing() {
    let calls = |tokens: Option<Tokens>| {
        let mut world = World::new(vec![Replica::accepting()], Setup::usual());
        tokens.into_iter().for_each(|tokens| world.set_tokens(tokens));
        world.load = Some(BUSY);
        world.run(secs(10));
        match &mut world.tokens {
            Some(tokens) => tokens.valid = u64::MAX,
            None => world.peer.all(Reply::Status(401)),
        }
        let begin = world.now();
        world.run(HOUR);
        world.assert_nothing_lost();
        assert!(world.trips() >= 30, "the breaker opens as without tokens: {}", world.state());
        let calls = world.sent_since(begin);
        assert!(calls.iter().filter(|sent| sent.repeat).count() <= calls.len() / 2 + 1);
        calls.len()
    };
    let (without, with) = (calls(None), calls(Some(Tokens::of_service())));
    assert!(with <= 2 * without + 2, "{with} calls instead of {without}");
}

#[test]
fn a_transport_that_always_has_newer_credentials_gets_one_call_more_for_each_refused_one() {
    for load in [BUSY, Load { spans: 3, every: MINUTE }] {
        let mut world = world(Setup::usual(), Tokens { is_hasty: true, valid: u64::MAX, ..Tokens::of_service() });
        world.load = Some(load);
        world.run(HOUR);
        world.assert_nothing_lost();
        let repeats = world.sent.iter().filter(|sent| sent.repeat).count();
        assert!(
            repeats > 30 && repeats <= world.sent.len() / 2,
            "{repeats} of {}: {}",
            world.sent.len(),
            world.state()
        );
        // Each look finds a change, which passes once: two calls in 5 s, and those of the backoff.
        assert!(world.sent.len() <= 2 * 720 + 60, "{} calls: {}", world.sent.len(), world.state());
        world.tokens().repair();
        world.load = None;
        world.run_to("all are delivered", OPEN + MINUTE, |world| world.waiting() == 0);
        world.assert_nothing_missing();
    }
}

/// A peer that fails until the breaker opens, and a token that expires meanwhile.
fn behind_an_open_breaker(tokens: Tokens) -> World {
    let mut world = world(Setup::usual(), tokens);
    world.offer(3);
    world.run(secs(10));
    world.peer.all(Reply::Status(503));
    world.offer(3);
    world.run_to("the breaker opens", MINUTE, |world| world.trips() == 1);
    world.peer.all(Reply::Accept);
    world.tokens().expire();
    world
}

#[test]
fn newer_credentials_pass_the_breaker_with_the_probe_that_was_refused() {
    let mut world = behind_an_open_breaker(Tokens::of_service());
    world.run_to("the delivery", OPEN, |world| world.waiting() == 0);
    let [.., probe, repeat] = &world.sent[..] else { panic!("{}", world.state()) };
    assert!(probe.probe && repeat.repeat && Some(repeat.at) == probe.answered, "{}", world.state());
    assert_eq!(world.trips(), 1);
    world.assert_nothing_lost();
}

#[test]
fn a_changed_file_passes_the_open_breaker_within_five_seconds_and_once() {
    let mut world = behind_an_open_breaker(Tokens::of_file());
    world.run(10 * MINUTE);
    world.assert_nothing_lost();
    assert!(world.ledger().in_fallback + world.ledger().buffered > 0, "the old file is refused: {}", world.state());
    // A new file that is refused too has one call go out.
    let begin = world.now();
    world.tokens().valid = 3;
    world.tokens().held = 2;
    world.run(LOOK_EVERY + secs(1));
    assert_eq!(world.sent_since(begin).len(), 1, "{}", world.state());
    world.run(4 * LOOK_EVERY);
    let probes = world.sent_since(begin).iter().filter(|sent| sent.probe).count();
    assert!(probes <= 2, "a change passes once: {}", world.state());
    world.tokens().held = 3;
    let took = world.run_to("the delivery", 2 * LOOK_EVERY, |world| world.waiting() == 0);
    assert!(took <= LOOK_EVERY + secs(1), "{took:?}");
    let looks = world.simulation.looks.len();
    world.run(HOUR);
    assert_eq!(world.simulation.looks.len(), looks, "nothing waits any more");
    assert_eq!(world.simulation.core.next_wakeup(), None);
}

#[test]
fn a_certificate_that_is_renewed_passes_the_breaker_that_its_refusal_has_opened() {
    let mut world = world(Setup::usual(), Tokens { in_handshake: true, ..Tokens::of_file() });
    world.offer(3);
    world.run(secs(10));
    world.tokens().expire();
    world.offer(3);
    world.run_to("the breaker opens", MINUTE, |world| world.trips() == 1);
    world.tokens().held += 1;
    let took = world.run_to("the delivery", OPEN, |world| world.waiting() == 0);
    assert!(took <= LOOK_EVERY + secs(1), "{took:?}: {}", world.state());
    world.assert_nothing_lost();
    let looks = world.simulation.looks.len();
    world.run(HOUR);
    assert_eq!(world.simulation.looks.len(), looks, "nothing waits any more");
}

/// A world without a waiting batch, in which several calls may be out together for 400 ms each.
fn with_concurrency(tokens: Tokens) -> World {
    let mut world = world(Setup::usual(), tokens);
    world.peer.replicas[0].latency = ms(400);
    world.load = Some(Load { spans: 2, every: ms(100) });
    world.run(secs(5));
    world.load = None;
    world.run_to("no batch waits", secs(10), |world| world.waiting() == 0);
    world
}

#[test]
fn only_the_first_call_with_newer_credentials_passes_the_backoff_of_another_call() {
    let mut world = with_concurrency(Tokens::of_service());
    let begin = world.now();
    // The first of four fails, the others meet an old token.
    world.peer.replicas[0].reply = Reply::Reset;
    world.offer(3);
    world.peer.replicas[0].reply = Reply::Accept;
    world.tokens().expire();
    (0..3).for_each(|_| drop(world.offer(3)));
    assert_eq!(world.simulation.calls.len(), 4, "calls are out together: {}", world.state());
    world.run(ms(600));
    let repeats = world.sent_since(begin).iter().filter(|sent| sent.repeat).count();
    assert_eq!(repeats, 1, "{}", world.state());
    world.run_to("the others follow the backoff", secs(5), |world| world.waiting() == 0);
    world.assert_nothing_lost();
}

#[test]
fn no_repeated_call_and_no_changed_file_passes_a_pause() {
    for tokens in [Tokens::of_service(), Tokens::of_file()] {
        let mut world = with_concurrency(tokens);
        world.peer.replicas[0].reply = Reply::Throttle(secs(30));
        world.offer(3);
        world.peer.replicas[0].reply = Reply::Accept;
        world.tokens().expire();
        (0..2).for_each(|_| drop(world.offer(3)));
        assert_eq!(world.simulation.calls.len(), 3, "calls are out together: {}", world.state());
        let begin = world.now();
        world.run(secs(20));
        assert_eq!(world.sent_since(begin + ms(1)).len(), 0, "{}", world.state());
        if world.tokens().gains == 0 {
            world.tokens().held += 1;
        }
        world.run(secs(9));
        assert_eq!(world.sent_since(begin + ms(1)).len(), 0, "{}", world.state());
        world.run_to("the delivery after the pause", secs(12), |world| world.waiting() == 0);
        world.assert_nothing_lost();
    }
}

#[test]
fn the_waits_of_suspects_end_with_a_changed_file() {
    let mut world = world(Setup::usual(), Tokens::of_file());
    world.offer(3);
    world.run(secs(1));
    // Within three seconds after an acceptance: a suspect, which waits for ten seconds.
    world.tokens().expire();
    let suspect = world.offer(3);
    world.run(secs(1));
    world.tokens().held += 1;
    let took = world.run_to("its delivery", secs(9), |world| world.is_delivered(&suspect));
    assert!(took <= LOOK_EVERY, "{took:?}");
    assert_eq!(world.sent.len(), 3, "{}", world.state());
}

#[test]
fn in_strict_mode_a_refused_token_makes_a_dead_letter_and_no_second_call() {
    let mut world = world(Setup { strict: true, ..Setup::usual() }, Tokens::of_service());
    world.offer(3);
    world.run(MINUTE);
    world.tokens().expire();
    let refused = world.offer(3);
    world.run(MINUTE);
    assert_eq!(world.calls_of(&refused).len(), 1);
    assert_eq!(world.ledger().dead_lettered, 3, "{}", world.state());
    let next = world.offer(3);
    world.run(secs(1));
    assert!(world.is_delivered(&next), "the newer token is used");
}

#[test]
fn batches_wait_for_credentials_that_are_missing_and_none_is_a_dead_letter() {
    for hours in [0, 10] {
        let mut world = world(Setup::usual(), Tokens { held: 0, ..Tokens::of_file() });
        world.load = Some(Load { spans: 5, every: secs(2) });
        world.run(hours * HOUR + 10 * MINUTE);
        world.assert_nothing_lost();
        assert!(world.ledger().delivered == 0 && world.ledger().in_fallback > 0, "{}", world.state());
        world.load = None;
        world.tokens().held = 1;
        let took = world.run_to("a delivery", 2 * LOOK_EVERY, |world| world.ledger().delivered > 0);
        assert!(took <= LOOK_EVERY + secs(1), "{took:?}");
        world.run_to("all", 2 * MINUTE, |world| world.waiting() == 0);
        world.assert_nothing_lost();
        world.assert_nothing_missing();
    }
}

#[test]
fn a_shutdown_repeats_calls_whose_token_has_expired() {
    let mut world = world(Setup::usual(), Tokens::of_service());
    world.load = Some(BUSY);
    world.run(secs(10));
    world.tokens().expire();
    for _ in 0..3 {
        world.offer(3);
    }
    world.shut_down(secs(3));
    assert_eq!(world.waiting(), 0, "{}", world.state());
    world.assert_nothing_missing();
}

#[test]
fn no_look_is_made_for_credentials_that_cannot_change() {
    let mut world = World::new(vec![Replica::new(Reply::Status(401))], Setup::usual());
    world.offer(3);
    world.run(HOUR);
    assert!(world.simulation.looks.is_empty());
}
