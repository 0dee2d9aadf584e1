//! The soak in small: random faults for some seconds, restarts, and the same judgement in the end.

use std::path::Path;
use std::time::Duration;

use trials::soak::{Plan, run};

#[test]
fn some_seconds_of_random_faults_lose_no_span() {
    let folder = tempfile::tempdir().expect("a folder");
    let plan = Plan {
        time: Duration::from_secs(14),
        rest: Duration::from_secs(3),
        seed: 7,
        rate: 1_000,
        folder: folder.path().to_owned(),
    };
    let report = run(&plan, Path::new(env!("CARGO_BIN_EXE_trials"))).expect("a soak that runs to its end");
    assert!(report.wrong.is_empty(), "seed {}: {:#?}\n{report}", report.seed, report.wrong);
    assert!(report.delivered > 0 && report.steps > 3 && report.conditions.len() > 2, "{report}");
    assert!(report.wakeups.contains_key("holdfast-net") && report.at_rest.contains_key("holdfast-net"), "{report}");
}
