//! The tables of answers in `docs/otlp.md`: every example is sent over a socket.

use std::collections::BTreeSet;

use bytes::Bytes;
use otlp_transport::{Outcome, Protocol, RefusalKind, connect};

use crate::support::*;

/// A row of a table: its examples, and the outcome of each.
struct Row {
    examples: Vec<String>,
    outcome: String,
    maybe_taken: String,
}

/// The rows of the table behind a heading.
fn rows(page: &str, heading: &str) -> Vec<Row> {
    let section = page.split("\n## ").find(|section| section.starts_with(heading)).expect("the heading is there");
    let table = section.lines().filter(|line| line.starts_with("| ")).skip(2);
    table
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
            let [_, examples, outcome, maybe_taken] = cells[..] else { panic!("four cells: {line}") };
            // The code spans: every second part.
            let examples: Vec<_> = examples.split('`').skip(1).step_by(2).map(str::to_owned).collect();
            assert!(!examples.is_empty(), "an example: {line}");
            Row { examples, outcome: outcome.to_owned(), maybe_taken: maybe_taken.to_owned() }
        })
        .collect()
}

struct Example<'a> {
    status: &'a str,
    values: Vec<(&'a str, &'a str)>,
    /// The name of the last value, which may hold blanks, and the value.
    last: Option<(&'a str, Bytes)>,
}

fn read(example: &str) -> Example<'_> {
    let (head, last) = match ["body=", "message="].iter().find_map(|name| Some((example.find(name)?, name))) {
        Some((at, name)) => {
            let value = &example[at + name.len()..];
            (&example[..at], Some((name.trim_end_matches('='), unescaped(value))))
        }
        None => (example, None),
    };
    let mut words = head.split_whitespace();
    let status = words.next().expect("a status");
    Example { status, values: words.map(|word| word.split_once('=').expect("name=value")).collect(), last }
}

fn unescaped(text: &str) -> Bytes {
    let mut parts = text.split("\\x");
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(&part[..2], 16).expect("two digits"));
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    bytes.into()
}

async fn send(protocol: Protocol, http: Vec<u8>, grpc: Grpc) -> Outcome {
    let (listener, address) = listen().await;
    match protocol {
        Protocol::Grpc => serve_grpc(listener, move |_| grpc.clone()),
        _ => serve_raw(listener, move |_| Raw::Answer(http.clone())),
    };
    connect(config(protocol, address).build().expect("valid")).expect("valid").send(&payload()).await
}

async fn over_http(example: &str) -> Outcome {
    let Example { status, values: headers, last: body } = read(example);
    let status = status.parse().expect("a status");
    let answer = match body {
        None if status == 204 => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
        body => http_answer(status, &headers, &body.map(|(_, body)| body).unwrap_or_default()),
    };
    send(Protocol::HttpProtobuf, answer, Grpc::Hang).await
}

async fn over_grpc(example: &str) -> Outcome {
    let Example { status, values, last } = read(example);
    let mut fields = Fields::new();
    if status != "-" {
        fields.push(("grpc-status", status.to_owned()));
    }
    if let Some((_, seconds)) = values.first() {
        let details = rpc_status(0, "", Some((seconds.parse().expect("seconds"), 0)));
        fields.push(("grpc-status-details-bin", base64::Engine::encode(&base64::prelude::BASE64_STANDARD, details)));
    }
    let answer = match last {
        Some(("message", text)) => {
            fields.push(("grpc-message", String::from_utf8(text.to_vec()).expect("text")));
            grpc_answer(None, fields)
        }
        Some((_, body)) => grpc_answer(Some(frame(0, &body)), fields),
        None => grpc_answer(None, fields),
    };
    send(Protocol::Grpc, Vec::new(), answer).await
}

/// Outcome and possible duplicate as the tables write them.
fn written(outcome: &Outcome) -> (String, &'static str) {
    let taken = |possible_duplicate: &bool| if *possible_duplicate { "yes" } else { "no" };
    match outcome {
        Outcome::Delivered { .. } => ("delivered".to_owned(), ""),
        Outcome::AcknowledgedUnreadably { .. } => ("acknowledged unreadably".to_owned(), ""),
        Outcome::Retryable { possible_duplicate, .. } => ("retryable".to_owned(), taken(possible_duplicate)),
        Outcome::TooLarge { possible_duplicate, .. } => ("too large".to_owned(), taken(possible_duplicate)),
        Outcome::Refused { kind, possible_duplicate, .. } => {
            (format!("refused: {kind:?}").to_lowercase(), taken(possible_duplicate))
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn each_example_of_the_page_has_its_outcome() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/otlp.md")).expect("the page");
    let (mut failures, mut count) = (Vec::new(), 0);
    let (mut statuses, mut codes) = (BTreeSet::new(), BTreeSet::new());
    for (heading, is_http) in [("Answers over HTTP", true), ("Answers over gRPC", false)] {
        for row in rows(&page, heading) {
            for example in row.examples {
                let outcome = if is_http { over_http(&example).await } else { over_grpc(&example).await };
                let (name, maybe_taken) = written(&outcome);
                count += 1;
                if (&*name, maybe_taken) != (&*row.outcome, &*row.maybe_taken) {
                    failures.push(format!("{heading}: `{example}`: {name}, {maybe_taken} ({outcome:?})"));
                }
                if is_http { &mut statuses } else { &mut codes }.insert(example);
            }
        }
    }
    report("docs/otlp.md", &failures, count);
    // A status that the page does not name is unclear.
    for status in 301..=599 {
        let status = format!("{status}");
        let is_redirect = status.starts_with('3');
        if statuses.contains(&status) || is_redirect {
            continue;
        }
        let outcome = over_http(&status).await;
        let is_unclear =
            matches!(outcome, Outcome::Refused { kind: RefusalKind::Unclear, possible_duplicate: true, .. });
        assert!(is_unclear, "{status} is not on the page: {outcome:?}");
    }
    assert!((0..=16).all(|code| codes.contains(&code.to_string())), "each defined code is on the page: {codes:?}");
}
