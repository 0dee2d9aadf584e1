//! OTLP/gRPC: one HTTP/2 connection with prior knowledge.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::{HeaderMap, Method, Request, Response};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::answer::{self, GrpcAnswer};
use crate::behavior::{Answer, End};
use crate::receipts::Protocol;
use crate::request::{Incoming, UnpackError, Verdict, judge, refuse, success, unpack};
use crate::shared::Shared;
use crate::socket::Socket;

const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// Bytes before a message: compressed or not, and its length in four bytes.
const PREFIX: usize = 5;

/// How long the last frames of an ending connection may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// Serves one connection until either side ends it.
pub(crate) async fn serve(socket: Socket, shared: Arc<Shared>) {
    let mut builder = Builder::new();
    builder.max_concurrent_streams(256).initial_window_size(1 << 20).initial_connection_window_size(1 << 22);
    let mut all_ends = shared.ends.subscribe();
    let Ok(mut connection) = builder.handshake::<_, Bytes>(socket.clone()).await else { return };
    let (end_sender, mut own_end) = mpsc::unbounded_channel();
    let mut streams = JoinSet::new();
    let end = loop {
        tokio::select! {
            biased;
            Some(end) = own_end.recv() => break end,
            Ok(end) = all_ends.recv() => match end {
                // The connection as a whole, not one stream of it.
                End::Stream(code) => break End::GoAway(code),
                end => break end,
            },
            Some(_) = streams.join_next(), if !streams.is_empty() => {}
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    streams.spawn(stream(request, respond, Arc::clone(&shared), end_sender.clone()));
                }
                Some(Err(_)) | None => return,
            },
        }
    };
    match end {
        End::GoAway(code) | End::Stream(code) => goodbye(&mut connection, Reason::from(code)).await,
        End::GoAwayUnprocessed(code) => {
            // Length 8, GOAWAY, no flags, stream 0, last stream 0: h2 itself names the last stream that it gave us.
            let head = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            socket.write_raw(&[&head[..], &code.to_be_bytes()].concat()).await;
            socket.finish().await;
        }
        End::Fin => socket.finish().await,
        End::Rst => socket.reset_on_close(),
        End::Raw(bytes) => {
            socket.write_raw(&bytes).await;
            socket.finish().await;
        }
    }
}

async fn goodbye(connection: &mut Connection<Socket, Bytes>, reason: Reason) {
    connection.abrupt_shutdown(reason);
    let ended = async { while connection.accept().await.is_some_and(|accepted| accepted.is_ok()) {} };
    let _ = tokio::time::timeout(GOODBYE, ended).await;
}

async fn stream(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    shared: Arc<Shared>,
    end: mpsc::UnboundedSender<End>,
) {
    let verdict = tokio::select! {
        verdict = verdict(request, &shared) => verdict,
        // The client gave up: no answer is sent, also if the spans were stored.
        _ = poll_fn(|cx| respond.poll_reset(cx)) => return,
    };
    match verdict {
        Verdict::Success(message) => send(&mut respond, answer::grpc_success(&message)),
        Verdict::Answer(answer) => send(&mut respond, answer::grpc(&answer, &success(0, String::new()))),
        Verdict::Silence => drop(poll_fn(|cx| respond.poll_reset(cx)).await),
        Verdict::End(End::Stream(code)) => respond.send_reset(Reason::from(code)),
        Verdict::End(how) => {
            // The connection ends for all its streams; this one must not end before it.
            let _ = end.send(how);
            std::future::pending::<()>().await;
        }
    }
}

/// An error means that the client is gone.
fn send(respond: &mut SendResponse<Bytes>, answer: GrpcAnswer) {
    let mut response = Response::new(());
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    let Ok(mut stream) = respond.send_response(response, answer.body.is_none() && answer.trailers.is_none()) else {
        return;
    };
    if let Some(body) = answer.body
        && stream.send_data(body, answer.trailers.is_none()).is_err()
    {
        return;
    }
    if let Some(trailers) = answer.trailers {
        let _ = stream.send_trailers(trailers);
    }
}

async fn verdict(request: Request<RecvStream>, shared: &Shared) -> Verdict {
    let (head, body) = request.into_parts();
    let content_type = head.headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let refusal = if head.method != Method::POST {
        Some(Answer::http(405))
    } else if !content_type.is_some_and(|value| value.starts_with("application/grpc")) {
        Some(Answer::http(415))
    } else if head.uri.path() != EXPORT {
        Some(Answer::grpc(12).with_message(format!("unknown method {}", head.uri.path())))
    } else {
        None
    };
    if let Some(refusal) = refusal {
        return refuse(shared, refusal);
    }
    match read(body, head.headers, shared.limits.grpc_bytes).await {
        Ok(incoming) => judge(shared, incoming).await,
        Err(ReadError::Refused(answer)) => refuse(shared, *answer),
        Err(ReadError::Gone) => Verdict::Silence,
    }
}

enum ReadError {
    Refused(Box<Answer>),
    /// The connection or the stream ended before the request did.
    Gone,
}

impl ReadError {
    fn refused(code: i32, message: impl Into<String>) -> Self {
        Self::Refused(Box::new(Answer::grpc(code).with_message(message)))
    }
}

/// Reads the one message of a request, as grpc-go does: a length over the limit is refused before the message is read.
async fn read(mut body: RecvStream, headers: HeaderMap, limit: usize) -> Result<Incoming, ReadError> {
    let mut bytes = BytesMut::new();
    let mut length = None;
    while let Some(chunk) = body.data().await {
        let chunk = chunk.map_err(|_| ReadError::Gone)?;
        let _ = body.flow_control().release_capacity(chunk.len());
        bytes.extend_from_slice(&chunk);
        if let (None, Some(prefix)) = (length, bytes.first_chunk::<PREFIX>()) {
            let [_, rest @ ..] = *prefix;
            let announced = usize::try_from(u32::from_be_bytes(rest)).unwrap_or(usize::MAX);
            if announced > limit {
                let text = format!("grpc: received message larger than max ({announced} vs. {limit})");
                return Err(ReadError::refused(8, text));
            }
            length = Some(announced);
        }
        if length.is_some_and(|length| bytes.len() > PREFIX + length) {
            return Err(ReadError::refused(13, "a second message where one is due"));
        }
    }
    let (Some(length), Some(flag)) = (length, bytes.first().copied()) else {
        return Err(ReadError::refused(13, "no message where one is due"));
    };
    let message = bytes.freeze().split_off(PREFIX);
    if message.len() < length {
        return Err(ReadError::refused(13, "unexpected end of the message"));
    }
    let encoding = headers.get("grpc-encoding").map_or(&b"identity"[..], |value| value.as_bytes());
    let body = match (flag, encoding) {
        (0, _) => message,
        (1, coding) => match unpack(coding, &message, limit) {
            Some(Ok(body)) => body,
            Some(Err(UnpackError::TooLarge)) => {
                let text = format!("grpc: received message after decompression larger than max {limit}");
                return Err(ReadError::refused(8, text));
            }
            Some(Err(UnpackError::Corrupt(detail))) => {
                return Err(ReadError::refused(13, format!("grpc: failed to decompress: {detail}")));
            }
            None => {
                let name = String::from_utf8_lossy(coding);
                let text = format!("grpc: Decompressor is not installed for grpc-encoding \"{name}\"");
                return Err(ReadError::refused(12, text));
            }
        },
        (flag, _) => return Err(ReadError::refused(13, format!("grpc: received unexpected payload format {flag}"))),
    };
    Ok(Incoming { protocol: Protocol::Grpc, headers, wire_bytes: length, body })
}
