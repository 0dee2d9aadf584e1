//! `GET /telemetry-test/openapi.json`: the routes as an OpenAPI 3.1 document.
//!
//! `rows` has a row for each operation. Schemas of answers come from the types that are serialized, and those of bodies
//! from their readers, so that ranges and defaults stand once. The tests compare rows and router in both directions,
//! and answers with their schemas.

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use axum::routing::get;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::health::VERSION;
use crate::problem::{Problem, json_answer};
use crate::query::Query;
use crate::shared::Shared;

mod row;
mod rows;

/// The path of the document.
pub(crate) const PATH: &str = "/telemetry-test/openapi.json";

/// The service that a document describes.
#[derive(Clone, Copy)]
pub(crate) struct Described {
    /// Only programs of this machine can reach the service: most routes need no token.
    pub(crate) is_loopback: bool,
    /// Paths outside of `/telemetry-test` are there.
    pub(crate) has_root_routes: bool,
}

/// The route of the document, which the first request makes: some milliseconds, and 75 KB that stay.
pub(crate) fn routes(described: Described) -> Router<Shared> {
    let text = Arc::new(OnceLock::new());
    let answer = async move |uri: Uri| -> Result<Response, Problem> {
        Query::parse(&uri, &[])?;
        // Each answer is a copy.
        let text: &String = text.get_or_init(|| document(described).to_string());
        Ok(json_answer(StatusCode::OK, text.clone()))
    };
    Router::new().route(PATH, get(answer))
}

/// The document of such a service.
pub(crate) fn document(Described { is_loopback, has_root_routes }: Described) -> Value {
    let settings = SchemaSettings::draft2020_12().for_serialize();
    let mut schemas =
        settings.with(|settings| settings.definitions_path = "/components/schemas".into()).into_generator();
    let mut paths = Map::new();
    for row in rows::all().into_iter().filter(|row| has_root_routes || !row.is_root()) {
        let (path, method) = (row.path, row.method);
        let operation = row.written(&mut schemas, is_loopback);
        paths.entry(path).or_insert_with(|| json!({}))[method] = operation;
    }
    let mut schemas = Value::Object(schemas.take_definitions(true));
    read_as_text(&mut schemas);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "holdfast telemetry service",
            "version": VERSION,
            "description": "Health, metrics, dead letters, events and resilience tests of a process's telemetry. \
                Each refusal is an application/problem+json.",
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The token of TELEMETRY_SERVICE_TOKEN or TELEMETRY_SERVICE_TOKEN_FILE, else of the \
                        file service-token in the state directory.",
                },
            },
        },
    })
}

/// Takes links to Rust names out of all descriptions: these are the comments of types, and readers of the document have
/// no pages of theirs.
fn read_as_text(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                match member {
                    Value::String(text) if name == "description" => *text = without_links(text),
                    _ => read_as_text(member),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(read_as_text),
        _ => {}
    }
}

/// The text without ``([`a`])``, and with ``[`a`](b)`` and ``[`a`]`` as `` `a` ``, on one line a paragraph.
fn without_links(text: &str) -> String {
    let (mut plain, mut rest) = (String::with_capacity(text.len()), text);
    while let Some((before, behind)) = rest.split_once("[`") {
        let Some((name, behind)) = behind.split_once("`]") else { break };
        let behind =
            behind.strip_prefix('(').and_then(|link| link.split_once(')')).map_or(behind, |(_, behind)| behind);
        match (before.strip_suffix(" ("), behind.strip_prefix(')')) {
            (Some(before), Some(behind)) => {
                plain.push_str(before);
                rest = behind;
            }
            _ => {
                plain.extend([before, "`", name, "`"]);
                rest = behind;
            }
        }
    }
    plain.push_str(rest);
    plain.split("\n\n").map(|paragraph| paragraph.replace('\n', " ")).collect::<Vec<_>>().join("\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_have_no_links_to_rust_names() {
        for (text, expected) in [
            ("The name ([`Transport::endpoint`]).", "The name."),
            ("In [`Health::collectors`](super::Health): one.", "In `Health::collectors`: one."),
            ("A [`Pipeline`].\nOn.\n\nMore", "A `Pipeline`. On.\n\nMore"),
            ("An array [`x", "An array [`x"),
        ] {
            assert_eq!(without_links(text), expected);
        }
        let text = document(Described { is_loopback: true, has_root_routes: true }).to_string();
        assert!(!text.contains("[`") && !text.contains("::endpoint"), "{text}");
    }

    #[test]
    fn a_service_without_root_routes_describes_none() {
        let paths = |has_root_routes| {
            let document = document(Described { is_loopback: false, has_root_routes });
            let paths: Vec<String> = document["paths"].as_object().expect("paths").keys().cloned().collect();
            paths
        };
        let (all, below) = (paths(true), paths(false));
        assert_eq!(all.len(), below.len() + 4);
        assert!(below.iter().all(|path| path.starts_with("/telemetry-test/")), "{below:?}");
    }
}
