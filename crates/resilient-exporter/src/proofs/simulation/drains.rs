//! Shutdowns of programs that live for a moment: live batches first, then stored ones for a bounded time.

use std::time::Duration;

use proptest::prelude::*;

use super::history::{answer, history};
use super::replicas::{Replica, Reply};
use super::world::{MINUTE, World, ms, secs};
use super::{Disturbance, Setup, in_memory, run};

/// The time of the network in a shutdown of 3.5 s.
const NETWORK: Duration = ms(2_100);

/// The longest time for stored batches, and the clock's steps beside it.
const REPLAY: Duration = secs(1);
const STEPS: Duration = ms(10);

/// A world in which so many processes have lived for a moment and left three spans each, since the collector refuses
/// connections. The present process has just started, and the collector accepts again.
fn failed(processes: usize, setup: Setup) -> World {
    let mut world = World::new(vec![Replica::new(Reply::ConnectionRefused)], setup);
    for _ in 0..processes {
        world.offer(3);
        let took = world.shut_down(NETWORK);
        assert!(took <= ms(20), "one attempt is enough: {took:?}; {}", world.state());
    }
    assert_eq!(world.ledger().in_fallback, 3 * processes as u64);
    world.peer.replicas[0].reply = Reply::Accept;
    world
}

/// The calls of one process that offers a batch and shuts down at once: of live batches and of stored ones.
fn good_run(world: &mut World) -> (usize, usize, Duration) {
    let begin = world.sent.len();
    world.offer(3);
    let took = world.shut_down(NETWORK);
    let calls = &world.sent[begin..];
    let live = calls.iter().filter(|sent| sent.live).count();
    (live, calls.len() - live, took)
}

#[test]
fn a_good_run_after_sixty_failed_ones_delivers_all() {
    let mut world = failed(60, Setup::usual());
    let (live, stored, took) = good_run(&mut world);
    assert_eq!((live, world.ledger().in_fallback), (1, 0), "{}", world.state());
    assert!(stored <= 2 && took < ms(200), "{stored} calls in {took:?}: {}", world.state());
    world.assert_nothing_missing();
    assert_eq!((world.lost(), world.simulation.duplicates), (0, 0));
}

#[test]
fn a_run_without_spans_of_its_own_delivers_the_stored_ones() {
    let mut world = failed(5, Setup::usual());
    world.shut_down(NETWORK);
    world.assert_nothing_missing();
}

/// One attempt goes past an open breaker, also for stored batches alone.
#[test]
fn stored_batches_pass_backoff_and_breaker_once() {
    for answers in [true, false] {
        let mut world = World::new(vec![Replica::new(Reply::ConnectionRefused)], Setup::usual());
        world.offer(3);
        world.run(10 * MINUTE);
        assert_eq!((world.ledger().in_fallback, world.ledger().buffered), (3, 0), "{}", world.state());
        assert_eq!(world.simulation.core.breaker_state(), breaker::State::Open);
        let begin = world.sent.len();
        if answers {
            world.peer.replicas[0].reply = Reply::Accept;
        }
        let took = world.shut_down(NETWORK);
        assert_eq!(world.sent.len() - begin, 1, "{}", world.state());
        assert_eq!(world.ledger().in_fallback, if answers { 0 } else { 3 });
        assert!(took < ms(100), "{took:?}");
    }
}

#[test]
fn a_collector_that_is_away_gets_one_call_and_no_stored_batch() {
    let replies =
        [Reply::ConnectionRefused, Reply::Reset, Reply::Status(503), Reply::Status(401), Reply::Throttle(secs(30))];
    for reply in replies {
        let mut world = failed(5, Setup::usual());
        world.peer.replicas[0].reply = reply;
        let (live, stored, took) = good_run(&mut world);
        assert_eq!((live, stored), (1, 0), "{reply:?}: {}", world.state());
        assert!(took < ms(100), "{took:?} after {reply:?}");
        assert_eq!((world.ledger().in_fallback, world.lost()), (18, 0));
    }
}

#[test]
fn a_collector_that_ends_its_answers_during_the_replay_ends_the_shutdown() {
    // Two requests: the second is not answered well.
    let mut world = failed(60, Setup { request_max_bytes: 8_000, ..Setup::usual() });
    world.peer.replicas[0].now_and_then = Some((3, Reply::Status(503)));
    world.peer.replicas[0].calls = 0;
    let (live, stored, took) = good_run(&mut world);
    assert_eq!((live, stored), (1, 2), "{}", world.state());
    assert!(took < ms(100) && world.ledger().in_fallback > 0, "{took:?}: {}", world.state());
    assert_eq!(world.lost(), 0);
}

#[test]
fn a_replay_that_is_never_answered_takes_its_own_time_and_no_more() {
    let mut world = failed(5, Setup::usual());
    world.peer.replicas[0].bad = vec![((1..16).collect(), Reply::TimeOut { stored: false })];
    let (live, stored, took) = good_run(&mut world);
    assert_eq!((live, stored), (1, 1), "{}", world.state());
    assert!((REPLAY..=REPLAY + 2 * STEPS).contains(&took), "{took:?}: {}", world.state());
    assert_eq!((world.ledger().in_fallback, world.lost()), (15, 0));
}

/// A call for stored batches is out when the shutdown begins, and no answer comes.
#[test]
fn a_replay_that_hangs_as_the_shutdown_begins_holds_up_neither_live_batches_nor_the_end() {
    for is_probe in [false, true] {
        let mut world = World::new(vec![Replica::new(Reply::ConnectionRefused)], Setup::usual());
        world.offer(3);
        world.run(10 * MINUTE);
        assert_eq!(world.ledger().in_fallback, 3);
        world.peer.replicas[0].reply = Reply::Accept;
        world.peer.replicas[0].bad = vec![((1..4).collect(), Reply::TimeOut { stored: false })];
        if !is_probe {
            // A live batch that is delivered closes the breaker.
            world.offer(3);
        }
        let is_out = |world: &World| world.sent.last().is_some_and(|sent| !sent.live && sent.answered.is_none());
        world.run_to("the stored batch is out", 2 * MINUTE, is_out);
        let kind = if is_probe { breaker::State::HalfOpen } else { breaker::State::Closed };
        assert_eq!(world.simulation.core.breaker_state(), kind);
        let (begin, before) = (world.now(), world.sent.len());
        let live = world.offer(3);
        let took = world.shut_down(NETWORK);
        assert!(world.is_delivered(&live), "probe: {is_probe}: {}", world.state());
        let first = &world.sent[before];
        assert!(first.live && first.at - begin < ms(1), "{}", world.state());
        assert!(took <= REPLAY + ms(50), "{took:?}: {}", world.state());
        assert_eq!((world.ledger().in_fallback, world.lost()), (3, 0));
    }
}

#[test]
fn without_time_for_stored_batches_a_shutdown_sends_live_ones_alone() {
    let mut world = failed(5, Setup::usual());
    world.replay = Duration::ZERO;
    let (live, stored, took) = good_run(&mut world);
    assert_eq!((live, stored, world.ledger().in_fallback), (1, 0, 15), "{}", world.state());
    assert!(took < ms(100), "{took:?}");
}

/// A record that always fails, or is refused, costs no other.
#[test]
fn a_stored_batch_that_fails_holds_up_no_other_of_a_shutdown() {
    for reply in [Reply::Status(400), Reply::Status(403), Reply::Status(500)] {
        let mut world = failed(20, Setup::usual());
        world.peer.replicas[0].bad = vec![((1..4).collect(), reply)];
        let (live, _, took) = good_run(&mut world);
        let letters = world.oracle.letters.iter().flatten().count() as u64;
        assert_eq!((live, world.ledger().in_fallback + letters), (1, 3), "{reply:?}: {}", world.state());
        assert!(took < REPLAY, "{took:?} after {reply:?}");
        assert_eq!(world.lost(), 0);
    }
}

/// The pieces of a request that is too large do not wait as long as they do at other times.
#[test]
fn requests_that_are_too_large_are_cut_in_time() {
    let mut world = failed(20, Setup::usual());
    world.peer.replicas[0].max_bytes = Some(400);
    let (_, stored, took) = good_run(&mut world);
    assert_eq!(world.ledger().in_fallback, 0, "{}", world.state());
    assert!(stored >= 20 && took < REPLAY, "{stored} calls in {took:?}: {}", world.state());
    world.assert_nothing_missing();
    assert_eq!((world.lost(), world.oracle.letters.len()), (0, 0));
}

/// A second of a slow collector takes a part of the files: the others stay for the next run.
#[test]
fn a_backlog_of_more_than_a_second_is_delivered_run_by_run() {
    let mut world = failed(400, Setup { request_max_bytes: 2_000, ..Setup::usual() });
    world.peer.replicas[0].latency = ms(100);
    let mut runs = 0;
    while world.ledger().in_fallback > 0 {
        runs += 1;
        let before = world.ledger().in_fallback;
        let (_, _, took) = good_run(&mut world);
        assert!(took <= ms(100) + REPLAY + STEPS, "{took:?}: {}", world.state());
        assert!(world.ledger().in_fallback < before, "no progress: {}", world.state());
        assert!(runs < 40, "{}", world.state());
    }
    assert!(runs > 1, "one run delivers all: the backlog is too small");
    world.assert_nothing_missing();
    assert_eq!(world.lost(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn a_shutdown_at_any_moment_leaves_no_span_in_memory(
        seed: u64,
        history in history(),
        answers in prop::collection::vec((answer(), any::<bool>()), 0..30),
        replay in (0..2_500_u64).prop_map(Duration::from_millis),
    ) {
        let mut simulation = run(in_memory(true, seed), history)?;
        let until = simulation.now + Duration::from_secs(2);
        let now = simulation.now;
        simulation.report(|core| core.drain(until, replay, now));
        simulation.poll();
        for (answer, disk_is_quick) in answers {
            simulation.answer(0, answer);
            simulation.poll();
            if disk_is_quick {
                simulation.run_effect(Disturbance::None);
                simulation.poll();
            }
        }
        simulation.now += Duration::from_secs(2);
        simulation.poll();
        prop_assert!(simulation.core.is_stopped());
        while !simulation.effects.is_empty() {
            simulation.run_effect(Disturbance::None);
        }
        simulation.check_ledger().map_err(TestCaseError::fail)?;
        prop_assert_eq!(simulation.core.ledger().buffered + simulation.core.ledger().in_flight, 0);
        let lost_at_the_end = simulation.core.ledger().dropped.get("shutdown").copied().unwrap_or(0);
        prop_assert_eq!(lost_at_the_end, 0);
    }
}
