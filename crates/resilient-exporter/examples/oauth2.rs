//! OAuth2 client credentials: a token that the collector revokes is renewed once, and its batches go out again at once.
//! `cargo run -p resilient-exporter --example oauth2`
//!
//! The token service and the collector are threads of this program, on one port. The first token is good for one
//! request, although the service has promised an hour; the program ends once all spans have arrived.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use opentelemetry::trace::{Tracer as _, TracerProvider as _};
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider};
use otlp_transport::{Config, CredentialHeaders, Credentials, CredentialsError, Protocol, RequestHead, connect};
use resilient_exporter::{Handle, ResilientSpanExporter};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = Server::start()?;
    let tokens = Tokens {
        service: server.address,
        form: "grant_type=client_credentials&client_id=shop&client_secret=s3cret&scope=traces".to_owned(),
        current: tokio::sync::Mutex::default(),
    };
    let config = Config::builder()
        .with_protocol(Protocol::HttpProtobuf)
        .with_endpoint(format!("http://{}", server.address))
        .with_credentials(Arc::new(tokens))
        .build()?;
    let exporter = ResilientSpanExporter::builder().with_primary(connect(config)?).build()?;
    let handle = exporter.handle();
    let batches = BatchConfigBuilder::default().with_max_export_batch_size(50).build();
    let processor = BatchSpanProcessor::builder(exporter).with_batch_config(batches).build();
    let provider = SdkTracerProvider::builder().with_span_processor(processor).build();

    trace(&provider, &handle, 50)?; // one request with the first token
    println!("the first token took {} spans; now it is revoked", handle.ledger().delivered);
    trace(&provider, &handle, 300)?; // several requests, the first of which meet the revoked token
    provider.shutdown()?;

    let log = server.log.lock().expect("no panic");
    println!("tokens: {}, requests that met the old one: {}, accepted: {:?}", log.tokens, log.refused, log.accepted);
    assert_eq!((handle.ledger().delivered, handle.ledger().lost()), (350, 0));
    assert_eq!(log.tokens, 2, "one refresh is for all requests that were refused");
    assert!(log.refused >= 1 && log.accepted.last() == Some(&2), "spans arrive with the new token");
    Ok(())
}

/// Makes spans and waits until the collector has taken them. Both threads are in this program: no wait of the backoff
/// fits into this time, so a batch that was refused has gone out again at once.
fn trace(provider: &SdkTracerProvider, handle: &Handle, spans: usize) -> Result<(), Box<dyn std::error::Error>> {
    let tracer = provider.tracer("shop");
    (0..spans).for_each(|_| drop(tracer.start("GET /orders")));
    provider.force_flush()?;
    handle.settled(PATIENCE)?;
    Ok(())
}

/// Tokens of an OAuth2 service (RFC 6749, section 4.4).
struct Tokens {
    service: SocketAddr,
    /// The request for a token, with the secret of this client.
    form: String,
    /// Locked while a token is asked for: calls wait for it together.
    current: tokio::sync::Mutex<Option<Token>>,
}

#[derive(Clone)]
struct Token {
    generation: u64,
    text: String,
    /// A new one is asked for from now on, a little before the old one ends.
    renew_at: Instant,
}

impl Tokens {
    /// Asks the service for the token of this generation. A real provider speaks TLS here.
    async fn ask(&self, generation: u64) -> Result<Token, CredentialsError> {
        let failed = |error: io::Error| CredentialsError::new(format!("token service {}: {error}", self.service));
        let mut stream = tokio::net::TcpStream::connect(self.service).await.map_err(failed)?;
        let request = format!(
            "POST /token HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-type: application/x-www-form-urlencoded\r\n\
             content-length: {}\r\n\r\n{}",
            self.service,
            self.form.len(),
            self.form
        );
        stream.write_all(request.as_bytes()).await.map_err(failed)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.map_err(failed)?;
        // No text of the service is shown: it may hold a token.
        let unusable = || CredentialsError::new(format!("token service {}: no token in its answer", self.service));
        let (_, body) = answer.split_once("\r\n\r\n").ok_or_else(unusable)?;
        let body: serde_json::Value = serde_json::from_str(body).map_err(|_| unusable())?;
        let text = body["access_token"].as_str().ok_or_else(unusable)?.to_owned();
        let lifetime = Duration::from_secs(body["expires_in"].as_u64().unwrap_or(3_600));
        Ok(Token { generation, text, renew_at: now() + lifetime * 9 / 10 })
    }

    /// The token, asked for anew if there is none of this generation or a later one, or if it ends soon.
    async fn token(&self, least: u64) -> Result<Token, CredentialsError> {
        let mut current = self.current.lock().await;
        match &*current {
            Some(token) if token.generation >= least && now() < token.renew_at => Ok(token.clone()),
            last => {
                let token = self.ask(last.as_ref().map_or(1, |last| last.generation + 1)).await?;
                *current = Some(token.clone());
                Ok(token)
            }
        }
    }
}

#[async_trait]
impl Credentials for Tokens {
    async fn headers(&self, _: &RequestHead, _: &Bytes) -> Result<CredentialHeaders, CredentialsError> {
        let token = self.token(0).await?;
        Ok(CredentialHeaders::new(token.generation).with("authorization", format!("Bearer {}", token.text)))
    }

    async fn refused(&self, generation: u64) -> Result<u64, CredentialsError> {
        Ok(self.token(generation + 1).await?.generation)
    }
}

#[expect(clippy::disallowed_methods, reason = "the clock of the example")]
fn now() -> Instant {
    Instant::now()
}

/// A token service and a collector over plain HTTP.
struct Server {
    address: SocketAddr,
    log: Arc<Mutex<Log>>,
}

#[derive(Default)]
struct Log {
    /// Tokens that were given out; the last of them is good.
    tokens: usize,
    refused: usize,
    /// For each accepted request, the number of its token.
    accepted: Vec<usize>,
}

impl Server {
    fn start() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (address, log) = (listener.local_addr()?, Arc::new(Mutex::default()));
        let shared = Arc::clone(&log);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let log = Arc::clone(&shared);
                // A connection that ends is no error.
                std::thread::spawn(move || serve(stream, &log));
            }
        });
        Ok(Self { address, log })
    }
}

fn serve(mut stream: TcpStream, log: &Mutex<Log>) -> io::Result<()> {
    loop {
        let head = read_request(&mut stream)?;
        let mut log = log.lock().expect("no panic");
        let (status, body) = if head.starts_with("POST /token ") {
            log.tokens += 1;
            ("200 OK", format!(r#"{{"access_token":"token-{}","token_type":"Bearer","expires_in":3600}}"#, log.tokens))
        } else {
            // The first token is good for the first request.
            let number = log.tokens;
            let is_revoked = number == 1 && !log.accepted.is_empty();
            if head.contains(&format!("authorization: Bearer token-{number}\r\n")) && !is_revoked {
                log.accepted.push(number);
                ("200 OK", String::new())
            } else {
                log.refused += 1;
                ("401 Unauthorized", "the token was revoked".to_owned())
            }
        };
        drop(log);
        let is_last = head.contains("connection: close\r\n");
        write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())?;
        if is_last {
            return Ok(());
        }
    }
}

/// Reads a request whole and returns its head.
fn read_request(stream: &mut TcpStream) -> io::Result<String> {
    let mut read = Vec::new();
    let mut buffer = [0; 4_096];
    loop {
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&read[..end + 2]).into_owned();
            let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
            let length: usize = length.unwrap_or(0);
            if read.len() >= end + 4 + length {
                return Ok(head);
            }
        }
        match stream.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => read.extend_from_slice(&buffer[..count]),
        }
    }
}
