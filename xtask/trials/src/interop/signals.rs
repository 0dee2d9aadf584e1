//! Logs and metrics, offered as encoded requests: over the network through an outage and a crash, and in files. Each
//! log record and each data point is compared with the offered one, field by field.

mod app;
mod items;
mod requests;

use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};

use mock_collector::MockCollector;
use otlp_payload::json;
use otlp_transport::{Config, connect};
use resilient_exporter::Signal;

use self::app::App;
use self::items::Items;
use super::Setup;
use super::otelcol::Otelcol;
use super::readers::{framed, python};
use super::stores::{Form, unpack, write_framed};
use super::wire::PATIENCE;
use crate::contender::{self, Protocol, Settings};
use crate::{Failure, wait_until};

/// Those that no SDK makes for us.
pub(super) const OFFERED: [Signal; 2] = [Signal::Logs, Signal::Metrics];

/// Requests before the outage.
const BEFORE: u64 = 20;
/// Requests of one command in the outage: fewer items than the buffer holds.
const STEP: u64 = 5;
/// The outage ends when so many items are in files.
const STORED: u64 = 500;
/// More requests than that takes.
const LIMIT: u64 = 1_000;
/// Requests in files.
const IN_FILES: u64 = 120;

/// One life of the application.
///
/// # Errors
///
/// When its pipeline cannot be built, or refuses a request.
pub(super) fn live(signal: &str, state: &Path) -> Result<(), Failure> {
    app::live(signal, state)
}

/// The Collector is killed, then the application, whose items wait in its journal and in files. Both are started again,
/// and each item is in the Collector's record once.
pub(super) fn killed(setup: &Setup, signal: Signal, protocol: Protocol) -> Result<String, Failure> {
    let folder = tempfile::tempdir()?;
    let (folder, state) = (folder.path(), folder.path().join("state"));
    let mut collector = Otelcol::signals(setup, folder, &folder.join("no-file"))?;
    let endpoint = collector.endpoint(protocol);
    let mut made = Items::default();
    let mut app = App::start(folder, &state, signal, protocol, &endpoint)?;
    app.offer(0..BEFORE)?;
    let told = app.flush()?;
    add(&mut made, signal, 0..BEFORE)?;
    let before = made.len() as u64;
    if told.delivered != before {
        return Err(format!("{before} items were offered: {told:?}").into());
    }
    // What the Collector has acknowledged and not yet written is lost with it.
    recorded(&collector, signal, &made, Items::default)?.compare(&made)?;
    collector.kill()?;

    let mut next = BEFORE;
    let left = loop {
        let told = app.offer(next..next + STEP)?;
        add(&mut made, signal, next..next + STEP)?;
        next += STEP;
        if told.in_fallback > STORED && told.waiting > 0 {
            break told;
        }
        if next > LIMIT {
            return Err(format!("{LIMIT} requests, and too few in files: {told:?}").into());
        }
    };
    app.kill()?;
    if left.waiting == 0 || left.offered != made.len() as u64 {
        return Err(format!("{} items were offered, and some should be in the journal: {left:?}", made.len()).into());
    }

    collector.start()?;
    let mut second = App::start(folder, &state, signal, protocol, &endpoint)?;
    let told = second.flush()?;
    second.end()?;
    let late = made.len() as u64 - before;
    if (told.recovered, told.delivered) != (late, late) {
        return Err(format!("{late} items were on the disk: {told:?}").into());
    }
    let came = recorded(&collector, signal, &made, Items::default)?;
    let count = came.compare(&made)?;
    if signal == Signal::Metrics && came.parts == 0 {
        return Err("no metric was divided between its data points".into());
    }
    // The Collector's JSON, read by us, has the same items.
    let mut read = Items::default();
    let mut lines = 0;
    // The Collector writes an object and its line feed by themselves: killed between the two, and started again, it has
    // two objects in one line.
    let record =
        fs::read_to_string(collector.record_of_signal(signal, "jsonl"))?.replace("}{\"resource", "}\n{\"resource");
    for line in record.lines() {
        let (message, _) = json::from_line_of(signal, line.as_bytes(), json::MAX_LINE_BYTES)?;
        read.add(signal, &message)?;
        lines += 1;
    }
    read.compare(&made).map_err(|failure| format!("the Collector's JSON, read by us: {failure}"))?;
    let divided = if came.parts > 0 { format!(", {} parts of metrics", came.parts) } else { String::new() };
    Ok(format!(
        "{count} {}, all alike, each once{divided}; {} of them in files and {} in the journal at the crash; {lines} lines \
         of its JSON read by us",
        signal.items(),
        left.in_fallback,
        left.waiting
    ))
}

/// Files of a program whose collector never answers: read by the Collector's file receiver and by google.protobuf.
pub(super) fn files(setup: &Setup, signal: Signal, form: Form) -> Result<String, Failure> {
    let folder = tempfile::tempdir()?;
    let folder = folder.path();
    let files = spill(signal, form, &folder.join("state"))?;
    let mut made = Items::default();
    add(&mut made, signal, 0..IN_FILES)?;
    let unpacked = folder.join("unpacked");
    fs::create_dir(&unpacked)?;
    let unpacked = files.iter().map(|file| unpack(form, file, &unpacked)).collect::<Result<Vec<_>, _>>()?;

    let witness = folder.join("witness.pb");
    let mut file = File::create(&witness)?;
    for number in 0..IN_FILES {
        write_framed(&mut file, &requests::request(signal, number))?;
    }
    let seen = python(setup, signal.as_str(), &[&[witness.clone()][..], &unpacked].concat())?;
    let harm = if form == Form::PLAIN { planted(setup, signal, &witness, &unpacked)? } else { String::new() };

    // The receiver does not know zstd.
    let (of_form, extension) =
        if form == Form::ZSTD { (&unpacked, ".jsonl".to_owned()) } else { (&files, form.extension()) };
    let directory = of_form[0].parent().ok_or("files are in a directory")?;
    let pattern = directory.join(format!("{signal}-*{extension}"));
    let collector = Otelcol::signals(setup, folder, &pattern)?;
    let came = recorded(&collector, signal, &made, Items::from_files)?.without_signs_of_zero();
    let count = came.compare(&made.without_signs_of_zero())?;
    Ok(format!("{count} {} in {} files, all alike; google.protobuf: {seen}{harm}", signal.items(), files.len()))
}

/// google.protobuf's comparison finds a line that is missing, a line that is there twice, and a value that changed.
fn planted(setup: &Setup, signal: Signal, witness: &Path, files: &[PathBuf]) -> Result<String, Failure> {
    let text = fs::read_to_string(&files[0])?;
    let line = text.split_inclusive('\n').next().unwrap_or_default();
    for (bad, found) in [
        (text.replacen(line, "", 1), " 0 were not made"),
        (format!("{text}{line}"), "protobuf: 0 of "),
        (text.replacen("\"flags\":1", "\"flags\":3", 1), ", 1 were not made"),
    ] {
        let planted = witness.with_file_name("planted.jsonl");
        fs::write(&planted, bad)?;
        let files = [&[witness.to_owned(), planted][..], &files[1..]].concat();
        match python(setup, signal.as_str(), &files) {
            Err(failure) if failure.to_string().contains(found) => {}
            other => return Err(format!("{found:?} was not found: {other:?}").into()),
        }
    }
    Ok(", and 3 kinds of harm found".to_owned())
}

fn add(items: &mut Items, signal: Signal, numbers: Range<u64>) -> Result<(), Failure> {
    numbers.into_iter().try_for_each(|number| items.add(signal, &requests::request(signal, number)))
}

/// The items of the Collector's record in protobuf, when it has as many as were made. A time-out is no error here: the
/// comparison shows which are missing.
fn recorded(collector: &Otelcol<'_>, signal: Signal, made: &Items, empty: fn() -> Items) -> Result<Items, Failure> {
    let record = collector.record_of_signal(signal, "binpb");
    let (mut length, mut found) = (0, Err(Failure::from("the Collector has written nothing")));
    let _ = wait_until("every item in the record", PATIENCE, || {
        let new = fs::metadata(&record).map_or(0, |metadata| metadata.len());
        if new != length {
            length = new;
            found = read(&record, signal, empty());
        }
        found.as_ref().is_ok_and(|items| items.len() >= made.len())
    });
    found
}

fn read(record: &Path, signal: Signal, mut items: Items) -> Result<Items, Failure> {
    for message in framed(&fs::read(record)?)? {
        items.add(signal, message)?;
    }
    Ok(items)
}

/// A whole life without a collector: all requests are in files. Gives them.
fn spill(signal: Signal, form: Form, state: &Path) -> Result<Vec<PathBuf>, Failure> {
    /// From 875 items on the oldest go to files.
    const BUFFER: u64 = 1_000;
    const ROOM_BELOW: u64 = 890;
    let stopped = MockCollector::start()?;
    stopped.stop();
    let config = Config::builder().with_signal(signal).with_endpoint(stopped.grpc_endpoint()).build()?;
    let pipeline = contender::builder(Settings::Quick, Protocol::Grpc, &stopped.grpc_endpoint(), state)?
        .with_primary(connect(config)?)
        .with_fallback_compression(form.compression)
        .with_fallback_compress_above(0)
        .with_buffer_size(usize::try_from(BUFFER)?)
        .build_pipeline(signal)?;
    let handle = pipeline.handle();
    for number in 0..IN_FILES {
        pipeline.offer(requests::request(signal, number).into())?;
        wait_until("room in the buffer", PATIENCE, || {
            let ledger = handle.ledger();
            ledger.buffered + ledger.in_flight <= ROOM_BELOW
        })?;
    }
    pipeline.shutdown(PATIENCE)?;
    let (ledger, count) = (handle.ledger(), IN_FILES * requests::items(signal));
    if ledger.in_fallback != count || ledger.imbalance() != 0 {
        return Err(format!("{count} items were offered: {ledger:?}").into());
    }
    let mut files = Vec::new();
    for directory in crate::stored::fallback_dirs(&state.join(signal.as_str()))? {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&format!("{signal}-"))) {
                files.push(path);
            }
        }
    }
    files.sort();
    let is_of_form = |path: &PathBuf| path.to_string_lossy().ends_with(&form.extension());
    if files.len() < 2 || !files.iter().all(is_of_form) {
        return Err(format!("files of {} are {files:?}", form.name()).into());
    }
    Ok(files)
}
