//! Requests of logs and metrics that use all that OTLP has for them, as the stock messages.

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, LogsData, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::summary_data_point::ValueAtQuantile;
use opentelemetry_proto::tonic::metrics::v1::{
    Exemplar, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram, HistogramDataPoint, Metric,
    MetricsData, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, Summary, SummaryDataPoint, exemplar,
    number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message as _;
use resilient_exporter::Signal;

/// The time of item 0: each item has its own, which is its name.
pub(super) const START: u64 = 1_700_000_000_000_000_000;
/// Log records of a scope, data points of a metric.
pub(super) const EACH: u64 = 3;

const TEXTS: [&str; 6] = [
    "",
    "GET /orders",
    "grün, 漢字, 🦀",
    "quote \" backslash \\ slash /",
    "\0\u{1}\u{7f}\n\t\u{2028}",
    "</script>&amp;",
];
const INTEGERS: [i64; 6] = [0, 1, -1, (1 << 53) + 1, i64::MAX, i64::MIN];
/// No NaN: it has many forms, and JSON one.
const DOUBLES: [f64; 9] = [0.0, -0.0, 0.1, -1.5, 5e-324, f64::MAX, 1e21, f64::INFINITY, f64::NEG_INFINITY];

/// How many items a request holds.
pub(super) fn items(signal: Signal) -> u64 {
    match signal {
        Signal::Logs => 4 * EACH,
        _ => 12 * EACH,
    }
}

/// The request of this number.
pub(super) fn request(signal: Signal, number: u64) -> Vec<u8> {
    let first = number * items(signal);
    match signal {
        Signal::Logs => LogsData { resource_logs: resource_logs(first) }.encode_to_vec(),
        _ => MetricsData { resource_metrics: resource_metrics(first) }.encode_to_vec(),
    }
}

/// Two resources, the second one without attributes; four scopes.
fn resource_logs(first: u64) -> Vec<ResourceLogs> {
    let scope = |at: u64| ScopeLogs {
        scope: scope(at),
        log_records: (0..EACH).map(|item| log_record(first + at * EACH + item)).collect(),
        schema_url: schema(at),
    };
    vec![
        ResourceLogs { resource: resource(first), scope_logs: vec![scope(0), scope(1)], schema_url: schema(1) },
        ResourceLogs { resource: None, scope_logs: vec![scope(2), scope(3)], schema_url: String::new() },
    ]
}

/// The same with a metric of each kind in each resource.
fn resource_metrics(first: u64) -> Vec<ResourceMetrics> {
    let of = |at: u64| {
        let from = first + at * 6 * EACH;
        let metric = |kind: u64| {
            let numbers = from + kind * EACH..from + (kind + 1) * EACH;
            let name = format!("metric.{kind}");
            let (description, unit) = (text(from + kind), ["", "By", "{call}"][(kind % 3) as usize].to_owned());
            Metric { name, description, unit, metadata: attributes(from + kind), data: Some(data(kind, numbers)) }
        };
        ResourceMetrics {
            resource: if at == 0 { resource(first) } else { None },
            scope_metrics: vec![
                ScopeMetrics { scope: scope(at), metrics: (0..3).map(metric).collect(), schema_url: schema(at) },
                ScopeMetrics {
                    scope: scope(at + 2),
                    metrics: (3..6).map(metric).collect(),
                    schema_url: schema(at + 2),
                },
            ],
            schema_url: schema(at + 1),
        }
    };
    vec![of(0), of(1)]
}

fn log_record(number: u64) -> LogRecord {
    LogRecord {
        time_unix_nano: START + number,
        observed_time_unix_nano: if number.is_multiple_of(5) { 0 } else { START + number + 7 },
        severity_number: (number % 25) as i32,
        severity_text: text(number),
        body: (number % 9 != 8).then(|| AnyValue { value: value(number % 9, number) }),
        attributes: attributes(number),
        dropped_attributes_count: (number % 3) as u32,
        flags: (number % 2) as u32,
        trace_id: id(number, 16),
        span_id: id(number, 8),
        event_name: if number.is_multiple_of(2) { String::new() } else { format!("event.{}", number % 7) },
    }
}

fn data(kind: u64, numbers: std::ops::Range<u64>) -> Data {
    let temporality = (numbers.start / (6 * EACH) % 3) as i32;
    match kind {
        0 | 5 => Data::Gauge(Gauge { data_points: numbers.map(number_point).collect() }),
        1 => Data::Sum(Sum {
            data_points: numbers.map(number_point).collect(),
            aggregation_temporality: temporality,
            is_monotonic: temporality == 2,
        }),
        2 => Data::Histogram(Histogram {
            data_points: numbers.map(histogram_point).collect(),
            aggregation_temporality: temporality,
        }),
        3 => Data::ExponentialHistogram(ExponentialHistogram {
            data_points: numbers.map(exponential_point).collect(),
            aggregation_temporality: temporality,
        }),
        _ => Data::Summary(Summary { data_points: numbers.map(summary_point).collect() }),
    }
}

fn number_point(number: u64) -> NumberDataPoint {
    let value = match number % 3 {
        0 => Some(number_data_point::Value::AsInt(integer(number + number / 18))),
        1 => Some(number_data_point::Value::AsDouble(double(number + number / 18))),
        // `NO_RECORDED_VALUE`.
        _ => None,
    };
    NumberDataPoint {
        attributes: attributes(number),
        start_time_unix_nano: start(number),
        time_unix_nano: START + number,
        exemplars: exemplars(number),
        flags: u32::from(value.is_none()),
        value,
    }
}

fn histogram_point(number: u64) -> HistogramDataPoint {
    HistogramDataPoint {
        attributes: attributes(number),
        start_time_unix_nano: start(number),
        time_unix_nano: START + number,
        count: number % 1_000,
        sum: optional(number),
        bucket_counts: vec![0, number % 1_000, u64::MAX, 1],
        explicit_bounds: vec![-1.5, 0.0, double(number)],
        exemplars: exemplars(number),
        flags: (number % 2) as u32,
        min: optional(number + 1),
        max: optional(number + 2),
    }
}

fn exponential_point(number: u64) -> ExponentialHistogramDataPoint {
    let buckets = |offset: i32| Buckets { offset, bucket_counts: vec![0, number % 1_000, u64::MAX] };
    ExponentialHistogramDataPoint {
        attributes: attributes(number),
        start_time_unix_nano: start(number),
        time_unix_nano: START + number,
        count: number % 1_000,
        sum: optional(number),
        scale: [-3, 0, 20][(number % 3) as usize],
        zero_count: number % 4,
        positive: (!number.is_multiple_of(4)).then(|| buckets((number % 10) as i32)),
        negative: (!number.is_multiple_of(5)).then(|| buckets(-(number as i32 % 100) - 1)),
        flags: (number % 2) as u32,
        exemplars: exemplars(number),
        min: optional(number + 1),
        max: optional(number + 2),
        zero_threshold: if number.is_multiple_of(2) { 0.0 } else { 0.25 },
    }
}

fn summary_point(number: u64) -> SummaryDataPoint {
    let quantile = |at: u64| ValueAtQuantile { quantile: at as f64 / 4.0, value: positive_zero(number + at) };
    SummaryDataPoint {
        attributes: attributes(number),
        start_time_unix_nano: start(number),
        time_unix_nano: START + number,
        count: number % 1_000,
        sum: positive_zero(number),
        quantile_values: (0..number % 6).map(quantile).collect(),
        flags: (number % 2) as u32,
    }
}

/// None, one or two.
fn exemplars(number: u64) -> Vec<Exemplar> {
    let exemplar = |at: u64| Exemplar {
        filtered_attributes: attributes(number + at),
        time_unix_nano: START + number + at,
        span_id: id(number + at, 8),
        trace_id: id(number + at, 16),
        value: match (number + at) % 3 {
            0 => Some(exemplar::Value::AsDouble(double(number + at))),
            1 => Some(exemplar::Value::AsInt(integer(number + at))),
            _ => None,
        },
    };
    (0..number % 3).map(exemplar).collect()
}

fn resource(number: u64) -> Option<Resource> {
    let name = Some(AnyValue { value: Some(Value::StringValue("shop".to_owned())) });
    let mut attributes = attributes(number);
    attributes.push(KeyValue { key: "service.name".to_owned(), value: name, ..KeyValue::default() });
    Some(Resource { attributes, dropped_attributes_count: (number % 2) as u32, ..Resource::default() })
}

/// One in four has none.
fn scope(number: u64) -> Option<InstrumentationScope> {
    let scope = |at: u64| InstrumentationScope {
        name: format!("shop.{at}"),
        version: text(at),
        attributes: attributes(at),
        dropped_attributes_count: at as u32,
    };
    (number % 4 != 3).then(|| scope(number))
}

fn schema(number: u64) -> String {
    if number.is_multiple_of(2) { String::new() } else { format!("https://opentelemetry.io/schemas/1.{number}.0") }
}

/// None, one or two; one of them of each kind in turn.
fn attributes(number: u64) -> Vec<KeyValue> {
    let kind = |at: u64| KeyValue {
        key: format!("key.{at}"),
        value: Some(AnyValue { value: value((number + at) % 8, number + at) }),
        ..KeyValue::default()
    };
    (0..number % 3).map(kind).collect()
}

/// Seven kinds of values, and the value of no kind.
fn value(kind: u64, number: u64) -> Option<Value> {
    let inner = |kind: u64| AnyValue { value: value(kind, number + 1) };
    Some(match kind {
        0 => Value::StringValue(text(number)),
        1 => Value::BoolValue(number.is_multiple_of(2)),
        2 => Value::IntValue(integer(number)),
        3 => Value::DoubleValue(double(number)),
        4 => Value::BytesValue((0..(number % 5) as u8).map(|byte| byte.wrapping_mul(0x7d)).collect()),
        5 => Value::ArrayValue(ArrayValue {
            values: (0..number % 4).map(|at| inner([0, 2, 3, 7][at as usize])).collect(),
        }),
        6 => {
            let pair = |at: u64| KeyValue { key: text(at + 1), value: Some(inner(at)), ..KeyValue::default() };
            Value::KvlistValue(KeyValueList { values: (0..number % 6).map(pair).collect() })
        }
        _ => return None,
    })
}

/// Every third has none.
fn id(number: u64, length: usize) -> Vec<u8> {
    if number.is_multiple_of(3) {
        return Vec::new();
    }
    (0..length).map(|at| (number as u8).wrapping_add(at as u8) | 1).collect()
}

fn start(number: u64) -> u64 {
    if number.is_multiple_of(4) { 0 } else { START - number }
}

/// One of `count` in turn, of each kind of value: those repeat after 8 or 9 numbers.
fn turn(number: u64, count: usize) -> usize {
    (number + number / 72) as usize % count
}

fn text(number: u64) -> String {
    TEXTS[turn(number, TEXTS.len())].to_owned()
}

fn integer(number: u64) -> i64 {
    INTEGERS[turn(number, INTEGERS.len())]
}

fn double(number: u64) -> f64 {
    DOUBLES[turn(number, DOUBLES.len())]
}

/// For a field that has no presence: -0.0 is left out of it, as 0 is, by the stock encoder.
fn positive_zero(number: u64) -> f64 {
    let double = double(number);
    if double == 0.0 { 0.0 } else { double }
}

/// Every fourth is not there.
fn optional(number: u64) -> Option<f64> {
    (!number.is_multiple_of(4)).then(|| double(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_requests_have_every_kind() {
        let all = |signal: Signal| -> String {
            let text = |number: u64| match signal {
                Signal::Logs => format!("{:?}", LogsData::decode(&request(signal, number)[..]).expect("a message")),
                _ => format!("{:?}", MetricsData::decode(&request(signal, number)[..]).expect("a message")),
            };
            (0..20).map(text).collect()
        };
        let (logs, metrics) = (all(Signal::Logs), all(Signal::Metrics));
        let kinds = ["String", "Bool", "Int", "Double", "Bytes", "Array", "Kvlist"];
        for body in kinds.map(|kind| format!("body: Some(AnyValue {{ value: Some({kind}Value(")) {
            assert!(logs.contains(&body), "{body}");
        }
        for part in
            ["body: None", "body: Some(AnyValue { value: None })", "resource: None", "scope: None", "inf", "-0.0"]
        {
            assert!(logs.contains(part), "{part}");
        }
        for part in [
            "Some(Gauge(",
            "Some(Sum(",
            "Some(Histogram(",
            "Some(ExponentialHistogram(",
            "Some(Summary(",
            "AsInt(",
            "AsDouble(",
            "exemplars: [Exemplar",
            "min: Some(",
            "max: None",
            "offset: -1",
            "positive: None",
            "ValueAtQuantile",
            "-inf",
            "is_monotonic: true",
            "aggregation_temporality: Delta",
            "aggregation_temporality: Cumulative",
            "18446744073709551615",
            "-9223372036854775808",
        ] {
            assert!(metrics.contains(part), "{part}");
        }
    }
}
