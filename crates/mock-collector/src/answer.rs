//! Answers as bytes: statuses, hints and bodies of either protocol.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use prost::Message;

use crate::behavior::{Answer, Status};

/// `google.rpc.Status`: the content of `grpc-status-details-bin` and of the body of an HTTP error.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `google.rpc.RetryInfo`, whose only field is a `google.protobuf.Duration`.
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<ProtoDuration>,
}

#[derive(Clone, PartialEq, Message)]
struct ProtoDuration {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

const RETRY_INFO: &str = "type.googleapis.com/google.rpc.RetryInfo";
const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// The characters that `grpc-message` leaves as they are: printable ASCII except the percent sign (gRPC over HTTP/2,
/// "Status-Message").
const MESSAGE: &AsciiSet = &CONTROLS.add(b'%');

/// A gRPC answer: either a message with trailers, or trailers alone.
#[derive(Debug)]
pub(crate) struct GrpcAnswer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Option<Bytes>,
    /// None: an answer of something that does not speak gRPC.
    pub(crate) trailers: Option<HeaderMap>,
}

/// Success over gRPC with this message.
pub(crate) fn grpc_success(message: &[u8]) -> GrpcAnswer {
    let trailers = HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
    GrpcAnswer { status: StatusCode::OK, headers: grpc_headers(), body: Some(frame(message)), trailers: Some(trailers) }
}

/// This answer over gRPC.
pub(crate) fn grpc(answer: &Answer, success: &[u8]) -> GrpcAnswer {
    let code = match answer.status {
        Status::Grpc(code) => code,
        Status::Http(status) => {
            let (status, headers, body) = http_parts(answer, status);
            return GrpcAnswer { status, headers, body: Some(body), trailers: None };
        }
    };
    let mut trailers = HeaderMap::new();
    insert(&mut trailers, "grpc-status", &code.to_string());
    if !answer.message.is_empty() {
        insert(&mut trailers, "grpc-message", &utf8_percent_encode(&answer.message, MESSAGE).to_string());
    }
    let details = match (&answer.details, answer.retry_after_ms) {
        (Some(details), _) => Some(details.clone()),
        (None, Some(delay)) => Some(rpc_status(code, &answer.message, Some(delay))),
        (None, None) => None,
    };
    if let Some(details) = details {
        insert(&mut trailers, "grpc-status-details-bin", &STANDARD_NO_PAD.encode(details));
    }
    extend(&mut trailers, &answer.headers);
    let message = match &answer.body {
        Some((_, body)) => Some(body.as_slice()),
        None if code == 0 => Some(success),
        None => None,
    };
    match message {
        Some(message) => {
            let (headers, body) = (grpc_headers(), Some(frame(message)));
            GrpcAnswer { status: StatusCode::OK, headers, body, trailers: Some(trailers) }
        }
        None => {
            trailers.insert(CONTENT_TYPE, GRPC);
            GrpcAnswer { status: StatusCode::OK, headers: trailers, body: None, trailers: None }
        }
    }
}

/// Success over HTTP with this message.
pub(crate) fn http_success(message: Bytes) -> (StatusCode, HeaderMap, Bytes) {
    (StatusCode::OK, HeaderMap::from_iter([(CONTENT_TYPE, PROTOBUF)]), message)
}

/// This answer over HTTP.
pub(crate) fn http(answer: &Answer, success: Bytes) -> (StatusCode, HeaderMap, Bytes) {
    match answer.status {
        Status::Http(status) => http_parts(answer, status),
        Status::Grpc(0) if answer.body.is_none() => {
            let (status, mut headers, body) = http_success(success);
            extend(&mut headers, &answer.headers);
            (status, headers, body)
        }
        Status::Grpc(code) => http_parts(answer, http_status(code)),
    }
}

/// The Collector's HTTP status for a gRPC status.
fn http_status(code: i32) -> u16 {
    match code {
        0 => 200,
        3 => 400,
        7 => 403,
        8 => 429,
        12 => 404,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}

/// The Collector's code in the body of an HTTP error.
fn rpc_code(answer: &Answer, status: u16) -> i32 {
    match (answer.status, status) {
        (Status::Grpc(code), _) => code,
        (_, 400) => 3,
        (_, 401) => 16,
        (_, 403) => 7,
        (_, 404) => 12,
        (_, 429) => 8,
        (_, 502..=504) => 14,
        _ => 2,
    }
}

fn http_parts(answer: &Answer, status: u16) -> (StatusCode, HeaderMap, Bytes) {
    let mut headers = HeaderMap::new();
    let body = match &answer.body {
        Some((content_type, body)) => {
            insert(&mut headers, CONTENT_TYPE.as_str(), content_type);
            body.clone()
        }
        None if (200..300).contains(&status) && answer.message.is_empty() => Vec::new(),
        None => {
            headers.insert(CONTENT_TYPE, PROTOBUF);
            rpc_status(rpc_code(answer, status), &answer.message, None)
        }
    };
    if let Some(delay) = answer.retry_after_ms {
        headers.insert(RETRY_AFTER, delay.div_ceil(1000).into());
    }
    extend(&mut headers, &answer.headers);
    (StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), headers, body.into())
}

fn rpc_status(code: i32, message: &str, retry_after_ms: Option<u64>) -> Vec<u8> {
    let details = retry_after_ms.into_iter().map(|delay| {
        let seconds = i64::try_from(delay / 1000).unwrap_or(i64::MAX);
        let nanos = i32::try_from(delay % 1000 * 1_000_000).unwrap_or_default();
        let info = RetryInfo { retry_delay: Some(ProtoDuration { seconds, nanos }) };
        Any { type_url: RETRY_INFO.to_owned(), value: info.encode_to_vec() }
    });
    RpcStatus { code, message: message.to_owned(), details: details.collect() }.encode_to_vec()
}

/// The five bytes before a gRPC message (not compressed, length), and the message.
fn frame(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).expect("a scripted message below 4 GiB"));
    framed.put_slice(message);
    framed.freeze()
}

fn grpc_headers() -> HeaderMap {
    HeaderMap::from_iter([(CONTENT_TYPE, GRPC)])
}

fn extend(headers: &mut HeaderMap, more: &[(String, String)]) {
    for (name, value) in more {
        insert(headers, name, value);
    }
}

/// Sets a header, unless HTTP does not allow its name or value.
fn insert(headers: &mut HeaderMap, name: &str, value: &str) {
    if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn retry_info_has_the_bytes_of_its_protobuf() {
        let answer = grpc(&Answer::grpc(14).with_retry_after(Duration::from_millis(1500)), &[]);
        let encoded = answer.headers["grpc-status-details-bin"].as_bytes();
        let details = STANDARD_NO_PAD.decode(encoded).expect("base64");
        // Status { 1: 14, 3: Any { 1: url, 2: RetryInfo { 1: Duration { 1: 1, 2: 500,000,000 } } } }
        let mut expected = vec![0x08, 14, 0x1a, 54, 0x0a, 40];
        expected.extend(RETRY_INFO.bytes());
        expected.extend([0x12, 10, 0x0a, 8, 0x08, 0x01, 0x10, 0x80, 0xca, 0xb5, 0xee, 0x01]);
        assert_eq!(details, expected);
    }

    #[test]
    fn an_error_over_grpc_is_trailers_alone_and_its_message_is_percent_encoded() {
        let answer = grpc(&Answer::grpc(8).with_message("90 % full\n\u{e9}"), &[]);
        assert!(answer.body.is_none() && answer.trailers.is_none());
        assert_eq!(answer.headers["grpc-status"], "8");
        assert_eq!(answer.headers["grpc-message"], "90 %25 full%0A%C3%A9");
    }

    #[test]
    fn a_grpc_status_becomes_the_collectors_http_status() {
        let hint = Duration::from_millis(1001);
        let (status, headers, body) = http(&Answer::grpc(14).with_message("busy").with_retry_after(hint), Bytes::new());
        assert_eq!((status.as_u16(), &headers[RETRY_AFTER]), (503, &HeaderValue::from_static("2")));
        let RpcStatus { code, message, .. } = RpcStatus::decode(body).expect("decodes");
        assert_eq!((code, message.as_str()), (14, "busy"));
    }

    #[test]
    fn what_http_does_not_allow_is_left_out() {
        let answer =
            Answer::http(1).with_header("bad name", "x").with_header("x-fine", "a\nb").with_header("x-ok", "1");
        let (status, headers, _) = http(&answer, Bytes::new());
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(headers.keys().filter(|name| *name != CONTENT_TYPE).collect::<Vec<_>>(), ["x-ok"]);
    }
}
