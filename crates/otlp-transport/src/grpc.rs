//! OTLP over gRPC, spoken on HTTP/2 itself.

mod pool;
mod slots;

use std::fmt;

use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Version, header};
use otlp_payload::{Payload, Signal};
use tokio::time::{Instant, timeout_at};

use crate::Transport;
use crate::answer;
use crate::body::{MAX_START, MESSAGE_WAIT};
use crate::coding::Coding;
use crate::config::Config;
use crate::connect::Connector;
use crate::credentials::Signed;
use crate::duplex;
use crate::note::Note;
use crate::outcome::{Cause, Outcome};
use crate::paths::unsettled;
use crate::protocol::{Compression, Protocol};
use crate::quiet::unobserved;
use pool::Pool;

/// In front of each gRPC message: one byte of flags, four of length.
const PREFIX: usize = 5;

/// Sends over gRPC, on one HTTP/2 connection that all calls share. It is made by the first call, and again by the next
/// call after it broke; a call that times out gives its connection up, since no other sign separates a dead peer from a
/// slow one. A connection of the greatest age ([`Config::connection_max_age`]) is replaced while it serves calls. Calls
/// above the peer's `MAX_CONCURRENT_STREAMS` wait within their time-out; there is no second connection for them.
///
/// The bytes of the payload are handed to the socket as they are, without a second encoding. h2 copies the first 247 of
/// each frame, 1.5 % of a large request; over TLS all of them are copied once, into the records.
pub struct GrpcTransport {
    config: Config,
    pool: Pool,
}

impl GrpcTransport {
    /// Takes the settings as they are, but for their protocol: this is gRPC. No I/O happens, no runtime is needed.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let config = config.speaking(Protocol::Grpc);
        let connector = Connector::new(&config);
        Self::over(connector, config)
    }

    /// The same over connections that this connector opens.
    pub(crate) fn over(connector: Connector, config: Config) -> Self {
        Self { pool: Pool::new(connector, &config), config }
    }

    async fn exchange(&self, payload: &Payload, deadline: Instant, signed: &mut Option<Signed>) -> Outcome {
        let coding = Coding::of(self.config.compression);
        let body = coding.map_or_else(|| payload.bytes().clone(), |coding| coding.of_payload(payload));
        let unsent = |cause| Outcome::Retryable { after: None, cause, possible_duplicate: false };
        let timed_out = |possible_duplicate| {
            let cause = Cause::Timeout(self.config.timeout);
            Outcome::Retryable { after: None, cause, possible_duplicate }
        };

        // Without credentials that change no head is made for them.
        if self.config.credentials.is_some() {
            match self.config.sign(&self.head(), self.prefix(&body), &body, deadline).await {
                Ok(headers) => *signed = headers,
                Err(cause) => return Outcome::Retryable { after: None, cause, possible_duplicate: false },
            }
        }
        let mut is_second = false;
        loop {
            let mut lease = match timeout_at(deadline, self.pool.lease()).await {
                Ok(Ok(lease)) => lease,
                Ok(Err(cause)) => return unsent(cause),
                Err(_) => return self.pool.shut().map_or_else(|| timed_out(false), unsent),
            };
            let mut request = self.request(deadline);
            signed.iter().for_each(|signed| signed.put_into(request.headers_mut()));
            let call = self.call(&mut lease.requests, request, body.clone(), payload.item_count(), deadline);
            let answer = timeout_at(deadline, call).await;
            if answer.is_err() && lease.is_held_back() {
                return self.pool.shut().map_or_else(|| timed_out(false), unsent);
            }
            if !matches!(&answer, Ok(Answer::Peer(outcome)) if lease.is_reusable_after(outcome)) {
                self.pool.give_up(&lease);
            }
            match answer {
                Ok(Answer::Peer(outcome) | Answer::Broken(outcome)) => return outcome,
                Ok(Answer::Unprocessed(cause)) if is_second => return unsent(cause),
                // Servers that shut down and balancers answer so: another connection leads to another server.
                Ok(Answer::Unprocessed(_)) => is_second = true,
                Err(_) => return timed_out(true),
            }
        }
    }

    /// Sends one request and reads its answer.
    async fn call(
        &self,
        requests: &mut SendRequest<Bytes>,
        request: Request<()>,
        message: Bytes,
        spans: usize,
        deadline: Instant,
    ) -> Answer {
        let (response, mut stream) = match requests.send_request(request, false) {
            Ok(opened) => opened,
            Err(error) => return Answer::Unprocessed(cause_of(&error)),
        };
        // Both wait inside h2 for the peer's window: the bytes are shared, so that costs no memory.
        // An error here means that the stream is over already; the answer says why.
        let _ = stream.send_data(self.prefix(&message), false).and_then(|()| stream.send_data(message, true));

        let response = match response.await {
            Ok(response) => response,
            Err(error) if is_unprocessed(&error) => return Answer::Unprocessed(cause_of(&error)),
            Err(error) => return broken(&error),
        };
        let (head, mut incoming) = response.into_parts();
        if let Some(outcome) = answer::grpc(&head.headers, Ok(Vec::new()), spans) {
            return Answer::Peer(outcome);
        }
        if head.status != StatusCode::OK || !may_be_grpc(&head.headers) {
            // The head decides; a body that is cut only cuts the text.
            let mut body = BytesMut::new();
            let read = timeout_at(deadline.min(Instant::now() + MESSAGE_WAIT), read_some(&mut incoming, &mut body));
            let fault = (!read.await.unwrap_or(false)).then(|| "not read to its end".to_owned());
            let now = (self.config.wall_clock)();
            return Answer::Peer(answer::http_for_grpc(head.status, &head.headers, &body, fault, spans, now));
        }
        self.read_answer(&head.headers, &mut incoming, spans).await
    }

    /// Reads message and trailers behind the headers of an answer.
    async fn read_answer(&self, headers: &HeaderMap, stream: &mut RecvStream, spans: usize) -> Answer {
        let max = self.config.max_response_bytes;
        let mut body = BytesMut::new();
        while let Some(data) = stream.data().await {
            let data = match data {
                Ok(data) => data,
                Err(error) => return broken(&error),
            };
            // Receiving goes on only as far as the window is given back.
            let _ = stream.flow_control().release_capacity(data.len());
            if body.len() + data.len() > PREFIX + max {
                // A failure has no message, so this call succeeded.
                return Answer::Broken(answer::unreadable_grpc(&format!("more than {max} bytes")));
            }
            body.extend_from_slice(&data);
        }
        let trailers = match stream.trailers().await {
            Ok(trailers) => trailers.unwrap_or_default(),
            Err(error) => return broken(&error),
        };
        Answer::Peer(answer::grpc(&trailers, unframe(headers, &body, max), spans).unwrap_or_else(|| {
            answer::http_for_grpc(StatusCode::OK, headers, &body, None, spans, (self.config.wall_clock)())
        }))
    }

    /// The frame in front of a message.
    fn prefix(&self, message: &Bytes) -> Bytes {
        let mut prefix = BytesMut::with_capacity(PREFIX);
        prefix.put_u8(u8::from(self.config.compression != Compression::None));
        prefix.put_u32(u32::try_from(message.len()).expect("a request is limited to 1 GiB"));
        prefix.freeze()
    }

    fn request(&self, deadline: Instant) -> Request<()> {
        let mut request = self.head();
        // The peer can stop work on a call that has timed out, which makes fewer duplicates.
        let left = deadline.saturating_duration_since(Instant::now()).as_millis().max(1);
        if let Ok(left) = HeaderValue::from_str(&format!("{left}m")) {
            request.headers_mut().insert("grpc-timeout", left);
        }
        request
    }

    /// A request without the headers that depend on time.
    fn head(&self) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = self.config.endpoint.uri.clone();
        let headers = request.headers_mut();
        self.config.headers.append_to(headers);
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(header::USER_AGENT, self.config.user_agent.clone());
        if let Some(coding) = Coding::of(self.config.compression) {
            let accepted = if coding == Coding::Gzip { "gzip" } else { "zstd,gzip" };
            headers.insert("grpc-encoding", HeaderValue::from_static(coding.name()));
            headers.insert("grpc-accept-encoding", HeaderValue::from_static(accepted));
        }
        request
    }
}

#[async_trait]
impl Transport for GrpcTransport {
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

impl fmt::Debug for GrpcTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrpcTransport").field("config", &self.config).finish_non_exhaustive()
    }
}

/// An outcome by its source.
enum Answer {
    /// An answer of the peer; the connection is good for the next call.
    Peer(Outcome),
    /// The connection or the stream ended, or an answer was not read to its end; no further call uses the connection.
    Broken(Outcome),
    /// The peer did not look at the request; no further call uses the connection.
    Unprocessed(Cause),
}

/// The first message of an answer, of at most `max` bytes; nothing at all counts as an empty one.
fn unframe(headers: &HeaderMap, body: &[u8], max: usize) -> Result<Vec<u8>, String> {
    if body.is_empty() {
        return Ok(Vec::new());
    }
    let Some((prefix, rest)) = body.split_at_checked(PREFIX) else {
        return Err(format!("{} bytes that are no gRPC message", body.len()));
    };
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
    let Some(message) = rest.get(..length) else {
        return Err(format!("a gRPC message of {length} bytes of which {} came", rest.len()));
    };
    let encoding = headers.get("grpc-encoding").map(|encoding| encoding.as_bytes().trim_ascii().to_ascii_lowercase());
    match (prefix[0], encoding.as_deref()) {
        (0, _) => Ok(message.to_vec()),
        (1, encoding) => match encoding.and_then(Coding::named) {
            Some(coding) => coding.open(message, max).map_err(|error| error.to_string()),
            None => {
                let encoding = String::from_utf8_lossy(encoding.unwrap_or(b"none"));
                Err(format!("a compressed gRPC message, and its grpc-encoding is {}", answer::plain(&encoding)))
            }
        },
        (flags, _) => Err(format!("a gRPC message with the unknown flags {flags}")),
    }
}

/// Reads as much of a body as a message needs. True if that is the whole body.
async fn read_some(stream: &mut RecvStream, body: &mut BytesMut) -> bool {
    while body.len() < MAX_START {
        match stream.data().await {
            Some(Ok(data)) => {
                let _ = stream.flow_control().release_capacity(data.len());
                body.extend_from_slice(&data);
            }
            end => return end.is_none(),
        }
    }
    false
}

/// Whether an answer with HTTP status 200 can be gRPC; some servers leave the content type out.
fn may_be_grpc(headers: &HeaderMap) -> bool {
    let content_type = answer::content_type(headers);
    content_type.is_empty() || content_type.starts_with("application/grpc")
}

/// Whether a stream without an answer was not processed by the peer (RFC 9113, section 8.7): h2 gives the GOAWAY of the
/// peer to the streams above its last stream only, and the end of the connection to those below.
fn is_unprocessed(error: &h2::Error) -> bool {
    let is_refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
    error.is_remote() && (error.is_go_away() || is_refused)
}

/// A call without an answer, or with a part of one.
fn broken(error: &h2::Error) -> Answer {
    if let Some(why) = error.get_io().and_then(|io| duplex::why_nothing_was_taken(io)) {
        let cause = Cause::Connect(why);
        return Answer::Broken(Outcome::Retryable { after: None, cause, possible_duplicate: false });
    }
    Answer::Broken(Outcome::Retryable { after: None, cause: cause_of(error), possible_duplicate: true })
}

fn cause_of(error: &h2::Error) -> Cause {
    // The first bytes of an HTTP/1 answer, read as a frame, are a frame that is far too long.
    let hint = if error.reason() == Some(Reason::FRAME_SIZE_ERROR) && !error.is_remote() {
        "; the peer may not speak gRPC: its usual port is 4317"
    } else {
        ""
    };
    // The text may hold the debug data of the peer's GOAWAY.
    Cause::Broken(format!("{}{hint}", answer::plain(&error.to_string())))
}
