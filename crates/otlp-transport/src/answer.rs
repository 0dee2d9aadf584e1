//! The meaning of an answer: the tables of `docs/otlp.md`, as pure functions.

mod acknowledgement;
mod tls_words;

use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode, header};

use crate::body;
use crate::outcome::{Cause, Outcome, RefusalKind};
use crate::secrets::{CUT, without_query};
use crate::size;
use crate::wire::RpcStatus;

pub(crate) use acknowledgement::{content_type, is_page};

/// Longest text that is taken over from a peer, in characters.
const MAX_MESSAGE: usize = 512;
/// Longest text that is searched for words about a size, in characters: those of a page of HTML stand in its title.
const MAX_SEARCHED: usize = 4_096;

/// The gRPC status codes of the table.
mod code {
    pub(super) const OK: i32 = 0;
    pub(super) const CANCELLED: i32 = 1;
    pub(super) const INVALID_ARGUMENT: i32 = 3;
    pub(super) const DEADLINE_EXCEEDED: i32 = 4;
    pub(super) const NOT_FOUND: i32 = 5;
    pub(super) const ALREADY_EXISTS: i32 = 6;
    pub(super) const PERMISSION_DENIED: i32 = 7;
    pub(super) const RESOURCE_EXHAUSTED: i32 = 8;
    pub(super) const FAILED_PRECONDITION: i32 = 9;
    pub(super) const ABORTED: i32 = 10;
    pub(super) const OUT_OF_RANGE: i32 = 11;
    pub(super) const UNIMPLEMENTED: i32 = 12;
    pub(super) const UNAVAILABLE: i32 = 14;
    pub(super) const DATA_LOSS: i32 = 15;
    pub(super) const UNAUTHENTICATED: i32 = 16;
}

/// The outcome of a failure by its status alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Retry,
    TooLarge,
    Refuse(RefusalKind),
}

fn http_verdict(status: u16) -> Verdict {
    match status {
        413 => Verdict::TooLarge,
        429 | 502..=504 => Verdict::Retry,
        400 | 422 => Verdict::Refuse(RefusalKind::Batch),
        300..=399 | 401..=405 | 407 | 410 | 415 | 421 | 426 | 431 | 464 => Verdict::Refuse(RefusalKind::Sender),
        _ => Verdict::Refuse(RefusalKind::Unclear),
    }
}

/// Whether a server that answers so took nothing of the request.
fn http_took_nothing(status: u16) -> bool {
    matches!(status, 401 | 403 | 404 | 405 | 407 | 413 | 429)
}

fn grpc_verdict(code: i32) -> Verdict {
    match code {
        code::CANCELLED
        | code::DEADLINE_EXCEEDED
        | code::RESOURCE_EXHAUSTED
        | code::ABORTED
        | code::OUT_OF_RANGE
        | code::UNAVAILABLE
        | code::DATA_LOSS => Verdict::Retry,
        code::INVALID_ARGUMENT | code::ALREADY_EXISTS => Verdict::Refuse(RefusalKind::Batch),
        code::UNAUTHENTICATED
        | code::PERMISSION_DENIED
        | code::UNIMPLEMENTED
        | code::NOT_FOUND
        | code::FAILED_PRECONDITION => Verdict::Refuse(RefusalKind::Sender),
        _ => Verdict::Refuse(RefusalKind::Unclear),
    }
}

/// As [`http_took_nothing`]. RESOURCE_EXHAUSTED proves it by its `RetryInfo` only: a server also answers so when its
/// response is too large, and then may have taken the spans ("OTLP/gRPC Response").
fn grpc_took_nothing(code: i32, after: Option<Duration>) -> bool {
    match code {
        code::UNAUTHENTICATED | code::PERMISSION_DENIED | code::UNIMPLEMENTED | code::NOT_FOUND => true,
        code::RESOURCE_EXHAUSTED => after.is_some(),
        _ => false,
    }
}

/// The outcome of a failure. `text` is the peer's, for words about a size: without a hint, or with one of no time, they
/// make a batch of several spans too large, of any status. One span cannot be split.
fn failure(
    verdict: Verdict,
    cause: Cause,
    text: &str,
    after: Option<Duration>,
    spans: usize,
    possible_duplicate: bool,
) -> Outcome {
    match verdict {
        Verdict::TooLarge => Outcome::TooLarge { cause, possible_duplicate },
        _ if after.is_none_or(|after| after.is_zero()) && spans > 1 && size::names_a_maximum(text) => {
            Outcome::TooLarge { cause, possible_duplicate }
        }
        Verdict::Retry => Outcome::Retryable { after, cause, possible_duplicate },
        Verdict::Refuse(kind) => Outcome::Refused { kind, cause, possible_duplicate },
    }
}

/// An HTTP answer, with as much of its body as was read, still encoded. `fault`: why the rest is missing. `max`: the
/// most bytes that an acknowledgement has without its encodings.
pub(crate) fn http(
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
    fault: Option<String>,
    max: usize,
    spans: usize,
    now: SystemTime,
) -> Outcome {
    if status.is_success() {
        return acknowledgement::http(status.as_u16(), headers, body, fault, max, spans);
    }
    let text = error_text(status, headers, &body::decode_start(headers, body), fault.is_some());
    let after = headers.get(header::RETRY_AFTER).and_then(|value| retry_after(value.to_str().ok()?, now));
    let status = status.as_u16();
    let message = plain(&text);
    if let Some(remedy) = tls_words::remedy(&text).filter(|_| status == 400) {
        let cause = Cause::Http { status, message: format!("{message}; {remedy}") };
        return Outcome::Refused { kind: RefusalKind::Sender, cause, possible_duplicate: false };
    }
    let cause = Cause::Http { status, message };
    failure(http_verdict(status), cause, &text, after, spans, !http_took_nothing(status))
}

/// An HTTP answer to a gRPC call, without any `grpc-status`: of a proxy, or of another server behind the port.
pub(crate) fn http_for_grpc(
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
    fault: Option<String>,
    spans: usize,
    now: SystemTime,
) -> Outcome {
    if !status.is_success() {
        // The size limit is for acknowledgements.
        return http(status, headers, body, fault, 0, spans, now);
    }
    let body = body::decode_start(headers, body);
    let message = format!("no grpc-status{}", acknowledgement::shown(headers, &body, fault.is_some()));
    let cause = Cause::Http { status: status.as_u16(), message };
    Outcome::Refused { kind: RefusalKind::Sender, cause, possible_duplicate: true }
}

/// A gRPC status that the peer sent, in headers or trailers, if it is there. `message` is the message in front of it,
/// or why that could not be read.
pub(crate) fn grpc(fields: &HeaderMap, message: Result<Vec<u8>, String>, spans: usize) -> Option<Outcome> {
    let status = fields.get("grpc-status")?;
    let Some(code) = status.to_str().ok().and_then(|text| text.trim().parse::<u32>().ok()) else {
        let detail = format!("grpc-status {:?} is not a number", plain(&String::from_utf8_lossy(status.as_bytes())));
        let (kind, cause) = (RefusalKind::Unclear, Cause::Unreadable(detail));
        return Some(Outcome::Refused { kind, cause, possible_duplicate: true });
    };
    let code = i32::try_from(code).unwrap_or(i32::MAX);
    if code == code::OK {
        return Some(match message {
            Ok(message) => acknowledgement::grpc(&message, spans),
            Err(detail) => unreadable_grpc(&detail),
        });
    }
    let text = fields.get("grpc-message").map(|value| {
        let decoded: Vec<u8> = percent_encoding::percent_decode(value.as_bytes()).collect();
        one_line(&String::from_utf8_lossy(&decoded), MAX_SEARCHED)
    });
    let text = text.unwrap_or_default();
    let after = fields.get("grpc-status-details-bin").and_then(|value| {
        let status = body::decode_base64(value.as_bytes())?;
        RpcStatus::read(&status).ok()?.retry_delay
    });
    let cause = Cause::Grpc { code, message: plain(&text) };
    Some(failure(grpc_verdict(code), cause, &text, after, spans, !grpc_took_nothing(code, after)))
}

/// A gRPC call that succeeded, with a message that cannot be read.
pub(crate) fn unreadable_grpc(detail: &str) -> Outcome {
    Outcome::AcknowledgedUnreadably { cause: Cause::Unexpected(format!("gRPC status 0, {detail}")) }
}

/// The target of a redirect; else the message of a `google.rpc.Status`, or else the start of the body. A body that
/// ended early, or may go on, ends with the mark of a cut: a secret may begin in front of it.
fn error_text(status: StatusCode, headers: &HeaderMap, body: &[u8], is_cut: bool) -> String {
    if status.is_redirection()
        && let Some(location) = headers.get(header::LOCATION)
    {
        return format!("location {}", without_query(&String::from_utf8_lossy(location.as_bytes())));
    }
    match RpcStatus::read(body) {
        Ok(status) if content_type(headers).contains("protobuf") => one_line(&status.message, MAX_SEARCHED),
        _ => {
            let mark = if is_cut || body.len() >= body::MAX_START { CUT } else { "" };
            one_line(&format!("{}{mark}", String::from_utf8_lossy(body)), MAX_SEARCHED)
        }
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

/// A peer's text made fit for a line of a log: no control characters, one line, bounded.
pub(crate) fn plain(text: &str) -> String {
    one_line(text, MAX_MESSAGE)
}

fn one_line(text: &str, limit: usize) -> String {
    let mut words = String::new();
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()) {
        if !words.is_empty() {
            words.push(' ');
        }
        words.push_str(word);
        if words.len() > 4 * limit {
            break;
        }
    }
    match words.char_indices().nth(limit) {
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
            content_type in "application/(x-protobuf|json)|text/(html|plain)|.{0,20}",
            fault in prop::option::of("[a-z ]{0,20}"),
            spans in 0_usize..5,
        ) {
            let status = StatusCode::from_u16(status).expect("in range");
            let mut fields = HeaderMap::new();
            for (name, value) in [
                ("retry-after", hint.as_bytes()),
                ("grpc-status", code.as_bytes()),
                ("grpc-message", &message),
                ("grpc-status-details-bin", &body),
                ("location", &message),
                ("content-type", content_type.as_bytes()),
            ] {
                if let Ok(value) = HeaderValue::from_bytes(value) {
                    fields.insert(name, value);
                }
            }
            let now = SystemTime::UNIX_EPOCH;
            let from_http = http(status, &fields, &body, fault.clone(), 1 << 20, spans, now);
            let outcomes =
                [Some(from_http.clone()), grpc(&fields, Ok(body.clone()), spans),
                Some(http_for_grpc(status, &fields, &body, fault, spans, now))];
            for outcome in outcomes.into_iter().flatten() {
                if let Outcome::Delivered { rejected, .. } = outcome {
                    prop_assert!(rejected <= spans);
                }
                // An upper bound: false only for the answers that prove it.
                if let Outcome::Retryable { cause, possible_duplicate: false, .. }
                | Outcome::TooLarge { cause, possible_duplicate: false }
                | Outcome::Refused { cause, possible_duplicate: false, .. } = &outcome
                {
                    let is_proof = matches!(
                        cause,
                        Cause::Http { status: 401 | 403 | 404 | 405 | 407 | 413 | 429, .. }
                            | Cause::Grpc { code: 5 | 7 | 8 | 12 | 16, .. }
                    );
                    prop_assert!(is_proof, "{outcome:?}");
                }
                if matches!(outcome, Outcome::TooLarge { .. }) && spans <= 1 {
                    let is_413 = matches!(outcome.cause(), Some(Cause::Http { status: 413, .. }));
                    prop_assert!(is_413, "{outcome:?}");
                }
                let text = outcome.cause().map(ToString::to_string).unwrap_or_default();
                prop_assert!(!text.contains(char::is_control), "{text:?}");
            }
            let is_page = matches!(from_http, Outcome::Refused { kind: RefusalKind::Sender, .. });
            prop_assert_eq!(from_http.is_delivered() || (status.is_success() && is_page), status.is_success());
            if !status.is_success() && !matches!(status.as_u16(), 429 | 502..=504) {
                let is_final = matches!(from_http, Outcome::TooLarge { .. } | Outcome::Refused { .. });
                prop_assert!(is_final, "{from_http:?}");
            }
        }
    }
}
