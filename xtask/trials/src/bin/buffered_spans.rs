//! The memory budget: how many bytes 10,000 usual spans take while they wait in our exporter, by an allocator that
//! counts. With the argument `zstd` they are compressed, and the time that the thread took for it goes to stderr; with
//! a number behind it, in batches of so many spans. Prints one JSON object. Run by `cargo xtask bench`.

use std::alloc::System;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use futures_executor::block_on;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use resilient_exporter::BufferCompression;
use stats_alloc::{INSTRUMENTED_SYSTEM, Stats, StatsAlloc};
use trials::contender::{self, Protocol, Settings};
use trials::{Failure, app, wait_until};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The default capacity of the buffer, in spans.
const SPANS: usize = 10_000;

/// 20 batches fill the buffer to the span.
const BATCH: usize = 500;

/// The thread that compresses has ended its work once so many looks found the same.
const SAME_LOOKS: u32 = 100;

const MIB: f64 = 1_048_576.0;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("buffered_spans: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Failure> {
    let arguments = std::env::args().skip(1).collect::<Vec<_>>();
    let compression = match arguments.first().map(String::as_str) {
        None => BufferCompression::None,
        Some("zstd") => BufferCompression::Zstd,
        Some(other) => return Err(format!("{other} is no argument").into()),
    };
    let batch = arguments.get(1).map_or(Ok(BATCH), |spans| spans.parse())?;
    let collector = mock_collector::MockCollector::start()?;
    collector.stop();
    let state = tempfile::tempdir()?;
    let builder = contender::builder(Settings::Default, Protocol::Grpc, &collector.grpc_endpoint(), state.path())?;
    let builder = builder.with_fallback_enabled(false).buffer(|buffer| buffer.compression = compression);
    let mut exporter = builder.build()?;
    exporter.set_resource(&contender::resource());
    let handle = exporter.handle();

    // A first batch until its first attempt has failed, so that threads, queues and the client stand before we count.
    block_on(exporter.export(app::finished_spans(BATCH)))?;
    wait_until("a first failed attempt", Duration::from_secs(30), || handle.health().metrics.failed_exports > 0)?;
    if compression != BufferCompression::None {
        // The first batch is compressed before we count: it is no part of what is counted.
        let plain = handle.health().memory.bytes;
        wait_until("a compressed batch", Duration::from_secs(30), || handle.health().memory.bytes < plain / 2)?;
    }
    let before = held();
    let in_sdk_form: Vec<Vec<SpanData>> = (BATCH..SPANS).step_by(batch).map(|_| app::finished_spans(batch)).collect();
    let sdk_bytes = held() - before;
    for batch in in_sdk_form {
        block_on(exporter.export(batch))?;
    }
    if compression != BufferCompression::None {
        // The last batches are a second old, and the thread has ended its last job.
        let plain = handle.health().memory.bytes;
        let (mut last, mut looks) = ((plain, 0), 0);
        wait_until("compressed batches", Duration::from_secs(60), || {
            let now = (handle.health().memory.bytes, time_of_packer());
            looks = if std::mem::replace(&mut last, now) == now { looks + 1 } else { 0 };
            now.0 < plain / 2 && looks >= SAME_LOOKS
        })?;
        eprintln!("{plain} bytes of requests in {} of memory, {} ns a span", last.0, last.1 / SPANS as u64);
    }
    let bytes = held() - before;

    let ledger = handle.ledger();
    let buffered = ledger.buffered + ledger.in_flight;
    let scale = SPANS as f64 / (SPANS - BATCH) as f64;
    let (bytes, sdk_bytes) = (bytes as f64 * scale, sdk_bytes as f64 * scale);
    println!(r#"{{"peer": {:.4}, "ours": {:.4}}}"#, sdk_bytes / MIB, bytes / MIB);
    if buffered == SPANS as u64 && ledger.imbalance() == 0 {
        Ok(())
    } else {
        Err(format!("{SPANS} spans were offered, the ledger says {ledger:?}").into())
    }
}

/// The processor time of the thread that compresses, in nanoseconds. Linux only.
fn time_of_packer() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten().map(|task| task.path());
    let read = |path: PathBuf| std::fs::read_to_string(path).unwrap_or_default();
    let packers = tasks.filter(|task| read(task.join("comm")).trim() == "holdfast-pack");
    let times =
        packers.map(|task| read(task.join("schedstat")).split(' ').next().and_then(|time| time.parse::<u64>().ok()));
    times.flatten().sum::<u64>()
}

/// Bytes allocated and not freed.
fn held() -> i64 {
    let Stats { bytes_allocated, bytes_deallocated, .. } = ALLOCATOR.stats();
    bytes_allocated as i64 - bytes_deallocated as i64
}
