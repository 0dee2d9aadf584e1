//! Words of a refusal that name a maximum size of a message, body or request.

/// How many words around a claim belong to it.
const REACH: usize = 8;
/// How many words behind "exceeds" can be its object ("its time limit"), and how far a unit is from its number.
const OBJECT: usize = 3;

/// The things that smaller requests make smaller.
const WHOLE: &[&str] = &[
    "message", "messages", "msg", "body", "bodies", "payload", "payloads", "request", "requests", "entity", "content",
    "upload", "batch", "batches", "element", "envelope",
];

/// Things that have sizes of their own, which no split changes.
const OTHER: &[&str] = &[
    "header",
    "headers",
    "cookie",
    "cookies",
    "uri",
    "url",
    "path",
    "query",
    "metadata",
    "field",
    "fields",
    "attribute",
    "attributes",
    "key",
    "value",
    "values",
    "label",
    "labels",
    "tag",
    "tags",
    "name",
    "names",
    "line",
    "span",
    "trace",
    "event",
    "log",
    "id",
    "timestamp",
    "token",
    "frame",
    "time",
    "timeout",
    "age",
    "deadline",
    "duration",
    "latency",
    "response",
    "memory",
    "concurrency",
];

/// Words about a flow: a rate limit may mention bytes, and a full queue its size.
const FLOW: &[&str] = &[
    "rate",
    "rates",
    "ratelimit",
    "quota",
    "quotas",
    "queue",
    "queues",
    "throughput",
    "bandwidth",
    "burst",
    "throttled",
    "throttling",
    "sec",
    "second",
    "seconds",
    "minute",
    "minutes",
    "hour",
    "hours",
    "hourly",
    "day",
    "daily",
    "month",
    "monthly",
];

const UNITS: &[&str] = &["size", "length", "bytes", "byte", "kb", "mb", "gb", "kib", "mib", "gib", "ki", "mi", "gi"];

/// Whether a refusal is about the size of this very message, and not about a rate, a quota or a part of the message:
/// then smaller requests are taken. Covers the words of the gRPC libraries (Go, C++, Java, .NET, Node, tonic), of web
/// servers and frameworks, and of vendors; the tests list them.
pub(crate) fn names_a_maximum(text: &str) -> bool {
    let words = words(text);
    let word = |at: usize| words.get(at).map_or("", String::as_str);
    if words.iter().any(|word| FLOW.contains(&word.as_str())) || has_per_second(text) {
        return false;
    }
    // Whether a noun is a thing that a split makes smaller; the body of a response is none.
    let noun = |at: usize| match word(at) {
        word if OTHER.contains(&word) => Some(false),
        other if WHOLE.contains(&other) => Some(at == 0 || word(at - 1) != "response"),
        _ => None,
    };
    let is_unit = |at: usize| UNITS.contains(&word(at));
    (0..words.len()).any(|at| {
        let (start, end) = (at.saturating_sub(REACH), (at + REACH).min(words.len()));
        let close = |from: usize| from..(from + OBJECT).min(words.len());
        let is_claim = match (word(at), word(at + 1)) {
            ("too", "large" | "big") | ("larger" | "bigger", "than") => true,
            // "The request took too long" is about time.
            ("too", "long") => {
                let subject = (start..at).rev().find(|at| !matches!(word(*at), "is" | "was" | "are" | "were"));
                subject.is_some_and(|at| is_unit(at) || noun(at).is_some())
            }
            ("exceed" | "exceeds" | "exceeded" | "exceeding", _) => {
                (start..end).any(is_unit) && close(at + 1).find_map(noun) != Some(false)
            }
            ("greater" | "longer" | "smaller" | "less", "than") => {
                close(at + 2).any(is_unit) || (at.saturating_sub(OBJECT)..at).any(is_unit)
            }
            ("over", _) => {
                (start..end).any(is_unit)
                    && (at + 1..end).any(|at| matches!(word(at), "limit" | "max" | "maximum"))
                    && !word(at + 1).is_empty()
                    && (word(at + 1) == "the" || word(at + 1).bytes().all(|byte| byte.is_ascii_digit()))
            }
            _ => false,
        };
        // The subject of the claim stands before it; "too large a message" has none.
        is_claim && (start..at).rev().chain(at + 1..end).find_map(noun) == Some(true)
    })
}

/// "Bytes/s", and neither a longer word nor a part of a path.
fn has_per_second(text: &str) -> bool {
    text.match_indices("/s").any(|(at, found)| {
        let behind = text[at + found.len()..].chars().next();
        behind.is_none_or(|behind| !behind.is_ascii_alphanumeric() && behind != '/')
    })
}

/// The words of a text in lower case, also those of `RequestBodyTooLarge`. A noun that is the name of a value
/// (`"message": ..`, `request=..`) is left out: it speaks of the text, not of the size.
fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut word = String::new();
    let (mut was_lower, mut was_digit) = (false, false);
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        let after = &rest[character.len_utf8()..];
        // Between words, and between a number and its unit.
        let is_digit = character.is_ascii_digit();
        let turns = was_lower && character.is_ascii_uppercase() || !word.is_empty() && was_digit != is_digit;
        if !character.is_ascii_alphanumeric() || turns {
            if !word.is_empty() && !is_name_of_value(&word, rest) {
                words.push(std::mem::take(&mut word));
            }
            word.clear();
        }
        if character.is_ascii_alphanumeric() {
            word.push(character.to_ascii_lowercase());
        }
        (was_lower, was_digit) = (character.is_ascii_lowercase(), is_digit);
        rest = after;
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

fn is_name_of_value(word: &str, behind: &str) -> bool {
    let quoted = behind.trim_start_matches(['"', '\'', '\\']);
    let is_quoted = quoted.len() < behind.len();
    let is_named = quoted.trim_start().starts_with(':') && (is_quoted || word == "message") || behind.starts_with('=');
    is_named && WHOLE.contains(&word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_about_the_size_of_a_message_are_known() {
        for text in [
            // grpc-go, as server, as the client in a proxy, and through a Collector.
            "grpc: received message larger than max (5243070 vs. 4194304)",
            "grpc: received message after decompression larger than max 4194304",
            "grpc: received message after decompression larger than max (7050547 vs. 4194304)",
            "grpc: trying to send message larger than max (5297928 vs. 4194304)",
            "failed to push trace data via OTLP exporter: rpc error: code = ResourceExhausted desc = grpc: received \
             message larger than max (6989601 vs. 4194304)",
            "Permanent error: rpc error: code = ResourceExhausted desc = grpc: received message larger than max",
            // grpc C++ and Python, old and new.
            "Received message larger than max (5243070 vs. 4194304)",
            "SERVER: Received message larger than max (5243070 vs. 4194304)",
            "CLIENT: Sent message larger than max (5243070 vs. 4194304)",
            // grpc-java, grpc-dotnet, grpc-js, tonic.
            "gRPC message exceeds maximum size 4194304: 5243070",
            "Decompressed gRPC message exceeds maximum size 4194304",
            "Received message exceeds the maximum configured message size.",
            "Attempted to send message with a size larger than 4194304",
            "Received message that decompresses to a size larger than 4194304",
            "Error, decoded message length too large: found 5243070 bytes, the limit is: 4194304 bytes",
            // Go's net/http and the Collector behind it; axum; Node; Python; .NET; Java.
            "http: request body too large",
            "length limit exceeded: Failed to buffer the request body",
            "Failed to buffer the request body: length limit exceeded",
            r#"{"name":"PayloadTooLargeError","message":"request entity too large","type":"entity.too.large"}"#,
            r#"{"statusCode":413,"code":"FST_ERR_CTP_BODY_TOO_LARGE","error":"Payload Too Large"}"#,
            "Request body is too large",
            "Maximum request body size 1048576 exceeded, actual body size 5000000",
            "Request body exceeded settings.DATA_UPLOAD_MAX_MEMORY_SIZE.",
            "Request body too large. The max request body size is 30000000 bytes.",
            "Maximum request length exceeded.",
            "Maximum upload size of 1048576 bytes exceeded",
            // nginx, Envoy, Google's front end.
            "<html> <head><title>413 Request Entity Too Large</title></head> <body> <center>nginx</center>",
            "Payload Too Large",
            "Your client issued a request that was too large.",
            "Request payload size exceeds the limit: 10485760 bytes.",
            // Mimir, AWS, Azure, Honeycomb, Splunk, Kafka behind a Collector.
            "the incoming push request has been rejected because its message size of 200000000 bytes is larger than \
             the allowed limit of 104857600 bytes (err-mimir-distributor-max-write-message-size). To adjust the \
             related limit, configure -distributor.max-recv-msg-size, or contact your service administrator.",
            "the incoming OTLP request has been rejected because its message size of 2 bytes is larger than 1 bytes",
            r#"{"message":"Request Too Long"}"#,
            "HTTP content length exceeded 10485760 bytes.",
            "Request must be smaller than 6291456 bytes for the InvokeFunction operation",
            "<Code>RequestBodyTooLarge</Code><Message>The request body is too large and exceeds the maximum \
             permissible limit.</Message>",
            "Request body should not exceed 15 MB",
            r#"{"error": "Request size is over 1 MiB limit"}"#,
            "body over the limit of 5MB",
            "Request body is larger than 15MiB",
            "The message is too long",
            "message length too long",
            "[Errno 90] Message too long",
            "message is longer than 5000 bytes",
            "batch size greater than maximum",
            "see https://example.com/s3/limits: payload too large",
            "see https://example.com/s/limits: payload too large",
            "Content-Length of 5000000 too large (maximum is 1000000)",
            "kafka server: Message was too large, server rejected it to avoid allocation error",
            "Attempt to produce message larger than configured Producer.MaxMessageBytes: 2000000 > 1000000",
            "element size too large",
        ] {
            assert!(names_a_maximum(text), "{text}");
        }
    }

    #[test]
    fn texts_about_rates_and_parts_are_none() {
        for text in [
            "",
            "invalid request",
            "request failed: connection reset by peer",
            "message of 12 bytes cannot be decoded",
            // Rates and quotas of Tempo, Mimir, Loki and others.
            "ingestion rate limit (4194304 bytes/s) exceeded",
            "RATE_LIMITED: ingestion rate limit (local: 100 bytes) exceeded while adding 1000 bytes",
            "the request has been rejected because the tenant exceeded the ingestion rate limit, set to 10000 items/s \
             with a maximum allowed burst of 200000",
            "the request has been rejected because the tenant exceeded the request rate limit, set to 75 requests/s",
            "Ingestion rate limit exceeded for user 1 (limit: 4194304 bytes/sec) while attempting to ingest '1000' \
             lines totaling '500' bytes, reduce log volume or contact your Loki administrator",
            "Per stream rate limit exceeded (limit: 3MB/sec) while attempting to ingest for stream",
            "request limit of 4194304 bytes/s exceeded",
            "request throughput exceeded 1048576 bytes per second",
            "message size limit of 5 MB per minute exceeded",
            "Quota exceeded for quota metric 'Write requests' and limit 'Write requests per minute'",
            "quota exceeded: request size 9",
            "request rate exceeded, batch size 512",
            // Queues and memory.
            "sending queue is full",
            "requests exceed the queue size of 1000",
            "data refused due to high memory usage",
            "request failed: memory limit of 512 MiB exceeded",
            "too many requests",
            "request exceeded its time limit while reading 500 bytes",
            // Times.
            "upstream request took too long",
            "the request is taking too long, 500 bytes were read",
            "request took longer than 5000ms; received 500 bytes",
            "request body was read for longer than the deadline of 5 s",
            "message exceeded deadline of 5000ms, size 12",
            // Other uses of the words.
            "request over HTTP/2, body of 500 bytes, limit unknown",
            "ingestion limit of 4 MB/s exceeded by request",
            "request of 500 bytes above limit of 5MB/s: exceeded",
            "request exceeds 5 MB/s",
            "upstream response body too large",
            "response size exceeds 4 MiB",
            // Parts of a request: its head, a trace, a span, an attribute.
            "<html><head><title>400 Request Header Or Cookie Too Large</title></head>",
            "Request Header Fields Too Large",
            "414 Request-URI Too Large",
            "received initial metadata size exceeds limit",
            "received metadata size exceeds hard limit (16385 vs. 8192)",
            "TRACE_TOO_LARGE: max size of trace (524288000) exceeded while adding 242475 bytes to trace 5 for tenant x",
            "LIVE_TRACES_EXCEEDED: max live traces exceeded for tenant x: per-user traces limit (local: 9000) exceeded",
            "span attribute value exceeds the maximum length of 4095",
            "request contains an attribute that is too large",
            "trace exceeds max size (max bytes: 5000000)",
            "response larger than the max (45940141 vs 16777216)",
            // The name of a value is no noun.
            r#"{"message":"limit exceeded, 500 bytes"}"#,
            r#"{"message": "plan limit of 5 MB exceeded"}"#,
            "error message: plan limit of 5 MB exceeded",
            "request=7 limit exceeded by 500 bytes",
        ] {
            assert!(!names_a_maximum(text), "{text}");
        }
    }
}
