//! The outcome of one attempt to send.

use std::fmt;
use std::time::Duration;

use crate::size::names_a_maximum;

/// The outcome of one attempt to send one payload. `docs/otlp.md` has the table from answers to outcomes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The collector took the batch; it must never be sent again.
    Delivered {
        /// How many spans the collector refused in a partial success; never more than were sent.
        rejected: usize,
        /// The collector's message of the partial success, unless empty.
        message: Option<String>,
    },
    /// A status of success with an answer that no OTLP server gives: the batch counts as taken and must never be sent
    /// again.
    AcknowledgedUnreadably {
        /// The answer.
        cause: Cause,
    },
    /// The same bytes may be sent again, later.
    Retryable {
        /// The peer's hint (`Retry-After`, `RetryInfo`), unclamped: a throttle. Without one: a failure.
        after: Option<Duration>,
        /// The failure. By the specification gRPC status 8 (`RESOURCE_EXHAUSTED`) without a hint should not be retried;
        /// a caller that follows it to the letter finds it by its code here.
        cause: Cause,
        /// The collector may have taken the batch although no answer says so: a resend may duplicate it. It is an upper
        /// bound: true if bytes of the request went out and the answer does not prove that the peer took nothing.
        possible_duplicate: bool,
    },
    /// Too many bytes for the peer or for our own limit: split and send the parts. A payload of one span has this
    /// outcome only for HTTP status 413 and for our own limit.
    TooLarge {
        /// The answer, or our own limit.
        cause: Cause,
        /// As in [`Retryable`](Self::Retryable).
        possible_duplicate: bool,
    },
    /// The collector refused the credentials of the request, of which it took nothing, and newer ones are there now:
    /// the same bytes may be sent once more at once. A caller that sends them so treats a second refusal as
    /// [`Refused`](Self::Refused) with [`RefusalKind::Sender`], and so does one that repeats no refused request.
    CredentialsRenewed {
        /// The peer's answer.
        cause: Cause,
        /// The newest generation of the credentials: it grows with each change.
        generation: u64,
    },
    /// The collector refused the request. Whether the fault is the batch's or the sender's is for the caller to find
    /// out, by the calls that follow.
    Refused {
        /// The side at which the answer hints.
        kind: RefusalKind,
        /// The peer's answer.
        cause: Cause,
        /// As in [`Retryable`](Self::Retryable).
        possible_duplicate: bool,
    },
}

/// The side at which a refusal hints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RefusalKind {
    /// These bytes: HTTP 400 and 422, gRPC `INVALID_ARGUMENT` and `ALREADY_EXISTS`.
    Batch,
    /// None: HTTP 500 and every status outside the table, gRPC `INTERNAL`, `UNKNOWN` and codes outside the table.
    Unclear,
    /// The credentials, the address or the protocol of the sender: HTTP 401, 403, 404 and others, gRPC
    /// `UNAUTHENTICATED`, `PERMISSION_DENIED`, `UNIMPLEMENTED` and others.
    Sender,
}

impl Outcome {
    /// Whether the collector has the batch.
    #[must_use]
    pub fn is_delivered(&self) -> bool {
        matches!(self, Self::Delivered { .. } | Self::AcknowledgedUnreadably { .. })
    }

    /// Why the batch was not delivered, or was acknowledged by an answer that cannot be read.
    #[must_use]
    pub fn cause(&self) -> Option<&Cause> {
        match self {
            Self::Delivered { .. } => None,
            Self::AcknowledgedUnreadably { cause }
            | Self::Retryable { cause, .. }
            | Self::TooLarge { cause, .. }
            | Self::CredentialsRenewed { cause, .. }
            | Self::Refused { cause, .. } => Some(cause),
        }
    }
}

/// Why an attempt did not deliver. `Display` is safe to log: it holds no header value, no secret of the endpoint's URL
/// and no payload, and a peer's text in it is one line, cut behind 512 characters.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// No connection: name look-up, connect, TLS. Nothing was sent.
    Connect(String),
    /// No credentials for the request: their provider failed, or gave headers that no request may have. Nothing was
    /// sent.
    Credentials(String),
    /// Our own time-out ran out.
    Timeout(Duration),
    /// The connection or the stream ended without an answer: GOAWAY, RST, closed, a protocol error; or a second peer
    /// within one call did not process the request.
    Broken(String),
    /// An answer that could not be read or was larger than the limit.
    Unreadable(String),
    /// A status of success with an answer that no OTLP server gives: status, content type and the start of the body.
    Unexpected(String),
    /// An HTTP status sent by the peer.
    Http {
        /// The status code.
        status: u16,
        /// The message of the `google.rpc.Status` in the body, or the start of the body; of a redirect its target
        /// without query; of a page of HTML, and of an answer to a gRPC call without a gRPC status, the content type
        /// too; of a server that asks for TLS or for a client certificate, the remedy too.
        message: String,
    },
    /// A gRPC status sent by the peer.
    Grpc {
        /// The status code as it was sent; 1 to 16 are defined.
        code: i32,
        /// The status message.
        message: String,
    },
    /// The error text of a foreign exporter, which gives nothing else; URLs in it are shown without their secrets.
    Foreign(String),
    /// Our own limit on the size of a request.
    RequestLimit {
        /// Bytes of the request.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The spans were older than the limit on the age at which they may be sent: nothing was sent. No transport has
    /// this cause; a caller with such a limit has.
    TooOld {
        /// The limit.
        max_age: Duration,
    },
}

impl Cause {
    /// The request has too many bytes: for our own limit, or by the peer's status or text. The answer to a single span,
    /// which cannot be split, says so too, although its outcome follows from its status.
    #[must_use]
    pub fn is_about_size(&self) -> bool {
        match self {
            Self::RequestLimit { .. } | Self::Http { status: 413, .. } => true,
            Self::Http { message, .. } | Self::Grpc { message, .. } => names_a_maximum(message),
            _ => false,
        }
    }
}

impl Cause {
    /// The peer refused the credentials of the request: HTTP 401 and 403, gRPC `UNAUTHENTICATED` and
    /// `PERMISSION_DENIED`, unless its text is about a size. `PERMISSION_DENIED` is what gRPC makes of HTTP 403, by
    /// which gateways and AWS answer an expired token or signature too. HTTP 407 is about the credentials of a proxy,
    /// which are another setting.
    #[must_use]
    pub fn is_about_credentials(&self) -> bool {
        matches!(self, Self::Http { status: 401 | 403, .. } | Self::Grpc { code: 16 | 7, .. }) && !self.is_about_size()
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(detail) => write!(f, "no connection: {detail}"),
            Self::Credentials(detail) => write!(f, "no credentials: {detail}"),
            Self::Timeout(limit) => write!(f, "no answer within {limit:?}"),
            Self::Broken(detail) => write!(f, "connection ended without an answer: {detail}"),
            Self::Unreadable(detail) => write!(f, "answer could not be read: {detail}"),
            Self::Unexpected(answer) => f.write_str(answer),
            Self::Http { status, message } if message.is_empty() => write!(f, "HTTP status {status}"),
            Self::Http { status, message } => write!(f, "HTTP status {status}: {message}"),
            Self::Grpc { code, message } if message.is_empty() => write!(f, "gRPC status {code}"),
            Self::Grpc { code, message } => write!(f, "gRPC status {code}: {message}"),
            Self::Foreign(detail) => write!(f, "exporter failed: {detail}"),
            Self::RequestLimit { size, limit } => write!(f, "request of {size} bytes is over the limit of {limit}"),
            Self::TooOld { max_age } => write!(f, "too_old: ended more than {max_age:?} before it could be sent"),
        }
    }
}
