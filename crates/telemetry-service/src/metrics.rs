//! The numbers in Prometheus' text format, version 0.0.4, and in OpenMetrics 1.0.
//!
//! Written by hand: the page has a few dozen samples, each a number of `Health`. A registry and its exporter would add
//! dependencies and a second copy of every number.

use std::fmt::Write as _;
use std::time::SystemTime;

use telemetry_manager::resilient_exporter::Health;

/// The content type of [`prometheus_text`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The content type of [`openmetrics_text`].
pub const OPENMETRICS_CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// States of the breaker, one series each, so that a graph can stack them and an alert can name one.
const STATES: [&str; 5] = ["closed", "half_open", "open", "isolated", "disabled"];

/// The metrics page of one consistent snapshot of the exporter. Without an exporter only
/// `resilient_exporter_up 0`.
#[must_use]
pub fn prometheus_text(health: Option<&Health>) -> String {
    written(health, Format::Prometheus)
}

/// [`prometheus_text`] in OpenMetrics 1.0: a family of counters has its name without `_total`, families have units, and
/// the page has an end, so that a scraper knows a page that was cut off.
#[must_use]
pub fn openmetrics_text(health: Option<&Health>) -> String {
    let mut page = written(health, Format::OpenMetrics);
    page.push_str("# EOF\n");
    page
}

fn written(health: Option<&Health>, format: Format) -> String {
    let mut page = Page { text: String::with_capacity(8 * 1024), format };
    page.family("resilient_exporter_up", GAUGE, "Whether spans are exported by the resilient exporter.");
    page.sample("resilient_exporter_up", u64::from(health.is_some()));
    if let Some(health) = health {
        ledger(&mut page, health);
        breaker(&mut page, health);
        attempts(&mut page, health);
        storage(&mut page, health);
    }
    page.text
}

fn ledger(page: &mut Page, health: &Health) {
    let ledger = &health.ledger;
    page.counter("resilient_spans_offered_total", "Spans handed to the exporter.", ledger.offered);
    page.counter("resilient_spans_recovered_total", "Spans found on disk from an earlier process.", ledger.recovered);
    page.counter("resilient_spans_redriven_total", "Dead letters put back on their way.", ledger.redriven);
    page.gauge("resilient_spans_buffered", "Spans that wait in memory.", ledger.buffered);
    page.gauge("resilient_spans_in_flight", "Spans sent, without an answer yet.", ledger.in_flight);
    page.gauge("resilient_spans_in_fallback", "Spans in fallback files.", ledger.in_fallback);
    page.gauge("resilient_spans_in_journal", "Spans that only the journal holds.", ledger.in_journal);
    page.counter("resilient_spans_delivered_total", "Spans taken by the collector.", ledger.delivered);
    page.counter("resilient_spans_rejected_total", "Spans refused in a partial success.", ledger.rejected);
    page.counter("resilient_spans_dead_lettered_total", "Spans refused for good and kept.", ledger.dead_lettered);
    page.counter("resilient_spans_taken_over_total", "Spans in files that another process took.", ledger.taken_over);
    page.by_reason("resilient_spans_dropped_total", "Accepted spans that were given up.", &ledger.dropped);
    page.by_reason("resilient_spans_refused_total", "Offered spans that were never accepted.", &ledger.refused);
    page.family(
        "resilient_ledger_imbalance",
        GAUGE,
        "Spans that came in less spans accounted for; anything but 0 is a fault.",
    );
    page.sample("resilient_ledger_imbalance", ledger.imbalance());
}

fn breaker(page: &mut Page, health: &Health) {
    page.family("resilient_breaker_state", GAUGE, "1 for the state that the circuit breaker is in, 0 for the others.");
    for state in STATES {
        page.labelled("resilient_breaker_state", "state", state, u64::from(state == health.breaker.as_str()));
    }
    page.counter(
        "resilient_breaker_trips_total",
        "Times that the breaker opened.",
        health.metrics.circuit_breaker_trips,
    );
}

fn attempts(page: &mut Page, health: &Health) {
    let metrics = &health.metrics;
    page.family("resilient_exports_total", COUNTER, "Finished attempts to send, by what came of them.");
    page.labelled("resilient_exports_total", "outcome", "success", metrics.successful_exports);
    page.labelled("resilient_exports_total", "outcome", "failure", metrics.failed_exports);
    for (name, help, time) in [
        ("resilient_last_success_timestamp_seconds", "When an attempt last succeeded.", metrics.last_export_success),
        ("resilient_last_failure_timestamp_seconds", "When an attempt last failed.", metrics.last_export_failure),
    ] {
        // No sample rather than a time that never was: `time() - 0` would look like an outage since 1970.
        if let Some(since) = time.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok()) {
            page.family(name, GAUGE, help);
            page.sample(name, format_args!("{:.3}", since.as_secs_f64()));
        }
    }
    page.counter(
        "resilient_possible_duplicates_total",
        "Spans of attempts that may have been taken although no answer said so.",
        health.possible_duplicates,
    );
    page.counter(
        "resilient_acknowledged_unreadable_total",
        "Delivered spans whose acknowledgement is one that no OTLP server gives.",
        health.acknowledged_unreadable,
    );
    page.counter(
        "resilient_dead_letters_evicted_total",
        "Spans of dead letters that were removed to keep the limits of dead letters.",
        health.dead_letters_evicted,
    );
}

fn storage(page: &mut Page, health: &Health) {
    page.gauge("resilient_buffer_batches", "Batches that wait in memory.", health.buffered_batches as u64);
    page.gauge("resilient_buffer_bytes", "Bytes that wait in memory.", health.buffered_bytes as u64);
    page.family("resilient_buffer_oldest_seconds", GAUGE, "Age of the oldest batch in memory, 0 if there is none.");
    page.sample("resilient_buffer_oldest_seconds", health.oldest.unwrap_or_default().as_secs_f64());
    page.counter("resilient_fallback_spills_total", "Fallback files written.", health.metrics.fallback_usage);
    page.gauge("resilient_fallback_files", "Fallback files on disk.", health.fallback_files);
    page.gauge("resilient_fallback_bytes", "Bytes of fallback files on disk.", health.fallback_bytes);
    if let Some(spans) = health.accepted_not_durable {
        page.gauge(
            "resilient_journal_batches",
            "Batches in the journal that are not done.",
            health.journal_batches.unwrap_or(0),
        );
        page.gauge("resilient_journal_bytes", "Bytes of the journal on disk.", health.journal_bytes.unwrap_or(0));
        page.counter(
            "resilient_accepted_not_durable_total",
            "Spans that were accepted although the journal had not made them durable in time.",
            spans,
        );
    }
}

const COUNTER: &str = "counter";
const GAUGE: &str = "gauge";

/// Names, helps and label values are constants of this crate or of the exporter's closed sets: nothing here needs
/// escapes.
struct Page {
    text: String,
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Prometheus,
    OpenMetrics,
}

/// The units that end a name. OpenMetrics has them in a line of their own.
const UNITS: [&str; 2] = ["seconds", "bytes"];

impl Page {
    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, COUNTER, help);
        self.sample(name, value);
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, GAUGE, help);
        self.sample(name, value);
    }

    fn by_reason(&mut self, name: &str, help: &str, values: &std::collections::BTreeMap<&'static str, u64>) {
        self.family(name, COUNTER, help);
        for (reason, value) in values {
            self.labelled(name, "reason", reason, *value);
        }
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let text = &mut self.text;
        let _ = match self.format {
            Format::Prometheus => write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n"),
            Format::OpenMetrics => {
                let family = name.strip_suffix("_total").unwrap_or(name);
                let unit =
                    UNITS.iter().find(|unit| family.strip_suffix(**unit).is_some_and(|rest| rest.ends_with('_')));
                let _ = writeln!(text, "# TYPE {family} {kind}");
                if let Some(unit) = unit {
                    let _ = writeln!(text, "# UNIT {family} {unit}");
                }
                writeln!(text, "# HELP {family} {help}")
            }
        };
    }

    fn sample(&mut self, name: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.text, "{name} {value}");
    }

    fn labelled(&mut self, name: &str, label: &str, label_value: &str, value: u64) {
        let _ = writeln!(self.text, "{name}{{{label}=\"{label_value}\"}} {value}");
    }
}
