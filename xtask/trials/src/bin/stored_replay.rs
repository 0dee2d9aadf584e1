//! The memory of a replay: the most that a start and the replay of files take, over the memory of the process at its
//! start, beside the size of the files. `measure` fills a folder with fallback files and replays them, each in a
//! process of its own to a collector that costs nothing, and prints one JSON object in MiB. Run by `cargo xtask bench`.

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;

use file_fallback::Compression;
use resilient_exporter::ResilientSpanExporter;
use serde_json::Value;
use trials::stored::{self, PATIENCE, Resident, Takes, Written};
use trials::{Failure, now, wait_until};

const USAGE: &str = "\
usage: stored_replay measure <MiB of text> <zstd|plain>
       stored_replay write <folder> <MiB of text> <zstd|plain>      used by measure
       stored_replay replay <folder> <spans>                        used by measure
";

const MIB: f64 = 1_048_576.0;

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
        ["measure", mebibytes, compression] => measure(mebibytes, compression),
        ["write", folder, mebibytes, compression] => {
            let compression = match *compression {
                "zstd" => Compression::Zstd,
                "plain" => Compression::Never,
                _ => return Err(USAGE.into()),
            };
            let Written { files, spans, text, disk } = stored::write(
                &stored::of_ended_process(Path::new(folder), "fallback"),
                mebibytes.parse::<u64>()? << 20,
                compression,
            )?;
            Ok(format!(r#"{{"files": {files}, "spans": {spans}, "text_bytes": {text}, "disk_bytes": {disk}}}"#))
        }
        ["replay", folder, spans] => replay(Path::new(folder), spans.parse()?),
        _ => Err(USAGE.into()),
    }
}

/// Both halves, each in a process of its own: the memory of the writer is not the replay's.
fn measure(mebibytes: &str, compression: &str) -> Result<String, Failure> {
    let scratch = tempfile::tempdir()?;
    let folder = scratch.path().join("traces");
    let written = ask(Command::new(std::env::current_exe()?).arg("write").arg(&folder).args([mebibytes, compression]))?;
    let stored = written["spans"].to_string();
    let replayed = ask(Command::new(std::env::current_exe()?).arg("replay").arg(&folder).arg(&stored))?;
    let number =
        |json: &Value, key: &str| json[key].as_f64().ok_or_else(|| Failure::from(format!("no {key} in {json}")));
    let (disk, seconds) = (number(&written, "disk_bytes")? / MIB, number(&replayed, "seconds")?);
    eprintln!("{compression}: {stored} spans of {disk:.0} MiB on disk in {seconds:.1} s");
    let ours = (number(&replayed, "peak_bytes")? - number(&replayed, "baseline_bytes")?) / MIB;
    Ok(format!(r#"{{"peer": {disk:.4}, "ours": {ours:.4}}}"#))
}

/// Runs this program and reads the JSON object that it prints.
fn ask(command: &mut Command) -> Result<Value, Failure> {
    let output = command.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("{command:?}: {}", output.status).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn replay(folder: &Path, stored: u64) -> Result<String, Failure> {
    let baseline = Resident::read()?.peak;
    let started = now();
    let builder = ResilientSpanExporter::builder().with_primary(Arc::new(Takes)).with_fallback_dir(folder);
    // The files may exceed the default limit.
    let exporter = builder.with_fallback_max_bytes(u64::MAX).build()?;
    let handle = exporter.handle();
    wait_until("the files", PATIENCE, || {
        let ledger = handle.ledger();
        ledger.recovered >= stored && ledger.in_fallback + ledger.buffered + ledger.in_flight == 0
    })?;
    let (seconds, ledger) = (started.elapsed().as_secs_f64(), handle.ledger());
    let peak = Resident::read()?.peak;
    if [ledger.delivered, ledger.recovered] != [stored; 2]
        || ledger.imbalance() != 0
        || handle.health().fallback_files != 0
    {
        return Err(format!("not all was delivered: {ledger:?}").into());
    }
    let spans = ledger.delivered;
    Ok(format!(r#"{{"spans": {spans}, "baseline_bytes": {baseline}, "peak_bytes": {peak}, "seconds": {seconds:.3}}}"#))
}
