//! A proxy with scripted answers.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use otlp_transport::{Cause, Config, ConfigBuilder, Outcome, Protocol};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::support::{PATIENCE, fixed_clock, listen};

/// How the proxy treats each connection, once the head of the first request was read.
#[derive(Clone, Debug)]
pub(crate) enum Script {
    /// Writes these bytes and connects to this address.
    Tunnel(Vec<u8>, SocketAddr),
    /// The same, with the first half of that server's first bytes in one piece with the answer, and the second once the
    /// client has used the tunnel.
    TunnelAtOnce(Vec<u8>, SocketAddr),
    /// Writes these bytes, and goes on reading.
    Answer(Vec<u8>),
    /// Writes these bytes, and ends the connection.
    AnswerThenClose(Vec<u8>),
    /// Writes these bytes again and again.
    Endless(Vec<u8>),
    /// Writes one of these bytes a second.
    Drip(Vec<u8>),
    /// No answer, with word of the request.
    Hang(Arc<Notify>),
}

/// The bytes of each connection, without those that a tunnel carried.
pub(crate) type Seen = Arc<Mutex<Vec<Vec<u8>>>>;

pub(crate) struct FakeProxy {
    pub(crate) address: SocketAddr,
    seen: Seen,
}

impl FakeProxy {
    pub(crate) async fn start(script: Script) -> Self {
        let (listener, address) = listen().await;
        let seen = Seen::default();
        tokio::spawn(accept(listener, script, Arc::clone(&seen)));
        Self { address, seen }
    }

    pub(crate) fn seen(&self) -> Vec<String> {
        let seen = self.seen.lock().expect("not poisoned");
        seen.iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect()
    }

    /// A request to a host that no resolver knows.
    pub(crate) fn config(&self, protocol: Protocol) -> ConfigBuilder {
        Config::builder()
            .with_protocol(protocol)
            .with_endpoint("http://collector.test:4317")
            .with_proxy(format!("http://{}", self.address))
            .with_timeout(PATIENCE)
            .with_wall_clock(fixed_clock)
    }
}

async fn accept(listener: TcpListener, script: Script, seen: Seen) {
    for index in 0.. {
        let Ok((stream, _)) = listener.accept().await else { return };
        stream.set_nodelay(true).expect("a TCP socket");
        seen.lock().expect("not poisoned").push(Vec::new());
        tokio::spawn(serve(stream, script.clone(), Arc::clone(&seen), index));
    }
}

async fn serve(mut stream: TcpStream, script: Script, seen: Seen, index: usize) {
    // Byte by byte: those behind the head are for the tunnel.
    let add = |bytes: &[u8]| {
        let mut seen = seen.lock().expect("not poisoned");
        seen[index].extend_from_slice(bytes);
        seen[index].ends_with(b"\r\n\r\n")
    };
    while let Ok(byte) = stream.read_u8().await {
        if add(&[byte]) {
            break;
        }
    }
    match script {
        Script::Tunnel(answer, to) => {
            let Ok(mut server) = TcpStream::connect(to).await else { return };
            let _ = stream.write_all(&answer).await;
            let _ = tokio::io::copy_bidirectional(&mut stream, &mut server).await;
        }
        Script::TunnelAtOnce(mut answer, to) => {
            let Ok(mut server) = TcpStream::connect(to).await else { return };
            let (head, mut first) = (answer.len(), Vec::new());
            let _ = server.read_buf(&mut answer).await;
            let half = answer.split_off(head + (answer.len() - head) / 2);
            let _ = stream.write_all(&answer).await;
            let _ = stream.read_buf(&mut first).await;
            let _ = server.write_all(&first).await;
            let _ = stream.write_all(&half).await;
            let _ = tokio::io::copy_bidirectional(&mut stream, &mut server).await;
        }
        Script::Answer(answer) => {
            let _ = stream.write_all(&answer).await;
            record(&mut stream, add).await;
        }
        Script::AnswerThenClose(answer) => {
            let _ = stream.write_all(&answer).await;
            let _ = stream.shutdown().await;
            record(&mut stream, add).await;
        }
        Script::Endless(bytes) => while stream.write_all(&bytes).await.is_ok() {},
        Script::Drip(bytes) => {
            let mut second = tokio::time::interval(Duration::from_secs(1));
            for byte in bytes {
                second.tick().await;
                if stream.write_all(&[byte]).await.is_err() {
                    return;
                }
            }
            record(&mut stream, add).await;
        }
        Script::Hang(asked) => {
            asked.notify_one();
            record(&mut stream, add).await;
        }
    }
}

async fn record(stream: &mut TcpStream, add: impl Fn(&[u8]) -> bool) {
    while let Ok(byte) = stream.read_u8().await {
        add(&[byte]);
    }
}

/// The text of a connection that was not made: nothing was sent.
#[track_caller]
pub(crate) fn unconnected(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Retryable { after: None, cause: Cause::Connect(text), possible_duplicate: false } => text,
        other => panic!("{other:?}"),
    }
}
