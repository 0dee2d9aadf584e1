//! Connections that wait for their next call, and the successor of one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout};

use crate::config::Config;
use crate::connect::age::{self, Successor};
use crate::connect::failures::Failures;
use crate::connect::{self, Connector, Driver};
use crate::outcome::{Cause, Outcome};
use crate::status_line::{Kept, Start};

/// The most idle connections that are kept open for later calls: as many as an exporter may have calls at a time.
const MAX_KEPT: usize = 64;
/// How long a kept connection may take to be ready: all there is to do is to run its driver, unless the peer answered
/// early and has not read the last upload yet.
const MAX_UNREADY: Duration = Duration::from_millis(50);

/// Hands connections out, one for each call.
pub(super) struct Pool {
    connector: Arc<Connector>,
    max_age: Duration,
    idle: Mutex<Idle>,
}

/// The connections for later calls.
#[derive(Default)]
struct Idle {
    connections: Vec<Connection>,
    /// Counts the calls of `reconnect`: a connection of an earlier generation is not kept.
    generation: u64,
}

pub(super) struct Connection {
    generation: u64,
    pub(super) requests: SendRequest<Full<Bytes>>,
    pub(super) start: Start,
    driver: Driver,
    last_use: Instant,
    failures: Failures,
    /// From this instant on it is to be replaced.
    due: Instant,
    /// The connection that takes its place.
    successor: Successor<Connection>,
}

impl Pool {
    pub(super) fn new(connector: Connector, config: &Config) -> Self {
        Self { connector: Arc::new(connector), max_age: config.connection_max_age, idle: Mutex::default() }
    }

    pub(super) fn connector(&self) -> &Connector {
        &self.connector
    }

    /// The connection that was used last, if one still works.
    pub(super) async fn kept(&self) -> Option<Connection> {
        let mut has_caught_up = false;
        loop {
            let mut connection = self.idle().next(Instant::now())?;
            if !has_caught_up {
                connect::catch_up().await;
                has_caught_up = true;
            }
            connection.give_way();
            if connection.works() && matches!(timeout(MAX_UNREADY, connection.requests.ready()).await, Ok(Ok(()))) {
                self.begin_successor(&mut connection);
                return Some(connection);
            }
        }
    }

    pub(super) async fn open(&self) -> Result<Connection, Cause> {
        let generation = self.idle().generation;
        Connection::open(&self.connector, self.max_age, generation).await
    }

    /// Keeps the connection for a later call, unless its answer or its age says otherwise.
    pub(super) fn keep(&self, mut connection: Connection, outcome: &Outcome) {
        if !connection.failures.is_reusable_after(outcome) {
            self.connector.avoid_last_address();
            return;
        }
        connection.last_use = Instant::now();
        connection.give_way();
        let mut idle = self.idle();
        let is_current = connection.generation == idle.generation;
        if is_current && idle.connections.len() < MAX_KEPT && !connection.requests.is_closed() {
            idle.connections.push(connection);
        }
    }

    /// A connection ended, or was given up, without an answer to its call.
    pub(super) fn on_fault(&self) {
        self.connector.avoid_last_address();
    }

    /// Has later calls use new connections.
    pub(super) fn reconnect(&self) {
        let mut idle = self.idle();
        idle.generation += 1;
        idle.connections.clear();
        self.connector.avoid_last_address();
    }

    /// Begins the successor of a connection that is due.
    fn begin_successor(&self, connection: &mut Connection) {
        let now = Instant::now();
        if connection.due <= now {
            let (connector, max_age, generation) = (Arc::clone(&self.connector), self.max_age, connection.generation);
            let open = || async move { Connection::open(&connector, max_age, generation).await };
            connection.successor.begin(now, open);
        }
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Idle {
    /// The connection that was used last, before all that are due. Those that were idle for long are closed.
    fn next(&mut self, now: Instant) -> Option<Connection> {
        self.connections.retain(|connection| now.saturating_duration_since(connection.last_use) < connect::MAX_IDLE);
        let young = self.connections.iter().rposition(|connection| now < connection.due);
        match young {
            Some(at) => Some(self.connections.remove(at)),
            None => self.connections.pop(),
        }
    }
}

impl Connection {
    async fn open(connector: &Connector, max_age: Duration, generation: u64) -> Result<Self, Cause> {
        let stream = connector.open().await?;
        let start = Start::default();
        let stream = TokioIo::new(Kept { stream, start: start.clone() });
        let (requests, connection) = http1::handshake(stream).await.map_err(|error| connector.failed(&error))?;
        let driver = Driver::spawn(async move {
            // The call on this connection gets the error of its end.
            let _ = connection.await;
        });
        Ok(Self {
            generation,
            requests,
            start,
            driver,
            last_use: Instant::now(),
            failures: Failures::default(),
            due: age::due_from_now(max_age),
            successor: Successor::default(),
        })
    }

    fn works(&self) -> bool {
        !self.driver.has_ended() && !self.requests.is_closed()
    }

    /// Becomes its successor, if that is open.
    fn give_way(&mut self) {
        if let Some(successor) = self.successor.take(Instant::now(), Self::works) {
            *self = successor;
        }
    }
}
