//! The page docs/testing.md: each of its `curl` lines is sent as it stands.

use crate::resilience_http::exchange;
use crate::support::World;

const PAGE: &str = include_str!("../../../../docs/testing.md");
const ADDRESS: &str = "http://127.0.0.1:5210";

/// A line of the page, taken apart as a shell and `curl` would.
struct Line {
    method: String,
    path: String,
    headers: Vec<String>,
    body: String,
    /// The status in the comment at its end.
    status: u16,
}

fn parse(text: &str) -> Line {
    let (command, status) = text.rsplit_once(" # ").unwrap_or_else(|| panic!("no status behind {text}"));
    // Behind the status may be the state that the answer has at some time.
    let status = status.split_whitespace().next().and_then(|status| status.parse().ok()).expect("a status");
    let (mut method, mut path, mut headers, mut body) = (None, None, Vec::new(), String::new());
    let mut words = words(command).into_iter().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().unwrap_or_else(|| panic!("nothing behind {word} in {text}"));
        match word.as_str() {
            "-s" | "-i" => {}
            "-X" => method = Some(value()),
            "-H" => headers.push(value()),
            "-d" => body = value(),
            url => path = Some(url.strip_prefix(ADDRESS).unwrap_or_else(|| panic!("{url} in {text}")).to_owned()),
        }
    }
    let default = if body.is_empty() { "GET" } else { "POST" };
    let (method, path) = (method.unwrap_or_else(|| default.to_owned()), path.expect("an address"));
    Line { method, path, headers, body, status }
}

/// Words in the manner of a shell: single quotes and double quotes group.
fn words(command: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for c in command.chars() {
        match quote {
            Some(end) if c == end => quote = None,
            Some(_) => word.push(c),
            None if c == '\'' || c == '"' => quote = Some(c),
            None if c == ' ' => words.push(std::mem::take(&mut word)),
            None => word.push(c),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

#[test]
fn every_line_of_the_page_has_the_answer_that_it_names() {
    let mut world = World::new(&[("TELEMETRY_RETRY_INITIAL_DELAY", "10ms")]);
    let (mut seen, mut test_id) = (0, String::new());
    for text in PAGE.lines().filter(|line| line.starts_with("curl ")) {
        let Line { method, path, headers, body, status } = parse(text);
        let path = path.replace("$TEST_ID", &test_id);
        // A pause between the spans of a load is time of this test alone.
        let body = body.replace("\"delay_ms\": 50", "\"delay_ms\": 0");
        let headers: Vec<_> = headers.iter().map(String::as_str).collect();
        let answer = exchange(&world, &method, &path, &headers, &body);
        assert_eq!(answer.status, status, "{text}: {}", answer.body);
        if let Some(id) = answer.json()["test_id"].as_str()
            && path.ends_with("/test/start")
        {
            id.clone_into(&mut test_id);
        }
        seen += 1;
    }
    assert!(seen >= 10, "{seen} lines");
    // The last test removes its directory.
    world.stop().expect("the server ends");
}

#[test]
fn the_page_has_every_route_and_every_kind_of_test() {
    for route in [
        "/telemetry-test/test/start",
        "/telemetry-test/test/$TEST_ID",
        "-X DELETE http://127.0.0.1:5210/telemetry-test/test/$TEST_ID",
        "/telemetry-test/tests",
        "/telemetry-test/generate-loads",
        "/telemetry-test/simulate/collector-failure",
    ] {
        assert!(PAGE.lines().any(|line| line.starts_with("curl ") && line.contains(route)), "{route}");
    }
    for kind in telemetry_service::TestType::ALL {
        assert!(PAGE.contains(&format!("| `{}` |", kind.as_str())), "{kind:?}");
    }
}
