//! The bytes of requests, and the headers that no request carries.

use otlp_transport::{Compression, ConfigBuilder, GrpcTransport, HttpTransport, Protocol, Transport, connect};

use crate::support::*;

/// A secret: it must never be seen in any text.
const CANARY: &str = "canary-8d2f";
const USER_AGENT: &str = concat!("holdfast/", env!("CARGO_PKG_VERSION"), " OTel-OTLP-Exporter-Rust/0.33.1");

async fn send(config: ConfigBuilder) {
    let transport = connect(config.build().expect("valid")).expect("valid");
    assert_eq!(summary(&transport.send(&payload()).await), "delivered, 0 rejected");
}

fn only(log: &Log) -> Seen {
    let log = log.lock().expect("not poisoned");
    assert_eq!(log.len(), 1);
    log[0].clone()
}

async fn grpc_peer() -> (ConfigBuilder, Log) {
    let (listener, address) = listen().await;
    (config(Protocol::Grpc, address), serve_grpc(listener, |_| grpc_ok()))
}

async fn http_peer() -> (ConfigBuilder, Log, String) {
    let (listener, address) = listen().await;
    let log = serve_raw(listener, |_| Raw::Answer(http_answer(200, &[], b"")));
    (config(Protocol::HttpProtobuf, address), log, format!("http://{address}"))
}

#[tokio::test]
async fn a_grpc_request_is_as_its_protocol_says() {
    let (config, log) = grpc_peer().await;
    send(config.with_header("authorization", CANARY)).await;
    let seen = only(&log);
    assert_eq!(seen.method, "POST");
    assert!(seen.target.ends_with("/opentelemetry.proto.collector.trace.v1.TraceService/Export"), "{}", seen.target);
    assert_eq!(seen.header("content-type"), Some("application/grpc"));
    assert_eq!(seen.header("te"), Some("trailers"));
    assert_eq!(seen.header("user-agent"), Some(USER_AGENT));
    assert_eq!(seen.header("authorization"), Some(CANARY));
    assert_eq!(seen.header("grpc-encoding"), None);
    let millis: u64 = seen.header("grpc-timeout").and_then(|text| text.strip_suffix('m')?.parse().ok()).expect("ms");
    assert!((1..=10_000).contains(&millis), "{millis}");
    assert_eq!(seen.body, frame(0, payload().bytes()));
}

#[tokio::test]
async fn an_http_request_is_as_its_protocol_says() {
    let (config, log, base) = http_peer().await;
    send(config.with_header("authorization", CANARY).with_product("shop/2.1")).await;
    let seen = only(&log);
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("POST", "/v1/traces"));
    assert_eq!(seen.header("host"), base.strip_prefix("http://"));
    assert_eq!(seen.header("content-type"), Some("application/x-protobuf"));
    assert_eq!(seen.header("user-agent"), Some(format!("shop/2.1 {USER_AGENT}").as_str()));
    assert_eq!(seen.header("authorization"), Some(CANARY));
    assert_eq!(seen.header("content-encoding"), None);
    assert_eq!(seen.body, payload().bytes());
}

#[tokio::test]
async fn gzip_is_what_it_says_on_both() {
    let (config, log) = grpc_peer().await;
    send(config.with_compression(Compression::Gzip)).await;
    let seen = only(&log);
    assert_eq!(seen.header("grpc-encoding"), Some("gzip"));
    let length = u32::try_from(seen.body.len() - 5).expect("small");
    assert_eq!(seen.body[..5], [&[1][..], &length.to_be_bytes()].concat());
    assert_eq!(gunzip(&seen.body[5..]), payload().bytes()[..]);

    let (config, log, _) = http_peer().await;
    send(config.with_compression(Compression::Gzip)).await;
    let seen = only(&log);
    assert_eq!(seen.header("content-encoding"), Some("gzip"));
    assert!(seen.body.len() < payload().bytes().len());
    assert_eq!(gunzip(&seen.body), payload().bytes()[..]);
}

#[tokio::test]
async fn zstd_is_what_it_says_on_both() {
    let unzstd = |bytes: &[u8]| zstd::stream::decode_all(bytes).expect("zstd");
    let (config, log) = grpc_peer().await;
    send(config.with_compression(Compression::Zstd)).await;
    let seen = only(&log);
    assert_eq!(seen.header("grpc-encoding"), Some("zstd"));
    assert_eq!(seen.header("grpc-accept-encoding"), Some("zstd,gzip"));
    let length = u32::try_from(seen.body.len() - 5).expect("small");
    assert_eq!(seen.body[..5], [&[1][..], &length.to_be_bytes()].concat());
    assert_eq!(unzstd(&seen.body[5..]), payload().bytes()[..]);

    let (config, log, _) = http_peer().await;
    send(config.with_compression(Compression::Zstd)).await;
    let seen = only(&log);
    assert_eq!(seen.header("content-encoding"), Some("zstd"));
    assert!(seen.body.len() < payload().bytes().len());
    assert_eq!(unzstd(&seen.body), payload().bytes()[..]);
}

/// The second attempt finds the compressed form of the first, which no other code has made here.
#[tokio::test]
async fn a_later_attempt_sends_the_compressed_form_of_the_first() {
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let (config, log) = match protocol {
            Protocol::Grpc => grpc_peer().await,
            _ => {
                let (config, log, _) = http_peer().await;
                (config, log)
            }
        };
        let transport = connect(config.with_compression(Compression::Zstd).build().expect("valid")).expect("valid");
        let payload = payload();
        for _ in 0..2 {
            assert_eq!(summary(&transport.send(&payload).await), "delivered, 0 rejected");
        }
        let kept = payload.coded("zstd", |_| panic!("{protocol}: the payload has no compressed form"));
        let log = log.lock().expect("not poisoned");
        assert_eq!(log.len(), 2);
        assert!(log.iter().all(|seen| seen.body.ends_with(&kept)), "{protocol}");
    }
}

#[tokio::test]
async fn the_path_follows_the_setting_it_came_from() {
    for (path, general, traces) in [
        ("", "/v1/traces", "/"),
        ("/", "/v1/traces", "/"),
        ("/otlp", "/otlp/v1/traces", "/otlp"),
        ("/otlp/", "/otlp/v1/traces", "/otlp/"),
        ("/a%20b?key=x", "/a%20b/v1/traces?key=x", "/a%20b?key=x"),
        ("?key=x", "/v1/traces?key=x", "/?key=x"),
    ] {
        let (config, log, base) = http_peer().await;
        send(config.with_endpoint(format!("{base}{path}"))).await;
        assert_eq!(only(&log).target, general, "general, {path}");
        let (config, log, base) = http_peer().await;
        send(config.with_traces_endpoint(format!("{base}{path}"))).await;
        assert_eq!(only(&log).target, traces, "traces, {path}");
    }
}

/// Each transport speaks its own protocol to its own path, also with settings that were made for the other one.
#[tokio::test]
async fn a_transport_goes_to_the_path_of_its_own_protocol() {
    let (listener, address) = listen().await;
    let log = serve_grpc(listener, |_| grpc_ok());
    let other = config(Protocol::HttpProtobuf, address).with_endpoint(format!("http://{address}/otlp?key=x"));
    let transport = GrpcTransport::new(other.build().expect("valid"));
    assert_eq!(transport.endpoint(), format!("http://{address}"));
    assert_eq!(summary(&transport.send(&payload()).await), "delivered, 0 rejected");
    assert!(only(&log).target.ends_with("/opentelemetry.proto.collector.trace.v1.TraceService/Export"));

    for (path, general, traces) in [
        ("", "/v1/traces", "/"),
        ("/otlp/?key=x", "/otlp/v1/traces?key=x", "/otlp/?key=x"),
        ("/a b", "/v1/traces", "/"),
    ] {
        for (is_general, target) in [(true, general), (false, traces)] {
            let (listener, address) = listen().await;
            let log = serve_raw(listener, |_| Raw::Answer(http_answer(200, &[], b"")));
            let (other, url) = (config(Protocol::Grpc, address), format!("http://{address}{path}"));
            let other = if is_general { other.with_endpoint(url) } else { other.with_traces_endpoint(url) };
            let transport = HttpTransport::new(other.build().expect("valid"));
            assert_eq!(summary(&transport.send(&payload()).await), "delivered, 0 rejected");
            assert_eq!(only(&log).target, target);
            let shown = target.split('?').next().expect("a path");
            assert_eq!(transport.endpoint(), format!("http://{address}{shown}"));
        }
    }
}

#[tokio::test]
async fn a_payload_over_the_limit_is_not_sent() {
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let (_held, address) = refused();
        let config = config(protocol, address).with_max_request_bytes(1_999).build().expect("valid");
        let outcome = connect(config).expect("valid").send(&payload()).await;
        assert_eq!(summary(&outcome), "too large: limit 2000 > 1999", "{protocol}");
    }
}

/// A peer may repeat parts of a request in any text of its answer.
#[tokio::test]
async fn what_is_secret_is_in_no_text() {
    let token = format!("Bearer {CANARY}");
    let target = "/receiver/v1/otlp/a+canary+path==/v1/traces?key=canary-key".to_owned();
    // Proxies decode, servers of web applications encode.
    let encoded = "%2Freceiver%2Fv1%2Fotlp%2Fa%2Bcanary%2Bpath%3D%3D%2Fv1%2Ftraces";
    let echo = format!("no user for {token} or {CANARY} at {target}, that is {encoded}");
    let grpc = |code: &str| {
        let fields = vec![("grpc-status", code.to_owned()), ("grpc-message", echo.clone())];
        Grpc::Answer { status: 200, headers: fields, body: None, trailers: None }
    };
    let partial = grpc_answer(Some(frame(0, &partial_success(1, &echo))), vec![("grpc-status", "0".to_owned())]);
    let page = Grpc::Answer {
        status: 404,
        headers: vec![("content-type", "text/plain".to_owned())],
        body: Some(echo.clone().into()),
        trailers: None,
    };
    let mut peers = Vec::new();
    for script in [grpc("16"), grpc("14"), grpc("8"), partial, page] {
        let (listener, address) = listen().await;
        serve_grpc(listener, move |_| script.clone());
        peers.push((Protocol::Grpc, address));
    }
    let protobuf = partial_success(1, &echo);
    let html = format!("<html>{echo}");
    let location = format!("https://me:{CANARY}@c.example{target}");
    for (status, headers, body) in [
        (200, &[][..], &protobuf[..]),
        (200, &[("content-type", "text/plain")], echo.as_bytes()),
        (200, &[("content-type", "text/html")], html.as_bytes()),
        (302, &[("location", location.as_str())], b""),
        (307, &[("location", target.as_str())], b""),
        (400, &[], echo.as_bytes()),
        (401, &[], echo.as_bytes()),
        (404, &[], encoded.as_bytes()),
        (413, &[], echo.as_bytes()),
        (503, &[], echo.as_bytes()),
    ] {
        let (listener, address) = listen().await;
        let answer = http_answer(status, headers, body);
        serve_raw(listener, move |_| Raw::Answer(answer.clone()));
        peers.push((Protocol::HttpProtobuf, address));
    }
    for (protocol, address) in peers {
        let config = config(protocol, address)
            .with_traces_endpoint(format!("http://{address}{target}"))
            .with_header("authorization", &token);
        assert!(!format!("{config:?}").contains("canary"), "{config:?}");
        let config = config.build().expect("valid");
        let shown = format!("{config:?} {config:#?} {} {:?}", config.endpoint(), config.notes());
        assert!(!shown.contains("canary"), "{shown}");
        let transport = connect(config.clone()).expect("valid");
        let outcome = transport.send(&payload()).await;
        let text = format!("{outcome:?} {} {:?}", transport.endpoint(), outcome.cause().map(ToString::to_string));
        assert!(text.contains("***") && !text.contains("canary"), "{text}");
        let both = format!("{:?} {:?}", GrpcTransport::new(config.clone()), HttpTransport::new(config));
        assert!(!both.contains("canary"), "{both}");
    }
}

/// Long texts are cut, and the cut may go through a secret.
#[tokio::test]
async fn what_is_secret_is_not_shown_in_part_either() {
    const TOKEN: &str = "Bearer 0123456789abcdefghijklmnopqrstuvwxyz";
    const TEXT: &[(&str, &str)] = &[("content-type", "text/plain")];
    // The limits of a refusal's text, of an unreadable answer's text, of the bytes that are looked at for either.
    for (status, headers, filler, lengths) in [
        (401, &[][..], "-", 460..520),
        (200, TEXT, "-", 70..125),
        (200, TEXT, " ", 430..490),
        (401, &[][..], " ", 16_330..16_390),
    ] {
        for before in lengths {
            let echo = format!("{}{TOKEN} is not known here", filler.repeat(before));
            let (listener, address) = listen().await;
            serve_raw(listener, move |_| Raw::Answer(http_answer(status, headers, echo.as_bytes())));
            let config = config(Protocol::HttpProtobuf, address).with_header("authorization", TOKEN);
            let outcome = connect(config.build().expect("valid")).expect("valid").send(&payload()).await;
            let text = outcome.cause().expect("no delivery that is readable").to_string();
            assert!(text.starts_with(&format!("HTTP status {status}")), "{text}");
            assert!(!text.contains("Bea") && !text.contains("012"), "{status} {filler:?} {before}: {text}");
        }
    }
}

/// A body may end within a secret.
#[tokio::test]
async fn a_secret_whose_rest_never_comes_is_not_shown() {
    const TOKEN: &str = "Bearer 0123456789abcdefghijklmnopqrstuvwxyz";
    for status in [200, 401] {
        let (listener, address) = listen().await;
        let headers = [("content-type", "text/plain")];
        let mut answer = http_answer(status, &headers, format!("no user for {TOKEN}").as_bytes());
        answer.truncate(answer.len() - 10);
        serve_raw(listener, move |_| Raw::AnswerThenClose(answer.clone()));
        let config = config(Protocol::HttpProtobuf, address).with_header("authorization", TOKEN);
        let outcome = connect(config.build().expect("valid")).expect("valid").send(&payload()).await;
        let text = outcome.cause().expect("no delivery that is readable").to_string();
        assert!(text.contains("no user for ***..."), "{text}");
    }
}

#[tokio::test]
async fn a_user_agent_of_the_user_stands_in_front_of_ours_and_nothing_else_of_ours_changes() {
    let list = "user-agent=shop%2F2.1,content-type=text%2Fplain,te=gzip,host=elsewhere,x-key=1";
    let vars = |name: &str| (name == "OTEL_EXPORTER_OTLP_HEADERS").then(|| list.into());
    let send_with_vars = async |config: ConfigBuilder| {
        let config = config.build_over(vars).expect("valid");
        assert_eq!(config.notes().len(), 4, "{:?}", config.notes());
        connect(config).expect("valid").send(&payload()).await;
    };
    let (config, log) = grpc_peer().await;
    send_with_vars(config).await;
    let seen = only(&log);
    assert_eq!(seen.header("user-agent"), Some(format!("shop/2.1 {USER_AGENT}").as_str()));
    assert_eq!((seen.header("content-type"), seen.header("te")), (Some("application/grpc"), Some("trailers")));
    assert_eq!(seen.header("x-key"), Some("1"));

    let (config, log, base) = http_peer().await;
    send_with_vars(config.with_product("tool/1")).await;
    let seen = only(&log);
    assert_eq!(seen.header("user-agent"), Some(format!("shop/2.1 tool/1 {USER_AGENT}").as_str()));
    assert_eq!(seen.header("content-type"), Some("application/x-protobuf"));
    assert_eq!((seen.header("host"), seen.header("te")), (base.strip_prefix("http://"), None));

    let (config, log, _) = http_peer().await;
    send_with_vars(config.with_header("User-Agent", "code/3")).await;
    assert_eq!(only(&log).header("user-agent"), Some(format!("code/3 {USER_AGENT}").as_str()));
}
