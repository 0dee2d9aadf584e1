//! The span processor and its batches, the shutdown and the threads.

use std::time::Duration;

use super::tests::{good, warnings};
use super::*;

#[test]
fn the_processor_gets_the_batches_and_has_no_queue() {
    let settings = good(&[
        ("OTEL_BSP_SCHEDULE_DELAY", "250"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "5000"),
        ("OTEL_BSP_EXPORT_TIMEOUT", "1500"),
    ]);
    let processor = &settings.exporter.processor;
    assert_eq!((processor.scheduled_delay, processor.max_export_batch_size), (Duration::from_millis(250), 5_000));
    assert_eq!(processor.export_timeout, Duration::from_millis(1_500));
    assert!(settings.warnings().is_empty(), "a batch may be larger than a queue that is not there");
    for (delay, expected) in [("0", 0), ("1", 10), ("9ms", 10), ("11", 11)] {
        let settings = good(&[("OTEL_BSP_SCHEDULE_DELAY", delay)]);
        let expected = Duration::from_millis(expected);
        assert_eq!([settings.batch.schedule_delay, settings.exporter.processor.scheduled_delay], [expected; 2]);
    }
    assert_eq!(
        warnings(&[("OTEL_BSP_MAX_QUEUE_SIZE", "4096")]),
        ["OTEL_BSP_MAX_QUEUE_SIZE has no effect without TELEMETRY_PROCESSOR=batch: there is no queue; \
          TELEMETRY_BUFFER_MAX_SPANS is the limit on spans in memory"]
    );
    let sdk = ("TELEMETRY_PROCESSOR", "Batch");
    let settings = good(&[sdk, ("OTEL_BSP_MAX_QUEUE_SIZE", "4096"), ("OTEL_BSP_EXPORT_TIMEOUT", "7s")]);
    assert_eq!((settings.processor, settings.batch.max_queue_size), (TracesProcessor::Batch, 4_096));
    assert_eq!((settings.batch.export_timeout, settings.warnings().len()), (Duration::from_secs(7), 0));
    let staging = ("TELEMETRY_JOURNAL_STAGING", "50ms");
    let durable = ("TELEMETRY_JOURNAL_ENABLED", "true");
    assert_eq!(good(&[durable, staging]).exporter.journal.staging, Duration::from_millis(50));
    let warned = warnings(&[sdk, durable, staging]);
    assert!(warned.len() == 1 && warned[0].contains("TELEMETRY_PROCESSOR=resilient"), "{warned:?}");
}

#[test]
fn values_of_the_processor_that_are_not_accepted_leave_the_defaults() {
    let default = |settings: &Settings| {
        let exporter = &settings.exporter;
        let (processor, shutdown, threads) = (&exporter.processor, exporter.shutdown.timeout, &exporter.threads);
        (settings.processor, settings.batch, processor.clone(), shutdown, threads.clone(), exporter.journal.clone())
    };
    for (name, value) in [
        ("TELEMETRY_PROCESSOR", "simple"),
        ("OTEL_BSP_EXPORT_TIMEOUT", "0"),
        ("OTEL_BSP_EXPORT_TIMEOUT", "soon"),
        ("OTEL_BSP_SCHEDULE_DELAY", "-1"),
        ("TELEMETRY_SHUTDOWN_TIMEOUT", "0"),
        ("TELEMETRY_SHUTDOWN_TIMEOUT", "99ms"),
        ("TELEMETRY_SHUTDOWN_TIMEOUT", "2h"),
        ("TELEMETRY_THREAD_NICENESS", "20"),
        ("TELEMETRY_THREAD_NICENESS", "-5"),
        ("TELEMETRY_JOURNAL_STAGING", "2m"),
    ] {
        let settings = good(&[(name, value)]);
        assert_eq!(default(&settings), default(&good(&[])), "{name}={value}");
        assert_eq!(settings.warnings().len(), 1, "{name}={value}");
        assert!(settings.warnings()[0].message.starts_with(name), "{:?}", settings.warnings());
    }
    let settings = good(&[("TELEMETRY_SHUTDOWN_TIMEOUT", "8"), ("TELEMETRY_THREAD_NICENESS", "0")]);
    let exporter = &settings.exporter;
    assert_eq!((exporter.shutdown.timeout, exporter.threads.niceness), (Duration::from_secs(8), 0));
}
