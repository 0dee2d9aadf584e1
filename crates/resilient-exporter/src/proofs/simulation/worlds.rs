//! Random worlds: phases of trouble, then a calm, in which each batch that a replica would accept is delivered.

use std::time::Duration;

use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;

use super::credentials::Tokens;
use super::history::disturbance;
use super::replicas::{Balancing, CALL, Replica, Reply};
use super::stage::{self, Stage};
use super::world::{HOUR, Load, MINUTE, OPEN, World, ms, secs};
use super::{Disturbance, Setup};
use crate::seams::settings::ReplayOrder;

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
    /// At the start of the phase, in worlds with tokens.
    token: Token,
    /// A flush, or a checkpoint, in the middle of the phase.
    flush: Option<(Duration, bool)>,
    end: End,
}

/// A change of the credentials or of the peer's opinion of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Token {
    Stays,
    /// The next token is good.
    Expires,
    /// No token is good, however many the transport gets.
    Refused,
    /// The file changes, to a good token.
    Repaired,
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
        token in prop::sample::select(&[Token::Stays, Token::Expires, Token::Refused, Token::Repaired]),
        flush in prop::option::weighted(0.4, (1..20_000_u64, any::<bool>())),
        end in prop_oneof![4 => Just(End::Next), 1 => Just(End::Kill), 1 => Just(End::ShutDown)],
    ) -> Phase {
        let (time, latency) = (secs(seconds), ms(latency));
        let flush = flush.map(|(bound, attempts)| (ms(bound), attempts));
        Phase { time, replicas, now_and_then, max_bytes, latency, load, disk, bad, token, flush, end }
    }
}

/// The disk thread takes 2 ms for an effect, and a buffer of this size makes a few files; behind them are the effects
/// of a replay.
const FLUSH_OF_A_FULL_BUFFER: Duration = ms(100);

fn play(world: &mut World, phase: Phase) {
    let Phase { time, replicas, now_and_then, max_bytes, latency, load, disk, bad, token, flush, end } = phase;
    if let Some(tokens) = &mut world.tokens {
        match token {
            Token::Stays => {}
            Token::Expires => tokens.expire(),
            Token::Refused => tokens.valid = u64::MAX,
            Token::Repaired => tokens.repair(),
        }
    }
    for (replica, reply) in world.peer.replicas.iter_mut().zip(replicas) {
        *replica = Replica { reply, now_and_then, max_bytes, latency, ..replica.clone() };
    }
    let disk_fails = disk.iter().any(|disturbance| *disturbance != Disturbance::None);
    let mut turns = 0;
    world.disturbance = Box::new(move |_| {
        turns += 1;
        disk[turns % disk.len()]
    });
    if let Some(reply) = bad {
        world.offer_bad(3, reply);
    }
    world.load = load;
    world.run(time / 2);
    if let Some((bound, attempts)) = flush {
        let flushed = world.flush(bound, attempts);
        let has_time = bound >= 2 * FLUSH_OF_A_FULL_BUFFER && world.simulation.setup.fallback;
        assert!(flushed.is_ok || disk_fails || !has_time, "{flushed:?} of {bound:?}; {}", world.state());
    }
    world.run(time / 2);
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
    (prop::option::weighted(0.3, stale), every).prop_map(|(stale, every)| {
        // No more batches than get through beside the stale replica.
        let least = stale.map_or(Duration::ZERO, time_of_a_batch);
        Calm { stale, load: every.map(|every| Load { spans: 2, every: secs(every).max(least) }) }
    })
}

/// The time that one batch takes, on average, where each second or third call gets this answer. A failure has all calls
/// wait for the backoff, and five in a row for the breaker; a replica that hangs holds its call up before. A refusal
/// behind an acceptance has no other batch wait.
fn time_of_a_batch(stale: Reply) -> Duration {
    match stale {
        Reply::TimeOut { .. } => MINUTE,
        Reply::Status(502 | 503) | Reply::Reset | Reply::ConnectionRefused => secs(20),
        _ => Duration::ZERO,
    }
}

/// Everything that can be delivered is delivered so soon after the trouble: a hint, the breaker, the longest wait of a
/// suspect. Beside a stale replica the batches that the trouble has left take their time, one by one: a merged request
/// that fails is taken apart.
const BOUND: Duration = HOUR;

/// The end of an outage is confirmed so long after its last answer, at the latest.
const OUTAGE_CONFIRMED_AFTER: Duration = secs(5);

fn settle_down(world: &mut World, calm: &Calm) {
    world.disturbance = Box::new(|_| Disturbance::None);
    let count = world.peer.replicas.len();
    for (index, replica) in world.peer.replicas.iter_mut().enumerate() {
        let reply = if index + 1 == count && count > 1 { calm.stale } else { None };
        let bad = std::mem::take(&mut replica.bad);
        *replica = Replica { bad, ..Replica::new(reply.unwrap_or(Reply::Accept)) };
    }
    world.load = calm.load;
    world.tokens.iter_mut().for_each(Tokens::repair);
    // A disk that has failed is tried again after a second. Until its answer full memory drops its oldest batches.
    let has_answered = |world: &World| {
        let retry_at = world.simulation.core.storage.retry_at();
        retry_at.is_none_or(|instant| instant <= world.now()) && world.simulation.effects.is_empty()
    };
    world.run_to("an answer of the disk", secs(2), has_answered);
    let begin = world.simulation.next_span;
    let lost = world.lost();
    let is_deliverable = |world: &World, span: &u64| world.peer.replicas.iter().any(|replica| replica.takes(*span));
    let left = |world: &World| {
        let missing = world.missing();
        missing.iter().filter(|span| **span < begin && is_deliverable(world, span)).count() as u64
    };
    let simulation = &world.simulation;
    let batches = simulation.disk.usage().files + simulation.core.memory.waiting().count() as u64;
    let each = calm.stale.filter(|_| count > 1).map_or(Duration::ZERO, time_of_a_batch);
    let bound = BOUND + each * u32::try_from(batches).expect("few");
    let end = world.now() + bound;
    while left(world) > world.lost() {
        assert!(world.now() < end, "{} spans are not delivered within {bound:?}: {}", left(world), world.state());
        world.run(secs(20));
    }
    // Without files, the limits of memory go on while the breaker is open.
    assert!(world.lost() == lost || !world.simulation.setup.fallback, "lost in the calm: {}", world.state());
    world.load = None;
    world.run(2 * MINUTE);
    if world.waiting() == 0 {
        // A success of the last seconds may have ended an outage, which the core confirms later, by one poll.
        world.run(OUTAGE_CONFIRMED_AFTER);
        assert!(world.missing().len() as u64 <= world.lost(), "each missing span is lost: {}", world.state());
        assert_eq!(world.stage.as_ref().and_then(Stage::next), None, "an idle area wakes no thread; {}", world.state());
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
        // Producers, parts of the staging area, and its delay in milliseconds.
        stage in prop::option::of((1..=8_usize, 1..=4_usize, 1..8_000_u64)),
        replicas in 1..=3_usize,
        balancing in prop::sample::select(&[Balancing::ByConnection, Balancing::ByRequest]),
        phases in prop::collection::vec(phase(), 1..6),
        calm in calm(),
    ) {
        let replay_order = if seed.is_multiple_of(3) { ReplayOrder::Newest } else { ReplayOrder::Oldest };
        let mut setup = Setup { fallback, seed, replay_order, ..Setup::usual() };
        setup.limits.max_count = 200;
        let mut world = World::new(vec![Replica::accepting(); replicas], setup.clone());
        if let Some((producers, parts, delay)) = stage {
            world.stage(stage::settings(&setup, parts, ms(delay)), producers);
        }
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
    fn in_every_world_with_tokens_the_rules_hold_too(
        seed: u64,
        tokens in prop::sample::select(&[Tokens::of_service as fn() -> Tokens, Tokens::of_file]),
        replicas in 1..=3_usize,
        phases in prop::collection::vec(phase(), 1..6),
        calm in calm(),
    ) {
        let mut setup = Setup { seed, ..Setup::usual() };
        setup.limits.max_count = 200;
        let mut world = World::new(vec![Replica::accepting(); replicas], setup);
        world.set_tokens(tokens());
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

// Random worlds that have failed.

#[test]
fn in_a_calm_behind_a_failing_disk_full_memory_is_stored_before_the_next_batch_arrives() {
    let mut setup = Setup { seed: 9_662_747_803_037_164_850, ..Setup::usual() };
    setup.limits.max_count = 200;
    let seed = setup.seed;
    let mut world = World::new(vec![Replica::accepting(); 2], setup);
    world.peer.balancing = Balancing::ByRequest;
    world.peer.chance = Some(SmallRng::seed_from_u64(seed));
    world.recounts = true;
    let phase = Phase {
        time: secs(386),
        replicas: vec![Reply::Accept, Reply::Status(502)],
        now_and_then: None,
        max_bytes: None,
        latency: ms(1),
        load: Some(Load { spans: 1, every: ms(200) }),
        disk: vec![Disturbance::Failure],
        bad: None,
        token: Token::Stays,
        flush: None,
        end: End::Next,
    };
    play(&mut world, phase);
    settle_down(&mut world, &Calm { stale: None, load: Some(Load { spans: 2, every: secs(2) }) });
    check_rates(&world);
}

#[test]
fn after_a_panic_that_cost_the_marks_of_a_group_dead_letters_follow_the_rules() {
    let phase = |time, bad, load| Phase {
        time: secs(time),
        replicas: vec![Reply::Accept],
        now_and_then: None,
        max_bytes: None,
        latency: ms(1),
        load,
        disk: vec![Disturbance::Panic, Disturbance::None, Disturbance::None],
        bad: Some(bad),
        token: Token::Stays,
        flush: None,
        end: End::Next,
    };
    let setup = Setup { seed: 357_050_528_164_466_745, ..Setup::usual() };
    let mut world = World::new(vec![Replica::accepting()], setup);
    play(&mut world, phase(34, Reply::Status(400), None));
    play(&mut world, phase(284, Reply::TimeOut { stored: false }, None));
    play(&mut world, phase(345, Reply::Status(500), Some(Load { spans: 1, every: secs(270) })));
    settle_down(&mut world, &Calm { stale: None, load: None });
    assert_eq!(world.lost(), 0, "{}", world.state());
}

#[test]
fn of_a_stored_batch_that_is_cut_in_a_random_world_no_delivered_piece_becomes_a_dead_letter() {
    let phase = |time, replicas: [Reply; 2], latency, load| Phase {
        time: secs(time),
        replicas: replicas.to_vec(),
        now_and_then: None,
        max_bytes: None,
        latency,
        load: Some(load),
        disk: vec![Disturbance::None],
        bad: None,
        token: Token::Stays,
        flush: None,
        end: End::Next,
    };
    let mut setup = Setup { seed: 6_123_854_772_094, ..Setup::usual() };
    setup.limits.max_count = 200;
    let seed = setup.seed;
    let mut world = World::new(vec![Replica::accepting(); 2], setup);
    world.peer.chance = Some(SmallRng::seed_from_u64(seed));
    world.recounts = true;
    let accept = [Reply::Accept; 2];
    play(&mut world, phase(8, accept, ms(667), Load { spans: 5, every: ms(202) }));
    let small = phase(13, accept, ms(542), Load { spans: 3, every: ms(239) });
    play(&mut world, Phase { max_bytes: Some(100), ..small });
    let refusing =
        phase(9, [Reply::PartlyReject(0), Reply::Status(400)], ms(26), Load { spans: 3, every: secs(3_850) });
    let now_and_then = Some((18, Reply::StatusOfStored(400)));
    play(&mut world, Phase { now_and_then, bad: Some(Reply::Status(502)), ..refusing });
    settle_down(&mut world, &Calm { stale: None, load: None });
    check_rates(&world);
}

/// The endpoint's refusal clears a refusal in memory whose mark is written.
#[test]
fn the_marks_of_an_ended_process_may_be_older_than_its_last_refusals() {
    let phase = |time, reply, latency, load, bad| Phase {
        time: secs(time),
        replicas: vec![reply],
        now_and_then: None,
        max_bytes: None,
        latency: ms(latency),
        load,
        disk: vec![Disturbance::None],
        bad,
        token: Token::Stays,
        flush: None,
        end: End::Next,
    };
    let load = |spans, every| Some(Load { spans, every: ms(every) });
    let mut setup = Setup { seed: 0, ..Setup::usual() };
    setup.limits.max_count = 200;
    let mut world = World::new(vec![Replica::accepting()], setup);
    world.peer.chance = Some(SmallRng::seed_from_u64(0));
    world.recounts = true;
    play(&mut world, phase(48, Reply::Status(400), 1, load(1, 340), None));
    play(&mut world, phase(20, Reply::Accept, 1, load(3, 705), Some(Reply::Status(400))));
    play(&mut world, phase(27, Reply::Unreadable, 1, None, None));
    play(&mut world, phase(5, Reply::Accept, 90, load(2, 613), Some(Reply::Status(500))));
    let last = phase(33, Reply::TimeOut { stored: false }, 1_577, load(4, 607), Some(Reply::Status(500)));
    let mut disk = vec![Disturbance::None; 9];
    disk[2] = Disturbance::Failure;
    let now_and_then = Some((17, Reply::StatusOfStored(502)));
    play(&mut world, Phase { now_and_then, disk, end: End::ShutDown, ..last });
    settle_down(&mut world, &Calm { stale: None, load: load(2, 2_000) });
    check_rates(&world);
}

/// The calm goes on while more spans are missing than processes have lost: a lost span counts once.
#[test]
fn of_the_missing_spans_each_one_waits_or_is_lost_also_after_the_end_of_a_process() {
    for end in [End::Next, End::Kill, End::ShutDown] {
        let mut setup = Setup { fallback: false, ..Setup::usual() };
        setup.limits.max_count = 200;
        let mut world = World::new(vec![Replica::new(Reply::ConnectionRefused)], setup);
        world.load = Some(Load { spans: 6, every: ms(200) });
        world.run(MINUTE);
        assert!(world.lost() > 0, "{}", world.state());
        match end {
            End::Next => {}
            End::Kill => world.kill(),
            End::ShutDown => _ = world.shut_down(secs(3)),
        }
        world.run(secs(20));
        assert!(world.waiting() > 0, "{}", world.state());
        let missing = world.missing().len() as u64;
        assert_eq!(missing, world.waiting() + world.lost(), "after {end:?}: {}", world.state());
    }
}

#[test]
fn without_files_a_batch_that_would_be_a_dead_letter_is_missing_and_lost() {
    let mut world = World::new(vec![Replica::accepting()], Setup { fallback: false, ..Setup::usual() });
    let bad = world.offer_bad(3, Reply::Status(400));
    world.load = Some(Load { spans: 2, every: ms(500) });
    world.run(MINUTE);
    world.load = None;
    world.run_to("the deliveries", secs(5), |world| world.waiting() == 0);
    assert_eq!((world.missing(), world.lost()), (bad, 3), "{}", world.state());
}
