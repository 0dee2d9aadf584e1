//! The metrics of this process's telemetry: one table, and the instruments of OpenTelemetry that are made from it.
//!
//! | File | Purpose |
//! | --- | --- |
//! | `table` | a row for each metric |
//! | `labels` | the labels, and the readers that several rows share |
//! | `sample` | samples |
//! | `instruments` | the table as instruments of a meter |
//!
//! The page for Prometheus (`telemetry-service`), `docs/metrics.md`, the dashboard and the alert rules are made from
//! the same rows.

mod instruments;
mod labels;
mod sample;
mod table;
#[cfg(test)]
mod tests;

use std::time::SystemTime;

use resilient_exporter::{Health, Status};

use crate::manager::Observer;

pub use instruments::{Registration, register};
pub use sample::{Bucketed, Label, Sample, Samples, Value, Values};
pub use table::METRICS;

/// The numbers of one moment, from which each metric reads its samples.
#[derive(Clone, Debug)]
pub struct Snapshot {
    status: Status,
    is_exporting: bool,
    exporter: Option<Health>,
}

impl Snapshot {
    /// The numbers now, as one consistent snapshot. Takes one short lock; answers while the collector or the disk
    /// hangs.
    #[must_use]
    pub fn of(observer: &Observer) -> Self {
        let (report, exporter) = observer.snapshot();
        Self { status: report.status, is_exporting: report.initialized, exporter }
    }
}

/// The kind of a metric, in the terms of OpenTelemetry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Kind {
    /// A sum that only grows, from the start of the process.
    Counter,
    /// A number that grows and falls, and that may be added up over processes; a gauge for Prometheus.
    UpDownCounter,
    /// A number that means nothing added up over processes.
    Gauge,
    /// A distribution in buckets.
    Histogram,
}

impl Kind {
    /// The type in the formats of Prometheus.
    #[must_use]
    pub const fn prometheus(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::UpDownCounter | Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// The question that a metric helps to answer: the headings of `docs/metrics.md`, and the rows of the dashboard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Question {
    /// Is telemetry on and healthy?
    IsWell,
    /// Is anything lost?
    IsLost,
    /// Is anything waiting?
    IsWaiting,
    /// Who is down or refusing?
    IsRefusing,
    /// Is storage large enough?
    IsStored,
    /// The metrics of OpenTelemetry's semantic conventions.
    Conventions,
}

impl Question {
    /// Every question, in the order of the table.
    pub const ALL: [Self; 6] =
        [Self::IsWell, Self::IsLost, Self::IsWaiting, Self::IsRefusing, Self::IsStored, Self::Conventions];

    /// The question in words.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::IsWell => "Is telemetry on and healthy?",
            Self::IsLost => "Is anything lost?",
            Self::IsWaiting => "Is anything waiting?",
            Self::IsRefusing => "Who is down or refusing?",
            Self::IsStored => "Is storage large enough?",
            Self::Conventions => "Names of the semantic conventions",
        }
    }
}

/// One metric: a row of [`METRICS`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Metric {
    /// The name for OpenTelemetry.
    pub name: &'static str,
    /// The kind.
    pub kind: Kind,
    /// The unit, in UCUM as OpenTelemetry writes it: `s`, `By`, `1`, or a thing that is counted such as `{item}`. Empty
    /// for a state.
    pub unit: &'static str,
    /// The labels that a sample may have, each with a fixed set of values.
    pub labels: &'static [Label],
    /// The meaning, in one sentence.
    pub help: &'static str,
    /// The question that it helps to answer.
    pub question: Question,
    read: Read,
}

#[derive(Clone, Copy, Debug)]
enum Read {
    /// Has samples without an exporter too.
    Always(fn(&Snapshot, &mut Samples)),
    /// Has samples if spans are exported.
    Exporter(fn(&Health, &mut Samples)),
}

impl Metric {
    /// The name for Prometheus, as Prometheus and the Collector translate the name for OpenTelemetry: dots become `_`,
    /// units become words at the end, and a counter ends in `_total`.
    #[must_use]
    pub fn prometheus_name(&self) -> String {
        let mut name = self.name.replace('.', "_");
        if let Some(unit) = self.prometheus_unit() {
            name.push('_');
            name.push_str(unit);
        }
        if self.kind == Kind::Counter {
            name.push_str("_total");
        }
        name
    }

    /// The unit that the name for Prometheus has: `seconds`, `bytes` or `ratio`.
    #[must_use]
    pub fn prometheus_unit(&self) -> Option<&'static str> {
        match self.unit {
            "s" => Some("seconds"),
            "By" => Some("bytes"),
            "1" if self.kind == Kind::Gauge => Some("ratio"),
            _ => None,
        }
    }

    /// The samples of one moment. None if there is nothing to say: a time that never was, a journal that is not there.
    #[must_use]
    pub fn samples(&self, snapshot: &Snapshot) -> Vec<Sample> {
        let mut samples = Samples::default();
        match (self.read, &snapshot.exporter) {
            (Read::Always(read), _) => read(snapshot, &mut samples),
            (Read::Exporter(read), Some(health)) => read(health, &mut samples),
            (Read::Exporter(_), None) => {}
        }
        samples.into_vec()
    }
}

/// Seconds since 1970; none for a time before.
fn timestamp(time: Option<SystemTime>) -> Option<f64> {
    time.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok()).map(|since| since.as_secs_f64())
}
