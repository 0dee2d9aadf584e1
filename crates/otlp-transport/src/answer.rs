//! The meaning of an answer: the table of the OTLP specification 1.11, as pure functions.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode, header};

use crate::outcome::{Cause, Outcome, RefusalKind};
use crate::wire::{ExportResponse, RpcStatus};

/// Longest text that is taken over from a peer, in characters.
const MAX_MESSAGE: usize = 512;
/// Stands behind a text that was longer.
pub(crate) const CUT: &str = "...";

/// The gRPC status codes of the table.
mod code {
    pub(super) const OK: i32 = 0;
    pub(super) const CANCELLED: i32 = 1;
    pub(super) const DEADLINE_EXCEEDED: i32 = 4;
    pub(super) const RESOURCE_EXHAUSTED: i32 = 8;
    pub(super) const ABORTED: i32 = 10;
    pub(super) const OUT_OF_RANGE: i32 = 11;
    pub(super) const UNAVAILABLE: i32 = 14;
    pub(super) const DATA_LOSS: i32 = 15;
}

/// The body of a success, for `spans` sent spans.
pub(crate) fn accepted(body: &[u8], spans: usize) -> Outcome {
    match ExportResponse::read(body) {
        Ok(ExportResponse { rejected, message }) => Outcome::Delivered {
            rejected: usize::try_from(rejected).unwrap_or(0).min(spans),
            message: Some(plain(&message)).filter(|message| !message.is_empty()),
        },
        Err(_) => unreadable(format!("{} bytes that are no ExportTraceServiceResponse", body.len())),
    }
}

/// A success whose body cannot be read: the batch may have been taken.
pub(crate) fn unreadable(detail: impl Into<String>) -> Outcome {
    Outcome::Retryable { after: None, cause: Cause::Unreadable(detail.into()), possible_duplicate: true }
}

/// A gRPC status that the peer sent, in headers or trailers. `body` is the message in front of it, if there was one.
pub(crate) fn grpc(fields: &HeaderMap, body: &[u8], spans: usize) -> Outcome {
    let Some(code) = fields.get("grpc-status") else {
        return unreadable("the answer ended without a grpc-status");
    };
    let Some(code) = code.to_str().ok().and_then(|text| text.parse::<u32>().ok()) else {
        return unreadable("grpc-status is not a number");
    };
    let code = i32::try_from(code).unwrap_or(i32::MAX);
    if code == code::OK {
        return accepted(body, spans);
    }
    let message = fields.get("grpc-message").map(|value| {
        let decoded: Vec<u8> = percent_encoding::percent_decode(value.as_bytes()).collect();
        plain(&String::from_utf8_lossy(&decoded))
    });
    let after = fields.get("grpc-status-details-bin").and_then(|value| {
        let status = crate::body::decode_base64(value.as_bytes())?;
        RpcStatus::read(&status).ok()?.retry_delay
    });
    grpc_status(code, message.unwrap_or_default(), after)
}

fn grpc_status(code: i32, message: String, after: Option<Duration>) -> Outcome {
    let about_size = matches!(code, code::RESOURCE_EXHAUSTED | code::OUT_OF_RANGE) && is_about_size(&message);
    let cause = Cause::Grpc { code, message };
    match code {
        _ if about_size => Outcome::TooLarge { cause, possible_duplicate: false },
        code::RESOURCE_EXHAUSTED if after.is_none() => {
            Outcome::Refused { kind: RefusalKind::Batch, cause, possible_duplicate: false }
        }
        code::CANCELLED
        | code::DEADLINE_EXCEEDED
        | code::RESOURCE_EXHAUSTED
        | code::ABORTED
        | code::OUT_OF_RANGE
        | code::UNAVAILABLE
        | code::DATA_LOSS => Outcome::Retryable { after, cause, possible_duplicate: false },
        _ => Outcome::Refused { kind: RefusalKind::Batch, cause, possible_duplicate: false },
    }
}

/// An HTTP status outside 2xx that the peer sent, with as much of its body as could be read.
pub(crate) fn http(status: StatusCode, headers: &HeaderMap, body: &[u8], now: SystemTime) -> Outcome {
    let message = http_message(headers, body);
    let about_size = is_about_size(&message);
    let cause = Cause::Http { status: status.as_u16(), message };
    match status.as_u16() {
        413 => Outcome::TooLarge { cause, possible_duplicate: false },
        // The OpenTelemetry Collector's answer to a body above its limit.
        400 if about_size => Outcome::TooLarge { cause, possible_duplicate: false },
        429 | 502 | 503 | 504 => {
            let after = headers.get(header::RETRY_AFTER).and_then(|value| retry_after(value.to_str().ok()?, now));
            Outcome::Retryable { after, cause, possible_duplicate: false }
        }
        _ => Outcome::Refused { kind: RefusalKind::Batch, cause, possible_duplicate: false },
    }
}

/// The message of a `google.rpc.Status`, or else the start of the body.
fn http_message(headers: &HeaderMap, body: &[u8]) -> String {
    let is_protobuf = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.to_ascii_lowercase().contains("protobuf"));
    match RpcStatus::read(body) {
        Ok(status) if is_protobuf => plain(&status.message),
        _ => plain(&String::from_utf8_lossy(body)),
    }
}

/// Seconds or an HTTP date (RFC 9110, section 10.2.3); a date in the past is no wait at all.
fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        return value.parse().ok().map(Duration::from_secs);
    }
    Some(httpdate::parse_http_date(value).ok()?.duration_since(now).unwrap_or_default())
}

/// Whether a refusal is about the size of this very message, and not about a rate or a quota: then smaller parts will
/// be taken. Covers the words of the gRPC libraries (Go, C++, Java, .NET, Node, tonic), of Go's HTTP server and of
/// Envoy.
fn is_about_size(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    let has = |part: &str| message.contains(part);
    // "rate" as a word: messages are decoded and generated too.
    let is_about_rate =
        message.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| matches!(word, "rate" | "queue"));
    if is_about_rate || has("quota") {
        return false;
    }
    let names_it = has("message") || has("body") || has("payload") || has("entity") || has("request");
    let says_so = has("larger than") || has("too large") || has("too big");
    let exceeds = has("exceed") && (has("size") || has("length"));
    names_it && (says_so || exceeds)
}

/// A peer's text made fit for a line of a log: no control characters, one line, bounded.
pub(crate) fn plain(text: &str) -> String {
    let mut words = String::new();
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()) {
        if !words.is_empty() {
            words.push(' ');
        }
        words.push_str(word);
        if words.len() > 4 * MAX_MESSAGE {
            break;
        }
    }
    match words.char_indices().nth(MAX_MESSAGE) {
        Some((end, _)) => format!("{}{CUT}", &words[..end]),
        None => words,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_of_a_peer_are_one_short_line() {
        assert_eq!(plain(" a\r\n\tb\u{1b}[0m\0c "), "a b [0m c");
        assert_eq!(plain(&"\u{e4}".repeat(MAX_MESSAGE)), "\u{e4}".repeat(MAX_MESSAGE));
        assert_eq!(plain(&"\u{e4}".repeat(1 << 20)), format!("{}...", "\u{e4}".repeat(MAX_MESSAGE)));
        assert_eq!(plain("\n \r"), "");
    }

    proptest! {
        /// Any answer has an outcome of a kind that its status allows, and a text that is fit for a log.
        #[test]
        fn any_answer_has_an_outcome(
            status in 100_u16..1000,
            code in ".{0,4}|[0-9]{1,3}",
            hint in ".{0,40}|[0-9]{1,25}",
            message in prop::collection::vec(any::<u8>(), 0..80),
            body in prop::collection::vec(any::<u8>(), 0..200),
            spans in 0_usize..5,
        ) {
            let status = StatusCode::from_u16(status).expect("in range");
            let mut fields = HeaderMap::new();
            for (name, value) in [
                ("retry-after", hint.as_bytes()),
                ("grpc-status", code.as_bytes()),
                ("grpc-message", &message),
                ("grpc-status-details-bin", &body),
                ("content-type", &b"application/x-protobuf"[..]),
            ] {
                if let Ok(value) = HeaderValue::from_bytes(value) {
                    fields.insert(name, value);
                }
            }
            for outcome in [http(status, &fields, &body, SystemTime::UNIX_EPOCH), grpc(&fields, &body, spans)] {
                if let Outcome::Delivered { rejected, .. } = outcome {
                    prop_assert!(rejected <= spans);
                }
                let text = outcome.cause().map(ToString::to_string).unwrap_or_default();
                prop_assert!(!text.contains(char::is_control), "{text:?}");
            }
            if !matches!(status.as_u16(), 429 | 502..=504) {
                let outcome = http(status, &fields, &body, SystemTime::UNIX_EPOCH);
                let is_final = matches!(outcome, Outcome::TooLarge { .. } | Outcome::Refused { .. });
                prop_assert!(is_final, "{outcome:?}");
            }
        }
    }
}
