//! Trace requests in protobuf: any bytes.

use std::time::UNIX_EPOCH;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanData;
use otlp_payload::json::{from_line, to_lines};
use otlp_payload::{BatchId, DecodeError, Encoder, Payload, count_spans, decode_all, merge, span_ids};
use prost::Message as _;

use crate::{Seed, memory, request};

/// Our readers agree with each other and with the stock decoder; a request that is written as JSON, divided, merged or
/// encoded again keeps its meaning; memory is bounded by the bytes.
pub(crate) fn check(bytes: &[u8]) {
    let limit = PEAK_PER_BYTE * bytes.len();
    let count = memory::within(0, "counting", || count_spans(bytes));
    let decoded = memory::within(limit, "decoding", || decode_all(bytes));
    let lines = memory::within(limit, "a request as JSON", || to_lines(bytes, usize::MAX));
    if let Ok(ids) = span_ids(bytes) {
        assert_eq!(Ok(ids.len()), count);
    }
    if let Ok(decoded) = &decoded {
        assert_eq!(Ok(decoded.iter().map(|one| one.spans.len()).sum()), count);
        for one in decoded {
            encodes_again(&one.spans);
        }
    }
    if let Ok(lines) = &lines {
        assert_eq!(Ok(lines.iter().map(|line| line.items).sum()), count);
    }
    for outcome in [count.as_ref().err(), decoded.as_ref().err(), lines.as_ref().err()] {
        outcome.into_iter().for_each(|error| has_its_place(bytes, *error));
    }
    match ExportTraceServiceRequest::decode(bytes) {
        Ok(request) => {
            assert_eq!(count, Ok(request::spans(&request).count()));
            assert!(decoded.is_ok(), "the stock decoder reads it: {decoded:?}");
            assert!(lines.is_ok(), "the stock decoder reads it: {lines:?}");
            has_its_ids(bytes, &request);
            divides(bytes, &request);
            cuts_and_merges(bytes, &request);
            let tidy = request.encode_to_vec();
            means_the_same(&tidy, &request);
            fits_into_lines(&tidy, &request, 100 + bytes.len() % 900);
        }
        // Text that is not UTF-8 is mended, and of a message given twice the last counts: no bad byte gets through.
        Err(_) => {
            for line in lines.into_iter().flatten() {
                let (bytes, spans) = from_line(&line.text).expect("we wrote it");
                let request = ExportTraceServiceRequest::decode(&bytes[..]).expect("it is mended");
                assert_eq!((spans, spans), (line.items, request::spans(&request).count()));
            }
        }
    }
}

fn has_its_place(bytes: &[u8], error: DecodeError) {
    match error {
        DecodeError::Truncated { offset }
        | DecodeError::Varint { offset }
        | DecodeError::Tag { offset }
        | DecodeError::WireType { offset }
        | DecodeError::TooDeep { offset } => assert!(offset <= bytes.len(), "{error:?}"),
        _ => unreachable!("none of these speaks of several resources"),
    }
}

/// Ids of the usual length are those that others see.
fn has_its_ids(bytes: &[u8], request: &ExportTraceServiceRequest) {
    let ids = span_ids(bytes).expect("the stock decoder reads it");
    for ((trace_id, span_id), span) in ids.zip(request::spans(request)) {
        assert!(span.trace_id.len() != 16 || span.trace_id == trace_id);
        assert!(span.span_id.len() != 8 || span.span_id == span_id);
    }
}

/// Both halves hold all spans in their order, each with all that stands around it.
fn divides(bytes: &[u8], request: &ExportTraceServiceRequest) {
    let payload = Payload::from_bytes(ID, UNIX_EPOCH, bytes.to_vec().into()).expect("it was counted");
    let all = request::flat(request);
    let Some((left, right)) = payload.split(ID, OTHER) else {
        assert!(all.len() < 2);
        return;
    };
    let mut both = Vec::new();
    for half in [left, right] {
        let request = ExportTraceServiceRequest::decode(&half.bytes()[..]).expect("a half is a request");
        let spans = request::flat(&request);
        assert_eq!(spans.len(), half.item_count());
        both.extend(spans);
    }
    assert_eq!(both, all);
}

/// Pieces of at most half the size hold all spans in their order, also merged again; large and small spans apart
/// are all spans.
fn cuts_and_merges(bytes: &[u8], request: &ExportTraceServiceRequest) {
    let payload = Payload::from_bytes(ID, UNIX_EPOCH, bytes.to_vec().into()).expect("it was counted");
    let all = request::flat(request);
    let max_bytes = bytes.len() / 2;
    let flat_of = |bytes: &[u8]| request::flat(&ExportTraceServiceRequest::decode(bytes).expect("a part is a request"));
    if let Some(pieces) = payload.cut(max_bytes, || OTHER) {
        assert!(pieces.iter().all(|piece| piece.bytes().len() <= max_bytes || piece.item_count() == 1));
        assert_eq!(pieces.iter().flat_map(|piece| flat_of(piece.bytes())).collect::<Vec<_>>(), all);
        let pieces: Vec<_> = pieces.iter().map(|piece| piece.bytes().clone()).collect();
        let merged = merge(&pieces, bytes.len());
        assert_eq!(merged.iter().flat_map(|one| flat_of(&one.bytes)).collect::<Vec<_>>(), all);
    }
    if let Some(separated) = payload.separate(max_bytes, || OTHER) {
        let parts = [separated.large, separated.small].into_iter().flatten();
        let count: usize = parts.map(|part| flat_of(part.bytes()).len()).sum();
        assert_eq!(count, all.len());
    }
}

/// In bytes with each field once, which the stock encoder has written, nothing is lost on the way through JSON.
fn means_the_same(tidy: &[u8], request: &ExportTraceServiceRequest) {
    let lines = to_lines(tidy, usize::MAX).expect("the stock encoder wrote it");
    let bytes: Vec<u8> = lines.iter().flat_map(|line| from_line(&line.text).expect("we wrote it").0.to_vec()).collect();
    let again = ExportTraceServiceRequest::decode(&bytes[..]).expect("we wrote it");
    assert_eq!(request::flat(&again), request::flat(request));
}

fn fits_into_lines(tidy: &[u8], request: &ExportTraceServiceRequest, limit: usize) {
    let mut spans = Vec::new();
    for line in to_lines(tidy, limit).expect("the stock encoder wrote it") {
        assert_eq!(line.oversized, line.text.len() > limit);
        assert!(line.items > 0 && !line.text.contains(&b'\n'));
        let (bytes, count) = from_line(&line.text).expect("we wrote it");
        assert_eq!(count, line.items);
        spans.extend(request::flat(&ExportTraceServiceRequest::decode(&bytes[..]).expect("we wrote it")));
    }
    assert_eq!(spans, request::flat(request));
}

/// Every value of the SDK's types survives our encoder. The order of the spans does not, where one scope stands twice.
fn encodes_again(spans: &[SpanData]) {
    let payload = Encoder::new(&Resource::builder_empty().build()).encode(ID, UNIX_EPOCH, spans);
    assert_eq!(payload.item_count(), spans.len());
    assert_eq!(count_spans(payload.bytes()), Ok(spans.len()));
    assert!(ExportTraceServiceRequest::decode(&payload.bytes()[..]).is_ok());
    let again = decode_all(payload.bytes()).expect("we wrote it");
    let text = |spans: &mut dyn Iterator<Item = &SpanData>| {
        let mut texts: Vec<String> = spans.map(|span| format!("{span:?}")).collect();
        texts.sort_unstable();
        texts
    };
    assert_eq!(text(&mut again.iter().flat_map(|one| &one.spans)), text(&mut spans.iter()));
}

const ID: BatchId = BatchId { incarnation: 7, seq: 1 };
const OTHER: BatchId = BatchId { incarnation: 7, seq: 2 };

/// A span of nothing is two bytes on the wire and an SDK type of some hundreds in memory; a field of two bytes may have
/// a name of 20 in JSON.
const PEAK_PER_BYTE: usize = 1_000;

/// Requests as the stock encoder writes them, torn and untidy ones.
pub(crate) fn seeds() -> Vec<Seed> {
    let mut seeds: Vec<Seed> = Vec::new();
    for (name, bytes) in request::samples() {
        if name == "rich" {
            seeds.push(("torn".to_owned(), bytes[..bytes.len() - 9].to_vec()));
        }
        seeds.push((name.to_owned(), bytes));
    }
    let field = |number: u8, content: &[u8]| [&[number << 3 | 2, content.len() as u8], content].concat();
    let inside = |span: &[u8]| field(1, &field(2, &field(2, span)));
    // flags, a name, an unknown field, the kind, another name.
    seeds.push(("untidy".to_owned(), inside(b"\x85\x01\x07\0\0\0\x2a\x05first\x9a\x06\x01x\x30\x03\x2a\x04last")));
    seeds.push(("not-utf-8".to_owned(), inside(b"\x2a\x03a\xffb")));
    seeds.push(("group".to_owned(), inside(b"\x9b\x06\x08\x01\x9c\x06")));
    seeds.push(("long-length".to_owned(), vec![0x0a, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x40]));
    seeds
}
