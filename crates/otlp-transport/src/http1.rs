//! OTLP over HTTP/1.1 with protobuf bodies.

mod pool;

use std::fmt;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, Request, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use otlp_payload::{Payload, Signal};
use tokio::time::{Instant, timeout_at};

use crate::Transport;
use crate::answer;
use crate::body::{MAX_START, MESSAGE_WAIT};
use crate::chain::ErrorChain;
use crate::coding::Coding;
use crate::config::Config;
use crate::connect::{Connector, Route};
use crate::credentials::Signed;
use crate::duplex;
use crate::note::Note;
use crate::outcome::{Cause, Outcome};
use crate::paths::unsettled;
use crate::protocol::Protocol;
use crate::proxy::Proxy;
use crate::quiet::unobserved;
use pool::Pool;

/// Sends over HTTP/1.1 with keep-alive: a connection for each call that runs at the same time, kept for the next one. A
/// connection that broke, or whose call was given up or timed out, is closed. One of the greatest age
/// ([`Config::connection_max_age`]) is replaced while it serves calls.
///
/// The bytes of the payload are handed to the socket as they are: no copy, no second encoding. Over TLS they are copied
/// once, into the records.
pub struct HttpTransport {
    config: Config,
    pool: Pool,
}

impl HttpTransport {
    /// Takes the settings as they are, but for their protocol: this is OTLP/HTTP. The port stays the one of the
    /// settings (where none is set, that of their protocol). No I/O happens, no runtime is needed.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let config = config.speaking(Protocol::HttpProtobuf);
        let connector = Connector::new(&config);
        Self::over(connector, config)
    }

    /// The same over connections that this connector opens.
    pub(crate) fn over(connector: Connector, config: Config) -> Self {
        Self { pool: Pool::new(connector, &config), config }
    }

    async fn exchange(&self, payload: &Payload, deadline: Instant, signed: &mut Option<Signed>) -> Outcome {
        let failed = |cause, possible_duplicate| Outcome::Retryable { after: None, cause, possible_duplicate };
        let timed_out = || Cause::Timeout(self.config.timeout);
        let max = self.config.max_response_bytes;

        let (mut request, sent) = self.request(payload);
        match self.config.sign(&request, Bytes::new(), &sent, deadline).await {
            Ok(headers) => *signed = headers,
            Err(cause) => return failed(cause, false),
        }
        drop(sent);
        signed.iter().for_each(|signed| signed.put_into(request.headers_mut()));
        let mut connection = timeout_at(deadline, self.pool.kept()).await.ok().flatten();
        let (connection, response) = loop {
            let was_kept = connection.is_some();
            let mut current = match connection.take() {
                Some(kept) => kept,
                None => match timeout_at(deadline, self.pool.open()).await {
                    Ok(Ok(opened)) => opened,
                    Ok(Err(cause)) => return failed(cause, false),
                    Err(_) => return failed(timed_out(), false),
                },
            };
            current.start.clear();
            // A head that is cut off has told the outcome if its status line came.
            let cut_off = |cause: Cause, detail: String| match current.start.head() {
                Some((status, headers)) => {
                    let now = (self.config.wall_clock)();
                    answer::http(status, &headers, b"", Some(detail), max, payload.item_count(), now)
                }
                None => failed(cause, true),
            };
            match timeout_at(deadline, current.requests.try_send_request(request)).await {
                Ok(Ok(response)) => break (current, response),
                Ok(Err(mut error)) => match error.take_message() {
                    // The connection ended while it was idle, before any byte of this request.
                    Some(unsent) if was_kept => request = unsent,
                    Some(_) => {
                        self.pool.on_fault();
                        return failed(cause_of(error.error()), false);
                    }
                    None => {
                        self.pool.on_fault();
                        return match duplex::why_nothing_was_taken(error.error()) {
                            Some(why) => failed(Cause::Connect(why), false),
                            None => cut_off(cause_of(error.error()), ErrorChain(error.error()).to_string()),
                        };
                    }
                },
                Err(_) => {
                    self.pool.on_fault();
                    return cut_off(timed_out(), timed_out().to_string());
                }
            }
        };

        let (head, mut body) = response.into_parts();
        let mut read = Read { bytes: BytesMut::new(), is_whole: false };
        // The whole body of an acknowledgement counts. The head of any other answer decides its outcome, and a body
        // that is cut only cuts the text; but a page is empty only if its end was read.
        let fault = if head.status.is_success() && !answer::is_page(&head.headers) {
            match timeout_at(deadline, read_whole(&mut body, max, &mut read)).await {
                Ok(read) => read.err(),
                Err(_) => Some(format!("no end within {:?}", self.config.timeout)),
            }
        } else {
            let _ = timeout_at(deadline.min(Instant::now() + MESSAGE_WAIT), read_some(&mut body, &mut read)).await;
            (!read.is_whole).then(|| "not read to its end".to_owned())
        };
        let now = (self.config.wall_clock)();
        let outcome = answer::http(head.status, &head.headers, &read.bytes, fault, max, payload.item_count(), now);
        if read.is_whole {
            self.pool.keep(connection, &outcome);
        }
        outcome
    }

    /// The request, and its body once more: the bytes are shared.
    fn request(&self, payload: &Payload) -> (Request<Full<Bytes>>, Bytes) {
        let coding = Coding::of(self.config.compression);
        let body = coding.map_or_else(|| payload.bytes().clone(), |coding| coding.of_payload(payload));
        let mut request = Request::new(Full::new(body.clone()));
        *request.method_mut() = Method::POST;
        let uri = &self.config.endpoint.uri;
        let route = &self.pool.connector().route;
        *request.uri_mut() = match (route, uri.path_and_query()) {
            // A proxy is told the whole (RFC 9112, section 3.2.2).
            (Route::Forward(_), _) => uri.clone(),
            (_, path) => path.map_or_else(Uri::default, |path| Uri::from(path.clone())),
        };
        let headers = request.headers_mut();
        self.config.headers.append_to(headers);
        if let Route::Forward(Proxy { authorization: Some(authorization), .. }) = route {
            headers.insert(header::PROXY_AUTHORIZATION, authorization.clone());
        }
        let host = uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
        headers.insert(header::HOST, host.unwrap_or(HeaderValue::from_static("")));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        headers.insert(header::USER_AGENT, self.config.user_agent.clone());
        if let Some(coding) = coding {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
        }
        (request, body)
    }
}

#[async_trait]
impl Transport for HttpTransport {
    async fn send(&self, payload: &Payload) -> Outcome {
        if payload.signal() != self.config.signal {
            return unsettled(self.config.signal.as_str(), payload.signal());
        }
        let (size, limit) = (payload.bytes().len(), self.config.max_request_bytes);
        if size > limit {
            return Outcome::TooLarge { cause: Cause::RequestLimit { size, limit }, possible_duplicate: false };
        }
        let deadline = Instant::now() + self.config.timeout;
        let mut signed = None;
        let outcome = unobserved(self.exchange(payload, deadline, &mut signed)).await;
        let outcome = self.pool.connector().route.explained(outcome);
        self.config.settle(outcome, signed, deadline).await
    }

    fn endpoint(&self) -> &str {
        self.config.endpoint()
    }

    fn carries(&self, signal: Signal) -> bool {
        signal == self.config.signal
    }

    fn reconnect(&self) {
        self.pool.reconnect();
    }

    fn can_change(&self) -> bool {
        self.config.credentials.is_some() || self.pool.connector().can_change()
    }

    async fn has_changed(&self) -> bool {
        let is_unused = match &self.config.credentials {
            Some(gate) => unobserved(gate.has_unused()).await,
            None => false,
        };
        let has_new_files = self.pool.connector().has_changed().await;
        if has_new_files {
            // The next call uses them.
            self.pool.reconnect();
        }
        is_unused || has_new_files
    }

    fn take_notes(&self) -> Vec<Note> {
        let of_credentials = self.config.credentials.iter().flat_map(|gate| gate.take_notes());
        of_credentials.chain(self.pool.connector().take_notes()).collect()
    }
}

impl fmt::Debug for HttpTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpTransport").field("config", &self.config).finish_non_exhaustive()
    }
}

/// The bytes of a body that were read.
struct Read {
    bytes: BytesMut,
    /// Whether the end was read: only then does the next answer begin at the connection's next byte.
    is_whole: bool,
}

/// Reads a body of at most `max` bytes to its end, or says why that cannot be reached.
async fn read_whole(body: &mut Incoming, max: usize, read: &mut Read) -> Result<(), String> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ErrorChain(&error).to_string())?;
        if let Ok(data) = frame.into_data() {
            if read.bytes.len() + data.len() > max {
                return Err(format!("more than {max} bytes"));
            }
            read.bytes.extend_from_slice(&data);
        }
    }
    read.is_whole = true;
    Ok(())
}

/// Reads as much of a body as a message needs.
async fn read_some(body: &mut Incoming, read: &mut Read) {
    while read.bytes.len() < MAX_START {
        match body.frame().await {
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    read.bytes.extend_from_slice(&data);
                }
            }
            Some(Err(_)) => return,
            None => {
                read.is_whole = true;
                return;
            }
        }
    }
}

fn cause_of(error: &hyper::Error) -> Cause {
    if error.is_parse() {
        // An HTTP/2 server greets with a frame.
        let detail = ErrorChain(error);
        Cause::Unreadable(format!("{detail}; the peer may not speak HTTP/1.1: the usual port is 4318"))
    } else {
        Cause::Broken(ErrorChain(error).to_string())
    }
}
