//! Each row of the table of vendors, through the three lines of its page to a peer that behaves as the row says.

use std::collections::HashSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use otlp_payload::span_ids;
use percent_encoding::percent_decode_str;
use resilient_exporter::Status;
use telemetry_manager::opentelemetry::KeyValue;
use telemetry_manager::opentelemetry::trace::{Span as _, Tracer as _, TracerProvider as _};
use telemetry_manager::{OpenTelemetryManager, VENDORS, Vendor};

use crate::support::LONG;

/// More spans than any row takes in one request, of more bytes than most take.
const SPANS: usize = 12_000;

/// A variable that names a file of headers, and the lines of that file.
const HEADERS_FILE: &str = "TELEMETRY_HEADERS_FILE";
const HEADERS_IN_FILE: [&str; 2] = ["Authorization=Bearer%20<token>", "x-goog-user-project=<project>"];

/// A text of an account, such as a key.
const ACCOUNT: &str = "c2VjcmV0OnRva2Vu";

/// What a peer has seen.
#[derive(Default)]
struct Seen {
    spans: HashSet<([u8; 16], [u8; 8])>,
    accepted: usize,
    too_large: usize,
    /// Requests that the row does not allow in another way.
    wrong: Vec<String>,
}

/// A server with the path, the headers, the limits and the answer of a row.
fn serve(vendor: Vendor) -> (SocketAddr, Arc<Mutex<Seen>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("bound");
    let seen = Arc::new(Mutex::new(Seen::default()));
    let all = Arc::clone(&seen);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let seen = Arc::clone(&all);
            // The connection ends with the client's.
            std::thread::spawn(move || while answer(&stream, &vendor, &seen).is_some() {});
        }
    });
    (address, seen)
}

/// The path of a request and the headers that the lines of a row lead to.
fn expected(vendor: &Vendor) -> (String, Vec<(String, String)>) {
    let (endpoint, url) = vendor.lines[0];
    let path = path_of(url).expect("a URL");
    let path = if path.is_empty() { path } else { format!("/{path}") };
    let path = if endpoint.contains("_TRACES_") { path } else { format!("{path}/v1/traces") };
    let of_file = vendor.lines.iter().any(|(name, _)| *name == HEADERS_FILE);
    let list = vendor.lines.iter().find(|(name, _)| name.ends_with("_HEADERS")).map_or("", |(_, value)| value);
    let list = if of_file { HEADERS_IN_FILE.join(",") } else { list.to_owned() };
    let header = |member: &str| {
        let (name, value) = member.split_once('=').expect("name=value");
        let value = percent_decode_str(value).decode_utf8().expect("text").into_owned();
        (name.to_ascii_lowercase(), value)
    };
    (path, account(&list).split(',').filter(|member| !member.is_empty()).map(header).collect())
}

/// The path of a URL with the texts of an account, without the slash in front; none where the text is no URL.
fn path_of(url: &str) -> Option<String> {
    let (_, rest) = url.split_once("://")?;
    Some(account(rest.split_once('/').map_or("", |(_, path)| path)))
}

/// The line with the texts of an account.
fn account(line: &str) -> String {
    let mut text = String::new();
    let mut rest = line;
    while let Some((before, behind)) = rest.split_once('<') {
        text.push_str(before);
        text.push_str(ACCOUNT);
        rest = behind.split_once('>').expect("closed").1;
    }
    text + rest
}

/// Reads one request and answers it; none at the end of the connection.
fn answer(stream: &TcpStream, vendor: &Vendor, seen: &Mutex<Seen>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|&bytes| bytes > 0)?;
    let target = line.split(' ').nth(1)?.to_owned();
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|&bytes| bytes > 0)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    let header = |wanted: &str| headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
    let mut body = vec![0; header("content-length")?.parse().ok()?];
    reader.read_exact(&mut body).ok()?;

    let (path, needed) = expected(vendor);
    let spans: Vec<_> = span_ids(&body).expect("a request in protobuf").collect();
    let is_too_large =
        vendor.max_bytes.is_some_and(|max| body.len() > max) || vendor.max_spans.is_some_and(|max| spans.len() > max);
    let has_headers = needed.iter().all(|(name, value)| header(name) == Some(value));
    let mut seen = seen.lock().expect("not poisoned");
    let (status, content_type, text) = match () {
        () if target != path => (404, "text/plain", ""),
        () if !has_headers => (401, "text/plain", ""),
        () if header("content-type") != Some("application/x-protobuf") => (415, "text/plain", ""),
        () if is_too_large => (413, "text/plain", ""),
        () => vendor.answer,
    };
    match status {
        200..=299 => {
            seen.accepted += 1;
            seen.spans.extend(spans);
        }
        413 => seen.too_large += 1,
        _ => seen.wrong.push(format!("{status} for {target} with {headers:?}")),
    }
    drop(seen);
    let head =
        format!("HTTP/1.1 {status} x\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\r\n{text}", text.len());
    let mut stream = stream;
    stream.write_all(head.as_bytes()).ok()
}

/// A program with the lines of the row, but for the host, and `more`.
fn manager(vendor: &Vendor, address: SocketAddr, more: &[(&str, &str)]) -> (OpenTelemetryManager, tempfile::TempDir) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let mut vars: Vec<(String, String)> = vec![
        ("HOME".into(), dir.path().to_str().expect("Unicode").into()),
        ("OTEL_SERVICE_NAME".into(), vendor.name.into()),
        ("TELEMETRY_VENDOR".into(), vendor.name.into()),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE".into(), "20000".into()),
        ("OTEL_BSP_SCHEDULE_DELAY".into(), "60000".into()),
        ("TELEMETRY_BUFFER_MAX_SPANS".into(), "100000".into()),
        ("TELEMETRY_BUFFER_MAX_BYTES".into(), "64MiB".into()),
    ];
    for (name, value) in vendor.lines {
        let value = match path_of(value) {
            Some(path) => format!("http://{address}/{path}"),
            None if *name == HEADERS_FILE => {
                let file = dir.path().join("headers");
                std::fs::write(&file, account(&HEADERS_IN_FILE.join("\n"))).expect("written");
                file.to_str().expect("Unicode").to_owned()
            }
            None => account(value),
        };
        vars.push(((*name).to_owned(), value));
    }
    vars.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    let manager = OpenTelemetryManager::builder().with_environment(vars).with_globals(false).build();
    (manager.expect("telemetry starts"), dir)
}

/// One batch of [`SPANS`] spans, about 4 MB, and the end of all of it.
fn send(manager: &OpenTelemetryManager) {
    let tracer = manager.tracer_provider().tracer("vendors");
    for number in 0..SPANS {
        let mut span = tracer.start("work");
        span.set_attribute(KeyValue::new("text", format!("{number:0240}")));
    }
    manager.settled(LONG).unwrap_or_else(|error| panic!("{error}: {:?}", manager.health()));
}

#[test]
fn the_lines_of_each_row_deliver_without_a_refusal() {
    for vendor in VENDORS {
        let (address, seen) = serve(*vendor);
        let (manager, _dir) = manager(vendor, address, &[]);
        let warnings = manager.warnings();
        assert!(warnings.is_empty(), "{}: {warnings:?}", vendor.name);
        send(&manager);
        let health = manager.health();
        assert_eq!(health.status, Status::Healthy, "{}: {health:?}", vendor.name);
        assert!(health.issues.is_empty(), "{}: {health:?}", vendor.name);
        assert!(!format!("{health:?} {manager:?}").contains(ACCOUNT), "{}: {health:?}", vendor.name);
        manager.shutdown().expect("delivered");
        let seen = seen.lock().expect("not poisoned");
        assert_eq!(seen.wrong, [""; 0], "{}", vendor.name);
        assert_eq!((seen.spans.len(), seen.too_large), (SPANS, 0), "{}: {} requests", vendor.name, seen.accepted);
    }
}

#[test]
fn sizes_of_the_users_own_beat_the_preset_and_the_refused_requests_are_cut() {
    let own = [("TELEMETRY_REQUEST_MAX_BYTES", "16MiB"), ("TELEMETRY_REQUEST_MAX_SPANS", "1000000")];
    let mut refused = Vec::new();
    for vendor in VENDORS {
        if vendor.max_bytes.is_none_or(|max| max > 4_000_000) && vendor.max_spans.is_none() {
            continue;
        }
        let (address, seen) = serve(*vendor);
        let (manager, _dir) = manager(vendor, address, &own);
        send(&manager);
        manager.shutdown().expect("delivered");
        let seen = seen.lock().expect("not poisoned");
        assert_eq!((seen.spans.len(), seen.wrong.len()), (SPANS, 0), "{}", vendor.name);
        if seen.too_large > 0 {
            refused.push(vendor.name);
        }
    }
    assert_eq!(
        refused,
        ["newrelic", "datadog", "xray", "coralogix", "axiom"],
        "each limit of the table is one that is met"
    );
}
