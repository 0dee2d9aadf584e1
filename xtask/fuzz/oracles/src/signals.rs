//! Requests of logs and metrics, in protobuf and in JSON: any bytes.

use std::time::UNIX_EPOCH;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use otlp_payload::json::{MAX_LINE_BYTES, from_line_of, to_lines_of};
use otlp_payload::{BatchId, Payload, Signal, check_items, count_items, merge_within};
use prost::Message as _;

use crate::{Seed, memory};

/// The first byte chooses the signal and the form of the others.
pub(crate) fn check(input: &[u8]) {
    let Some((choice, bytes)) = input.split_first() else { return };
    let signal = if choice & 1 == 0 { Signal::Logs } else { Signal::Metrics };
    if choice & 2 == 0 { protobuf(signal, bytes) } else { line(signal, bytes) }
}

/// Counts agree, with the stock decoder too; each line and each piece has the items that it states; memory is bounded.
fn protobuf(signal: Signal, bytes: &[u8]) {
    let limit = PEAK_PER_BYTE * bytes.len();
    let count = memory::within(0, "counting", || count_items(signal, bytes));
    let lines = memory::within(limit, "a request as JSON", || to_lines_of(signal, bytes, usize::MAX));
    // A metric that gives its data twice is refused before: of such data the last counts in JSON.
    let Ok(items) = check_items(signal, bytes) else { return };
    assert_eq!(count, Ok(items));
    if let Some(stock) = by_stock(signal, bytes) {
        assert_eq!(stock, items);
        assert!(lines.is_ok(), "the stock decoder reads it: {lines:?}");
    }
    if let Ok(lines) = &lines {
        assert_eq!(lines.iter().map(|line| line.items).sum::<usize>(), items);
        for line in lines {
            assert!(line.items > 0 && !line.text.contains(&b'\n'));
            let (request, read) = from_line_of(signal, &line.text, usize::MAX).expect("we wrote it");
            assert_eq!((read, by_stock(signal, &request)), (line.items, Some(line.items)));
        }
    }
    let id = BatchId { incarnation: 1, seq: 1 };
    let payload = Payload::of(signal, id, UNIX_EPOCH, items, bytes.to_vec().into());
    let pieces = payload.cut_within(bytes.len() / 2, 3, || id).unwrap_or_else(|| vec![payload]);
    assert_eq!(pieces.iter().map(Payload::item_count).sum::<usize>(), items);
    let requests: Vec<_> = pieces.iter().map(|piece| piece.bytes().clone()).collect();
    let merged = merge_within(signal, &requests, usize::MAX, usize::MAX);
    let of_merged = merged.iter().map(|merged| count_items(signal, &merged.bytes).expect("whole"));
    assert_eq!(of_merged.sum::<usize>(), items);
}

/// An accepted line is a request to the stock decoder, at most four times as long, and survives writing and reading.
fn line(signal: Signal, text: &[u8]) {
    let limit = 8 * PEAK_PER_BYTE * text.len();
    let Ok((request, items)) = memory::within(limit, "a line", || from_line_of(signal, text, MAX_LINE_BYTES)) else {
        return;
    };
    assert!(request.len() <= 4 * text.len(), "{} bytes from a line of {}", request.len(), text.len());
    assert_eq!((count_items(signal, &request), check_items(signal, &request)), (Ok(items), Ok(items)));
    assert_eq!(by_stock(signal, &request), Some(items));
    let lines = to_lines_of(signal, &request, usize::MAX).expect("we wrote it");
    let mut again = Vec::new();
    for line in &lines {
        let (request, read) = from_line_of(signal, &line.text, usize::MAX).expect("we wrote it");
        assert_eq!(read, line.items);
        again.extend_from_slice(&request);
    }
    assert_eq!(count_items(signal, &again), Ok(items));
    assert_eq!(to_lines_of(signal, &again, usize::MAX).as_ref(), Ok(&lines), "the text is a fixed point");
}

/// The number of items that the stock decoder finds; none if it refuses the bytes.
fn by_stock(signal: Signal, bytes: &[u8]) -> Option<usize> {
    if signal == Signal::Logs {
        let request = ExportLogsServiceRequest::decode(bytes).ok()?;
        let scopes = request.resource_logs.iter().flat_map(|resource| &resource.scope_logs);
        return Some(scopes.map(|scope| scope.log_records.len()).sum());
    }
    let request = ExportMetricsServiceRequest::decode(bytes).ok()?;
    let scopes = request.resource_metrics.iter().flat_map(|resource| &resource.scope_metrics);
    let points = scopes.flat_map(|scope| &scope.metrics).map(|metric| match &metric.data {
        Some(Data::Gauge(data)) => data.data_points.len(),
        Some(Data::Sum(data)) => data.data_points.len(),
        Some(Data::Histogram(data)) => data.data_points.len(),
        Some(Data::ExponentialHistogram(data)) => data.data_points.len(),
        Some(Data::Summary(data)) => data.data_points.len(),
        None => 0,
    });
    Some(points.sum())
}

/// The result, once more while it grows, and the parts that are moved to their place.
const PEAK_PER_BYTE: usize = 30;

/// Lines of both signals, and their bytes.
pub(crate) fn seeds() -> Vec<Seed> {
    let texts: [(&str, Signal, &str); 5] = [
        (
            "log",
            Signal::Logs,
            r#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"timeUnixNano":"1","severityNumber":9,"severityText":"INFO","body":{"stringValue":"full"},"attributes":[{"key":"k","value":{"intValue":"-1"}}],"flags":1,"traceId":"0102030405060708090a0b0c0d0e0f10","spanId":"0102030405060708","observedTimeUnixNano":"2","eventName":"e"}],"scope":{"name":"s"}}],"resource":{}}]}"#,
        ),
        (
            "log-of-any-kind",
            Signal::Logs,
            r#"{"resource_logs":[{"scope_logs":[{"log_records":[{"body":{"kvlistValue":{"values":[{"key":"a","value":{"arrayValue":{"values":[{"doubleValue":"NaN"},null]}}}]}},"severity_number":"SEVERITY_NUMBER_WARN3"},{}]}]}]}"#,
        ),
        (
            "sums",
            Signal::Metrics,
            r#"{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"name":"c","unit":"1","sum":{"dataPoints":[{"startTimeUnixNano":"1","timeUnixNano":"2","asInt":"0"},{"asDouble":-0.5,"exemplars":[{"timeUnixNano":"3","asInt":"-7","spanId":"0102030405060708","filteredAttributes":[{"key":"f"}]}]}],"aggregationTemporality":2,"isMonotonic":true}},{"name":"g","gauge":{"dataPoints":[{"asDouble":"Infinity","flags":1}]}},{"name":"none"}]}]}]}"#,
        ),
        (
            "histograms",
            Signal::Metrics,
            r#"{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"name":"h","histogram":{"dataPoints":[{"count":"2","sum":2,"bucketCounts":["1","1"],"explicitBounds":[1.5],"min":0,"max":2}],"aggregationTemporality":"AGGREGATION_TEMPORALITY_DELTA"}},{"name":"x","exponentialHistogram":{"dataPoints":[{"count":"3","scale":-3,"zeroCount":"1","positive":{"offset":-2,"bucketCounts":[0,"18446744073709551615"]},"negative":{},"zeroThreshold":0.25}]}}]}]}]}"#,
        ),
        (
            "summary",
            Signal::Metrics,
            r#"{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"name":"s","summary":{"dataPoints":[{"count":"1","sum":1,"quantileValues":[{"quantile":0.5,"value":1}]}]},"metadata":[{"key":"m","value":{"boolValue":false}}]}]}]}]}"#,
        ),
    ];
    let mut seeds = Vec::new();
    for (name, signal, text) in texts {
        let choice = u8::from(signal == Signal::Metrics);
        let (request, _) = from_line_of(signal, text.as_bytes(), MAX_LINE_BYTES).expect("well formed");
        seeds.push((format!("{name}-line"), [&[choice | 2], text.as_bytes()].concat()));
        seeds.push((format!("{name}-bytes"), [&[choice], &request[..]].concat()));
    }
    seeds
}
