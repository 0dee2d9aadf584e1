//! Requests of logs and metrics: counted, divided, merged, aged, written as JSON and read, against the stock messages.

use std::ops::Range;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use opentelemetry_proto::tonic::metrics::v1::{Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum};
use otlp_payload::json::{JsonError, MAX_LINE_BYTES, from_line_of, to_lines_of};
use otlp_payload::{Aged, BatchId, DecodeError, Payload, Signal, check_items, count_items, merge_within};
use proptest::prelude::*;
use prost::Message;
use serde_json::{Value, json};

use crate::telemetry;

const ID: BatchId = BatchId { incarnation: 1, seq: 2 };

/// A request, the items of it by their text with all that is around them, and its signal.
fn requests() -> impl Strategy<Value = (Signal, Bytes, Vec<String>)> {
    // By way of the bytes: the stock encoder leaves -0.0 out where it is no `optional` value.
    let of = |signal, bytes: Vec<u8>| (signal, Bytes::from(bytes.clone()), items(signal, &bytes));
    let logs = telemetry::logs().prop_map(move |request| of(Signal::Logs, request.encode_to_vec()));
    let metrics = telemetry::metrics().prop_map(move |request| of(Signal::Metrics, request.encode_to_vec()));
    prop_oneof![logs, metrics]
}

/// The items of a request's bytes.
fn items(signal: Signal, bytes: &[u8]) -> Vec<String> {
    match signal {
        Signal::Logs => log_records(&ExportLogsServiceRequest::decode(bytes).expect("a request")),
        Signal::Metrics => data_points(&ExportMetricsServiceRequest::decode(bytes).expect("a request")),
        Signal::Traces => panic!("not made here"),
    }
}

fn log_records(request: &ExportLogsServiceRequest) -> Vec<String> {
    let mut all = Vec::new();
    for resource in &request.resource_logs {
        for scope in &resource.scope_logs {
            let around =
                format!("{:?} {} {:?} {}", resource.resource, resource.schema_url, scope.scope, scope.schema_url);
            all.extend(scope.log_records.iter().map(|record| format!("{around} {record:?}")));
        }
    }
    all
}

fn data_points(request: &ExportMetricsServiceRequest) -> Vec<String> {
    let mut all = Vec::new();
    for resource in &request.resource_metrics {
        for scope in &resource.scope_metrics {
            for metric in &scope.metrics {
                let (mut frame, mut points) = (metric.clone(), Vec::new());
                match &mut frame.data {
                    Some(Data::Gauge(data)) => points.extend(data.data_points.drain(..).map(|at| format!("{at:?}"))),
                    Some(Data::Sum(data)) => points.extend(data.data_points.drain(..).map(|at| format!("{at:?}"))),
                    Some(Data::Histogram(data)) => {
                        points.extend(data.data_points.drain(..).map(|at| format!("{at:?}")));
                    }
                    Some(Data::ExponentialHistogram(data)) => {
                        points.extend(data.data_points.drain(..).map(|at| format!("{at:?}")));
                    }
                    Some(Data::Summary(data)) => points.extend(data.data_points.drain(..).map(|at| format!("{at:?}"))),
                    None => {}
                }
                let around =
                    format!("{:?} {} {:?} {frame:?}", resource.resource, resource.schema_url, scope.schema_url);
                all.extend(points.into_iter().map(|point| format!("{around} {point}")));
            }
        }
    }
    all
}

/// The length of the request with these items alone, by the stock encoder.
fn length_of(signal: Signal, bytes: &[u8], range: &Range<usize>) -> usize {
    let mut number = 0;
    let mut is_in = || {
        number += 1;
        range.contains(&(number - 1))
    };
    match signal {
        Signal::Logs => {
            let mut request = ExportLogsServiceRequest::decode(bytes).expect("a request");
            for resource in &mut request.resource_logs {
                resource.scope_logs.iter_mut().for_each(|scope| scope.log_records.retain(|_| is_in()));
                resource.scope_logs.retain(|scope| !scope.log_records.is_empty());
            }
            request.resource_logs.retain(|resource| !resource.scope_logs.is_empty());
            request.encoded_len()
        }
        Signal::Metrics => {
            let mut request = ExportMetricsServiceRequest::decode(bytes).expect("a request");
            for resource in &mut request.resource_metrics {
                for scope in &mut resource.scope_metrics {
                    scope.metrics.retain_mut(|metric| match &mut metric.data {
                        Some(Data::Gauge(data)) => keep(&mut data.data_points, &mut is_in),
                        Some(Data::Sum(data)) => keep(&mut data.data_points, &mut is_in),
                        Some(Data::Histogram(data)) => keep(&mut data.data_points, &mut is_in),
                        Some(Data::ExponentialHistogram(data)) => keep(&mut data.data_points, &mut is_in),
                        Some(Data::Summary(data)) => keep(&mut data.data_points, &mut is_in),
                        None => false,
                    });
                }
                resource.scope_metrics.retain(|scope| !scope.metrics.is_empty());
            }
            request.resource_metrics.retain(|resource| !resource.scope_metrics.is_empty());
            request.encoded_len()
        }
        Signal::Traces => panic!("not made here"),
    }
}

/// Keeps the points that are in; returns whether there are any.
fn keep<T>(points: &mut Vec<T>, is_in: &mut impl FnMut() -> bool) -> bool {
    points.retain(|_| is_in());
    !points.is_empty()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn json_comes_back_with_the_same_items((signal, request, all) in requests(), limit in 300..6_000_usize) {
        prop_assert_eq!(count_items(signal, &request), Ok(all.len()));
        let lines = to_lines_of(signal, &request, limit).unwrap();
        let mut found = Vec::new();
        for line in &lines {
            serde_json::from_slice::<Value>(&line.text).unwrap();
            prop_assert!(!line.text.contains(&b'\n'));
            prop_assert!(line.items > 0);
            prop_assert_eq!(line.oversized, line.text.len() > limit);
            let (bytes, count) = from_line_of(signal, &line.text, MAX_LINE_BYTES).unwrap();
            prop_assert_eq!(count, line.items);
            found.extend(items(signal, &bytes));
        }
        prop_assert_eq!(found, all);
    }

    #[test]
    fn pieces_hold_all_items_within_the_limits(
        (signal, request, all) in requests(),
        max_bytes in 50..3_000_usize,
        max_items in 1..9_usize,
    ) {
        let payload = Payload::of_bytes(signal, ID, UNIX_EPOCH, request).unwrap();
        let pieces = payload.cut_within(max_bytes, max_items, || ID).unwrap_or_else(|| vec![payload.clone()]);
        let (mut found, mut before) = (Vec::new(), 0);
        for (at, piece) in pieces.iter().enumerate() {
            prop_assert_eq!((piece.signal(), count_items(signal, piece.bytes())), (signal, Ok(piece.item_count())));
            if pieces.len() > 1 {
                prop_assert!(piece.item_count() <= max_items);
                prop_assert!(piece.bytes().len() <= max_bytes || piece.item_count() == 1);
                // With the next item it would be over a limit.
                let with_next = before..before + piece.item_count() + 1;
                if piece.item_count() < max_items && at + 1 < pieces.len() {
                    prop_assert!(length_of(signal, payload.bytes(), &with_next) > max_bytes);
                }
                before += piece.item_count();
            }
            found.extend(items(signal, piece.bytes()));
        }
        prop_assert_eq!(found, all);
    }

    #[test]
    fn merged_requests_hold_all_items_in_order((signal, request, all) in requests(), max_items in 1..20_usize) {
        let payload = Payload::of_bytes(signal, ID, UNIX_EPOCH, request).unwrap();
        let pieces = payload.cut_within(0, 1, || ID).unwrap_or_else(|| vec![payload.clone()]);
        let requests: Vec<_> = pieces.iter().map(|piece| piece.bytes().clone()).collect();
        let merged = merge_within(signal, &requests, usize::MAX, max_items);
        let found: Vec<_> = merged.iter().flat_map(|merged| items(signal, &merged.bytes)).collect();
        prop_assert_eq!(found, all);
        for merged in &merged {
            prop_assert!(merged.requests.len() == 1 || count_items(signal, &merged.bytes).unwrap() <= max_items);
        }
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for signal in Signal::ALL {
            let _ = (count_items(signal, &bytes), from_line_of(signal, &bytes, MAX_LINE_BYTES));
            if let Ok(lines) = to_lines_of(signal, &bytes, 1_000) {
                for line in lines {
                    serde_json::from_slice::<Value>(&line.text).unwrap();
                }
            }
        }
    }
}

/// The shape of the examples in the repository of OTLP.
#[test]
fn metrics_are_written_and_read_as_otlp_json_has_them() {
    let line = json!({"resourceMetrics": [{
        "scopeMetrics": [{
            "metrics": [
                {"name": "my.counter", "unit": "1", "description": "I am a Counter", "sum": {
                    "dataPoints": [{
                        "startTimeUnixNano": "1544712660300000000", "timeUnixNano": "1544712660300000000",
                        "asDouble": 5.0, "attributes": [{"key": "my.attr", "value": {"stringValue": "some value"}}],
                    }],
                    "aggregationTemporality": 1, "isMonotonic": true,
                }},
                {"name": "my.gauge", "gauge": {"dataPoints": [
                    {"timeUnixNano": "1544712660300000000", "asInt": "0"},
                    {"asInt": "-9223372036854775808", "flags": 1},
                ]}},
                {"name": "my.histogram", "histogram": {
                    "dataPoints": [{
                        "count": "2", "sum": 2.0, "bucketCounts": ["1", "1"], "explicitBounds": [1.0],
                        "exemplars": [{
                            "timeUnixNano": "7", "asDouble": 0.5, "spanId": "eee19b7ec3c1b174",
                            "traceId": "5b8efff798038103d269b633813fc60c",
                            "filteredAttributes": [{"key": "f", "value": {"boolValue": true}}],
                        }],
                        "min": 0.0, "max": 2.0,
                    }],
                    "aggregationTemporality": 2,
                }},
                {"name": "my.exponential", "exponentialHistogram": {
                    "dataPoints": [{
                        "count": "3", "sum": 10.0, "scale": -3, "zeroCount": "1",
                        "positive": {"offset": 1, "bucketCounts": ["0", "2", "18446744073709551615"]},
                        "negative": {"offset": -7, "bucketCounts": ["4"]}, "zeroThreshold": 0.25,
                    }],
                    "aggregationTemporality": 1,
                }},
                {"name": "my.summary", "summary": {"dataPoints": [
                    {"count": "1", "sum": 1.0, "quantileValues": [{"quantile": 0.5, "value": 1.0}]},
                ]}},
            ],
            "scope": {"name": "my.library"},
        }],
        "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "my.service"}}]},
    }]});
    let (request, points) = from_line_of(Signal::Metrics, line.to_string().as_bytes(), MAX_LINE_BYTES).unwrap();
    assert_eq!(points, 6);
    let lines = to_lines_of(Signal::Metrics, &request, MAX_LINE_BYTES).unwrap();
    assert_eq!((lines.len(), lines[0].items), (1, 6));
    assert!(lines[0].text.starts_with(br#"{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"name":"#));
    assert_eq!(plain(serde_json::from_slice(&lines[0].text).unwrap()), plain(line));

    let stock = ExportMetricsServiceRequest::decode(&request[..]).unwrap();
    assert_eq!(stock.encode_to_vec(), request, "byte for byte as the stock encoder");
    let metrics = &stock.resource_metrics[0].scope_metrics[0].metrics;
    let Some(Data::Gauge(gauge)) = &metrics[1].data else { panic!("a gauge") };
    assert_eq!(gauge.data_points[0].value, Some(Number::AsInt(0)), "a value of 0 is a value");
    let Some(Data::ExponentialHistogram(exponential)) = &metrics[3].data else { panic!("a histogram") };
    let point = &exponential.data_points[0];
    assert_eq!((point.scale, point.negative.as_ref().unwrap().offset), (-3, -7));
    assert_eq!(point.positive.as_ref().unwrap().bucket_counts, [0, 2, u64::MAX]);
}

#[test]
fn logs_are_written_and_read_as_otlp_json_has_them() {
    let line = json!({"resourceLogs": [{
        "scopeLogs": [{
            "logRecords": [{
                "timeUnixNano": "1544712660300000000", "severityNumber": 10, "severityText": "Information",
                "body": {"kvlistValue": {"values": [{"key": "a", "value": {"intValue": "-1"}}]}},
                "attributes": [{"key": "b", "value": {"bytesValue": "AAE="}}], "flags": 1,
                "traceId": "5b8efff798038103d269b633813fc60c", "spanId": "eee19b7ec3c1b174",
                "observedTimeUnixNano": "1544712660300000001", "eventName": "browser.page_view",
            }],
            "scope": {"name": "my.library", "version": "1.0.0"}, "schemaUrl": "https://opentelemetry.io/schemas/1.30.0",
        }],
        "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "my.service"}}]},
    }]});
    let named = line.to_string().replace(":10,", ":\"SEVERITY_NUMBER_INFO2\",");
    for text in [line.to_string(), named] {
        let (request, records) = from_line_of(Signal::Logs, text.as_bytes(), MAX_LINE_BYTES).unwrap();
        assert_eq!(records, 1);
        let lines = to_lines_of(Signal::Logs, &request, MAX_LINE_BYTES).unwrap();
        assert_eq!(plain(serde_json::from_slice(&lines[0].text).unwrap()), plain(line.clone()));
        let stock = ExportLogsServiceRequest::decode(&request[..]).unwrap();
        assert_eq!(stock.encode_to_vec(), request);
    }
}

/// Objects by their members, and numbers by their values.
fn plain(value: Value) -> Value {
    match value {
        Value::Object(object) => Value::Object(object.into_iter().map(|(key, value)| (key, plain(value))).collect()),
        Value::Array(values) => Value::Array(values.into_iter().map(plain).collect()),
        Value::Number(number) => json!(number.as_f64().map(f64::to_bits)),
        other => other,
    }
}

#[test]
fn a_line_of_another_signal_is_none_of_this_one() {
    for (line, of) in [
        (r#"{"resourceSpans":[]}"#, Signal::Traces),
        (r#"{"resourceLogs":[]}"#, Signal::Logs),
        (r#"{"resourceMetrics":[]}"#, Signal::Metrics),
    ] {
        for signal in Signal::ALL {
            let read = from_line_of(signal, line.as_bytes(), MAX_LINE_BYTES).map(|(_, count)| count);
            let expected = if signal == of { Ok(0) } else { Err(JsonError::NoItems { signal }) };
            assert_eq!(read, expected, "{line} as {signal}");
        }
    }
    let error = JsonError::NoItems { signal: Signal::Metrics }.to_string();
    assert_eq!(error, "line holds no metrics: it has no \"resourceMetrics\"");
}

#[test]
fn two_values_in_one_data_point_are_an_error_in_json_and_the_last_counts_in_protobuf() {
    let line = br#"{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"gauge":{"dataPoints":[{"asInt":1,"asDouble":2}]}}]}]}]}"#;
    let error = from_line_of(Signal::Metrics, line, MAX_LINE_BYTES).expect_err("two values");
    assert!(matches!(error, JsonError::Duplicate { .. }), "{error}");

    let point = |value| NumberDataPoint { value: Some(value), ..NumberDataPoint::default() }.encode_to_vec();
    let both = [point(Number::AsDouble(2.0)), point(Number::AsInt(1))].concat();
    let framed = |number: u8, content: &[u8]| [&[number << 3 | 2, content.len() as u8], content].concat();
    let request = [1, 5, 2, 2, 1].into_iter().fold(both, |content, number| framed(number, &content));
    let lines = to_lines_of(Signal::Metrics, &request, MAX_LINE_BYTES).unwrap();
    let text = String::from_utf8(lines[0].text.clone()).unwrap();
    assert!(text.contains(r#""dataPoints":[{"asInt":"1"}]"#), "{text}");
}

#[test]
fn packed_numbers_are_read_in_one_field_or_in_many() {
    let framed = |number: u8, content: &[u8]| [&[number << 3 | 2, content.len() as u8], content].concat();
    let one = 1_u64.to_le_bytes();
    // `bucket_counts`, three times: packed, alone, and packed without a number.
    let point = [framed(6, &[one, one].concat()), [&[6 << 3 | 1], &one[..]].concat(), framed(6, &[])].concat();
    let request = [1, 9, 2, 2, 1].into_iter().fold(point, |content, number| framed(number, &content));
    let lines = to_lines_of(Signal::Metrics, &request, MAX_LINE_BYTES).unwrap();
    let text = String::from_utf8(lines[0].text.clone()).unwrap();
    assert!(text.contains(r#"{"bucketCounts":["1","1","1"]}"#), "{text}");
    assert_eq!(from_line_of(Signal::Metrics, text.as_bytes(), MAX_LINE_BYTES).map(|(_, points)| points), Ok(1));
    // A number that is cut off.
    let torn = [1, 9, 2, 2, 1].into_iter().fold(framed(6, &one[..7]), |content, number| framed(number, &content));
    to_lines_of(Signal::Metrics, &torn, MAX_LINE_BYTES).expect_err("torn");
}

/// A file's record without an item would count as damaged when it is read.
#[test]
fn a_metric_without_data_points_is_no_line_of_its_own() {
    let metric = |name: &str, data| Metric { name: name.to_owned(), data, ..Metric::default() };
    let point = NumberDataPoint { value: Some(Number::AsInt(1)), ..NumberDataPoint::default() };
    let full = || Some(Data::Sum(Sum { data_points: vec![point.clone()], ..Sum::default() }));
    let empty = || Some(Data::Sum(Sum::default()));
    let of = |metrics| {
        let scope_metrics = vec![ScopeMetrics { metrics, ..ScopeMetrics::default() }];
        ResourceMetrics { scope_metrics, ..ResourceMetrics::default() }
    };
    let long = "n".repeat(400);
    let resource_metrics = vec![
        of(vec![metric(&long, full()), metric(&long, empty()), metric(&long, full())]),
        of(vec![metric("alone", empty())]),
        of(vec![metric("a", None), metric("b", full())]),
    ];
    let request = ExportMetricsServiceRequest { resource_metrics }.encode_to_vec();
    let lines = to_lines_of(Signal::Metrics, &request, 600).unwrap();
    assert_eq!(lines.iter().map(|line| line.items).collect::<Vec<_>>(), [1, 1, 1]);
    let last = String::from_utf8(lines[2].text.clone()).unwrap();
    assert!(last.contains(r#"{"name":"a"},{"name":"b","#), "beside others it stays: {last}");
}

/// The stock messages of each signal, for the others.
#[test]
fn a_request_of_another_signal_is_noticed_by_the_types_of_its_fields() {
    let log_records = vec![LogRecord { time_unix_nano: 5, ..LogRecord::default() }];
    let scope_logs = vec![ScopeLogs { log_records, ..ScopeLogs::default() }];
    let logs = ExportLogsServiceRequest { resource_logs: vec![ResourceLogs { scope_logs, ..ResourceLogs::default() }] };
    let data_points = vec![NumberDataPoint { value: Some(Number::AsInt(1)), ..NumberDataPoint::default() }];
    let data = Some(Data::Sum(Sum { data_points, ..Sum::default() }));
    let metrics = vec![Metric { name: "m".to_owned(), data: data.clone(), ..Metric::default() }];
    let scope_metrics = vec![ScopeMetrics { metrics, ..ScopeMetrics::default() }];
    let resource_metrics = vec![ResourceMetrics { scope_metrics, ..ResourceMetrics::default() }];
    let metrics = ExportMetricsServiceRequest { resource_metrics };
    // One resource, one scope, and a span with a trace id and a start.
    let traces = b"\x0a\x1f\x12\x1d\x12\x1b\x0a\x10abcdabcdabcdabcd\x39start...".to_vec();
    let all =
        [(Signal::Traces, traces), (Signal::Logs, logs.encode_to_vec()), (Signal::Metrics, metrics.encode_to_vec())];
    for (of, bytes) in &all {
        for signal in Signal::ALL {
            let checked = check_items(signal, bytes);
            match checked {
                Ok(1) if *of == signal => {}
                Err(DecodeError::WireType { .. }) if *of != signal => {}
                checked => panic!("{of} as {signal}: {checked:?}"),
            }
        }
    }
    // A second value of the `oneof`, of either kind.
    let framed = |number: u8, content: &[u8]| [&[number << 3 | 2, content.len() as u8], content].concat();
    for second in [5, 7] {
        let metric = [framed(5, &[]), framed(second, &[])].concat();
        let request = [2, 2, 1].into_iter().fold(metric, |content, number| framed(number, &content));
        assert!(matches!(check_items(Signal::Metrics, &request), Err(DecodeError::TwoValues { .. })), "{second}");
    }
}

#[test]
fn items_have_the_time_of_their_signal() {
    let ids = || ID;
    let time = UNIX_EPOCH + Duration::from_nanos(100);
    let record = |time_unix_nano, observed_time_unix_nano| LogRecord {
        time_unix_nano,
        observed_time_unix_nano,
        ..LogRecord::default()
    };
    let log_records = vec![record(99, 200), record(0, 99), record(100, 1), record(0, 0)];
    let scope_logs = vec![ScopeLogs { log_records, ..ScopeLogs::default() }];
    let resource_logs = vec![ResourceLogs { scope_logs, ..ResourceLogs::default() }];
    let logs = ExportLogsServiceRequest { resource_logs }.encode_to_vec();

    let point = |time_unix_nano, start_time_unix_nano| NumberDataPoint {
        time_unix_nano,
        start_time_unix_nano,
        value: Some(Number::AsInt(1)),
        ..NumberDataPoint::default()
    };
    let data_points = vec![point(99, 1), point(100, 1), point(0, 99)];
    let data = Some(Data::Sum(Sum { data_points, is_monotonic: true, ..Sum::default() }));
    let metrics = vec![Metric { name: "m".to_owned(), data, ..Metric::default() }];
    let scope_metrics = vec![ScopeMetrics { metrics, ..ScopeMetrics::default() }];
    let resource_metrics = vec![ResourceMetrics { scope_metrics, ..ResourceMetrics::default() }];
    let metrics = ExportMetricsServiceRequest { resource_metrics }.encode_to_vec();

    for (signal, bytes, counts) in [(Signal::Logs, logs, (2, 2)), (Signal::Metrics, metrics, (2, 1))] {
        let payload = Payload::of_bytes(signal, ID, UNIX_EPOCH, bytes.into()).unwrap();
        let Aged { old, young } = payload.separate_ended_before(time, ids).expect("items");
        let found = [old, young].map(|part| part.expect("some of each"));
        assert_eq!((found[0].item_count(), found[1].item_count()), counts, "{signal}");
        for part in found {
            assert_eq!((count_items(signal, part.bytes()), part.signal()), (Ok(part.item_count()), signal));
        }
    }
}
