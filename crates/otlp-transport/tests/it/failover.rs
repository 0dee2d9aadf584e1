//! The endpoints behind the primary one: how they are read, and which credentials each has.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use otlp_transport::{
    Config, ConfigBuilder, ConfigError, CredentialHeaders, Credentials, CredentialsError, Endpoints, FailoverEndpoint,
    FailoverProblem, Protocol, RequestHead, Signal,
};

const LIST: &str = "TELEMETRY_FAILOVER_ENDPOINTS";
const FALLBACK: &str = "OTEL_EXPORTER_OTLP_FALLBACK_ENDPOINT";
const TRACES_FALLBACK: &str = "OTEL_EXPORTER_OTLP_TRACES_FALLBACK_ENDPOINT";

fn over(builder: ConfigBuilder, vars: &[(&str, &str)]) -> Result<Endpoints, ConfigError> {
    let vars: BTreeMap<&str, &str> = vars.iter().copied().collect();
    let vars =
        |name: &str| vars.get(name.trim_start_matches("OTEL_EXPORTER_OTLP_")).or(vars.get(name)).map(OsString::from);
    builder.check_endpoints_over(vars)
}

fn read(vars: &[(&str, &str)]) -> Result<Endpoints, ConfigError> {
    over(Config::builder(), vars)
}

fn good(vars: &[(&str, &str)]) -> Endpoints {
    read(vars).unwrap_or_else(|error| panic!("{vars:?}: {error}"))
}

fn shown(endpoints: &Endpoints) -> Vec<String> {
    endpoints.failover.iter().map(|config| format!("{} {}", config.protocol(), config.endpoint())).collect()
}

fn notes(endpoints: &Endpoints) -> Vec<String> {
    endpoints.notes().map(ToString::to_string).collect()
}

fn remarks(endpoints: &Endpoints) -> Vec<String> {
    endpoints.remarks().iter().map(ToString::to_string).collect()
}

#[test]
fn each_url_is_read_as_the_general_endpoint_is() {
    for (vars, expected) in [
        (&[][..], &[][..]),
        (&[(LIST, " ")], &[]),
        (&[(LIST, "http://b:4317")], &["grpc http://b:4317"]),
        (&[(LIST, "http://b:4318")], &["http/protobuf http://b:4318/v1/traces"]),
        (&[(LIST, "http://b:4318/otlp/")], &["http/protobuf http://b:4318/otlp/v1/traces"]),
        (&[(LIST, "http://b:4318/v1/traces")], &["http/protobuf http://b:4318/v1/traces"]),
        (&[(LIST, "https://b/x;protocol=http/protobuf")], &["http/protobuf https://b/***/v1/traces"]),
        (&[(LIST, "https://b;Protocol = GRPC ;")], &["grpc https://b"]),
        (&[(LIST, "b:4317")], &["grpc https://b:4317"]),
        (&[(LIST, "b:4317"), ("INSECURE", "true")], &["grpc http://b:4317"]),
        (&[(LIST, "unix:///run/b.sock")], &["grpc unix:///run/b.sock"]),
        (
            &[(LIST, " http://b:4317 ,, http://c:4318,"), ("ENDPOINT", "http://a:4318")],
            &["grpc http://b:4317", "http/protobuf http://c:4318/v1/traces"],
        ),
        // A protocol that is set holds for all, unless an option says otherwise.
        (&[(LIST, "http://b:1"), ("PROTOCOL", "http/protobuf")], &["http/protobuf http://b:1/v1/traces"]),
        (&[(LIST, "http://b:4318"), ("TRACES_PROTOCOL", "grpc")], &["grpc http://b:4318"]),
        (&[(LIST, "http://b:1;protocol=grpc"), ("PROTOCOL", "http/protobuf")], &["grpc http://b:1"]),
        (&[(FALLBACK, "http://b:4318")], &["http/protobuf http://b:4318/v1/traces"]),
        (&[(TRACES_FALLBACK, "http://b:4318/in")], &["http/protobuf http://b:4318/***"]),
        (&[(TRACES_FALLBACK, "http://t:1"), (FALLBACK, "http://b:1")], &["grpc http://t:1"]),
        // The list is in front of the fallback endpoint.
        (&[(FALLBACK, "http://c:1"), (LIST, "http://b:1")], &["grpc http://b:1", "grpc http://c:1"]),
    ] {
        assert_eq!(shown(&good(vars)), expected, "{vars:?}");
    }
}

#[test]
fn the_path_is_that_of_the_signal() {
    let endpoints =
        over(Config::builder().with_signal(Signal::Logs), &[(LIST, "http://b:4318,http://c:4318/v1/traces")]);
    let endpoints = endpoints.expect("valid");
    assert_eq!(shown(&endpoints), ["http/protobuf http://b:4318/v1/logs", "http/protobuf http://c:4318/v1/logs"]);
    assert_eq!(endpoints.failover[0].signal(), Signal::Logs);
    let told = notes(&endpoints);
    assert!(
        told.iter().any(|note| note.contains("(member 2) ends in /v1/traces, and logs go to /v1/logs")),
        "{told:?}"
    );
}

#[test]
fn other_settings_are_those_of_the_primary_endpoint() {
    let vars = [(LIST, "http://b:1"), ("TIMEOUT", "250"), ("COMPRESSION", "zstd")];
    let builder = Config::builder()
        .with_connection_max_age(std::time::Duration::from_secs(7))
        .with_max_request_bytes(5_000)
        .with_max_response_bytes(6_000);
    let endpoints = over(builder, &vars).expect("valid");
    for config in [&endpoints.primary, &endpoints.failover[0]] {
        assert_eq!(config.timeout(), std::time::Duration::from_millis(250));
        assert_eq!(config.compression(), otlp_transport::Compression::Zstd);
        assert_eq!((config.max_request_bytes(), config.max_response_bytes()), (5_000, 6_000));
        assert_eq!(config.connection_max_age(), std::time::Duration::from_secs(7));
    }
    let proxied = good(&[(LIST, "http://b.test:1,http://localhost:2"), ("HTTP_PROXY", "http://me:s3cret@p:3128")]);
    assert_eq!(proxied.failover.iter().map(Config::proxy).collect::<Vec<_>>(), [Some("http://p:3128"), None]);
}

/// The headers of a request by these settings, by the `Debug` of the settings, which has their names alone.
fn has_header(config: &Config, name: &str) -> bool {
    format!("{config:?}").contains(&format!("{name:?}"))
}

#[test]
fn headers_go_to_the_same_host_alone_and_never_out_of_tls() {
    let headers = ("HEADERS", "api-key=canary");
    for (primary, other, has, remarked, noted) in [
        ("https://a:4317", "https://a:4318", true, false, false),
        ("https://a:4317", "https://A.:4319", true, false, false),
        ("https://a:4317", "a:4319", true, false, false),
        ("https://[::1]:4317", "https://[0:0::1]:4319", true, false, false),
        ("http://a:4317", "http://a:4319", true, false, false),
        ("http://a:4317", "https://a:4319", true, false, false),
        ("unix:///run/a.sock", "unix:///run/a.sock;protocol=http/protobuf", true, false, false),
        ("unix:///run/a.sock", "unix:///run/b.sock", false, true, false),
        ("https://a:4317", "http://a:4319", false, false, true),
        ("https://a:4317", "https://b:4317", false, true, false),
        ("https://a:4317", "http://b:4317", false, true, false),
        ("https://a.test:4317", "https://b.a.test:4317", false, true, false),
        ("https://a.test:4317", "https://a.test.evil:4317", false, true, false),
        ("http://localhost:4317", "http://127.0.0.1:4318", false, true, false),
    ] {
        let vars = [("ENDPOINT", primary), (LIST, other), headers, ("PROTOCOL", "grpc")];
        let endpoints = good(&vars);
        assert!(has_header(&endpoints.primary, "api-key"));
        assert_eq!(has_header(&endpoints.failover[0], "api-key"), has, "{primary} {other}");
        let (remarks, notes) = (remarks(&endpoints), notes(&endpoints));
        assert_eq!(remarks.len(), usize::from(remarked), "{primary} {other}: {remarks:?}");
        let is_kept_back = |note: &String| note.contains("in plain text") && note.contains("(member 1)");
        assert_eq!(notes.iter().any(is_kept_back), noted, "{primary} {other}: {notes:?}");
        assert!(!format!("{endpoints:?} {remarks:?} {notes:?}").contains("canary"));
        // Without credentials there is nothing to tell.
        let endpoints = good(&[vars[0], vars[1], vars[3]]);
        assert_eq!(endpoints.remarks().len(), 0, "{primary} {other}");
    }
    let endpoints = good(&[("ENDPOINT", "https://a:1"), (LIST, "https://a:2,https://b.test:1"), headers]);
    let expected = "TELEMETRY_FAILOVER_ENDPOINTS (member 2) is https://b.test:1, on another host than the primary \
                    endpoint: it does not get the primary endpoint's headers; where it asks for credentials, give it its own";
    assert_eq!(remarks(&endpoints), [expected]);
    assert_eq!(endpoints.remarks()[0].setting, LIST);
}

#[test]
fn the_fallback_endpoint_has_the_headers_on_any_host_but_not_out_of_tls() {
    let headers = ("HEADERS", "api-key=canary");
    for name in [FALLBACK, TRACES_FALLBACK] {
        for (primary, other, has) in [
            ("https://a:4317", "https://b:4317", true),
            ("http://a:4317", "http://b:4317", true),
            ("http://a:4317", "https://b:4317", true),
            ("https://a:4317", "http://b:4317", false),
            ("https://a:4317", "http://a:4319", false),
        ] {
            let endpoints = good(&[("ENDPOINT", primary), (name, other), headers]);
            assert_eq!(has_header(&endpoints.failover[0], "api-key"), has, "{name} {primary} {other}");
            assert_eq!(endpoints.remarks().len(), 0);
            let told = notes(&endpoints).iter().filter(|note| note.contains("in plain text")).count();
            assert_eq!(told, usize::from(!has), "{name} {primary} {other}");
        }
    }
    let both = good(&[(FALLBACK, "http://c:1"), (LIST, "http://b:1"), headers]);
    let has = both.failover.iter().map(|config| has_header(config, "api-key")).collect::<Vec<_>>();
    assert_eq!(has, [false, true]);
    let told = notes(&both);
    assert!(
        told[0].contains(FALLBACK) && told[0].contains(LIST) && told[0].contains("after the 1 of the list"),
        "{told:?}"
    );
}

struct Token;

#[async_trait]
impl Credentials for Token {
    async fn headers(&self, _: &RequestHead, _: &Bytes) -> Result<CredentialHeaders, CredentialsError> {
        Ok(CredentialHeaders::new(1).with("authorization", "canary"))
    }
}

#[test]
fn headers_that_change_follow_the_same_rule() {
    let can_change = |endpoints: &Endpoints| {
        endpoints
            .failover
            .iter()
            .map(|c| otlp_transport::connect(c.clone()))
            .map(|transport| transport.expect("valid").can_change())
            .collect::<Vec<_>>()
    };
    let list = (LIST, "http://a:2,http://b:1,http://a:3;headers-file=/run/own,http://b:2;headers-file=/run/other");
    let provider = || Config::builder().with_endpoint("http://a:1").with_credentials(Arc::new(Token));
    let endpoints = over(provider(), &[list]).expect("valid");
    assert_eq!(can_change(&endpoints), [true, false, true, true]);
    assert_eq!(endpoints.remarks().len(), 1);
    let file = |endpoints: &Endpoints| {
        endpoints.failover.iter().map(|config| config.headers_file().map(str::to_owned)).collect::<Vec<_>>()
    };
    assert_eq!(file(&endpoints), [None, None, Some("/run/own".to_owned()), Some("/run/other".to_owned())]);
    let endpoints = good(&[("ENDPOINT", "http://a:1"), ("TELEMETRY_HEADERS_FILE", "/run/h"), ("HEADERS", "k=v"), list]);
    let own = |path: &str| Some(path.to_owned());
    assert_eq!(file(&endpoints), [own("/run/h"), None, own("/run/own"), own("/run/other")]);
    let has = endpoints.failover.iter().map(|config| has_header(config, "k")).collect::<Vec<_>>();
    assert_eq!(has, [true, false, false, false], "a file of its own is all that an endpoint has");
}

#[test]
fn endpoints_in_code_beat_the_list_and_have_headers_of_their_own() {
    let second =
        FailoverEndpoint::new("http://b:1").with_header("tenant", "canary").with_protocol(Protocol::HttpProtobuf);
    let builder = Config::builder()
        .with_header("api-key", "canary")
        .with_failover_endpoints([second, "http://localhost:2".into()]);
    let endpoints = over(builder, &[(LIST, "http://c:1")]).expect("valid");
    assert_eq!(shown(&endpoints), ["http/protobuf http://b:1/v1/traces", "grpc http://localhost:2"]);
    let [first, second] = &endpoints.failover[..] else { panic!("two") };
    assert!(has_header(first, "tenant") && !has_header(first, "api-key"));
    assert!(has_header(second, "api-key") && endpoints.remarks().is_empty());

    let none = over(Config::builder().with_failover_endpoints(Vec::<String>::new()), &[(LIST, "http://c:1")]);
    assert!(none.expect("valid").failover.is_empty());
    let fallback = over(Config::builder().with_fallback_endpoint("http://b:1"), &[(FALLBACK, "http://c:1")]);
    assert_eq!(shown(&fallback.expect("valid")), ["grpc http://b:1"]);

    let bad = FailoverEndpoint::new("http://b:1").with_header("tenant", "canary\n");
    let error = over(Config::builder().with_failover_endpoints([bad]), &[]).unwrap_err();
    assert!(
        error.to_string().starts_with("with_failover_endpoints (headers of member 1): member 1 (tenant)"),
        "{error}"
    );
    assert_eq!(error.setting(), "with_failover_endpoints");
    let many = Config::builder().with_failover_endpoints((1..=15).map(|port| format!("http://b:{port}")));
    assert_eq!(over(many.clone(), &[]).expect("valid").failover.len(), 15);
    let error = over(many.with_fallback_endpoint("http://c:1"), &[]).unwrap_err().to_string();
    assert_eq!(error, "with_failover_endpoints makes 17 endpoints with the primary one; at most 16 are accepted");
}

#[test]
fn a_bad_member_is_an_error_that_names_it_and_no_secret() {
    let list = |count: usize| (1..=count).map(|port| format!("http://b:{port}")).collect::<Vec<_>>().join(",");
    assert_eq!(good(&[(LIST, &list(15))]).failover.len(), 15);
    for (vars, parts) in [
        (&[(LIST, "http://b:1,tcp://user:canary@c")][..], &["(member 2)=\"tcp://***@c\"", "unknown scheme"][..]),
        (&[(LIST, "http://user:canary@c:1")], &["(member 1)=\"http://***@c:1\"", "user-info", "headers file"]),
        (&[(LIST, "http://b:1,,http://c:x")], &["(member 2)=\"http://c:x\"", "bad port"]),
        (
            &[(LIST, "http://b:1;header-file=/c")],
            &["(member 1) has the option header-file", "is headers-file meant?", "client-key="],
        ),
        (&[(LIST, "http://b:1;headersfile=/c")], &["is headers-file meant?"]),
        (&[(LIST, "http://b:1;headers_file=/c")], &["is headers-file meant?"]),
        (&[(LIST, "http://b:1;headers=a=canary")], &["has the option headers,", "is headers-file meant?"]),
        (&[(LIST, "http://b:1;protocl=grpc")], &["is protocol meant?"]),
        (&[(LIST, "http://b:1;cert=/c")], &["is certificate meant?"]),
        (&[(LIST, "http://b:1;client-cert=/c")], &["is client-certificate meant?"]),
        (&[(LIST, "http://b:1;timeout=5s")], &["has the option timeout,", "and client-key="]),
        (&[(LIST, "https://b/?key=x;canary")], &["has the option ***,"]),
        (&[(LIST, "https://b/?key=x;canary==")], &["has the option ***,"]),
        (&[(LIST, "https://b/?key=x;9canary=3")], &["has the option ***,"]),
        (&[(LIST, "http://b:1;headers-file")], &["has the option headers-file without a value"]),
        (&[(LIST, "http://b:1;protocol=grpc;PROTOCOL=grpc")], &["has the option protocol twice"]),
        (&[(LIST, "http://b:1;client-key=/k")], &["(member 1)", "one of client-certificate and client-key"]),
        (&[(LIST, "https://b:1;client-certificate=/k")], &["one of client-certificate and client-key"]),
        (&[(LIST, ";headers-file=/k")], &["(member 1) has no URL"]),
        (&[(LIST, &list(16))], &["makes 17 endpoints", "at most 16"]),
        (&[(LIST, &list(15)), (FALLBACK, "http://c:1")], &["makes 17 endpoints"]),
        (&[(FALLBACK, "tcp://canary@c")], &["OTEL_EXPORTER_OTLP_FALLBACK_ENDPOINT=\"tcp://***@c\""]),
        (&[(TRACES_FALLBACK, "http://")], &["OTEL_EXPORTER_OTLP_TRACES_FALLBACK_ENDPOINT", "has no host"]),
    ] {
        let error = read(vars).expect_err(vars[0].1);
        let text = format!("{error} {error:?}");
        for part in parts {
            assert!(error.to_string().contains(part), "{vars:?}: {error} lacks {part:?}");
        }
        assert!(!text.contains("canary"), "{text}");
        assert!([LIST, FALLBACK, TRACES_FALLBACK].contains(&error.setting()), "{error}");
    }
    let garbage = |name: &str| (name == LIST).then(|| OsString::from_vec(vec![0xff]));
    let error = Config::builder().build_endpoints_over(garbage).unwrap_err();
    assert_eq!(error, ConfigError::Failover { setting: LIST, problem: FailoverProblem::NotUtf8 });
    // The primary endpoint alone does not look at them.
    assert!(Config::from_vars(garbage).is_ok());
}

#[test]
fn an_endpoint_that_equals_one_before_it_is_left_out_with_a_note() {
    for (vars, left, same) in [
        (&[("ENDPOINT", "http://a:1"), (LIST, "http://A.:1/path,http://b:1")][..], 1, "the primary endpoint"),
        (&[(LIST, "http://b:1,http://c:1,http://b:1;headers-file=/own")], 2, "endpoint 2"),
        (&[(LIST, "http://localhost:4317")], 0, "the primary endpoint"),
        (&[(LIST, "http://b:80,http://b")], 1, "endpoint 2"),
        (&[(LIST, "http://b:1"), (FALLBACK, "http://b:1")], 1, "endpoint 2"),
    ] {
        let endpoints = good(vars);
        assert_eq!(endpoints.failover.len(), left, "{vars:?}");
        let told = notes(&endpoints);
        assert!(told.iter().any(|note| note.contains(&format!("like {same}: it is left out"))), "{told:?}");
    }
    // Another path, another protocol or TLS make another endpoint.
    let list = "http://b:1,http://b:1;protocol=http/protobuf,http://b:1/x;protocol=http/protobuf,https://b:1";
    assert_eq!(good(&[(LIST, list)]).failover.len(), 4);
}

#[test]
fn notes_name_the_member_and_are_told_once() {
    for (vars, expected) in [
        (&[(LIST, "http://b:1,http://c:1")][..], &[][..]),
        (&[(LIST, "http://b:1;protocol=http")], &["(protocol of member 1)=\"http\" is ignored: grpc or http/protobuf"]),
        (&[(LIST, "http://b:1;protocol=http/json")], &["(protocol of member 1)=http/json is not spoken"]),
        (&[(LIST, "http://b:4318")], &["the port of TELEMETRY_FAILOVER_ENDPOINTS (member 1) is 4318"]),
        // The same rule has made the protocol of the primary endpoint, whose note says so.
        (&[("ENDPOINT", "http://a:4318"), (LIST, "http://b:4318")], &["the endpoint's port is 4318"]),
        (
            &[("PROTOCOL", "grpc"), (LIST, "http://b:4318")],
            &["(member 1): OTEL_EXPORTER_OTLP_PROTOCOL is grpc, and the endpoint's port 4318"],
        ),
        (&[(LIST, "http://b")], &["(member 1) has no port, so requests go to port 80"]),
        (&[(LIST, "\"http://b:1\"")], &["TELEMETRY_FAILOVER_ENDPOINTS has quotation marks"]),
        (&[("TIMEOUT", "soon"), (LIST, "http://b:1,http://c:1")], &["OTEL_EXPORTER_OTLP_TIMEOUT"]),
        (
            &[(TRACES_FALLBACK, "http://b:4318")],
            &["is 4318 and no protocol is set", "or set OTEL_EXPORTER_OTLP_FALLBACK_ENDPOINT in its place"],
        ),
        (
            &[(LIST, "http://b:1;certificate=/ca.pem")],
            &["(certificate of member 1) has no effect: the endpoint begins"],
        ),
    ] {
        let endpoints = good(vars);
        let told = notes(&endpoints);
        assert_eq!(told.len(), expected.len(), "{vars:?}: {told:?}");
        for part in expected {
            assert!(told.iter().any(|note| note.contains(part)), "{told:?} lacks {part:?}");
        }
        for note in endpoints.notes() {
            assert!(!note.setting.contains(' ') && note.message.contains(note.setting), "{note:?}");
        }
    }
}

#[test]
fn a_headers_file_that_is_not_there_is_noted_with_its_member() {
    let vars = |name: &str| (name == LIST).then(|| OsString::from("http://b:1;headers-file=/no/such/file"));
    let endpoints = Config::builder().build_endpoints_over(vars).expect("a file may come later");
    let told = notes(&endpoints);
    let expected = "TELEMETRY_FAILOVER_ENDPOINTS (headers-file of member 1)=\"/no/such/file\": does not exist";
    assert!(told.len() == 1 && told[0].starts_with(expected) && told[0].contains("no request goes out"), "{told:?}");
    let directory = |name: &str| (name == LIST).then(|| OsString::from("http://b:1;headers-file=/"));
    let error = Config::builder().build_endpoints_over(directory).unwrap_err();
    assert!(error.to_string().contains("(headers-file of member 1)=\"/\": is a directory"), "{error}");
}

#[cfg(feature = "_tls")]
mod of_tls {
    use std::path::Path;

    use super::*;

    #[test]
    fn client_certificates_go_to_the_same_host_and_authorities_to_all() {
        let vars = [
            ("ENDPOINT", "https://a:1"),
            ("CERTIFICATE", "/ca.pem"),
            ("CLIENT_CERTIFICATE", "/c.pem"),
            ("CLIENT_KEY", "/k.pem"),
        ];
        let list = "https://a:2,https://b:1,https://b:2;certificate=system,\
                    https://b:3;certificate=/ca2.pem;client-certificate=/c2.pem;client-key=/k2.pem,http://a:3";
        let endpoints = good(&[&vars[..], &[(LIST, list)]].concat());
        let files = |config: &Config| {
            [config.certificate(), config.client_certificate(), config.client_key()]
                .map(|file| file.map(Path::to_owned))
        };
        let path = |path: &str| Some(path.into());
        let expected = [
            [path("/ca.pem"), path("/c.pem"), path("/k.pem")],
            [path("/ca.pem"), None, None],
            [None, None, None],
            [path("/ca2.pem"), path("/c2.pem"), path("/k2.pem")],
            [None, None, None],
        ];
        assert_eq!(endpoints.failover.iter().map(files).collect::<Vec<_>>(), expected);
        let told = remarks(&endpoints);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(
            told[0].contains("(member 2)") && told[0].contains("the primary endpoint's client certificate;"),
            "{told:?}"
        );
        assert_eq!(notes(&endpoints), Vec::<String>::new());
        let fallback = good(&[&vars[..], &[(FALLBACK, "https://b:1")]].concat());
        assert_eq!(files(&fallback.failover[0]), expected[0]);
    }

    #[test]
    fn files_of_a_member_that_cannot_be_used_are_errors_of_set_up() {
        let at = |list: &'static str| move |name: &str| (name == LIST).then(|| OsString::from(list));
        let error = Config::builder().build_endpoints_over(at("https://b:1;certificate=/no/ca.pem")).unwrap_err();
        assert!(error.to_string().contains("(certificate of member 1)=\"/no/ca.pem\""), "{error}");
        assert_eq!(error.setting(), LIST);
        assert!(Config::builder().check_endpoints_over(at("https://b:1;certificate=/no/ca.pem")).is_ok());
    }
}
