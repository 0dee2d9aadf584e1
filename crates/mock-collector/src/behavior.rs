//! The script of a fault: how the collector treats a request.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How the collector treats a request once it has read it (or that it does not read it at all).
///
/// The default takes the spans and says so. As JSON, for the program, it is for example
/// `{"action": {"answer": {"status": {"grpc": 14}, "retry_after_ms": 1500}}, "store": true, "delay_ms": 200}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Behavior {
    pub(crate) action: Action,
    pub(crate) store: bool,
    pub(crate) delay_ms: u64,
}

/// The last step: an answer, an end of the connection, or neither.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Action {
    #[default]
    Accept,
    Reject {
        spans: u64,
        #[serde(default)]
        message: String,
    },
    NeverRead,
    NeverAnswer,
    Answer(Answer),
    End(End),
}

impl Behavior {
    /// Takes the spans and answers with success: the default.
    #[must_use]
    pub fn accept() -> Self {
        Self::default()
    }

    /// Takes all but the last `spans` spans of a request and answers with a partial success. A rejected span is neither
    /// counted as received nor kept. With more spans than the request holds nothing is taken, and the answer still says
    /// `spans`: a peer that counts wrongly. With 0 the message is a warning.
    #[must_use]
    pub fn reject(spans: u64, message: impl Into<String>) -> Self {
        Self::new(Action::Reject { spans, message: message.into() })
    }

    /// Accepts connections and neither reads nor writes, until the behavior is set again; then it goes on reading where
    /// it stood, as a process does that was stopped and continues. Connections that are already open are held too.
    ///
    /// With [`set_next`](crate::MockCollector::set_next) it concerns the next n *connections*, each held until the next
    /// call of `set`; a request that meets it on a connection which is being read is never answered.
    #[must_use]
    pub fn never_read() -> Self {
        Self::new(Action::NeverRead)
    }

    /// Reads the request and never answers; the connection stays open.
    #[must_use]
    pub fn never_answer() -> Self {
        Self::new(Action::NeverAnswer)
    }

    /// Reads the request and answers with this.
    #[must_use]
    pub fn answer(answer: Answer) -> Self {
        Self::new(Action::Answer(answer))
    }

    /// Reads the request and ends the connection (or the stream) instead of answering.
    #[must_use]
    pub fn end(end: End) -> Self {
        Self::new(Action::End(end))
    }

    /// Takes the spans although it then answers with a failure, with nothing, or ends the connection: a client that
    /// sends them again sends duplicates. Without effect on [`accept`](Self::accept) and [`reject`](Self::reject),
    /// which say what they take.
    #[must_use]
    pub fn storing(mut self) -> Self {
        self.store = true;
        self
    }

    /// Waits this long between taking the spans (if it takes any) and the last step. Whole milliseconds count.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay_ms = whole_millis(delay);
        self
    }

    fn new(action: Action) -> Self {
        Self { action, ..Self::default() }
    }
}

/// An answer of any status. A gRPC status sent by the HTTP port becomes the HTTP status that the OpenTelemetry
/// Collector makes of it (14: 503, 8: 429, 3: 400, 16: 401, 7: 403, 12: 404, else 500; 0: 200). An HTTP status sent by
/// the gRPC port is an HTTP/2 response without `grpc-status`, as a proxy in between sends it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    pub(crate) status: Status,
    #[serde(default)]
    pub(crate) message: String,
    #[serde(default)]
    pub(crate) retry_after_ms: Option<u64>,
    #[serde(default)]
    pub(crate) details: Option<Vec<u8>>,
    #[serde(default)]
    pub(crate) headers: Vec<(String, String)>,
    #[serde(default)]
    pub(crate) body: Option<(String, Vec<u8>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    Grpc(i32),
    Http(u16),
}

impl Answer {
    /// A gRPC status: 0 to 16, or any other number. 0 comes with an empty success message.
    #[must_use]
    pub fn grpc(code: i32) -> Self {
        Self::new(Status::Grpc(code))
    }

    /// An HTTP status. One outside 100 to 999 is answered as 500. For a status below 200 use [`End::Raw`]: it is no
    /// final answer.
    #[must_use]
    pub fn http(status: u16) -> Self {
        Self::new(Status::Http(status))
    }

    /// The message: `grpc-message`, or that of the `google.rpc.Status` in the HTTP body.
    #[must_use]
    pub fn with_message(mut self, message: impl Into<String>) -> Self {
        self.message = message.into();
        self
    }

    /// A hint when to come back: over gRPC a `RetryInfo` in `grpc-status-details-bin`, over HTTP `Retry-After` in whole
    /// seconds, rounded up. For a date or for nonsense use [`with_header`](Self::with_header).
    #[must_use]
    pub fn with_retry_after(mut self, delay: Duration) -> Self {
        self.retry_after_ms = Some(whole_millis(delay));
        self
    }

    /// These bytes as `grpc-status-details-bin` instead of the `RetryInfo` of
    /// [`with_retry_after`](Self::with_retry_after): over gRPC only.
    #[must_use]
    pub fn with_status_details(mut self, details: impl Into<Vec<u8>>) -> Self {
        self.details = Some(details.into());
        self
    }

    /// A further header, over gRPC a further piece of metadata. One that HTTP does not allow is left out.
    #[must_use]
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// A body of one's own: over HTTP these bytes with this content type, over gRPC the bytes as the response message.
    #[must_use]
    pub fn with_body(mut self, content_type: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some((content_type.into(), body.into()));
        self
    }

    fn new(status: Status) -> Self {
        Self { status, message: String::new(), retry_after_ms: None, details: None, headers: Vec::new(), body: None }
    }
}

/// How a connection ends without an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// An HTTP/2 GOAWAY with this error code (0 = `NO_ERROR`) that ends all streams at once, then the end of the
    /// connection. On an HTTP/1 connection, which knows no GOAWAY: [`Fin`](Self::Fin).
    GoAway(u32),
    /// An HTTP/2 GOAWAY with this error code whose last stream is 0, then the end of the connection: by this word no
    /// stream of the client was processed. On an HTTP/1 connection: [`Fin`](Self::Fin).
    GoAwayUnprocessed(u32),
    /// An HTTP/2 `RST_STREAM` with this error code: the connection lives on. On an HTTP/1 connection:
    /// [`Rst`](Self::Rst).
    Stream(u32),
    /// An orderly end of the TCP connection.
    Fin,
    /// A TCP reset.
    Rst,
    /// These bytes as they stand instead of an answer, then [`Fin`](Self::Fin): interim answers, torn answers, garbage.
    Raw(Vec<u8>),
}

/// The behaviors to come: those for a number of requests, then the one that stands.
#[derive(Debug, Default)]
pub(crate) struct Script {
    standing: Behavior,
    next: VecDeque<(u64, Behavior)>,
}

impl Script {
    pub(crate) fn set(&mut self, behavior: Behavior) {
        self.next.clear();
        self.standing = behavior;
    }

    pub(crate) fn set_next(&mut self, count: u64, behavior: Behavior) {
        if count > 0 {
            self.next.push_back((count, behavior));
        }
    }

    /// The behavior for the request that was just read.
    pub(crate) fn for_request(&mut self) -> Behavior {
        let Some((left, behavior)) = self.next.front_mut() else { return self.standing.clone() };
        let behavior = behavior.clone();
        *left -= 1;
        if *left == 0 {
            self.next.pop_front();
        }
        behavior
    }

    /// Whether the connection that was just accepted is one of the next n that are never read.
    pub(crate) fn holds_connection(&mut self) -> bool {
        let held = self.next.front().is_some_and(|(_, behavior)| behavior.action == Action::NeverRead);
        if held {
            self.for_request();
        }
        held
    }

    /// Whether nothing is read at all now.
    pub(crate) fn holds_all(&self) -> bool {
        self.standing.action == Action::NeverRead
    }
}

fn whole_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_behaviors_run_in_order_before_the_standing_one() {
        let mut script = Script::default();
        script.set(Behavior::never_answer());
        script.set_next(2, Behavior::accept());
        script.set_next(0, Behavior::end(End::Fin));
        script.set_next(1, Behavior::end(End::Rst));
        let seen: Vec<_> = (0..5).map(|_| script.for_request().action).collect();
        let rst = Action::End(End::Rst);
        assert_eq!(seen, [Action::Accept, Action::Accept, rst, Action::NeverAnswer, Action::NeverAnswer]);
    }

    #[test]
    fn setting_the_standing_behavior_drops_what_was_queued() {
        let mut script = Script::default();
        script.set_next(5, Behavior::end(End::Rst));
        script.set(Behavior::accept());
        assert_eq!(script.for_request(), Behavior::accept());
    }

    #[test]
    fn only_connections_use_up_a_queued_never_read() {
        let mut script = Script::default();
        script.set_next(1, Behavior::never_read());
        assert!(!script.holds_all());
        assert!(script.holds_connection());
        assert!(!script.holds_connection());
        assert_eq!(script.for_request(), Behavior::accept());
    }

    #[test]
    fn json_is_what_the_documentation_says() {
        let text = r#"{"action": {"answer": {"status": {"grpc": 14}, "retry_after_ms": 1500}}, "store": true, "delay_ms": 200}"#;
        let answer = Answer::grpc(14).with_retry_after(Duration::from_millis(1500));
        let expected = Behavior::answer(answer).storing().after(Duration::from_millis(200));
        assert_eq!(serde_json::from_str::<Behavior>(text).expect("valid"), expected);
        assert_eq!(
            serde_json::from_str::<Behavior>(r#"{"action": "never_read"}"#).expect("valid"),
            Behavior::never_read()
        );
        let end = serde_json::from_str::<Behavior>(r#"{"action": {"end": {"go_away": 11}}}"#).expect("valid");
        assert_eq!(end, Behavior::end(End::GoAway(11)));
        let end =
            serde_json::from_str::<Behavior>(r#"{"action": {"end": {"go_away_unprocessed": 0}}}"#).expect("valid");
        assert_eq!(end, Behavior::end(End::GoAwayUnprocessed(0)));
        assert!(serde_json::from_str::<Behavior>(r#"{"acton": "accept"}"#).is_err());
    }
}
