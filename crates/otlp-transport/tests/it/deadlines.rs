//! No call takes longer than its time-out, also beside calls that hang.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use otlp_transport::{Protocol, Transport, connect};
use tokio::time::Instant;

use crate::support::*;

/// A listener that takes one connection; for the next one its backlog is full, which drops the SYN.
struct OneOnly {
    listener: TcpListener,
    fill: Vec<TcpStream>,
}

impl OneOnly {
    async fn new() -> Self {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
        let listener = socket.listen(1).expect("bound").into_std().expect("a socket");
        listener.set_nonblocking(false).expect("a socket");
        Self { listener, fill: Vec::new() }
    }

    fn address(&self) -> std::net::SocketAddr {
        self.listener.local_addr().expect("bound")
    }

    fn accept_and_fill(&mut self) -> TcpStream {
        let (stream, _) = self.listener.accept().expect("a connection");
        while let Ok(stream) = TcpStream::connect_timeout(&self.address(), Duration::from_millis(200)) {
            self.fill.push(stream);
            assert!(self.fill.len() < 100, "the backlog never fills");
        }
        stream
    }
}

/// The first call waits for an answer that never comes, on a connection that takes no further one; the second connects
/// to an address without an answer.
#[tokio::test]
async fn a_call_that_connects_does_not_hold_up_the_time_out_of_another() {
    let mut peer = OneOnly::new().await;
    let config = config(Protocol::Grpc, peer.address()).build().expect("valid");
    let transport = connect(config).expect("valid");
    let (payload, start) = (payload(), Instant::now());
    let mut first = transport.send(&payload);

    let (told, tell) = tokio::sync::oneshot::channel();
    let server = std::thread::spawn(move || {
        let mut stream = peer.accept_and_fill();
        let mut seen = 0;
        while seen < 2_000 {
            seen += stream.read(&mut [0; 4096]).expect("a request");
        }
        // SETTINGS, and a GOAWAY that lets stream 1 end.
        let frames = [&[0, 0, 0, 4, 0, 0, 0, 0, 0][..], &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]].concat();
        stream.write_all(&frames).expect("it listens");
        let _ = told.send(());
        (peer, stream)
    });
    tokio::select! {
        outcome = &mut first => panic!("{outcome:?}"),
        told = tell => told.expect("the server lives"),
    }
    let _open = server.join().expect("no panic");

    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(5)).await;
    let second_start = Instant::now();
    let second = async { (transport.send(&payload).await, second_start.elapsed()) };
    let first = async { (first.await, start.elapsed()) };
    let ((first, first_took), (second, second_took)) = tokio::join!(first, second);
    assert_eq!(
        (summary(&first).as_str(), summary(&second).as_str()),
        ("retryable: timeout, maybe taken", "retryable: timeout")
    );
    assert!(first_took < Duration::from_secs(12), "{first_took:?}");
    assert!(second_took < Duration::from_secs(12), "{second_took:?}");
}

/// The status decides the outcome; the text behind it is only for people.
#[tokio::test]
async fn a_message_that_does_not_come_does_not_hold_up_its_status() {
    let (http, http_address) = listen().await;
    let torn = b"HTTP/1.1 503 No\r\nretry-after: 1\r\ncontent-length: 9\r\n\r\nx".to_vec();
    serve_raw(http, move |_| Raw::AnswerThenHang(torn.clone()));
    let (grpc, grpc_address) = listen().await;
    serve_grpc(grpc, |_| Grpc::HeadersThenHang(503, vec![("retry-after", "1".to_owned())]));
    for (protocol, address) in [(Protocol::HttpProtobuf, http_address), (Protocol::Grpc, grpc_address)] {
        let config = config(protocol, address).with_timeout(Duration::from_secs(60)).build().expect("valid");
        let (transport, payload) = (connect(config).expect("valid"), payload());
        let outcome = tokio::time::timeout(PATIENCE, transport.send(&payload)).await;
        assert_eq!(summary(&outcome.expect("at once")), "retryable after 1s: http 503, maybe taken", "{protocol}");
    }
}
