//! The remedy of each failure, as part of a sentence.

use otlp_transport::Cause;

const HEADERS: &str = "check OTEL_EXPORTER_OTLP_HEADERS: the credentials are missing, wrong or expired";
const CREDENTIALS: &str = "check TELEMETRY_HEADERS_FILE, or the provider that the program gives to with_credentials";
const ADDRESS: &str =
    "check OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_EXPORTER_OTLP_PROTOCOL: no OTLP service answers there";
const BUSY: &str = "the collector is overloaded or restarts: check its load, its queue and its exporters";
const FAULT: &str = "the collector has an error of its own: read its log";
const CONTENT: &str = "the collector does not take this content: read its message and its log, or repair the spans";
const QUOTA: &str = "the collector limits the rate or the amount: send less, or raise the limit there";
const SIZE: &str = "lower TELEMETRY_REQUEST_MAX_BYTES, or raise the collector's limit on a request";
const TIME: &str = "raise OTEL_EXPORTER_OTLP_TIMEOUT, or check the load of the collector and the network";
const NETWORK: &str = "check the collector, and proxies and load balancers before it";

/// The remedy of a failed call.
pub(crate) fn remedy(cause: &Cause) -> &'static str {
    match cause {
        Cause::RequestLimit { .. } => "raise TELEMETRY_REQUEST_MAX_BYTES, or put less into one span",
        Cause::TooOld { .. } => "raise TELEMETRY_MAX_AGE_AT_SEND, or unset it",
        cause if cause.is_about_size() => SIZE,
        Cause::Connect(detail) => of_connect(&detail.to_ascii_lowercase()),
        Cause::Credentials(_) => CREDENTIALS,
        Cause::Timeout(_) => TIME,
        Cause::Broken(detail) if mentions_http(detail) => ADDRESS,
        Cause::Broken(_) => NETWORK,
        Cause::Unreadable(_) | Cause::Unexpected(_) => ADDRESS,
        Cause::Http { status, .. } => of_http(*status),
        Cause::Grpc { code, .. } => of_grpc(*code),
        Cause::Foreign(_) => "read the message of the exporter that sends the spans",
        // `Cause` may grow.
        _ => NETWORK,
    }
}

fn of_connect(detail: &str) -> &'static str {
    let mentions = |words: &[&str]| words.iter().any(|word| detail.contains(word));
    // With a blank on each side the word is in no name of a host, and such a cause has the words of others in it.
    if mentions(&[" proxy "]) {
        "check HTTPS_PROXY, HTTP_PROXY and NO_PROXY"
    } else if mentions(&["dns", "resolve", "lookup", "look-up", "name or service", "nodename", "no address"]) {
        "check the host name in OTEL_EXPORTER_OTLP_ENDPOINT and the name service"
    } else if mentions(&["tls", "certificate", "handshake", "invalid peer"]) {
        "check the certificates: OTEL_EXPORTER_OTLP_CERTIFICATE, and http or https in OTEL_EXPORTER_OTLP_ENDPOINT"
    } else if mentions(&["refused"]) {
        "start the collector, or check host and port in OTEL_EXPORTER_OTLP_ENDPOINT"
    } else if mentions(&["unreachable", "timed out", "no route"]) {
        "check the network and its firewalls, and host and port in OTEL_EXPORTER_OTLP_ENDPOINT"
    } else {
        "check that the collector runs, and OTEL_EXPORTER_OTLP_ENDPOINT"
    }
}

/// The peer speaks HTTP/1 where gRPC was expected, or the reverse.
fn mentions_http(detail: &str) -> bool {
    detail.contains("HTTP/1") || detail.contains("http/protobuf") || detail.contains("4318")
}

fn of_http(status: u16) -> &'static str {
    match status {
        401 | 403 => HEADERS,
        402 => "the account's plan or payment does not allow this: ask the vendor",
        404 | 405 | 410 | 421 | 426 | 464 | 200..=299 => ADDRESS,
        300..=399 => "set OTEL_EXPORTER_OTLP_ENDPOINT to the address that the answer names: redirects are not followed",
        407 => "check the credentials of the proxy in HTTPS_PROXY or HTTP_PROXY",
        415 => {
            "check OTEL_EXPORTER_OTLP_PROTOCOL and OTEL_EXPORTER_OTLP_COMPRESSION: the collector takes another format"
        }
        429 => QUOTA,
        431 => "shorten OTEL_EXPORTER_OTLP_HEADERS: the collector limits the size of headers",
        400 | 422 => CONTENT,
        408 | 504 => TIME,
        502 | 503 => BUSY,
        500..=599 => FAULT,
        _ => NETWORK,
    }
}

fn of_grpc(code: i32) -> &'static str {
    match code {
        // UNAUTHENTICATED, PERMISSION_DENIED
        16 | 7 => HEADERS,
        // UNIMPLEMENTED, NOT_FOUND, and OK where it stands for an answer without a status
        12 | 5 | 0 => ADDRESS,
        // INVALID_ARGUMENT, ALREADY_EXISTS
        3 | 6 => CONTENT,
        // RESOURCE_EXHAUSTED
        8 => QUOTA,
        // CANCELLED, DEADLINE_EXCEEDED
        1 | 4 => TIME,
        // UNAVAILABLE
        14 => BUSY,
        // UNKNOWN, ABORTED, OUT_OF_RANGE, INTERNAL, DATA_LOSS
        2 | 10 | 11 | 13 | 15 => FAULT,
        // FAILED_PRECONDITION
        9 => "the collector is not set up for this: read its message and its log",
        _ => FAULT,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_failure_has_a_remedy_that_names_a_setting_or_a_place() {
        let connect = |detail: &str| Cause::Connect(format!("http://collector:4317/: {detail}"));
        let http = |status| Cause::Http { status, message: String::new() };
        let said = |status, message: &str| Cause::Http { status, message: message.into() };
        let larger = Cause::Grpc { code: 8, message: "grpc: received message larger than max (2 vs. 1)".into() };
        let grpc = |code| Cause::Grpc { code, message: String::new() };
        let (broken, unreadable) =
            (|text: &str| Cause::Broken(text.into()), |text: &str| Cause::Unreadable(text.into()));
        let headers = "OTEL_EXPORTER_OTLP_HEADERS";
        let address = "OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_EXPORTER_OTLP_PROTOCOL";
        let table = [
            (http(401), headers),
            (http(403), headers),
            (grpc(16), headers),
            (grpc(7), headers),
            (http(404), address),
            (http(405), address),
            (http(200), address),
            (http(410), address),
            (grpc(12), address),
            (grpc(5), address),
            (http(402), "the account's plan"),
            (http(407), "proxy"),
            (http(413), "lower TELEMETRY_REQUEST_MAX_BYTES"),
            (said(400, "http: request body too large"), "lower TELEMETRY_REQUEST_MAX_BYTES"),
            (said(403, "Request body is too large"), "lower TELEMETRY_REQUEST_MAX_BYTES"),
            (said(429, "rate limit (4194304 bytes/s) exceeded"), "limits the rate"),
            (larger, "lower TELEMETRY_REQUEST_MAX_BYTES"),
            (http(415), "OTEL_EXPORTER_OTLP_PROTOCOL"),
            (http(429), "limits the rate"),
            (grpc(8), "limits the rate"),
            (http(431), headers),
            (http(301), "redirects are not followed"),
            (http(308), "redirects are not followed"),
            (http(400), "its message"),
            (http(422), "its message"),
            (grpc(3), "its message"),
            (grpc(9), "its message"),
            (http(408), "OTEL_EXPORTER_OTLP_TIMEOUT"),
            (http(504), "OTEL_EXPORTER_OTLP_TIMEOUT"),
            (grpc(4), "OTEL_EXPORTER_OTLP_TIMEOUT"),
            (http(502), "overloaded"),
            (http(503), "overloaded"),
            (grpc(14), "overloaded"),
            (http(500), "its log"),
            (grpc(13), "its log"),
            (grpc(99), "its log"),
            (http(418), "load balancers"),
            (connect("Connection refused (os error 111)"), "start the collector"),
            (connect("failed to lookup address information"), "host name"),
            (connect("dns error: no record"), "host name"),
            (connect("invalid peer certificate: UnknownIssuer"), "OTEL_EXPORTER_OTLP_CERTIFICATE"),
            (connect("the proxy http://p (HTTP_PROXY) answered 407 to CONNECT c:1"), "HTTPS_PROXY"),
            (connect("the proxy http://p (HTTP_PROXY) is not reached: failed to lookup address"), "HTTPS_PROXY"),
            (Cause::Connect("http://my-proxy:4317: Connection refused".into()), "start the collector"),
            (connect("Network is unreachable"), "firewalls"),
            (connect("other"), "that the collector runs"),
            (Cause::Credentials("no token".into()), "TELEMETRY_HEADERS_FILE"),
            (Cause::Timeout(Duration::from_secs(10)), "OTEL_EXPORTER_OTLP_TIMEOUT"),
            (broken("connection reset by peer"), "load balancers"),
            (broken("frame error: the peer may speak HTTP/1.1: the usual port is 4317"), address),
            (unreadable("no protobuf"), address),
            (Cause::Foreign("it failed".into()), "the exporter that sends"),
            (Cause::RequestLimit { size: 2, limit: 1 }, "TELEMETRY_REQUEST_MAX_BYTES"),
        ];
        for (cause, part) in table {
            assert!(remedy(&cause).contains(part), "{cause}: {}", remedy(&cause));
        }
    }
}
