//! The outages of `cargo xtask outage` in a few seconds each: they wait for expected events, never for time to pass.

use std::path::Path;
use std::time::Duration;

use trials::collector::Fault;
use trials::outage::{Plan, fast, run};

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

/// The machinery of the run at 50,000 spans/s, at a rate that a build without optimization reaches beside other tests.
#[test]
fn nothing_is_lost_behind_the_processor_and_its_memory_keeps_to_the_limits() {
    let times = [500, 2_000, 500].map(Duration::from_millis);
    let plan = fast::Plan { fault: Fault::Refused, rate: 4_000, times, patience: Duration::from_secs(60) };
    let rows = fast::run(&plan, Path::new(env!("CARGO_BIN_EXE_trials"))).expect("a trial that runs to its end");
    let [stock, ours] = rows.as_slice() else { panic!("two contenders: {rows:#?}") };
    assert!(stock.row.ours.is_none() && stock.watched.is_none());
    assert_eq!(ours.row.verdict(0.0), Ok(()));
    assert_eq!(ours.memory_verdict(), Ok(()));
    assert!(ours.row.made_in_fault > 0, "{ours:#?}");
}
