//! Refusals: the endpoint's and the batch's, in scenarios with a name.

use std::collections::HashSet;
use std::time::Duration;

use super::Setup;
use super::replicas::{Balancing, Replica, Reply};
use super::world::{HOUR, Load, MINUTE, OPEN, World, ms, secs};

/// Ten spans every 200 ms: fifty spans a second fill the buffer of `Setup::usual` in 40 s, as 5,000 a second fill one
/// of the default size in two.
const BUSY: Load = Load { spans: 10, every: ms(200) };

/// Two spans every two seconds: each refusal follows an acceptance within 3 s.
const CALM: Load = Load { spans: 2, every: secs(2) };

/// All waits of a suspect end after this time.
const SUSPECT: Duration = secs(10 * 60);

fn loaded(replicas: Vec<Replica>, setup: Setup, load: Load) -> World {
    let mut world = World::new(replicas, setup);
    world.load = Some(load);
    world.run(secs(10));
    assert!(world.waiting() <= load.spans as u64, "the world works before the trouble; {}", world.state());
    world
}

fn accepting(count: usize) -> Vec<Replica> {
    vec![Replica::accepting(); count]
}

/// The peer accepts everything from now on: all that waits is delivered within a probe and the time of the backlog.
#[track_caller]
fn repair(world: &mut World) {
    world.peer.all(Reply::Accept);
    world.run_to("all files are delivered", OPEN + 2 * MINUTE, |world| world.ledger().in_fallback == 0);
    world.load = None;
    world.run_to("all batches are delivered", secs(10), |world| world.waiting() == 0);
    world.assert_nothing_missing();
}

#[test]
fn an_expired_token_of_ten_minutes_loses_nothing_and_all_is_delivered_after_the_repair() {
    let mut world = loaded(accepting(1), Setup::usual(), BUSY);
    world.peer.all(Reply::Status(401));
    world.run(10 * MINUTE);
    world.assert_nothing_lost();
    assert!(world.ledger().in_fallback > 20_000, "memory went to files: {}", world.state());
    repair(&mut world);
    world.assert_nothing_lost();
}

#[test]
fn a_refusal_of_everything_for_an_hour_makes_no_dead_letter_and_opens_the_breaker() {
    for status in [400, 422, 401, 403, 404, 302, 500, 501] {
        let load = Load { spans: 5, every: secs(1) };
        let mut world = loaded(accepting(2), Setup::usual(), load);
        world.peer.all(Reply::Status(status));
        world.run(HOUR);
        world.assert_nothing_lost();
        assert!(world.trips() >= 30, "the breaker opens at each probe after {status}: {}", world.state());
        repair(&mut world);
        world.assert_nothing_lost();
    }
}

#[test]
fn without_files_a_refusal_of_everything_loses_spans_to_the_limits_of_memory_alone() {
    for status in [400, 401, 500] {
        let mut world = loaded(accepting(1), Setup { fallback: false, ..Setup::usual() }, BUSY);
        world.peer.all(Reply::Status(status));
        world.run(10 * MINUTE);
        let reasons = world.ledger().dropped.keys().copied().collect::<HashSet<_>>();
        assert!(reasons.is_subset(&HashSet::from(["buffer_full", "buffer_age"])), "{status}: {}", world.state());
        assert!(world.ledger().buffered >= 1_500, "memory is full of the newest: {}", world.state());
        world.load = None;
        world.peer.all(Reply::Accept);
        world.run_to("all that is left is delivered", OPEN + MINUTE, |world| world.waiting() == 0);
        assert_eq!(world.missing().len() as u64, world.ledger().lost());
    }
}

#[test]
fn a_stale_replica_of_three_makes_no_dead_letter_and_the_others_keep_their_throughput() {
    for balancing in [Balancing::ByConnection, Balancing::ByRequest] {
        for (stale, status) in [(0, 401), (1, 403), (2, 404)] {
            let mut world = loaded(accepting(3), Setup::usual(), BUSY);
            world.peer.balancing = balancing;
            world.peer.replicas[stale].reply = Reply::Status(status);
            for _ in 0..20 {
                world.run(MINUTE);
                assert!(world.waiting() <= 30 * 50, "more than the spans of 30 s wait: {}", world.state());
            }
            assert_eq!(world.trips(), 0, "the breaker opened: {}", world.state());
            world.assert_nothing_lost();
            world.load = None;
            world.peer.all(Reply::Accept);
            world.run_to("the suspects are delivered", SUSPECT + MINUTE, |world| world.waiting() == 0);
            world.assert_nothing_missing();
            world.assert_nothing_lost();
        }
    }
}

#[test]
fn a_firewall_that_refuses_one_content_makes_a_dead_letter_of_that_batch_after_twelve_refusals() {
    for (status, refusals) in [(403, 12), (500, 6)] {
        let mut setup = Setup::usual();
        setup.limits.max_age = 3 * HOUR;
        let mut world = loaded(accepting(1), setup, CALM);
        let bad = world.offer_bad(4, Reply::Status(status));
        world.run_to("the dead letter", 2 * HOUR, |world| !world.oracle.letters.is_empty());
        world.run(MINUTE);
        assert_eq!(world.oracle.letters, HashSet::from([bad.clone()]));
        assert_eq!((world.ledger().dead_lettered, world.ledger().lost()), (4, 0));
        let calls = world.calls_of(&bad);
        assert_eq!(calls.len(), refusals, "calls of the batch: {}", world.state());
        let mut wait = secs(10);
        for pair in calls.windows(2) {
            let gap = pair[1].at - pair[0].answered.expect("answered");
            // A suspect waits for its time, then for its turn.
            assert!(gap >= wait && gap <= wait + wait / 10 + secs(5), "{gap:?} instead of {wait:?}");
            wait = (2 * wait).min(SUSPECT);
        }
        // No other batch waited longer than for a call beside it.
        let slow = (1..bad[0]).chain(bad[3] + 1..).map_while(|span| world.delay(span)).max();
        assert!(slow < Some(secs(1)), "{slow:?}");
    }
}

#[test]
fn a_firewall_that_refuses_one_content_makes_a_dead_letter_of_the_stored_batch_too() {
    let mut world = loaded(accepting(1), Setup::usual(), CALM);
    let bad = world.offer_bad(4, Reply::Status(403));
    world.run_to("a file", 6 * MINUTE, |world| world.ledger().in_fallback == 4);
    let in_memory = world.calls_of(&bad).len();
    world.run_to("the dead letter", 3 * HOUR, |world| !world.oracle.letters.is_empty());
    world.run(MINUTE);
    assert_eq!(world.oracle.letters, HashSet::from([bad.clone()]));
    assert_eq!(world.calls_of(&bad).len() - in_memory, 12, "a spill begins the counts anew: {}", world.state());
    assert_eq!((world.ledger().dead_lettered, world.ledger().lost()), (4, 0));
}

#[test]
fn a_bad_batch_becomes_a_dead_letter_with_the_next_acceptance() {
    let mut world = loaded(accepting(1), Setup::usual(), BUSY);
    let bad = world.offer_bad(4, Reply::Status(400));
    world.run_to("the dead letter", secs(1), |world| !world.oracle.letters.is_empty());
    world.run(MINUTE);
    assert_eq!(world.oracle.letters, HashSet::from([bad.clone()]));
    assert_eq!(world.calls_of(&bad).len(), 1);
    assert_eq!((world.ledger().dead_lettered, world.ledger().lost()), (4, 0));
}

#[test]
fn five_bad_batches_in_a_row_delay_no_good_one_beside_others() {
    let mut world = loaded(accepting(1), Setup::usual(), BUSY);
    let bad = [(); 5].map(|()| world.offer_bad(4, Reply::Status(400)));
    let good = [(); 5].map(|()| world.offer(4)).concat();
    world.run_to("the good ones", secs(1), |world| world.is_delivered(&good));
    world.run(secs(1));
    assert_eq!(world.oracle.letters, HashSet::from(bad));
    assert_eq!(world.trips(), 0);
}

#[test]
fn five_bad_batches_after_a_pause_delay_good_ones_for_one_probe() {
    let mut world = loaded(accepting(1), Setup::usual(), BUSY);
    world.load = None;
    world.run(MINUTE);
    let bad = [(); 5].map(|()| world.offer_bad(4, Reply::Status(400)));
    let good = [(); 5].map(|()| world.offer(4)).concat();
    // Four waits of the backoff, 25 % longer at most, then the breaker is open. The calls until then meet each of the
    // bad ones once: an endpoint that refuses is asked with batches that were not refused yet.
    let waits = secs(1 + 2 + 4 + 8) * 5 / 4;
    world.run_to("the good ones", waits + OPEN + secs(1), |world| world.is_delivered(&good));
    world.load = Some(CALM);
    world.run(MINUTE);
    assert_eq!(world.oracle.letters, HashSet::from(bad));
    assert_eq!(world.ledger().lost(), 0);
}

#[test]
fn one_span_an_hour_with_a_bad_key_is_sent_by_itself_once_the_key_works() {
    for fallback in [true, false] {
        let mut setup = Setup { fallback, ..Setup::usual() };
        setup.limits.max_age = if fallback { setup.limits.max_age } else { 24 * HOUR };
        let mut world = World::new(vec![Replica::new(Reply::Status(401))], setup);
        world.load = Some(Load { spans: 1, every: HOUR });
        world.run(5 * HOUR + HOUR / 2);
        world.assert_nothing_lost();
        assert_eq!(world.waiting(), 6);
        world.peer.all(Reply::Accept);
        world.run_to("all are delivered", OPEN + secs(10), |world| world.waiting() == 0);
        world.assert_nothing_lost();
    }
}

#[test]
fn one_refused_batch_in_a_quiet_service_is_sent_again_after_its_backoff() {
    for status in [400, 401, 500] {
        let mut world = World::new(vec![Replica::new(Reply::Status(status))], Setup::usual());
        let batch = world.offer(3);
        world.run(ms(500));
        world.peer.all(Reply::Accept);
        world.run_to("its delivery", secs(1), |world| world.is_delivered(&batch));
        world.run(HOUR);
        world.assert_nothing_lost();
        assert_eq!(world.sent.len(), 2, "{status}: {}", world.state());
    }
}

#[test]
fn a_suspect_in_a_quiet_service_is_sent_again_after_ten_seconds() {
    for status in [400, 401, 500] {
        let mut world = World::new(accepting(1), Setup::usual());
        world.offer(3);
        world.run(secs(1));
        world.peer.all(Reply::Status(status));
        let suspect = world.offer(3);
        world.run(secs(1));
        world.peer.all(Reply::Accept);
        let waited = world.run_to("its delivery", secs(11), |world| world.is_delivered(&suspect));
        assert!(waited > secs(8), "a suspect waits for 10 s: {waited:?}");
        world.run(HOUR);
        world.assert_nothing_lost();
        assert_eq!(world.sent.len(), 3, "{status}: {}", world.state());
    }
}

#[test]
fn the_waits_of_suspects_end_when_a_refusing_endpoint_accepts_again() {
    let mut setup = Setup::usual();
    setup.limits.max_age = 3 * HOUR;
    let mut world = World::new(accepting(1), setup);
    world.offer(3);
    world.run(secs(1));
    let suspect = world.offer_bad(3, Reply::Status(403));
    // Acceptances keep it a suspect, whose wait grows to ten minutes.
    world.load = Some(CALM);
    world.run(15 * MINUTE);
    world.load = None;
    let calls = world.calls_of(&suspect).len();
    assert!((6..=8).contains(&calls), "{calls} calls in 15 minutes: {}", world.state());
    // Now all are refused, outside the three seconds, and then none.
    world.run(secs(10));
    world.peer.all(Reply::Status(403));
    let other = world.offer(3);
    world.run(ms(500));
    world.peer.all(Reply::Accept);
    world.run_to("both deliveries", secs(5), |world| world.is_delivered(&suspect) && world.is_delivered(&other));
    world.assert_nothing_lost();
}

#[test]
fn refusals_of_the_endpoint_clear_those_that_do_not_count_yet() {
    let mut world = loaded(accepting(1), Setup::usual(), BUSY);
    world.load = None;
    world.run(secs(1));
    // Refused once within three seconds after an acceptance: a suspect.
    world.peer.all(Reply::Status(400));
    let suspect = world.offer(4);
    world.run(secs(5));
    // The refusal of another batch, five seconds after the acceptance, is the endpoint's.
    let other = world.offer(4);
    world.run(ms(500));
    world.peer.all(Reply::Accept);
    world.run_to("both deliveries", secs(5), |world| world.is_delivered(&suspect) && world.is_delivered(&other));
    world.assert_nothing_lost();
}

#[test]
fn while_a_tenth_of_the_calls_is_refused_no_batch_becomes_a_dead_letter() {
    let mut setup = Setup::usual();
    setup.limits.max_age = 10 * HOUR;
    let mut world = loaded(accepting(1), setup, CALM);
    world.peer.replicas[0].now_and_then = Some((6, Reply::Status(403)));
    let bad = world.offer_bad(4, Reply::Status(403));
    world.run(3 * HOUR);
    assert!(world.calls_of(&bad).len() > 12, "{}", world.state());
    world.assert_nothing_lost();
    world.peer.replicas[0].now_and_then = None;
    world.run_to("the dead letter", HOUR, |world| !world.oracle.letters.is_empty());
    world.run(MINUTE);
    assert_eq!(world.oracle.letters, HashSet::from([bad]));
    world.load = None;
    world.run_to("all others are delivered", SUSPECT + MINUTE, |world| world.waiting() == 0);
}

#[test]
fn twenty_refusals_in_a_row_are_the_endpoints() {
    // A hundred batches at once, of which each is refused within three seconds after an acceptance.
    let mut world = loaded(accepting(1), Setup::usual(), BUSY);
    world.load = None;
    world.run(secs(1));
    world.peer.all(Reply::Status(403));
    world.offer(4);
    for _ in 0..100 {
        world.offer(4);
    }
    let begin = world.now();
    world.run(secs(5));
    let calls = world.sent_since(begin).len();
    assert!((20..=40).contains(&calls), "{calls} calls: {}", world.state());
    world.peer.all(Reply::Accept);
    world.run_to("all are delivered", OPEN + secs(10), |world| world.waiting() == 0);
    world.assert_nothing_lost();
}

#[test]
fn in_strict_mode_every_refusal_makes_a_dead_letter_at_once() {
    for status in [400, 401, 403, 500] {
        for idle in [ms(200), MINUTE] {
            let mut world = loaded(accepting(1), Setup { strict: true, ..Setup::usual() }, BUSY);
            world.load = None;
            world.run(idle);
            world.peer.all(Reply::Status(status));
            let first = world.offer(4);
            world.run(secs(1));
            assert_eq!(world.oracle.letters, HashSet::from([first.clone()]), "{status}: {}", world.state());
            world.run(HOUR);
            assert_eq!(world.calls_of(&first).len(), 1, "no refused request is repeated");
            assert_eq!((world.ledger().dead_lettered, world.ledger().lost()), (4, 0));
        }
    }
}

#[test]
fn a_kill_or_a_shutdown_amid_refusals_loses_no_stored_batch() {
    for is_kill in [true, false] {
        let mut world = loaded(accepting(2), Setup::usual(), BUSY);
        world.peer.all(Reply::Status(401));
        for _ in 0..3 {
            world.run(3 * MINUTE);
            world.assert_nothing_lost();
            match is_kill {
                true => world.kill(),
                false => _ = world.shut_down(secs(3)),
            }
        }
        assert!(world.killed.len() <= 3 * 2_000, "only memory is lost: {}", world.killed.len());
        assert!(is_kill || world.killed.is_empty());
        repair(&mut world);
        world.assert_nothing_lost();
    }
}
