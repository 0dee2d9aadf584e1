use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind, status::StatusCode};
use prost::Message as _;

use crate::support::{LONG, World};

/// The server spans that the collector got, decoded by code that is not ours.
fn spans(world: &World) -> Vec<Span> {
    world.telemetry.settled(LONG).expect("delivered");
    let requests = world.collector.requests().into_iter();
    let decoded = requests.map(|request| ExportTraceServiceRequest::decode(request.body).expect("protobuf"));
    decoded
        .flat_map(|request| request.resource_spans)
        .flat_map(|resource| resource.scope_spans)
        .flat_map(|scope| scope.spans)
        .collect()
}

fn attribute(span: &Span, key: &str) -> String {
    match span
        .attributes
        .iter()
        .find(|attribute| attribute.key == key)
        .and_then(|attribute| attribute.value.clone()?.value)
    {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("{key} is {other:?} in {:?}", span.attributes),
    }
}

#[test]
fn a_request_is_a_server_span_in_the_callers_trace() {
    let world = World::new(&[]);
    let parent = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\nUser-Agent: test/1\r\n";
    world.request("GET", "/orders/17", parent);
    let spans = spans(&world);
    let [span] = spans.as_slice() else { panic!("{spans:?}") };
    assert_eq!((span.name.as_str(), span.kind), ("GET /orders/{id}", SpanKind::Server as i32));
    assert_eq!(span.trace_id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes());
    assert_eq!(span.parent_span_id, 0xb7ad_6b71_6920_3331_u64.to_be_bytes());
    for (key, value) in [
        ("http.request.method", "GET"),
        ("http.route", "/orders/{id}"),
        ("url.path", "/orders/17"),
        ("url.scheme", "http"),
        ("http.response.status_code", "200"),
        ("network.protocol.version", "1.1"),
        ("client.address", "127.0.0.1"),
        ("user_agent.original", "test/1"),
    ] {
        assert_eq!(attribute(span, key), value, "{key}");
    }
}

#[test]
fn paths_and_methods_that_nobody_knows_do_not_make_names() {
    let world = World::new(&[]);
    world.get("/users/17");
    world.request("BREW", "/pot", "");
    let mut names: Vec<_> =
        spans(&world).iter().map(|span| (span.name.clone(), attribute(span, "http.response.status_code"))).collect();
    names.sort();
    assert_eq!(names, [("GET".to_owned(), "404".to_owned()), ("_OTHER".to_owned(), "404".to_owned())]);
}

#[test]
fn polls_of_the_paths_of_this_crate_get_no_span() {
    const OWN: [&str; 6] =
        ["/health", "/health/live", "/health/ready", "/metrics", "/telemetry-test/health", "/telemetry-test/metrics"];
    let world = World::new(&[]);
    for path in OWN {
        assert_eq!(world.get(path).status, 200);
        let expected = if path.starts_with("/telemetry-test/") { 400 } else { 200 };
        assert_eq!(world.request("HEAD", &format!("{path}?x=1"), "").status, expected);
    }
    assert_eq!(world.get("/orders/1").status, 200);
    assert_eq!(world.get("/health/more").status, 404);
    let paths: Vec<String> = spans(&world).iter().map(|span| attribute(span, "url.path")).collect();
    assert_eq!(paths, ["/orders/1", "/health/more"]);

    let world = World::serving(&[], telemetry_service::traced_all);
    for path in OWN {
        world.get(path);
    }
    let paths: Vec<String> = spans(&world).iter().map(|span| attribute(span, "url.path")).collect();
    assert_eq!(paths, OWN);
}

/// Every path below `/telemetry-test/` is the service's, also one of a newer version that this one does not have.
#[test]
fn no_route_of_this_crate_gets_a_span_with_any_method() {
    let world = World::new(&[]);
    let newer = ["/telemetry-test/openapi.json", "/telemetry-test/checkpoint", "/telemetry-test/drain"];
    let routes = crate::access::ROUTES.into_iter().chain(crate::access::TESTS).map(|(_, path, _)| path);
    for path in routes.chain(newer) {
        for method in ["HEAD", "OPTIONS", "PATCH"] {
            let answer = world.request(method, path, "Content-Length: 0\r\n");
            assert!([200, 401, 404, 405].contains(&answer.status), "{method} {path}: {}", answer.status);
        }
    }
    // Neighbours of the prefix are the application's.
    for path in ["/telemetry-test", "/telemetry-tests/1", "/x/telemetry-test/health", "/metrics/"] {
        assert_eq!(world.get(path).status, 404, "{path}");
    }
    let paths: Vec<String> = spans(&world).iter().map(|span| attribute(span, "url.path")).collect();
    assert_eq!(paths, ["/telemetry-test", "/telemetry-tests/1", "/x/telemetry-test/health", "/metrics/"]);
}

#[test]
fn an_answer_of_503_is_an_error_of_the_span() {
    let world = World::new(&[]);
    assert_eq!(world.get("/broken").status, 503);
    let spans = spans(&world);
    let [span] = spans.as_slice() else { panic!("{spans:?}") };
    assert_eq!((span.name.as_str(), attribute(span, "error.type").as_str()), ("GET /broken", "503"));
    assert_eq!(span.status.as_ref().expect("a status").code, StatusCode::Error as i32);
}
