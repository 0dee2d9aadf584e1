//! A batch as records of a file, and back.

use bytes::Bytes;
use file_fallback::{Format, Record};
use otlp_payload::{DecodeError, Payload, Signal, count_items, json};

use crate::seams::settings::FallbackFormat;

impl FallbackFormat {
    pub(crate) fn of_files(self) -> Format {
        match self {
            Self::Json => Format::Lines,
            Self::Protobuf => Format::Framed,
        }
    }

    /// The records of a batch: each is complete, with its resource and scopes, and below the size limit unless it is a
    /// single span.
    pub(crate) fn records(self, batch: &Payload) -> Result<Vec<Record>, DecodeError> {
        match self {
            Self::Json => {
                let mut records = Vec::new();
                put_lines(batch, &mut records)?;
                Ok(records)
            }
            Self::Protobuf => {
                let mut records = Vec::new();
                put_frames(batch, &mut records);
                Ok(records)
            }
        }
    }
}

fn put_lines(batch: &Payload, records: &mut Vec<Record>) -> Result<(), DecodeError> {
    let lines = json::to_lines_of(batch.signal(), batch.bytes(), LINE_BYTES)?;
    // Lines are cut between metrics: one with many data points is divided before. Not where the halves are hardly
    // smaller, since resource and name would be written again and again.
    if batch.signal() == Signal::Metrics
        && lines.iter().any(|line| line.oversized && line.items > 1)
        && let Some((left, right)) = batch.split(batch.id(), batch.id())
        && left.bytes().len().max(right.bytes().len()) < batch.bytes().len() / 4 * 3
    {
        put_lines(&left, records)?;
        return put_lines(&right, records);
    }
    records.extend(lines.into_iter().map(|line| Record { bytes: line.text, count: line.items }));
    Ok(())
}

fn put_frames(batch: &Payload, records: &mut Vec<Record>) {
    if batch.bytes().len() > FRAME_BYTES
        && let Some((left, right)) = batch.split(batch.id(), batch.id())
    {
        put_frames(&left, records);
        put_frames(&right, records);
    } else {
        records.push(Record { bytes: batch.bytes().to_vec(), count: batch.item_count() });
    }
}

/// The request of this signal in a record, and its number of items.
///
/// # Errors
/// The damage, as a sentence for the log.
pub(crate) fn request(signal: Signal, record: Vec<u8>, format: Format) -> Result<(Bytes, usize), String> {
    let length = record.len();
    let (request, items) = decoded(signal, record, format)?;
    // Only a record without any resource is an empty request. In any other, items may stand under a name that this
    // version does not know: the file stays for a person to look at.
    if items == 0 && !request.is_empty() {
        let names = signal.items();
        return Err(format!("{length} bytes of {signal} hold no {names} under a name that OTLP has for {names}"));
    }
    Ok((request, items))
}

fn decoded(signal: Signal, record: Vec<u8>, format: Format) -> Result<(Bytes, usize), String> {
    match format {
        Format::Lines => json::from_line_of(signal, &record, MAX_RECORD_BYTES).map_err(|error| error.to_string()),
        Format::Framed => match count_items(signal, &record) {
            Ok(items) => Ok((record.into(), items)),
            Err(error) => Err(error.to_string()),
        },
        other => Err(format!("the format {other:?} is not known")),
    }
}

/// Lines stay below this size, since the Collector silently skips longer ones (its `max_log_size` is 1 MiB).
const LINE_BYTES: usize = 1_000_000;

/// Frames stay below this size: a replay reads a frame at once.
const FRAME_BYTES: usize = 4 * 1_024 * 1_024;

/// A record with a single, longer span is stored all the same, up to this size.
pub(crate) const MAX_RECORD_BYTES: usize = 64 * 1_024 * 1_024;

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use opentelemetry_sdk::Resource;
    use otlp_payload::{BatchId, Encoder, count_spans, span_ids};

    use super::*;
    use crate::proofs::spans::spans;

    fn batch(first: u64, count: usize) -> Payload {
        let encoder = Encoder::new(&Resource::builder_empty().with_service_name("test").build());
        encoder.encode(BatchId { incarnation: 1, seq: 2 }, SystemTime::UNIX_EPOCH, &spans(first, count))
    }

    #[test]
    fn a_batch_comes_back_from_either_format() {
        let batch = batch(7, 30);
        for format in [FallbackFormat::Json, FallbackFormat::Protobuf] {
            let records = format.records(&batch).expect("well formed");
            assert_eq!(records.len(), 1);
            assert_eq!(records[0].count, 30);
            let (bytes, spans) =
                request(Signal::Traces, records[0].bytes.clone(), format.of_files()).expect("as it was written");
            assert_eq!((&bytes, spans), (batch.bytes(), 30), "{format:?}");
        }
    }

    #[test]
    fn a_large_batch_becomes_several_records_with_the_same_spans() {
        let whole = batch(7, 2_000);
        let long = whole.bytes().repeat(FRAME_BYTES * 3 / whole.bytes().len() + 1);
        let spans = count_spans(&long).expect("well formed");
        let whole = Payload::new(BatchId { incarnation: 1, seq: 2 }, SystemTime::UNIX_EPOCH, spans, long.into());
        let records = FallbackFormat::Protobuf.records(&whole).expect("well formed");
        assert!(
            records.len() >= 3 && records.iter().all(|record| record.bytes.len() <= FRAME_BYTES),
            "{}",
            records.len()
        );
        let ids = |bytes: &[u8]| span_ids(bytes).expect("well formed").collect::<Vec<_>>();
        let parts: Vec<_> = records.iter().flat_map(|record| ids(&record.bytes)).collect();
        assert_eq!(parts, ids(whole.bytes()));
        assert_eq!(records.iter().map(|record| record.count).sum::<usize>(), spans);
    }

    /// A gauge of 60,000 points with this text in its resource.
    fn gauge(text: &str) -> Payload {
        use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
        use opentelemetry_proto::tonic::metrics::v1::{Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics};
        use opentelemetry_proto::tonic::metrics::v1::{metric::Data, number_data_point::Value};
        use prost::Message as _;

        let point = |time_unix_nano| NumberDataPoint {
            time_unix_nano,
            value: Some(Value::AsInt(1)),
            ..NumberDataPoint::default()
        };
        let data = Some(Data::Gauge(Gauge { data_points: (1..=60_000).map(point).collect() }));
        let metrics = vec![Metric { data, ..Metric::default() }];
        let scope_metrics = vec![ScopeMetrics { metrics, ..ScopeMetrics::default() }];
        let resource_metrics =
            vec![ResourceMetrics { scope_metrics, schema_url: text.to_owned(), ..ResourceMetrics::default() }];
        let bytes = ExportMetricsServiceRequest { resource_metrics }.encode_to_vec();
        let id = BatchId { incarnation: 1, seq: 2 };
        Payload::of_bytes(Signal::Metrics, id, SystemTime::UNIX_EPOCH, bytes.into()).expect("well formed")
    }

    #[test]
    fn a_metric_longer_than_a_line_is_divided_by_its_data_points() {
        let records = FallbackFormat::Json.records(&gauge("")).expect("well formed");
        assert!(records.len() > 2 && records.iter().all(|record| record.bytes.len() < LINE_BYTES), "{}", records.len());
        assert_eq!(records.iter().map(|record| record.count).sum::<usize>(), 60_000);
        // Not where each part would have a resource of 2 MB.
        let records = FallbackFormat::Json.records(&gauge(&"r".repeat(2_000_000))).expect("well formed");
        assert!(records.len() <= 2, "{}", records.len());
    }

    #[test]
    fn a_record_without_a_request_is_an_error() {
        for format in [Format::Lines, Format::Framed] {
            request(Signal::Traces, b"\xff\xff\xff".to_vec(), format).expect_err("garbage");
        }
        request(Signal::Traces, b"{}".to_vec(), Format::Framed).expect_err("text");
        for text in [
            r#"{"resourceSpans":[{"instrumentationLibrarySpans":[{"spans":[{"name":"a"}]}]}]}"#,
            r#"{"resourceSpans":[{"scopeSpans":[{"span":[{"name":"a"}]}]}]}"#,
            r#"{"resource_spans":[{"scopespans":[{"spans":[{"name":"a"}]}]}]}"#,
            r#"{"resourceSpans":[{}]}"#,
            r#"{"resourceSpan":[{"scopeSpans":[{"spans":[{"name":"a"}]}]}]}"#,
        ] {
            request(Signal::Traces, text.as_bytes().to_vec(), Format::Lines).expect_err(text);
        }
        // `ResourceSpans` with the field of old collectors, number 1000, in place of scope spans.
        request(Signal::Traces, b"\x0a\x04\xc2\x3e\x01a".to_vec(), Format::Framed)
            .expect_err("spans of an unknown field");
        // A field beside the spans that OTLP does not have is no damage.
        let newer = r#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"name":"a","new":1}],"newer":[2]}],"x":{}}],"y":0}"#;
        assert_eq!(request(Signal::Traces, newer.as_bytes().to_vec(), Format::Lines).map(|(_, spans)| spans), Ok(1));
        assert_eq!(request(Signal::Traces, b"{}".to_vec(), Format::Lines), Ok((Bytes::new(), 0)));
    }
}
