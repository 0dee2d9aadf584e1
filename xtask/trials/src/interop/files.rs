//! Our fallback files, read by the Collector's own file receiver.

use std::fs;
use std::path::Path;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanExporter as _;
use otlp_payload::count_spans;

use super::Setup;
use super::otelcol::Otelcol;
use super::readers::{framed, python};
use super::stores::{Form, Stores, replay};
use super::wire::Traced;

use crate::canonical::{self, Spans};
use crate::contender::{self, Protocol, Settings};
use crate::kinds::Program;
use crate::stored::{fallback_dirs, of_ended_process};
use crate::{Failure, wait_until};

/// How long reading may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Programs that ran one after another without a collector, each of which left files behind.
const RUNS: usize = 4;

pub(super) fn read_by_it(setup: &Setup, form: Form) -> Result<String, Failure> {
    let folder = tempfile::tempdir()?;
    let mut made = Spans::new();
    for run in 0..RUNS {
        made.append(&mut spill(form, &folder.path().join(format!("state-{run}")))?);
    }
    // In one folder, as an operator would collect them.
    let collected = folder.path().join("collected");
    fs::create_dir(&collected)?;
    let mut bytes = 0;
    let mut names = Vec::new();
    for run in 0..RUNS {
        let dirs = fallback_dirs(&folder.path().join(format!("state-{run}")))?;
        for entry in dirs.iter().map(fs::read_dir).collect::<Result<Vec<_>, _>>()?.into_iter().flatten() {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.ends_with(&form.extension()) {
                bytes += fs::copy(entry.path(), collected.join(format!("{run}-{name}")))?;
                names.push(name);
            }
        }
    }
    if names.len() < RUNS {
        return Err(format!("{RUNS} programs left only these files: {names:?}").into());
    }
    let pattern = collected.join(format!("*{}", form.extension()));
    let collector = Otelcol::files(setup, folder.path(), pattern.to_string_lossy().into_owned())?;
    canonical::compare(&made, &collector.spans(made.len(), PATIENCE)?)?;
    Ok(format!("{} spans in {} files of {bytes} bytes, all alike", made.len(), names.len()))
}

/// Files of every kind of span and of every size: the Collector's record, read by google.protobuf, equals the made
/// spans field by field.
pub(super) fn every_kind(setup: &Setup, stores: &Stores, form: Form) -> Result<String, Failure> {
    let folder = tempfile::tempdir()?;
    let store = stores.store(form);
    // It does not know zstd.
    let (files, extension) =
        if form == Form::ZSTD { (&store.unpacked, ".jsonl".to_owned()) } else { (&store.files, form.extension()) };
    let directory = files[0].parent().ok_or("files are in a directory")?;
    let pattern = directory.join(format!("traces-*{extension}"));
    let collector = Otelcol::files(setup, folder.path(), pattern.to_string_lossy().into_owned())?;
    let record = collector.record_of(stores.made.len(), PATIENCE)?;
    let spans = python(setup, "record", &[stores.witness.clone(), record])?;
    Ok(format!("{spans} in {} files, each field alike", files.len()))
}

/// Files of the Collector's file exporter, as lines and as protobuf, lie among ours: their spans are sent and equal the
/// made ones field by field.
pub(super) fn written_by_it(setup: &Setup, programs: &[Program], stores: &Stores) -> Result<String, Failure> {
    let folder = tempfile::tempdir()?;
    let folder = folder.path();
    let collector = Otelcol::both_forms(setup, folder)?;
    for program in programs {
        let endpoint = collector.endpoint(Protocol::Http);
        let mut exporter =
            contender::builder(Settings::Default, Protocol::Http, &endpoint, &folder.join("sender"))?.build()?;
        exporter.set_resource(&program.resource);
        for batch in &program.batches {
            futures_executor::block_on(exporter.export(batch.clone()))?;
        }
        exporter.handle().settled(PATIENCE)?;
        exporter.shutdown()?;
    }
    let count = stores.made.len();
    let json = collector.record_of(count, PATIENCE)?;
    let proto = json.with_extension("jsonl.binpb");
    wait_until("every span in protobuf", PATIENCE, || spans_of(&proto).is_ok_and(|spans| spans == count))?;
    drop(collector);
    let mut parts = Vec::new();
    for (extension, file) in [("jsonl", json), ("binpb", proto)] {
        let state = folder.join(extension);
        let fallback = of_ended_process(&state, "fallback");
        fs::create_dir_all(&fallback)?;
        let name = format!("traces-20260201T000000.000Z-00000001-n{count}.{extension}");
        let bytes = fs::copy(&file, fallback.join(name))?;
        let sent = folder.join(format!("sent-{extension}.pb"));
        replay(&state, count, &sent)?;
        python(setup, "spans", &[stores.witness.clone(), sent])?;
        parts.push(format!("{bytes} bytes of {extension}"));
    }
    Ok(format!("{count} spans from {}, each field alike", parts.join(" and from ")))
}

/// How many spans a whole file of messages holds.
fn spans_of(file: &Path) -> Result<usize, Failure> {
    let bytes = fs::read(file)?;
    framed(&bytes)?.into_iter().map(|message| Ok(count_spans(message)?)).sum()
}

/// Spans that share a file with one that is longer than the receiver reads: it skips that one and takes the others.
pub(super) fn beside_oversized(setup: &Setup, stores: &Stores) -> Result<String, Failure> {
    let folder = tempfile::tempdir()?;
    let files = &stores.store(Form::PLAIN).files;
    let pattern = files[0].parent().ok_or("files are in a directory")?.join("traces-*.jsonl");
    let collector = Otelcol::files(setup, folder.path(), pattern.to_string_lossy().into_owned())?;
    let (first, last) = (stores.made.first(), stores.made.last());
    let others = collector.spans(stores.made.len() - 1, PATIENCE)?;
    if first.into_iter().chain(last).all(|ids| others.contains_key(ids)) {
        Ok(format!("the Collector took {} of them", others.len()))
    } else {
        Err(format!("the Collector took {} of {} spans, not their first and last", others.len(), stores.made.len())
            .into())
    }
}

/// A program whose collector never answers: it makes spans and ends, and all of them are in files.
fn spill(form: Form, state: &Path) -> Result<Spans, Failure> {
    let stopped = mock_collector::MockCollector::start()?;
    stopped.stop();
    let builder = contender::builder(Settings::Quick, Protocol::Grpc, &stopped.grpc_endpoint(), state)?
        .with_fallback_compression(form.compression)
        .with_fallback_compress_above(0);
    let mut traced = Traced::new(builder, large_resource())?;
    traced.serve(400)?;
    // One batch of more than 2 MiB as JSON: more than the receiver reads in one line.
    for _ in 0..400 {
        traced.app.serve_large(4 << 10);
    }
    traced.hand_over()?;
    traced.provider.shutdown()?;
    let ledger = traced.handle.ledger();
    let made = traced.into_made();
    if ledger.in_fallback == made.len() as u64 {
        Ok(made)
    } else {
        Err(format!("{} spans were made; after shutdown the ledger says {ledger:?}", made.len()).into())
    }
}

/// More than the 1,000 bytes by which the receiver distinguishes files, and the same in every file.
fn large_resource() -> Resource {
    let labels = (0..40)
        .map(|n| KeyValue::new(format!("k8s.pod.label.number-{n}"), format!("a value of some length, number {n}")));
    Resource::builder().with_service_name("shop").with_attributes(labels).build()
}
