//! Errors as RFC 9457 problem details.

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;

/// A refusal: an `application/problem+json` answer whose title is the phrase of the status.
#[derive(Debug)]
pub(crate) struct Problem(Box<Refusal>);

#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    detail: String,
    instance: String,
    /// The field that is refused, and its range.
    field: Option<(String, String)>,
    header: Option<(HeaderName, HeaderValue)>,
}

/// Problem details: RFC 9457.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Problem")]
pub(crate) struct Details {
    /// Always `about:blank`: the status says the kind.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The phrase of the status.
    title: &'static str,
    /// The status.
    status: u16,
    /// The reason, and the remedy where there is one.
    detail: String,
    /// The path of the request.
    instance: String,
    /// The field, header or parameter that is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    /// The values that it accepts.
    #[serde(skip_serializing_if = "Option::is_none")]
    accepted: Option<String>,
}

impl Problem {
    /// `instance` is the path of the request.
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>, instance: impl Into<String>) -> Self {
        Self(Box::new(Refusal { status, detail: detail.into(), instance: instance.into(), field: None, header: None }))
    }

    /// A request with a field that is refused: 400, with the field's name and the values that it accepts.
    pub(crate) fn of_field(field: &str, why: &str, accepted: &str, instance: impl Into<String>) -> Self {
        let mut problem =
            Self::new(StatusCode::BAD_REQUEST, format!("{field:?} {why}; accepted: {accepted}"), instance);
        problem.0.field = Some((field.to_owned(), accepted.to_owned()));
        problem
    }

    /// The field that is refused, and the values that it accepts.
    pub(crate) fn with_field(mut self, field: String, accepted: String) -> Self {
        self.0.field = Some((field, accepted));
        self
    }

    pub(crate) fn with_header(mut self, name: HeaderName, value: &'static str) -> Self {
        self.0.header = Some((name, HeaderValue::from_static(value)));
        self
    }

    /// A refusal that lasts for an instant.
    pub(crate) fn retry_soon(self) -> Self {
        self.with_header(header::RETRY_AFTER, "1")
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Refusal { status, detail, instance, field, header } = *self.0;
        let (field, accepted) = field.unzip();
        let body = Details {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            detail,
            instance,
            field,
            accepted,
        };
        let body = serde_json::to_string(&body).unwrap_or_default();
        let headers = [
            (header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json")),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        ];
        let mut response = (status, headers, body).into_response();
        if let Some((name, value)) = header {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

/// A refusal without a field.
pub(crate) fn problem(status: StatusCode, detail: &str, instance: &str) -> Response {
    Problem::new(status, detail, instance).into_response()
}

/// A JSON answer that no cache keeps.
pub(crate) fn json_answer(status: StatusCode, body: String) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (status, headers, body).into_response()
}
