//! Bytes and lines that mean harm: an error or a result, never a panic, never more work than they are worth.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use otlp_payload::json::{JsonError, from_line, to_lines};
use otlp_payload::{BatchId, DecodeError, Payload, count_spans, decode_all, merge, resource_text, span_ids};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use prost::Message;
use std::time::UNIX_EPOCH;

use crate::encode::{ID, encode};
use crate::spans;

/// Replaces, inserts, removes or doubles bytes.
fn mutate(bytes: &mut Vec<u8>, changes: &[(Index, u8, u8)]) {
    for (place, change, byte) in changes {
        if bytes.is_empty() {
            return;
        }
        let at = place.index(bytes.len());
        match change % 4 {
            0 => bytes[at] = *byte,
            1 => bytes.insert(at, *byte),
            2 => bytes.truncate(at.max(1)),
            _ => {
                let end = bytes.len().min(at + usize::from(*byte));
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
        }
    }
}

/// All readers of protobuf agree on each request.
fn read_all(bytes: &[u8]) -> Result<(), TestCaseError> {
    let count = count_spans(bytes);
    let _ = resource_text(bytes, "service.name");
    let decoded = decode_all(bytes);
    let lines = to_lines(bytes, 1000);
    if let Ok(ids) = span_ids(bytes) {
        prop_assert_eq!(Ok(ids.len()), count);
    }
    if let Ok(decoded) = decoded {
        prop_assert_eq!(Ok(decoded.iter().map(|one| one.spans.len()).sum()), count);
    }
    if let Ok(lines) = lines {
        prop_assert_eq!(Ok(lines.iter().map(|line| line.items).sum()), count);
        for line in lines {
            let (bytes, spans) = from_line(&line.text).unwrap();
            prop_assert_eq!(spans, line.items);
            prop_assert!(ExportTraceServiceRequest::decode(bytes).is_ok());
        }
    }
    // A request that the usual reader of protobuf takes, we take.
    if let Ok(request) = ExportTraceServiceRequest::decode(bytes) {
        prop_assert!(decode_all(bytes).is_ok());
        prop_assert!(to_lines(bytes, 1000).is_ok());
        let spans = request.resource_spans.iter().flat_map(|all| &all.scope_spans).map(|all| all.spans.len()).sum();
        prop_assert_eq!(count, Ok(spans));
    }
    let payload = Payload::new(ID, UNIX_EPOCH, 2, bytes.to_vec().into());
    if let Some((left, right)) = payload.split(ID, BatchId { incarnation: 0, seq: 0 }) {
        prop_assert_eq!(left.item_count() + right.item_count(), count_spans(bytes).unwrap());
    }
    divide_and_merge(&payload)
}

/// Damaged bytes are neither divided nor merged; all others keep their spans.
fn divide_and_merge(payload: &Payload) -> Result<(), TestCaseError> {
    let count = count_spans(payload.bytes());
    let (pieces, separated) = (payload.cut(40, || ID), payload.separate(40, || ID));
    prop_assert!(count.is_ok() || (pieces.is_none() && separated.is_none()));
    if let Some(pieces) = pieces {
        prop_assert_eq!(Ok(pieces.iter().map(Payload::item_count).sum()), count);
    }
    let whole = payload.bytes().clone();
    let merged = merge(&[whole.clone(), whole.clone()], usize::MAX);
    prop_assert!(count.is_ok() || merged.len() == 2);
    for one in merged {
        let expected = count.map(|count| count * one.requests.len());
        prop_assert_eq!(count_spans(&one.bytes), expected);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn any_bytes(bytes in vec(any::<u8>(), 0..300)) {
        read_all(&bytes)?;
        let _ = from_line(&bytes);
    }

    #[test]
    fn any_text_of_json_signs(text in "[{}\\[\\]\":,\\\\ u0dresourceSpn1eE.-]{0,200}") {
        if let Ok((bytes, _)) = from_line(text.as_bytes()) {
            prop_assert!(ExportTraceServiceRequest::decode(bytes).is_ok());
        }
    }

    #[test]
    fn damaged_bytes(
        batch in vec(spans::span(), 1..3),
        resource in spans::resource(),
        changes in vec(any::<(Index, u8, u8)>(), 1..4),
    ) {
        let mut bytes = encode(&resource, &batch).bytes().to_vec();
        mutate(&mut bytes, &changes);
        read_all(&bytes)?;
    }

    #[test]
    fn damaged_lines(
        batch in vec(spans::span(), 1..3),
        resource in spans::resource(),
        changes in vec(any::<(Index, u8, u8)>(), 1..4),
    ) {
        let lines = to_lines(encode(&resource, &batch).bytes(), usize::MAX).unwrap();
        let mut line = lines[0].text.clone();
        mutate(&mut line, &changes);
        let parsed = serde_json::from_slice::<serde_json::Value>(&line);
        match from_line(&line) {
            Ok((bytes, count)) => {
                prop_assert_eq!(count_spans(&bytes), Ok(count));
                prop_assert!(ExportTraceServiceRequest::decode(bytes).is_ok());
                // Half a surrogate pair, and escapes in skipped fields, are all that we take and `serde_json` does
                // not.
                prop_assert!(parsed.is_ok() || line.contains(&b'\\'), "{:?}", parsed);
            }
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }
}

#[test]
fn a_line_torn_at_any_byte_is_cut_off_there() {
    let batch: Vec<_> = {
        use proptest::strategy::ValueTree;
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        (0..3).map(|_| spans::span().new_tree(&mut runner).expect("a span").current()).collect()
    };
    let payload = encode(&opentelemetry_sdk::Resource::builder_empty().with_service_name("torn").build(), &batch);
    let lines = to_lines(payload.bytes(), usize::MAX).unwrap();
    let line = &lines[0].text;
    for length in 0..line.len() {
        assert_eq!(from_line(&line[..length]), Err(JsonError::Truncated { offset: length }), "{length}");
    }
    for length in 1..payload.bytes().len() {
        assert!(count_spans(&payload.bytes()[..length]).is_err());
    }
}

/// A `KeyValue` whose value is a map of one `KeyValue`, and so on; `untidy` adds an unknown field behind each value.
fn nested(depth: usize, untidy: bool) -> Vec<u8> {
    let mut content: Vec<u8> = b"\x0a\x01k".to_vec();
    for _ in 0..depth {
        for (number, behind) in [(1_u8, &[][..]), (6, &[]), (2, if untidy { &b"\x78\x01\x0a\x01k"[..] } else { &[] })] {
            let mut message = vec![number << 3 | 2];
            prost::encoding::encode_varint(content.len() as u64, &mut message);
            message.append(&mut content);
            message.extend_from_slice(behind);
            content = message;
        }
    }
    for number in [9_u8, 2, 2, 1] {
        let mut message = vec![number << 3 | 2];
        prost::encoding::encode_varint(content.len() as u64, &mut message);
        message.append(&mut content);
        content = message;
    }
    content
}

#[test]
fn bytes_may_nest_as_deep_as_the_usual_readers_allow() {
    for depth in 0..60 {
        let bytes = nested(depth, false);
        let theirs = ExportTraceServiceRequest::decode(&bytes[..]).is_ok();
        assert_eq!(decode_all(&bytes).is_ok(), theirs, "{depth}");
        assert_eq!(to_lines(&bytes, usize::MAX).is_ok(), theirs, "{depth}");
    }
    assert!(matches!(decode_all(&nested(10_000, false)), Err(DecodeError::TooDeep { .. })));
    assert!(matches!(to_lines(&nested(10_000, false), usize::MAX), Err(DecodeError::TooDeep { .. })));
}

#[test]
fn untidiness_at_every_depth_does_not_multiply_the_work() {
    // Were each level done twice, this would take 2^90 steps.
    let bytes = nested(30, true);
    assert!(ExportTraceServiceRequest::decode(&bytes[..]).is_ok());
    assert_eq!(to_lines(&bytes, usize::MAX).unwrap().len(), 1);
}

#[test]
fn lines_may_nest_as_deep_as_the_bytes() {
    let line = |depth: usize| {
        let open = r#"{"arrayValue":{"values":["#.repeat(depth);
        let close = "]}}".repeat(depth);
        let start = r#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"attributes":[{"value":"#;
        format!("{start}{open}{{}}{close}}}]}}]}}]}}]}}")
    };
    for depth in 0..60 {
        match from_line(line(depth).as_bytes()) {
            Ok((bytes, _)) => assert!(ExportTraceServiceRequest::decode(bytes).is_ok(), "{depth}"),
            Err(error) => {
                assert!(depth > 45, "{depth}");
                assert!(matches!(error, JsonError::TooDeep { .. }), "{error}");
            }
        }
    }
    for sign in ["[", "{\"a\":", "{\"resourceSpans\":["] {
        assert!(from_line(sign.repeat(100_000).as_bytes()).is_err());
    }
}

#[test]
fn a_length_that_is_not_there_costs_nothing() {
    // 2^62 bytes are announced.
    let announced = [0x0a, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x40];
    assert_eq!(decode_all(&announced), Err(DecodeError::Truncated { offset: 0 }));
    assert_eq!(to_lines(&announced, usize::MAX), Err(DecodeError::Truncated { offset: 0 }));
}

#[test]
fn a_group_is_passed_over_as_an_unknown_field_is() {
    // Field 99 as a group, with a number, bytes and another group in it.
    let group = b"\x9b\x06\x08\x01\x12\x02\x9c\x06\x1b\x1c\x9c\x06";
    let name = b"\x2a\x01n";
    let field = |content: &[u8], number: u8| [&[number << 3 | 2, content.len() as u8], content].concat();
    let request = |span: &[u8]| [&field(&field(&field(span, 2), 2), 1), &group[..]].concat();
    let with = request(&[&group[..], name, group].concat());
    assert_eq!(ExportTraceServiceRequest::decode(&with[..]).map(|request| request.resource_spans.len()), Ok(1));
    assert_eq!(count_spans(&with), Ok(1));
    assert_eq!(to_lines(&with, usize::MAX), to_lines(&request(name), usize::MAX));
    assert_eq!(decode_all(&with).unwrap()[0].spans[0].name, "n");
    // Without its end, with another end, of a field that is no group, without end in depth.
    for (span, error) in [
        (&group[..8], DecodeError::Truncated { offset: 14 }),
        (b"\x9b\x06\x94\x06", DecodeError::Tag { offset: 8 }),
        (b"\x2b\x2c", DecodeError::WireType { offset: 6 }),
        (&b"\x1b".repeat(101), DecodeError::TooDeep { offset: 106 }),
    ] {
        let bytes = field(&field(&field(span, 2), 2), 1);
        assert!(ExportTraceServiceRequest::decode(&bytes[..]).is_err());
        assert_eq!(decode_all(&bytes), Err(error), "{span:x?}");
    }
}

#[test]
fn negative_enumerations_make_the_longest_bytes_a_twelfth_longer_than_the_line() {
    let spans = vec![r#"{"kind":-1}"#; 10_000].join(",");
    let line = format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{spans}]}}]}}]}}"#);
    let (bytes, count) = from_line(line.as_bytes()).unwrap();
    assert_eq!(count, 10_000);
    assert!(
        bytes.len() > line.len() && bytes.len() <= line.len() + line.len() / 12,
        "{} of {}",
        bytes.len(),
        line.len()
    );
}
