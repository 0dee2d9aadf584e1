//! The exporter of files behind the SDK: what is written is read back by the exporter that replays such files.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use futures_util::FutureExt as _;
use mock_collector::MockCollector;
use opentelemetry::trace::{Tracer as _, TracerProvider as _};
use opentelemetry_sdk::error::OTelSdkError;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanExporter as _};
use otlp_payload::json;
use resilient_exporter::{Compression, FallbackFormat, FileExporterError, FileSpanExporter, ResilientSpanExporter};

use crate::support::{PATIENCE, eventually, http, some_spans};

const HOUR: Duration = Duration::from_secs(3_600);

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("readable").map(|entry| entry.expect("readable").file_name());
    let mut names = entries.map(|name| name.into_string().expect("text")).collect::<Vec<_>>();
    names.retain(|name| name.starts_with("traces-"));
    names.sort();
    names
}

fn export(exporter: &FileSpanExporter, spans: u64) -> Result<(), OTelSdkError> {
    exporter.export(some_spans(spans)).now_or_never().expect("export ends at once")
}

#[test]
fn a_program_without_a_collector_has_its_spans_in_readable_private_files() {
    let scratch = tempfile::tempdir().expect("temp dir");
    let dir = scratch.path().join("traces");
    let exporter = FileSpanExporter::builder(&dir).files(|files| files.compression = Compression::Never);
    let exporter = exporter.build().expect("valid");
    let files = exporter.handle();
    let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).build();
    (0..1_000).for_each(|_| provider.tracer("shop").in_span("checkout", |_| ()));
    provider.shutdown().expect("written");
    let counts = files.counts();
    assert_eq!((counts.offered, counts.written, counts.waiting, counts.dropped), (1_000, 1_000, 0, 0));
    let names = names(&dir);
    assert_eq!(names.len() as u64, counts.files);
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    let mut spans = 0;
    for name in &names {
        assert_eq!(mode(&dir.join(name)), 0o600);
        for line in fs::read_to_string(dir.join(name)).expect("text").lines() {
            assert!(line.starts_with(r#"{"resourceSpans""#), "{line}");
            spans += json::from_line(line.as_bytes()).expect("OTLP JSON").1;
        }
    }
    assert_eq!(spans, 1_000);
}

#[test]
fn the_files_are_those_that_the_resilient_exporter_replays() {
    for format in [FallbackFormat::Json, FallbackFormat::Protobuf] {
        let scratch = tempfile::tempdir().expect("temp dir");
        let dir = scratch.path().join("traces");
        let exporter = FileSpanExporter::builder(&dir).files(|files| files.format = format).build().expect("valid");
        export(&exporter, 700).expect("taken");
        drop(exporter);
        let collector = MockCollector::start().expect("loopback");
        let builder = ResilientSpanExporter::builder().with_primary(http(&collector));
        let next = builder.with_state_dir(scratch.path().join("state")).with_fallback_dir(&dir).build().expect("valid");
        next.handle().settled(PATIENCE).expect("delivered");
        assert_eq!(collector.received().unique, 700, "{format:?}: {:?}", next.handle().ledger());
    }
}

#[test]
fn a_file_is_written_when_it_is_large_enough_when_its_time_is_over_and_by_a_flush() {
    let scratch = tempfile::tempdir().expect("temp dir");
    let (by_size, by_time) = (scratch.path().join("size"), scratch.path().join("time"));
    let builder = FileSpanExporter::builder(&by_size).with_rotate_bytes(20_000).with_rotate_after(HOUR);
    let exporter = builder.build().expect("valid");
    let files = exporter.handle();
    export(&exporter, 10).expect("taken");
    assert_eq!((files.counts().waiting, names(&by_size).len()), (10, 0));
    export(&exporter, 200).expect("written");
    assert_eq!((files.counts().waiting, names(&by_size).len()), (0, 1));
    assert!(names(&by_size)[0].contains("-n210."), "{:?}", names(&by_size));
    export(&exporter, 1).expect("taken");
    exporter.force_flush().expect("written");
    assert_eq!((files.counts().written, files.counts().files), (211, 2));
    exporter.force_flush().expect("nothing waits, and no empty file is written");
    assert_eq!(names(&by_size).len(), 2);

    let builder = FileSpanExporter::builder(&by_time).with_rotate_after(Duration::from_millis(20));
    let exporter = builder.build().expect("valid");
    export(&exporter, 10).expect("taken");
    eventually("the time of the file is over", || names(&by_time).len() == 1);
    assert_eq!(exporter.handle().counts().written, 10);
}

#[test]
fn the_oldest_files_are_removed_and_counted() {
    let scratch = tempfile::tempdir().expect("temp dir");
    let dir = scratch.path().join("traces");
    let builder = FileSpanExporter::builder(&dir).with_rotate_after(Duration::ZERO);
    let builder = builder.files(|files| (files.max_bytes, files.compression) = (100_000, Compression::Never));
    let exporter = builder.build().expect("valid");
    for _ in 0..20 {
        export(&exporter, 100).expect("written");
    }
    let (counts, left) = (exporter.handle().counts(), names(&dir).len() as u64);
    assert!(counts.removed > 0 && left < 20, "{counts:?}");
    assert_eq!(counts.written - counts.removed, left * 100, "{counts:?}");
}

#[test]
fn a_disk_that_takes_no_file_keeps_spans_in_memory_and_then_drops_the_oldest() {
    let scratch = tempfile::tempdir().expect("temp dir");
    let dir = scratch.path().join("traces");
    let builder = FileSpanExporter::builder(&dir).with_rotate_bytes(20_000).with_rotate_after(HOUR);
    let exporter = builder.build().expect("valid");
    fs::remove_dir_all(&dir).expect("our own");
    fs::write(&dir, "in the place of the directory").expect("our own");
    let error = export(&exporter, 200).expect_err("no directory").to_string();
    assert!(error.contains("200 spans wait in memory"), "{error}");
    for _ in 0..9 {
        export(&exporter, 200).expect_err("no directory");
    }
    let counts = exporter.handle().counts();
    assert!(counts.dropped > 0 && counts.waiting > 0 && counts.written == 0, "{counts:?}");
    assert_eq!(counts.offered, counts.dropped + counts.waiting);
    exporter.shutdown().expect_err("no directory");
    let counts = exporter.handle().counts();
    assert_eq!((counts.dropped, counts.waiting), (2_000, 0));
    assert!(matches!(export(&exporter, 1), Err(OTelSdkError::AlreadyShutdown)));
}

#[test]
fn a_directory_that_was_removed_is_made_again() {
    let scratch = tempfile::tempdir().expect("temp dir");
    let dir = scratch.path().join("traces");
    let exporter = FileSpanExporter::builder(&dir).with_rotate_after(Duration::ZERO).build().expect("valid");
    export(&exporter, 10).expect("written");
    fs::remove_dir_all(&dir).expect("our own");
    export(&exporter, 20).expect("written");
    assert_eq!(names(&dir).len(), 1);
    let counts = exporter.handle().counts();
    assert_eq!((counts.written, counts.waiting, counts.dropped), (30, 0, 0));
}

/// One that is never written would keep every later span out of the files.
#[test]
fn a_batch_larger_than_all_files_may_be_is_written_in_parts_or_dropped() {
    let scratch = tempfile::tempdir().expect("temp dir");
    let dir = scratch.path().join("traces");
    let builder = FileSpanExporter::builder(&dir).with_rotate_after(HOUR);
    let builder = builder.files(|files| (files.max_bytes, files.compression) = (100_000, Compression::Never));
    let exporter = builder.build().expect("valid");
    for _ in 0..20 {
        export(&exporter, 100).expect("taken");
    }
    exporter.force_flush().expect("written");
    let (counts, left) = (exporter.handle().counts(), names(&dir));
    assert_eq!((counts.offered, counts.written, counts.waiting), (2_000, 2_000, 0));
    assert!(counts.removed > 0 && counts.removed < 2_000 && !left.is_empty(), "{counts:?}");
    export(&exporter, 1_500).expect("taken");
    let error = exporter.force_flush().expect_err("one line").to_string();
    assert!(error.contains("1500 spans were dropped"), "{error}");
    export(&exporter, 10).expect("taken");
    exporter.force_flush().expect("written");
    let counts = exporter.handle().counts();
    assert_eq!((counts.written, counts.dropped, counts.waiting), (2_010, 1_500, 0));
}

#[test]
fn a_directory_that_another_exporter_uses_is_an_error_with_its_name_and_free_after_the_end() {
    let scratch = tempfile::tempdir().expect("temp dir");
    let dir = scratch.path().join("traces");
    let first = FileSpanExporter::builder(&dir).build().expect("valid");
    let error = FileSpanExporter::builder(&dir).build().expect_err("in use");
    assert!(matches!(&error, FileExporterError::Open { .. }), "{error:?}");
    assert!(error.to_string().contains("traces"), "{error}");
    first.shutdown().expect("nothing waits");
    FileSpanExporter::builder(&dir).build().expect("the first has given it back");
    let error = FileSpanExporter::builder(&dir).files(|files| files.max_bytes = 0).build().expect_err("out of range");
    assert!(matches!(error, FileExporterError::Settings { .. }), "{error:?}");
}
