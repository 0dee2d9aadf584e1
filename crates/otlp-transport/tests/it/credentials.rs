//! Credentials that change: headers of each request, refusals, and providers that misbehave.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use otlp_transport::{
    Compression, ConfigBuilder, CredentialHeaders, Credentials, CredentialsError, Outcome, Protocol, RequestHead,
    Transport, connect,
};

use crate::support::*;

/// A secret: it must never be seen in any text.
const CANARY: &str = "canary-8d2f";

type Connected = Box<dyn Transport>;

fn with(config: ConfigBuilder, credentials: &Arc<impl Credentials>) -> Connected {
    let credentials: Arc<dyn Credentials> = Arc::clone(credentials) as _;
    connect(config.with_credentials(credentials).build().expect("valid")).expect("valid")
}

/// The statuses that a peer answers by, over each protocol.
async fn peer(protocol: Protocol, script: impl Fn(usize) -> u16 + Send + Sync + 'static) -> (ConfigBuilder, Log) {
    let (listener, address) = listen().await;
    let log = match protocol {
        Protocol::Grpc => serve_grpc(listener, move |number| match script(number) {
            200 => grpc_ok(),
            status @ 300.. => Grpc::Answer { status, headers: Vec::new(), body: None, trailers: None },
            code => grpc_answer(None, vec![("grpc-status", code.to_string())]),
        }),
        _ => {
            // One request a connection, so that the number of the connection is that of the request.
            serve_raw(listener, move |number| Raw::AnswerThenClose(http_answer(script(number), &[], b"")))
        }
    };
    (config(protocol, address), log)
}

/// Tokens by generation; a refresh makes the next one.
#[derive(Default)]
struct Tokens {
    generation: AtomicU64,
    refused: Mutex<Vec<u64>>,
    /// A refresh ends once this has happened.
    gate: Option<tokio::sync::Notify>,
    renews: bool,
}

impl Tokens {
    fn new(renews: bool) -> Arc<Self> {
        Arc::new(Self { renews, ..Self::default() })
    }

    fn refused(&self) -> Vec<u64> {
        self.refused.lock().expect("not poisoned").clone()
    }
}

#[async_trait]
impl Credentials for Tokens {
    async fn headers(&self, _: &RequestHead, _: &Bytes) -> Result<CredentialHeaders, CredentialsError> {
        let generation = self.generation.load(Ordering::Relaxed);
        Ok(CredentialHeaders::new(generation).with("authorization", format!("Bearer {CANARY}-{generation}")))
    }

    async fn refused(&self, generation: u64) -> Result<u64, CredentialsError> {
        self.refused.lock().expect("not poisoned").push(generation);
        if let Some(gate) = &self.gate {
            gate.notified().await;
        }
        if self.renews {
            self.generation.fetch_max(generation + 1, Ordering::Relaxed);
        }
        Ok(self.generation.load(Ordering::Relaxed))
    }
}

/// Puts every part of the request that it is shown into headers.
struct Signer;

#[async_trait]
impl Credentials for Signer {
    async fn headers(&self, head: &RequestHead, body: &Bytes) -> Result<CredentialHeaders, CredentialsError> {
        assert!(!format!("{head:?}").contains(CANARY), "{head:?}");
        let signed: u64 = head.prefix().iter().chain(body).map(|byte| u64::from(*byte)).sum();
        Ok(CredentialHeaders::new(1)
            .with("x-method", head.method())
            .with("x-uri", head.uri())
            .with("x-target", format!("{} {}?{}", head.authority(), head.path(), head.query().unwrap_or_default()))
            .with("x-type", head.header("content-type").unwrap_or_default())
            .with("x-encoding", head.header("content-encoding").or(head.header("grpc-encoding")).unwrap_or_default())
            .with("x-length", (head.prefix().len() + body.len()).to_string())
            .with("x-sum", signed.to_string())
            .with("X-Static", "of the provider"))
    }
}

#[tokio::test]
async fn a_provider_sees_the_request_as_the_peer_gets_it() {
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        for compression in [Compression::None, Compression::Gzip] {
            let (config, log) = peer(protocol, |_| 200).await;
            let config = config.with_compression(compression).with_header("x-static", "of the settings");
            let transport = with(config.with_header("x-other", CANARY), &Arc::new(Signer));
            assert_eq!(summary(&transport.send(&payload()).await), "delivered, 0 rejected");
            let seen = log.lock().expect("not poisoned")[0].clone();
            let sum: u64 = seen.body.iter().map(|byte| u64::from(*byte)).sum();
            assert_eq!(seen.header("x-method"), Some("POST"));
            assert_eq!(seen.header("x-sum"), Some(sum.to_string().as_str()), "{protocol}, {compression:?}");
            assert_eq!(seen.header("x-length"), Some(seen.body.len().to_string().as_str()));
            assert_eq!(seen.header("x-type"), seen.header("content-type"));
            let encoding = seen.header("content-encoding").or(seen.header("grpc-encoding")).unwrap_or_default();
            assert_eq!(seen.header("x-encoding"), Some(encoding));
            let target = seen.header("x-uri").expect("set");
            assert!(target.starts_with("http://127.0.0.1:") && target.ends_with(&seen.target), "{target}");
            let path = if protocol == Protocol::Grpc { "TraceService/Export?" } else { " /v1/traces?" };
            assert!(seen.header("x-target").is_some_and(|target| target.ends_with(path)), "{seen:?}");
            // Headers of the provider take the place of those of the settings; the others stay.
            let all = seen.headers.get_all("x-static").iter().collect::<Vec<_>>();
            assert_eq!(all, ["of the provider"]);
            assert_eq!(seen.header("x-other"), Some(CANARY));
        }
    }
}

#[tokio::test]
async fn a_refusal_of_credentials_asks_for_newer_ones_and_tells_of_them() {
    let table: [(Protocol, &[u16], &str); 5] = [
        (Protocol::HttpProtobuf, &[401, 403], "http"),
        (Protocol::Grpc, &[16, 7], "grpc"),
        // A gateway answers in the place of a gRPC server.
        (Protocol::Grpc, &[401, 403], "http"),
        (Protocol::HttpProtobuf, &[407, 404, 400, 500, 413], ""),
        (Protocol::Grpc, &[5, 12, 3, 13, 407], ""),
    ];
    for (protocol, statuses, kind) in table {
        for &status in statuses {
            for renews in [true, false] {
                let (config, log) = peer(protocol, move |_| status).await;
                let tokens = Tokens::new(renews);
                let outcome = with(config, &tokens).send(&payload()).await;
                let asked = if kind.is_empty() { Vec::new() } else { vec![0] };
                assert_eq!(tokens.refused(), asked, "{protocol} {status}");
                let text = summary(&outcome);
                match (kind, renews) {
                    ("", _) => assert!(!text.contains("renewed"), "{status}: {text}"),
                    (kind, true) => assert_eq!(text, format!("renewed to 1: {kind} {status}")),
                    (kind, false) => assert_eq!(text, format!("sender: {kind} {status}")),
                }
                assert_eq!(log.lock().expect("not poisoned").len(), 1, "the transport repeats nothing");
            }
        }
    }
}

#[tokio::test]
async fn one_refresh_is_for_all_calls_that_are_out() {
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let (config, log) = peer(protocol, |_| 401).await;
        let gate = Some(tokio::sync::Notify::new());
        let tokens = Arc::new(Tokens { gate, renews: true, ..Tokens::default() });
        let transport: Arc<dyn Transport> = Arc::from(with(config, &tokens));
        let calls = (0..8).map(|_| {
            let transport = Arc::clone(&transport);
            tokio::spawn(async move { summary(&transport.send(&payload()).await) })
        });
        let calls = calls.collect::<Vec<_>>();
        while log.lock().expect("not poisoned").len() < 8 || tokens.refused().is_empty() {
            tokio::task::yield_now().await;
        }
        tokens.gate.as_ref().expect("set").notify_one();
        for call in calls {
            let text = call.await.expect("no panic");
            assert!(text.starts_with("renewed to 1: "), "{text}");
        }
        assert_eq!(tokens.refused(), [0], "{protocol}");
        let sent = log.lock().expect("not poisoned").clone();
        let expected = format!("Bearer {CANARY}-0");
        assert!(sent.iter().all(|seen| seen.header("authorization") == Some(&expected)));
        // The next call uses the newer ones.
        transport.send(&payload()).await;
        let last = log.lock().expect("not poisoned").last().cloned().expect("nine");
        assert_eq!(last.header("authorization"), Some(format!("Bearer {CANARY}-1").as_str()));
    }
}

/// A provider that misbehaves in one way.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Bad {
    Reserved,
    Name,
    Ascii,
    LineFeed,
    TooMany,
    TooLarge,
    Fails,
    Panics,
    Hangs,
}

#[async_trait]
impl Credentials for Bad {
    async fn headers(&self, _: &RequestHead, _: &Bytes) -> Result<CredentialHeaders, CredentialsError> {
        let headers = CredentialHeaders::new(1).with("authorization", CANARY);
        Ok(match self {
            Self::Reserved => headers.with("Content-Length", CANARY),
            Self::Name => headers.with(format!("{CANARY} x"), "1"),
            Self::Ascii => headers.with("x-key", format!("{CANARY}\u{e4}")),
            Self::LineFeed => headers.with("x-key", format!("{CANARY}\r\nevil: 1")),
            Self::TooMany => (0..100).fold(headers, |headers, at| headers.with(format!("x-{at}"), CANARY)),
            Self::TooLarge => headers.with("x-key", CANARY.repeat(8_000)),
            Self::Fails => {
                return Err(CredentialsError::new(format!("no token\n from http://me:{CANARY}@tokens/?k={CANARY}")));
            }
            Self::Panics => panic!("{CANARY}"),
            Self::Hangs => std::future::pending().await,
        })
    }

    async fn refused(&self, generation: u64) -> Result<u64, CredentialsError> {
        match self {
            Self::Fails => Err(CredentialsError::new(format!("no token from http://tokens/?k={CANARY}"))),
            Self::Panics => panic!("{CANARY}"),
            Self::Hangs => std::future::pending().await,
            _ => Ok(generation.saturating_sub(1)),
        }
    }
}

#[tokio::test]
async fn a_provider_that_misbehaves_fails_the_call_before_a_byte_is_sent() {
    for (bad, part) in [
        (Bad::Reserved, "header 2 (content-length) is set by the transport itself"),
        (Bad::Name, "header 2 has a bad name"),
        (Bad::Ascii, "header 2 (x-key) has a value that a header cannot carry"),
        (Bad::LineFeed, "header 2 (x-key) has a value that a header cannot carry"),
        (Bad::TooMany, "header 101 (x-99) is one too many"),
        (Bad::TooLarge, "at most 65536 are accepted"),
        (Bad::Fails, "no credentials: no token from http://***@tokens/?***"),
        (Bad::Panics, "panicked"),
        (Bad::Hangs, "within 200ms"),
    ] {
        for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
            let (config, log) = peer(protocol, |_| 200).await;
            // The others do not take their time, also on a busy machine.
            let config = if bad == Bad::Hangs { config.with_timeout(Duration::from_millis(200)) } else { config };
            let transport = with(config, &Arc::new(bad));
            let outcome = transport.send(&payload()).await;
            assert_eq!(summary(&outcome), "retryable: credentials", "{bad:?}");
            let text = outcome.cause().expect("a cause").to_string();
            assert!(text.starts_with("no credentials: ") && text.contains(part), "{bad:?}: {text}");
            assert!(!text.contains(CANARY) && !text.contains(char::is_control), "{text}");
            assert!(log.lock().expect("not poisoned").is_empty(), "{bad:?} was sent");
        }
    }
}

/// Gives headers, and misbehaves when they are refused.
struct BadRefresh(Bad);

#[async_trait]
impl Credentials for BadRefresh {
    async fn headers(&self, _: &RequestHead, _: &Bytes) -> Result<CredentialHeaders, CredentialsError> {
        Ok(CredentialHeaders::new(7).with("authorization", CANARY))
    }

    async fn refused(&self, generation: u64) -> Result<u64, CredentialsError> {
        self.0.refused(generation).await
    }
}

#[tokio::test]
async fn a_refresh_that_misbehaves_leaves_the_refusal_as_it_is() {
    for (bad, part) in [
        (Bad::Fails, "no token from http://tokens/?***"),
        (Bad::Panics, "panicked"),
        (Bad::Hangs, "within 1s"),
        // An older generation than the refused one.
        (Bad::Reserved, ""),
    ] {
        let (config, _) = peer(Protocol::HttpProtobuf, |_| 401).await;
        let config = if bad == Bad::Hangs { config.with_timeout(Duration::from_secs(1)) } else { config };
        let transport = with(config, &Arc::new(BadRefresh(bad)));
        assert_eq!(summary(&transport.send(&payload()).await), "sender: http 401", "{bad:?}");
        let notes = loop {
            let notes = transport.take_notes();
            // A refresh that hangs ends after the call.
            if !notes.is_empty() || part.is_empty() {
                break notes;
            }
            tokio::task::yield_now().await;
        };
        assert_eq!(notes.len(), usize::from(!part.is_empty()));
        assert!(notes.iter().all(|note| note.message.contains(part) && !note.message.contains(CANARY)), "{notes:?}");
        assert!(transport.take_notes().is_empty(), "each is taken once");
    }
}

#[tokio::test]
async fn no_text_shows_the_headers_of_a_provider() {
    let echo = format!("no Bearer {CANARY}-0, nor {CANARY}-0 alone");
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let (listener, address) = listen().await;
        let text = echo.clone();
        let _log = match protocol {
            Protocol::Grpc => serve_grpc(listener, move |_| {
                grpc_answer(None, vec![("grpc-status", "16".to_owned()), ("grpc-message", text.clone())])
            }),
            _ => serve_raw(listener, move |_| Raw::Answer(http_answer(401, &[], text.as_bytes()))),
        };
        for renews in [true, false] {
            let tokens = Tokens::new(renews);
            let config = config(protocol, address).with_credentials(Arc::clone(&tokens) as _);
            let shown = format!("{config:?}");
            let config = config.build().expect("valid");
            let transport = connect(config.clone()).expect("valid");
            let outcome = transport.send(&payload()).await;
            assert_eq!(matches!(outcome, Outcome::CredentialsRenewed { .. }), renews);
            let shown = format!("{shown} {config:?} {outcome:?} {}", outcome.cause().expect("a cause"));
            assert!(!shown.contains(CANARY) && shown.contains("no ***, nor *** alone"), "{shown}");
        }
    }
    let headers = CredentialHeaders::new(1).with(CANARY, CANARY);
    assert!(!format!("{headers:?}").contains(CANARY));
}

#[tokio::test]
async fn a_transport_without_credentials_cannot_change() {
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let (config, _) = peer(protocol, |_| 401).await;
        let transport = connect(config.build().expect("valid")).expect("valid");
        assert_eq!(summary(&transport.send(&payload()).await).split(':').next(), Some("sender"));
        assert!(!transport.can_change() && !transport.has_changed().await && transport.take_notes().is_empty());
        // Through each of the wrappers.
        let (config, _) = peer(protocol, |_| 200).await;
        let tokens = Tokens::new(true);
        let transport: Arc<dyn Transport> = Arc::new(with(config, &tokens));
        assert!(transport.can_change() && !transport.has_changed().await);
    }
}
