//! The rate of calls in each steady state, and the bound for any second.

use super::Setup;
use super::replicas::{Replica, Reply};
use super::world::{HOUR, Load, MINUTE, OPEN, World, ms, secs};

const LOAD: Load = Load { spans: 5, every: ms(500) };

/// Runs an hour of a state behind a minute of success and five minutes of the state. Returns the calls of the hour, and
/// the most within a second of it.
fn hour_of(reply: Reply, setup: Setup) -> (usize, usize, World) {
    let mut world = World::new(vec![Replica::accepting(); 2], setup);
    world.load = Some(LOAD);
    world.run(MINUTE);
    world.peer.all(reply);
    world.run(5 * MINUTE);
    let begin = world.now();
    world.run(HOUR);
    (world.sent_since(begin).len(), world.most_calls_in_a_second(begin), world)
}

/// One probe for each opening of the breaker, 60 s at least.
const PROBES: usize = 61;

#[test]
fn a_peer_that_fails_or_refuses_everything_gets_one_call_a_minute() {
    let replies = [
        Reply::Status(401),
        Reply::Status(400),
        Reply::Status(500),
        Reply::Status(503),
        Reply::StatusOfStored(502),
        Reply::Reset,
        Reply::ConnectionRefused,
        Reply::GoAway,
        Reply::TimeOut { stored: true },
    ];
    for reply in replies {
        for fallback in [true, false] {
            let (calls, most, world) = hour_of(reply, Setup { fallback, ..Setup::usual() });
            assert!((40..=PROBES).contains(&calls), "{calls} calls after {reply:?}: {}", world.state());
            assert_eq!(most, 1, "{reply:?}");
        }
    }
}

#[test]
fn a_peer_that_throttles_everything_gets_one_round_of_calls_a_hint() {
    for (hint, least, most) in [(secs(0), 60, 400), (secs(1), 60, 3_600), (secs(30), 60, 121), (HOUR, 6, 13)] {
        let (calls, in_a_second, world) = hour_of(Reply::Throttle(hint), Setup::usual());
        assert!((least..=most).contains(&calls), "{calls} calls for a hint of {hint:?}: {}", world.state());
        assert!(in_a_second <= 2, "{in_a_second} calls in a second for a hint of {hint:?}");
        assert_eq!(world.trips(), 0);
        world.assert_nothing_lost();
    }
}

#[test]
fn a_peer_that_finds_everything_too_large_gets_few_calls() {
    let (calls, most, world) = hour_of(Reply::Status(413), Setup::usual());
    // 7,200 batches of five spans: each is tried, and split while that may help.
    assert!(calls <= 7_200 * 5, "{calls} calls: {}", world.state());
    assert!(most <= 20, "{most} calls in a second: {}", world.state());
    assert_eq!(world.ledger().lost(), 0);
}

#[test]
fn an_acknowledgement_that_is_unreadable_is_one_call_a_batch() {
    let (calls, most, world) = hour_of(Reply::Unreadable, Setup::usual());
    assert!((7_199..=7_201).contains(&calls), "{calls} calls: {}", world.state());
    assert_eq!((most, world.simulation.duplicates), (2, 0));
    world.assert_nothing_lost();
    world.assert_nothing_missing();
}

#[test]
fn one_stored_batch_that_always_fails_alone_gets_one_call_a_minute() {
    for reply in [Reply::Status(502), Reply::Status(401), Reply::Status(400), Reply::Reset] {
        let mut world = World::new(vec![Replica::new(Reply::ConnectionRefused)], Setup::usual());
        world.offer_bad(5, reply);
        world.run_to("a file", 10 * MINUTE, |world| world.ledger().in_fallback == 5);
        world.peer.replicas[0].reply = Reply::Accept;
        world.run(5 * MINUTE);
        let begin = world.now();
        world.run(HOUR);
        let calls = world.sent_since(begin).len();
        assert!(calls <= PROBES, "{calls} calls after {reply:?}: {}", world.state());
        assert_eq!(world.waiting(), 5, "no acceptance, no dead letter: {}", world.state());
    }
}

#[test]
fn suspects_beside_good_batches_cost_few_calls() {
    for status in [401, 500, 502] {
        let mut world = World::new(vec![Replica::accepting()], Setup::usual());
        world.load = Some(LOAD);
        world.run(MINUTE);
        for _ in 0..10 {
            world.offer_bad(5, Reply::Status(status));
        }
        world.run(MINUTE);
        let begin = world.now();
        world.run(15 * MINUTE);
        let refused = world.sent_since(begin).iter().filter(|sent| !sent.reply.is_acceptance()).count();
        assert!(refused <= 10 * 15, "{refused} calls for ten bad batches: {}", world.state());
        assert_eq!(world.ledger().lost(), 0);
    }
}

/// The net thread sleeps until something happens.
#[test]
fn while_nothing_is_stored_no_poll_is_due() {
    for fallback in [true, false] {
        let mut world = World::new(vec![Replica::accepting()], Setup { fallback, ..Setup::usual() });
        let due = |world: &World| world.simulation.core.next_wakeup();
        assert_eq!(due(&world), None, "at the start");
        world.offer(5);
        world.run(secs(1));
        assert_eq!((world.waiting(), due(&world)), (0, None), "after a delivery");
        // An outage leaves files, or batches in memory, and its end is told 5 s after the first success.
        world.peer.all(Reply::ConnectionRefused);
        (0..20).for_each(|_| drop(world.offer(5)));
        world.run(if fallback { 10 * MINUTE } else { MINUTE });
        assert_eq!(world.ledger().in_fallback > 0, fallback, "{}", world.state());
        world.peer.all(Reply::Accept);
        world.run(2 * MINUTE);
        assert_eq!((world.waiting(), due(&world)), (0, None), "after an outage: {}", world.state());
        let before = world.events;
        world.run(HOUR);
        assert_eq!(world.events, before);
    }
}

/// The end of an outage is confirmed if no call fails for 5 s after its one success.
#[test]
fn after_the_success_that_ends_an_outage_one_more_poll_is_due_and_then_none() {
    for fallback in [true, false] {
        let mut world = World::new(vec![Replica::accepting()], Setup { fallback, ..Setup::usual() });
        world.peer.all(Reply::ConnectionRefused);
        world.offer(5);
        world.run(MINUTE);
        world.peer.all(Reply::Accept);
        world.run_to("the delivery", OPEN, |world| world.waiting() == 0);
        let success = world.now();
        let due = |world: &World| world.simulation.core.next_wakeup();
        assert_eq!(due(&world), Some(success + secs(5)), "{}", world.state());
        let before = world.events;
        world.run(HOUR);
        assert_eq!((world.events - before, due(&world)), (1, None), "{}", world.state());
    }
}

/// While the breaker is open: its probe, the answer, the reading of a group, the age of the batches in memory.
#[test]
fn while_spans_wait_for_a_collector_that_is_away_a_few_instants_are_due() {
    for (fallback, age) in [(true, 20), (true, 1), (false, 1)] {
        let mut world = World::new(vec![Replica::new(Reply::ConnectionRefused)], Setup { fallback, ..Setup::usual() });
        world.offer(100);
        world.run(age * MINUTE);
        let before = world.events;
        world.run(HOUR / 12);
        let events = world.events - before;
        assert!(events <= 5 * 6, "{events} instants in 5 minutes: {}", world.state());
        assert_eq!(world.waiting(), if world.lost() == 0 { 100 } else { 0 });
    }
}
