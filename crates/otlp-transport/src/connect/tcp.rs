//! TCP connections to a host with one address or several.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
#[cfg(target_os = "linux")]
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::addresses::Addresses;

/// How long one address may keep the next one waiting (RFC 8305, section 5, "Connection Attempt Delay").
const NEXT_ADDRESS: Duration = Duration::from_millis(250);
/// A host that acknowledges nothing for this time is dead.
#[cfg(target_os = "linux")]
const DEAD: Duration = Duration::from_secs(30);
/// While an answer is awaited nothing of ours is on the wire. The kernel then asks the peer's kernel: from this time
/// without a byte on, and again and again after it.
#[cfg(target_os = "linux")]
const ASK: Duration = Duration::from_secs(15);

/// Opens a connection to the first address of the host that answers.
pub(super) async fn open(host: &str, port: u16, addresses: &Addresses) -> io::Result<TcpStream> {
    let mut left = addresses.of_host(host, port).await?.into_iter();
    let mut attempts = FuturesUnordered::new();
    let mut last_error = None;
    loop {
        if let Some(address) = left.next() {
            attempts.push(open_one(address, addresses));
        } else if attempts.is_empty() {
            let none = || io::Error::new(ErrorKind::NotFound, "the name has no address");
            return Err(last_error.unwrap_or_else(none));
        }
        let attempt = if left.len() == 0 {
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

async fn open_one(address: SocketAddr, addresses: &Addresses) -> io::Result<TcpStream> {
    let attempt = Attempt { address, addresses, begun: Instant::now(), has_ended: false };
    let stream = attempt.ended(TcpStream::connect(address).await)?;
    stream.set_nodelay(true)?;
    end_with_a_dead_host(&stream);
    Ok(stream)
}

/// A connection that is being made. Dropped without an end, it was given up: by the time-out of its call, or since
/// another address answered first although this one had its turn before.
struct Attempt<'a> {
    address: SocketAddr,
    addresses: &'a Addresses,
    begun: Instant,
    has_ended: bool,
}

impl Attempt<'_> {
    fn ended(mut self, end: io::Result<TcpStream>) -> io::Result<TcpStream> {
        self.has_ended = true;
        match &end {
            Ok(_) => self.addresses.works(self.address),
            Err(_) => self.addresses.has_failed(self.address),
        }
        end
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if !self.has_ended && self.begun.elapsed() >= NEXT_ADDRESS {
            self.addresses.has_failed(self.address);
        }
    }
}

/// Has the kernel end the connection once the peer's host is silent for [`DEAD`]: `TCP_USER_TIMEOUT` for bytes that are
/// not acknowledged, keep-alive while an answer is awaited, which the same time-out bounds. HTTP/2 pings would do the
/// same, but servers end connections over them. A kernel that knows no such option is no reason for a call to fail.
#[cfg(target_os = "linux")]
fn end_with_a_dead_host(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let _ = socket.set_tcp_user_timeout(Some(DEAD));
    let _ = socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(ASK).with_interval(ASK));
}

/// Other systems have no such time-out; they keep their own times.
#[cfg(not(target_os = "linux"))]
fn end_with_a_dead_host(_stream: &TcpStream) {}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::super::addresses::Resolve;
    use super::*;

    /// A name with these addresses.
    struct Name(Vec<SocketAddr>);

    #[async_trait]
    impl Resolve for Name {
        async fn addresses(&self, _: &str, _: u16) -> io::Result<Vec<SocketAddr>> {
            Ok(self.0.clone())
        }
    }

    /// A listener that accepts.
    async fn working() -> (tokio::net::TcpListener, SocketAddr) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        (listener, address)
    }

    /// An address that drops each SYN: its backlog is full.
    fn black_hole() -> (tokio::net::TcpListener, SocketAddr, Vec<std::net::TcpStream>) {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
        let listener = socket.listen(1).expect("bound");
        let address = listener.local_addr().expect("bound");
        let mut fill = Vec::new();
        while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
            fill.push(stream);
            assert!(fill.len() < 100, "the backlog never fills");
        }
        (listener, address, fill)
    }

    /// An address that refuses.
    fn refusing() -> (tokio::net::TcpSocket, SocketAddr) {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
        let address = socket.local_addr().expect("bound");
        (socket, address)
    }

    async fn reached(addresses: &Addresses) -> SocketAddr {
        open("name", 1, addresses).await.expect("an address that works").peer_addr().expect("connected")
    }

    #[tokio::test]
    async fn an_address_that_refused_is_the_last_of_the_next_attempt() {
        let ((_held, dead), (_listener, alive)) = (refusing(), working().await);
        let addresses = Addresses::of(Name(vec![dead, alive]));
        assert_eq!(reached(&addresses).await, alive);
        assert_eq!(addresses.of_host("name", 1).await.expect("found"), [alive, dead]);
    }

    #[tokio::test]
    async fn an_address_that_said_nothing_is_the_last_of_the_next_attempt() {
        let ((_held, dead, _fill), (_listener, alive)) = (black_hole(), working().await);
        let addresses = Addresses::of(Name(vec![dead, alive]));
        assert_eq!(reached(&addresses).await, alive);
        assert_eq!(addresses.of_host("name", 1).await.expect("found"), [alive, dead]);
        // A minute later it has its turn again.
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(61)).await;
        tokio::time::resume();
        assert_eq!(addresses.of_host("name", 1).await.expect("found"), [dead, alive]);
    }

    #[tokio::test]
    async fn an_address_on_which_a_call_has_timed_out_is_the_last_of_the_next_attempt() {
        let ((_held, dead, _fill), (_listener, alive)) = (black_hole(), working().await);
        let addresses = Addresses::of(Name(vec![dead]));
        let open = open("name", 1, &addresses);
        assert!(tokio::time::timeout(Duration::from_millis(300), open).await.is_err());
        let known = Addresses { resolver: Box::new(Name(vec![dead, alive])), ..addresses };
        assert_eq!(known.of_host("name", 1).await.expect("found"), [alive, dead]);
    }

    #[tokio::test]
    async fn the_only_address_is_tried_however_often_it_failed() {
        let (held, address) = refusing();
        let addresses = Addresses::of(Name(vec![address]));
        for _ in 0..3 {
            let error = open("name", 1, &addresses).await.expect_err("no listener");
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        }
        let _listener = held.listen(8).expect("bound");
        assert_eq!(reached(&addresses).await, address);
    }

    #[tokio::test]
    async fn a_name_without_an_address_is_an_error() {
        let error = open("name", 1, &Addresses::of(Name(Vec::new()))).await.expect_err("no address");
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn the_kernel_ends_a_connection_to_a_dead_host() {
        let (_listener, address) = working().await;
        let stream = open("name", 1, &Addresses::of(Name(vec![address]))).await.expect("a listener");
        let socket = SockRef::from(&stream);
        assert_eq!(socket.tcp_user_timeout().expect("an option"), Some(Duration::from_secs(30)));
        assert!(socket.keepalive().expect("an option"));
        assert_eq!(socket.tcp_keepalive_time().expect("an option"), Duration::from_secs(15));
        assert_eq!(socket.tcp_keepalive_interval().expect("an option"), Duration::from_secs(15));
    }
}
