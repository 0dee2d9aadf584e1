//! The collector itself: ports, threads, and the state that connections share.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime;
use tokio::sync::{Notify, broadcast, oneshot};
use tokio::task::JoinSet;

use crate::behavior::{Behavior, End};
use crate::receipts::{Book, Protocol, Received, Request, SpanIds};
use crate::shared::{Limits, Shared};
use crate::socket::Socket;
use crate::{grpc, http1};

/// Connections that wait to be accepted; the kernel may allow fewer.
const BACKLOG: u32 = 1024;

/// How long accepting rests after an error such as "too many open files".
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Settings of a [`MockCollector`]; made by [`MockCollector::builder`].
#[derive(Clone, Debug)]
pub struct Builder {
    grpc_port: u16,
    http_port: u16,
    limits: Limits,
    id_limit: usize,
    kept_requests: usize,
    record: Option<PathBuf>,
}

impl Builder {
    /// The port for OTLP/gRPC on 127.0.0.1. Default 0: any free one.
    #[must_use]
    pub fn with_grpc_port(mut self, port: u16) -> Self {
        self.grpc_port = port;
        self
    }

    /// The port for OTLP/HTTP on 127.0.0.1. Default 0: any free one.
    #[must_use]
    pub fn with_http_port(mut self, port: u16) -> Self {
        self.http_port = port;
        self
    }

    /// The largest gRPC message, before and after decompression. Default 4 MiB, as in the Collector.
    #[must_use]
    pub fn with_grpc_max_bytes(mut self, bytes: usize) -> Self {
        self.limits.grpc_bytes = bytes;
        self
    }

    /// The largest HTTP body, before and after decompression. Default 20 MiB, as in the Collector.
    #[must_use]
    pub fn with_http_max_bytes(mut self, bytes: usize) -> Self {
        self.limits.http_bytes = bytes;
        self
    }

    /// How many ids of different spans are kept. Default 5,000,000. An id has 24 bytes; with the table around them the
    /// memory is at most 60 bytes an id, 90 while the table grows. Later new spans count as
    /// [`untracked`](Received::untracked).
    #[must_use]
    pub fn with_id_limit(mut self, ids: usize) -> Self {
        self.id_limit = ids;
        self
    }

    /// How many of the last requests are kept whole, for [`requests`](MockCollector::requests). Default 0.
    #[must_use]
    pub fn with_kept_requests(mut self, requests: usize) -> Self {
        self.kept_requests = requests;
        self
    }

    /// A file to which the ids of taken spans are appended before the answer goes out, 24 bytes each (trace id, span
    /// id), so that they survive a kill of this process; [`read_record`](crate::read_record) reads it. Default: none.
    #[must_use]
    pub fn with_record(mut self, path: impl Into<PathBuf>) -> Self {
        self.record = Some(path.into());
        self
    }

    /// Starts the collector on a thread of its own. It listens when this returns, and until it is dropped.
    ///
    /// # Errors
    ///
    /// When a port is taken, the record cannot be opened, or the system has no thread, socket or file left.
    pub fn start(self) -> io::Result<MockCollector> {
        let book = Book::new(self.id_limit, self.kept_requests, self.record.as_deref())
            .map_err(|error| about(error, "the record of received spans cannot be opened"))?;
        let shared = Arc::new(Shared {
            limits: self.limits,
            book: Mutex::new(book),
            arrived: Condvar::new(),
            arrived_async: Notify::new(),
            script: Mutex::default(),
            gate: Arc::default(),
            ends: broadcast::channel(16).0,
        });
        let ports = [Port::reserve(Protocol::Grpc, self.grpc_port)?, Port::reserve(Protocol::Http, self.http_port)?];
        let (runtime, close, thread) = spawn_runtime()?;
        let (close, thread) = (Some(close), Some(thread));
        let collector = MockCollector { shared, ports, runtime, running: Mutex::default(), close, thread };
        collector.start_again()?;
        Ok(collector)
    }
}

/// A running OTLP receiver on 127.0.0.1; dropping it ends it and frees its ports.
///
/// Every method may be called from synchronous code and from inside any async runtime: the collector runs on a thread
/// and a runtime of its own, and no method waits for a client.
#[derive(Debug)]
pub struct MockCollector {
    shared: Arc<Shared>,
    ports: [Port; 2],
    runtime: runtime::Handle,
    running: Mutex<Option<Running>>,
    close: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl MockCollector {
    /// Starts a collector with the default settings on free ports.
    ///
    /// # Errors
    ///
    /// As [`Builder::start`].
    pub fn start() -> io::Result<Self> {
        Self::builder().start()
    }

    /// The default settings.
    #[must_use]
    pub fn builder() -> Builder {
        let limits = Limits { grpc_bytes: 4 << 20, http_bytes: 20 << 20 };
        Builder { grpc_port: 0, http_port: 0, limits, id_limit: 5_000_000, kept_requests: 0, record: None }
    }

    /// The endpoint for OTLP/gRPC: `http://127.0.0.1:<port>`.
    #[must_use]
    pub fn grpc_endpoint(&self) -> String {
        self.ports[0].endpoint()
    }

    /// The base endpoint for OTLP/HTTP: `http://127.0.0.1:<port>`; traces go to `/v1/traces` below it.
    #[must_use]
    pub fn http_endpoint(&self) -> String {
        self.ports[1].endpoint()
    }

    /// The receipts since the start, over all stops.
    #[must_use]
    pub fn received(&self) -> Received {
        self.shared.book.lock().received
    }

    /// The ids of all different spans taken, in no order.
    #[must_use]
    pub fn span_ids(&self) -> Vec<SpanIds> {
        self.shared.book.lock().ids().iter().copied().collect()
    }

    /// Whether this span was taken (and its id kept).
    #[must_use]
    pub fn contains(&self, trace_id: [u8; 16], span_id: [u8; 8]) -> bool {
        self.shared.book.lock().ids().contains(&(trace_id, span_id))
    }

    /// The last requests, oldest first, as many as [`Builder::with_kept_requests`] allows.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.shared.book.lock().kept()
    }

    /// Waits until the condition holds for the receipts, at most `timeout`; returns whether it does. The condition
    /// must not ask the collector, whose books are locked meanwhile. Blocks the thread: in an async runtime use
    /// [`received_when`](Self::received_when).
    pub fn wait_until(&self, timeout: Duration, mut condition: impl FnMut(&Received) -> bool) -> bool {
        let mut book = self.shared.book.lock();
        !self.shared.arrived.wait_while_for(&mut book, |book| !condition(&book.received), timeout).timed_out()
    }

    /// Resolves when the condition holds for the receipts. Needs no runtime in particular; bound it with a
    /// time-out.
    ///
    /// # Cancel safety
    ///
    /// Dropping it at any point loses nothing.
    pub async fn received_when(&self, mut condition: impl FnMut(&Received) -> bool) -> Received {
        loop {
            let changed = self.shared.arrived_async.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable(); // before the look, so that no change is missed in between
            let received = self.received();
            if condition(&received) {
                return received;
            }
            changed.await;
        }
    }

    /// Behaves like this from now on, for requests that have not been read to their end and connections of all ages.
    /// Drops the behaviors that [`set_next`](Self::set_next) had queued.
    pub fn set(&self, behavior: Behavior) {
        let mut script = self.shared.script.lock();
        script.set(behavior);
        self.shared.gate.set(script.holds_all());
    }

    /// Behaves like this for the next `requests` requests, after those queued before; then as last [`set`](Self::set).
    pub fn set_next(&self, requests: u64, behavior: Behavior) {
        self.shared.script.lock().set_next(requests, behavior);
    }

    /// Ends all connections that are open now, also those that idle. [`End::Stream`] becomes a GOAWAY.
    pub fn end_connections(&self, end: End) {
        let _ = self.shared.ends.send(end); // an error means that there is none
    }

    /// Stops as a process that died: live connections drop and both ports refuse. They stay ours (a bound socket that
    /// does not listen holds each), so that no other process can take them. Without effect when stopped. Returns when
    /// the ports refuse.
    pub fn stop(&self) {
        let Some(Running { stop, ended }) = self.running.lock().take() else { return };
        drop(stop);
        let _ = ended.recv(); // nothing is ever sent: it ends when the sockets are closed
        for port in &self.ports {
            let _ = port.share(false); // cannot fail on an open socket
        }
    }

    /// Listens again on the same ports after [`stop`](Self::stop), with the same books and script. Without effect when
    /// running.
    ///
    /// # Errors
    ///
    /// When the system gives no socket.
    pub fn start_again(&self) -> io::Result<()> {
        let mut running = self.running.lock();
        if running.is_some() {
            return Ok(());
        }
        let _context = self.runtime.enter(); // listening registers with the runtime's poll
        let [grpc, http] = &self.ports;
        let listeners = [grpc.listen()?, http.listen()?];
        let (stop, stopped) = oneshot::channel::<()>();
        let (ending, ended) = mpsc::channel::<()>();
        self.runtime.spawn(run(listeners, Arc::clone(&self.shared), stopped, ending));
        *running = Some(Running { stop, ended });
        Ok(())
    }

    /// Whether it listens: false between [`stop`](Self::stop) and [`start_again`](Self::start_again).
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.running.lock().is_some()
    }
}

impl Drop for MockCollector {
    fn drop(&mut self) {
        drop(self.close.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[derive(Debug)]
struct Running {
    stop: oneshot::Sender<()>,
    ended: mpsc::Receiver<()>,
}

/// A reserved port, with or without a listener on it.
#[derive(Debug)]
pub(crate) struct Port {
    protocol: Protocol,
    pub(crate) address: SocketAddr,
    /// Bound, never listening. `SO_REUSEADDR` on both sockets lets the listener share the port; without it on this one
    /// no other socket can.
    placeholder: TcpSocket,
}

impl Port {
    pub(crate) fn reserve(protocol: Protocol, port: u16) -> io::Result<Self> {
        let bind = |address| {
            let socket = TcpSocket::new_v4()?;
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            Ok((socket.local_addr()?, socket))
        };
        let wanted = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let (address, placeholder) = bind(wanted).map_err(|error| about(error, &format!("{wanted} cannot be had")))?;
        Ok(Self { protocol, address, placeholder })
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Allows or forbids that a listener, of this process or of a child, shares the reserved port.
    pub(crate) fn share(&self, shared: bool) -> io::Result<()> {
        self.placeholder.set_reuseaddr(shared)
    }

    fn listen(&self) -> io::Result<(Protocol, TcpListener)> {
        let listen = || {
            self.share(true)?;
            let socket = TcpSocket::new_v4()?;
            socket.set_reuseaddr(true)?;
            socket.bind(self.address)?;
            socket.listen(BACKLOG)
        };
        let listener = listen().map_err(|error| about(error, &format!("cannot listen on {}", self.address)))?;
        Ok((self.protocol, listener))
    }
}

fn about(error: io::Error, what: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

fn spawn_runtime() -> io::Result<(runtime::Handle, oneshot::Sender<()>, JoinHandle<()>)> {
    let runtime = runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let handle = runtime.handle().clone();
    let (close, closed) = oneshot::channel::<()>();
    // The runtime is used and dropped on its own thread: dropping one inside another runtime would panic.
    let thread = std::thread::Builder::new().name("mock-collector".to_owned()).spawn(move || {
        let _ = runtime.block_on(closed);
    })?;
    Ok((handle, close, thread))
}

/// Accepts on both ports until told to stop; then everything that is open closes before `ending` is dropped.
async fn run(
    [grpc, http]: [(Protocol, TcpListener); 2],
    shared: Arc<Shared>,
    stopped: oneshot::Receiver<()>,
    ending: mpsc::Sender<()>,
) {
    let mut connections = JoinSet::new();
    let mut stopped = std::pin::pin!(stopped);
    loop {
        let (protocol, accepted) = tokio::select! {
            biased;
            _ = &mut stopped => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = grpc.1.accept() => (grpc.0, accepted),
            accepted = http.1.accept() => (http.0, accepted),
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let held = shared.script.lock().holds_connection().then(|| shared.gate.epoch());
        let socket = Socket::new(stream, Arc::clone(&shared.gate), held);
        shared.change(|book| book.received.connections += 1);
        match protocol {
            Protocol::Grpc => connections.spawn(grpc::serve(socket, Arc::clone(&shared))),
            Protocol::Http => connections.spawn(http1::serve(socket, Arc::clone(&shared))),
        };
    }
    drop((grpc, http));
    connections.shutdown().await;
    drop(ending);
}
