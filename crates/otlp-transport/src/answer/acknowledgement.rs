//! Answers with a status of success: readable acknowledgements, pages of HTML, anything else.

use http::{HeaderMap, header};
use serde_json::Value;

use super::plain;
use crate::body;
use crate::outcome::{Cause, Outcome, RefusalKind};
use crate::secrets::CUT;
use crate::wire::ExportResponse;

/// The largest JSON answer that is read: its values take many times its bytes in memory.
const MAX_JSON: usize = 256 << 10;
/// The most of a body that a cause shows, in characters.
const MAX_SHOWN: usize = 120;

/// An acknowledgement over HTTP. Without a `fault` the body is whole; decoded, it has at most `max` bytes.
pub(super) fn http(
    status: u16,
    headers: &HeaderMap,
    body: &[u8],
    fault: Option<String>,
    max: usize,
    spans: usize,
) -> Outcome {
    let (body, fault) = match fault {
        Some(fault) => (body::decode_start(headers, body), Some(fault)),
        None => match body::decode(headers, body, max) {
            Ok(body) => (body, None),
            Err(fault) => (Vec::new(), Some(fault)),
        },
    };
    if fault.is_none()
        && let Some(response) = read(&content_type(headers), &body)
    {
        return delivered(response, spans);
    }
    let shown = shown(headers, &body, fault.is_some());
    let shown = format!("{shown}{}", fault.map(|fault| format!("; {}", plain(&fault))).unwrap_or_default());
    if is_page(headers) || starts_as_page(&body) {
        let message = shown.trim_start_matches([',', ' ']).to_owned();
        let (kind, cause) = (RefusalKind::Sender, Cause::Http { status, message });
        return Outcome::Refused { kind, cause, possible_duplicate: true };
    }
    Outcome::AcknowledgedUnreadably { cause: Cause::Unexpected(format!("HTTP status {status}{shown}")) }
}

/// The message of a gRPC call that succeeded.
pub(super) fn grpc(message: &[u8], spans: usize) -> Outcome {
    match ExportResponse::read(message) {
        Ok(response) => delivered(response, spans),
        Err(_) => super::unreadable_grpc(&format!("{} bytes that are no ExportTraceServiceResponse", message.len())),
    }
}

fn delivered(ExportResponse { rejected, message }: ExportResponse, spans: usize) -> Outcome {
    Outcome::Delivered {
        rejected: usize::try_from(rejected).unwrap_or(0).min(spans),
        message: Some(plain(&message)).filter(|message| !message.is_empty()),
    }
}

/// The whole texts by which vendors acknowledge: Aliyun's.
const WORDS_OF_VENDORS: [&[u8]; 1] = [b"success"];

/// The acknowledgement in a whole body, if there is one.
fn read(content_type: &str, body: &[u8]) -> Option<ExportResponse> {
    if body.is_empty() {
        return Some(ExportResponse::default());
    }
    // Before protobuf: a body that begins with a brace is no message. A message of 123 bytes can begin like a line feed
    // and a brace, and is no JSON.
    let text = trimmed(body);
    if text.first() == Some(&b'{')
        && let Some(response) = read_json(text)
    {
        return Some(response);
    }
    if content_type.contains("protobuf") {
        return ExportResponse::read(body).ok();
    }
    if content_type == "text/plain" && WORDS_OF_VENDORS.contains(&text) {
        return Some(ExportResponse::default());
    }
    // Words of a text can be read as fields that a later version may have, so only the known field counts.
    let is_text = content_type.starts_with("text/") || content_type.contains("json") || content_type.contains("xml");
    if is_text { None } else { ExportResponse::read_known(body).ok() }
}

/// OTLP/JSON, and the same with the names of the protobuf file, as some servers write it. An object without any
/// acknowledgement in it, such as `{"error": ..}`, is none.
fn read_json(text: &[u8]) -> Option<ExportResponse> {
    if text.len() > MAX_JSON {
        return None;
    }
    // serde_json stops at a depth of 128.
    let value: Value = serde_json::from_str(&String::from_utf8_lossy(text)).ok()?;
    let object = value.as_object()?;
    if object.is_empty() {
        return Some(ExportResponse::default());
    }
    let partial = match object.get("partialSuccess").or_else(|| object.get("partial_success"))? {
        Value::Null => return Some(ExportResponse::default()),
        partial => partial.as_object()?,
    };
    let field = |name: &str, alias: &str| partial.get(name).or_else(|| partial.get(alias)).filter(|v| !v.is_null());
    // One of them, by the signal of the request.
    let rejected = field("rejectedSpans", "rejected_spans")
        .or_else(|| field("rejectedLogRecords", "rejected_log_records"))
        .or_else(|| field("rejectedDataPoints", "rejected_data_points"));
    let rejected = rejected.map_or(Some(0), count)?;
    let message = match field("errorMessage", "error_message") {
        None => String::new(),
        Some(Value::String(message)) => message.clone(),
        Some(other) => other.to_string(),
    };
    Some(ExportResponse { rejected, message })
}

/// A 64-bit integer of proto3 JSON, as a number or as a string; one beyond the range is clamped later anyway.
fn count(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64().or_else(|| number.as_f64().map(|number| number as i64)),
        Value::String(text) => {
            let text = text.trim();
            text.parse().ok().or_else(|| text.parse::<f64>().ok().filter(|n| !n.is_nan()).map(|n| n as i64))
        }
        _ => None,
    }
}

/// Without white space around it and without a byte order mark.
fn trimmed(body: &[u8]) -> &[u8] {
    body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body).trim_ascii()
}

/// The media type of an answer, in lower case, without its parameters.
pub(crate) fn content_type(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()));
    value.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Whether an answer says that it is a page of HTML: a web application answers so to any request.
pub(crate) fn is_page(headers: &HeaderMap) -> bool {
    matches!(content_type(headers).as_str(), "text/html" | "application/xhtml+xml")
}

fn starts_as_page(body: &[u8]) -> bool {
    let body = trimmed(body);
    ["<!doctype html", "<html"]
        .iter()
        .any(|start| body.get(..start.len()).is_some_and(|body| body.eq_ignore_ascii_case(start.as_bytes())))
}

/// Content type and start of an answer, for a cause. `is_cut`: the body ended early.
pub(super) fn shown(headers: &HeaderMap, body: &[u8], is_cut: bool) -> String {
    let content_type = plain(&content_type(headers));
    let content_type =
        if content_type.is_empty() { ", no content type".to_owned() } else { format!(", {content_type}") };
    if body.is_empty() {
        return content_type;
    }
    // Four bytes a character at most.
    let (start, is_cut) = body.get(..4 * MAX_SHOWN).map_or((body, is_cut), |start| (start, true));
    let mark = if is_cut { CUT } else { "" };
    let start = super::one_line(&format!("{}{mark}", String::from_utf8_lossy(start)), MAX_SHOWN);
    format!("{content_type} \"{start}\"")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn json(text: &str) -> Option<(i64, String)> {
        read("application/json", text.as_bytes()).map(|response| (response.rejected, response.message))
    }

    #[test]
    fn json_is_read_in_both_spellings_and_leniently() {
        let ok = |rejected, message: &str| Some((rejected, message.to_owned()));
        for (text, expected) in [
            ("{}", ok(0, "")),
            (" \r\n{ }\n", ok(0, "")),
            ("\u{feff}{}", ok(0, "")),
            (r#"{"partialSuccess":{}}"#, ok(0, "")),
            (r#"{"partialSuccess":null}"#, ok(0, "")),
            (r#"{"partial_success":null}"#, ok(0, "")),
            (r#"{"partialSuccess":{"rejectedSpans":"2","errorMessage":"too old"}}"#, ok(2, "too old")),
            (r#"{"partialSuccess":{"rejectedSpans":2,"errorMessage":null}}"#, ok(2, "")),
            (r#"{"partial_success":{"rejected_spans":2,"error_message":"too old"}}"#, ok(2, "too old")),
            (r#"{"partialSuccess":{"rejected_spans":" 2 "},"took":{"ms":[1,2]}}"#, ok(2, "")),
            (r#"{"took":3,"partialSuccess":{"rejectedSpans":2.0,"more":[{}]}}"#, ok(2, "")),
            (r#"{"partialSuccess":{"rejectedSpans":"1e1"}}"#, ok(10, "")),
            (r#"{"partialSuccess":{"rejectedSpans":99999999999999999999}}"#, ok(i64::MAX, "")),
            (r#"{"partialSuccess":{"rejectedSpans":-1}}"#, ok(-1, "")),
            (r#"{"partialSuccess":{"errorMessage":{"code":7}}}"#, ok(0, r#"{"code":7}"#)),
            // No acknowledgement of OTLP.
            (r#"{"error":"no such project"}"#, None),
            (r#"{"status":"ok"}"#, None),
            (r#"{"partialSuccess":[]}"#, None),
            (r#"{"partialSuccess":true}"#, None),
            (r#"{"partialSuccess":{"rejectedSpans":"all"}}"#, None),
            (r#"{"partialSuccess":{"rejectedSpans":"NaN"}}"#, None),
            (r#"{"partialSuccess":{"rejectedSpans":[2]}}"#, None),
            ("[]", None),
            ("[{}]", None),
            ("null", None),
            ("\"success\"", None),
            ("{", None),
            ("{}{}", None),
            (r#"{"partialSuccess":{"rejectedSpans":"#, None),
        ] {
            assert_eq!(json(text), expected, "{text}");
        }
        let deep = format!("{{\"partialSuccess\":{{}},\"x\":{}", "[".repeat(100_000));
        assert_eq!(json(&deep), None);
        let long = format!("{{\"x\":\"{}\",\"partialSuccess\":{{}}}}", "x".repeat(MAX_JSON));
        assert_eq!(json(&long), None);
    }

    #[test]
    fn a_message_that_begins_like_json_is_a_message() {
        // A partial success of 123 bytes: a line feed and a brace.
        let mut message = vec![0x0a, 123, 0x08, 1, 0x12, 119];
        message.extend([b'x'; 119]);
        assert_eq!(read("application/x-protobuf", &message).map(|response| response.rejected), Some(1));
        assert_eq!(read("", &message).map(|response| response.rejected), Some(1));
    }

    #[test]
    fn words_are_no_message() {
        // Each is an unknown field of eight bytes.
        for text in ["accepted\n", "ack: 1234", "in queue."] {
            assert!(ExportResponse::read(text.as_bytes()).is_ok(), "{text}");
            for content_type in ["", "text/plain", "application/octet-stream", "application/json"] {
                assert_eq!(read(content_type, text.as_bytes()), None, "{content_type} {text}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_json_is_read_without_harm(text in "[{}\\[\\]\":,0-9a-z ]{0,60}") {
            let _ = json(&format!("{{\"partialSuccess\":{{\"rejectedSpans\":{text}}}}}"));
            let _ = json(&text);
        }
    }
}
