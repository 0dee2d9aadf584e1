//! Replay: stored batches beside live ones, and stored batches that always fail.

use std::collections::HashSet;

use rand::SeedableRng as _;
use rand::rngs::SmallRng;

use super::replicas::{Balancing, Replica, Reply};
use super::world::{HOUR, Load, MINUTE, OPEN, World, ms, secs};
use super::{Disturbance, Setup};
use crate::core::Effect;
use crate::seams::settings::ReplayOrder;

const LIVE: Load = Load { spans: 4, every: ms(400) };

/// A world whose files hold one batch that is answered by `reply` and `count` good ones of three spans; its peer
/// accepts again from now on. Returns the spans of the bad batch and of the good ones.
fn stored(setup: Setup, reply: Reply, count: usize) -> (World, Vec<u64>, Vec<u64>) {
    let mut world = World::new(vec![Replica::new(Reply::ConnectionRefused)], setup);
    let bad = world.offer_bad(3, reply);
    let good = (0..count).map(|_| world.offer(3)).collect::<Vec<_>>().concat();
    world.run_to("files", 10 * MINUTE, |world| world.ledger().in_fallback == 3 + 3 * count as u64);
    world.peer.replicas[0].reply = Reply::Accept;
    (world, bad, good)
}

#[test]
fn a_stored_batch_that_always_fails_blocks_no_other_and_no_live_one() {
    for reply in [Reply::Status(502), Reply::Reset, Reply::TimeOut { stored: false }, Reply::Status(403)] {
        let (mut world, bad, good) = stored(Setup::usual(), reply, 60);
        world.load = Some(LIVE);
        world.run_to("the good files", OPEN + 2 * MINUTE, |world| world.is_delivered(&good));
        // Live batches may wait for one call of the bad batch, or for a probe that replaces it.
        world.run(10 * MINUTE);
        let begin = world.simulation.next_span;
        world.run(HOUR / 2);
        let slow = (begin..).map_while(|span| world.delay(span)).max();
        assert!(slow < Some(secs(12)), "live spans wait for {slow:?} after {reply:?}: {}", world.state());
        world.load = None;
        world.run(secs(30));
        let expected = HashSet::from([bad]);
        assert!(world.oracle.letters.is_subset(&expected), "{:?}", world.oracle.letters);
        assert_eq!(world.ledger().lost(), 0);
    }
}

#[test]
fn a_stored_batch_that_fails_twelve_times_beside_others_becomes_a_dead_letter() {
    for reply in [Reply::Status(502), Reply::Reset, Reply::Status(403)] {
        let (mut world, bad, good) = stored(Setup::usual(), reply, 5);
        world.load = Some(LIVE);
        world.run_to("the dead letter", 3 * HOUR, |world| !world.oracle.letters.is_empty());
        world.run(secs(10));
        assert_eq!(world.oracle.letters, HashSet::from([bad]));
        assert!(world.is_delivered(&good));
        assert_eq!((world.ledger().dead_lettered, world.ledger().in_fallback), (3, 0));
    }
}

#[test]
fn the_counts_of_a_stored_batch_survive_restarts() {
    let (mut world, bad, _) = stored(Setup::usual(), Reply::Status(403), 5);
    world.load = Some(LIVE);
    let mut processes = 0;
    while world.oracle.letters.is_empty() {
        processes += 1;
        assert!(processes < 200, "no dead letter: {}", world.state());
        let before = world.calls_of(&bad).len();
        let is_tried = |world: &World| world.calls_of(&bad).len() > before + 1 || !world.oracle.letters.is_empty();
        world.run_to("two calls of the batch", 2 * HOUR, is_tried);
        world.run(secs(30));
        world.kill();
    }
    assert!(processes >= 3, "{processes} processes");
    assert_eq!(world.oracle.letters, HashSet::from([bad]));
}

#[test]
fn a_live_batch_goes_past_a_wait_that_only_replay_caused() {
    for reply in [Reply::Status(502), Reply::Reset, Reply::Status(401)] {
        let (mut world, bad, _) = stored(Setup::usual(), reply, 0);
        let before = world.trips();
        world.run_to("failures of the replay", HOUR, |world| world.trips() > before + 1);
        let first = world.sent.partition_point(|sent| sent.at < world.now());
        for _ in 0..20 {
            world.run(secs(7));
            let live = world.offer(3);
            world.run_to("its delivery at once", secs(1), |world| world.is_delivered(&live));
        }
        let stored = world.sent[first..].iter().filter(|sent| sent.spans == bad).count();
        assert!(stored <= 60, "{stored} calls for the stored batch: {}", world.state());
    }
}

#[test]
fn a_merged_request_with_one_bad_record_makes_no_dead_letter_of_a_neighbour() {
    for reply in [Reply::Status(400), Reply::Status(403), Reply::Status(500), Reply::Status(502), Reply::Reset] {
        let (mut world, bad, good) = stored(Setup::usual(), reply, 20);
        world.load = Some(LIVE);
        world.run_to("the neighbours", OPEN + 2 * MINUTE, |world| world.is_delivered(&good));
        world.run_to("the dead letter", 3 * HOUR, |world| !world.oracle.letters.is_empty());
        world.run(secs(10));
        assert_eq!(world.oracle.letters, HashSet::from([bad.clone()]));
        let alone = world.calls_of(&bad).iter().filter(|sent| !sent.live).count();
        let expected = match reply {
            Reply::Status(400) => 1,
            Reply::Status(500) => 6,
            _ => 12,
        };
        // Refusals that are the endpoint's do not count.
        assert!(alone >= expected, "{alone} calls for the bad record alone");
    }
}

/// The marks of the first groups are not written: the disk thread merges the bad record with its neighbours again.
#[test]
fn a_record_that_was_refused_alone_shares_no_later_request_although_its_mark_is_missing() {
    let (mut world, bad, good) = stored(Setup::usual(), Reply::Status(403), 5);
    world.load = Some(LIVE);
    let mut panics = 3;
    world.disturbance = Box::new(move |effect| {
        let panics_now = panics > 0 && matches!(effect, Effect::SettleGroup(_));
        panics -= u32::from(panics_now);
        if panics_now { Disturbance::Panic } else { Disturbance::None }
    });
    world.run_to("the good files", OPEN + 2 * MINUTE, |world| world.ledger().in_fallback == 3);
    assert!(world.is_delivered(&good));
    let alone = world.calls_of(&bad).iter().filter(|sent| !sent.live).map(|sent| sent.at).min().expect("a call");
    let repeated = world.sent_since(alone).iter().filter(|sent| good.contains(&sent.spans[0])).count();
    assert!(repeated > 0, "a group without its marks is sent again: {}", world.state());
    let together = world.sent_since(alone).iter().find(|sent| sent.holds(bad[0]) && sent.spans != bad);
    assert!(together.is_none(), "{together:?}: {}", world.state());
}

#[test]
fn the_pieces_of_a_stored_batch_do_not_count_one_by_one() {
    let mut world = World::new(vec![Replica::new(Reply::ConnectionRefused)], Setup::usual());
    // All spans have the same size.
    world.simulation.next_span = 1 << 14;
    let bad = world.offer_bad(16, Reply::Status(403));
    world.run_to("a file", 10 * MINUTE, |world| world.ledger().in_fallback == 16);
    // The peer takes requests of one span alone.
    world.peer.replicas[0].reply = Reply::Accept;
    world.load = Some(Load { spans: 1, every: ms(500) });
    world.run_to("a single span", OPEN + secs(10), |world| world.sent.iter().any(|sent| sent.spans.len() == 1));
    world.peer.replicas[0].max_bytes =
        world.sent.iter().filter(|sent| sent.spans.len() == 1).map(|sent| sent.bytes).max();
    world.run_to("the dead letter", 6 * HOUR, |world| world.ledger().dead_lettered == 16);
    // The oracle knows the rule; this is its sum.
    for span in bad {
        let refused = world.sent.iter().filter(|sent| sent.holds(span) && sent.reply == Reply::Status(403)).count();
        assert!(refused >= 12, "span {span} was refused {refused} times: {}", world.state());
    }
}

#[test]
fn of_a_stored_batch_that_is_cut_only_the_refused_pieces_become_dead_letters() {
    let mut world = World::new(vec![Replica::new(Reply::ConnectionRefused)], Setup::usual());
    // All spans have the same size.
    world.simulation.next_span = 1 << 14;
    let stored = world.offer(16);
    world.run_to("a file", 10 * MINUTE, |world| world.ledger().in_fallback == 16);
    let replica = &mut world.peer.replicas[0];
    replica.reply = Reply::Accept;
    replica.bad.push(([stored[5]].into(), Reply::Status(400)));
    // The peer takes requests of one span alone.
    let single = world.simulation.payload(stored[0], 1).bytes().len();
    world.peer.replicas[0].max_bytes = Some(single);
    world.load = Some(Load { spans: 1, every: ms(500) });
    world.run_to("the end of the stored batch", 6 * HOUR, |world| world.ledger().in_fallback == 0);
    assert_eq!(world.oracle.letters, HashSet::from([vec![stored[5]]]), "{}", world.state());
    assert!(stored.iter().all(|span| world.is_delivered(&[*span]) != (*span == stored[5])), "{}", world.state());
}

#[test]
fn small_files_are_merged_into_few_requests() {
    let (mut world, _, good) = stored(Setup::usual(), Reply::Accept, 60);
    let begin = world.now();
    world.run_to("all files", OPEN + secs(10), |world| world.ledger().in_fallback == 0);
    assert!(world.is_delivered(&good));
    let calls = world.sent_since(begin).len();
    assert!(calls <= 6, "{calls} requests for 61 small files: {}", world.state());
    assert!(world.sent.iter().all(|sent| sent.bytes <= 100_000));
    assert_eq!(world.simulation.duplicates, 0);
}

#[test]
fn replay_keeps_its_share_beside_live_batches() {
    // Requests of eight stored batches at most.
    let setup = Setup { request_max_bytes: 3_000, ..Setup::usual() };
    let (mut world, _, good) = stored(setup, Reply::Accept, 400);
    // Live batches always wait, and take less than half of the buffer.
    world.peer.replicas[0].latency = secs(1);
    world.load = Some(Load { spans: 2, every: secs(1) });
    for _ in 0..100 {
        world.offer(2);
    }
    let begin = world.now();
    world.run_to("all files", 20 * MINUTE, |world| world.is_delivered(&good));
    let (live, stored) = world.sent_since(begin).iter().fold((0, 0), |(live, stored), sent| match sent.live {
        true => (live + 1, stored),
        false => (live, stored + 1),
    });
    assert!(stored >= 30 && stored * 5 >= live, "{stored} replays beside {live} live calls: {}", world.state());
    world.assert_nothing_lost();
}

#[test]
fn a_kill_amid_replay_repeats_at_most_the_calls_and_marks_of_that_moment() {
    let (mut world, ..) = stored(Setup::usual(), Reply::Accept, 300);
    world.recounts = true;
    while world.ledger().in_fallback > 0 {
        let before = world.sent.len();
        let is_reached = |world: &World| world.sent.len() >= before + 2 || world.ledger().in_fallback == 0;
        world.run_to("two calls", 2 * OPEN, is_reached);
        world.kill();
    }
    world.assert_nothing_missing();
    world.assert_nothing_lost();
}

/// Half of the calls reach a replica that always fails, and new batches come about as fast as the other one can take
/// them: batches that were stored and failed before are delivered all the same.
#[test]
fn new_batches_do_not_keep_stored_ones_waiting_for_ever() {
    for seed in 0..12 {
        let replay_order = if seed % 2 == 0 { ReplayOrder::Oldest } else { ReplayOrder::Newest };
        let mut setup = Setup { seed, replay_order, ..Setup::usual() };
        setup.limits.max_count = 200;
        let mut world = World::new(vec![Replica::new(Reply::ConnectionRefused); 2], setup);
        world.peer.balancing = Balancing::ByRequest;
        world.peer.chance = Some(SmallRng::seed_from_u64(seed));
        world.load = Some(Load { spans: 4, every: secs(2) });
        world.run(secs(200));
        let old = (1..world.simulation.next_span).collect::<Vec<_>>();
        world.load = None;
        world.run(5 * MINUTE);
        world.peer.replicas[0].reply = Reply::Accept;
        world.peer.replicas[1].reply = Reply::Status(503);
        world.load = Some(Load { spans: 2, every: secs(2) });
        world.run_to("the batches of the outage", 6 * HOUR, |world| world.is_delivered(&old));
    }
}

/// Groups hold 64 batches: of a hundred stored ones the first group leaves 36 behind.
#[test]
fn the_order_decides_which_stored_batches_are_sent_first() {
    for (replay_order, first) in [(ReplayOrder::Oldest, 0..64), (ReplayOrder::Newest, 36..100)] {
        let setup = Setup { replay_order, ..Setup::usual() };
        let mut world = World::new(vec![Replica::new(Reply::ConnectionRefused)], setup);
        let batches = (0..100).map(|_| world.offer(3)).collect::<Vec<_>>();
        world.run_to("files", 10 * MINUTE, |world| world.ledger().in_fallback == 300);
        world.peer.replicas[0].reply = Reply::Accept;
        let begin = world.now();
        world.run_to("their delivery", OPEN + 2 * MINUTE, |world| world.ledger().in_fallback == 0);
        let sent = world.sent_since(begin).iter().flat_map(|sent| sent.spans.clone()).take(3 * 64);
        let expected = batches[first].concat().into_iter().collect::<HashSet<_>>();
        assert_eq!(sent.collect::<HashSet<_>>(), expected, "{replay_order:?}");
        world.assert_nothing_lost();
    }
}

/// A collector that answers after 400 ms, and as many stored batches in calls as may be.
#[test]
fn a_live_batch_goes_out_at_once_beside_stored_ones() {
    let latency = ms(400);
    let setup = Setup { request_max_spans: 3, ..Setup::usual() };
    let mut world = World::new(vec![Replica::new(Reply::ConnectionRefused)], setup);
    (0..600).for_each(|_| drop(world.offer(3)));
    world.run_to("files", 10 * MINUTE, |world| world.ledger().in_fallback == 1_800);
    world.peer.replicas[0].reply = Reply::Accept;
    world.peer.replicas[0].latency = latency;
    let half = |world: &World| world.ledger().in_fallback < 1_200;
    world.run_to("more and more calls at a time", OPEN + 2 * MINUTE, half);
    let begin = world.now();
    let mut live = Vec::new();
    while world.ledger().in_fallback > 300 {
        live.push(world.offer(3));
        world.run(ms(270));
    }
    world.run(latency * 2);
    let stored = world.sent_since(begin).iter().filter(|sent| !sent.live).count();
    assert!(stored > 4 * live.len() && live.len() > 10, "{stored} calls beside {}: {}", live.len(), world.state());
    // The first ones meet stored batches that have taken all places but one.
    let slowest = live[3..].iter().filter_map(|spans| world.delay(spans[0])).max();
    assert!(slowest <= Some(latency + ms(1)), "a live batch waits for {slowest:?}: {}", world.state());
    assert!(live.iter().all(|spans| world.is_delivered(spans)));
}
