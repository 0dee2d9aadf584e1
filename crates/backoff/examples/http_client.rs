//! An HTTP client guarded by a breaker and a backoff that knows of it. `cargo run -p backoff --example http_client`
//!
//! The server, a thread of this program, is down for five requests. The breaker opens, the retry waits as long as the
//! breaker says, and one probe finds the server well.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use backoff::{Exponential, retry};
use breaker::{Breaker, CallError, Config};

fn get(server: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&server, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {server}\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200") => Ok(body.to_owned()),
        _ => Err(io::Error::other(answer.lines().next().unwrap_or("no answer").to_owned())),
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let server = listener.local_addr()?;
    std::thread::spawn(move || serve(&listener));

    let breaker = Breaker::new(Config::builder().with_open_duration(Duration::from_millis(200)).build()?);
    breaker.subscribe(|moved| println!("  [{} -> {}: {}]", moved.from, moved.to, moved.reason));
    let body = retry(|| breaker.call(|| get(server, "/orders")))
        .backoff(Exponential::new(Duration::from_millis(5), Duration::from_millis(50))?)
        .max_retries(10)
        .hint(CallError::retry_after)
        .notify(|error, delay| println!("{error}; again in {delay:?}"))
        .run()?;
    println!("answer: {body}, breaker {}", breaker.state());
    Ok(())
}

/// Five times 503, then 200.
fn serve(listener: &TcpListener) {
    for (number, stream) in listener.incoming().enumerate() {
        let Ok(mut stream) = stream else { continue };
        let mut lines = BufReader::new(&stream).lines();
        while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
        let answer = if number < 5 { "503 Service Unavailable\r\n\r\n" } else { "200 OK\r\n\r\n42 orders" };
        // The client may be gone; the next one counts.
        let _ = write!(stream, "HTTP/1.1 {answer}");
    }
}
