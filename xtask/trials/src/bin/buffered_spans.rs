//! The memory budget: how many bytes 10,000 usual spans take while they wait in our exporter, by an allocator that
//! counts. Prints one JSON object. Run by `cargo xtask bench`.

use std::alloc::System;
use std::process::ExitCode;
use std::time::Duration;

use futures_executor::block_on;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use stats_alloc::{INSTRUMENTED_SYSTEM, Stats, StatsAlloc};
use trials::contender::{self, Protocol, Settings};
use trials::{Failure, app, wait_until};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The default capacity of the buffer, in spans.
const SPANS: usize = 10_000;

/// 20 batches fill the buffer to the span.
const BATCH: usize = 500;

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
    let collector = mock_collector::MockCollector::start()?;
    collector.stop();
    let state = tempfile::tempdir()?;
    let builder = contender::builder(Settings::Default, Protocol::Grpc, &collector.grpc_endpoint(), state.path())?;
    let mut exporter = builder.with_fallback_enabled(false).build()?;
    exporter.set_resource(&contender::resource());
    let handle = exporter.handle();

    // A first batch until its first attempt has failed, so that threads, queues and the client stand before we count.
    block_on(exporter.export(app::finished_spans(BATCH)))?;
    wait_until("a first failed attempt", Duration::from_secs(30), || handle.health().metrics.failed_exports > 0)?;
    let before = held();
    let in_sdk_form: Vec<Vec<SpanData>> = (BATCH..SPANS).step_by(BATCH).map(|_| app::finished_spans(BATCH)).collect();
    let sdk_bytes = held() - before;
    for batch in in_sdk_form {
        block_on(exporter.export(batch))?;
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

/// Bytes allocated and not freed.
fn held() -> i64 {
    let Stats { bytes_allocated, bytes_deallocated, .. } = ALLOCATOR.stats();
    bytes_allocated as i64 - bytes_deallocated as i64
}
