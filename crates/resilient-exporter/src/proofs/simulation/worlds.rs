//! Random worlds: phases of trouble, then a calm, in which each batch that a replica would accept is delivered.

use std::time::Duration;

use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;

use super::history::disturbance;
use super::replicas::{Balancing, CALL, Replica, Reply};
use super::world::{HOUR, Load, MINUTE, OPEN, World, ms, secs};
use super::{Disturbance, Setup};

/// One phase of a world.
#[derive(Clone, Debug)]
struct Phase {
    time: Duration,
    replicas: Vec<Reply>,
    now_and_then: Option<(u64, Reply)>,
    max_bytes: Option<usize>,
    latency: Duration,
    load: Option<Load>,
    /// The disk thread's troubles, one an effect, over and over.
    disk: Vec<Disturbance>,
    /// At the start of the phase a batch arrives that is always answered so.
    bad: Option<Reply>,
    end: End,
}

#[derive(Clone, Copy, Debug)]
enum End {
    Next,
    Kill,
    ShutDown,
}

fn trouble() -> impl Strategy<Value = Reply> {
    prop_oneof![
        4 => prop::sample::select(&[400_u16, 401, 403, 404, 422, 500, 501]).prop_map(Reply::Status),
        2 => prop::sample::select(&[502_u16, 503, 504]).prop_map(Reply::Status),
        1 => prop::sample::select(&[502_u16, 503, 500, 400]).prop_map(Reply::StatusOfStored),
        1 => (0..400_u64).prop_map(|after| Reply::Throttle(secs(after))),
        1 => any::<bool>().prop_map(|stored| Reply::TimeOut { stored }),
        1 => Just(Reply::Reset),
        1 => Just(Reply::ConnectionRefused),
        1 => Just(Reply::GoAway),
        1 => Just(Reply::Status(413)),
        1 => (0..5_usize).prop_map(Reply::PartlyReject),
        1 => Just(Reply::Unreadable),
    ]
}

fn reply() -> impl Strategy<Value = Reply> {
    prop_oneof![Just(Reply::Accept), trouble()]
}

fn load() -> impl Strategy<Value = Option<Load>> {
    let fast = (1..8_usize, 200..2_000_u64).prop_map(|(spans, every)| Load { spans, every: ms(every) });
    let slow = (1..5_usize, 10..4_000_u64).prop_map(|(spans, every)| Load { spans, every: secs(every) });
    prop_oneof![2 => fast.prop_map(Some), 1 => slow.prop_map(Some), 1 => Just(None)]
}

fn bad() -> impl Strategy<Value = Reply> {
    let status = prop::sample::select(&[400_u16, 403, 500, 502]).prop_map(Reply::Status);
    prop_oneof![4 => status, 1 => Just(Reply::Reset), 1 => Just(Reply::TimeOut { stored: false })]
}

prop_compose! {
    fn phase()(
        seconds in prop_oneof![1..60_u64, 60..600_u64],
        replicas in prop::collection::vec(reply(), 3),
        now_and_then in prop::option::weighted(0.2, (2..20_u64, trouble())),
        max_bytes in prop::option::weighted(0.1, 100..6_000_usize),
        latency in prop_oneof![4 => 1..100_u64, 1 => 100..3_000_u64],
        load in load(),
        disk in prop_oneof![Just(vec![Disturbance::None]), prop::collection::vec(disturbance(), 1..12)],
        bad in prop::option::weighted(0.4, bad()),
        end in prop_oneof![4 => Just(End::Next), 1 => Just(End::Kill), 1 => Just(End::ShutDown)],
    ) -> Phase {
        let (time, latency) = (secs(seconds), ms(latency));
        Phase { time, replicas, now_and_then, max_bytes, latency, load, disk, bad, end }
    }
}

fn play(world: &mut World, phase: Phase) {
    let Phase { time, replicas, now_and_then, max_bytes, latency, load, disk, bad, end } = phase;
    for (replica, reply) in world.peer.replicas.iter_mut().zip(replicas) {
        *replica = Replica { reply, now_and_then, max_bytes, latency, ..replica.clone() };
    }
    let mut turns = 0;
    world.disturbance = Box::new(move |_| {
        turns += 1;
        disk[turns % disk.len()]
    });
    if let Some(reply) = bad {
        world.offer_bad(3, reply);
    }
    world.load = load;
    world.run(time);
    match end {
        End::Next => {}
        End::Kill => world.kill(),
        End::ShutDown => _ = world.shut_down(secs(3)),
    }
}

/// A calm: one replica of all accepts, the others may go on refusing or failing; the disk works.
#[derive(Clone, Debug)]
struct Calm {
    stale: Option<Reply>,
    load: Option<Load>,
}

fn calm() -> impl Strategy<Value = Calm> {
    let stale = prop_oneof![
        prop::sample::select(&[401_u16, 403, 404, 502, 503]).prop_map(Reply::Status),
        Just(Reply::Reset),
        Just(Reply::ConnectionRefused),
        Just(Reply::TimeOut { stored: false }),
    ];
    let every = prop::sample::select(&[None, Some(2), Some(20)]);
    let load = every.prop_map(|every| every.map(|every| Load { spans: 2, every: secs(every) }));
    (prop::option::weighted(0.3, stale), load).prop_map(|(stale, load)| Calm { stale, load })
}

/// Everything that can be delivered is delivered so soon after the trouble: a hint, the breaker, the longest wait of a
/// suspect, and the calls of all batches that the trouble has left.
const BOUND: Duration = HOUR;

fn settle_down(world: &mut World, calm: &Calm) {
    world.disturbance = Box::new(|_| Disturbance::None);
    let count = world.peer.replicas.len();
    for (index, replica) in world.peer.replicas.iter_mut().enumerate() {
        let reply = if index + 1 == count && count > 1 { calm.stale } else { None };
        let bad = std::mem::take(&mut replica.bad);
        *replica = Replica { bad, ..Replica::new(reply.unwrap_or(Reply::Accept)) };
    }
    world.load = calm.load;
    let begin = world.simulation.next_span;
    let lost = world.lost();
    let is_deliverable = |world: &World, span: &u64| world.peer.replicas.iter().any(|replica| replica.takes(*span));
    let left = |world: &World| {
        let missing = world.missing();
        missing.iter().filter(|span| **span < begin && is_deliverable(world, span)).count() as u64
    };
    let end = world.now() + BOUND;
    while left(world) > world.lost() {
        assert!(world.now() < end, "{} spans are not delivered within {BOUND:?}: {}", left(world), world.state());
        world.run(secs(20));
    }
    // Without files, the limits of memory go on while the breaker is open.
    assert!(world.lost() == lost || !world.simulation.setup.fallback, "lost in the calm: {}", world.state());
    world.load = None;
    world.run(2 * MINUTE);
    if world.waiting() == 0 {
        assert_eq!(world.simulation.core.next_wakeup(), None, "nothing waits, and a poll is due: {}", world.state());
    }
}

/// No second has more calls that fail than this: twenty refusals in a row behind an acceptance, and a round of calls
/// that were out together.
fn check_rates(world: &World) {
    let sent = &world.sent;
    let fails = |reply: Reply| !reply.is_acceptance() && reply != Reply::Status(413);
    let mut first = 0;
    let (mut failed, mut accepted) = (0, 0);
    for (index, call) in sent.iter().enumerate() {
        failed += usize::from(fails(call.reply));
        accepted += usize::from(!fails(call.reply));
        while sent[first].at + secs(1) <= call.at {
            failed -= usize::from(fails(sent[first].reply));
            accepted -= usize::from(!fails(sent[first].reply));
            first += 1;
        }
        // Answers that are awaited or came up to three seconds ago may be acceptances.
        let earlier = sent[..first].iter().rev().take_while(|sent| sent.at + secs(3) + CALL > call.at);
        let earlier = earlier.filter(|sent| !fails(sent.reply)).count();
        let bound = 28 + 20 * (accepted + earlier);
        assert!(failed <= bound, "{failed} calls failed within a second, up to call {index}: {}", world.state());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn in_every_world_the_rules_hold_and_all_that_a_replica_accepts_is_delivered(
        seed: u64,
        fallback in prop::bool::weighted(0.8),
        replicas in 1..=3_usize,
        balancing in prop::sample::select(&[Balancing::ByConnection, Balancing::ByRequest]),
        phases in prop::collection::vec(phase(), 1..6),
        calm in calm(),
    ) {
        let mut setup = Setup { fallback, seed, ..Setup::usual() };
        setup.limits.max_count = 200;
        let mut world = World::new(vec![Replica::accepting(); replicas], setup);
        world.peer.balancing = balancing;
        world.peer.chance = Some(SmallRng::seed_from_u64(seed));
        world.recounts = true;
        for phase in phases {
            play(&mut world, phase);
        }
        settle_down(&mut world, &calm);
        check_rates(&world);
    }

    #[test]
    fn a_panic_in_any_effect_loses_nothing(
        seed: u64,
        phases in prop::collection::vec(phase(), 1..4),
        calm in calm(),
    ) {
        let mut world = World::new(vec![Replica::accepting()], Setup { seed, ..Setup::usual() });
        for mut phase in phases {
            phase.disk = vec![Disturbance::Panic, Disturbance::None, Disturbance::None];
            phase.end = End::Next;
            phase.load = phase.load.map(|load| Load { every: load.every.max(secs(1)), ..load });
            play(&mut world, phase);
        }
        settle_down(&mut world, &calm);
        prop_assert_eq!(world.lost(), 0, "{}", world.state());
    }
}

/// The first effect of each kind ends in a panic of the disk thread.
#[test]
fn a_panic_in_the_first_effect_of_each_kind_loses_nothing() {
    let mut world = World::new(vec![Replica::accepting()], Setup::usual());
    let mut seen = Vec::new();
    world.disturbance = Box::new(move |effect| {
        let kind = std::mem::discriminant(effect);
        if seen.contains(&kind) {
            return Disturbance::None;
        }
        seen.push(kind);
        Disturbance::Panic
    });
    world.load = Some(Load { spans: 10, every: ms(200) });
    world.run(MINUTE);
    // A dead letter, then files, then a replay.
    let bad = world.offer_bad(3, Reply::Status(400));
    world.run(MINUTE);
    let reply = std::mem::replace(&mut world.peer.replicas[0].reply, Reply::ConnectionRefused);
    world.run(5 * MINUTE);
    world.peer.replicas[0].reply = reply;
    world.run_to("the backlog", OPEN + 2 * MINUTE, |world| world.ledger().in_fallback == 0);
    world.load = None;
    world.run(MINUTE);
    assert_eq!((world.lost(), world.ledger().dead_lettered), (0, 3), "{}", world.state());
    assert_eq!(world.oracle.letters.iter().collect::<Vec<_>>(), [&bad]);
    world.assert_nothing_missing();
}
