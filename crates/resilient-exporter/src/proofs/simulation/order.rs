//! The order of calls: which batch is sent next, when, and over which connection.

use super::replicas::{CALL, Replica, Reply};
use super::world::{HOUR, Load, MINUTE, OPEN, Sent, World, ms, secs};
use super::{Disturbance, Setup};

fn accepting() -> Vec<Replica> {
    vec![Replica::accepting()]
}

/// The waits of the backoff before the fifth failure opens the breaker, a quarter longer at most.
const WAITS: std::time::Duration = secs(19);

#[test]
fn a_batch_that_always_fails_at_the_front_costs_one_probe() {
    for reply in [Reply::Status(502), Reply::Status(400), Reply::Status(500), Reply::Reset] {
        let mut world = World::new(vec![Replica::new(Reply::Status(503))], Setup::usual());
        let bad = world.offer_bad(3, reply);
        let good = (0..30).map(|_| world.offer(3)).collect::<Vec<_>>().concat();
        world.run_to("an open breaker", WAITS, |world| world.trips() == 1);
        world.peer.replicas[0].reply = Reply::Accept;
        let begin = world.now();
        world.run_to("the good batches", 2 * OPEN + secs(2), |world| world.is_delivered(&good));
        let probes = world.sent_since(begin).iter().filter(|sent| sent.probe && sent.spans == bad).count();
        assert!(probes <= 1, "{probes} probes of the batch that fails: {}", world.state());
    }
}

#[test]
fn no_probe_meets_the_same_batch_twice_while_another_waits() {
    let mut setup = Setup::usual();
    setup.limits.max_age = HOUR;
    let mut world = World::new(vec![Replica::new(Reply::Status(503))], setup);
    let mut batches = Vec::new();
    for _ in 0..12 {
        batches.push(world.offer(3));
        world.run(ms(1));
    }
    world.run_to("ten probes", 11 * OPEN + WAITS, |world| world.sent.iter().filter(|sent| sent.probe).count() == 10);
    let probes = world.sent.iter().filter(|sent| sent.probe).map(|sent| sent.spans.clone()).collect::<Vec<_>>();
    // Each probe takes the oldest of the batches with the fewest failures. The five calls before the first probe failed
    // for the first three batches, twice for the first and the second.
    assert_eq!(probes[..9], batches[3..]);
    assert_eq!(probes[9], batches[2]);
}

#[test]
fn under_full_load_a_batch_that_failed_gets_its_turn() {
    let mut world = World::new(accepting(), Setup::usual());
    let unlucky = world.offer_bad(3, Reply::Status(502));
    let failures = |world: &World| world.calls_of(&unlucky).len();
    world.run_to("three failures", WAITS, |world| failures(world) == 3);
    world.peer.replicas[0].bad.clear();
    // More batches arrive than calls can go out: one that never failed always waits.
    world.peer.replicas[0].latency = secs(1);
    for _ in 0..40 {
        world.offer(2);
    }
    world.load = Some(Load { spans: 2, every: ms(100) });
    let begin = world.now();
    world.run_to("its delivery", MINUTE, |world| world.is_delivered(&unlucky));
    let before = world.sent_since(begin).len();
    assert!(before <= 8 + 8, "{before} calls, of which eight are out at once: {}", world.state());
}

#[test]
fn a_hint_binds_all_calls() {
    let mut world = World::new(accepting(), Setup::usual());
    // Stored batches, a half-open breaker and live batches, each with a throttle of its own.
    for _ in 0..100 {
        world.offer(20);
    }
    world.run(MINUTE);
    for _ in 0..4 {
        world.load = Some(Load { spans: 5, every: ms(500) });
        world.peer.all(Reply::Throttle(secs(30)));
        let begin = world.now();
        world.run(secs(100));
        let calls = world.sent_since(begin).iter().map(|sent| sent.at).collect::<Vec<_>>();
        assert!((3..=12).contains(&calls.len()), "{} calls in 100 s: {}", calls.len(), world.state());
        let mut throttled = None;
        for sent in world.sent_since(begin) {
            let bound = throttled.filter(|answered| *answered < sent.at).map(|answered| answered + secs(30));
            assert!(bound.is_none_or(|bound| sent.at >= bound), "a call within a hint: {}", world.state());
            throttled = throttled.max(sent.answered);
        }
        world.peer.all(Reply::Status(503));
        world.run_to("an open breaker", 2 * MINUTE, |world| world.trips() > 0);
        world.peer.all(Reply::Accept);
        world.run(2 * MINUTE);
    }
    world.assert_nothing_lost();
}

#[test]
fn a_probe_and_a_call_after_two_failures_use_a_new_connection() {
    for reply in [Reply::Status(503), Reply::Status(401), Reply::Status(400), Reply::Status(500)] {
        let mut world = World::new(vec![Replica::new(reply); 2], Setup::usual());
        world.offer(3);
        world.run(3 * MINUTE);
        let fresh = world.sent.iter().map(|sent| sent.fresh).collect::<Vec<_>>();
        assert!(fresh.len() >= 6, "{}", world.state());
        assert!(!fresh[0] && !fresh[1], "the first calls: {fresh:?}");
        assert!(fresh[2..].iter().all(|fresh| *fresh), "{reply:?}: {fresh:?}");
        world.peer.all(Reply::Accept);
        world.run(2 * MINUTE);
        world.load = Some(Load { spans: 2, every: secs(1) });
        let begin = world.now();
        world.run(MINUTE);
        let fresh = world.sent_since(begin).iter().filter(|sent| sent.fresh).count();
        assert_eq!(fresh, 0, "successes keep the connection");
    }
}

#[test]
fn one_hung_replica_of_two_delays_no_batch_for_longer_than_two_calls() {
    let hung = Replica::new(Reply::TimeOut { stored: false });
    let mut world = World::new(vec![Replica::accepting(), hung], Setup::usual());
    world.load = Some(Load { spans: 5, every: secs(1) });
    world.run(20 * MINUTE);
    world.assert_nothing_lost();
    let slow = (1..).map_while(|span| world.delay(span)).max();
    assert!(slow <= Some(2 * CALL), "{slow:?}: {}", world.state());
    assert_eq!((world.trips(), world.waiting()), (0, 0), "{}", world.state());
}

#[test]
fn goaway_costs_no_duplicate_and_no_failure_where_another_connection_works() {
    let mut world = World::new(vec![Replica::accepting(), Replica::new(Reply::GoAway)], Setup::usual());
    world.load = Some(Load { spans: 5, every: secs(1) });
    world.run(10 * MINUTE);
    world.load = None;
    world.run(secs(1));
    world.assert_nothing_missing();
    assert_eq!(world.simulation.core.accounts.counters.possible_duplicates(), 0);
    assert!(world.sent.iter().all(|sent| sent.reply == Reply::Accept));
}

#[test]
fn a_shutdown_makes_one_attempt_in_spite_of_the_backoff_and_the_breaker() {
    for (outage, trips) in [(secs(8), 0), (3 * MINUTE, 1)] {
        let mut world = World::new(accepting(), Setup::usual());
        world.peer.all(Reply::ConnectionRefused);
        let batches = (0..5).map(|_| world.offer(10)).collect::<Vec<_>>().concat();
        world.run(outage);
        assert!(world.trips() >= trips);
        // The collector is back, and the next call is seconds away.
        world.peer.all(Reply::Accept);
        let begin = world.now();
        world.shut_down(secs(3));
        assert!(world.is_delivered(&batches), "after {outage:?}: {}", world.state());
        assert!(world.sent_since(begin).len() <= 6);
        assert_eq!(world.waiting(), 0);
    }
}

#[test]
fn a_shutdown_in_an_outage_makes_one_attempt_and_stores_the_rest() {
    for reply in [Reply::ConnectionRefused, Reply::Status(401), Reply::Status(400), Reply::Throttle(secs(30))] {
        let mut world = World::new(accepting(), Setup::usual());
        world.peer.all(reply);
        for _ in 0..5 {
            world.offer(10);
        }
        world.run(3 * MINUTE - secs(10));
        let begin = world.now();
        world.shut_down(secs(3));
        let calls = world.sent_since(begin).len();
        let expected = if matches!(reply, Reply::Throttle(_)) { 0..=0 } else { 1..=1 };
        assert!(expected.contains(&calls), "{calls} calls after {reply:?}: {}", world.state());
        assert_eq!(world.ledger().in_fallback, 50, "{}", world.state());
        world.peer.all(Reply::Accept);
        world.run(MINUTE);
        world.assert_nothing_missing();
        world.assert_nothing_lost();
    }
}

#[test]
fn a_long_outage_ends_with_the_probe() {
    let lost = [
        Reply::ConnectionRefused,
        Reply::TimeOut { stored: false },
        Reply::TimeOut { stored: true },
        Reply::Status(503),
        Reply::StatusOfStored(504),
        Reply::Reset,
        Reply::GoAway,
    ];
    for reply in lost {
        let mut world = World::new(accepting(), Setup::usual());
        world.load = Some(Load { spans: 5, every: secs(1) });
        world.run(MINUTE);
        world.peer.all(reply);
        world.run(HOUR);
        world.peer.all(Reply::Accept);
        world.run_to("the backlog", OPEN + CALL + MINUTE, |world| world.ledger().in_fallback == 0);
        world.load = None;
        world.run(secs(5));
        world.assert_nothing_missing();
        world.assert_nothing_lost();
    }
}

#[test]
fn bursts_and_slow_answers_lose_nothing() {
    let mut world = World::new(accepting(), Setup::usual());
    world.peer.replicas[0].latency = secs(2);
    for _ in 0..20 {
        for _ in 0..120 {
            world.offer(10);
            world.run(ms(5));
        }
        world.run(MINUTE);
    }
    world.run_to("all are delivered", HOUR, |world| world.waiting() == 0);
    world.assert_nothing_missing();
    world.assert_nothing_lost();
    let is_single = |sent: &&Sent| sent.spans.len() <= 10;
    assert!(world.sent.iter().filter(|sent| sent.live).all(|sent| is_single(&sent)));
}

#[test]
fn full_memory_goes_to_a_disk_that_works_again_before_the_next_batch_arrives() {
    let mut world = World::new(vec![Replica::new(Reply::ConnectionRefused)], Setup::usual());
    world.disturbance = Box::new(|_| Disturbance::Failure);
    world.load = Some(Load { spans: 10, every: secs(1) });
    world.run_to("full memory", HOUR, |world| world.lost() > 0);
    world.load = None;
    world.run(secs(10));
    let lost = world.lost();
    world.disturbance = Box::new(|_| Disturbance::None);
    // The longest wait of the next attempt, and the file.
    world.run(secs(1) + ms(10));
    world.offer(10);
    assert_eq!(world.lost(), lost, "{}", world.state());
    assert!(world.ledger().in_fallback > 0, "{}", world.state());
}

#[test]
fn retry_now_passes_the_backoff_and_the_breaker_once_and_no_hint() {
    let retry_now = |world: &mut World| {
        let begin = world.now();
        world.simulation.report(super::retry_now);
        world.run(ms(100));
        world.sent_since(begin).len()
    };
    // In the backoff, and with an open breaker.
    for wait in [ms(100), MINUTE] {
        let mut world = World::new(vec![Replica::new(Reply::Status(503))], Setup::usual());
        let batches = (0..3).map(|_| world.offer(3)).collect::<Vec<_>>().concat();
        world.run(wait);
        assert_eq!(retry_now(&mut world), 1, "one call: {}", world.state());
        world.run(ms(10));
        assert_eq!(retry_now(&mut world), 1, "one call: {}", world.state());
        world.peer.all(Reply::Accept);
        assert!(retry_now(&mut world) >= 3, "{}", world.state());
        assert!(world.is_delivered(&batches));
    }
    let mut world = World::new(vec![Replica::new(Reply::Throttle(MINUTE))], Setup::usual());
    world.offer(3);
    world.run(secs(1));
    assert_eq!(retry_now(&mut world), 0, "the hint holds: {}", world.state());
    // Stored batches go the same way.
    let mut world = World::new(vec![Replica::new(Reply::ConnectionRefused)], Setup::usual());
    let stored = world.offer(3);
    world.run(9 * MINUTE);
    assert_eq!(world.ledger().in_fallback, 3, "{}", world.state());
    world.peer.all(Reply::Accept);
    retry_now(&mut world);
    assert!(world.is_delivered(&stored), "{}", world.state());
}
