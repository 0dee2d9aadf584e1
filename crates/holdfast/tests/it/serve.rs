use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use mock_collector::MockCollector;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::killed::post;

/// Far above the time of any step; a test that waits so long has failed.
pub(crate) const LONG: Duration = Duration::from_secs(30);
/// The command takes 5 s at most between a signal and its end on a machine that has time for it; a loaded one gets
/// more.
const END: Duration = Duration::from_secs(20);

/// `holdfast` with an environment of its own.
pub(crate) fn holdfast(dir: &TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    command.env_clear().env("HOME", dir.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

pub(crate) fn directory() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory")
}

#[expect(clippy::disallowed_methods, reason = "deadlines of real waits")]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}

/// A server as a child process. Killed when dropped.
pub(crate) struct Server {
    pub(crate) child: Child,
    stdout: BufReader<ChildStdout>,
    pub(crate) address: SocketAddr,
    exporting: String,
}

impl Server {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.spawn().expect("holdfast starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = || {
            let mut line = String::new();
            stdout.read_line(&mut line).expect("a line");
            line.trim_end().to_owned()
        };
        let (listening, exporting) = (line(), line());
        let address = listening.strip_prefix("holdfast: listening on http://").and_then(|address| address.parse().ok());
        let Some(address) = address else {
            let output = child.wait_with_output().expect("it ended");
            panic!("{listening:?}, {}", String::from_utf8_lossy(&output.stderr));
        };
        Self { child, stdout, address, exporting }
    }

    pub(crate) fn get(&self, path: &str) -> String {
        self.ask(path, "Host: localhost\r\n")
    }

    fn ask(&self, path: &str, headers: &str) -> String {
        let mut socket = TcpStream::connect(self.address).expect("connected");
        socket.set_read_timeout(Some(LONG)).expect("a time-out");
        write!(socket, "GET {path} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n").expect("sent");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("an answer");
        answer
    }

    /// Sends `signal`, waits for the end within the promised time, and returns the output until then.
    pub(crate) fn end(mut self, signal: Signal) -> (ExitStatus, String) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("the signal is sent");
        let (ended, end) = channel();
        std::thread::spawn(move || {
            let mut rest = String::new();
            let _ = self.stdout.read_to_string(&mut rest);
            let _ = ended.send((self.child.wait(), rest));
        });
        let (status, rest) = end.recv_timeout(END).expect("it ends soon after the signal");
        (status.expect("a status"), rest)
    }
}

#[test]
fn without_a_subcommand_it_serves_with_a_collector_of_its_own() {
    let dir = directory();
    // Port 4317 belongs to the machine; the test only checks how the command reacts to it.
    let elsewhere = TcpStream::connect(("127.0.0.1", 4317)).is_ok();
    let server = Server::start(holdfast(&dir).args(["--listen", "127.0.0.1:0"]));
    let expected = if elsewhere { "where a collector listens" } else { "a collector inside this process" };
    assert!(server.exporting.contains(expected), "{}", server.exporting);
    let health = server.get("/telemetry-test/health");
    assert!(health.starts_with("HTTP/1.1 200") && health.contains(r#""service_name":"holdfast""#), "{health}");
    let (status, rest) = server.end(Signal::TERM);
    assert!(status.success(), "{rest}");
    assert!(elsewhere || rest.contains("1 spans delivered, 0 kept in files, 0 lost"), "{rest}");
}

/// Other programs that send to the embedded collector see its simulated failure too.
#[test]
fn the_embedded_collector_fails_as_the_transport_does() {
    let (dir, port) = (directory(), "127.0.0.1:4317");
    if TcpStream::connect(port).is_ok() {
        // The port belongs to the machine: then this command has no embedded collector.
        let server = Server::start(holdfast(&dir).args(["--listen", "127.0.0.1:0"]));
        assert!(server.exporting.contains("where a collector listens"), "{}", server.exporting);
        return;
    }
    let server = Server::start(holdfast(&dir).args(["--listen", "127.0.0.1:0"]));
    let endpoint = server.exporting.split(' ').find_map(|word| word.strip_prefix("http://")).expect("an endpoint");
    let endpoint = endpoint.trim_end_matches('/').parse::<SocketAddr>().expect("an address");
    let eventually = |expected: bool| {
        let deadline = now() + LONG;
        while TcpStream::connect(endpoint).is_ok() != expected {
            assert!(now() < deadline, "the collector has not changed");
            std::thread::park_timeout(Duration::from_millis(5));
        }
    };
    eventually(true);
    let path = "/telemetry-test/simulate/collector-failure";
    let (status, answer) = post(server.address, path, r#"{"mode": "refuse", "duration_seconds": 2}"#);
    assert_eq!(status, 200, "{answer}");
    eventually(false);
    // After its time it listens again, on the same port.
    eventually(true);
    let (status, rest) = server.end(Signal::TERM);
    assert!(status.success() && rest.contains("0 lost"), "{rest}");
}

#[test]
fn sigterm_flushes_to_the_collector_of_the_environment() {
    let (dir, collector) = (directory(), MockCollector::start().expect("a collector on loopback"));
    let endpoint = collector.grpc_endpoint();
    let server = Server::start(
        holdfast(&dir)
            .args(["serve", "--listen", "127.0.0.1:0"])
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)
            // Nothing would leave the process within the test but for the flush.
            .env("OTEL_BSP_SCHEDULE_DELAY", "3600000"),
    );
    assert_eq!(server.exporting, format!("holdfast: exporting to {endpoint} (set in the environment)"));
    for path in ["/health", "/telemetry-test/health", "/telemetry-test/metrics"] {
        assert!(server.get(path).starts_with("HTTP/1.1 200"), "{path}");
    }
    assert_eq!(collector.received().spans, 0);
    let (status, rest) = server.end(Signal::TERM);
    assert!(status.success(), "{rest}");
    assert_eq!(collector.received().unique, 3);
}

#[test]
fn sigint_without_a_collector_keeps_spans_in_files_and_the_next_start_sends_them() {
    let (dir, collector) = (directory(), MockCollector::start().expect("a collector on loopback"));
    let serve = || {
        let mut command = holdfast(&dir);
        command
            .args(["serve", "--listen", "127.0.0.1:0"])
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.grpc_endpoint());
        command
    };
    collector.stop();
    let server = Server::start(&mut serve());
    server.get("/health");
    server.get("/health");
    let (status, rest) = server.end(Signal::INT);
    assert!(status.success() && rest.contains("0 spans delivered, 2 kept in files, 0 lost"), "{rest}");

    collector.start_again().expect("the same port");
    let server = Server::start(&mut serve());
    assert!(collector.wait_until(LONG, |received| received.unique == 2), "{:?}", collector.received());
    server.end(Signal::INT);
    assert_eq!(collector.received().duplicates, 0);
}

#[test]
fn files_for_a_collector_are_not_sent_to_the_embedded_one() {
    if TcpStream::connect(("127.0.0.1", 4317)).is_ok() {
        return; // the port belongs to the machine; with a collector there, none is made inside
    }
    let (dir, collector) = (directory(), MockCollector::start().expect("a collector on loopback"));
    let serve = |endpoint: &str| {
        let mut command = holdfast(&dir);
        Server::start(command.args(["--listen", "127.0.0.1:0"]).env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint))
    };
    collector.stop();
    let server = serve(&collector.grpc_endpoint());
    server.get("/health");
    let (_, rest) = server.end(Signal::TERM);
    assert!(rest.contains("1 kept in files"), "{rest}");

    let server = serve("");
    assert!(server.exporting.contains("inside this process, without files"), "{}", server.exporting);
    server.get("/health");
    let (_, rest) = server.end(Signal::TERM);
    assert!(rest.contains("the collector inside this process received 1 spans"), "{rest}");

    collector.start_again().expect("the same port");
    let server = serve(&collector.grpc_endpoint());
    assert!(collector.wait_until(LONG, |received| received.unique == 1), "{:?}", collector.received());
    server.end(Signal::TERM);
}

#[test]
fn a_port_in_use_is_an_error_that_says_what_to_do() {
    let dir = directory();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let output = holdfast(&dir).args(["serve", "--listen", &address]).output().expect("it runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains(&format!("{address} is in use")) && stderr.contains("--listen 127.0.0.1:0"), "{stderr}");
}

#[test]
fn bad_settings_are_an_error_that_names_them_without_secrets() {
    let dir = directory();
    for (variable, value, shown) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "nonsense://x", "nonsense://x"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=s3cret%zz", "api-key"),
        ("TELEMETRY_FALLBACK_ENABLED", "maybe", "maybe"),
        ("TELEMETRY_STATE_DIR", "/dev/null", "/dev/null"),
    ] {
        let mut command = holdfast(&dir);
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9").env(variable, value);
        command.env("TELEMETRY_STATE_DIR_REQUIRED", "true");
        let output = command.args(["--listen", "127.0.0.1:0"]).output().expect("it runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(variable) && stderr.contains(shown) && !stderr.contains("s3cret"), "{stderr}");
    }
}

/// Answers each request to the server at the address with these bytes.
fn peer(answer: String) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.expect("a connection"));
            let mut length = 0;
            let mut line = String::new();
            while stream.read_line(&mut line).is_ok_and(|read| read > 2) {
                let header = line.to_ascii_lowercase();
                length = header.strip_prefix("content-length:").map_or(length, |n| n.trim().parse().expect("a number"));
                line.clear();
            }
            // A client that has gone is none of the peer's business.
            let _ = stream.read_exact(&mut vec![0; length]);
            let _ = stream.get_mut().write_all(answer.as_bytes());
        }
    });
    address
}

#[test]
fn a_token_in_the_path_of_the_endpoint_is_in_no_output_and_in_no_file() {
    const TARGET: &str = "/receiver/v1/otlp/s3cret-path==/v1/traces?key=s3cret-query";
    for answer in [
        format!("302 Found\r\nlocation: https://c.example{TARGET}\r\ncontent-length: 0\r\n\r\n"),
        format!("404 None\r\ncontent-length: {}\r\n\r\nnothing at {TARGET}", TARGET.len() + 11),
    ] {
        let (dir, address) = (directory(), peer(format!("HTTP/1.1 {answer}")));
        let log = dir.path().join("log");
        let server = Server::start(
            holdfast(&dir)
                .args(["--listen", "127.0.0.1:0"])
                .env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", format!("http://{address}{TARGET}"))
                .env("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
                .env("OTEL_BSP_SCHEDULE_DELAY", "1")
                .env("TELEMETRY_REFUSED", "dead-letter")
                .stderr(std::fs::File::create(&log).expect("a file")),
        );
        let mut output = server.exporting.clone();
        // Each question is a span, which becomes a dead letter soon.
        let told = (0..10_000).any(|_| {
            output += &server.get("/telemetry-test/health");
            output.contains("dead letters")
        });
        assert!(told, "{output}");
        output += &server.get("/telemetry-test/metrics");
        output += &server.end(Signal::TERM).1;
        assert!(output.contains(&format!("http://{address}/receiver/v1/otlp/***/v1/traces")), "{output}");
        assert!(!output.contains("s3cret"), "{output}");

        // The log too.
        let mut open = vec![dir.path().to_owned()];
        let mut files = 0;
        while let Some(path) = open.pop() {
            if path.is_dir() {
                open.extend(std::fs::read_dir(path).expect("readable").map(|entry| entry.expect("readable").path()));
            } else {
                let content = std::fs::read(&path).expect("readable");
                assert!(!String::from_utf8_lossy(&content).contains("s3cret"), "{path:?}");
                files += 1;
            }
        }
        let log = std::fs::read_to_string(log).expect("text");
        assert!(files > 2 && log.contains("WARN") && log.contains("/receiver/v1/otlp/***"), "{files} files, {log}");
    }
}

#[test]
fn disabled_it_still_serves() {
    let dir = directory();
    let server = Server::start(holdfast(&dir).args(["--listen", "127.0.0.1:0"]).env("OTEL_SDK_DISABLED", "true"));
    assert!(server.exporting.contains("not used"), "{}", server.exporting);
    assert!(server.get("/telemetry-test/health").contains(r#""initialized":false"#));
    assert!(server.get("/health").starts_with("HTTP/1.1 200"));
    let (status, _) = server.end(Signal::TERM);
    assert!(status.success());
}

#[test]
fn the_token_is_made_once_and_names_are_allowed_by_hand() {
    let (dir, collector) = (directory(), MockCollector::start().expect("a collector on loopback"));
    let start = |more: &[(&str, &str)]| {
        let mut command = holdfast(&dir);
        command.args(["serve", "--listen", "127.0.0.1:0", "--allow-host", "telemetry.internal"]);
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.grpc_endpoint());
        Server::start(command.envs(more.iter().copied()))
    };
    let path = "/telemetry-test/dead-letters/none";
    let mut tokens = Vec::new();
    for word in ["made", "found"] {
        let mut server = start(&[]);
        let mut line = String::new();
        server.stdout.read_line(&mut line).expect("a line");
        let file =
            line.trim_end().strip_prefix(&format!("holdfast: token {word} in ")).unwrap_or_else(|| panic!("{line}"));
        let token = std::fs::read_to_string(file).expect("a file").trim().to_owned();
        assert!(server.get(path).starts_with("HTTP/1.1 401"));
        let answer = server.ask(path, &format!("Host: telemetry.internal\r\nAuthorization: Bearer {token}\r\n"));
        assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
        assert!(server.ask("/health", "Host: other.internal\r\n").starts_with("HTTP/1.1 403"));
        tokens.push(token);
        let (_, rest) = server.end(Signal::TERM);
        assert!(rest.contains("0 lost") && !rest.contains(&tokens[0]), "{rest}");
    }
    assert_eq!(tokens[0], tokens[1]);

    let server = start(&[("TELEMETRY_SERVICE_TOKEN", "a-token-of-the-environment")]);
    let of = |token: &str| server.ask(path, &format!("Host: localhost\r\nAuthorization: Bearer {token}\r\n"));
    assert!(of("a-token-of-the-environment").starts_with("HTTP/1.1 404"));
    assert!(of(&tokens[0]).starts_with("HTTP/1.1 401"));
    server.end(Signal::TERM);

    let mut short = holdfast(&dir);
    let output =
        short.env("TELEMETRY_SERVICE_TOKEN", "s3cret").args(["--listen", "127.0.0.1:0"]).output().expect("runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("16 to 256") && !stderr.contains("s3cret"), "{stderr}");
}

#[test]
fn help_and_usage_errors_are_what_programs_expect() {
    let dir = directory();
    let run = |args: &[&str]| holdfast(&dir).args(args).output().expect("it runs");
    let help = run(&["serve", "--help"]);
    let text = String::from_utf8_lossy(&help.stdout);
    assert!(help.status.success());
    for part in [
        "--listen",
        "127.0.0.1:5210",
        "/telemetry-test/metrics",
        "/telemetry-test/dead-letters",
        "TELEMETRY_SERVICE_TOKEN_FILE",
        "--allow-host",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
    ] {
        assert!(text.contains(part), "{text} lacks {part}");
    }
    assert!(String::from_utf8_lossy(&run(&["--help"]).stdout).contains("demo"));
    assert_eq!(run(&["--listen", "nowhere"]).status.code(), Some(2));
    assert_eq!(run(&["brew"]).status.code(), Some(2));
}
