//! Usual slips of an environment: each has a note with a remedy, or an error with one.

use std::collections::HashMap;
use std::ffi::OsString;
use std::time::Duration;

use otlp_transport::{Config, ConfigError, Note, Protocol};

fn read(vars: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let vars: HashMap<String, OsString> =
        vars.iter().map(|(name, value)| (format!("OTEL_EXPORTER_OTLP_{name}"), (*value).into())).collect();
    Config::from_vars(|name| vars.get(name).cloned())
}

fn valid(vars: &[(&str, &str)]) -> Config {
    read(vars).unwrap_or_else(|error| panic!("{vars:?}: {error}"))
}

/// The only note, which is about the variable of this name.
fn note(vars: &[(&str, &str)], about: &str) -> String {
    let config = valid(vars);
    let [Note { setting, message, .. }] = config.notes() else { panic!("{vars:?}: {:?}", config.notes()) };
    assert_eq!(*setting, format!("OTEL_EXPORTER_OTLP_{about}"), "{vars:?}: {message}");
    message.clone()
}

fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{text:?} does not say {part:?}");
    }
}

#[test]
fn a_certificate_has_no_effect_without_tls() {
    for name in ["CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE", "TRACES_CERTIFICATE", "TRACES_CLIENT_KEY"] {
        for endpoint in ["http://c:4317", ""] {
            let message = note(&[("ENDPOINT", endpoint), (name, "/secret.pem")], name);
            assert_says(&message, &[name, "no effect", "http://"]);
            assert!(!message.contains("secret.pem"), "{message}");
        }
    }
    // The one for traces would be used.
    let note = note(&[("CERTIFICATE", "/a"), ("TRACES_CERTIFICATE", "/b")], "TRACES_CERTIFICATE");
    assert_says(&note, &["OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE has no effect"]);
}

#[test]
fn headers_of_the_transport_itself_are_left_out_with_a_note() {
    for name in ["content-type", "Content-Type", "host", "te", "content-encoding", "grpc-timeout", "connection"] {
        let message = note(&[("HEADERS", &format!("a=1,{name}=canary"))], "HEADERS");
        assert_says(&message, &["member 2", name, "set by the transport itself"]);
        assert!(!message.contains("canary"), "{message}");
    }
    let message = note(&[("TRACES_HEADERS", "content-type=x")], "TRACES_HEADERS");
    assert_says(&message, &["member 1 (content-type)"]);
}

#[test]
fn a_user_agent_is_put_in_front_of_ours_with_a_note_and_stays_out_of_debug() {
    let config = valid(&[("HEADERS", "User-Agent=canary%2F1.2")]);
    assert_eq!(config.notes()[0].setting, "OTEL_EXPORTER_OTLP_HEADERS");
    assert_says(&config.notes()[0].message, &["User-Agent", "in front"]);
    assert!(!format!("{config:?} {:?}", config.notes()).contains("canary"), "{config:?}");
    let error = read(&[("HEADERS", "user-agent=a%0Ab")]).expect_err("a line break").to_string();
    assert_says(&error, &["member 1 (user-agent)", "printable ASCII"]);
}

#[test]
fn quotation_marks_around_a_value_are_taken_off_with_a_note() {
    for quote in ["\"", "'"] {
        let quoted = |value: &str| format!(" {quote}{value}{quote}");
        let about = |name: &str, value: &str| {
            let vars = [(name, &*quoted(value))];
            let config = valid(&vars);
            let about = format!("OTEL_EXPORTER_OTLP_{name}");
            let notes = config.notes().iter().filter(|note| note.message.contains("quotation marks"));
            assert_eq!(notes.map(|note| note.setting).collect::<Vec<_>>(), [about], "{vars:?}");
            assert!(!format!("{config:?} {:?}", config.notes()).contains("canary"), "{config:?}");
            config
        };
        assert_eq!(about("ENDPOINT", "http://c:9").endpoint(), "http://c:9");
        assert_eq!(about("TRACES_ENDPOINT", "http://c:9/?key=canary").endpoint(), "http://c:9");
        assert_eq!(about("PROTOCOL", "http/protobuf").protocol(), Protocol::HttpProtobuf);
        assert_eq!(about("TIMEOUT", "2500").timeout(), Duration::from_millis(2_500));
        assert_eq!(about("COMPRESSION", "gzip").compression(), otlp_transport::Compression::Gzip);
        about("INSECURE", "true");
        assert!(format!("{:?}", about("HEADERS", "api-key=canary,b=2")).contains("api-key"));
    }
    // Nothing between the marks is nothing at all.
    assert_eq!(valid(&[("ENDPOINT", "\"\""), ("TIMEOUT", "''")]).endpoint(), "http://localhost:4317");
    // A mark that has no pair is no pair.
    let error = read(&[("ENDPOINT", "\"http://c:9")]).expect_err("one mark").to_string();
    assert_says(&error, &["quotation mark"]);
    let message = note(&[("HEADERS", "a=1,key=\"canary\"")], "HEADERS");
    assert_says(&message, &["member 2 (key)", "quotation marks"]);
    assert!(!message.contains("canary"), "{message}");
}

#[test]
fn a_bad_value_for_traces_counts_as_unset_and_the_general_one_holds() {
    for (name, bad, good) in [
        ("TIMEOUT", "soon", "2500"),
        ("COMPRESSION", "brotli", "gzip"),
        ("PROTOCOL", "carrier pigeon", "http/protobuf"),
        ("INSECURE", "yes", "true"),
    ] {
        let traces = format!("TRACES_{name}");
        let vars = [(&*traces, bad), (name, good), ("ENDPOINT", "c:9")];
        let config = match name {
            "INSECURE" => valid(&vars),
            _ => valid(&vars[..2]),
        };
        let alone = match name {
            "INSECURE" => valid(&vars[1..]),
            _ => valid(&vars[1..2]),
        };
        assert_eq!((config.timeout(), config.compression()), (alone.timeout(), alone.compression()), "{name}");
        assert_eq!((config.protocol(), config.endpoint()), (alone.protocol(), alone.endpoint()), "{name}");
        let notes = config.notes();
        assert_eq!(notes.len(), 1, "{notes:?}");
        assert_eq!(notes[0].setting, format!("OTEL_EXPORTER_OTLP_{traces}"));
        assert_says(&notes[0].message, &[bad, "ignored", &format!("OTEL_EXPORTER_OTLP_{name}")]);
        // The general one is bad too: both are named, and the default holds.
        assert_eq!(valid(&[(&*traces, bad), (name, bad)]).notes().len(), 2, "{name}");
    }
    // A good one for traces beats a bad general one, which nothing reads.
    assert!(valid(&[("TRACES_TIMEOUT", "7000"), ("TIMEOUT", "soon")]).notes().is_empty());
    // Guessing would send elsewhere, or without a key.
    assert!(read(&[("TRACES_ENDPOINT", "ftp://c"), ("ENDPOINT", "http://c:9")]).is_err());
    assert!(read(&[("TRACES_HEADERS", "a"), ("HEADERS", "a=1")]).is_err());
}

#[test]
fn a_time_out_of_zero_is_an_hour_units_are_read_and_a_short_one_has_a_note() {
    let timeout = |text: &str| valid(&[("TIMEOUT", text)]);
    for (text, ms) in [
        ("0", 3_600_000),
        ("3600000", 3_600_000),
        ("3600001", 3_600_000),
        ("2147483647", 3_600_000),
        ("2h", 3_600_000),
        ("100", 100),
        ("10s", 10_000),
        ("250ms", 250),
    ] {
        let config = timeout(text);
        assert_eq!(config.timeout(), Duration::from_millis(ms), "{text}");
        assert!(config.notes().is_empty(), "{text}: {:?}", config.notes());
    }
    assert_eq!(timeout("1 m").timeout(), Duration::from_secs(60));
    for name in ["TIMEOUT", "TRACES_TIMEOUT"] {
        for text in ["1", "10", "99"] {
            let message = note(&[(name, text)], name);
            assert_says(&message, &[&format!("{text} ms"), "milliseconds", &format!("{text}000"), "duplicate"]);
        }
    }
    for text in ["-1", "1.5s", "10 sec", "2147483648", "99999999999999999999", "soon", "10S"] {
        assert_eq!(timeout(text).timeout(), Duration::from_secs(10), "{text}");
        assert_says(&note(&[("TIMEOUT", text)], "TIMEOUT"), &[text, "milliseconds"]);
    }
}

#[test]
fn a_boolean_that_is_none_has_a_hint() {
    for text in ["1", "yes", "on", "Y", "t"] {
        assert_says(&note(&[("INSECURE", text)], "INSECURE"), &[text, "write true"]);
    }
    for text in ["0", "no", "off"] {
        assert_says(&note(&[("INSECURE", text)], "INSECURE"), &[text, "write false"]);
    }
    assert!(valid(&[("INSECURE", "True")]).notes().is_empty());
}

#[test]
fn a_port_of_the_other_protocol_has_a_note() {
    let message = note(&[("PROTOCOL", "http/protobuf"), ("ENDPOINT", "http://c:4317")], "PROTOCOL");
    assert_says(&message, &["4317", "gRPC", "4318", "http/protobuf"]);
    let message = note(&[("TRACES_PROTOCOL", "grpc"), ("ENDPOINT", "http://c:4318")], "TRACES_PROTOCOL");
    assert_says(&message, &["4318", "grpc", "4317"]);
    let message = note(&[("ENDPOINT", "http://c:4318")], "PROTOCOL");
    assert_says(&message, &["4318", "http/protobuf"]);
    assert!(valid(&[("PROTOCOL", "grpc"), ("ENDPOINT", "http://c:4317")]).notes().is_empty());
    assert!(valid(&[("PROTOCOL", "http/protobuf"), ("ENDPOINT", "http://c:4318")]).notes().is_empty());
}

#[test]
fn the_path_of_traces_is_not_appended_twice_and_a_lacking_one_is_told() {
    let http = ("PROTOCOL", "http/protobuf");
    for endpoint in ["http://c:9/v1/traces", "http://c:9/v1/traces/", "http://c:9/otlp/v1/traces"] {
        let vars = [http, ("ENDPOINT", endpoint)];
        assert_eq!(valid(&vars).endpoint(), endpoint.trim_end_matches('/'));
        assert_says(&note(&vars, "ENDPOINT"), &["/v1/traces", "not appended", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"]);
    }
    assert_eq!(valid(&[http, ("ENDPOINT", "http://c:9/xv1/traces")]).endpoint(), "http://c:9/***/traces/v1/traces");
    // The endpoint for traces is used as it is.
    let vars = [http, ("TRACES_ENDPOINT", "http://c:9/v1/traces/v1/traces")];
    assert_eq!(valid(&vars).endpoint(), "http://c:9/v1/traces/v1/traces");
    assert!(valid(&vars).notes().is_empty());
    for endpoint in ["http://c:4318", "http://c:4318/"] {
        let message = note(&[http, ("TRACES_ENDPOINT", endpoint)], "TRACES_ENDPOINT");
        assert_says(&message, &["no path", "/v1/traces"]);
    }
    // gRPC has no path.
    assert!(valid(&[("TRACES_ENDPOINT", "http://c:4317/")]).notes().is_empty());
    let message = note(&[("ENDPOINT", "http://c:4317/v1/traces")], "ENDPOINT");
    assert_says(&message, &["path", "gRPC", "http/protobuf"]);
}

#[test]
fn an_endpoint_without_a_port_has_a_note() {
    for (vars, about) in [
        (vec![("ENDPOINT", "http://localhost")], "ENDPOINT"),
        (vec![("ENDPOINT", "http://[::1]")], "ENDPOINT"),
        (vec![("TRACES_ENDPOINT", "http://c/v1/traces"), ("PROTOCOL", "http/protobuf")], "TRACES_ENDPOINT"),
        (vec![("ENDPOINT", "localhost"), ("INSECURE", "true")], "ENDPOINT"),
    ] {
        assert_says(&note(&vars, about), &["no port", "80", "4317", "4318"]);
    }
    assert!(valid(&[("ENDPOINT", "http://c:80")]).notes().is_empty());
    assert!(valid(&[("ENDPOINT", "http://[::1]:9")]).notes().is_empty());
}

#[test]
fn an_endpoint_of_another_kind_is_an_error_with_its_remedy() {
    let insecure = ("INSECURE", "true");
    for (endpoint, parts) in [
        ("/run/c.sock", &["Unix socket", "unix:///run/otel.sock"][..]),
        ("unix:run/c.sock", &["Unix socket", "absolute path", "unix:///run/otel.sock"]),
        ("unix://run/c.sock", &["Unix socket", "absolute path"]),
        ("unix:///run/", &["Unix socket"]),
        ("unix:", &["Unix socket"]),
        ("unix-abstract:c", &["Unix socket"]),
        ("dns:///c:4317", &["gRPC", "http://host:port"]),
        ("ipv4:10.0.0.1:4317", &["gRPC", "http://host:port"]),
        ("passthrough:///c:4317", &["gRPC", "http://host:port"]),
        ("http//c:4317", &["mistyped", "http://host:port"]),
        ("http:/c:4317", &["mistyped", "http://host:port"]),
        ("http:\\\\c:4317", &["mistyped"]),
        ("http;//c:4317", &["mistyped"]),
        ("htttp://c:4317", &["mistyped", "http://host:port"]),
        ("htp://c:4317", &["mistyped"]),
        ("ttp://c:4317", &["mistyped"]),
        ("http://http://c:4317", &["mistyped"]),
        ("http://http:/c:4317", &["mistyped"]),
        ("https//c:4317", &["mistyped"]),
        ("grpc://c:4317", &["unknown scheme", "http://", "gRPC too"]),
        ("tcp://c:4317", &["unknown scheme", "http://"]),
        ("http://c:4317 # the agent", &["comment"]),
        ("http://$(HOST_IP):4317", &["not expanded"]),
        ("http://${HOST_IP}:4317", &["not expanded"]),
        ("\u{201c}http://c:4317\u{201d}", &["quotation mark"]),
    ] {
        for vars in [&[("ENDPOINT", endpoint)][..], &[("ENDPOINT", endpoint), insecure]] {
            let error = read(vars).expect_err(endpoint).to_string();
            assert_says(&error, &["OTEL_EXPORTER_OTLP_ENDPOINT"]);
            assert_says(&error, parts);
        }
    }
    // Hosts that only look like it.
    for endpoint in ["http:4317", "https-proxy:9", "unix:4317", "http.example:9"] {
        assert!(valid(&[("ENDPOINT", endpoint), insecure]).endpoint().ends_with(endpoint), "{endpoint}");
    }
}

#[test]
fn a_header_list_that_is_separated_otherwise_has_a_hint() {
    let message = note(&[("HEADERS", "a=1;b=canary")], "HEADERS");
    assert_says(&message, &["member 1 (a)", "';'", "commas"]);
    assert!(!message.contains("canary"), "{message}");
    assert!(valid(&[("HEADERS", "a=1;b")]).notes().is_empty(), "a value may hold a semicolon");
    let message = note(&[("HEADERS", "key=${CANARY}")], "HEADERS");
    assert_says(&message, &["member 1 (key)", "not expanded"]);
    for list in ["Authorization: Bearer canary", "authorization: Basic canary==", "a=1,x-key:canary"] {
        let error = read(&[("HEADERS", list)]).expect_err(list).to_string();
        assert_says(&error, &["':'", "key=value"]);
        assert!(!error.contains("canary"), "{error}");
    }
    let error = read(&[("HEADERS", "key=canary,canary")]).expect_err("a comma in a value").to_string();
    assert_says(&error, &["member 2", "%2C"]);
    assert!(!error.contains("canary"), "{error}");
}
