//! A secret in each part of the endpoint's URL and in each header: no log line, no event, no `Debug`, no JSON and no
//! file has it, for any answer of a peer that repeats the request.

use std::fmt::{Debug, Write as _};
use std::fs;
use std::io::{Read, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, Once, PoisonError};
use std::thread;
use std::time::Duration;

use telemetry_manager::resilient_exporter::{DeadLetterFilter, Handle, Health, ResilientSpanExporter};
use telemetry_manager::{OpenTelemetryManager, Settings, otlp_transport};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::support::{LONG, Setup, files_below, trace};

/// In each secret of this test, and in nothing else.
const SECRET: &str = "c4n4ry";
/// The base64 of `c4n4ry-user:c4n4ry-password`.
const BASIC: &str = "YzRuNHJ5LXVzZXI6YzRuNHJ5LXBhc3N3b3Jk";
const TARGET: &str = "/receiver/v1/otlp/c4n4ry-Path+1==/v1/traces?api_key=c4n4ry-Query%2F2";
const HEADERS: &str = "authorization=Basic%20YzRuNHJ5LXVzZXI6YzRuNHJ5LXBhc3N3b3Jk,x-key=c4n4ry-header";
/// A request as peers repeat it: as it came, decoded, encoded, with the user and the password of its `Basic`.
const ECHO: &str = "no c4n4ry-user:c4n4ry-password (Basic YzRuNHJ5LXVzZXI6YzRuNHJ5LXBhc3N3b3Jk, c4n4ry-header) at \
    /receiver/v1/otlp/c4n4ry-Path+1==/v1/traces?api_key=c4n4ry-Query%2F2 or api_key=c4n4ry-Query/2 or \
    %2Freceiver%2Fv1%2Fotlp%2Fc4n4ry-Path%2B1%3D%3D, c4n4ry-password alone, c4n4ry-path%2b1%3d%3d, c4n4ry-file";

/// A headers file, outside the directories whose files are searched.
static HEADERS_FILE: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("headers"), "x-file=Bearer%20c4n4ry-file\nhost=c4n4ry").expect("written");
    dir
});

/// Lines of the log, of every level and of every crate, in which the secret is.
static LEAKS: Mutex<Vec<String>> = Mutex::new(Vec::new());
static LINES: AtomicUsize = AtomicUsize::new(0);

fn leaks() -> MutexGuard<'static, Vec<String>> {
    LEAKS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A log subscriber of every level; the threads of the exporter log to the global one.
struct Watch;

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = write!(self.0, " {field}={value:?}");
    }
}

fn watch(metadata: &Metadata<'_>, record: impl FnOnce(&mut Line)) {
    let mut line = Line(metadata.target().to_owned());
    record(&mut line);
    LINES.fetch_add(1, Ordering::Relaxed);
    if has_secret(&line.0) {
        leaks().push(line.0);
    }
}

impl Subscriber for Watch {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn event(&self, event: &Event<'_>) {
        watch(event.metadata(), |line| event.record(line));
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        watch(attributes.metadata(), |line| attributes.record(line));
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, values: &Record<'_>) {
        let mut line = Line(String::new());
        values.record(&mut line);
        assert!(!has_secret(&line.0), "{}", line.0);
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Gives every request these bytes as its answer, and counts requests.
fn peer(answer: Vec<u8>) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&requests);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (answer, counted) = (answer.clone(), Arc::clone(&counted));
            thread::spawn(move || serve(stream?, &answer, &counted));
        }
    });
    (address, requests)
}

/// HTTP/1.1 as far as this client speaks it: a length, no trailers.
fn serve(mut stream: TcpStream, answer: &[u8], requests: &AtomicUsize) -> std::io::Result<()> {
    let mut received = Vec::new();
    loop {
        let head = loop {
            if let Some(end) = received.windows(4).position(|four| four == b"\r\n\r\n") {
                break String::from_utf8_lossy(&received[..end + 4]).to_ascii_lowercase();
            }
            read(&mut stream, &mut received)?;
        };
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
        while received.len() < head.len() + length.unwrap_or(0) {
            read(&mut stream, &mut received)?;
        }
        received.clear();
        requests.fetch_add(1, Ordering::Relaxed);
        stream.write_all(answer)?;
    }
}

fn read(stream: &mut TcpStream, received: &mut Vec<u8>) -> std::io::Result<()> {
    let mut bytes = [0; 4_096];
    match stream.read(&mut bytes)? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        length => {
            received.extend_from_slice(&bytes[..length]);
            Ok(())
        }
    }
}

fn answer(head: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn with_headers(setup: &Setup, address: SocketAddr, more: &[(&str, &str)]) -> telemetry_manager::Builder {
    let endpoint = format!("http://{address}{TARGET}");
    let file = HEADERS_FILE.path().join("headers");
    let mut vars = vec![
        ("TELEMETRY_HEADERS_FILE", file.to_str().expect("UTF-8")),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", endpoint.as_str()),
        ("OTEL_EXPORTER_OTLP_HEADERS", HEADERS),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("TELEMETRY_RETRY_INITIAL_DELAY", "1ms"),
        ("TELEMETRY_RETRY_MAX_DELAY", "1ms"),
        ("CIRCUIT_BREAKER_FAILURE_THRESHOLD", "3"),
        // Files are searched as they are.
        ("TELEMETRY_FALLBACK_COMPRESSION", "none"),
    ];
    vars.extend(more);
    setup.builder(&vars)
}

/// Everything that a program can see of its telemetry, as text.
fn seen(manager: &OpenTelemetryManager, handle: &Handle) -> String {
    let observer = manager.observer();
    let health: Health = handle.health();
    let settings: &Settings = manager.settings();
    let letters = handle.dead_letters(10);
    let read: Vec<_> = handle.dead_letter_ids().iter().flatten().map(|id| handle.dead_letter(id)).collect();
    let json = [serde_json::to_string(&manager.health()), serde_json::to_string(&health)];
    format!(
        "{manager:?} {handle:?} {observer:?} {health:?} {json:?} {:?} {:?} {settings:?} {} {:?} {letters:?} {read:?} {:?}",
        manager.health(),
        observer.exporter_health(),
        settings.summary(),
        manager.warnings(),
        handle.shutdown_result(),
    )
}

fn has_secret(text: &str) -> bool {
    [SECRET, BASIC].iter().any(|secret| text.to_ascii_lowercase().contains(&secret.to_ascii_lowercase()))
}

fn check(name: &str, text: &str) {
    assert!(!has_secret(text), "{name}: {text}");
}

/// Searches all files, and gives their number.
fn check_files(setup: &Setup) -> usize {
    let files = files_below(setup.dir.path());
    for file in &files {
        let content = fs::read(file).expect("readable");
        check("a file", &format!("{file:?} {}", String::from_utf8_lossy(&content)));
    }
    files.len()
}

#[test]
fn a_secret_of_the_url_or_of_a_header_is_nowhere() {
    static START: Once = Once::new();
    START.call_once(|| tracing::subscriber::set_global_default(Watch).expect("the only global one"));
    let location = format!("302 Found\r\nlocation: https://c4n4ry-user:c4n4ry-password@127.0.0.1:1{TARGET}");
    let text = "content-type: text/plain";
    let strict = ("TELEMETRY_REFUSED", "dead-letter");
    let durable = ("TELEMETRY_JOURNAL_ENABLED", "true");
    let mut files = 0;
    for (name, answer, more) in [
        ("redirect", answer(&location, ""), &[][..]),
        ("redirect, strict", answer(&location, ""), &[strict]),
        ("400, strict", answer("400 Bad Request", ECHO), &[strict, durable]),
        ("401", answer("401 No", ECHO), &[]),
        ("404, strict", answer("404 None", ECHO), &[strict]),
        ("413", answer("413 Large", ECHO), &[]),
        ("429", answer("429 Wait\r\nretry-after: 600", ECHO), &[]),
        ("500", answer("500 Broken", ECHO), &[durable]),
        ("503", answer("503 Busy", ECHO), &[]),
        ("unreadable", answer(&format!("200 OK\r\n{text}"), ECHO), &[]),
        ("page", answer("200 OK\r\ncontent-type: text/html", ECHO), &[strict]),
        ("not HTTP", ECHO.as_bytes().to_vec(), &[]),
        ("no end", format!("HTTP/1.1 400 Bad\r\ncontent-length: 9999\r\n\r\n{ECHO}").into_bytes(), &[strict]),
    ] {
        let setup = Setup::new();
        let (address, requests) = peer(answer);
        let builder = with_headers(&setup, address, more);
        check(name, &format!("{builder:?}"));
        let manager = builder.build().expect("telemetry starts");
        let handle = manager.handle().expect("spans are exported");
        let events = handle.subscribe();
        trace(&manager, 3);
        let _ = manager.settled(Duration::ZERO);
        let mut told = String::new();
        while handle.health().metrics.total_exports == 0 || requests.load(Ordering::Relaxed) == 0 {
            let event = events.recv_timeout(LONG).unwrap_or_else(|error| panic!("{name}: {error}"));
            let _ = write!(told, "{event:?}");
        }
        // Another second of the same: retries, probes, dead letters.
        let _ = manager.settled(Duration::from_millis(300)).map_err(|error| told += &format!("{error} {error:?}"));
        told += &seen(&manager, &handle);
        let _ = handle.redrive_matching(&DeadLetterFilter::default());
        let _ = manager.shutdown().map_err(|error| told += &format!("{error} {error:?}"));
        told += &seen(&manager, &handle);
        told.extend(events.try_iter().map(|event| format!("{event:?}")));
        check(name, &told);
        assert!(told.contains(&format!("http://{address}/receiver/v1/otlp/***/v1/traces")), "{name}: {told}");
        files += check_files(&setup);
        assert!(!more.contains(&strict) || told.contains("DeadLettered {"), "{name}: {told}");
    }
    assert!(files > 10 && LINES.load(Ordering::Relaxed) > 50, "{files} files, {LINES:?} lines of the log");
    assert_eq!(*leaks(), [""; 0]);
}

#[test]
fn a_collector_that_refuses_connections_is_named_without_the_secret() {
    let setup = Setup::new();
    let address = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    for more in [&[][..], &[("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]] {
        let manager = with_headers(&setup, address, more).build().expect("telemetry starts");
        let handle = manager.handle().expect("spans are exported");
        let events = handle.subscribe();
        trace(&manager, 3);
        let _ = manager.settled(Duration::ZERO);
        while handle.health().metrics.total_exports < 3 {
            check("an event", &format!("{:?}", events.recv_timeout(LONG).expect("the breaker opens")));
        }
        let _ = manager.shutdown();
        check("refused", &seen(&manager, &handle));
    }
    assert!(check_files(&setup) > 0, "spans are in files");
}

#[test]
fn a_set_up_that_fails_shows_no_secret() {
    let setup = Setup::new();
    for (setting, value) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c4n4ry-user:c4n4ry-password@127.0.0.1:4317"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c4n4ry@127.0.0.1:4317/c4n4ry?c4n4ry#c4n4ry"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:port/otlp/c4n4ry"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "ftp://127.0.0.1/c4n4ry"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:4318/a b/c4n4ry"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=c4n4ry%zz"),
        // Two variables between one pair of quotation marks of a unit file.
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317 OTEL_EXPORTER_OTLP_HEADERS=x-key=c4n4ry"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317\nOTEL_EXPORTER_OTLP_HEADERS=x-key=c4n4ry"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317;x-key=c4n4ry"),
    ] {
        let error = setup
            .builder(&[("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"), (setting, value)])
            .build()
            .expect_err("a set-up that must not be guessed");
        let text = format!("{error} {error:?} {error:#?}");
        check(value, &text);
        assert!(text.contains(setting), "{text}");
    }
}

#[test]
fn debug_of_the_parts_shows_no_secret() {
    let builder = otlp_transport::Config::builder()
        .with_traces_endpoint(format!("http://127.0.0.1:1{TARGET}"))
        .with_header("x-key", "c4n4ry-header");
    let parts = |config: &otlp_transport::Config| {
        let (grpc, http) =
            (otlp_transport::GrpcTransport::new(config.clone()), otlp_transport::HttpTransport::new(config.clone()));
        let transport = otlp_transport::connect(config.clone()).expect("valid");
        let builder = ResilientSpanExporter::builder().with_primary(transport).with_fallback_enabled(false);
        let text = format!("{config:?} {config:#?} {grpc:?} {http:?} {builder:?}");
        let exporter = builder.build().expect("an exporter");
        format!("{text} {exporter:?} {:?}", exporter.handle())
    };
    check("the builder", &format!("{builder:?} {builder:#?}"));
    check("the parts", &parts(&builder.build().expect("valid")));
}
