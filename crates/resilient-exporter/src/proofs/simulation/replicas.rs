//! The replicas behind the endpoint, their answers, and the connections that lead to them.

use std::collections::HashSet;
use std::time::Duration;

use otlp_payload::Payload;
use otlp_transport::{Cause, Outcome, RefusalKind};
use rand::RngExt as _;
use rand::rngs::SmallRng;

use super::numbers;

/// The answer of a replica to one request.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Reply {
    Accept,
    /// A partial success: this many spans are rejected, the others stored.
    PartlyReject(usize),
    /// The request is stored, and the answer is one that no OTLP server gives.
    Unreadable,
    /// An HTTP status; nothing is stored.
    Status(u16),
    /// A gateway stores the request in its backend and answers by this status.
    StatusOfStored(u16),
    /// Status 429 with `Retry-After`.
    Throttle(Duration),
    /// No answer before the transport's time-out.
    TimeOut {
        stored: bool,
    },
    /// The connection ends without an answer.
    Reset,
    ConnectionRefused,
    /// The credentials are refused, and the transport has newer ones, of this generation.
    Renewed(u64),
    /// The transport has no credentials: nothing is sent.
    NoCredentials,
    /// GOAWAY below the request's stream: the transport repeats the request once, on a new connection.
    GoAway,
}

/// The longest call: the transport's own time-out.
pub(super) const CALL: Duration = Duration::from_secs(10);

/// The side of a refusal, or `None` for a status that is no refusal: the table of `docs/otlp.md`, written anew.
pub(super) fn refusal_kind(status: u16) -> Option<RefusalKind> {
    match status {
        200..=299 | 413 | 429 | 502..=504 => None,
        400 | 422 => Some(RefusalKind::Batch),
        300..=399 | 401..=405 | 407 | 410 | 415 | 421 | 426 | 431 | 464 => Some(RefusalKind::Sender),
        _ => Some(RefusalKind::Unclear),
    }
}

impl Reply {
    /// The spans, counted from the first, that the replica stores of a request of this many.
    pub(super) fn stored_of(self, spans: usize) -> usize {
        match self {
            Self::Accept | Self::Unreadable | Self::StatusOfStored(_) | Self::TimeOut { stored: true } => spans,
            Self::PartlyReject(rejected) => spans.saturating_sub(rejected),
            Self::Status(_)
            | Self::Throttle(_)
            | Self::TimeOut { stored: false }
            | Self::Reset
            | Self::ConnectionRefused
            | Self::Renewed(_)
            | Self::NoCredentials
            | Self::GoAway => 0,
        }
    }

    pub(super) fn is_acceptance(self) -> bool {
        matches!(self, Self::Accept | Self::PartlyReject(_) | Self::Unreadable)
    }

    fn breaks_the_connection(self) -> bool {
        matches!(self, Self::TimeOut { .. } | Self::Reset | Self::ConnectionRefused | Self::GoAway)
    }

    /// The outcome that the transport reports for it.
    pub(super) fn outcome(self, spans: usize) -> Outcome {
        let retryable = |cause, possible_duplicate| Outcome::Retryable { after: None, cause, possible_duplicate };
        match self {
            Self::Accept => Outcome::Delivered { rejected: 0, message: None },
            Self::PartlyReject(rejected) => Outcome::Delivered { rejected: rejected.min(spans), message: None },
            Self::Unreadable => Outcome::AcknowledgedUnreadably { cause: of_status(200) },
            Self::Status(status) | Self::StatusOfStored(status) => {
                // These answers prove that nothing was stored.
                let possible_duplicate = !matches!(status, 401 | 403 | 404 | 405 | 407 | 413 | 429);
                let cause = of_status(status);
                match refusal_kind(status) {
                    _ if status == 413 => Outcome::TooLarge { cause, possible_duplicate },
                    Some(kind) => Outcome::Refused { kind, cause, possible_duplicate },
                    None => retryable(cause, possible_duplicate),
                }
            }
            Self::Throttle(hint) => {
                Outcome::Retryable { after: Some(hint), cause: of_status(429), possible_duplicate: false }
            }
            Self::Renewed(generation) => Outcome::CredentialsRenewed { cause: of_status(401), generation },
            Self::NoCredentials => retryable(Cause::Credentials("no file".to_owned()), false),
            Self::TimeOut { .. } => retryable(Cause::Timeout(CALL), true),
            Self::Reset => retryable(Cause::Broken("reset".to_owned()), true),
            Self::ConnectionRefused => retryable(Cause::Connect("refused".to_owned()), false),
            Self::GoAway => retryable(Cause::Broken("GOAWAY".to_owned()), false),
        }
    }
}

fn of_status(status: u16) -> Cause {
    Cause::Http { status, message: String::new() }
}

/// One replica, as it is now.
#[derive(Clone, Debug)]
pub(super) struct Replica {
    pub(super) reply: Reply,
    /// The answer to a request that holds one of these spans, where `reply` is an acceptance.
    pub(super) bad: Vec<(HashSet<u64>, Reply)>,
    /// Requests of more bytes are answered by 413.
    pub(super) max_bytes: Option<usize>,
    /// Each call whose number is a multiple of the first is answered by the second.
    pub(super) now_and_then: Option<(u64, Reply)>,
    /// The time from the request to the answer.
    pub(super) latency: Duration,
    pub(super) calls: u64,
}

impl Replica {
    pub(super) fn new(reply: Reply) -> Self {
        Self {
            reply,
            bad: Vec::new(),
            max_bytes: None,
            now_and_then: None,
            latency: Duration::from_millis(10),
            calls: 0,
        }
    }

    pub(super) fn accepting() -> Self {
        Self::new(Reply::Accept)
    }

    /// The answer to a request, and the time until then.
    fn answer(&mut self, request: &Payload) -> (Reply, Duration) {
        self.calls += 1;
        let reply = self.reply_to(request);
        let time = match reply {
            Reply::TimeOut { .. } => CALL,
            _ => self.latency,
        };
        (reply, time)
    }

    fn reply_to(&self, request: &Payload) -> Reply {
        if !self.reply.is_acceptance() {
            return self.reply;
        }
        if self.max_bytes.is_some_and(|max| request.bytes().len() > max) {
            return Reply::Status(413);
        }
        let is_held = |spans: &HashSet<u64>| numbers(request).any(|number| spans.contains(&number));
        if let Some((_, reply)) = self.bad.iter().find(|(spans, _)| is_held(spans)) {
            return *reply;
        }
        match self.now_and_then {
            Some((nth, reply)) if self.calls.is_multiple_of(nth) => reply,
            _ => self.reply,
        }
    }

    /// Whether the replica, as it is now, stores at least the smallest request with this span.
    pub(super) fn takes(&self, span: u64) -> bool {
        self.reply.is_acceptance()
            && self.max_bytes.is_none()
            && !self.bad.iter().any(|(spans, _)| spans.contains(&span))
    }
}

/// The choice of the replica for a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Balancing {
    /// The replica of the connection that is kept; each new connection leads to the next one.
    ByConnection,
    /// Each request goes to the next one.
    ByRequest,
}

/// The endpoint: all replicas behind one address.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) replicas: Vec<Replica>,
    pub(super) balancing: Balancing,
    /// The replica to which the kept connection leads; none after the connection has ended.
    kept: Option<usize>,
    next: usize,
    /// Chooses the replica of each new connection; without one, connections go around.
    pub(super) chance: Option<SmallRng>,
}

/// The handling of one request by the peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Handled {
    pub(super) replica: usize,
    pub(super) reply: Reply,
    pub(super) time: Duration,
}

impl Peer {
    pub(super) fn new(replicas: Vec<Replica>) -> Self {
        Self { replicas, balancing: Balancing::ByConnection, kept: None, next: 0, chance: None }
    }

    /// The peer's answer to a request, which the transport sends over a new connection if it is `fresh`.
    pub(super) fn handle(&mut self, request: &Payload, fresh: bool) -> Handled {
        let handled = self.handle_once(request, fresh);
        match handled.reply {
            Reply::GoAway => self.handle_once(request, true),
            _ => handled,
        }
    }

    fn handle_once(&mut self, request: &Payload, fresh: bool) -> Handled {
        let replica = match self.kept.filter(|_| !fresh && self.balancing == Balancing::ByConnection) {
            Some(replica) => replica,
            None => {
                let count = self.replicas.len();
                self.next = match &mut self.chance {
                    Some(chance) => chance.random_range(0..count),
                    None => (self.next + 1) % count,
                };
                self.next
            }
        };
        let (reply, time) = self.replicas[replica].answer(request);
        self.kept = Some(replica).filter(|_| !reply.breaks_the_connection());
        Handled { replica, reply, time }
    }

    /// All replicas give this answer from now on, and know no bad batch.
    pub(super) fn all(&mut self, reply: Reply) {
        for replica in &mut self.replicas {
            *replica = Replica { latency: replica.latency, ..Replica::new(reply) };
        }
    }
}
