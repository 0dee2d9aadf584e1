//! Each signal by settings of its own.

use std::fmt;

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
    of: Vec<(Signal, Box<dyn Transport>)>,
}

impl SignalTransport {
    /// One transport for each of these settings. No I/O happens.
    ///
    /// # Errors
    ///
    /// [`ConfigError::SignalTwice`] for two settings of one signal; else as [`connect`].
    pub fn new(settings: impl IntoIterator<Item = Config>) -> Result<Self, ConfigError> {
        let mut of: Vec<(Signal, Box<dyn Transport>)> = Vec::new();
        for config in settings {
            let signal = config.signal();
            if of.iter().any(|(known, _)| *known == signal) {
                return Err(ConfigError::SignalTwice { signal });
            }
            of.push((signal, connect(config)?));
        }
        Ok(Self { of })
    }

    fn transport(&self, signal: Signal) -> Option<&dyn Transport> {
        self.of.iter().find(|(of, _)| *of == signal).map(|(_, transport)| &**transport)
    }
}

#[async_trait]
impl Transport for SignalTransport {
    async fn send(&self, payload: &Payload) -> Outcome {
        match self.transport(payload.signal()) {
            Some(transport) => transport.send(payload).await,
            None => {
                let names = self.of.iter().map(|(signal, _)| signal.as_str()).collect::<Vec<_>>();
                let known = if names.is_empty() { "no signal".to_owned() } else { names.join(" and ") };
                unsettled(&known, payload.signal())
            }
        }
    }

    /// That of the first settings.
    fn endpoint(&self) -> &str {
        self.of.first().map_or("", |(_, transport)| transport.endpoint())
    }

    fn endpoint_of(&self, signal: Signal) -> &str {
        self.transport(signal).map_or_else(|| self.endpoint(), |transport| transport.endpoint())
    }

    fn carries(&self, signal: Signal) -> bool {
        self.transport(signal).is_some()
    }

    fn reconnect(&self) {
        self.of.iter().for_each(|(_, transport)| transport.reconnect());
    }

    fn can_change(&self) -> bool {
        self.of.iter().any(|(_, transport)| transport.can_change())
    }

    async fn has_changed(&self) -> bool {
        let mut has_changed = false;
        for (_, transport) in &self.of {
            has_changed |= transport.has_changed().await;
        }
        has_changed
    }

    fn take_notes(&self) -> Vec<Note> {
        self.of.iter().flat_map(|(_, transport)| transport.take_notes()).collect()
    }
}

impl fmt::Debug for SignalTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.of.iter().map(|(signal, transport)| (signal, transport.endpoint()))).finish()
    }
}
