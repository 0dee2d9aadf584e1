//! OTLP JSON, read: any bytes.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use otlp_payload::json::{JsonError, from_line, to_lines};
use otlp_payload::{count_spans, decode_all};
use prost::Message as _;

use crate::files::contains;
use crate::{Seed, memory, request};

/// An accepted line is a request to every reader of protobuf, has the meaning that an independent reader of JSON finds,
/// and survives writing and reading; a refused line has an error with a place in the line; memory is bounded by the
/// line.
pub(crate) fn check(line: &[u8]) {
    let read = memory::within(PEAK_PER_BYTE * line.len(), "a line", || from_line(line));
    match read {
        Ok((bytes, spans)) => {
            // A negative enumeration, `{"kind":-1},`, is the one thing that takes more: 13 bytes for 12.
            assert!(bytes.len() <= line.len() + line.len() / 12, "{} bytes from a line of {}", bytes.len(), line.len());
            assert_eq!(count_spans(&bytes), Ok(spans));
            let decoded = decode_all(&bytes).expect("our own decoder reads what we wrote");
            assert_eq!(decoded.iter().map(|one| one.spans.len()).sum::<usize>(), spans);
            let request = ExportTraceServiceRequest::decode(&bytes[..]).expect("the stock decoder reads it too");
            assert_eq!(request::spans(&request).count(), spans);
            comes_back(&bytes, &request);
            means_the_same_in_another_order(line, &bytes);
            is_cut_off_anywhere(line);
        }
        Err(error) => has_its_place(line, error),
    }
}

/// Written and read again it is the same, byte for byte, but for scopes and resources without spans, which have no
/// line.
fn comes_back(bytes: &[u8], request: &ExportTraceServiceRequest) {
    let lines = to_lines(bytes, usize::MAX).expect("we wrote it");
    let mut again = Vec::new();
    for line in &lines {
        assert!(!line.oversized && !line.text.contains(&b'\n'));
        let (bytes, spans) = from_line(&line.text).expect("we wrote it");
        assert_eq!(spans, line.items);
        again.extend_from_slice(&bytes);
    }
    let all_have_spans = request.resource_spans.iter().all(|resource| {
        !resource.scope_spans.is_empty() && resource.scope_spans.iter().all(|scope| !scope.spans.is_empty())
    });
    if all_have_spans {
        assert_eq!(again, bytes);
    } else {
        let again = ExportTraceServiceRequest::decode(&again[..]).expect("we wrote it");
        assert_eq!(request::flat(&again), request::flat(request));
    }
    assert_eq!(to_lines(&again, usize::MAX).as_ref(), Ok(&lines), "the text is a fixed point");
}

/// `serde_json` reads it too, and writes it with its keys sorted and its escapes its own way.
fn means_the_same_in_another_order(line: &[u8], bytes: &[u8]) {
    let value: serde_json::Value = match serde_json::from_slice(line) {
        Ok(value) => value,
        Err(error) => {
            // Half a surrogate pair, escapes in skipped values, and nesting deeper than 128 brackets.
            let known = line.contains(&b'\\') || error.to_string().contains("recursion limit");
            assert!(known, "taken, and no JSON: {error}");
            return;
        }
    };
    // A key may stand twice if one is null, and then the order counts; and `serde_json` stores numbers under this key.
    if [&b"null"[..], b"$serde_json"].iter().any(|part| contains(line, part)) {
        return;
    }
    let sorted = serde_json::to_vec(&value).expect("it was JSON");
    let again = from_line(&sorted).map(|(bytes, _)| bytes);
    assert_eq!(again.as_deref(), Ok(bytes), "as {}", String::from_utf8_lossy(&sorted));
}

/// A torn write is distinguished from other errors, at any byte.
fn is_cut_off_anywhere(line: &[u8]) {
    let whole = line.trim_ascii_end().len();
    // Not at each byte: that would be quadratic.
    let places = (0..whole).step_by(whole / 16 + 1);
    for length in places.chain(whole.checked_sub(1)) {
        let torn = &line[..length];
        let error = from_line(torn).expect_err("a part of an object is no object");
        // Half a number may be another number, which its field cannot have.
        let number = torn.last().is_some_and(|byte| byte.is_ascii_digit());
        let expected = JsonError::Truncated { offset: length };
        assert!(error == expected || (number && matches!(error, JsonError::Value { .. })), "{error:?} at {length}");
    }
}

fn has_its_place(line: &[u8], error: JsonError) {
    assert!(!error.to_string().is_empty());
    match error {
        JsonError::Truncated { offset } => assert_eq!(offset, line.len()),
        JsonError::Utf8 { offset }
        | JsonError::Syntax { offset, .. }
        | JsonError::Value { offset, .. }
        | JsonError::Duplicate { offset }
        | JsonError::TooDeep { offset } => assert!(offset <= line.len(), "{error:?}"),
        _ => {}
    }
}

/// The result, once more while it grows, and the parts that are moved to their place.
const PEAK_PER_BYTE: usize = 5;

/// Lines as we write them, as others do, and torn ones.
pub(crate) fn seeds() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for (name, bytes) in request::samples() {
        for (index, line) in to_lines(&bytes, usize::MAX).expect("a request").into_iter().enumerate() {
            if name == "rich" {
                seeds.push(("torn".to_owned(), line.text[..line.text.len() / 2].to_vec()));
                let value: serde_json::Value = serde_json::from_slice(&line.text).expect("we write JSON");
                seeds.push(("sorted".to_owned(), serde_json::to_vec(&value).expect("it was JSON")));
                seeds.push(("pretty".to_owned(), serde_json::to_vec_pretty(&value).expect("it was JSON")));
            }
            seeds.push((format!("{name}-{index}"), line.text));
        }
    }
    let foreign: [(&str, &str); 6] = [
        ("empty-object", " {} "),
        ("another-signal", r#"{"resourceLogs":[]}"#),
        (
            "snake-case",
            r#"{"resource_spans":[{"scope_spans":[{"spans":[{"trace_id":"ABcd","start_time_unix_nano":5e0,"kind":"SPAN_KIND_CLIENT"}]}]}]}"#,
        ),
        (
            "nulls-and-news",
            r#"{"resourceSpans":[{"resource":null,"scopeSpans":[{"spans":[{"name":null,"name":"n","new":{"a":[1,{"b":"c\"}"},null,true,-1.5e7]},"attributes":[{"key":"k","value":null}]}]}]}]}"#,
        ),
        (
            "numbers",
            r#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"flags":"4294967295","startTimeUnixNano":1.5e1,"attributes":[{"value":{"intValue":"-9223372036854775808"}},{"value":{"doubleValue":"-Infinity"}},{"value":{"doubleValue":3}}]}]}]}]}"#,
        ),
        (
            "escapes",
            r#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"\u006eame":"\u0000\u001f\"\\\/\b\f\n\r\t\ud83d\ude00 \ud800","attributes":[{"key":"b","value":{"bytesValue":"-_8"}},{"key":"s","value":{"bytesValue":"+\/8="}}]}]}]}]}"#,
        ),
    ];
    seeds.extend(foreign.map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec())));
    seeds
}
