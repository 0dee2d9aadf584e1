//! Samples and their labels.

use std::borrow::Cow;
use std::time::Duration;

use resilient_exporter::{CallDurations, Lateness, Signal};

/// A label of a metric, and its values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Label {
    /// The key for OpenTelemetry. For Prometheus dots become `_`.
    pub key: &'static str,
    /// The values.
    pub values: Values,
}

impl Label {
    /// The name for Prometheus.
    #[must_use]
    pub fn prometheus_name(&self) -> String {
        self.key.replace('.', "_")
    }
}

/// The values of a label.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Values {
    /// One of these.
    OneOf(&'static [&'static str]),
    /// Values that the start of the process fixes, in words.
    Fixed(&'static str),
}

/// The number of a sample.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub enum Value {
    /// The value of a counter.
    Count(u64),
    /// The value of an up-down-counter.
    Sum(i64),
    /// The value of a gauge.
    Number(f64),
    /// The value of a histogram.
    Buckets(Bucketed),
}

/// A distribution of durations.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Bucketed {
    /// The upper bounds, in seconds.
    pub bounds: &'static [f64],
    /// The number of durations by the first bound that they do not exceed; the last number counts those above all.
    pub counts: Vec<u64>,
    /// The sum of the durations.
    pub sum: Duration,
}

/// One number of a metric, with its labels.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Sample {
    /// Keys for OpenTelemetry, and values.
    pub labels: Vec<(&'static str, Cow<'static, str>)>,
    /// The number.
    pub value: Value,
}

/// The samples of one metric, while they are read.
#[derive(Default, Debug)]
pub struct Samples(Vec<Sample>);

impl Samples {
    pub(super) fn into_vec(self) -> Vec<Sample> {
        self.0
    }

    pub(super) fn with(&mut self, labels: &[(&'static str, &'static str)], value: Value) {
        self.owned(labels.iter().map(|(key, value)| (*key, Cow::Borrowed(*value))).collect(), value);
    }

    pub(super) fn owned(&mut self, labels: Vec<(&'static str, Cow<'static, str>)>, value: Value) {
        self.0.push(Sample { labels, value });
    }

    /// A sum that only grows, without labels.
    pub(super) fn count(&mut self, count: u64) {
        self.with(&[], Value::Count(count));
    }

    /// A gauge without labels.
    pub(super) fn number(&mut self, number: f64) {
        self.with(&[], Value::Number(number));
    }

    /// A sum that only grows, of a signal.
    pub(super) fn counted(&mut self, signal: Signal, count: u64) {
        self.with(&[("signal", signal.as_str())], Value::Count(count));
    }

    /// A number that grows and falls, of a signal.
    pub(super) fn there(&mut self, signal: Signal, sum: u64) {
        self.with(&[("signal", signal.as_str())], Value::Sum(signed(sum)));
    }

    /// A gauge of a signal.
    pub(super) fn valued(&mut self, signal: Signal, number: f64) {
        self.with(&[("signal", signal.as_str())], Value::Number(number));
    }

    /// A series of 1 for the state that holds, and one of 0 for each other one.
    pub(super) fn states(
        &mut self,
        labels: &[(&'static str, Cow<'static, str>)],
        key: &'static str,
        states: &[&'static str],
        holds: &str,
    ) {
        for state in states {
            let mut labels = labels.to_vec();
            labels.push((key, Cow::Borrowed(*state)));
            self.owned(labels, Value::Number(if *state == holds { 1.0 } else { 0.0 }));
        }
    }

    pub(super) fn durations(&mut self, labels: Vec<(&'static str, Cow<'static, str>)>, durations: &CallDurations) {
        let CallDurations { counts, sum, .. } = durations;
        let buckets = Bucketed { bounds: &CallDurations::BOUNDS, counts: counts.to_vec(), sum: *sum };
        self.owned(labels, Value::Buckets(buckets));
    }

    pub(super) fn lateness(&mut self, signal: Signal, lateness: &Lateness) {
        let Lateness { counts, sum, .. } = lateness;
        let buckets = Bucketed { bounds: &Lateness::BOUNDS, counts: counts.to_vec(), sum: *sum };
        self.with(&[("signal", signal.as_str())], Value::Buckets(buckets));
    }
}

/// A sum of more than `i64` holds is the largest that it does.
pub(super) fn signed(sum: u64) -> i64 {
    i64::try_from(sum).unwrap_or(i64::MAX)
}
