//! Peers that speak HTTP/2.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use super::raw::{Raw, serve_connection};
use super::{Log, Seen, frame};

pub(crate) type Fields = Vec<(&'static str, String)>;

fn header_map(fields: &Fields) -> HeaderMap {
    fields
        .iter()
        .map(|(name, value)| {
            (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).expect("a header value"))
        })
        .collect()
}

/// How an HTTP/2 server answers each request, once it has read it whole.
#[derive(Clone, Debug)]
pub(crate) enum Grpc {
    /// Headers, body if there is one, trailers if there are any.
    Answer { status: u16, headers: Fields, body: Option<Bytes>, trailers: Option<Fields> },
    /// Headers and nothing behind them.
    HeadersThenHang(u16, Fields),
    /// Informational answers without end.
    Informational,
    /// A body without end.
    Endless,
    /// RST_STREAM instead of an answer.
    Reset(Reason),
    /// Headers, then RST_STREAM.
    HeadersThenReset(Reason),
    /// GOAWAY for the whole connection.
    GoAway(Reason),
    /// The connection is dropped behind the request.
    Drop,
    /// A full success, and a graceful GOAWAY with it.
    LastAnswer,
    /// A status in the headers, without reading the body of the request first.
    Early(Fields),
    /// No answer.
    Hang,
    /// A full success once this was notified.
    Gate(Arc<Notify>),
}

/// A gRPC answer with a status in its trailers.
pub(crate) fn grpc_answer(body: Option<Bytes>, trailers: Fields) -> Grpc {
    let headers = vec![("content-type", "application/grpc".to_owned())];
    Grpc::Answer { status: 200, headers, body, trailers: Some(trailers) }
}

/// A full success.
pub(crate) fn grpc_ok() -> Grpc {
    grpc_answer(Some(frame(0, &[])), vec![("grpc-status", "0".to_owned())])
}

/// Serves HTTP/2 on `listener` until the runtime ends; the n-th request gets `script(n)`.
pub(crate) fn serve_grpc(listener: TcpListener, script: impl Fn(usize) -> Grpc + Send + Sync + 'static) -> Log {
    serve_grpc_behind(Vec::new(), listener, script)
}

/// The same behind some connections to peers on plain TCP.
pub(crate) fn serve_grpc_behind(
    raw: Vec<Raw>,
    listener: TcpListener,
    script: impl Fn(usize) -> Grpc + Send + Sync + 'static,
) -> Log {
    let log = Log::default();
    let seen = Arc::clone(&log);
    let script = Arc::new(script);
    tokio::spawn(async move {
        for connection in 0.. {
            let Ok((stream, _)) = listener.accept().await else { return };
            stream.set_nodelay(true).expect("a TCP socket");
            if let Some(raw) = raw.get(connection) {
                tokio::spawn(serve_connection(stream, connection, raw.clone(), Arc::clone(&seen)));
                continue;
            }
            tokio::spawn(serve_h2(stream, connection, Arc::clone(&script), Arc::clone(&seen)));
        }
    });
    log
}

/// How a request affects its whole connection.
enum End {
    Drop,
    Graceful,
    GoAway(Reason),
}

async fn serve_h2(
    stream: TcpStream,
    index: usize,
    script: Arc<impl Fn(usize) -> Grpc + Send + Sync + 'static>,
    log: Log,
) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    let (ends, mut ended) = tokio::sync::mpsc::unbounded_channel();
    loop {
        let (request, respond) = tokio::select! {
            // The task that read the request sends the action for the whole connection.
            end = ended.recv() => match end {
                Some(End::GoAway(reason)) => {
                    connection.abrupt_shutdown(reason);
                    continue;
                }
                Some(End::Graceful) => {
                    connection.graceful_shutdown();
                    continue;
                }
                Some(End::Drop) | None => return,
            },
            accepted = connection.accept() => match accepted {
                Some(Ok(accepted)) => accepted,
                _ => return,
            },
        };
        let (script, log, ends) = (Arc::clone(&script), Arc::clone(&log), ends.clone());
        tokio::spawn(async move {
            let number = log.lock().expect("not poisoned").len();
            if let early @ Grpc::Early(_) = script(number) {
                return answer_h2(early, respond).await;
            }
            let number = read_h2(request, index, &log).await;
            match script(number) {
                // The answer side stays open until the connection is gone.
                Grpc::Drop => drop((ends.send(End::Drop), std::future::pending::<()>().await, respond)),
                Grpc::GoAway(reason) => {
                    drop((ends.send(End::GoAway(reason)), std::future::pending::<()>().await, respond))
                }
                Grpc::LastAnswer => {
                    let _ = ends.send(End::Graceful);
                    answer_h2(grpc_ok(), respond).await;
                }
                other => answer_h2(other, respond).await,
            }
        });
    }
}

/// Reads a request whole and says which one it is, from 0.
async fn read_h2(request: Request<RecvStream>, connection: usize, log: &Log) -> usize {
    let (head, mut incoming) = request.into_parts();
    let mut body = BytesMut::new();
    while let Some(Ok(data)) = incoming.data().await {
        let _ = incoming.flow_control().release_capacity(data.len());
        body.extend_from_slice(&data);
    }
    let (method, target) = (head.method.to_string(), head.uri.to_string());
    let mut log = log.lock().expect("not poisoned");
    log.push(Seen { method, target, headers: head.headers, body: body.freeze(), connection });
    log.len() - 1
}

async fn answer_h2(script: Grpc, mut respond: SendResponse<Bytes>) {
    let head = |status: u16, fields: &Fields| {
        let mut response = Response::new(());
        *response.status_mut() = status.try_into().expect("a status");
        *response.headers_mut() = header_map(fields);
        response
    };
    match script {
        Grpc::Answer { status, headers, body, trailers } => {
            let ends = body.is_none() && trailers.is_none();
            let Ok(mut stream) = respond.send_response(head(status, &headers), ends) else { return };
            if let Some(body) = body {
                let _ = stream.send_data(body, trailers.is_none());
            }
            if let Some(trailers) = trailers {
                let _ = stream.send_trailers(header_map(&trailers));
            }
            std::future::poll_fn(|cx| stream.poll_reset(cx)).await.ok();
        }
        Grpc::HeadersThenHang(status, headers) => {
            let _stream = respond.send_response(head(status, &headers), false);
            std::future::pending::<()>().await;
        }
        Grpc::Informational => loop {
            let mut response = Response::new(());
            *response.status_mut() = http::StatusCode::EARLY_HINTS;
            if respond.send_informational(response).is_err() {
                return;
            }
            tokio::task::yield_now().await;
        },
        Grpc::Endless => {
            let Ok(mut stream) = respond.send_response(head(200, &vec![]), false) else { return };
            loop {
                stream.reserve_capacity(16 << 10);
                match std::future::poll_fn(|cx| stream.poll_capacity(cx)).await {
                    Some(Ok(capacity)) => {
                        if stream.send_data(Bytes::from(vec![0; capacity]), false).is_err() {
                            return;
                        }
                    }
                    _ => return,
                }
            }
        }
        Grpc::Reset(reason) => respond.send_reset(reason),
        Grpc::HeadersThenReset(reason) => {
            if let Ok(mut stream) = respond.send_response(head(200, &vec![]), false) {
                stream.send_reset(reason);
            }
        }
        Grpc::Early(headers) => drop(respond.send_response(head(200, &headers), true)),
        Grpc::Gate(gate) => {
            gate.notified().await;
            Box::pin(answer_h2(grpc_ok(), respond)).await;
        }
        Grpc::Hang => {
            let _respond = respond;
            std::future::pending::<()>().await;
        }
        Grpc::Drop | Grpc::GoAway(_) | Grpc::LastAnswer => unreachable!("done by the connection"),
    }
}
