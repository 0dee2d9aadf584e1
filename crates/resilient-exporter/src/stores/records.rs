//! A batch as records of a file, and back.

use bytes::Bytes;
use file_fallback::{Format, Record};
use otlp_payload::{DecodeError, Payload, count_spans, json};

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
                let lines = json::to_lines(batch.bytes(), LINE_BYTES)?;
                Ok(lines.into_iter().map(|line| Record { bytes: line.text, count: line.spans }).collect())
            }
            Self::Protobuf => {
                let mut records = Vec::new();
                put_frames(batch, &mut records);
                Ok(records)
            }
        }
    }
}

fn put_frames(batch: &Payload, records: &mut Vec<Record>) {
    if batch.bytes().len() > FRAME_BYTES
        && let Some((left, right)) = batch.split(batch.id(), batch.id())
    {
        put_frames(&left, records);
        put_frames(&right, records);
    } else {
        records.push(Record { bytes: batch.bytes().to_vec(), count: batch.span_count() });
    }
}

/// The request in a record, and its number of spans.
///
/// # Errors
/// The damage, as a sentence for the log.
pub(crate) fn request(record: Vec<u8>, format: Format) -> Result<(Bytes, usize), String> {
    let length = record.len();
    let (request, spans) = decoded(record, format)?;
    // Only a record without any `resourceSpans` is an empty request. In any other, spans may stand under a name that
    // this version does not know: the file stays for a person to look at.
    if spans == 0 && !request.is_empty() {
        return Err(format!("{length} bytes of traces hold no span under a name that OTLP has for spans"));
    }
    Ok((request, spans))
}

fn decoded(record: Vec<u8>, format: Format) -> Result<(Bytes, usize), String> {
    match format {
        Format::Lines => json::from_line_within(&record, MAX_RECORD_BYTES).map_err(|error| error.to_string()),
        Format::Framed => match count_spans(&record) {
            Ok(spans) => Ok((record.into(), spans)),
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
    use otlp_payload::{BatchId, Encoder, span_ids};

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
            let (bytes, spans) = request(records[0].bytes.clone(), format.of_files()).expect("as it was written");
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

    #[test]
    fn a_record_without_a_request_is_an_error() {
        for format in [Format::Lines, Format::Framed] {
            request(b"\xff\xff\xff".to_vec(), format).expect_err("garbage");
        }
        request(b"{}".to_vec(), Format::Framed).expect_err("text");
        for text in [
            r#"{"resourceSpans":[{"instrumentationLibrarySpans":[{"spans":[{"name":"a"}]}]}]}"#,
            r#"{"resourceSpans":[{"scopeSpans":[{"span":[{"name":"a"}]}]}]}"#,
            r#"{"resource_spans":[{"scopespans":[{"spans":[{"name":"a"}]}]}]}"#,
            r#"{"resourceSpans":[{}]}"#,
            r#"{"resourceSpan":[{"scopeSpans":[{"spans":[{"name":"a"}]}]}]}"#,
        ] {
            request(text.as_bytes().to_vec(), Format::Lines).expect_err(text);
        }
        // `ResourceSpans` with the field of old collectors, number 1000, in place of scope spans.
        request(b"\x0a\x04\xc2\x3e\x01a".to_vec(), Format::Framed).expect_err("spans of an unknown field");
        // A field beside the spans that OTLP does not have is no damage.
        let newer = r#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"name":"a","new":1}],"newer":[2]}],"x":{}}],"y":0}"#;
        assert_eq!(request(newer.as_bytes().to_vec(), Format::Lines).map(|(_, spans)| spans), Ok(1));
        assert_eq!(request(b"{}".to_vec(), Format::Lines), Ok((Bytes::new(), 0)));
    }
}
