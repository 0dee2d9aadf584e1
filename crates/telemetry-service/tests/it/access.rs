//! Who may use which route.

use crate::support::{TOKEN, World};

/// The routes, each with its method and whether it needs the token on loopback.
pub(crate) const ROUTES: [(&str, &str, bool); 14] = [
    ("GET", "/health", false),
    ("GET", "/health/live", false),
    ("GET", "/health/ready", false),
    ("GET", "/metrics", false),
    ("GET", "/telemetry-test/health", false),
    ("GET", "/telemetry-test/metrics", false),
    ("GET", "/telemetry-test/outages", false),
    ("GET", "/telemetry-test/openapi.json", false),
    ("GET", "/telemetry-test/dead-letters", false),
    ("GET", "/telemetry-test/dead-letters/none", true),
    ("POST", "/telemetry-test/dead-letters/none/redrive", true),
    ("POST", "/telemetry-test/dead-letters/redrive", true),
    ("POST", "/telemetry-test/checkpoint", true),
    ("POST", "/telemetry-test/drain", true),
];

/// Those of resilience tests.
pub(crate) const TESTS: [(&str, &str, bool); 6] = [
    ("POST", "/telemetry-test/test/start", false),
    ("GET", "/telemetry-test/test/none", false),
    ("GET", "/telemetry-test/tests", false),
    ("POST", "/telemetry-test/generate-loads", false),
    ("POST", "/telemetry-test/simulate/collector-failure", false),
    ("GET", "/telemetry-test/events", false),
];

const OPEN: [&str; 4] = ["/health", "/health/live", "/health/ready", "/metrics"];

#[test]
fn on_loopback_only_contents_and_redrives_need_the_token() {
    let world = World::new(&[]);
    for (method, path, needs_token) in ROUTES {
        let answer = world.request(method, path, "");
        assert_eq!(answer.status == 401, needs_token, "{method} {path}: {}", answer.status);
        if needs_token {
            assert_eq!(answer.header("www-authenticate"), "Bearer realm=\"telemetry-test\"");
            assert_eq!(answer.header("content-type"), "application/problem+json");
        }
        let answer = world.with_token(method, path);
        assert!([200, 404].contains(&answer.status), "{method} {path}: {}", answer.body);
    }
}

#[test]
fn elsewhere_all_but_health_and_metrics_need_the_token() {
    let elsewhere = "192.0.2.1:5210".parse().expect("an address");
    let world = World::changed(move |service| service.with_address(elsewhere));
    for (method, path, _) in ROUTES {
        let answer = world.request(method, path, "");
        assert_eq!(answer.status == 401, !OPEN.contains(&path), "{method} {path}: {}", answer.status);
        assert_ne!(world.with_token(method, path).status, 401, "{method} {path}");
    }
    assert_eq!(world.get("/telemetry-test/events").status, 401);
    // The address of all interfaces is one that strangers reach.
    let all = "0.0.0.0:5210".parse().expect("an address");
    let world = World::changed(move |service| service.with_address(all));
    assert_eq!(world.get("/telemetry-test/health").status, 401);
}

/// Tests make load, and have the process's own calls fail.
#[test]
fn elsewhere_tests_are_off_until_they_are_enabled_and_need_the_token() {
    let elsewhere = "192.0.2.1:5210".parse().expect("an address");
    let world = World::changed(move |service| service.with_address(elsewhere));
    let off = world.with_token("GET", "/telemetry-test/tests");
    assert_eq!(off.status, 403);
    assert!(off.body.contains("TELEMETRY_SERVICE_TESTS"), "{}", off.body);
    for (method, path) in
        [("POST", "/telemetry-test/test/start"), ("DELETE", "/telemetry-test/simulate/collector-failure")]
    {
        assert_eq!(world.with_token(method, path).status, 403, "{method} {path}");
    }
    let world = World::changed(move |service| service.with_address(elsewhere).with_tests_elsewhere(true));
    assert_eq!(world.get("/telemetry-test/tests").status, 401);
    assert_eq!(world.with_token("GET", "/telemetry-test/tests").status, 200);
    let world = World::new(&[]);
    assert_eq!(world.get("/telemetry-test/tests").status, 200, "on loopback every client");
}

#[test]
fn a_router_without_settings_answers_health_and_metrics_alone() {
    let world = World::new(&[]);
    let observer = world.telemetry.observer();
    let world = World::changed(move |_| telemetry_service::Service::new(observer));
    for (method, path, _) in ROUTES {
        let answer = world.request(method, path, "");
        let expected = if OPEN.contains(&path) { 200 } else { 403 };
        assert_eq!(answer.status, expected, "{method} {path}");
        assert!(expected == 200 || answer.body.contains("TELEMETRY_SERVICE_TOKEN"), "{}", answer.body);
    }
}

#[test]
fn wrong_and_doubled_tokens_are_refused() {
    let world = World::new(&[]);
    let path = "/telemetry-test/dead-letters/none";
    for header in [
        "Authorization: Bearer another-token-0123\r\n".to_owned(),
        format!("Authorization: Basic {TOKEN}\r\n"),
        format!("Authorization: {TOKEN}\r\n"),
        "Authorization: Bearer\r\n".to_owned(),
        format!("Authorization: Bearer {}\r\n", &TOKEN[1..]),
        format!("Authorization: Bearer {}\r\n", "x".repeat(8_000)),
        format!("Authorization: Bearer {TOKEN}\r\nAuthorization: Bearer {TOKEN}\r\n"),
    ] {
        let answer = world.request("GET", path, &header);
        assert_eq!(answer.status, 401, "{header}");
        assert!(!answer.body.contains(TOKEN), "{}", answer.body);
    }
    assert_eq!(world.with_token("GET", path).status, 404);
}

#[test]
fn names_that_are_not_this_machines_are_refused_for_every_route() {
    let world = World::changed(|service| service.with_host("telemetry.internal"));
    let asked = |method: &str, path: &str, host: &str| {
        let head = format!("{method} {path} HTTP/1.1\r\n{host}Connection: close\r\nContent-Length: 0\r\n\r\n");
        world.send(head.as_bytes())
    };
    for (method, path, _) in ROUTES.into_iter().chain(TESTS) {
        let answer = asked(method, path, "Host: evil.example:5210\r\n");
        assert_eq!((answer.status, answer.header("content-type")), (403, "application/problem+json"), "{path}");
        let detail = answer.json()["detail"].as_str().expect("text").to_owned();
        assert!(detail.contains("evil.example") && detail.contains("with_host"), "{detail}");
    }
    for host in ["localhost", "127.0.0.1:5210", "[::1]:1", "telemetry.internal:80"] {
        assert_eq!(asked("GET", "/health", &format!("Host: {host}\r\n")).status, 200, "{host}");
    }
    assert_eq!(asked("GET", "/health", "").status, 400, "HTTP/1.1 without Host");
    assert_eq!(asked("GET", "/health", "Host: localhost\r\nHost: localhost\r\n").status, 400);
    assert_eq!(asked("GET", "http://evil.example/health", "Host: localhost\r\n").status, 403);
    assert_eq!(world.send(b"GET /health HTTP/1.0\r\n\r\n").status, 200, "HTTP/1.0 needs none");
}

#[test]
fn a_foreign_origin_is_refused_for_every_route_and_method() {
    let world = World::new(&[]);
    for origin in ["http://evil.example", "null", "http://127.0.0.1:1", "https://localhost"] {
        for (_, path, _) in ROUTES.into_iter().chain(TESTS) {
            for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"] {
                let headers = format!("Origin: {origin}\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 0\r\n");
                let answer = world.request(method, path, &headers);
                assert_eq!(answer.status, 403, "{method} {path} of {origin}");
            }
        }
    }
    let own = format!("Origin: http://{}\r\n", world.address);
    assert_eq!(world.request("GET", "/telemetry-test/health", &own).status, 200);
    let two = format!("{own}Origin: http://evil.example\r\n");
    assert_eq!(world.request("GET", "/telemetry-test/health", &two).status, 403);
}

/// A script or an image of a page is fetched without `Origin`.
#[test]
fn pages_of_other_servers_are_refused_also_without_an_origin() {
    let world = World::new(&[]);
    for site in ["cross-site", "same-site", "Same-Origin", "same-origin, cross-site", "", "\u{ff}"] {
        for (method, path, _) in ROUTES.into_iter().chain(TESTS) {
            let headers = format!("Sec-Fetch-Site: {site}\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 0\r\n");
            let answer = world.request(method, path, &headers);
            if OPEN.contains(&path) {
                assert_eq!(answer.status, 200, "{method} {path} of {site:?}");
                continue;
            }
            assert_eq!((answer.status, answer.header("content-type")), (403, "application/problem+json"), "{path}");
            assert!(answer.body.contains("Sec-Fetch-Site"), "{}", answer.body);
        }
    }
    for site in ["same-origin", "none"] {
        let answer = world.request("GET", "/telemetry-test/health", &format!("Sec-Fetch-Site: {site}\r\n"));
        assert_eq!(answer.status, 200, "{site}");
    }
    let two = "Sec-Fetch-Site: none\r\nSec-Fetch-Site: cross-site\r\n";
    assert_eq!(world.request("GET", "/telemetry-test/health", two).status, 403);
}
