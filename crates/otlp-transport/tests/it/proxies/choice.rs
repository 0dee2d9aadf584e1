//! Which proxy is used, by the variables and by code.

use std::ffi::OsString;

use otlp_transport::{Config, ConfigBuilder, ConfigError, Protocol};

fn over(builder: ConfigBuilder, vars: &[(&str, &str)]) -> Result<Config, ConfigError> {
    builder.build_over(|name| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value)))
}

fn to(endpoint: &str, vars: &[(&str, &str)]) -> Config {
    over(Config::builder().with_endpoint(endpoint), vars).unwrap_or_else(|error| panic!("{vars:?}: {error}"))
}

const HTTP: (&str, &str) = ("HTTP_PROXY", "http://me:canary@http.test:3128");
const HTTPS: (&str, &str) = ("HTTPS_PROXY", "http://https.test:3128");
const ALL: (&str, &str) = ("ALL_PROXY", "http://all.test:3128");

#[test]
fn the_variables_hold_by_the_usual_rules() {
    let (http, all) = (Some("http://http.test:3128"), Some("http://all.test:3128"));
    for (vars, proxy) in [
        (&[][..], None),
        (&[HTTP], http),
        (&[HTTPS], None),
        (&[ALL], all),
        (&[HTTP, HTTPS, ALL], http),
        (&[HTTPS, ALL], all),
        (&[("http_proxy", "http.test:3128")], http),
        (&[("all_proxy", "all.test:3128")], all),
        (&[HTTP, ("http_proxy", "http://other.test")], http),
        (&[("HTTP_PROXY", " "), ("http_proxy", "http://http.test:3128")], http),
        (&[("HTTP_PROXY", ""), ALL], all),
        (&[HTTP, ("NO_PROXY", "collector.test")], None),
        (&[HTTP, ("no_proxy", "collector.test")], None),
        (&[HTTP, ("NO_PROXY", "other.test"), ("no_proxy", "collector.test")], http),
        (&[HTTP, ("NO_PROXY", ""), ("no_proxy", "collector.test")], None),
    ] {
        for endpoint in ["http://collector.test:4317", "http://collector.test:4318"] {
            let config = to(endpoint, vars);
            assert_eq!(
                (config.proxy(), config.notes().iter().any(|note| note.setting.contains("PROXY"))),
                (proxy, false)
            );
        }
    }
}

/// hyper-util matches; entries with a port, with `*.` or in brackets are brought into its form before.
#[test]
fn no_proxy_excludes_hosts() {
    const NAME: &str = "http://otel.corp.test:4317";
    const V4: &str = "http://10.1.2.3:4317";
    const V6: &str = "http://[fd00::1:2]:4317";
    for (list, endpoint, is_excluded) in [
        ("otel.corp.test", NAME, true),
        ("OTEL.Corp.Test", NAME, true),
        ("corp.test", NAME, true),
        (".corp.test", NAME, true),
        ("*.corp.test", NAME, true),
        ("corp.test.", NAME, true),
        ("otel.corp.test", "http://otel.corp.test.:4317", true),
        // A suffix with a dot excludes the host itself as well.
        (".otel.corp.test", NAME, true),
        ("*.otel.corp.test", NAME, true),
        ("*", NAME, true),
        ("*", V4, true),
        ("*", V6, true),
        ("a.test,otel.corp.test", NAME, true),
        ("a.test otel.corp.test", NAME, true),
        (" a.test ,\totel.corp.test ", NAME, true),
        ("rp.test", NAME, false),
        ("tel.corp.test", NAME, false),
        ("a.otel.corp.test", NAME, false),
        ("corp", NAME, false),
        ("*corp.test", NAME, false),
        ("otel.*.test", NAME, false),
        ("otel.corp.test:4317", NAME, true),
        ("corp.test:4317", NAME, true),
        ("otel.corp.test:4318", NAME, false),
        ("otel.corp.test:4318,otel.corp.test:4317", NAME, true),
        ("10.1.2.3", V4, true),
        ("10.1.2.3:4317", V4, true),
        ("10.1.2.3:4318", V4, false),
        ("10.0.0.0/8", V4, true),
        ("10.1.2.0/24", V4, true),
        ("10.1.3.0/24", V4, false),
        ("10.1.2", V4, false),
        (".2.3", V4, false),
        // No name is looked up to compare it with networks.
        ("0.0.0.0/0", NAME, false),
        ("fd00::1:2", V6, true),
        ("fd00:0::1:2", V6, true),
        ("[fd00::1:2]", V6, true),
        ("[fd00::1:2]:4317", V6, true),
        ("[fd00::1:2]:4318", V6, false),
        ("fd00::/8", V6, true),
        ("fe80::/10", V6, false),
        ("\"otel.corp.test\"", NAME, true),
    ] {
        let config = to(endpoint, &[ALL, ("NO_PROXY", list)]);
        assert_eq!(config.proxy().is_none(), is_excluded, "NO_PROXY={list} {endpoint}");
    }
}

#[test]
fn an_entry_of_no_proxy_that_matches_nothing_is_noted_while_a_proxy_is_used() {
    let notes = |list| {
        let config = to("http://otel.corp.test:4317", &[ALL, ("NO_PROXY", list)]);
        config.notes().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    let text = notes("http://otel.corp.test");
    assert!(text.contains("NO_PROXY") && text.contains("matches nothing") && text.contains("10.0.0.0/8"), "{text}");
    assert_eq!(notes("http://otel.corp.test,corp.test"), "");
}

#[test]
fn this_host_and_sockets_are_never_behind_a_proxy() {
    let bad = [("HTTP_PROXY", "socks5://bad"), ("ALL_PROXY", "::::")];
    for endpoint in [
        "http://localhost:4317",
        "http://LOCALHOST.:4318",
        "http://otel.localhost:4317",
        "http://127.0.0.1:4317",
        "http://127.3.2.1:4317",
        "http://[::1]:4317",
        "http://0.0.0.0:4317",
        "unix:///run/otel.sock",
    ] {
        let config = to(endpoint, &bad);
        let is_noted = config.notes().iter().any(|note| note.message.contains("PROXY"));
        assert_eq!((config.proxy(), is_noted), (None, false), "{endpoint}");
        let given = Config::builder().with_endpoint(endpoint).with_proxy("http://proxy.test:1").build().expect("valid");
        let note = given.notes().iter().find(|note| note.setting == "with_proxy").expect("a note");
        assert!(given.proxy().is_none() && note.message.contains("has no effect"), "{endpoint}: {note}");
    }
    // The default endpoint.
    assert_eq!(over(Config::builder(), &bad).expect("no proxy").proxy(), None);
}

/// A server gives a CGI script `HTTP_PROXY` for the header `Proxy` of a request that any client may send.
#[test]
fn a_header_of_a_request_names_no_proxy() {
    let cgi = ("REQUEST_METHOD", "GET");
    let config = to("http://collector.test:4317", &[cgi, HTTP]);
    let note = &config.notes()[0];
    assert_eq!((config.proxy(), note.setting), (None, "HTTP_PROXY"));
    assert!(note.message.contains("http_proxy") && !note.message.contains("canary"), "{note}");
    for vars in [&[cgi, HTTP, ALL][..], &[cgi, ALL]] {
        assert_eq!(to("http://collector.test:4317", vars).proxy(), Some("http://all.test:3128"));
    }
    #[cfg(not(windows))]
    {
        let config = to("http://collector.test:4317", &[cgi, HTTP, ("http_proxy", "http://small.test")]);
        assert_eq!((config.proxy(), config.notes().len()), (Some("http://small.test"), 0));
    }
}

#[test]
fn code_beats_the_variables() {
    let builder = || Config::builder().with_endpoint("http://collector.test:4317");
    let vars = [HTTP, ("NO_PROXY", "*")];
    let given = over(builder().with_proxy("http://mine.test:3128"), &vars).expect("valid");
    assert_eq!(given.proxy(), Some("http://mine.test:3128"));
    assert_eq!(over(builder().without_proxy(), &[("HTTP_PROXY", "socks5://x")]).expect("valid").proxy(), None);
    assert_eq!(builder().build().expect("valid").proxy(), None);
}

#[test]
fn a_bad_url_is_an_error_where_the_endpoint_would_go_through_it() {
    for (name, value, accepted) in [
        ("HTTP_PROXY", "socks5://me:canary@proxy.test:1080", "SOCKS proxy, which is not supported"),
        ("http_proxy", "http://me:canary@proxy.test:port", "number from 1 to 65535"),
        ("ALL_PROXY", "ftp://me:canary@proxy.test", "https://host:port"),
        ("all_proxy", "http://me:1#canary@proxy.test:3128", "%23 for #"),
        ("HTTP_PROXY", "http://proxy.test:3128/canary", "http://host:port"),
        ("HTTP_PROXY", "http://me:canary", "number from 1 to 65535"),
        ("HTTP_PROXY", "canary canary", "user:password@"),
        ("HTTP_PROXY", "http://me:$(canary)@proxy.test", "not expanded"),
    ] {
        let builder = || Config::builder().with_endpoint("http://collector.test:4317");
        let error = over(builder(), &[(name, value)]).expect_err(value);
        let (text, debug) = (error.to_string(), format!("{error:?}"));
        assert_eq!(error.setting(), name);
        assert!(text.starts_with(name) && text.contains(accepted), "{value}: {text}");
        assert!(!text.contains("canary") && !debug.contains("canary"), "{text} {debug}");

        let error = builder().with_proxy(value).build().expect_err(value);
        assert_eq!(error.setting(), "with_proxy");
        // Without effect for this endpoint.
        assert_eq!(over(builder(), &[(name, value), ("NO_PROXY", "collector.test")]).expect("direct").proxy(), None);
    }
    let vars = [("HTTP_PROXY", "'http://proxy.test:3128'")];
    let config = to("http://collector.test:4317", &vars);
    assert_eq!(config.proxy(), Some("http://proxy.test:3128"));
    assert!(config.notes()[0].message.contains("quotation marks"), "{:?}", config.notes());
}

#[test]
fn no_debug_shows_the_credentials() {
    let builder = Config::builder().with_endpoint("http://collector.test:4317");
    let given = builder.clone().with_proxy("http://canary:canary@proxy.test:3128");
    let mut texts = vec![format!("{given:?}")];
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let config = over(builder.clone().with_protocol(protocol), &[HTTP]).expect("valid");
        assert_eq!(config.proxy(), Some("http://http.test:3128"));
        texts.push(format!("{config:?} {:?}", config.notes()));
        texts.push(format!("{:?}", otlp_transport::GrpcTransport::new(config.clone())));
        texts.push(format!("{:?}", otlp_transport::HttpTransport::new(config)));
    }
    for text in texts {
        assert!(!text.to_lowercase().contains("canary"), "{text}");
        // base64 of "canary:canary" and of "me:canary".
        assert!(!text.contains("Y2FuYXJ5") && !text.contains("bWU6Y2FuYXJ5"), "{text}");
    }
}
