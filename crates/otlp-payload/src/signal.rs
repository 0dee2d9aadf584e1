//! The kinds of telemetry, each with a request of its own.

use std::fmt;

/// A kind of telemetry: the requests, names and settings of OTLP are one set for each. The requests of all have the
/// same shape, resources with scopes with items.
///
/// ```
/// use otlp_payload::Signal;
///
/// assert_eq!(Signal::Logs.to_string(), "logs");
/// assert_eq!(Signal::named("metrics"), Some(Signal::Metrics));
/// assert_eq!(Signal::default().items(), "spans");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Signal {
    /// `ExportTraceServiceRequest`; its items are spans.
    #[default]
    Traces,
    /// `ExportLogsServiceRequest`; its items are log records.
    Logs,
    /// `ExportMetricsServiceRequest`; its items are data points, as the Collector and a partial success count them. A
    /// metric without data points has none.
    Metrics,
}

impl Signal {
    /// Every signal.
    pub const ALL: [Self; 3] = [Self::Traces, Self::Logs, Self::Metrics];

    /// The name in paths, file names and JSON: `traces`, `logs` or `metrics`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Logs => "logs",
            Self::Metrics => "metrics",
        }
    }

    /// The signal of this [name](Self::as_str).
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|signal| signal.as_str() == name)
    }

    /// The word for its items: `spans`, `log records` or `data points`.
    #[must_use]
    pub const fn items(self) -> &'static str {
        match self {
            Self::Traces => "spans",
            Self::Logs => "log records",
            Self::Metrics => "data points",
        }
    }

    /// The field numbers that lead from a request to its items, level by level.
    pub(crate) const fn levels(self) -> &'static [&'static [u32]] {
        match self {
            Self::Traces | Self::Logs => &[&[1], &[2], &[2]],
            // Resources, scopes, metrics, then gauge, sum, histogram, exponential histogram or summary.
            Self::Metrics => &[&[1], &[2], &[2], &[5, 7, 9, 10, 11], &[1]],
        }
    }

    /// The fields of an item that may hold its time, in nanoseconds since 1970: the first that is not 0 counts. Spans
    /// have an end and a start; log records the time of the event and of its observation; data points a time and the
    /// start of its interval.
    pub(crate) const fn times(self) -> [u32; 2] {
        match self {
            Self::Traces => [8, 7],
            Self::Logs => [1, 11],
            Self::Metrics => [3, 2],
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
