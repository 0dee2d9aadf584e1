//! Memory goes to files early while the endpoint takes nothing, and only then.

use super::Setup;
use super::replicas::{Replica, Reply};
use super::world::{Load, MINUTE, World, ms, secs};

/// The buffer of [`Setup::usual`] takes this for 2 s, as the default one takes 5,000 spans a second.
const LOAD: Load = Load { spans: 50, every: ms(50) };

/// Replies of an endpoint that takes nothing.
const UNWILLING: [Reply; 6] = [
    Reply::ConnectionRefused,
    Reply::Status(503),
    Reply::Status(401),
    Reply::Throttle(secs(30)),
    Reply::TimeOut { stored: false },
    Reply::TimeOut { stored: true },
];

/// A world in which a good minute has passed.
fn loaded(load: Load) -> World {
    let mut world = World::new(vec![Replica::accepting()], Setup::usual());
    world.load = Some(load);
    world.run(MINUTE);
    assert_eq!(world.ledger().in_fallback, 0);
    world
}

#[test]
fn a_disk_that_takes_four_hundred_milliseconds_for_a_file_loses_no_span_of_an_outage() {
    for reply in UNWILLING {
        let mut world = loaded(LOAD);
        world.disk_time = ms(400);
        world.peer.all(reply);
        world.run(5 * MINUTE);
        assert_eq!(world.lost(), 0, "after {reply:?}: {}", world.state());
        assert!(world.ledger().in_fallback > 250_000, "after {reply:?}: {}", world.state());
        world.peer.all(Reply::Accept);
        world.disk_time = ms(2);
        world.run(2 * MINUTE);
        world.assert_nothing_lost();
    }
}

#[test]
fn memory_stays_below_half_once_the_endpoint_has_taken_nothing_for_a_while() {
    for reply in UNWILLING {
        let mut world = loaded(LOAD);
        world.peer.all(reply);
        world.run(secs(3));
        for _ in 0..600 {
            world.run(ms(100));
            let held = world.simulation.core.memory.held_size().count;
            // A batch more arrives in the instant in which the disk thread writes.
            assert!(held <= 1_050, "{held} spans after {reply:?}: {}", world.state());
        }
    }
}

#[test]
fn a_pause_of_a_second_costs_no_file_and_an_acceptance_ends_the_early_spills() {
    for reply in UNWILLING {
        let mut world = loaded(LOAD);
        world.peer.all(reply);
        world.run(secs(1));
        world.peer.all(Reply::Accept);
        world.run(ms(400));
        assert_eq!(world.ledger().in_fallback, 0, "after {reply:?}: {}", world.state());
    }
    let mut world = loaded(LOAD);
    world.peer.all(Reply::ConnectionRefused);
    world.run(secs(10));
    assert!(world.ledger().in_fallback > 0, "{}", world.state());
    // One batch a second is too few for the load, and memory fills up to 7/8 as behind any slow collector.
    let before = world.ledger().delivered;
    world.peer.all(Reply::Accept);
    world.peer.replicas[0].latency = secs(1);
    world.run_to("an acceptance", 2 * MINUTE, |world| world.ledger().delivered > before);
    world.run_to("three quarters of memory", MINUTE, |world| world.simulation.core.memory.held_size().count > 1_500);
}

#[test]
fn two_seconds_without_a_collector_cost_no_file_at_a_quarter_of_the_load() {
    let mut world = loaded(Load { spans: 12, every: ms(50) });
    for _ in 0..20 {
        world.peer.all(Reply::ConnectionRefused);
        world.run(secs(2));
        world.peer.all(Reply::Accept);
        world.run(10 * secs(1));
        assert!(world.ledger().delivered > 0 && world.sent.iter().all(|sent| sent.live), "{}", world.state());
        assert_eq!(world.ledger().in_fallback, 0, "{}", world.state());
    }
}
