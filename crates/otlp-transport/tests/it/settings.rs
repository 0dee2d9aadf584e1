//! The environment family, by the rules of the specification.

use std::collections::HashMap;
use std::ffi::OsString;
use std::time::Duration;

use otlp_transport::{Compression, Config, ConfigBuilder, ConfigError, Protocol};
use proptest::prelude::*;

fn over(builder: ConfigBuilder, vars: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let vars: HashMap<String, OsString> =
        vars.iter().map(|(name, value)| (format!("OTEL_EXPORTER_OTLP_{name}"), (*value).into())).collect();
    builder.build_over(|name| vars.get(name).cloned())
}

fn read(vars: &[(&str, &str)]) -> Result<Config, ConfigError> {
    over(Config::builder(), vars)
}

fn valid(vars: &[(&str, &str)]) -> Config {
    read(vars).unwrap_or_else(|error| panic!("{vars:?}: {error}"))
}

#[test]
fn nothing_set_is_the_default() {
    for vars in [&[][..], &[("ENDPOINT", ""), ("PROTOCOL", " "), ("TIMEOUT", ""), ("HEADERS", ""), ("CERTIFICATE", "")]]
    {
        let config = valid(vars);
        assert_eq!(config.endpoint(), "http://localhost:4317");
        assert_eq!(config.protocol(), Protocol::Grpc);
        assert_eq!(config.timeout(), Duration::from_secs(10));
        assert_eq!(config.compression(), Compression::None);
        assert_eq!(config.max_request_bytes(), 4 * 1024 * 1024 - 64 * 1024);
        assert_eq!(config.connection_max_age(), Duration::from_secs(300));
        assert!(config.notes().is_empty(), "{:?}", config.notes());
    }
}

#[test]
fn endpoint_and_protocol_go_together() {
    let http = ("PROTOCOL", "http/protobuf");
    for (vars, endpoint, protocol) in [
        (&[http][..], "http://localhost:4318/v1/traces", Protocol::HttpProtobuf),
        (&[("PROTOCOL", "grpc")], "http://localhost:4317", Protocol::Grpc),
        (&[("PROTOCOL", "GRPC")], "http://localhost:4317", Protocol::Grpc),
        (
            &[("PROTOCOL", "grpc"), ("TRACES_PROTOCOL", "http/protobuf")],
            "http://localhost:4318/v1/traces",
            Protocol::HttpProtobuf,
        ),
        (&[("ENDPOINT", "http://c:9")], "http://c:9", Protocol::Grpc),
        (&[("ENDPOINT", "HTTP://c:9")], "http://c:9", Protocol::Grpc),
        (&[("ENDPOINT", "http://c:9"), ("TRACES_ENDPOINT", "http://t:8")], "http://t:8", Protocol::Grpc),
        (&[("ENDPOINT", "http://c:9"), ("TRACES_ENDPOINT", "")], "http://c:9", Protocol::Grpc),
        (&[http, ("ENDPOINT", "http://c:9")], "http://c:9/v1/traces", Protocol::HttpProtobuf),
        (&[http, ("ENDPOINT", "http://c:9/otlp/")], "http://c:9/otlp/v1/traces", Protocol::HttpProtobuf),
        (&[http, ("TRACES_ENDPOINT", "http://c:9/otlp")], "http://c:9/otlp", Protocol::HttpProtobuf),
        (&[http, ("TRACES_ENDPOINT", "http://c")], "http://c/", Protocol::HttpProtobuf),
        (&[("ENDPOINT", "http://c:4318")], "http://c:4318/v1/traces", Protocol::HttpProtobuf),
        (&[("ENDPOINT", "http://c:4318/api/v2/otlp")], "http://c:4318/api/v2/otlp/v1/traces", Protocol::HttpProtobuf),
        (&[("ENDPOINT", "http://c:4318/x")], "http://c:4318/***/v1/traces", Protocol::HttpProtobuf),
        (&[("ENDPOINT", "http://[::1]:4318")], "http://[::1]:4318/v1/traces", Protocol::HttpProtobuf),
        (&[("PROTOCOL", "grpc"), ("ENDPOINT", "http://c:4318")], "http://c:4318", Protocol::Grpc),
        (&[http, ("ENDPOINT", "http://c:4317")], "http://c:4317/v1/traces", Protocol::HttpProtobuf),
        (&[("INSECURE", "true"), ("ENDPOINT", "c:9")], "http://c:9", Protocol::Grpc),
        (&[("INSECURE", "false"), ("TRACES_INSECURE", "TRUE"), ("ENDPOINT", "c:9")], "http://c:9", Protocol::Grpc),
        (&[("INSECURE", "true"), ("ENDPOINT", "[::1]:9")], "http://[::1]:9", Protocol::Grpc),
        (&[("ENDPOINT", " http://c:9 ")], "http://c:9", Protocol::Grpc),
        (&[("ENDPOINT", " http://c:4318 ")], "http://c:4318/v1/traces", Protocol::HttpProtobuf),
    ] {
        let config = valid(vars);
        assert_eq!((config.endpoint(), config.protocol()), (endpoint, protocol), "{vars:?}");
    }
    let notes = |url| valid(&[("ENDPOINT", url)]).notes().iter().map(ToString::to_string).collect::<String>();
    let about = notes("http://c:4318");
    assert!(about.contains("4318") && about.contains("http/protobuf"), "{about}");
    let about = notes("http://c:9/path");
    assert!(about.contains("OTEL_EXPORTER_OTLP_ENDPOINT"), "{about}");
}

#[test]
fn values_that_matter_less_are_noted_and_the_default_used() {
    for (name, value) in [
        ("TIMEOUT", "soon"),
        ("TIMEOUT", "-1"),
        ("TIMEOUT", "1.5s"),
        ("TIMEOUT", "99999999999999999999"),
        ("TRACES_TIMEOUT", "2147483648"),
        ("COMPRESSION", "brotli"),
        ("PROTOCOL", "carrier pigeon"),
        ("INSECURE", "yes"),
    ] {
        let config = valid(&[(name, value)]);
        assert_eq!((config.timeout(), config.compression()), (Duration::from_secs(10), Compression::None));
        assert_eq!(config.protocol(), Protocol::Grpc);
        let notes = config.notes();
        assert!(notes.len() == 1 && notes[0].setting.ends_with(name), "{name}={value}: {notes:?}");
        assert!(notes[0].message.contains(name) && notes[0].message.contains(value), "{name}={value}: {notes:?}");
    }
    let config = valid(&[("PROTOCOL", "http/json")]);
    assert_eq!(config.protocol(), Protocol::HttpProtobuf);
    assert!(config.notes()[0].message.contains("http/json"), "{:?}", config.notes());
    let config = valid(&[("TIMEOUT", "2500"), ("COMPRESSION", "GZip")]);
    assert_eq!((config.timeout(), config.compression()), (Duration::from_millis(2500), Compression::Gzip));
    assert!(config.notes().is_empty());
    assert_eq!(valid(&[("TIMEOUT", "1000"), ("TRACES_TIMEOUT", "2000")]).timeout(), Duration::from_secs(2));
}

#[test]
fn errors_name_variable_value_and_what_is_accepted() {
    let http = ("PROTOCOL", "http/protobuf");
    for (vars, parts) in [
        (
            &[("ENDPOINT", "ftp://c:1")][..],
            &["OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://c:1", "scheme", "http://", "https://"][..],
        ),
        (&[("ENDPOINT", "unix://run/c.sock")], &["unix://run/c.sock", "Unix socket"]),
        (&[http, ("ENDPOINT", "c:4318")], &["c:4318", "no scheme", "http://localhost:4318"]),
        (&[("ENDPOINT", "http://c:0")], &["http://c:0", "port", "1 to 65535"]),
        (&[("ENDPOINT", "http://c:65536")], &["port"]),
        (&[("ENDPOINT", "http://c:")], &["port"]),
        (&[("ENDPOINT", "http://c:+1")], &["port"]),
        (&[("ENDPOINT", "http://c:x/")], &["port"]),
        (&[("ENDPOINT", "http://")], &["host"]),
        (&[("ENDPOINT", "http://:4317")], &["host"]),
        (&[("ENDPOINT", "http:///v1/traces")], &["host"]),
        (&[("ENDPOINT", "http://::1:4317")], &["not a URL"]),
        (&[("ENDPOINT", "http://[::1:4317")], &["not a URL"]),
        (&[("ENDPOINT", "http://[junk]:4317")], &["not a URL"]),
        (&[("ENDPOINT", "http://a b:4317")], &["not a URL"]),
        (&[http, ("ENDPOINT", "http://c:1/a b")], &["not a URL"]),
        (&[("HEADERS", "a=1,b")], &["OTEL_EXPORTER_OTLP_HEADERS", "member 2", "'='"]),
        (&[("TRACES_HEADERS", "a=%4x")], &["OTEL_EXPORTER_OTLP_TRACES_HEADERS", "member 1 (a)", "escape", "%25"]),
    ] {
        let error = read(vars).expect_err(&format!("{vars:?}"));
        let text = error.to_string();
        for part in parts {
            assert!(text.contains(part), "{vars:?}: {text:?} does not say {part:?}");
        }
    }
}

#[test]
fn no_error_and_no_note_shows_a_secret() {
    for vars in [
        [("ENDPOINT", "http://user:canary@c:4317")],
        [("ENDPOINT", "https://user:canary@c:4317")],
        [("ENDPOINT", "user:canary@c:4317")],
        [("ENDPOINT", "ftp://canary@c/?key=canary")],
        [("ENDPOINT", "http://c:x/?key=canary")],
        [("ENDPOINT", "http://canary:can@ry@c")],
        [("ENDPOINT", "http://user:canary?1@c:4317")],
        [("ENDPOINT", "http://user:canary#1@c:4317")],
        [("ENDPOINT", "user:canary?1@c:4317")],
        [("ENDPOINT", "ftp://c/?mail=me@c&key=canary")],
        [("ENDPOINT", "user:canary@c:4317/?next=http://c")],
        [("ENDPOINT", "c:4317/?key=canary&next=http://c")],
        [("ENDPOINT", "https://c:x/receiver/v1/otlp/canary")],
        [("ENDPOINT", "http://c:x/canary")],
        [("ENDPOINT", "c:x/canary")],
        [("ENDPOINT", "'http://c:4317/canary")],
        [("TRACES_ENDPOINT", "http://user:p@c/canary?canary")],
        [("HEADERS", "canary")],
        [("HEADERS", "key=canary%zz")],
        [("HEADERS", "a key=canary")],
        [("HEADERS", "key=canary%00")],
    ] {
        let error = read(&vars).expect_err(&format!("{vars:?}"));
        assert!(!format!("{error} {error:?}").contains("canary"), "{vars:?}: {error}");
    }
    let error = Config::builder().with_header("key", "canary\r\n").build().expect_err("a line break");
    assert!(!format!("{error} {error:?}").contains("canary"), "{error}");
    let config = valid(&[("HEADERS", "authorization=Bearer%20canary"), ("PROTOCOL", "x")]);
    assert!(!format!("{config:?} {:?}", config.notes()).contains("canary"), "{config:?}");
    assert!(format!("{config:?}").contains("authorization"), "{config:?}");
    for protocol in ["grpc", "http/protobuf"] {
        let config = valid(&[("PROTOCOL", protocol), ("ENDPOINT", "http://c:4317/otlp/canary?key=canary")]);
        let shown = format!("{} {config:?} {config:#?} {:?}", config.endpoint(), config.notes());
        assert!(!shown.contains("canary"), "{shown}");
    }
}

#[test]
fn code_beats_the_environment() {
    let builder = Config::builder()
        .with_endpoint("http://code:1")
        .with_protocol(Protocol::Grpc)
        .with_timeout(Duration::from_secs(1))
        .with_compression(Compression::None);
    let vars = [
        ("TRACES_ENDPOINT", "junk that nobody reads"),
        ("PROTOCOL", "http/protobuf"),
        ("TIMEOUT", "2000"),
        ("COMPRESSION", "gzip"),
    ];
    let config = over(builder, &vars).expect("valid");
    assert_eq!((config.endpoint(), config.protocol()), ("http://code:1", Protocol::Grpc));
    assert_eq!((config.timeout(), config.compression()), (Duration::from_secs(1), Compression::None));
    assert!(config.notes().is_empty());
}

#[test]
fn each_compression_is_read_and_shown_by_its_word() {
    for (word, compression) in [
        ("none", Compression::None),
        ("gzip", Compression::Gzip),
        ("zstd", Compression::Zstd),
        ("ZStd", Compression::Zstd),
    ] {
        let config = read(&[("COMPRESSION", word)]).expect("valid");
        assert_eq!((config.compression(), config.notes().len()), (compression, 0));
        assert_eq!(compression.to_string(), word.to_ascii_lowercase());
    }
}

#[test]
fn builder_values_out_of_range_are_errors() {
    for (builder, parts) in [
        (Config::builder().with_timeout(Duration::ZERO), ["with_timeout", "1 ms to 1 h"]),
        (Config::builder().with_timeout(Duration::from_secs(3601)), ["with_timeout", "3601s"]),
        (Config::builder().with_max_request_bytes(0), ["with_max_request_bytes", "1024"]),
        (Config::builder().with_max_request_bytes(usize::MAX), ["with_max_request_bytes", "1073741824"]),
        (Config::builder().with_connection_max_age(Duration::ZERO), ["with_connection_max_age", "1 s to 7 days"]),
        (Config::builder().with_connection_max_age(Duration::MAX), ["with_connection_max_age", "1 s to 7 days"]),
        (Config::builder().with_product("a\nb"), ["with_product", "ASCII"]),
        (Config::builder().with_header("te", "x"), ["with_header", "te"]),
        (Config::builder().with_endpoint("tcp://nonsense"), ["with_endpoint", "nonsense"]),
    ] {
        let error = builder.build().expect_err(parts[0]).to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
}

#[test]
fn more_headers_than_a_request_can_hold_are_an_error() {
    let list = |count: usize| (0..count).map(|at| format!("x{at}=1,")).collect::<String>();
    assert!(read(&[("HEADERS", &list(100))]).is_ok());
    for count in [101, 50_000] {
        let error = read(&[("HEADERS", &list(count))]).expect_err("too many").to_string();
        assert!(error.contains("member 101 (x100)") && error.contains("at most 100"), "{error}");
    }
    let builder = (0..50_000).fold(Config::builder(), |builder, at| builder.with_header(&format!("x{at}"), "1"));
    let error = builder.build().expect_err("too many").to_string();
    assert!(error.contains("at most 100"), "{error}");
}

#[cfg(unix)]
#[test]
fn bytes_that_are_no_text_are_no_panic() {
    use std::os::unix::ffi::OsStringExt;
    let bytes = || OsString::from_vec(b"canary\xff".to_vec());
    for name in ["ENDPOINT", "HEADERS"] {
        let name = format!("OTEL_EXPORTER_OTLP_{name}");
        let error = Config::from_vars(|asked| (asked == name).then(bytes)).expect_err(&name).to_string();
        assert!(error.contains(&name) && error.contains("UTF-8") && !error.contains("canary"), "{error}");
    }
    for name in ["TIMEOUT", "PROTOCOL", "COMPRESSION", "INSECURE"] {
        let name = format!("OTEL_EXPORTER_OTLP_{name}");
        let config = Config::from_vars(|asked| (asked == name).then(bytes)).expect(&name);
        assert!(config.notes()[0].message.contains(&name), "{:?}", config.notes());
    }
}

proptest! {
    /// Any environment gives settings or an error, and no password in either.
    #[test]
    fn no_text_does_harm(endpoint in ".{0,40}|https?://[a-z0-9:@/?#\\[\\].%]{0,30}", headers in ".{0,40}|[a-z=,%0-9 ]{0,30}") {
        for protocol in ["", "grpc", "http/protobuf"] {
            let _ = read(&[("ENDPOINT", &endpoint), ("PROTOCOL", protocol)]);
            let _ = read(&[("HEADERS", &headers)]);
            let url = format!("{endpoint}canary:canary@host:1");
            match read(&[("ENDPOINT", &url), ("PROTOCOL", protocol)]) {
                // Behind the host an '@' is a character like any other.
                Ok(config) => prop_assert!(config.endpoint().split('/').nth(2).is_some_and(|host| !host.contains('@'))),
                Err(error) => prop_assert!(!format!("{error} {error:?}").contains(":canary@"), "{error}"),
            }
        }
    }
}
