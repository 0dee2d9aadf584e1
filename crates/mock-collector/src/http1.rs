//! OTLP/HTTP with protobuf: one HTTP/1.1 connection.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::header::{ALLOW, CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming as Body;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;

use crate::answer;
use crate::behavior::{Answer, End};
use crate::receipts::Protocol;
use crate::request::{Incoming, UnpackError, Verdict, judge, refuse, success, unpack};
use crate::shared::Shared;
use crate::socket::Socket;

const TRACES: &str = "/v1/traces";

/// How much of a body over the limit is read and discarded before the answer, as a multiple of the limit: a client that
/// is still writing must not meet a reset before it reads why.
const DISCARD: usize = 16;

/// Serves one connection until either side ends it.
pub(crate) async fn serve(socket: Socket, shared: Arc<Shared>) {
    let mut all_ends = shared.ends.subscribe();
    let (end_sender, mut own_end) = mpsc::unbounded_channel();
    let service = service_fn(|request| {
        let (shared, end) = (Arc::clone(&shared), end_sender.clone());
        async move { Ok::<_, Infallible>(respond(request, &shared, &end).await) }
    });
    let mut connection = pin!(http1::Builder::new().serve_connection(TokioIo::new(socket.clone()), service));
    let end = tokio::select! {
        biased;
        Some(end) = own_end.recv() => end,
        Ok(end) = all_ends.recv() => end,
        _ = &mut connection => return,
    };
    match end {
        End::GoAway(_) | End::GoAwayUnprocessed(_) | End::Fin => socket.finish().await,
        End::Stream(_) | End::Rst => socket.reset_on_close(),
        End::Raw(bytes) => {
            socket.write_raw(&bytes).await;
            socket.finish().await;
        }
    }
}

async fn respond(request: Request<Body>, shared: &Shared, end: &mpsc::UnboundedSender<End>) -> Response<Full<Bytes>> {
    let (status, headers, body) = match verdict(request, shared).await {
        Verdict::Success(message) => answer::http_success(message),
        Verdict::Answer(answer) => answer::http(&answer, success(0, String::new())),
        Verdict::Silence => std::future::pending().await,
        Verdict::End(how) => {
            let _ = end.send(how);
            std::future::pending().await
        }
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

async fn verdict(request: Request<Body>, shared: &Shared) -> Verdict {
    let (head, body) = request.into_parts();
    let content_type = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    let refusal = if head.uri.path() != TRACES {
        Some(Answer::http(404).with_body("text/plain", "404 page not found"))
    } else if head.method != Method::POST {
        let text = "405 method not allowed, supported: [POST]";
        Some(Answer::http(405).with_header(ALLOW.as_str(), "POST").with_body("text/plain", text))
    } else if !media_type.eq_ignore_ascii_case("application/x-protobuf") {
        let text = "415 unsupported media type, supported: [application/x-protobuf]";
        Some(Answer::http(415).with_body("text/plain", text))
    } else {
        None
    };
    let limit = shared.limits.http_bytes;
    let Ok(bytes) = read(body, limit).await else { return Verdict::Silence };
    if let Some(refusal) = refusal {
        return refuse(shared, refusal);
    }
    match bytes.ok_or_else(too_large).and_then(|bytes| incoming(bytes, head.headers, limit)) {
        Ok(incoming) => judge(shared, incoming).await,
        Err(answer) => refuse(shared, *answer),
    }
}

/// The body, or None where it is over the limit; an error when the client is gone or sends without end.
async fn read(mut body: Body, limit: usize) -> Result<Option<Bytes>, ()> {
    let (mut bytes, mut seen) = (BytesMut::new(), 0_usize);
    while let Some(frame) = body.frame().await {
        let Some(chunk) = frame.map_err(|_| ())?.into_data().ok() else { continue };
        seen += chunk.len();
        if seen <= limit {
            bytes.extend_from_slice(&chunk);
        } else if seen > limit.saturating_mul(DISCARD) {
            return Err(());
        }
    }
    Ok((seen <= limit).then(|| bytes.freeze()))
}

fn incoming(bytes: Bytes, headers: HeaderMap, limit: usize) -> Result<Incoming, Box<Answer>> {
    let wire_bytes = bytes.len();
    let encoding = headers.get(CONTENT_ENCODING).map_or(&b""[..], |value| value.as_bytes());
    let body = match encoding {
        b"" | b"identity" => bytes,
        coding => {
            let name = String::from_utf8_lossy(coding);
            let unpacked = unpack(coding, &bytes, limit);
            let unpacked = unpacked.ok_or_else(|| bad_request(format!("unsupported Content-Encoding: {name}")))?;
            unpacked.map_err(|error| match error {
                UnpackError::TooLarge => too_large(),
                UnpackError::Corrupt(detail) => bad_request(format!("{name}: {detail}")),
            })?
        }
    };
    Ok(Incoming { protocol: Protocol::Http, headers, wire_bytes, body })
}

/// The Collector answers 400 and not 413.
fn too_large() -> Box<Answer> {
    bad_request("http: request body too large")
}

fn bad_request(message: impl Into<String>) -> Box<Answer> {
    Box::new(Answer::http(400).with_message(message))
}
