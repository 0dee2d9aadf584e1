//! The outages of `cargo xtask outage` in a few seconds each: they wait for expected events, never for time to pass.

use std::path::Path;

use trials::collector::Fault;
use trials::outage::{Plan, run};

/// Ours loses nothing in the outage and stock loses at least half of it, by the ids that the collectors wrote down.
fn survive(fault: Fault) {
    let rows =
        run(&Plan::untimed(fault), Path::new(env!("CARGO_BIN_EXE_trials"))).expect("a trial that runs to its end");
    let wrong: Vec<String> = rows.iter().filter_map(|row| row.verdict(0.5).err()).collect();
    assert!(wrong.is_empty(), "{wrong:#?}\n{rows:#?}");
    assert_eq!(rows.len(), 4);
}

#[test]
fn nothing_is_lost_while_the_port_refuses() {
    survive(Fault::Refused);
}

#[test]
fn nothing_is_lost_in_a_black_hole() {
    survive(Fault::BlackHole);
}

#[test]
fn nothing_is_lost_while_the_process_hangs() {
    survive(Fault::Hung);
}
