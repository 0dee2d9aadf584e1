//! A served telemetry, and a client that is nothing but a socket.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use mock_collector::MockCollector;
use telemetry_manager::opentelemetry::trace::{Span as _, Tracer as _, TracerProvider as _};
use telemetry_manager::{Observer, OpenTelemetryManager};
use telemetry_service::{Limits, Service, Token};
use tempfile::TempDir;

/// Far above the time of any step; a test that waits so long has failed.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// Bytes of the answer to `/large`: far more than the buffers of two sockets take.
pub(crate) const LARGE: usize = 32 << 20;

/// The token of each server.
pub(crate) const TOKEN: &str = "s3cret-0123456789";

/// A server of this crate in front of a manager in front of a collector.
pub(crate) struct World {
    pub(crate) collector: MockCollector,
    pub(crate) telemetry: OpenTelemetryManager,
    pub(crate) address: SocketAddr,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    ended: Receiver<std::io::Result<()>>,
    _dir: TempDir,
}

impl World {
    pub(crate) fn new(more: &[(&str, &str)]) -> Self {
        Self::serving(more, telemetry_service::traced)
    }

    /// The router of this crate and two routes of an application, traced by `traced`.
    pub(crate) fn serving(more: &[(&str, &str)], traced: fn(Router, &Observer) -> Router) -> Self {
        Self::with(more, traced, Limits::default(), |service| service)
    }

    /// A service as `change` makes it of one on loopback with the token.
    pub(crate) fn changed(change: impl FnOnce(Service) -> Service) -> Self {
        Self::with(&[], telemetry_service::traced, Limits::default(), change)
    }

    /// A server with these limits.
    pub(crate) fn limited(limits: Limits) -> Self {
        Self::with(&[], telemetry_service::traced, limits, |service| service)
    }

    /// The same with other variables, another application around it, other limits and another service.
    pub(crate) fn with(
        more: &[(&str, &str)],
        traced: fn(Router, &Observer) -> Router,
        limits: Limits,
        change: impl FnOnce(Service) -> Service,
    ) -> Self {
        let collector = MockCollector::builder().with_kept_requests(100).start().expect("a collector on loopback");
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        let mut vars = BTreeMap::from([
            ("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), OsString::from(collector.grpc_endpoint())),
            ("OTEL_SERVICE_NAME".to_owned(), "my-api".into()),
            ("HOME".to_owned(), dir.path().into()),
        ]);
        vars.extend(more.iter().map(|(name, value)| ((*name).to_owned(), OsString::from(value))));
        let telemetry = OpenTelemetryManager::builder()
            .with_vars(move |name| vars.get(name).cloned())
            .build()
            .expect("telemetry starts");
        let observer = telemetry.observer();
        let service = Service::new(observer.clone())
            .with_address(telemetry_service::DEFAULT_ADDRESS)
            .with_token(Token::new(TOKEN).expect("fit"));
        let app = Router::new()
            .route("/orders/{id}", get(async || "an order"))
            .route("/broken", get(async || StatusCode::SERVICE_UNAVAILABLE))
            .route("/large", get(async || vec![b'x'; LARGE]))
            .merge(change(service).router());
        let app = traced(app, &observer);
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (bound, listening) = channel();
        let (end, ended) = channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let served = runtime.block_on(async move {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
                let _ = bound.send(listener.local_addr()?);
                let stop = async move { drop(stopped.await) };
                telemetry_service::serve_with(listener, app, limits, stop, Duration::from_millis(300)).await
            });
            let _ = end.send(served);
        });
        let address = listening.recv_timeout(LONG).expect("the server listens");
        Self { collector, telemetry, address, stop: Some(stop), ended, _dir: dir }
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.request("GET", path, "")
    }

    /// One request on a connection of its own; `headers` are whole lines.
    pub(crate) fn request(&self, method: &str, path: &str, headers: &str) -> Answer {
        let mut socket = self.connect();
        write!(socket, "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{headers}\r\n", self.address)
            .expect("sent");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("an answer in UTF-8");
        let answer = Answer::parse(&answer);
        crate::documented::judge(method, path, &answer);
        answer
    }

    /// As [`request`](Self::request), with the token.
    pub(crate) fn with_token(&self, method: &str, path: &str) -> Answer {
        self.request(method, path, &format!("Authorization: Bearer {TOKEN}\r\n"))
    }

    /// Sends these bytes and reads until the server closes the connection.
    pub(crate) fn send(&self, bytes: &[u8]) -> Answer {
        let mut socket = self.connect();
        socket.write_all(bytes).expect("sent");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("an answer in UTF-8");
        Answer::parse(&answer)
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(self.address).expect("connected");
        socket.set_read_timeout(Some(LONG)).expect("a time-out");
        socket
    }

    /// Tells the server to stop and waits until it has.
    pub(crate) fn stop(&mut self) -> std::io::Result<()> {
        drop(self.stop.take());
        self.ended.recv_timeout(LONG).expect("the server ends")
    }

    /// Ends `spans` spans and has them on their way in a batch.
    pub(crate) fn trace(&self, spans: usize) {
        let tracer = self.telemetry.tracer_provider().tracer("test");
        for _ in 0..spans {
            tracer.start("work").end();
        }
        let _ = self.telemetry.settled(Duration::ZERO);
    }

    /// Waits until the server's own health is as wanted.
    pub(crate) fn wait_for(&self, mut wanted: impl FnMut(&telemetry_manager::resilient_exporter::Health) -> bool) {
        let handle = self.telemetry.handle().expect("an exporter");
        let events = handle.subscribe();
        while !wanted(&handle.health()) {
            events.recv_timeout(LONG).expect("something happens");
        }
    }
}

/// An HTTP answer, taken apart.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no end of headers in {text:?}"));
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect("a status");
        let headers =
            lines.filter_map(|line| line.split_once(": ")).map(|(name, value)| (name.to_lowercase(), value.to_owned()));
        Self { status, headers: headers.collect(), body: body.to_owned() }
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }
}
