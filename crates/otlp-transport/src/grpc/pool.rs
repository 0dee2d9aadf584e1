//! The connection that all calls share, and its successor.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use h2::client::SendRequest;
use tokio::time::Instant;

use super::slots::{Slot, Slots};
use crate::config::Config;
use crate::connect::age::{self, Successor};
use crate::connect::failures::Failures;
use crate::connect::{self, Connector, Driver};
use crate::duplex::Duplex;
use crate::outcome::{Cause, Outcome};

/// Most header bytes that an answer may have; a status, a message and its details need a fraction.
const MAX_HEADERS: u32 = 64 << 10;

/// Hands the one connection out, a slot of it for each call.
pub(super) struct Pool {
    connector: Arc<Connector>,
    max_age: Duration,
    /// Never held across an await.
    current: Mutex<Current>,
    /// One call at a time looks for its slot and opens a connection; calls behind it use the new connection.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Current {
    /// The connection for the next call.
    kept: Option<Kept>,
    /// Counts the calls of `reconnect`: a connection that was begun before the last of them serves its own call only.
    generation: u64,
    /// The connection that takes the place of the kept one.
    successor: Successor<Connection>,
}

struct Kept {
    connection: Arc<Connection>,
    last_use: Instant,
}

struct Connection {
    requests: SendRequest<Bytes>,
    slots: Arc<Slots>,
    failures: Failures,
    opened: Instant,
    /// From this instant on it is to be replaced.
    due: Instant,
    driver: Driver,
}

/// The right to one request on a connection.
pub(super) struct Lease {
    pub(super) requests: SendRequest<Bytes>,
    connection: Arc<Connection>,
    /// Free for the next call once this one ends.
    _slot: Slot,
}

impl Pool {
    pub(super) fn new(connector: Connector, config: &Config) -> Self {
        Self {
            connector: Arc::new(connector),
            max_age: config.connection_max_age,
            current: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    pub(super) fn connector(&self) -> &Connector {
        &self.connector
    }

    /// A slot of the current connection if it still works, or else of a new one. Waits while the peer's
    /// `MAX_CONCURRENT_STREAMS` are out.
    pub(super) async fn lease(&self) -> Result<Lease, Cause> {
        let _turn = self.turn.lock().await;
        loop {
            let (connection, requests) = match self.usable().await {
                Some(usable) => usable,
                None => self.open().await?,
            };
            // None: the connection was given up meanwhile.
            if let Some(slot) = connection.slots.take().await {
                return Ok(Lease { requests, connection, _slot: slot });
            }
        }
    }

    /// Keeps further calls away from the connection of a call; calls that are on it still end there.
    pub(super) fn give_up(&self, lease: &Lease) {
        let mut current = self.current();
        if current.kept.as_ref().is_some_and(|kept| Arc::ptr_eq(&kept.connection, &lease.connection)) {
            current.retire();
            self.connector.avoid_last_address();
        }
    }

    /// The cause of a call that found no slot within its time, if there will be none: the connection is given up then.
    pub(super) fn shut(&self) -> Option<Cause> {
        let mut current = self.current();
        let is_shut = current.kept.as_ref().is_some_and(|kept| kept.connection.slots.is_shut());
        is_shut.then(|| {
            current.retire();
            self.connector.failed(&"the peer lets no request in: its MAX_CONCURRENT_STREAMS is 0")
        })
    }

    /// Has the next call use a new connection.
    pub(super) fn reconnect(&self) {
        let mut current = self.current();
        current.generation += 1;
        current.successor = Successor::default();
        // The calls on it hold it too.
        current.retire();
        self.connector.avoid_last_address();
    }

    /// The current connection, if a further call may use it.
    async fn usable(&self) -> Option<(Arc<Connection>, SendRequest<Bytes>)> {
        self.current().kept.as_ref()?;
        connect::catch_up().await;
        let connection = self.kept(Instant::now())?;
        let requests = connection.requests.clone().ready().await.ok()?;
        Some((connection, requests))
    }

    /// The same by what is known already. Puts the successor in the place of a connection, or begins one.
    fn kept(&self, now: Instant) -> Option<Arc<Connection>> {
        let mut current = self.current();
        if let Some(connection) = current.successor.take(now, Connection::works) {
            current.retire();
            let last_use = connection.opened;
            current.kept = Some(Kept { connection: Arc::new(connection), last_use });
        }
        let kept = current.kept.as_mut()?;
        if !kept.connection.works() || now.saturating_duration_since(kept.last_use) >= connect::MAX_IDLE {
            return None;
        }
        kept.last_use = now;
        let connection = Arc::clone(&kept.connection);
        if connection.due <= now {
            let (connector, max_age) = (Arc::clone(&self.connector), self.max_age);
            current.successor.begin(now, || async move { Connection::open_tried(&connector, max_age).await });
        }
        Some(connection)
    }

    async fn open(&self) -> Result<(Arc<Connection>, SendRequest<Bytes>), Cause> {
        let generation = {
            let mut current = self.current();
            current.retire();
            current.successor = Successor::default();
            current.generation
        };
        // Until the peer has told its limit, one request goes out.
        let connection = Arc::new(Connection::open(&self.connector, self.max_age, 1).await?);
        let requests = connection.requests.clone().ready().await.map_err(|error| self.connector.failed(&error))?;
        let mut current = self.current();
        if current.generation == generation {
            current.kept = Some(Kept { connection: Arc::clone(&connection), last_use: Instant::now() });
        }
        drop(current);
        Ok((connection, requests))
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Current {
    /// Keeps further calls away from the kept connection; a call that waits for a slot of it takes another one.
    fn retire(&mut self) {
        if let Some(kept) = self.kept.take() {
            kept.connection.slots.close();
        }
    }
}

impl Connection {
    /// Opens a connection on which so many requests may go out before the peer has told its limit.
    async fn open(connector: &Connector, max_age: Duration, requests: usize) -> Result<Self, Cause> {
        let stream = connector.open().await?;
        Self::over(stream, max_age, requests).await.map_err(|error| connector.failed(&error))
    }

    async fn over(stream: impl Duplex, max_age: Duration, requests: usize) -> Result<Self, h2::Error> {
        let slots = Slots::new(requests);
        let (requests, mut driver) = h2::client::Builder::new()
            .enable_push(false)
            .max_header_list_size(MAX_HEADERS)
            .initial_max_send_streams(requests)
            .handshake::<_, Bytes>(stream)
            .await?;
        let told = Arc::clone(&slots);
        let driver = Driver::spawn(std::future::poll_fn(move |cx| {
            let end = Pin::new(&mut driver).poll_unpin(cx);
            told.limit_to(driver.max_concurrent_send_streams());
            // The calls on this connection get the error of its end.
            end.map(|_| told.close())
        }));
        let (failures, opened) = (Failures::default(), Instant::now());
        Ok(Self { requests, slots, failures, opened, due: age::due_from_now(max_age), driver })
    }

    /// The same, once the peer has greeted and lets requests in: a balancer whose servers are away accepts, and ends
    /// the connection then.
    async fn open_tried(connector: &Connector, max_age: Duration) -> Result<Self, Cause> {
        let connection = Self::open(connector, max_age, 0).await?;
        let slot = connection.slots.take().await;
        slot.map(|_| connection).ok_or_else(|| connector.failed(&"the peer ended the connection before any request"))
    }

    fn works(&self) -> bool {
        !self.driver.has_ended() && !self.slots.is_closed()
    }
}

impl Lease {
    /// Counts the answer; false if the connection is not to be used again.
    pub(super) fn is_reusable_after(&self, outcome: &Outcome) -> bool {
        self.connection.failures.is_reusable_after(outcome)
    }

    /// Whether h2 still holds the request back for the peer's limit, which fell since the slot was taken: no byte of it
    /// has gone out.
    pub(super) fn is_held_back(&mut self) -> bool {
        std::future::poll_fn(|cx| self.requests.poll_ready(cx)).now_or_never().is_none()
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use otlp_payload::{BatchId, Payload};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    use super::super::GrpcTransport;
    use super::*;
    use crate::Transport as _;

    /// SETTINGS with MAX_CONCURRENT_STREAMS 0.
    const SHUT: [u8; 15] = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0];
    /// The greeting of a client.
    const PREFACE: usize = 24;

    /// The types of the frames that the peer has read.
    fn frames(bytes: &[u8]) -> Vec<u8> {
        let (mut frames, mut rest) = (Vec::new(), bytes.get(PREFACE..).unwrap_or_default());
        while let [a, b, c, kind, ..] = *rest {
            frames.push(kind);
            rest = rest.get(9 + u32::from_be_bytes([0, a, b, c]) as usize..).unwrap_or_default();
        }
        frames
    }

    /// Reads to the end, and lets no request in from a certain turn of the runtime on.
    async fn shut_after(turns: usize, mut stream: DuplexStream) -> Vec<u8> {
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
        stream.write_all(&SHUT).await.expect("open");
        let mut read = Vec::new();
        let _ = stream.read_to_end(&mut read).await;
        read
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_the_peer_did_not_let_in_is_no_possible_duplicate() {
        let mut let_in = Vec::new();
        for turns in 0..20 {
            let config = Config::builder().with_endpoint("http://collector.example:4317").build().expect("valid");
            let transport = GrpcTransport::new(config);
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            let peer = tokio::spawn(shut_after(turns, theirs));
            let connection = Connection::over(ours, Duration::from_secs(60), 1).await.expect("no answer is needed");
            let kept = Kept { connection: Arc::new(connection), last_use: Instant::now() };
            transport.pool.current().kept = Some(kept);

            let payload = Payload::new(BatchId { incarnation: 1, seq: 1 }, UNIX_EPOCH, 3, Bytes::from_static(b"spans"));
            let outcome = transport.send(&payload).await;
            let Outcome::Retryable { after: None, cause, possible_duplicate } = outcome else { panic!("{outcome:?}") };
            assert!(transport.pool.current().kept.is_none(), "the next call uses a new connection");
            drop(transport);
            let has_read = frames(&peer.await.expect("no panic")).contains(&1);
            assert_eq!(possible_duplicate, has_read, "{turns} turns: {cause}");
            if !has_read {
                let expected = "no connection: http://collector.example:4317: the peer lets no request in: its \
                                MAX_CONCURRENT_STREAMS is 0";
                assert_eq!(cause.to_string(), expected, "{turns} turns");
            }
            let_in.push(has_read);
        }
        assert!(let_in.contains(&true) && let_in.contains(&false), "{let_in:?}");
    }
}
