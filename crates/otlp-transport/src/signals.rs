//! Each signal by settings of its own.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use otlp_payload::{Payload, Signal};

use crate::config::Config;
use crate::error::ConfigError;
use crate::note::Note;
use crate::outcome::Outcome;
use crate::paths::unsettled;
use crate::{Transport, connect};

/// Sends each payload by the settings of its signal: path, gRPC method, endpoint, headers and all others. A payload of
/// a signal without settings is not sent, and is [`Retryable`](Outcome::Retryable) with the cause in words.
///
/// ```
/// use otlp_transport::{Config, Signal, SignalTransport, Transport as _};
///
/// let vars = |name: &str| match name {
///     "OTEL_EXPORTER_OTLP_ENDPOINT" => Some("http://collector:4318".into()),
///     "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT" => Some("http://logs:4318/insert".into()),
///     _ => None,
/// };
/// let settings = [Signal::Traces, Signal::Logs].map(|signal| Config::builder().with_signal(signal).build_over(vars));
/// let [traces, logs] = settings;
/// let transport = SignalTransport::new([traces?, logs?])?;
/// assert_eq!(transport.endpoint(), "http://collector:4318/v1/traces");
/// assert_eq!(transport.endpoint_of(Signal::Logs), "http://logs:4318/insert");
/// assert!(!transport.carries(Signal::Metrics));
/// # Ok::<(), otlp_transport::ConfigError>(())
/// ```
pub struct SignalTransport {
    /// In the order of the settings.
    of: Vec<Way>,
}

/// The way of one signal's payloads.
struct Way {
    signal: Signal,
    transport: Box<dyn Transport>,
    /// A call went out: there are credentials and a connection that another one may be newer than. A pipeline carries
    /// one signal, and changes of the ways of others say nothing about its next call.
    is_used: AtomicBool,
}

impl Way {
    fn new(signal: Signal, transport: Box<dyn Transport>) -> Self {
        Self { signal, transport, is_used: AtomicBool::new(false) }
    }
}

impl SignalTransport {
    /// One transport for each of these settings. No I/O happens.
    ///
    /// # Errors
    ///
    /// [`ConfigError::SignalTwice`] for two settings of one signal; else as [`connect`].
    pub fn new(settings: impl IntoIterator<Item = Config>) -> Result<Self, ConfigError> {
        let mut of: Vec<Way> = Vec::new();
        for config in settings {
            let signal = config.signal();
            if of.iter().any(|known| known.signal == signal) {
                return Err(ConfigError::SignalTwice { signal });
            }
            of.push(Way::new(signal, connect(config)?));
        }
        Ok(Self { of })
    }

    fn way(&self, signal: Signal) -> Option<&Way> {
        self.of.iter().find(|way| way.signal == signal)
    }

    fn used(&self) -> impl Iterator<Item = &dyn Transport> {
        self.of.iter().filter(|way| way.is_used.load(Ordering::Relaxed)).map(|way| &*way.transport)
    }
}

#[async_trait]
impl Transport for SignalTransport {
    async fn send(&self, payload: &Payload) -> Outcome {
        match self.way(payload.signal()) {
            Some(way) => {
                way.is_used.store(true, Ordering::Relaxed);
                way.transport.send(payload).await
            }
            None => {
                let names = self.of.iter().map(|way| way.signal.as_str()).collect::<Vec<_>>();
                let known = if names.is_empty() { "no signal".to_owned() } else { names.join(" and ") };
                unsettled(&known, payload.signal())
            }
        }
    }

    /// That of the first settings.
    fn endpoint(&self) -> &str {
        self.of.first().map_or("", |way| way.transport.endpoint())
    }

    fn endpoint_of(&self, signal: Signal) -> &str {
        self.way(signal).map_or_else(|| self.endpoint(), |way| way.transport.endpoint())
    }

    fn carries(&self, signal: Signal) -> bool {
        self.way(signal).is_some()
    }

    /// Reconnects the transports of the signals that were sent so far.
    fn reconnect(&self) {
        self.used().for_each(|transport| transport.reconnect());
    }

    fn can_change(&self) -> bool {
        self.of.iter().any(|way| way.transport.can_change())
    }

    /// Asks the transports of the signals that were sent so far.
    async fn has_changed(&self) -> bool {
        let mut has_changed = false;
        for transport in self.used() {
            has_changed |= transport.has_changed().await;
        }
        has_changed
    }

    fn take_notes(&self) -> Vec<Note> {
        self.of.iter().flat_map(|way| way.transport.take_notes()).collect()
    }
}

impl fmt::Debug for SignalTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.of.iter().map(|way| (way.signal, way.transport.endpoint()))).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU32;
    use std::time::UNIX_EPOCH;

    use otlp_payload::BatchId;

    use super::*;

    /// Has new credentials always, as a way has on which no call went out yet.
    #[derive(Clone, Default)]
    struct Renewed {
        reconnects: Arc<AtomicU32>,
    }

    #[async_trait]
    impl Transport for Renewed {
        async fn send(&self, _: &Payload) -> Outcome {
            Outcome::Delivered { rejected: 0, message: None }
        }

        fn endpoint(&self) -> &str {
            "http://renewed"
        }

        fn reconnect(&self) {
            self.reconnects.fetch_add(1, Ordering::Relaxed);
        }

        async fn has_changed(&self) -> bool {
            true
        }
    }

    #[tokio::test]
    async fn changes_of_a_signal_that_was_never_sent_say_nothing() {
        let [traces, logs] = [Renewed::default(), Renewed::default()];
        let of = [(Signal::Traces, traces.clone()), (Signal::Logs, logs.clone())];
        let of = of.map(|(signal, renewed)| Way::new(signal, Box::new(renewed)));
        let transport = SignalTransport { of: of.into() };
        let counts = || [&traces, &logs].map(|renewed| renewed.reconnects.load(Ordering::Relaxed));
        assert!(!transport.has_changed().await, "no call went out");
        transport.reconnect();
        assert_eq!(counts(), [0, 0]);
        let id = BatchId { incarnation: 1, seq: 1 };
        transport.send(&Payload::of(Signal::Logs, id, UNIX_EPOCH, 1, "logs".into())).await;
        assert!(transport.has_changed().await);
        transport.reconnect();
        assert_eq!(counts(), [0, 1]);
    }
}
