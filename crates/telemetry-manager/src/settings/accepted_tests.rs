//! The accepted values that the table states are those that are accepted.

use super::table::{ALL_PROXY, HTTP_PROXY, HTTPS_PROXY, NO_PROXY};
use super::*;

/// The proxy for an endpoint with and without TLS, in a text for people.
fn proxy(vars: &[(&str, &str)], endpoint: &str) -> Result<Option<String>, SetupError> {
    let endpoint = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)];
    let settings = Settings::from_environment([vars, &endpoint].concat())?;
    assert!(settings.warnings().is_empty(), "{vars:?}: {:?}", settings.warnings());
    Ok(settings.transport.proxy().map(str::to_owned))
}

#[test]
fn the_forms_of_a_proxy_that_the_table_states_are_accepted() {
    for row in [HTTPS_PROXY, HTTP_PROXY, ALL_PROXY] {
        let accepted = row.accepted();
        for part in ["http://host:port", "https://host:port", "user:password@", "percent-encoded", "80", "443"] {
            assert!(accepted.contains(part), "{}: {accepted}", row.name);
        }
        let endpoint = if row.name == "HTTPS_PROXY" { "https://c.test:4317" } else { "http://c.test:4317" };
        for (value, shown) in [
            ("http://host:3128", "http://host:3128"),
            ("https://host:3128", "https://host:3128"),
            ("http://user:pass%40word@host:3128", "http://host:3128"),
            ("https://user:pass%40word@host:3128", "https://host:3128"),
            ("host:3128", "http://host:3128"),
            ("http://host", "http://host"),
            ("https://host/", "https://host"),
            ("http://[fd00::1]:3128", "http://[fd00::1]:3128"),
        ] {
            assert_eq!(proxy(&[(row.name, value)], endpoint).expect(value).as_deref(), Some(shown), "{}", row.name);
        }
        for value in ["socks5://host:1080", "ftp://host", "http://host:3128/path", "http://user:pass@word@host:3128"] {
            let error = proxy(&[(row.name, value)], endpoint).expect_err(value).to_string();
            assert!(error.contains(row.name), "{error}");
        }
    }
}

#[test]
fn the_entries_without_a_proxy_that_the_table_states_are_accepted() {
    let accepted = NO_PROXY.accepted();
    for part in ["commas or blanks", ".example.com", "networks", "*", ":port"] {
        assert!(accepted.contains(part), "{accepted}");
    }
    let through = |list: &str, host: &str| {
        let vars = [("HTTP_PROXY", "http://proxy:3128"), ("NO_PROXY", list)];
        proxy(&vars, &format!("http://{host}:4317")).expect("valid").is_some()
    };
    for (list, host) in [
        ("other.test,c.test", "c.test"),
        ("other.test c.test", "c.test"),
        (".example.com", "c.example.com"),
        ("10.1.2.3", "10.1.2.3"),
        ("10.0.0.0/8", "10.1.2.3"),
        ("*", "c.test"),
        ("c.test:4317", "c.test"),
    ] {
        assert!(!through(list, host), "{list}");
    }
    assert!(through("c.test:4318", "c.test") && through("other.test", "c.test"));
}
