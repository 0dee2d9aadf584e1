//! The kill storm in small: it runs to its end, and above all it reports the faults that it looks for.

use std::path::Path;
use std::time::Duration;

use trials::chaos::{Plan, Promise, Report, run};

fn storm(processes: u32, journal: bool, promise: Promise, seed: u64) -> Report {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path().join("storm");
    let plan = Plan { kills: 12, seed, limit: Duration::from_secs(20), processes, journal, promise, folder };
    run(&plan, Path::new(env!("CARGO_BIN_EXE_trials"))).expect("a storm that runs to its end")
}

#[test]
fn what_was_on_disk_once_survives_without_a_journal() {
    let report = storm(1, false, Promise::Stored, 7);
    assert!(report.wrong.is_empty(), "{report}\n{:#?}", report.wrong);
    assert!(report.kills > 0 && report.delivered > 0, "{report}");
}

#[test]
fn what_was_accepted_survives_in_durable_mode() {
    let report = storm(1, true, Promise::Accepted, 7);
    assert!(report.wrong.is_empty(), "{report}\n{:#?}", report.wrong);
    assert!(report.kills > 0 && report.delivered > 0 && report.recovered > 0, "{report}");
}

#[test]
fn without_a_journal_the_storm_finds_lost_spans() {
    let report = storm(1, false, Promise::Accepted, 7);
    assert!(report.lost > 0, "{report}");
    let first = report.wrong.first().expect("it is not as it must be");
    assert!(first.contains("spans are lost; the first: span ") && first.contains(" of life "), "{first}");
}

#[test]
fn four_processes_lose_nothing_of_each_other() {
    let report = storm(4, true, Promise::Accepted, 7);
    assert!(report.wrong.is_empty(), "{report}\n{:#?}", report.wrong);
    assert!(report.kills > 0 && report.delivered > 0 && report.lives > report.kills, "{report}");
}
