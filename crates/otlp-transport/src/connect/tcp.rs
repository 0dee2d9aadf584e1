//! TCP connections to a host with one address or several.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::net::{TcpStream, lookup_host};

/// How long one address may keep the next one waiting (RFC 8305, section 5, "Connection Attempt Delay").
const NEXT_ADDRESS: Duration = Duration::from_millis(250);

/// Opens a connection to the first address of the host that answers.
pub(super) async fn open(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut addresses = lookup_host((host, port)).await?;
    let mut attempts = FuturesUnordered::new();
    let mut last_error = None;
    loop {
        if let Some(address) = addresses.next() {
            attempts.push(open_one(address));
        } else if attempts.is_empty() {
            let none = || io::Error::new(ErrorKind::NotFound, "the name has no address");
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

async fn open_one(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
