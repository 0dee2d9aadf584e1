//! Several endpoints: calls move to another one, and return. `watch` has the rules that hold in every world.

use std::time::Duration;

use proptest::prelude::*;

use super::replicas::{CALL, Replica, Reply};
use super::world::{HOUR, Load, MINUTE, OPEN, World, ms, secs};
use super::{Disturbance, Setup, retry_now};
use crate::report::position::Position;

const DELAY: Duration = secs(30);

/// The time between two trial batches.
const TRIAL: Duration = secs(3);

fn world(endpoints: usize) -> World {
    let mut world = World::new(vec![Replica::accepting()], Setup { endpoints, ..Setup::usual() });
    world.recounts = true;
    world.load = Some(Load { spans: 10, every: ms(100) });
    world.run(secs(5));
    world
}

fn set(world: &mut World, endpoint: usize, reply: Reply) {
    world.peer_at(endpoint).all(reply);
}

/// The calls to this endpoint since the `begin`.
fn calls(world: &World, endpoint: usize, begin: std::time::Instant) -> usize {
    world.sent_since(begin).iter().filter(|sent| sent.endpoint == endpoint).count()
}

#[test]
fn a_collector_that_refuses_connections_costs_no_span_and_no_time() {
    let mut world = world(2);
    set(&mut world, 0, Reply::ConnectionRefused);
    let begin = world.now();
    let is_at_second = |world: &World| world.sent_since(begin).iter().any(|sent| sent.endpoint == 1);
    let took = world.run_to("a call to the second", secs(1), is_at_second);
    assert!(took <= ms(200), "{took:?}");
    world.run(10 * MINUTE);
    let last = world.offer(1);
    world.run(secs(1));
    assert!(world.is_delivered(&last) && world.delay(last[0]) <= Some(ms(100)));
    world.assert_nothing_lost();
    assert_eq!(world.simulation.disk.usage().files, 0, "no batch waits: none leaves memory; {}", world.state());
    // Each trial finds the first one as it was: its backoff and its breaker hold.
    assert!(calls(&world, 0, begin) <= 20, "{} calls to a dead collector", calls(&world, 0, begin));
    // After its return the trial batches are delivered, and then all are.
    set(&mut world, 0, Reply::Accept);
    let returned = world.run_to("the return", OPEN + DELAY + 2 * TRIAL, |world| world.in_use() == 0);
    assert!(returned >= DELAY, "{returned:?}");
    world.run(MINUTE);
    assert_eq!(world.watch.moves.len(), 2, "{:?}", world.watch.moves);
    world.assert_nothing_lost();
}

#[test]
fn a_black_hole_moves_calls_after_one_timeout_and_no_batch_is_at_two_collectors_at_once() {
    let mut world = world(2);
    set(&mut world, 0, Reply::TimeOut { stored: true });
    let begin = world.now();
    let took = world.run_to("the move", CALL + secs(1), |world| world.in_use() == 1);
    assert!(took >= CALL - secs(1), "{took:?}");
    world.run(5 * MINUTE);
    world.load = None;
    world.run(MINUTE);
    world.assert_nothing_lost();
    world.assert_nothing_missing();
    // Those that were out when the hole opened, and one at each trial: counted, and no others.
    let trials = calls(&world, 0, begin) as u64;
    assert!(
        world.simulation.duplicates <= 10 * trials,
        "{} spans twice in {trials} calls",
        world.simulation.duplicates
    );
    assert!(trials <= 8 + 12, "{trials}");
}

#[test]
fn a_collector_that_refuses_the_sender_moves_calls_and_no_batch_waits_for_itself() {
    let mut world = world(2);
    set(&mut world, 0, Reply::Status(401));
    let took = world.run_to("the move", secs(5), |world| world.in_use() == 1);
    // The refusals of the first three seconds may be about their batches, which wait 10 s until the move.
    world.load = None;
    world.run_to("the deliveries", secs(2), |world| world.waiting() == 0);
    world.assert_nothing_lost();
    world.assert_nothing_missing();
    assert!(took <= secs(4), "{took:?}");
}

#[test]
fn refusals_of_batches_and_short_pauses_move_nothing() {
    for reply in [
        Reply::Status(400),
        Reply::Status(413),
        Reply::Status(500),
        Reply::Status(503),
        Reply::Reset,
        Reply::Throttle(secs(20)),
    ] {
        let mut world = world(2);
        set(&mut world, 0, reply);
        world.run(secs(7));
        assert_eq!(world.in_use(), 0, "{reply:?}: {}", world.state());
    }
}

#[test]
fn an_open_breaker_and_a_long_pause_move_calls() {
    for (reply, bound) in
        [(Reply::Status(503), secs(25)), (Reply::Throttle(secs(40)), secs(2)), (Reply::Reset, secs(25))]
    {
        let mut world = world(2);
        set(&mut world, 0, reply);
        world.run_to("the move", bound, |world| world.in_use() == 1);
        world.run(MINUTE);
        world.load = None;
        world.run(MINUTE);
        assert_eq!(world.missing(), Vec::<u64>::new(), "{reply:?}");
        world.assert_nothing_lost();
    }
}

#[test]
fn a_collector_that_flaps_each_second_gets_trials_only() {
    let mut world = world(2);
    set(&mut world, 0, Reply::ConnectionRefused);
    world.run_to("the move", secs(1), |world| world.in_use() == 1);
    let begin = world.now();
    for second in 0..600 {
        let reply = if second % 2 == 0 { Reply::Accept } else { Reply::ConnectionRefused };
        set(&mut world, 0, reply);
        world.run(secs(1));
    }
    let flaps = calls(&world, 0, begin);
    assert!(flaps <= 210, "a trial each three seconds at most: {flaps}");
    world.assert_nothing_lost();
    let moves = &world.watch.moves;
    assert!(moves.windows(2).all(|two| two[1].0 - two[0].0 >= DELAY || two[1].2 > two[1].1), "{moves:?}");
}

#[test]
fn trials_follow_each_other_after_a_tenth_of_the_delay_and_hold_no_other_batch_up() {
    let mut world = world(2);
    set(&mut world, 0, Reply::ConnectionRefused);
    world.run_to("the move", secs(1), |world| world.in_use() == 1);
    world.run(secs(1));
    set(&mut world, 0, Reply::Accept);
    // A call of the first one takes long: the others go on beside the trial.
    world.peer.replicas[0].latency = secs(2);
    let begin = world.now();
    world.run_to("the return", DELAY + secs(10), |world| world.in_use() == 0);
    let trials = world.sent_since(begin).iter().filter(|sent| sent.endpoint == 0).map(|sent| sent.at);
    let trials = trials.collect::<Vec<_>>();
    assert!(trials.windows(2).take(8).all(|two| two[1] - two[0] >= TRIAL), "{trials:?}");
    assert!(trials.len() >= 9, "{trials:?}");
    let slow = world.sent_since(begin).iter().filter(|sent| sent.endpoint == 1).count();
    assert!(slow >= 290, "{slow} calls of 100 ms in 30 s and more");
}

#[test]
fn while_both_are_down_the_one_whose_wait_ends_first_is_asked_and_takes_all_when_it_returns() {
    for returning in [0, 1] {
        let mut world = world(2);
        for endpoint in [0, 1] {
            set(&mut world, endpoint, Reply::ConnectionRefused);
        }
        let begin = world.now();
        world.run(10 * MINUTE);
        assert!(calls(&world, 0, begin) > 5 && calls(&world, 1, begin) > 5, "both are asked; {}", world.state());
        let moves = world.watch.moves.len();
        assert!(moves <= 1, "a collector that does not answer is no place to move to: {:?}", world.watch.moves);
        set(&mut world, returning, Reply::Accept);
        world.run_to("the deliveries", OPEN + secs(5), |world| world.in_use() == returning);
        world.run_to("the files", 3 * MINUTE, |world| world.ledger().in_fallback == 0);
        world.load = None;
        world.run(MINUTE);
        world.assert_nothing_lost();
        world.assert_nothing_missing();
    }
}

#[test]
fn the_second_with_other_limits_gets_smaller_requests_and_the_first_none_of_them() {
    let mut world = world(2);
    world.load = Some(Load { spans: 40, every: ms(200) });
    world.run(secs(5));
    let whole = world.sent.last().expect("calls").bytes;
    world.others[0].replicas[0].max_bytes = Some(whole / 3);
    set(&mut world, 0, Reply::ConnectionRefused);
    world.run(MINUTE);
    let begin = world.now();
    world.run(secs(10));
    let second = world.sent_since(begin).iter().filter(|sent| sent.endpoint == 1).collect::<Vec<_>>();
    assert!(second.iter().all(|sent| sent.bytes <= whole / 3), "{}", world.state());
    set(&mut world, 0, Reply::Accept);
    world.run_to("the return", OPEN + DELAY + 2 * TRIAL, |world| world.in_use() == 0);
    let begin = world.now();
    world.run(secs(10));
    assert!(world.sent_since(begin).iter().any(|sent| sent.bytes >= whole * 9 / 10), "{}", world.state());
    world.assert_nothing_lost();
}

#[test]
fn the_third_takes_all_while_the_others_are_down_and_each_better_one_takes_them_back() {
    let mut world = world(3);
    set(&mut world, 0, Reply::ConnectionRefused);
    set(&mut world, 1, Reply::ConnectionRefused);
    world.run_to("the third", secs(2), |world| world.in_use() == 2);
    world.run(MINUTE);
    set(&mut world, 1, Reply::Accept);
    world.run_to("the second", OPEN + DELAY + 2 * TRIAL, |world| world.in_use() == 1);
    world.run(MINUTE);
    set(&mut world, 0, Reply::Accept);
    world.run_to("the first", OPEN + DELAY + 2 * TRIAL, |world| world.in_use() == 0);
    let moves = world.watch.moves.iter().map(|(_, from, to)| (*from, *to)).collect::<Vec<_>>();
    assert_eq!(moves, [(0, 1), (1, 2), (2, 1), (1, 0)]);
    world.assert_nothing_lost();
}

#[test]
fn an_operator_has_the_first_one_tried_at_once() {
    let mut world = world(2);
    set(&mut world, 0, Reply::ConnectionRefused);
    world.run(2 * MINUTE);
    let begin = world.now();
    world.simulation.report(retry_now);
    world.run(ms(500));
    assert_eq!(calls(&world, 0, begin), 1, "{}", world.state());
}

#[test]
fn a_shutdown_sends_to_the_second_and_tries_each_once_while_both_are_down() {
    let mut world = world(2);
    set(&mut world, 0, Reply::ConnectionRefused);
    world.run(secs(20));
    let last = world.offer(5);
    let took = world.shut_down(secs(3));
    assert!(world.is_delivered(&last) && took <= secs(1), "{took:?}; {}", world.state());
    for endpoint in [0, 1] {
        set(&mut world, endpoint, Reply::ConnectionRefused);
    }
    world.run(5 * MINUTE);
    let begin = world.now();
    world.offer(5);
    world.load = None;
    let took = world.shut_down(secs(3));
    assert!(took <= secs(1), "{took:?}; {}", world.state());
    for endpoint in [0, 1] {
        assert!((1..=2).contains(&calls(&world, endpoint, begin)), "endpoint {endpoint}: {}", world.state());
        set(&mut world, endpoint, Reply::Accept);
    }
    world.run(3 * MINUTE);
    assert_eq!((world.lost(), world.missing()), (0, Vec::new()), "{}", world.state());
}

#[test]
fn a_bad_batch_becomes_a_dead_letter_by_the_refusals_of_one_collector() {
    let mut world = world(2);
    let first = world.simulation.next_span;
    let spans = (first..first + 3).collect::<std::collections::HashSet<_>>();
    for endpoint in [0, 1] {
        world.peer_at(endpoint).replicas[0].bad.push((spans.clone(), Reply::Status(400)));
    }
    let bad = world.offer(3);
    world.run(secs(20));
    assert_eq!(world.oracle.letters.iter().collect::<Vec<_>>(), [&bad], "{}", world.state());
}

/// Live and stored batches, with spans that were rejected.
#[test]
fn the_ledger_by_endpoint_is_that_of_the_answers() {
    let mut world = world(3);
    for endpoint in 0..3 {
        set(&mut world, endpoint, Reply::ConnectionRefused);
    }
    world.run(5 * MINUTE);
    assert!(world.ledger().in_fallback > 0, "{}", world.state());
    for (endpoint, reply) in [(1, Reply::PartlyReject(2)), (2, Reply::Accept), (0, Reply::PartlyReject(1))] {
        set(&mut world, endpoint, reply);
        world.run(2 * MINUTE);
    }
    world.load = None;
    world.run_to("the deliveries", 10 * MINUTE, |world| world.waiting() == 0);
    for endpoint in 0..3 {
        let (mut delivered, mut rejected) = (0, 0);
        for call in world.sent.iter().filter(|sent| sent.endpoint == endpoint && sent.answered.is_some()) {
            let refused = match call.reply {
                Reply::Accept => 0,
                Reply::PartlyReject(spans) => spans.min(call.spans.len()),
                _ => continue,
            };
            delivered += call.spans.len() - refused;
            rejected += refused;
        }
        let taken = world.simulation.core.accounts.taken(Position::new(endpoint));
        assert_eq!((taken.delivered, taken.rejected), (delivered, rejected), "endpoint {endpoint}; {}", world.state());
        assert!(endpoint == 2 || delivered > 0, "{}", world.state());
    }
}

/// The last call before the end of a program, or the first one of a short one, finds the first collector dead.
#[test]
fn a_shutdown_whose_call_finds_the_first_dead_sends_its_batch_to_the_second() {
    let mut world = world(2);
    world.load = None;
    world.run(secs(1));
    set(&mut world, 0, Reply::ConnectionRefused);
    let last = world.offer(5);
    world.shut_down(secs(3));
    assert!(world.is_delivered(&last), "{}", world.state());
    assert_eq!(world.simulation.disk.usage().files, 0);
}

#[test]
fn a_trial_makes_no_dead_letter_of_a_batch_that_the_endpoint_in_use_takes() {
    for change in [(|replica: &mut Replica| replica.max_bytes = Some(20)) as fn(&mut Replica), |replica| {
        replica.now_and_then = Some((2, Reply::Status(400)))
    }] {
        let mut world = world(2);
        set(&mut world, 0, Reply::ConnectionRefused);
        world.run_to("the move", secs(1), |world| world.in_use() == 1);
        set(&mut world, 0, Reply::Accept);
        change(&mut world.peer.replicas[0]);
        // As long as it is on trial.
        world.run(secs(25));
        world.load = None;
        set(&mut world, 0, Reply::ConnectionRefused);
        world.run_to("the deliveries", secs(20), |world| world.waiting() == 0);
        assert!(calls(&world, 0, world.watch.moves[0].0) > 5, "{}", world.state());
        world.assert_nothing_lost();
        world.assert_nothing_missing();
    }
}

#[test]
fn in_strict_mode_trials_of_a_collector_that_refuses_the_sender_become_rare() {
    let setup = Setup { endpoints: 2, strict: true, ..Setup::usual() };
    let mut world = World::new(vec![Replica::new(Reply::Status(401))], setup);
    world.load = Some(Load { spans: 10, every: ms(100) });
    let begin = world.now();
    world.run(10 * MINUTE);
    let refused = calls(&world, 0, begin);
    assert!(world.in_use() == 1 && refused <= 20, "{refused} batches are dead letters; {}", world.state());
    assert_eq!(world.ledger().dead_lettered, 10 * refused as u64);
}

/// A program that checkpoints each batch, such as a function that is frozen after each request.
#[test]
fn a_checkpoint_waits_for_no_pass_of_another_endpoint_and_a_dead_one_costs_few_of_them() {
    let mut world = world(2);
    set(&mut world, 0, Reply::Status(503));
    world.load = None;
    world.run(secs(1));
    world.offer(5);
    let flushed = world.flush(secs(10), true);
    assert!(flushed.is_ok && flushed.took <= ms(100), "{flushed:?}: {}", world.state());
    set(&mut world, 0, Reply::TimeOut { stored: false });
    for _ in 0..4 {
        world.offer(5);
        world.run(secs(20));
    }
    assert_eq!(world.in_use(), 1, "{}", world.state());
    let mut late = 0;
    for _ in 0..60 {
        world.offer(5);
        let flushed = world.flush(secs(4), true);
        assert!(flushed.is_ok, "{flushed:?}: {}", world.state());
        late += usize::from(flushed.took > ms(200));
        world.run(secs(1));
    }
    assert!(late <= 6, "{late} of 60 checkpoints waited for the trial of a black hole; {}", world.state());
    world.run(MINUTE);
    world.assert_nothing_lost();
}

/// Its time-out is longer than the silence.
#[test]
fn calls_leave_a_collector_that_does_not_answer_for_a_minute_and_do_not_wait_for_its_timeout() {
    for fallback in [true, false] {
        let mut setup = Setup { endpoints: 2, fallback, ..Setup::usual() };
        setup.limits.max_count = 20_000;
        setup.limits.max_bytes = 10_000_000;
        let mut world = World::new(vec![Replica::accepting()], setup);
        world.peer.replicas[0].latency = HOUR;
        let first = world.offer(5);
        world.run(secs(10));
        // Nothing arrives behind this one that would wake the net thread.
        let second = world.offer(5);
        world.run_to("the move", MINUTE, |world| world.is_delivered(&second));
        world.run_to("the batch that was given up", secs(10), |world| world.is_delivered(&first));
        world.load = Some(Load { spans: 5, every: secs(1) });
        world.run(10 * MINUTE);
        assert_eq!(world.in_use(), 1, "{}", world.state());
        world.peer.replicas[0].latency = ms(10);
        world.run_to("the return", 5 * MINUTE, |world| world.in_use() == 0);
        world.load = None;
        world.run(2 * MINUTE);
        world.assert_nothing_lost();
        world.assert_nothing_missing();
    }
}

#[test]
fn stored_batches_alone_leave_a_silent_collector_too() {
    let mut world = world(2);
    for endpoint in [0, 1] {
        set(&mut world, endpoint, Reply::ConnectionRefused);
    }
    world.run(MINUTE);
    world.load = None;
    world.run(6 * MINUTE);
    let ledger = world.ledger();
    assert!(ledger.in_fallback > 0 && ledger.buffered == 0, "{ledger:?}");
    set(&mut world, 0, Reply::Accept);
    world.peer.replicas[0].latency = HOUR;
    world
        .run_to("a call of the first", 2 * OPEN, |world| world.sent.last().is_some_and(|sent| sent.answered.is_none()));
    set(&mut world, 1, Reply::Accept);
    world.run_to("the files", 5 * MINUTE, |world| world.ledger().in_fallback == 0);
    world.assert_nothing_lost();
    world.assert_nothing_missing();
}

/// No call tells any more whether the second one works.
#[test]
fn the_outage_of_an_endpoint_that_calls_have_left_for_a_better_one_is_interrupted() {
    let mut world = world(2);
    for endpoint in [0, 1] {
        set(&mut world, endpoint, Reply::ConnectionRefused);
    }
    world.run(2 * MINUTE);
    assert_eq!(world.simulation.core.outages().len(), 2, "{}", world.state());
    set(&mut world, 0, Reply::Accept);
    world.run_to("the first in use, and its outage over", OPEN + MINUTE, |world| {
        let outages = world.simulation.core.outages();
        world.in_use() == 0 && outages.iter().all(|outage| outage.is_over())
    });
    world.run(10 * MINUTE);
    let records = world.simulation.core.outages().into_iter().map(|outage| (outage.endpoint.index(), outage.of("")));
    let ends = records.map(|(endpoint, record)| (endpoint, record.to.is_some(), record.interrupted));
    let mut ends = ends.collect::<Vec<_>>();
    ends.sort_unstable();
    assert_eq!(ends, [(0, true, false), (1, false, true)]);
    let second = world.simulation.core.endpoints.of(1);
    assert!(second.state() == breaker::State::Closed && second.refusing().is_none() && second.trips() > 0);
    world.assert_nothing_lost();
}

// Random worlds.

#[derive(Clone, Debug)]
struct Phase {
    time: Duration,
    replies: Vec<Reply>,
    max_bytes: Vec<Option<usize>>,
    /// Each endpoint whose bit is set flaps each second.
    flapping: u8,
    load: Load,
    disk: Vec<Disturbance>,
    is_retried: bool,
    end: u8,
}

/// None finds single spans too large: by the rule of sizes they would be dead letters for an hour, without a call.
fn reply() -> impl Strategy<Value = Reply> {
    prop_oneof![
        5 => Just(Reply::Accept),
        3 => Just(Reply::ConnectionRefused),
        1 => prop::sample::select(&[400_u16, 401, 403, 404, 500, 502, 503]).prop_map(Reply::Status),
        1 => any::<bool>().prop_map(|stored| Reply::TimeOut { stored }),
        1 => (0..400_u64).prop_map(|after| Reply::Throttle(secs(after))),
        1 => Just(Reply::Reset),
        1 => Just(Reply::NoCredentials),
        1 => Just(Reply::Unreadable),
    ]
}

prop_compose! {
    fn phase()(
        seconds in prop_oneof![1..30_u64, 30..300_u64],
        replies in prop::collection::vec(reply(), 4),
        max_bytes in prop::collection::vec(prop::option::weighted(0.1, 200..6_000_usize), 4),
        flapping in prop_oneof![3 => Just(0_u8), 1 => any::<u8>()],
        (spans, every) in (1..8_usize, 200..4_000_u64),
        disk in prop_oneof![Just(vec![Disturbance::None]), prop::collection::vec(super::history::disturbance(), 1..12)],
        is_retried in prop::bool::weighted(0.1),
        end in 0..8_u8,
    ) -> Phase {
        let load = Load { spans, every: ms(every) };
        Phase { time: secs(seconds), replies, max_bytes, flapping, load, disk, is_retried, end }
    }
}

fn play(world: &mut World, endpoints: usize, phase: Phase) {
    let Phase { time, replies, max_bytes, flapping, load, disk, is_retried, end } = phase;
    let mut turns = 0;
    world.disturbance = Box::new(move |_| {
        turns += 1;
        disk[turns % disk.len()]
    });
    world.load = Some(load);
    let seconds = time.as_secs();
    let has_flaps = (0..endpoints).any(|at| flapping >> at & 1 == 1);
    for second in 0..if has_flaps { seconds } else { 1 } {
        for at in 0..endpoints {
            let is_up = flapping >> at & 1 == 1 && second % 2 == 1;
            let reply = if is_up { Reply::Accept } else { replies[at] };
            let replica = &mut world.peer_at(at).replicas[0];
            *replica = Replica { max_bytes: max_bytes[at], ..Replica::new(reply) };
        }
        if is_retried && second == 0 {
            world.simulation.report(retry_now);
        }
        world.run(if has_flaps { secs(1) } else { time });
    }
    match end {
        0 => world.kill(),
        1 => _ = world.shut_down(secs(3)),
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, ..ProptestConfig::default() })]

    /// The watch judges each move and each call; `settle` panics where a rule is broken.
    #[test]
    fn in_every_world_of_several_endpoints_nothing_is_lost_once_one_accepts(
        seed: u64,
        endpoints in 2..=4_usize,
        good in 0..4_usize,
        delay in prop::sample::select(&[1_u64, 10, 30]),
        phases in prop::collection::vec(phase(), 1..6),
    ) {
        let mut setup = Setup { seed, endpoints, failback_delay: secs(delay), ..Setup::usual() };
        setup.limits.max_count = 200;
        let mut world = World::new(vec![Replica::accepting()], setup);
        world.recounts = true;
        for phase in phases {
            play(&mut world, endpoints, phase);
        }
        // The calm: one of them accepts all from now on, and the others nothing.
        world.disturbance = Box::new(|_| Disturbance::None);
        for at in 0..endpoints {
            let reply = if at == good % endpoints { Reply::Accept } else { Reply::ConnectionRefused };
            world.peer_at(at).all(reply);
        }
        // A disk that has failed is tried again after a second. Until its answer full memory drops its oldest batches.
        let has_answered = |world: &World| {
            let retry_at = world.simulation.core.storage.retry_at();
            retry_at.is_none_or(|instant| instant <= world.now()) && world.simulation.effects.is_empty()
        };
        world.run_to("an answer of the disk", secs(2), has_answered);
        let lost = world.lost();
        world.load = Some(Load { spans: 2, every: secs(2) });
        world.run(10 * MINUTE);
        world.load = None;
        world.run_to("the deliveries", HOUR, |world| world.waiting() == 0);
        prop_assert_eq!(world.in_use(), good % endpoints);
        prop_assert!(world.lost() == lost, "lost in the calm: {}", world.state());
        prop_assert!(world.missing().len() as u64 <= world.lost(), "{}", world.state());
    }

    /// While one endpoint accepts all through, and the disk works, no span is lost, and none is stored for long.
    #[test]
    fn while_one_endpoint_accepts_no_span_is_lost(
        seed: u64,
        endpoints in 2..=4_usize,
        good in 0..4_usize,
        phases in prop::collection::vec(phase(), 1..6),
    ) {
        let good = good % endpoints;
        let mut setup = Setup { seed, endpoints, fallback: seed % 2 == 0, ..Setup::usual() };
        setup.limits.max_count = 2_000;
        let mut world = World::new(vec![Replica::accepting()], setup);
        world.recounts = true;
        for mut phase in phases {
            phase.disk = vec![Disturbance::None];
            (phase.replies[good], phase.max_bytes[good], phase.end) = (Reply::Accept, None, 7);
            // No batch is refused for itself: all fail, or wait, at the others.
            for reply in &mut phase.replies {
                if matches!(reply, Reply::Status(400 | 413 | 500)) {
                    *reply = Reply::ConnectionRefused;
                }
            }
            phase.max_bytes.fill(None);
            play(&mut world, endpoints, phase);
        }
        world.load = None;
        world.run(10 * MINUTE);
        let ledger = world.ledger();
        prop_assert_eq!((ledger.lost(), ledger.dead_lettered), (0, 0), "{}", world.state());
        prop_assert_eq!(world.missing(), Vec::<u64>::new(), "{}", world.state());
    }
}
