//! A row for each metric.
//!
//! The rows of one question stand together, in the order of [`Question::ALL`].

use resilient_exporter::{Ledger, Metrics, Wakeups};

use super::labels::{
    CALL_ERROR, COMPONENT_NAME, COMPONENT_TYPE, DROP_REASON, DROP_REASONS, ENDPOINT, EXPORT_ERROR, OUTCOME, OUTCOMES,
    PROCESSING_ERROR, PROCESSOR_TYPE, REFUSE_REASON, REFUSE_REASONS, SIGNAL, STATE, STATES, STATUS, STATUSES, THREAD,
    THREADS, VERSION, by_endpoint, by_reason, component, counted_by_endpoint, endpoints, exported, processed,
    processor, status, with_error,
};
use super::sample::{Value, signed};
use super::{Kind, Metric, Question, Read, timestamp};

/// Reads `QUESTION { "name", kind [unit] {labels}: "help", reader; .. }`; a reader is `Exporter(..)` or `Always(..)`.
macro_rules! metrics {
    ($($question:ident {
        $($name:literal, $kind:ident [$unit:literal] {$($label:ident),*}: $help:literal, $read:ident($reader:expr);)*
    })*) => {
        /// Every metric.
        pub const METRICS: &[Metric] = &[$($(Metric {
            name: $name,
            kind: Kind::$kind,
            unit: $unit,
            labels: &[$($label),*],
            help: $help,
            question: Question::$question,
            read: Read::$read($reader),
        },)*)*];
    };
}

/// The histogram of what calls have delivered; the other one is of the calls themselves.
pub(super) const LATENESS: &str = "holdfast.delivery.lateness";

metrics! {
    IsWell {
        "holdfast.exporter.up", Gauge [""] {}:
            "1 while spans are exported; 0 if telemetry is disabled, set not to export, failed to start, or \
             shut down.",
            Always(|snapshot, out| out.number(if snapshot.is_exporting { 1.0 } else { 0.0 }));
        "holdfast.health.status", Gauge [""] {STATUS}:
            "1 for the status that holds, 0 for the others; unhealthy means spans lost within 5 minutes, or a \
             set-up that failed.",
            Always(|snapshot, out| out.states(&[], "status", &STATUSES, status(snapshot.status)));
        "holdfast.build_info", Gauge [""] {VERSION}:
            "Always 1; the label has the version.",
            Always(|_, out| out.with(&[("version", env!("CARGO_PKG_VERSION"))], Value::Number(1.0)));
        "holdfast.exporter.uptime", Gauge ["s"] {}:
            "Time since the exporter was built.",
            Exporter(|health, out| out.number(health.uptime.as_secs_f64()));
        "holdfast.thread.wakeups", Counter ["{wakeup}"] {THREAD}:
            "How often each thread of the exporter woke.",
            Exporter(|health, out| {
                let Wakeups { net, disk, journal, .. } = health.wakeups;
                for (thread, wakeups) in THREADS.into_iter().zip([net, disk, journal]) {
                    out.with(&[("thread", thread)], Value::Count(wakeups));
                }
            });
    }

    IsLost {
        "holdfast.items.offered", Counter ["{item}"] {SIGNAL}:
            "Items handed to the exporter, by our processor as they end.",
            Exporter(|health, out| out.counted(health.signal, health.ledger.offered));
        "holdfast.items.recovered", Counter ["{item}"] {SIGNAL}:
            "Items found on disk from an earlier process.",
            Exporter(|health, out| out.counted(health.signal, health.ledger.recovered));
        "holdfast.items.redriven", Counter ["{item}"] {SIGNAL}:
            "Dead letters put back on their way.",
            Exporter(|health, out| out.counted(health.signal, health.ledger.redriven));
        "holdfast.items.delivered", Counter ["{item}"] {SIGNAL}:
            "Items taken by the collector.",
            Exporter(|health, out| out.counted(health.signal, health.ledger.delivered));
        "holdfast.items.rejected", Counter ["{item}"] {SIGNAL}:
            "Items refused by the collector in a partial success; they are not sent again.",
            Exporter(|health, out| out.counted(health.signal, health.ledger.rejected));
        "holdfast.items.dead_lettered", Counter ["{item}"] {SIGNAL}:
            "Items refused for good, and kept as dead letters.",
            Exporter(|health, out| out.counted(health.signal, health.ledger.dead_lettered));
        "holdfast.items.taken_over", Counter ["{item}"] {SIGNAL}:
            "Items in files that another process took over, and counts as recovered.",
            Exporter(|health, out| out.counted(health.signal, health.ledger.taken_over));
        "holdfast.items.dropped", Counter ["{item}"] {SIGNAL, DROP_REASON}:
            "Accepted items that were given up: lost. Each reason has a sample from the start.",
            Exporter(|health, out| by_reason(health, &DROP_REASONS, &health.ledger.dropped, out));
        "holdfast.items.refused", Counter ["{item}"] {SIGNAL, REFUSE_REASON}:
            "Offered items that were never accepted: lost. Each reason has a sample from the start.",
            Exporter(|health, out| by_reason(health, &REFUSE_REASONS, &health.ledger.refused, out));
        "holdfast.ledger.imbalance", UpDownCounter ["{item}"] {SIGNAL}:
            "Items that came in less items accounted for; anything but 0 is a fault of the exporter.",
            Exporter(|health, out| {
                out.with(&[("signal", health.signal.as_str())], Value::Sum(health.ledger.imbalance()));
            });
        "holdfast.items.possible_duplicates", Counter ["{item}"] {SIGNAL}:
            "Items of calls that the collector may have taken although no answer said so: an upper bound of \
             duplicates.",
            Exporter(|health, out| out.counted(health.signal, health.possible_duplicates));
        "holdfast.items.acknowledged_unreadable", Counter ["{item}"] {SIGNAL}:
            "Delivered items whose acknowledgement is one that no OTLP server gives.",
            Exporter(|health, out| out.counted(health.signal, health.acknowledged_unreadable));
        "holdfast.items.accepted_not_durable", Counter ["{item}"] {SIGNAL}:
            "Items accepted although the journal had not made them durable in time; no sample without durable mode.",
            Exporter(|health, out| {
                health.accepted_not_durable.into_iter().for_each(|items| out.counted(health.signal, items));
            });
        "holdfast.items.not_sampled", Counter ["{item}"] {SIGNAL}:
            "Items that the sampler records for this process alone: no loss, and at no place of the ledger; no sample \
             with the SDK's processor.",
            Exporter(|health, out| health.not_sampled.into_iter().for_each(|items| out.counted(health.signal, items)));
    }

    IsWaiting {
        "holdfast.items.staged", UpDownCounter ["{item}"] {SIGNAL}:
            "Items in the processor, in batches that are not full; 0 with the SDK's processor.",
            Exporter(|health, out| out.there(health.signal, health.ledger.staged));
        "holdfast.items.buffered", UpDownCounter ["{item}"] {SIGNAL}:
            "Items that wait in memory, or are being written to a file.",
            Exporter(|health, out| out.there(health.signal, health.ledger.buffered));
        "holdfast.items.in_flight", UpDownCounter ["{item}"] {SIGNAL}:
            "Items sent, without an answer yet.",
            Exporter(|health, out| out.there(health.signal, health.ledger.in_flight));
        "holdfast.items.in_fallback", UpDownCounter ["{item}"] {SIGNAL}:
            "Items in fallback files.",
            Exporter(|health, out| out.there(health.signal, health.ledger.in_fallback));
        "holdfast.items.in_journal", UpDownCounter ["{item}"] {SIGNAL}:
            "Items that only the journal holds.",
            Exporter(|health, out| out.there(health.signal, health.ledger.in_journal));
        "holdfast.buffer.batches", UpDownCounter ["{batch}"] {SIGNAL}:
            "Batches that wait in memory.",
            Exporter(|health, out| out.there(health.signal, health.buffered_batches as u64));
        "holdfast.buffer.size", UpDownCounter ["By"] {SIGNAL}:
            "Bytes that wait in memory.",
            Exporter(|health, out| out.there(health.signal, health.buffered_bytes as u64));
        "holdfast.buffer.oldest_age", Gauge ["s"] {SIGNAL}:
            "Age of the oldest batch in memory; 0 without one.",
            Exporter(|health, out| out.valued(health.signal, health.oldest.unwrap_or_default().as_secs_f64()));
        "holdfast.items.oldest_age", Gauge ["s"] {SIGNAL}:
            "Age of the oldest item that waits, in memory, files or journal; 0 without one.",
            Exporter(|health, out| out.valued(health.signal, health.oldest_waiting.unwrap_or_default().as_secs_f64()));
        "holdfast.delivery.lateness", Histogram ["s"] {SIGNAL}:
            "Time from the end of a batch's newest item to its acknowledgement, for each delivered batch; no sample \
             before the first.",
            Exporter(|health, out| {
                if health.lateness.count() > 0 {
                    out.lateness(health.signal, &health.lateness);
                }
            });
        "holdfast.buffer.held_items", UpDownCounter ["{item}"] {SIGNAL}:
            "Items that are staged, wait in memory or are being sent; the limit counts these.",
            Exporter(|health, out| out.there(health.signal, health.memory.spans));
        "holdfast.buffer.max_items", UpDownCounter ["{item}"] {SIGNAL}:
            "The limit on the items in memory; 0 if there is none.",
            Exporter(|health, out| out.there(health.signal, health.memory.max_spans));
        "holdfast.buffer.held_size", UpDownCounter ["By"] {SIGNAL}:
            "Bytes of items that are staged, wait in memory or are being sent; the limit counts these.",
            Exporter(|health, out| out.there(health.signal, health.memory.bytes));
        "holdfast.buffer.max_size", UpDownCounter ["By"] {SIGNAL}:
            "The limit on the bytes in memory; 0 if there is none.",
            Exporter(|health, out| out.there(health.signal, health.memory.max_bytes));
        "holdfast.buffer.spilling_items", UpDownCounter ["{item}"] {SIGNAL}:
            "Items that are being written to a fallback file.",
            Exporter(|health, out| out.there(health.signal, health.spilling));
    }

    IsRefusing {
        "holdfast.breaker.state", Gauge [""] {ENDPOINT, STATE}:
            "1 for the state of the endpoint's circuit breaker, 0 for the others.",
            Exporter(|health, out| {
                for (endpoint, collector) in endpoints(health) {
                    out.states(&[endpoint], "state", &STATES, collector.breaker.as_str());
                }
            });
        "holdfast.breaker.trips", Counter ["{trip}"] {}:
            "How often the circuit breaker opened.",
            Exporter(|health, out| out.count(health.metrics.circuit_breaker_trips));
        "holdfast.endpoint.refusing", Gauge [""] {ENDPOINT}:
            "1 while the endpoint refuses all that it is sent, 0 otherwise.",
            Exporter(|health, out| by_endpoint(health, out, |collector| if collector.refusing.is_some() { 1.0 } else { 0.0 }));
        "holdfast.endpoint.pause", Gauge ["s"] {ENDPOINT}:
            "Rest of the pause that the endpoint asked for; 0 without one.",
            Exporter(|health, out| by_endpoint(health, out, |collector| collector.pause.unwrap_or_default().as_secs_f64()));
        "holdfast.endpoint.next_attempt", Gauge ["s"] {ENDPOINT}:
            "Time until the next call may go out, because of a pause, the backoff or the breaker; 0 if one may \
             go now.",
            Exporter(|health, out| by_endpoint(health, out, |collector| collector.wait.unwrap_or_default().as_secs_f64()));
        "holdfast.endpoint.in_use", Gauge [""] {ENDPOINT}:
            "1 for the endpoint that calls go to, 0 for each other one.",
            Exporter(|health, out| by_endpoint(health, out, |collector| if collector.in_use { 1.0 } else { 0.0 }));
        "holdfast.endpoint.delivered", Counter ["{item}"] {ENDPOINT}:
            "Items taken by the endpoint; `holdfast.items.delivered` has the sum.",
            Exporter(|health, out| counted_by_endpoint(health, out, |collector| collector.delivered));
        "holdfast.endpoint.rejected", Counter ["{item}"] {ENDPOINT}:
            "Items refused by the endpoint in a partial success; `holdfast.items.rejected` has the sum.",
            Exporter(|health, out| counted_by_endpoint(health, out, |collector| collector.rejected));
        "holdfast.calls", Counter ["{call}"] {SIGNAL, OUTCOME}:
            "Finished calls to a collector, by success and failure.",
            Exporter(|health, out| {
                let Metrics { successful_exports, failed_exports, .. } = health.metrics;
                for (outcome, calls) in OUTCOMES.into_iter().zip([successful_exports, failed_exports]) {
                    out.with(&[("signal", health.signal.as_str()), ("outcome", outcome)], Value::Count(calls));
                }
            });
        "holdfast.calls.success_rate_5m", Gauge ["1"] {SIGNAL}:
            "Share of the calls of the last 5 minutes that succeeded; 1 without a call.",
            Exporter(|health, out| out.valued(health.signal, health.success_rate_5m));
        "holdfast.calls.last_success.timestamp", Gauge ["s"] {SIGNAL}:
            "When a call last succeeded, since 1970; no sample before.",
            Exporter(|health, out| {
                timestamp(health.metrics.last_export_success).into_iter().for_each(|time| out.valued(health.signal, time));
            });
        "holdfast.calls.last_failure.timestamp", Gauge ["s"] {SIGNAL}:
            "When a call last failed, since 1970; no sample before.",
            Exporter(|health, out| {
                timestamp(health.metrics.last_export_failure).into_iter().for_each(|time| out.valued(health.signal, time));
            });
    }

    IsStored {
        "holdfast.fallback.spills", Counter ["{file}"] {SIGNAL}:
            "Fallback files written.",
            Exporter(|health, out| out.counted(health.signal, health.metrics.fallback_usage));
        "holdfast.fallback.files", UpDownCounter ["{file}"] {SIGNAL}:
            "Fallback files on disk; no sample without a fallback.",
            Exporter(|health, out| health.storage.fallback.iter().for_each(|files| out.there(health.signal, files.files)));
        "holdfast.fallback.size", UpDownCounter ["By"] {SIGNAL}:
            "Bytes of fallback files; no sample without a fallback.",
            Exporter(|health, out| health.storage.fallback.iter().for_each(|files| out.there(health.signal, files.bytes)));
        "holdfast.fallback.max_size", UpDownCounter ["By"] {SIGNAL}:
            "The limit on the bytes of fallback files, less those of the journal and of other processes with the \
             same limit; no sample without a fallback.",
            Exporter(|health, out| health.storage.fallback.iter().for_each(|files| out.there(health.signal, files.max_bytes)));
        "holdfast.fallback.full_in", Gauge ["s"] {SIGNAL}:
            "Time until the oldest fallback files must be removed, at the rate of the last 10 minutes; no \
             sample without a file that waits, and one written in that time.",
            Exporter(|health, out| health.storage.full_in.iter().for_each(|time| out.valued(health.signal, time.as_secs_f64())));
        "holdfast.journal.batches", UpDownCounter ["{batch}"] {SIGNAL}:
            "Batches in the journal that are not done; no sample without durable mode.",
            Exporter(|health, out| health.storage.journal.iter().for_each(|journal| out.there(health.signal, journal.batches)));
        "holdfast.journal.size", UpDownCounter ["By"] {SIGNAL}:
            "Bytes of the journal on disk; no sample without durable mode.",
            Exporter(|health, out| health.storage.journal.iter().for_each(|journal| out.there(health.signal, journal.bytes)));
        "holdfast.journal.max_size", UpDownCounter ["By"] {SIGNAL}:
            "The limit on the bytes of the journal, 0 if it knows none; no sample without durable mode.",
            Exporter(|health, out| health.storage.journal.iter().for_each(|journal| out.there(health.signal, journal.max_bytes)));
        "holdfast.dead_letters.files", UpDownCounter ["{file}"] {SIGNAL}:
            "Dead letters on disk; no sample without a fallback.",
            Exporter(|health, out| health.storage.dead_letters.iter().for_each(|files| out.there(health.signal, files.files)));
        "holdfast.dead_letters.items", UpDownCounter ["{item}"] {SIGNAL}:
            "Items in dead letters; no sample without a fallback.",
            Exporter(|health, out| health.storage.dead_letters.iter().for_each(|files| out.there(health.signal, files.spans)));
        "holdfast.dead_letters.size", UpDownCounter ["By"] {SIGNAL}:
            "Bytes of dead letters; no sample without a fallback.",
            Exporter(|health, out| health.storage.dead_letters.iter().for_each(|files| out.there(health.signal, files.bytes)));
        "holdfast.dead_letters.max_size", UpDownCounter ["By"] {SIGNAL}:
            "The limit on the bytes of dead letters; no sample without a fallback.",
            Exporter(|health, out| health.storage.dead_letters.iter().for_each(|files| out.there(health.signal, files.max_bytes)));
        "holdfast.dead_letters.evicted", Counter ["{item}"] {SIGNAL}:
            "Items of dead letters that were removed to keep the limits of dead letters: lost.",
            Exporter(|health, out| out.counted(health.signal, health.dead_letters_evicted));
        "holdfast.set_aside.files", UpDownCounter ["{file}"] {SIGNAL}:
            "Damaged files in quarantine, which wait for an operator.",
            Exporter(|health, out| out.there(health.signal, health.storage.set_aside.files));
        "holdfast.set_aside.items", UpDownCounter ["{item}"] {SIGNAL}:
            "Items in the damaged files when they were written.",
            Exporter(|health, out| out.there(health.signal, health.storage.set_aside.spans));
    }

    Conventions {
        "otel.sdk.processor.span.queue.size", UpDownCounter ["{span}"] {PROCESSOR_TYPE, COMPONENT_NAME}:
            "Spans in the processor, in batches that are not full; no sample with the SDK's processor.",
            Exporter(|health, out| {
                let staged = Value::Sum(signed(health.ledger.staged));
                processor(health).into_iter().for_each(|component| out.owned(component.to_vec(), staged.clone()));
            });
        "otel.sdk.processor.span.queue.capacity", UpDownCounter ["{span}"] {PROCESSOR_TYPE, COMPONENT_NAME}:
            "Spans in the processor at most; no sample with the SDK's processor.",
            Exporter(|health, out| {
                for (component, most) in processor(health).into_iter().zip(health.staging_capacity) {
                    out.owned(component.to_vec(), Value::Sum(signed(most)));
                }
            });
        "otel.sdk.processor.span.processed", Counter ["{span}"] {PROCESSOR_TYPE, COMPONENT_NAME, PROCESSING_ERROR}:
            "Spans whose batch is the exporter's, without `error.type`, and spans that were refused, with it; no \
             sample with the SDK's processor.",
            Exporter(processed);
        "otel.sdk.exporter.span.inflight", UpDownCounter ["{span}"] {COMPONENT_TYPE, COMPONENT_NAME}:
            "Spans handed to the exporter, or found by it, whose export has neither succeeded nor failed for \
             good; they wait in memory, files and journal.",
            Exporter(|health, out| {
                let Ledger { buffered, in_flight, in_journal, in_fallback, .. } = health.ledger;
                let waiting = buffered + in_flight + in_journal + in_fallback;
                out.owned(component(health).to_vec(), Value::Sum(signed(waiting)));
            });
        "otel.sdk.exporter.span.exported", Counter ["{span}"] {COMPONENT_TYPE, COMPONENT_NAME, EXPORT_ERROR}:
            "Spans whose export has ended: delivered without `error.type`, failed for good with it. Those that our \
             processor refused are in its own metric alone.",
            Exporter(exported);
        "otel.sdk.exporter.operation.duration", Histogram ["s"] {COMPONENT_TYPE, COMPONENT_NAME, CALL_ERROR}:
            "Duration of each call to a collector, with `error.type` if it failed; a batch may need several.",
            Exporter(|health, out| {
                for durations in &health.calls {
                    out.durations(with_error(component(health), durations.result.error_type()), durations);
                }
            });
    }
}
