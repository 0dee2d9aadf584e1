//! The document of the routes: it has each of them, and its examples are accepted.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};

use crate::documented::{PATH, contents, document, operations, validator};
use crate::resilience_http::exchange;
use crate::support::{TOKEN, World};

#[test]
fn the_document_and_the_router_have_the_same_paths() {
    for has_root_routes in [true, false] {
        let document = document(|service| service.with_root_routes(has_root_routes));
        let described: BTreeSet<String> = operations(&document).into_iter().map(|(path, ..)| path).collect();
        let telemetry = telemetry_manager::OpenTelemetryManager::builder().with_vars(|_| None).with_sdk_disabled(true);
        let observer = telemetry.build().expect("disabled telemetry starts").observer();
        let router = telemetry_service::Service::new(observer).with_root_routes(has_root_routes).router();
        // The one way to ask a router for its paths: it prints them as a map from numbers.
        let printed = format!("{router:?}");
        let routed: BTreeSet<String> =
            printed.split('"').skip(1).step_by(2).filter(|text| text.starts_with('/')).map(str::to_owned).collect();
        assert!(routed.len() >= 12, "the router prints its paths in another way: {printed:.2000}");
        // The answer to unknown paths has a path of its own.
        let routed: BTreeSet<_> =
            routed.into_iter().filter(|path| path != "/" && !path.contains("__private")).collect();
        assert_eq!(described, routed, "has_root_routes: {has_root_routes}");
    }
}

#[test]
fn each_path_has_the_methods_of_the_document_and_no_others() {
    let world = World::new(&[]);
    let document = world.get(PATH).json();
    let mut methods: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (path, method, _) in operations(&document) {
        let methods = methods.entry(path).or_default();
        methods.extend((method == "GET").then(|| "HEAD".to_owned()));
        methods.insert(method);
    }
    for (path, methods) in methods {
        let target = path.replace("{id}", "none").replace("{test_id}", "none");
        let answer = world.with_token("BREW", &target);
        let allowed: BTreeSet<String> =
            answer.header("allow").split(',').map(|method| method.trim().to_owned()).collect();
        assert_eq!((answer.status, allowed), (405, methods), "{path}: {}", answer.body);
    }
}

/// The status of an answer, whose body may have no end.
fn status(world: &World, method: &str, target: &str, token: bool) -> u16 {
    let mut socket = world.connect();
    let token = if token { format!("Authorization: Bearer {TOKEN}\r\n") } else { String::new() };
    write!(socket, "{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{token}\r\n").expect("sent");
    let mut line = [0; 12];
    socket.read_exact(&mut line).expect("a status line");
    String::from_utf8_lossy(&line[9..]).parse().expect("a status")
}

#[test]
fn operations_with_a_security_need_the_token_and_others_do_not() {
    let elsewhere = "192.0.2.1:5210".parse().expect("an address");
    let worlds =
        [World::new(&[]), World::changed(move |service| service.with_address(elsewhere).with_tests_elsewhere(true))];
    let mut with_token = [0, 0];
    for (world, with_token) in worlds.iter().zip(&mut with_token) {
        let document = world.with_token("GET", PATH).json();
        for (path, method, operation) in operations(&document) {
            let is_secured = !operation["security"].as_array().expect("a list").is_empty();
            *with_token += usize::from(is_secured);
            let target = path.replace("{id}", "none").replace("{test_id}", "none");
            assert_eq!(status(world, &method, &target, false) == 401, is_secured, "{method} {path}");
            assert_eq!(operation["responses"]["401"].is_object(), is_secured, "{method} {path}");
            assert_ne!(status(world, &method, &target, true), 401, "{method} {path}");
        }
    }
    assert!(with_token[0] >= 3 && with_token[1] >= with_token[0] + 10, "{with_token:?}");
}

#[test]
fn each_body_has_an_example_and_each_example_is_valid() {
    let document = document(|service| service);
    let mut seen = 0;
    for (at, content) in contents(&document) {
        // A field with a sentence that no reader of a body asks for would have no type.
        for (name, field) in content["schema"]["properties"].as_object().into_iter().flatten() {
            assert!(field["type"].is_string() && field["description"].is_string(), "{at}: {name}: {field}");
        }
        let validator = validator(&document, &content["schema"]);
        let named = content["examples"].as_object().into_iter().flatten().map(|(_, example)| &example["value"]);
        let examples: Vec<_> = named.chain(content.get("example")).collect();
        assert!(!examples.is_empty(), "{at} has no example");
        for example in examples {
            assert!(!example.is_null(), "{at}");
            if let Err(error) = validator.validate(example) {
                panic!("{at}: {error} at {}: {example:#}", error.instance_path());
            }
            seen += 1;
        }
    }
    assert!(seen > 100, "{seen}");
}

#[test]
fn each_example_of_a_body_is_accepted() {
    let mut world = World::new(&[]);
    let document = world.get(PATH).json();
    let mut seen = 0;
    for (path, method, operation) in operations(&document) {
        let examples = operation["requestBody"]["content"]["application/json"]["examples"].as_object();
        for (name, example) in examples.into_iter().flatten() {
            let body = example["value"].to_string();
            let token = format!("Authorization: Bearer {TOKEN}");
            let answer = exchange(&world, &method, &path, &["Content-Type: application/json", &token], &body);
            assert!((200..300).contains(&answer.status), "{method} {path} {name}: {}", answer.body);
            if answer.status == 202 {
                // Two tests run at a time.
                let cancelled = exchange(&world, "DELETE", answer.header("location"), &[], "");
                assert!([200, 202].contains(&cancelled.status), "{}", cancelled.body);
                wait_until_ended(&world, answer.header("location"));
            }
            seen += 1;
        }
    }
    assert!(seen >= 8, "{seen}");
    world.stop().expect("the server ends");
}

fn wait_until_ended(world: &World, path: &str) {
    let clock = telemetry_manager::resilient_exporter::SystemClock;
    let now = || telemetry_manager::resilient_exporter::Clock::now(&clock);
    let begin = now();
    while world.get(path).json()["verdict"].is_null() {
        assert!(now().saturating_duration_since(begin) < crate::support::LONG);
    }
}

#[test]
fn the_document_is_plain_json_and_takes_no_parameter() {
    let world = World::new(&[]);
    let answer = world.get(PATH);
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
    assert!(answer.header("etag").is_empty());
    let document = answer.json();
    assert_eq!((&document["openapi"], &document["servers"][0]["url"]), (&"3.1.0".into(), &"/".into()));
    assert_eq!(world.get(&format!("{PATH}?format=yaml")).status, 400);
    let start = &document["paths"]["/telemetry-test/test/start"]["post"]["requestBody"]["content"]["application/json"];
    let seconds = &start["schema"]["properties"]["duration_seconds"];
    assert_eq!((&seconds["minimum"], &seconds["maximum"], &seconds["default"]), (&1.into(), &3_600.into(), &60.into()));
}
