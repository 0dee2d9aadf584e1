//! Real threads on one breaker.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use breaker::{Breaker, Command, Config, Kind, State};

#[test]
fn of_many_threads_exactly_so_many_get_a_probe_as_are_allowed() {
    for probes in [1, 3] {
        let config = Config::builder().with_half_open_probes(probes).with_half_open_successes(1_000).build();
        let (breaker, now) = (Breaker::new(config.expect("valid")), crate::clock());
        for round in 1..50_u32 {
            let now = now + Duration::from_secs(120) * round;
            breaker.command_at(Command::ForceOpen(None), now - Duration::from_secs(100));
            let (gate, admitted) = (Arc::new(Barrier::new(4)), Arc::new(AtomicU32::new(0)));
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    let (breaker, gate, admitted) = (breaker.clone(), Arc::clone(&gate), Arc::clone(&admitted));
                    thread::spawn(move || {
                        gate.wait();
                        let permits: Vec<_> = (0..4).filter_map(|_| breaker.try_acquire_at(now).ok()).collect();
                        assert!(permits.iter().all(|permit| permit.kind() == Kind::Probe));
                        admitted.fetch_add(permits.len() as u32, Ordering::SeqCst);
                        gate.wait();
                    })
                })
                .collect();
            for thread in threads {
                thread.join().expect("no panic");
            }
            assert_eq!(admitted.load(Ordering::SeqCst), probes);
        }
    }
}

#[test]
fn no_failure_is_lost_and_readers_never_see_nonsense() {
    let breaker = Breaker::new(Config::builder().with_failure_threshold(4_000).build().expect("valid"));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let breaker = breaker.clone();
            thread::spawn(move || {
                for _ in 0..1_000 {
                    assert!(breaker.try_acquire_ref().expect("not yet").failure().counted());
                    assert!(breaker.transitions().len() <= 1);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("no panic");
    }
    assert_eq!((breaker.state(), breaker.trips()), (State::Open, 1), "the 4,000th failure opened it, and only once");
}
