//! What came of one attempt to send.

use std::fmt;
use std::time::Duration;

/// What came of one attempt to send one payload: the table of the OTLP specification 1.11, in types.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The collector took the batch; it must never be sent again.
    Delivered {
        /// Spans the collector refused in a partial success, clamped to what was sent.
        rejected: usize,
        /// What the collector said about it, if anything.
        message: Option<String>,
    },
    /// The same bytes may be sent again, later.
    Retryable {
        /// The peer's hint (`Retry-After`, `RetryInfo`), unclamped: a throttle. Without one: a failure.
        after: Option<Duration>,
        /// What went wrong.
        cause: Cause,
        /// The collector may have taken the batch although no answer says so: a resend may duplicate it.
        possible_duplicate: bool,
    },
    /// Too many bytes for the peer or for our own limit: split and send the parts.
    TooLarge {
        /// What said so.
        cause: Cause,
    },
    /// The collector will never take these bytes: a dead letter.
    Permanent {
        /// What the peer answered.
        cause: Cause,
    },
}

impl Outcome {
    /// Whether the collector has the batch.
    #[must_use]
    pub fn is_delivered(&self) -> bool {
        matches!(self, Self::Delivered { .. })
    }

    /// Whether the peer asked for a pause: retryable, with a hint. Not a failure for a circuit breaker, but a reason to
    /// send less.
    #[must_use]
    pub fn is_throttle(&self) -> bool {
        matches!(self, Self::Retryable { after: Some(_), .. })
    }

    /// Whether the endpoint is not there or not answering: no connection, or our own time-out. What a failover goes by.
    #[must_use]
    pub fn is_connect_or_timeout(&self) -> bool {
        matches!(self, Self::Retryable { cause: Cause::Connect(_) | Cause::Timeout(_), .. })
    }

    /// Whether the batch may have been taken although nothing says so.
    #[must_use]
    pub fn is_possible_duplicate(&self) -> bool {
        matches!(self, Self::Retryable { possible_duplicate: true, .. })
    }

    /// Why the batch was not delivered.
    #[must_use]
    pub fn cause(&self) -> Option<&Cause> {
        match self {
            Self::Delivered { .. } => None,
            Self::Retryable { cause, .. } | Self::TooLarge { cause } | Self::Permanent { cause } => Some(cause),
        }
    }
}

/// Why an attempt did not deliver. `Display` is safe to log: it holds no header value and no payload, and what it holds of
/// a peer's text is one line of at most some 500 characters.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// No connection: name look-up, connect, TLS. Nothing was sent.
    Connect(String),
    /// Our own time-out ran out.
    Timeout(Duration),
    /// The connection ended without an answer: GOAWAY, RST, closed, a protocol error.
    Broken(String),
    /// An answer that could not be read or was larger than the limit.
    Unreadable(String),
    /// An HTTP status sent by the peer.
    Http {
        /// The status code.
        status: u16,
        /// The message of the `google.rpc.Status` in the body, or the start of the body.
        message: String,
    },
    /// A gRPC status sent by the peer.
    Grpc {
        /// The status code as it was sent; 1 to 16 are defined.
        code: i32,
        /// The status message.
        message: String,
    },
    /// A foreign exporter's error text: nothing else is known of it.
    Foreign(String),
    /// Our own limit on the size of a request.
    RequestLimit {
        /// Bytes of the request.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(detail) => write!(f, "no connection: {detail}"),
            Self::Timeout(limit) => write!(f, "no answer within {limit:?}"),
            Self::Broken(detail) => write!(f, "connection ended without an answer: {detail}"),
            Self::Unreadable(detail) => write!(f, "answer could not be read: {detail}"),
            Self::Http { status, message } if message.is_empty() => write!(f, "HTTP status {status}"),
            Self::Http { status, message } => write!(f, "HTTP status {status}: {message}"),
            Self::Grpc { code, message } if message.is_empty() => write!(f, "gRPC status {code}"),
            Self::Grpc { code, message } => write!(f, "gRPC status {code}: {message}"),
            Self::Foreign(detail) => write!(f, "exporter failed: {detail}"),
            Self::RequestLimit { size, limit } => write!(f, "request of {size} bytes is over the limit of {limit}"),
        }
    }
}
