//! The SDK's batch processor with the smallest and the largest numbers that the specification has.

use std::time::Duration;

use crate::support::{Setup, eventually, trace};

/// The largest whole number that the specification asks for.
const LARGEST: &str = "2147483647";

/// Memory belongs to the whole process, so this test runs in one of its own: itself, started again.
#[test]
fn the_largest_queue_takes_little_memory_and_no_delay_is_a_short_one() {
    const CHILD: &str = "HOLDFAST_TEST_BATCHES";
    if std::env::var_os(CHILD).is_some() {
        return extremes();
    }
    let output = std::process::Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "batches::the_largest_queue_takes_little_memory_and_no_delay_is_a_short_one"])
        .env(CHILD, "1")
        .output()
        .expect("the child runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "the child ran nothing");
}

fn extremes() {
    let setup = Setup::new();
    let before = peak_kib();
    let sizes = [("OTEL_BSP_MAX_QUEUE_SIZE", LARGEST), ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", LARGEST)];
    let manager =
        setup.manager(&[&sizes[..], &[("OTEL_BSP_SCHEDULE_DELAY", "0"), ("TELEMETRY_PROCESSOR", "batch")]].concat());
    let taken = peak_kib() - before;
    assert!(taken < 64 << 10, "{taken} KiB");
    let about = manager.warnings().iter().map(|warning| warning.setting.as_str()).collect::<Vec<_>>();
    assert_eq!(about, ["OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"], "{:?}", manager.warnings());

    // Without a flush.
    trace(&manager, 3);
    eventually("the delay brings them", || setup.collector.received().unique == 3);
    assert!(manager.settings().batch.schedule_delay >= Duration::from_millis(10), "the SDK's thread would not rest");
    manager.shutdown().expect("delivered");
}

/// The most memory that the process has had, in KiB.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a peak");
    line.split_whitespace().nth(1).expect("a number").parse().expect("KiB")
}
