//! Compressed requests to the Collector, through a relay that looks at the bytes.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use super::Setup;
use super::calls::Vars;
use super::otelcol::Otelcol;
use super::wire::Traced;
use crate::Failure;
use crate::contender::{self, Protocol};

/// An attribute's value that every second span has.
const PLAIN: &[u8] = b"shop.example.com";
/// The codings, and the bytes with which each begins.
const CODINGS: [(&str, &[u8]); 3] = [("none", b""), ("gzip", b"\x1f\x8b\x08"), ("zstd", b"\x28\xb5\x2f\xfd")];

/// Spans arrive alike by each coding, which is on the wire.
pub(super) fn delivery(setup: &Setup, protocol: Protocol) -> Result<String, Failure> {
    let mut seen = Vec::new();
    let mut count = 0;
    for (name, magic) in CODINGS {
        let folder = tempfile::tempdir()?;
        let collector = Otelcol::otlp(setup, folder.path())?;
        let server = collector.endpoint(protocol);
        let relay = Relay::start(server.trim_start_matches("http://").parse()?)?;
        let endpoint = format!("http://{}", relay.address);
        let vars = Vars::new(protocol, endpoint).with("OTEL_EXPORTER_OTLP_COMPRESSION", name);
        let mut traced = Traced::new(vars.exporter(&folder.path().join("state"))?, contender::resource())?;
        traced.serve(300)?;
        count = traced.compare(&collector)?;
        traced.provider.shutdown()?;
        let bytes = relay.stop();
        let has = |part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
        let is_coded = !magic.is_empty();
        if (is_coded && !has(magic)) || has(PLAIN) == is_coded {
            return Err(format!("{name}: the {} bytes on the wire are not in this coding", bytes.len()).into());
        }
        seen.push(format!("{name} {} kB", bytes.len() / 1_000));
    }
    Ok(format!("{count} spans each, all alike; on the wire {}", seen.join(", ")))
}

/// Passes connections on to a server, and keeps the bytes that the clients sent.
struct Relay {
    address: SocketAddr,
    sent: Arc<Mutex<Vec<u8>>>,
    is_over: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl Relay {
    fn start(server: SocketAddr) -> Result<Self, Failure> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let (sent, is_over) = (Arc::<Mutex<Vec<u8>>>::default(), Arc::<AtomicBool>::default());
        let (log, over) = (Arc::clone(&sent), Arc::clone(&is_over));
        let accepting = thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if over.load(Ordering::Acquire) {
                    return;
                }
                // A connection that fails on either side ends on both, and the exporter makes another one.
                let _ = pass_on(client, server, &log);
            }
        });
        Ok(Self { address, sent, is_over, accepting: Some(accepting) })
    }

    /// The bytes of all clients.
    fn stop(self) -> Vec<u8> {
        std::mem::take(&mut *self.sent.lock().expect("no thread panics with the lock held"))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        // Wakes the thread that accepts; the others end with their connections.
        let _ = TcpStream::connect(self.address);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

/// Two threads carry the bytes, until either side ends the connection.
fn pass_on(mut client: TcpStream, server: SocketAddr, sent: &Arc<Mutex<Vec<u8>>>) -> io::Result<()> {
    let mut server = TcpStream::connect(server)?;
    let (mut answers, mut back) = (server.try_clone()?, client.try_clone()?);
    let sent = Arc::clone(sent);
    thread::spawn(move || {
        let mut buffer = [0; 16 << 10];
        while let Ok(read @ 1..) = client.read(&mut buffer) {
            sent.lock().expect("no thread panics with the lock held").extend_from_slice(&buffer[..read]);
            if server.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        let _ = server.shutdown(Shutdown::Both);
    });
    thread::spawn(move || {
        let _ = io::copy(&mut answers, &mut back);
        let _ = back.shutdown(Shutdown::Both);
    });
    Ok(())
}
