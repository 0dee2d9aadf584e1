//! A load balancer: connections go to its collectors in turn.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use mock_collector::MockCollector;

/// Listens on loopback and passes the n-th connection on to the HTTP port of collector n, modulo their number.
pub(crate) struct Balancer {
    address: SocketAddr,
    is_ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Balancer {
    pub(crate) fn start(collectors: &[&MockCollector]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let address = listener.local_addr().expect("bound");
        let targets = collectors.iter().map(|one| one.http_endpoint().replace("http://", "")).collect::<Vec<_>>();
        let is_ended = Arc::new(AtomicBool::new(false));
        let thread = {
            let is_ended = Arc::clone(&is_ended);
            std::thread::spawn(move || {
                for (connection, target) in listener.incoming().zip(targets.iter().cycle()) {
                    if is_ended.load(Ordering::Relaxed) {
                        return;
                    }
                    if let (Ok(client), Ok(server)) = (connection, TcpStream::connect(target)) {
                        // The client sees the end of the connection.
                        let _ = pass_on(client, server);
                    }
                }
            })
        };
        Self { address, is_ended, thread: Some(thread) }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.is_ended.store(true, Ordering::Relaxed);
        // Ends the wait for the next connection.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Copies both ways, each on a thread that ends with the connection.
fn pass_on(client: TcpStream, server: TcpStream) -> io::Result<()> {
    for (mut from, mut to) in [(client.try_clone()?, server.try_clone()?), (server, client)] {
        std::thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        });
    }
    Ok(())
}
