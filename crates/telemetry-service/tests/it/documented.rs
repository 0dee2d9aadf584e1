//! The document of the routes as a judge: each answer that a test gets has a status, a content type, headers and a body
//! of the document.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use axum::body::{Body, to_bytes};
use axum::http::Request;
use jsonschema::Validator;
use serde_json::{Value, json};
use telemetry_manager::OpenTelemetryManager;
use telemetry_service::{Service, Token};
use tower_service::Service as _;

use crate::support::{Answer, TOKEN};

pub(crate) const PATH: &str = "/telemetry-test/openapi.json";

/// The document of a service with these settings, over its router.
pub(crate) fn document(change: impl FnOnce(Service) -> Service) -> Value {
    let telemetry = OpenTelemetryManager::builder().with_vars(|_| None).with_sdk_disabled(true).build();
    let observer = telemetry.expect("disabled telemetry starts").observer();
    let service = change(Service::new(observer).with_token(Token::new(TOKEN).expect("fit")));
    let request = Request::get(PATH).header("host", "localhost").header("authorization", format!("Bearer {TOKEN}"));
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let body = runtime.block_on(async {
        let answer = service.router().call(request.body(Body::empty()).expect("a request")).await.expect("infallible");
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "application/json");
        to_bytes(answer.into_body(), usize::MAX).await.expect("a body")
    });
    serde_json::from_slice(&body).expect("JSON")
}

/// All operations, with the answers of the widest service: one that strangers reach.
struct Judge {
    document: Value,
    /// By the pointer of a schema in the document.
    validators: BTreeMap<String, Validator>,
}

static JUDGE: LazyLock<Judge> = LazyLock::new(|| {
    let document = document(|service| service);
    let mut validators = BTreeMap::new();
    for (at, content) in contents(&document) {
        validators.insert(at, validator(&document, &content["schema"]));
    }
    Judge { document, validators }
});

/// A validator of a schema of the document. Fields that a schema does not name are refused, so that none is missing in
/// it: clients are promised less.
pub(crate) fn validator(document: &Value, schema: &Value) -> Validator {
    let mut components = document["components"].clone();
    for schema in components["schemas"].as_object_mut().expect("schemas").values_mut() {
        close(schema);
    }
    let schema =
        json!({"$schema": "https://json-schema.org/draft/2020-12/schema", "components": components, "allOf": [schema]});
    jsonschema::validator_for(&schema).unwrap_or_else(|error| panic!("{error}: {schema:#}"))
}

fn close(schema: &mut Value) {
    let Some(members) = schema.as_object_mut() else { return };
    if members.contains_key("properties") && !members.contains_key("additionalProperties") {
        members.insert("additionalProperties".to_owned(), false.into());
    }
}

/// Each `content` member of bodies and answers, with its pointer.
pub(crate) fn contents(document: &Value) -> Vec<(String, &Value)> {
    let mut found = Vec::new();
    for (path, method, operation) in operations(document) {
        let at = format!("{method} {path}");
        for (media, content) in operation["requestBody"]["content"].as_object().into_iter().flatten() {
            found.push((format!("{at} body {media}"), content));
        }
        for (status, answer) in operation["responses"].as_object().into_iter().flatten() {
            for (media, content) in answer["content"].as_object().into_iter().flatten() {
                found.push((format!("{at} {status} {media}"), content));
            }
        }
    }
    found
}

/// Path, method in upper case, and operation.
pub(crate) fn operations(document: &Value) -> Vec<(String, String, &Value)> {
    let paths = document["paths"].as_object().expect("paths").iter();
    let operations = paths.flat_map(|(path, methods)| {
        let methods = methods.as_object().expect("methods").iter();
        methods.map(|(method, operation)| (path.clone(), method.to_uppercase(), operation))
    });
    operations.collect()
}

/// Fails unless the answer is one of the document's. Paths and methods that are not in it are not judged: 404 and 405.
pub(crate) fn judge(method: &str, target: &str, answer: &Answer) {
    let path = target.split('?').next().unwrap_or_default();
    let operations = operations(&JUDGE.document);
    let matches = |template: &str| {
        let (given, wanted) = (path.split('/'), template.split('/'));
        given.clone().count() == wanted.clone().count()
            && given.zip(wanted).all(|(given, wanted)| wanted == given || wanted.starts_with('{'))
    };
    // A literal path beats a template.
    let template = operations
        .iter()
        .filter(|(template, ..)| matches(template))
        .min_by_key(|(template, ..)| template.matches('{').count());
    let Some((template, ..)) = template else { return };
    let Some((_, _, operation)) = operations.iter().find(|(path, known, _)| path == template && known == method) else {
        return;
    };
    // axum's own answer to unknown paths, of a service without root routes.
    if answer.status == 404 && answer.body.is_empty() {
        return;
    }
    let (status, at) = (answer.status.to_string(), format!("{method} {template}"));
    let documented = &operation["responses"][&status];
    assert!(documented.is_object(), "{at} answered {status}, which is not documented: {}", answer.body);
    let media = answer.header("content-type").split(';').next().unwrap_or_default();
    let validator = JUDGE.validators.get(&format!("{at} {status} {media}"));
    let validator =
        validator.unwrap_or_else(|| panic!("{at} answered {status} with {media:?}, which is not documented"));
    let body = if media.ends_with("json") { answer.json() } else { answer.body.clone().into() };
    if let Err(error) = validator.validate(&body) {
        panic!("{at} {status}: {error} at {}: {body:#}", error.instance_path());
    }
    for (name, header) in documented["headers"].as_object().into_iter().flatten() {
        let is_there = answer.headers.contains_key(&name.to_lowercase());
        assert!(is_there || header["required"] != true, "{at} {status} has no {name}");
    }
}
