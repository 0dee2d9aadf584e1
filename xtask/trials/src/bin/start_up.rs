//! How long an application waits for us at its start: from the builder until the first batch is accepted, with nothing on disk and
//! with a folder full of fallback files. Prints one JSON object. Run by `cargo xtask bench`.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use futures_executor::block_on;
use opentelemetry_sdk::trace::SpanExporter as _;
use resilient_exporter::{Handle, ResilientSpanExporter};
use trials::stored::{self, BATCH, Silent};
use trials::{Failure, app, contender, now};

/// Files on disk, and spans in each: about 1 GiB together, just below the default limit.
const FILES: u64 = 10_000;
const SPANS: usize = 75;

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
    let written = stored::copies(&full, FILES, SPANS)?;
    let (in_empty, _) = start(&empty)?;
    let (in_full, handle) = start(&full)?;
    let ledger = handle.ledger();
    if ledger.recovered != written.spans || ledger.lost() > 0 {
        return Err(format!("{} spans were on disk, the books say {ledger:?}", written.spans).into());
    }
    let (files, bytes) = (written.files, written.disk);
    let [in_empty, in_full] = [in_empty, in_full].map(|took| took.as_secs_f64());
    Ok(format!(
        r#"{{"files": {files}, "bytes": {bytes}, "empty_seconds": {in_empty:.6}, "full_seconds": {in_full:.6}}}"#
    ))
}

/// The time until the first batch is accepted.
fn start(folder: &Path) -> Result<(Duration, Handle), Failure> {
    let batch = app::finished_spans(BATCH);
    let started = now();
    let builder = ResilientSpanExporter::builder().with_primary(Arc::new(Silent)).with_fallback_dir(folder);
    let mut exporter = builder.build()?;
    exporter.set_resource(&contender::resource());
    block_on(exporter.export(batch))?;
    let took = started.elapsed();
    let handle = exporter.handle();
    // Its threads end with the process: a shutdown would only wait for the collector that never answers.
    std::mem::forget(exporter);
    Ok((took, handle))
}
