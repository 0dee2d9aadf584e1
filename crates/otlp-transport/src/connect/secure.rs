//! TLS over a connection: to the collector, or to a proxy in front of it.

#[cfg(feature = "_tls")]
pub(super) use built_in::Secure;
#[cfg(not(feature = "_tls"))]
pub(super) use left_out::Secure;

#[cfg(feature = "_tls")]
mod built_in {
    use std::sync::Arc;
    use std::time::Duration;

    use rustls::pki_types::ServerName;

    use crate::config::Config;
    use crate::duplex::Duplex;
    use crate::endpoint::Place;
    use crate::note::Note;
    use crate::protocol::Protocol;
    use crate::tls::{self, Client};

    /// How connections to one peer are secured.
    pub(crate) struct Secure {
        client: Arc<Client>,
        name: ServerName<'static>,
        protocol: Protocol,
        /// How long the peer may take for a handshake.
        patience: Duration,
    }

    impl Secure {
        /// To the collector, if its endpoint asks for TLS.
        pub(crate) fn to_endpoint(config: &Config) -> Option<Self> {
            // The settings refused the endpoint if its host was no name.
            let Place::Host { host, .. } = &config.endpoint.place else { return None };
            Self::new(config, config.tls.as_ref()?, host, config.protocol)
        }

        /// To the proxy, if its URL asks for TLS. HTTP/1.1 opens its tunnels.
        pub(crate) fn to_proxy(config: &Config) -> Option<Self> {
            Self::new(config, config.proxy_tls.as_ref()?, &config.proxy.as_ref()?.host, Protocol::HttpProtobuf)
        }

        fn new(config: &Config, client: &Arc<Client>, host: &str, protocol: Protocol) -> Option<Self> {
            // A peer that takes longer is named in the cause: the time-out of the whole call has no text.
            let patience = config.timeout / 10 * 9;
            Some(Self { client: Arc::clone(client), name: tls::server_name(host)?, protocol, patience })
        }

        /// Secures `stream`.
        ///
        /// # Errors
        ///
        /// A sentence with the remedy.
        pub(crate) async fn over(&self, stream: Box<dyn Duplex>) -> Result<Box<dyn Duplex>, String> {
            let handshake = self.client.handshake(self.name.clone(), self.protocol, stream);
            match tokio::time::timeout(self.patience, handshake).await {
                Ok(secured) => secured.map_err(|error| error.to_string()),
                Err(_) => Err(format!(
                    "the peer did not finish the TLS handshake within {:?}: it may not speak TLS on this port",
                    self.patience
                )),
            }
        }

        pub(crate) fn can_change(&self) -> bool {
            self.client.has_files()
        }

        pub(crate) async fn has_changed(&self) -> bool {
            self.can_change() && self.client.has_changed().await
        }

        pub(crate) fn take_notes(&self) -> Vec<Note> {
            self.client.take_notes()
        }
    }
}

#[cfg(not(feature = "_tls"))]
mod left_out {
    use crate::config::Config;
    use crate::duplex::Duplex;
    use crate::note::Note;

    /// Nothing is secured: the settings refuse each URL that asks for TLS.
    pub(crate) enum Secure {}

    impl Secure {
        pub(crate) fn to_endpoint(_config: &Config) -> Option<Self> {
            None
        }

        pub(crate) fn to_proxy(_config: &Config) -> Option<Self> {
            None
        }

        pub(crate) async fn over(&self, _stream: Box<dyn Duplex>) -> Result<Box<dyn Duplex>, String> {
            match *self {}
        }

        pub(crate) fn can_change(&self) -> bool {
            match *self {}
        }

        pub(crate) async fn has_changed(&self) -> bool {
            match *self {}
        }

        pub(crate) fn take_notes(&self) -> Vec<Note> {
            match *self {}
        }
    }
}
