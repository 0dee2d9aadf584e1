//! How long an application waits for us at its start: from the builder until the first batch is accepted, with nothing
//! on disk and in durable mode with a folder full of fallback files and a full journal. Prints one JSON object. Run by
//! `cargo xtask bench`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use futures_executor::block_on;
use opentelemetry_sdk::trace::SpanExporter as _;
use resilient_exporter::{Handle, ResilientSpanExporter};
use trials::stored::{self, BATCH, PATIENCE, Silent};
use trials::{Failure, app, contender, now, wait_until};

/// Files on disk, and spans in each: about 1 GiB together, just below the default limit.
const FILES: u64 = 10_000;
const SPANS: usize = 75;

/// Bytes of batches in the journal, six times the capacity of the buffer.
const JOURNAL: u64 = 64 << 20;

fn main() -> ExitCode {
    match run() {
        Ok(json) => {
            println!("{json}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("start_up: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<String, Failure> {
    let scratch = tempfile::tempdir()?;
    let (empty, full) = (scratch.path().join("empty"), scratch.path().join("full"));
    let files = stored::copies(&stored::of_ended_process(&files_below(&full), "fallback"), FILES, SPANS)?;
    let journal = stored::journal(&stored::of_ended_process(&full, "journal"), JOURNAL)?;
    let (in_empty, _) = start(&empty)?;
    let (in_full, handle) = start(&full)?;
    let on_disk = files.spans + journal.spans;
    wait_until("the spans on disk", PATIENCE, || handle.ledger().recovered >= on_disk)?;
    let ledger = handle.ledger();
    if ledger.recovered != on_disk || ledger.lost() > 0 {
        return Err(format!("{on_disk} spans were on disk, the ledger says {ledger:?}").into());
    }
    eprintln!("{} MiB were on disk", (files.disk + journal.disk) >> 20);
    let [in_empty, in_full] = [in_empty, in_full].map(|took| took.as_secs_f64());
    Ok(format!(r#"{{"peer": {in_empty:.6}, "ours": {in_full:.6}}}"#))
}

fn files_below(state: &Path) -> PathBuf {
    state.join("files")
}

/// The time until the first batch is accepted.
fn start(state: &Path) -> Result<(Duration, Handle), Failure> {
    let batch = app::finished_spans(BATCH);
    let started = now();
    let builder = ResilientSpanExporter::builder().with_primary(Arc::new(Silent)).with_state_dir(state);
    let mut exporter = builder.with_fallback_dir(files_below(state)).with_journal_enabled(true).build()?;
    exporter.set_resource(&contender::resource());
    block_on(exporter.export(batch))?;
    let took = started.elapsed();
    let handle = exporter.handle();
    // Its threads end with the process: a shutdown would only wait for the collector that never answers.
    std::mem::forget(exporter);
    Ok((took, handle))
}
