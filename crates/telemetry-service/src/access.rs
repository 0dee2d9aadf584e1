//! Who may use a route: the names in `Host`, the pages in `Origin` and `Sec-Fetch-Site`, and the token.
//!
//! Any web page that a person opens can send requests to programs on the same machine. Three headers are the browser's
//! own: `Origin` names the page, `Host` the name by which the browser found this machine, also where the page has
//! pointed a name of its own at it (DNS rebinding), and `Sec-Fetch-Site` says whose page asks also where there is no
//! `Origin`, as for scripts and images of a page.

use std::net::{Ipv4Addr, Ipv6Addr};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use crate::problem::Problem;
use crate::shared::{Inner, Shared};

/// The right that a route asks for, beside `Host`, `Origin` and `Sec-Fetch-Site`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Need {
    /// None.
    Nothing,
    /// The token, unless only programs of this machine can reach the service.
    TokenElsewhere,
    /// The token.
    Token,
    /// That of a resilience test: none, if only programs of this machine can reach the service; else the token, and
    /// tests that are enabled for strangers.
    Tests,
}

/// Refuses a request that has not the right, or passes it on.
pub(crate) async fn guard(State((shared, need)): State<(Shared, Need)>, request: Request, next: Next) -> Response {
    match check(&shared, need, &request) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

fn check(shared: &Inner, need: Need, request: &Request) -> Result<(), Problem> {
    let (headers, path) = (request.headers(), request.uri().path());
    let host = host(request.uri(), headers, request.version())
        .map_err(|why| Problem::new(StatusCode::BAD_REQUEST, why, path))?;
    if let Some(host) = &host
        && !is_accepted(host, &shared.hosts)
    {
        let detail = format!(
            "Host is {:?}; accepted are literal addresses, localhost, and names that Service::with_host or \
             TELEMETRY_SERVICE_HOSTS adds",
            shortened(host)
        );
        return Err(Problem::new(StatusCode::FORBIDDEN, detail, path));
    }
    for origin in headers.get_all(header::ORIGIN) {
        if !is_same_origin(origin, host.as_deref()) {
            let origin = String::from_utf8_lossy(origin.as_bytes());
            let detail = format!("Origin is {:?}: pages of other servers may not ask", shortened(&origin));
            return Err(Problem::new(StatusCode::FORBIDDEN, detail, path));
        }
    }
    if need != Need::Nothing {
        check_site(headers, path)?;
    }
    match need {
        Need::Nothing => Ok(()),
        Need::TokenElsewhere | Need::Tests if shared.is_loopback => Ok(()),
        Need::Tests if !shared.has_tests_elsewhere => {
            let detail = "resilience tests are off where strangers can reach the service: enable them by \
                          Service::with_tests_elsewhere or TELEMETRY_SERVICE_TESTS=true";
            Err(Problem::new(StatusCode::FORBIDDEN, detail, path))
        }
        Need::TokenElsewhere | Need::Token | Need::Tests => check_token(shared, headers, path),
    }
}

/// Refuses pages of other servers. `same-site` is one too: a site is a host with all of its ports.
fn check_site(headers: &HeaderMap, path: &str) -> Result<(), Problem> {
    let mut sites = headers.get_all("sec-fetch-site").iter();
    let Some(foreign) = sites.find(|site| !["same-origin", "none"].iter().any(|own| site == own)) else {
        return Ok(());
    };
    let foreign = String::from_utf8_lossy(foreign.as_bytes());
    let detail = format!(
        "Sec-Fetch-Site is {:?}: pages of other servers may not ask; type the address into the browser",
        shortened(&foreign)
    );
    Err(Problem::new(StatusCode::FORBIDDEN, detail, path))
}

fn check_token(shared: &Inner, headers: &HeaderMap, path: &str) -> Result<(), Problem> {
    let Some(token) = &shared.token else {
        let detail = "this needs a token, and the service has none: set TELEMETRY_SERVICE_TOKEN or \
                      TELEMETRY_SERVICE_TOKEN_FILE";
        return Err(Problem::new(StatusCode::FORBIDDEN, detail, path));
    };
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    let refused = match (given.next().and_then(bearer), given.next()) {
        (Some(given), None) if token.is(given) => return Ok(()),
        (Some(_), None) => "the token is another one",
        _ => "this needs one header \"Authorization: Bearer TOKEN\"",
    };
    let detail =
        format!("{refused}; it is in TELEMETRY_SERVICE_TOKEN, or in a file that the program names at its start");
    Err(Problem::new(StatusCode::UNAUTHORIZED, detail, path)
        .with_header(header::WWW_AUTHENTICATE, "Bearer realm=\"telemetry-test\""))
}

/// The token of an `Authorization: Bearer` header.
fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = value.as_bytes().split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token.trim_ascii())
}

/// The name and the port by which the client found the server. HTTP/1.0 needs none, and no browser speaks it.
fn host(uri: &Uri, headers: &HeaderMap, version: Version) -> Result<Option<String>, &'static str> {
    let mut given = headers.get_all(header::HOST).iter();
    let (first, second) = (given.next(), given.next());
    if second.is_some() {
        return Err("there are two Host headers");
    }
    // A target with a name in it beats the header: RFC 9112, 3.2.2.
    if let Some(authority) = uri.authority() {
        return Ok(Some(authority.as_str().to_owned()));
    }
    match first.map(HeaderValue::to_str) {
        Some(Ok(host)) => Ok(Some(host.to_owned())),
        Some(Err(_)) => Err("Host is no text"),
        None if version <= Version::HTTP_10 => Ok(None),
        None => Err("there is no Host header"),
    }
}

/// Whether the host, with or without a port, is a literal address, `localhost` or one of the names.
fn is_accepted(host: &str, names: &[String]) -> bool {
    if let Some(rest) = host.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else { return false };
        return address.parse::<Ipv6Addr>().is_ok() && (port.is_empty() || is_port(port));
    }
    let name = match host.find(':') {
        Some(colon) if is_port(&host[colon..]) => &host[..colon],
        Some(_) => return false,
        None => host,
    };
    let is = |accepted: &str| name.eq_ignore_ascii_case(accepted);
    name.parse::<Ipv4Addr>().is_ok() || is("localhost") || names.iter().any(|accepted| is(accepted))
}

/// `:` and a number, which clients may leave out.
fn is_port(text: &str) -> bool {
    text.strip_prefix(':').is_some_and(|port| port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Whether the page was loaded from this server: its origin is the one that the request went to.
fn is_same_origin(origin: &HeaderValue, host: Option<&str>) -> bool {
    let (Ok(origin), Some(host)) = (origin.to_str(), host) else { return false };
    let server = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    server.is_some_and(|server| server.eq_ignore_ascii_case(host))
}

fn shortened(text: &str) -> String {
    text.chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literal_addresses_localhost_and_configured_names_are_accepted_and_no_others() {
        let names = ["Telemetry.internal".to_owned()];
        for host in [
            "127.0.0.1",
            "127.0.0.1:5210",
            "10.1.2.3:1",
            "[::1]",
            "[::1]:5210",
            "[fe80::1]:80",
            "localhost",
            "LocalHost:5210",
            "telemetry.INTERNAL:443",
        ] {
            assert!(is_accepted(host, &names), "{host}");
        }
        for host in [
            "",
            "x",
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "evil.example:5210",
            "localhost:52x",
            "localhost:5210:1",
            "user@localhost",
            "[::1",
            "[evil]:80",
            "[::1]x",
            "::1",
            "telemetry.internal.",
        ] {
            assert!(!is_accepted(host, &names), "{host}");
        }
    }

    #[test]
    fn a_page_of_this_server_is_no_stranger() {
        let is = |origin: &'static str, host| is_same_origin(&HeaderValue::from_static(origin), Some(host));
        assert!(is("http://127.0.0.1:5210", "127.0.0.1:5210"));
        assert!(is("https://telemetry.internal", "telemetry.internal"));
        for origin in
            ["null", "http://127.0.0.1:8080", "http://evil.example", "file://127.0.0.1:5210", "127.0.0.1:5210"]
        {
            assert!(!is(origin, "127.0.0.1:5210"), "{origin}");
        }
        assert!(!is_same_origin(&HeaderValue::from_static("http://x"), None));
    }

    #[test]
    fn a_token_is_read_from_its_header_alone() {
        let token = |text: &'static str| bearer(&HeaderValue::from_static(text)).map(<[u8]>::to_vec);
        assert_eq!(token("Bearer abc"), Some(b"abc".to_vec()));
        assert_eq!(token("bearer  abc"), Some(b"abc".to_vec()));
        assert_eq!(token("Basic abc"), None);
        assert_eq!(token("Bearer"), None);
    }
}
