//! Requests that are too large for the peer.

use super::Setup;
use super::replicas::{Replica, Reply};
use super::world::{HOUR, Load, MINUTE, OPEN, World, ms, secs};

#[test]
fn a_peer_that_finds_everything_too_large_gets_few_calls_and_each_batch_is_one_dead_letter() {
    let mut world = World::new(vec![Replica::new(Reply::Status(413))], Setup::usual());
    let (batches, spans) = (10, 16);
    for _ in 0..batches {
        world.offer(spans);
    }
    world.run_to("the end of all", 10 * MINUTE, |world| world.waiting() == 0);
    let ledger = world.ledger();
    assert_eq!((ledger.dead_lettered, ledger.lost()), ((batches * spans) as u64, 0));
    assert_eq!(world.oracle.stored_letters, batches as u32, "one letter for each batch");
    let calls = world.sent.len();
    assert!(calls <= batches * spans, "{calls} calls: {}", world.state());
    let most = world.most_calls_in_a_second(world.sent[0].at);
    assert!(most <= 2 * batches, "{most} calls in a second");
    // Single spans that are known to be too large are not sent.
    let singles = world.sent.iter().filter(|sent| sent.spans.len() == 1).count();
    assert!(singles <= 2, "{singles} calls for single spans");
}

#[test]
fn a_batch_that_is_too_large_waits_for_a_second_between_splits() {
    let mut world = World::new(vec![Replica::new(Reply::Status(413))], Setup::usual());
    world.offer(64);
    world.run_to("its end", 10 * MINUTE, |world| world.waiting() == 0);
    assert_eq!(world.oracle.stored_letters, 1);
    assert!(world.sent.len() <= 64, "{} calls", world.sent.len());
    for (index, whole) in world.sent.iter().enumerate() {
        for part in world.sent[index + 1..].iter().filter(|part| part.spans.iter().all(|span| whole.holds(*span))) {
            let gap = part.at - whole.answered.expect("answered");
            assert!(gap >= secs(1), "{gap:?} between a refusal and the call for a part: {}", world.state());
        }
    }
}

#[test]
fn under_any_limit_everything_that_can_be_delivered_is_delivered() {
    // All spans have the same size.
    let world = || {
        let mut world = World::new(vec![Replica::accepting()], Setup::usual());
        world.simulation.next_span = 1 << 14;
        world
    };
    let mut sample = world();
    sample.offer(1);
    let single = sample.sent[0].bytes;
    for limit in [single, single + 1, 2 * single, 4_000, 20_000] {
        let mut world = world();
        world.peer.replicas[0].max_bytes = Some(limit);
        world.load = Some(Load { spans: 100, every: secs(10) });
        world.run(10 * MINUTE);
        world.load = None;
        world.run_to("all are delivered", 10 * MINUTE, |world| world.waiting() == 0);
        world.assert_nothing_missing();
        world.assert_nothing_lost();
        assert_eq!(world.simulation.duplicates, 0);
    }
}

#[test]
fn the_largest_accepted_size_is_learned() {
    let mut world = World::new(vec![Replica::accepting()], Setup::usual());
    world.peer.replicas[0].max_bytes = Some(4_000);
    world.load = Some(Load { spans: 100, every: secs(1) });
    world.run(MINUTE);
    let begin = world.now();
    world.run(HOUR / 2);
    let refused = world.sent_since(begin).iter().filter(|sent| sent.reply == Reply::Status(413)).count();
    assert!(refused <= 5, "{refused} requests were too large after the first minute: {}", world.state());
    assert!(world.waiting() <= 300, "{}", world.state());
    world.assert_nothing_lost();
}

#[test]
fn a_limit_below_one_span_costs_that_span_alone() {
    let mut world = World::new(vec![Replica::accepting()], Setup::usual());
    // The number of a span takes another byte from 2^14 on: of sixteen spans, eight are larger than the limit.
    world.simulation.next_span = (1 << 14) - 9;
    world.offer(1);
    world.peer.replicas[0].max_bytes = Some(world.sent[0].bytes);
    world.run(secs(1));
    let batch = world.offer(16);
    world.run_to("its end", 10 * MINUTE, |world| world.waiting() == 0);
    let ledger = world.ledger();
    assert_eq!((ledger.delivered, ledger.dead_lettered, ledger.lost()), (1 + 8, 8, 0), "{}", world.state());
    assert!(world.is_delivered(&batch[..8]));
    world.assert_nothing_missing();
}

#[test]
fn stored_batches_are_split_too() {
    let mut world = World::new(vec![Replica::new(Reply::ConnectionRefused)], Setup::usual());
    for _ in 0..20 {
        world.offer(90);
    }
    world.run(10 * MINUTE);
    assert!(world.ledger().in_fallback >= 1_500, "{}", world.state());
    world.peer.replicas[0].reply = Reply::Accept;
    world.peer.replicas[0].max_bytes = Some(4_000);
    world.run_to("all are delivered", OPEN + 30 * MINUTE, |world| world.waiting() == 0);
    world.assert_nothing_missing();
    world.assert_nothing_lost();
}

#[test]
fn a_stored_batch_is_one_dead_letter_where_everything_is_too_large() {
    let mut world = World::new(vec![Replica::new(Reply::ConnectionRefused)], Setup::usual());
    for _ in 0..5 {
        world.offer(16);
    }
    world.run(10 * MINUTE);
    assert_eq!(world.ledger().in_fallback, 80, "{}", world.state());
    let begin = world.now();
    world.peer.replicas[0].reply = Reply::Status(413);
    world.run_to("the end of all", OPEN + 30 * MINUTE, |world| world.waiting() == 0);
    assert_eq!((world.ledger().dead_lettered, world.oracle.stored_letters), (80, 5));
    let calls = world.sent_since(begin).len();
    assert!(calls <= 80 + 16, "{calls} calls: {}", world.state());
    let most = world.most_calls_in_a_second(begin + ms(1));
    assert!(most <= 10, "{most} calls in a second");
}

#[test]
fn a_request_has_no_more_spans_than_the_settings_allow() {
    let setup = Setup { request_max_spans: 25, ..Setup::usual() };
    let mut world = World::new(vec![Replica::accepting()], setup.clone());
    let sizes = |world: &World| world.sent.iter().map(|sent| sent.spans.len()).collect::<Vec<_>>();
    world.offer(90);
    world.run_to("the batch is delivered", MINUTE, |world| world.waiting() == 0);
    assert_eq!(sizes(&world), [25, 25, 25, 15], "as few requests as possible, none of which was refused");
    // A world of its own: of small stored records, as many share a request as it may have spans.
    let mut world = World::new(vec![Replica::new(Reply::ConnectionRefused)], setup);
    for spans in [10; 40] {
        world.offer(spans);
    }
    world.run(10 * MINUTE);
    assert!(world.ledger().in_fallback >= 300, "{}", world.state());
    let begin = world.now();
    world.peer.replicas[0].reply = Reply::Accept;
    world.run_to("all are delivered", OPEN + 30 * MINUTE, |world| world.waiting() == 0);
    world.assert_nothing_missing();
    world.assert_nothing_lost();
    let accepted =
        world.sent_since(begin).iter().filter(|sent| sent.reply == Reply::Accept).map(|sent| sent.spans.len());
    let accepted = accepted.collect::<Vec<_>>();
    assert!(accepted.contains(&20) && accepted.iter().all(|spans| *spans <= 25), "{accepted:?}");
}
