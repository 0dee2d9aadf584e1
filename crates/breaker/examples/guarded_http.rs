//! An HTTP client guarded by a breaker that listens to `Retry-After`. `cargo run -p breaker --example guarded_http`
//!
//! The server, a thread of this program, answers 404 once (which says nothing about its health), then 503 twice, then
//! 200. The second 503 opens the breaker, for as long as its `Retry-After` says. With retries: the example
//! `http_client` of `backoff`.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use breaker::{Breaker, Config, Outcome};

struct Response {
    status: u16,
    retry_after: Option<Duration>,
    body: String,
}

fn get(server: SocketAddr, path: &str) -> io::Result<Response> {
    let mut stream = TcpStream::connect_timeout(&server, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {server}\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let no_http = || io::Error::new(io::ErrorKind::InvalidData, "the answer is not HTTP");
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(no_http)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(no_http)?;
    let seconds = head.lines().find_map(|line| line.strip_prefix("retry-after: "));
    let retry_after = seconds.and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
    Ok(Response { status, retry_after, body: body.to_owned() })
}

/// No answer and 5xx are failures of the server, 4xx are mistakes of ours.
fn classify(result: &io::Result<Response>) -> Outcome {
    match result {
        Ok(Response { status: 500.., retry_after: Some(wait), .. }) => Outcome::FailureWithHint(*wait),
        Ok(Response { status: 500.., .. }) => Outcome::Failure,
        Ok(Response { status: 400.., .. }) => Outcome::Neutral,
        other => other.into(),
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let server = listener.local_addr()?;
    std::thread::spawn(move || serve(&listener));

    let config = Config::builder().with_failure_threshold(2).with_open_duration(Duration::from_millis(50)).build()?;
    let breaker = Breaker::new(config);
    breaker.subscribe(|moved| println!("  [{} -> {}: {}]", moved.from, moved.to, moved.reason));

    // Four answers and one refusal: the refused call is not made.
    for _ in 0..5 {
        match breaker.call_with(classify, || get(server, "/orders")) {
            Ok(response) => println!("{} {}", response.status, response.body),
            Err(error) => {
                println!("{error}");
                // No time, unless the breaker refused: then it says how long.
                std::thread::park_timeout(error.retry_after().unwrap_or_default());
            }
        }
    }
    println!("{} after {} trip", breaker.state(), breaker.trips());
    Ok(())
}

fn serve(listener: &TcpListener) {
    for (number, stream) in listener.incoming().enumerate() {
        let Ok(mut stream) = stream else { continue };
        let mut lines = BufReader::new(&stream).lines();
        while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
        let answer = match number {
            0 => "404 Not Found\r\n\r\nno such order",
            1 | 2 => "503 Service Unavailable\r\nretry-after: 1\r\n\r\nback in a second",
            _ => "200 OK\r\n\r\n42 orders",
        };
        // The client may be gone; the next one counts.
        let _ = write!(stream, "HTTP/1.1 {answer}");
    }
}
