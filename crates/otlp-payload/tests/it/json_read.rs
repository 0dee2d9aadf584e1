//! OTLP JSON as others write it.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as ProtoValue;
use opentelemetry_proto::tonic::trace::v1::Span;
use otlp_payload::Signal;
use otlp_payload::json::{JsonError, from_line, from_line_within, to_lines};
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;
use serde_json::Value;

use crate::encode::encode;
use crate::spans;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// `serde_json` sorts the keys by the alphabet, and the pretty form is full of white space.
    #[test]
    fn neither_order_nor_white_space_matters(resource in spans::resource(), batch in vec(spans::span(), 1..5)) {
        let payload = encode(&resource, &batch);
        let lines = to_lines(payload.bytes(), usize::MAX).unwrap();
        let value: Value = serde_json::from_slice(&lines[0].text).unwrap();
        for text in [serde_json::to_vec(&value).unwrap(), serde_json::to_vec_pretty(&value).unwrap()] {
            let (bytes, count) = from_line(&text).unwrap();
            prop_assert_eq!(count, batch.len());
            prop_assert_eq!(&bytes[..], &payload.bytes()[..]);
        }
    }

    #[test]
    fn every_double_is_exact(value in spans::double()) {
        let text = if value.is_finite() { format!("{value:e}") } else { "\"NaN\"".to_owned() };
        let read = value_of(&format!("{{\"doubleValue\":{text}}}")).unwrap();
        let expected = if value.is_finite() { value } else { f64::NAN };
        prop_assert!(matches!(read, Some(ProtoValue::DoubleValue(double)) if double.to_bits() == expected.to_bits()));
    }
}

fn read(line: &str) -> Result<ExportTraceServiceRequest, JsonError> {
    let (bytes, count) = from_line(line.as_bytes())?;
    let request = ExportTraceServiceRequest::decode(bytes).expect("what is read is protobuf");
    let spans =
        request.resource_spans.iter().flat_map(|all| &all.scope_spans).map(|all| all.spans.len()).sum::<usize>();
    assert_eq!(count, spans);
    Ok(request)
}

/// The span in a line that has no other.
fn span(json: &str) -> Result<Span, JsonError> {
    let request = read(&format!("{START}{json}{END}"))?;
    Ok(request.resource_spans[0].scope_spans[0].spans[0].clone())
}

const START: &str = r#"{"resourceSpans":[{"scopeSpans":[{"spans":["#;
const END: &str = "]}]}]}";

fn value_of(json: &str) -> Result<Option<ProtoValue>, JsonError> {
    let span = span(&format!("{{\"attributes\":[{{\"key\":\"k\",\"value\":{json}}}]}}"))?;
    Ok(span.attributes[0].value.clone().and_then(|any| any.value))
}

#[test]
fn keys_are_taken_in_both_spellings_and_with_escapes() {
    let expected = Span { trace_id: vec![0xab, 0xcd], start_time_unix_nano: 5, kind: 1, ..Default::default() };
    assert_eq!(span(r#"{"traceId":"abcd","startTimeUnixNano":"5","kind":1}"#), Ok(expected.clone()));
    assert_eq!(span(r#"{"trace_id":"ABcd","start_time_unix_nano":5,"kind":"1"}"#), Ok(expected.clone()));
    assert_eq!(
        span(r#"{ "\u0074raceId" : "abCD" , "startTimeUnixNano" : 5e0,"kind":"SPAN_KIND_INTERNAL"}"#),
        Ok(expected)
    );
}

#[test]
fn null_is_absent_and_unknown_fields_are_skipped() {
    let json = r#"{"traceId":null,"attributes":null,"status":null,"kind":null,"new":{"a":[1,{"b":"c\"}"},null,true,-1.5e7]},
        "name":"n","events":[],"another":"x"}"#;
    assert_eq!(span(json), Ok(Span { name: "n".to_owned(), ..Default::default() }));
    let line =
        r#"{"resourceSpans":[{"resource":null,"scopeSpans":[{"scope":null,"spans":[{}],"new":1}]}],"more":[[]]}"#;
    assert_eq!(read(line).unwrap().resource_spans[0].scope_spans[0].spans, [Span::default()]);
}

#[test]
fn null_and_then_a_value_is_not_twice() {
    assert_eq!(span(r#"{"name":null,"name":"n"}"#).unwrap().name, "n");
}

#[test]
fn integers_are_taken_in_every_notation() {
    for (text, value) in [
        ("\"-9223372036854775808\"", i64::MIN),
        ("9223372036854775807", i64::MAX),
        ("-0", 0),
        ("1.0", 1),
        ("\"1e3\"", 1000),
        ("12.5e1", 125),
        ("\"-12\"", -12),
    ] {
        assert_eq!(value_of(&format!("{{\"intValue\":{text}}}")), Ok(Some(ProtoValue::IntValue(value))), "{text}");
    }
    for text in ["9223372036854775808", "1.5", "\"\"", "\" 1\"", "\"0x1\"", "\"01\"", "true", "{}", "\"1e99\""] {
        let error = value_of(&format!("{{\"intValue\":{text}}}")).unwrap_err();
        assert!(matches!(error, JsonError::Value { expected: "a 64-bit integer", .. }), "{text}: {error}");
    }
}

#[test]
fn numbers_out_of_the_range_of_their_field_are_errors() {
    for (field, text) in [
        ("flags", "4294967296"),
        ("flags", "-1"),
        ("droppedEventsCount", "\"4294967296\""),
        ("startTimeUnixNano", "18446744073709551616"),
        ("startTimeUnixNano", "-1"),
        ("kind", "2147483648"),
        ("kind", "\"SPAN_KIND_FUTURE\""),
    ] {
        let error = span(&format!("{{\"{field}\":{text}}}")).unwrap_err();
        let offset = START.len() + field.len() + 4;
        assert!(matches!(error, JsonError::Value { offset: at, .. } if at == offset), "{field} {text}: {error:?}");
    }
    assert_eq!(span(r#"{"kind":-1}"#).unwrap().kind, -1);
    assert_eq!(span(r#"{"flags":"4294967295"}"#).unwrap().flags, u32::MAX);
}

#[test]
fn doubles_have_their_names_and_their_range() {
    let double = |text: &str| value_of(&format!("{{\"doubleValue\":{text}}}"));
    assert_eq!(double("\"Infinity\""), Ok(Some(ProtoValue::DoubleValue(f64::INFINITY))));
    assert_eq!(double("\"-Infinity\""), Ok(Some(ProtoValue::DoubleValue(f64::NEG_INFINITY))));
    assert_eq!(double("\"-1.5\""), Ok(Some(ProtoValue::DoubleValue(-1.5))));
    assert_eq!(double("3"), Ok(Some(ProtoValue::DoubleValue(3.0))));
    for text in ["1e400", "\"inf\"", "\"nan\"", "\"\"", "true"] {
        assert!(matches!(double(text), Err(JsonError::Value { expected: "a double", .. })), "{text}");
    }
    assert!(matches!(double("NaN"), Err(JsonError::Syntax { .. })));
}

#[test]
fn ids_are_hex_of_any_case_and_any_length_of_pairs() {
    assert_eq!(span(r#"{"traceId":"aAbB","spanId":""}"#).unwrap().trace_id, [0xaa, 0xbb]);
    for text in ["a", "abc", "zz", "0x12", "é0"] {
        let error = span(&format!("{{\"traceId\":\"{text}\"}}")).unwrap_err();
        assert!(matches!(error, JsonError::Value { expected: "hex digits in pairs", .. }), "{text}");
    }
}

#[test]
fn bytes_are_base64_of_either_alphabet_with_or_without_padding() {
    let bytes = |text: &str| value_of(&format!("{{\"bytesValue\":\"{text}\"}}"));
    for text in ["+/8=", "-_8=", "+/8", "-_8", "+\\/8="] {
        assert_eq!(bytes(text), Ok(Some(ProtoValue::BytesValue(vec![0xfb, 0xff]))), "{text}");
    }
    assert_eq!(bytes(""), Ok(Some(ProtoValue::BytesValue(vec![]))));
    for text in ["a", "a===", "ab=", "ab=c", "a b=", "AAAB=", "+/9="] {
        assert!(matches!(bytes(text), Err(JsonError::Value { expected: "base64", .. })), "{text}");
    }
}

#[test]
fn values_may_be_of_no_kind_but_not_of_two() {
    assert_eq!(value_of("{}"), Ok(None));
    assert_eq!(value_of("null"), Ok(None));
    assert_eq!(value_of(r#"{"stringValue":null,"boolValue":false}"#), Ok(Some(ProtoValue::BoolValue(false))));
    assert!(matches!(value_of(r#"{"stringValue":"a","boolValue":false}"#), Err(JsonError::Duplicate { .. })));
    let Ok(Some(ProtoValue::ArrayValue(array))) = value_of(r#"{"arrayValue":{"values":[null,{"intValue":"0"}]}}"#)
    else {
        panic!("an array")
    };
    let kinds: Vec<_> = array.values.into_iter().map(|any| any.value).collect();
    assert_eq!(kinds, [None, Some(ProtoValue::IntValue(0))]);
}

#[test]
fn a_field_twice_is_an_error_at_its_second_key() {
    let json = r#"{"name":"a","kind":1,"name":"b"}"#;
    let offset = START.len() + json.rfind("\"name\"").unwrap();
    assert_eq!(span(json), Err(JsonError::Duplicate { offset }));
    assert!(matches!(span(r#"{"traceId":"","trace_id":""}"#), Err(JsonError::Duplicate { .. })));
}

#[test]
fn errors_say_where_and_what() {
    let cases: [(&[u8], JsonError); 12] = [
        (b"", JsonError::Truncated { offset: 0 }),
        (b"{", JsonError::Truncated { offset: 1 }),
        (b"[]", JsonError::Value { offset: 0, expected: "an object" }),
        (b"hello", JsonError::Syntax { offset: 0, expected: "an object" }),
        (b"{}x", JsonError::Syntax { offset: 2, expected: "the end of the line" }),
        (b"{\"resourceSpans\":{}}", JsonError::Value { offset: 17, expected: "an array" }),
        (b"{\"resourceSpans\":[1]}", JsonError::Value { offset: 18, expected: "an object" }),
        (b"{\"resourceSpans\":[null]}", JsonError::Value { offset: 18, expected: "an object" }),
        (b"{\"resourceSpans\" []}", JsonError::Syntax { offset: 17, expected: "a colon" }),
        (b"{\"a\":\"\xff\"}", JsonError::Utf8 { offset: 6 }),
        (b"{\"a\":\"\xe2\x82", JsonError::Truncated { offset: 8 }),
        (b"{\"resourceLogs\":[]}", JsonError::NoItems { signal: Signal::Traces }),
    ];
    for (line, expected) in cases {
        assert_eq!(from_line(line), Err(expected), "{}", String::from_utf8_lossy(line));
    }
    let error = JsonError::Value { offset: 18, expected: "an object" };
    assert_eq!(error.to_string(), "line has no valid value at byte 18, expected an object");
}

#[test]
fn an_empty_object_is_an_empty_request() {
    assert_eq!(from_line(b" {} \r"), Ok((Vec::new().into(), 0)));
    assert_eq!(from_line(b"{\"resourceSpans\":[]}").map(|(_, spans)| spans), Ok(0));
}

#[test]
fn a_line_over_the_limit_is_not_looked_at() {
    assert_eq!(from_line_within(b"{} ", 2), Err(JsonError::TooLong { length: 3, limit: 2 }));
    assert!(from_line_within(b"{}", 2).is_ok());
}

#[test]
fn strings_keep_every_character_and_mend_half_surrogates() {
    let json = r#"{"name":"\u0000\u001f\"\\\/\b\f\n\r\t\ud83d\ude00 é \ud800"}"#;
    assert_eq!(span(json).unwrap().name, "\0\u{1f}\"\\/\u{8}\u{c}\n\r\t\u{1f600} é \u{fffd}");
}

#[test]
fn a_line_of_resources_without_a_span_is_no_empty_request() {
    for empty in ["{}", r#"{"resourceSpans":[]}"#, r#"{"resourceSpans":null,"other":[1]}"#] {
        assert_eq!(from_line(empty.as_bytes()).map(|(bytes, spans)| (bytes.len(), spans)), Ok((0, 0)), "{empty}");
    }
    for line in [
        r#"{"resourceSpans":[{}]}"#,
        r#"{"resource_spans":[{"instrumentationLibrarySpans":[{"spans":[{}]}]}]}"#,
        r#"{"resourceSpans":[{"scopeSpans":[{"span":[{}]}]}]}"#,
    ] {
        let (bytes, spans) = from_line(line.as_bytes()).expect("JSON");
        assert!(spans == 0 && !bytes.is_empty(), "{line}");
    }
}
