//! TCP connections, and the tasks that drive them.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinHandle;

use crate::endpoint::Endpoint;

/// How long one address may keep the next one waiting (RFC 8305, section 5, "Connection Attempt Delay").
const NEXT_ADDRESS: Duration = Duration::from_millis(250);

/// Opens a connection to the first address of the endpoint that answers.
pub(crate) async fn tcp(endpoint: &Endpoint) -> io::Result<TcpStream> {
    let mut addresses = lookup_host((endpoint.host.as_str(), endpoint.port)).await?;
    let mut attempts = FuturesUnordered::new();
    let mut last_error = None;
    loop {
        if let Some(address) = addresses.next() {
            attempts.push(open(address));
        } else if attempts.is_empty() {
            let none = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
            return Err(last_error.unwrap_or_else(none));
        }
        let attempt = if addresses.size_hint().1 == Some(0) {
            attempts.next().await
        } else {
            match tokio::time::timeout(NEXT_ADDRESS, attempts.next()).await {
                Ok(attempt) => attempt,
                Err(_) => continue,
            }
        };
        match attempt {
            Some(Ok(stream)) => return Ok(stream),
            Some(Err(error)) => last_error = Some(error),
            None => {}
        }
    }
}

async fn open(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A task that ends with its owner: no connection outlives the transport or a call that was given up.
pub(crate) struct Driver(JoinHandle<()>);

impl Driver {
    pub(crate) fn spawn(connection: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(connection))
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.0.is_finished()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Lets the drivers see what has arrived while nobody ran the runtime: a FIN or a GOAWAY that is already there must not
/// cost a batch its call. The first yield polls the I/O driver, the second runs the tasks that it woke.
pub(crate) async fn catch_up() {
    tokio::task::yield_now().await;
    tokio::task::yield_now().await;
}
