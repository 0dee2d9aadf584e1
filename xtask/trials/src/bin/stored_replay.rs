//! The memory of a replay: `write` fills a folder with fallback files, `replay`, in a process of its own, starts an
//! exporter on it and waits until all is delivered to a collector that costs nothing. Each prints one JSON object. Run
//! by `cargo xtask bench`.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use file_fallback::Compression;
use resilient_exporter::ResilientSpanExporter;
use trials::stored::{self, PATIENCE, Resident, Takes, Written};
use trials::{Failure, now, wait_until};

const USAGE: &str = "usage: stored_replay write <folder> <MiB of text> <zstd|plain> | replay <folder>";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(json) => {
            println!("{json}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("stored_replay: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[&str]) -> Result<String, Failure> {
    match arguments {
        ["write", folder, mebibytes, compression] => {
            let compression = match *compression {
                "zstd" => Compression::Zstd,
                "plain" => Compression::Never,
                _ => return Err(USAGE.into()),
            };
            let Written { files, spans, text, disk } =
                stored::write(Path::new(folder), mebibytes.parse::<u64>()? << 20, compression)?;
            Ok(format!(r#"{{"files": {files}, "spans": {spans}, "text_bytes": {text}, "disk_bytes": {disk}}}"#))
        }
        ["replay", folder] => replay(Path::new(folder)),
        _ => Err(USAGE.into()),
    }
}

fn replay(folder: &Path) -> Result<String, Failure> {
    let baseline = Resident::read()?.peak;
    let started = now();
    let builder = ResilientSpanExporter::builder().with_primary(Arc::new(Takes)).with_fallback_dir(folder);
    // The files may be more than the default would keep.
    let exporter = builder.with_fallback_max_bytes(u64::MAX).build()?;
    let handle = exporter.handle();
    wait_until("the files", PATIENCE, || {
        let ledger = handle.ledger();
        ledger.recovered > 0 && ledger.in_fallback + ledger.buffered + ledger.in_flight == 0
    })?;
    let (seconds, ledger) = (started.elapsed().as_secs_f64(), handle.ledger());
    let peak = Resident::read()?.peak;
    if ledger.delivered != ledger.recovered || ledger.imbalance() != 0 || handle.health().fallback_files != 0 {
        return Err(format!("not all was delivered: {ledger:?}").into());
    }
    let spans = ledger.delivered;
    Ok(format!(r#"{{"spans": {spans}, "baseline_bytes": {baseline}, "peak_bytes": {peak}, "seconds": {seconds:.3}}}"#))
}
