//! A row of the table of routes, and its operation in the document.

use axum::http::StatusCode;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::access::Need;
use crate::problem::Details;

/// JSON, the media type of most answers.
pub(super) const JSON: &str = "application/json";

/// One operation: a method of a path.
pub(super) struct Row {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    need: Need,
    /// A name for clients that are generated.
    id: &'static str,
    summary: &'static str,
    description: &'static str,
    parameters: Vec<Value>,
    body: Option<Body>,
    answers: Vec<Answer>,
    refusals: Vec<u16>,
}

struct Body {
    is_required: bool,
    schema: Value,
    /// Each with its name.
    examples: Vec<(&'static str, Value)>,
}

struct Answer {
    status: u16,
    description: &'static str,
    media: &'static str,
    schema: fn(&mut SchemaGenerator) -> Schema,
    example: Value,
    /// Headers that it has always.
    headers: &'static [(&'static str, &'static str)],
}

/// Statuses of each operation: `Host` or a parameter, `Origin` or `Host`, a large head, too many connections.
const ALWAYS: [u16; 4] = [400, 403, HEAD, 503];
/// The refusal that never has a body: the HTTP library gives it, as it gives a bare 400 to a head that is no HTTP.
const HEAD: u16 = 431;
/// Statuses of each operation that reads a body.
const OF_BODIES: [u16; 3] = [408, 413, 415];

impl Row {
    pub(super) fn new(
        method: &'static str,
        path: &'static str,
        need: Need,
        id: &'static str,
        summary: &'static str,
    ) -> Self {
        let (parameters, answers, refusals) = (Vec::new(), Vec::new(), ALWAYS.to_vec());
        Self { method, path, need, id, summary, description: "", parameters, body: None, answers, refusals }
    }

    pub(super) fn about(mut self, description: &'static str) -> Self {
        self.description = description;
        self
    }

    /// A parameter in the path, of 1 to 255 characters.
    pub(super) fn in_path(mut self, name: &'static str, pattern: Option<&str>, example: &str) -> Self {
        let mut schema = json!({"type": "string", "minLength": 1, "maxLength": 255});
        if let Some(pattern) = pattern {
            schema = json!({"type": "string", "pattern": pattern});
        }
        let (place, required) = ("path", true);
        self.parameters
            .push(json!({"name": name, "in": place, "required": required, "schema": schema, "example": example}));
        self
    }

    /// A parameter in the query, which may be left out.
    pub(super) fn in_query(mut self, name: &'static str, about: &str, schema: &Value, example: &Value) -> Self {
        self.parameters
            .push(json!({"name": name, "in": "query", "description": about, "schema": schema, "example": example}));
        self
    }

    /// A body of JSON.
    pub(super) fn takes(mut self, is_required: bool, schema: Value, examples: &[(&'static str, Value)]) -> Self {
        self.body = Some(Body { is_required, schema, examples: examples.to_vec() });
        self.refusals.extend(OF_BODIES);
        self
    }

    /// No body: one with content is refused.
    pub(super) fn takes_none(self) -> Self {
        self.refuses(&OF_BODIES)
    }

    /// An answer of JSON.
    pub(super) fn answers<T: JsonSchema>(self, status: u16, description: &'static str, example: Value) -> Self {
        self.answers_as(status, description, JSON, |schemas| schemas.subschema_for::<T>(), example)
    }

    /// An answer of text.
    pub(super) fn answers_text(self, description: &'static str, media: &'static str, example: &str) -> Self {
        self.answers_as(200, description, media, |_| schemars::json_schema!({"type": "string"}), example.into())
    }

    fn answers_as(
        mut self,
        status: u16,
        description: &'static str,
        media: &'static str,
        schema: fn(&mut SchemaGenerator) -> Schema,
        example: Value,
    ) -> Self {
        self.answers.push(Answer { status, description, media, schema, example, headers: &[] });
        self
    }

    /// Headers of the answer that was added last, each with its meaning.
    pub(super) fn with_headers(mut self, headers: &'static [(&'static str, &'static str)]) -> Self {
        if let Some(answer) = self.answers.last_mut() {
            answer.headers = headers;
        }
        self
    }

    /// Further statuses, each with problem details.
    pub(super) fn refuses(mut self, statuses: &[u16]) -> Self {
        self.refusals.extend(statuses);
        self
    }

    /// Whether the path is outside of `/telemetry-test`.
    pub(super) fn is_root(&self) -> bool {
        !self.path.starts_with("/telemetry-test/")
    }

    fn needs_token(&self, is_loopback: bool) -> bool {
        match self.need {
            Need::Nothing => false,
            Need::TokenElsewhere | Need::Tests => !is_loopback,
            Need::Token => true,
        }
    }

    /// The operation in the document.
    pub(super) fn written(self, schemas: &mut SchemaGenerator, is_loopback: bool) -> Value {
        let security = if self.needs_token(is_loopback) { json!([{"token": []}]) } else { json!([]) };
        let mut operation = json!({"operationId": self.id, "summary": self.summary, "security": security});
        if !self.description.is_empty() {
            operation["description"] = self.description.into();
        }
        let mut statuses = self.refusals;
        if security != json!([]) {
            statuses.push(401);
        }
        let mut responses = Map::new();
        for answer in self.answers {
            let response = responses.entry(answer.status.to_string()).or_insert_with(|| json!({"content": {}}));
            response["description"] = answer.description.into();
            let schema = Value::from((answer.schema)(schemas));
            response["content"][answer.media] = json!({"schema": schema, "example": answer.example});
            for (name, about) in answer.headers {
                response["headers"][*name] =
                    json!({"description": about, "required": true, "schema": {"type": "string"}});
            }
        }
        for status in statuses {
            let (description, detail) = meaning(status);
            if status == HEAD {
                responses.insert(status.to_string(), json!({"description": description}));
                continue;
            }
            let response = responses
                .entry(status.to_string())
                .or_insert_with(|| json!({"description": description, "content": {}}));
            let example = json!({
                "type": "about:blank",
                "title": StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()),
                "status": status,
                "detail": detail,
                "instance": self.path,
            });
            let schema = Value::from(schemas.subschema_for::<Details>());
            response["content"]["application/problem+json"] = json!({"schema": schema, "example": example});
            if status == 401 {
                let about = "The scheme of the token.";
                response["headers"]["WWW-Authenticate"] =
                    json!({"description": about, "required": true, "schema": {"type": "string"}});
            }
        }
        operation["responses"] = responses.into();
        if !self.parameters.is_empty() {
            operation["parameters"] = self.parameters.into();
        }
        if let Some(Body { is_required, schema, examples }) = self.body {
            let examples: Map<_, _> =
                examples.into_iter().map(|(name, value)| (name.to_owned(), json!({ "value": value }))).collect();
            let content = json!({ JSON: {"schema": schema, "examples": examples} });
            operation["requestBody"] = json!({"required": is_required, "content": content});
        }
        operation
    }
}

/// The meaning of a refusal, and a `detail` that one may have.
fn meaning(status: u16) -> (&'static str, &'static str) {
    match status {
        400 => (
            "Host, a parameter or a field of the body is refused; without a body: the head is no HTTP",
            "there are two Host headers",
        ),
        401 => ("The token is missing, or is another one", "the token is another one"),
        403 => (
            "Host, Origin or Sec-Fetch-Site is one of strangers, or the service has no token or no tests for strangers",
            "Origin is \"http://example.com\": pages of other servers may not ask",
        ),
        404 => ("There is none with this id", "there is none with this id"),
        408 => ("The body did not arrive in time", "the body has not arrived within 10 s"),
        409 => ("The process exports no spans, or cannot do this", "spans are not exported"),
        413 => ("The body is too large", "the body is larger than 65536 bytes"),
        415 => ("The body is no JSON, or is coded", "content-type is text/plain; accepted is application/json"),
        422 => ("Fields are accepted each, and not together", "span_rate makes 3600000 spans with duration_seconds"),
        429 => ("As many run as are accepted", "2 run already, and no more are accepted at a time"),
        HEAD => ("The head of the request is larger than 16 KiB, or has more than 100 headers", ""),
        500 => ("A fault of the service", "the start of the test panicked"),
        503 => ("Not now: connections, operations or the storage", "all connections are in use"),
        504 => ("The disk has not answered in time", "the disk has not answered within 30 s"),
        507 => ("There is no room for the spans", "the dead letter stays: there is no room"),
        _ => ("A refusal", "refused"),
    }
}
