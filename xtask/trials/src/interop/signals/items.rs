//! Log records and data points, each with all that is around it, as text: to be compared one by one.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, LogsData};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{Exemplar, Metric, MetricsData};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message as _;
use resilient_exporter::Signal;

use super::requests::EACH;
use crate::Failure;

/// The attribute that the Collector's file receiver adds to each log record, and to the metadata of each metric.
const ADDED: &str = "log.file.name";

/// Each item by its time, as often as it came.
#[derive(Default)]
pub(super) struct Items {
    by_time: BTreeMap<u64, Vec<String>>,
    /// Metrics with fewer data points than each was made with.
    pub(super) parts: usize,
    /// Of the Collector's file receiver: with the attribute that it adds.
    from_files: bool,
}

impl Items {
    pub(super) fn from_files() -> Self {
        Self { from_files: true, ..Self::default() }
    }

    /// How many different ones there are.
    pub(super) fn len(&self) -> usize {
        self.by_time.len()
    }

    /// Adds those of a message.
    pub(super) fn add(&mut self, signal: Signal, message: &[u8]) -> Result<(), Failure> {
        match signal {
            Signal::Logs => self.add_logs(LogsData::decode(message)?),
            _ => self.add_metrics(MetricsData::decode(message)?),
        }
    }

    fn add_logs(&mut self, data: LogsData) -> Result<(), Failure> {
        for of_resource in data.resource_logs {
            let resource = around_resource(of_resource.resource, &of_resource.schema_url);
            for of_scope in of_resource.scope_logs {
                let scope = around_scope(of_scope.scope, &of_scope.schema_url);
                for mut record in of_scope.log_records {
                    if self.from_files {
                        remove_added(&mut record.attributes)?;
                    }
                    self.push(record.time_unix_nano, format!("{resource}\n{scope}\n{:#?}", canonical_record(record)));
                }
            }
        }
        Ok(())
    }

    fn add_metrics(&mut self, data: MetricsData) -> Result<(), Failure> {
        for of_resource in data.resource_metrics {
            let resource = around_resource(of_resource.resource, &of_resource.schema_url);
            for of_scope in of_resource.scope_metrics {
                let scope = around_scope(of_scope.scope, &of_scope.schema_url);
                for mut metric in of_scope.metrics {
                    if self.from_files {
                        remove_added(&mut metric.metadata)?;
                    }
                    canonical_attributes(&mut metric.metadata);
                    let points = take_points(&mut metric);
                    self.parts += usize::from(points.len() < EACH as usize);
                    for (time, point) in points {
                        self.push(time, format!("{resource}\n{scope}\n{metric:#?}\n{point}"));
                    }
                }
            }
        }
        Ok(())
    }

    fn push(&mut self, time: u64, text: String) {
        self.by_time.entry(time).or_default().push(text);
    }

    /// The Collector's file receiver reads -0.0 in JSON as 0.0.
    pub(super) fn without_signs_of_zero(mut self) -> Self {
        for text in self.by_time.values_mut().flatten() {
            *text = text
                .lines()
                .map(|line| if line.trim() == "-0.0," { line.replace("-0.0", "0.0") } else { line.into() })
                .collect::<Vec<String>>()
                .join("\n");
        }
        self
    }

    /// Fails unless these are the made ones, each once, and alike.
    pub(super) fn compare(&self, made: &Self) -> Result<usize, Failure> {
        let mut wrong = Vec::new();
        let missing = made.by_time.keys().filter(|time| !self.by_time.contains_key(time)).collect::<Vec<_>>();
        if let Some(first) = missing.first() {
            wrong.push(format!("{} of {} items are missing, one is {first}", missing.len(), made.len()));
        }
        let twice = self.by_time.iter().filter(|(_, texts)| texts.len() > 1).collect::<Vec<_>>();
        if let Some((first, _)) = twice.first() {
            wrong.push(format!("{} of {} items came more than once, one is {first}", twice.len(), made.len()));
        }
        let mut changed = 0;
        for (time, texts) in &self.by_time {
            match made.by_time.get(time) {
                None => wrong.push(format!("item {time} was never made")),
                Some(of) if of[0] != texts[0] => {
                    changed += 1;
                    if changed == 1 {
                        wrong.push(format!("item {time} changed: {}", difference(&of[0], &texts[0])));
                    }
                }
                Some(_) => {}
            }
        }
        if changed > 1 {
            wrong.push(format!("{changed} items changed"));
        }
        wrong.truncate(6);
        if wrong.is_empty() { Ok(self.len()) } else { Err(wrong.join("; ").into()) }
    }
}

/// The first lines in which they differ.
fn difference(made: &str, came: &str) -> String {
    let (mut old, mut new) = (made.lines().peekable(), came.lines().peekable());
    while old.peek().is_some() && old.peek() == new.peek() {
        old.next();
        new.next();
    }
    let next = |lines: &mut dyn Iterator<Item = &str>| lines.take(4).map(str::trim).collect::<Vec<_>>().join(" ");
    format!("`{}` became `{}`", next(&mut old), next(&mut new))
}

/// The Collector knows no absent resource, scope, body, value of an attribute or side of an exponential histogram: they
/// leave it empty, which means the same. It changes nothing else.
fn around_resource(resource: Option<Resource>, schema_url: &str) -> String {
    let mut resource = resource.unwrap_or_default();
    canonical_attributes(&mut resource.attributes);
    format!("{resource:#?}\n{schema_url:?}")
}

fn around_scope(scope: Option<InstrumentationScope>, schema_url: &str) -> String {
    let mut scope = scope.unwrap_or_default();
    canonical_attributes(&mut scope.attributes);
    format!("{scope:#?}\n{schema_url:?}")
}

fn canonical_record(mut record: LogRecord) -> LogRecord {
    canonical_value(record.body.get_or_insert_default());
    canonical_attributes(&mut record.attributes);
    record
}

fn canonical_attributes(attributes: &mut [KeyValue]) {
    for attribute in attributes {
        canonical_value(attribute.value.get_or_insert_default());
    }
}

fn canonical_value(value: &mut AnyValue) {
    match &mut value.value {
        Some(Value::ArrayValue(array)) => array.values.iter_mut().for_each(canonical_value),
        Some(Value::KvlistValue(list)) => canonical_attributes(&mut list.values),
        _ => {}
    }
}

fn canonical_exemplars(exemplars: &mut [Exemplar]) {
    exemplars.iter_mut().for_each(|exemplar| canonical_attributes(&mut exemplar.filtered_attributes));
}

/// The data points of a metric by their times; the metric is left without them.
fn take_points(metric: &mut Metric) -> Vec<(u64, String)> {
    match &mut metric.data {
        Some(Data::Gauge(gauge)) => take(&mut gauge.data_points, |point| {
            canonical_exemplars(&mut point.exemplars);
            (&mut point.attributes, point.time_unix_nano)
        }),
        Some(Data::Sum(sum)) => take(&mut sum.data_points, |point| {
            canonical_exemplars(&mut point.exemplars);
            (&mut point.attributes, point.time_unix_nano)
        }),
        Some(Data::Histogram(histogram)) => take(&mut histogram.data_points, |point| {
            canonical_exemplars(&mut point.exemplars);
            (&mut point.attributes, point.time_unix_nano)
        }),
        Some(Data::ExponentialHistogram(histogram)) => take(&mut histogram.data_points, |point| {
            canonical_exemplars(&mut point.exemplars);
            point.positive.get_or_insert_default();
            point.negative.get_or_insert_default();
            (&mut point.attributes, point.time_unix_nano)
        }),
        Some(Data::Summary(summary)) => {
            take(&mut summary.data_points, |point| (&mut point.attributes, point.time_unix_nano))
        }
        None => Vec::new(),
    }
}

fn take<Point: std::fmt::Debug>(
    points: &mut Vec<Point>,
    parts: impl Fn(&mut Point) -> (&mut Vec<KeyValue>, u64),
) -> Vec<(u64, String)> {
    let text = |mut point: Point| {
        let (attributes, time) = parts(&mut point);
        canonical_attributes(attributes);
        (time, format!("{point:#?}"))
    };
    std::mem::take(points).into_iter().map(text).collect()
}

fn remove_added(attributes: &mut Vec<KeyValue>) -> Result<(), Failure> {
    let before = attributes.len();
    attributes.retain(|attribute| attribute.key != ADDED);
    if before == attributes.len() + 1 { Ok(()) } else { Err(format!("an item does not have {ADDED} once").into()) }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::logs::v1::{ResourceLogs, ScopeLogs};

    use super::*;

    fn logs(times: &[u64], text: &str) -> Items {
        let body = Some(AnyValue { value: Some(Value::StringValue(text.to_owned())) });
        let record = |&time_unix_nano| LogRecord { time_unix_nano, body: body.clone(), ..LogRecord::default() };
        let scope = ScopeLogs { log_records: times.iter().map(record).collect(), ..ScopeLogs::default() };
        let resource = ResourceLogs { scope_logs: vec![scope], ..ResourceLogs::default() };
        let mut items = Items::default();
        items.add(Signal::Logs, &LogsData { resource_logs: vec![resource] }.encode_to_vec()).expect("a message");
        items
    }

    #[test]
    fn whatever_is_wrong_is_told() {
        let made = logs(&[1, 2, 3], "a");
        assert_eq!(made.compare(&made).expect("the same"), 3);
        for (came, told) in [
            (logs(&[1, 3], "a"), "1 of 3 items are missing, one is 2"),
            (logs(&[1, 2, 2, 3], "a"), "1 of 3 items came more than once, one is 2"),
            (logs(&[1, 2, 3, 4], "a"), "item 4 was never made"),
            (logs(&[1, 2, 3], "b"), "item 1 changed: `\"a\", ), ), },` became `\"b\", ), ), },`; 3 items changed"),
        ] {
            assert_eq!(came.compare(&made).expect_err(told).to_string(), told);
        }
        assert!(Items::from_files().add(Signal::Logs, &[]).is_ok(), "no item lacks the attribute");
    }

    #[test]
    fn absent_and_empty_are_one_and_zeros_have_a_sign_until_it_is_taken() {
        let items = |record: LogRecord| {
            let scope = ScopeLogs { log_records: vec![record], ..ScopeLogs::default() };
            let resource = ResourceLogs { scope_logs: vec![scope], ..ResourceLogs::default() };
            let mut items = Items::default();
            items.add(Signal::Logs, &LogsData { resource_logs: vec![resource] }.encode_to_vec()).expect("a message");
            items
        };
        let body = |body: Option<Value>| LogRecord { body: Some(AnyValue { value: body }), ..LogRecord::default() };
        assert!(items(LogRecord::default()).compare(&items(body(None))).is_ok());
        let [minus, plus] = [-0.0, 0.0].map(|zero| items(body(Some(Value::DoubleValue(zero)))));
        assert!(minus.compare(&plus).is_err());
        assert!(minus.without_signs_of_zero().compare(&plus).is_ok());
    }
}
