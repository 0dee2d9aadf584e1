//! Dead letters over HTTP: list, read, redrive.
//!
//! The disk thread carries each operation out in turn with its other work, and the calling thread is blocked until
//! then: it is one of the runtime's blocking threads, and [`MAX_OPERATIONS`](crate::shared::MAX_OPERATIONS) bounds
//! their number.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use axum::routing::{get, post};
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::IgnoredAny;
use telemetry_manager::resilient_exporter::{DeadLetter, DeadLetterError, DeadLetterFilter, Handle};
use tokio::sync::Semaphore;

use crate::body;
use crate::held::held_until_sent;
use crate::problem::{Problem, json_answer};
use crate::query::Query;
use crate::shared::Shared;

/// Letters of a list where the client names no number, and at most.
pub(crate) const LISTED: (usize, usize) = (100, 1_000);

/// Descriptions, without spans.
pub(crate) fn list_routes() -> Router<Shared> {
    Router::new().route("/telemetry-test/dead-letters", get(list))
}

/// Spans, and their way back.
pub(crate) fn content_routes() -> Router<Shared> {
    Router::new()
        .route("/telemetry-test/dead-letters/redrive", post(redrive_matching))
        .route("/telemetry-test/dead-letters/{id}", get(read))
        .route("/telemetry-test/dead-letters/{id}/redrive", post(redrive))
}

/// The newest dead letters, without their spans.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "DeadLetters")]
pub(crate) struct Listed {
    /// Dead letters that there are.
    total: usize,
    /// Newest first.
    dead_letters: Vec<DeadLetter>,
}

/// The schema of one dead letter with its spans.
#[derive(JsonSchema)]
#[schemars(rename = "DeadLetterWithSpans")]
#[expect(dead_code, reason = "the answer is put together from the lines of the letter")]
pub(crate) struct Content {
    /// The description.
    dead_letter: DeadLetter,
    /// The spans, as objects of OTLP JSON.
    data: Vec<serde_json::Value>,
}

/// Dead letters were put back on their way.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Redriven {
    /// Letters whose spans are stored for delivery.
    letters: u64,
    /// Their spans.
    spans: u64,
    /// Letters that stay.
    failed: Vec<Failed>,
    /// Letters that match and were not tried.
    left: u64,
}

/// A dead letter that stays.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Failed {
    /// Its id.
    id: String,
    /// The reason, and the remedy.
    error: String,
}

/// None of these bodies can fail to be JSON.
fn written(body: &impl Serialize) -> String {
    serde_json::to_string(body).unwrap_or_default()
}

async fn list(State(shared): State<Shared>, uri: Uri) -> Result<Response, Problem> {
    let newest = Query::parse(&uri, &["limit"]).and_then(|query| query.count("limit", LISTED.0, LISTED.1))?;
    operate(&shared, &shared.lists, &uri, move |handle| {
        let (known, letters) = (handle.dead_letter_ids()?.len(), handle.dead_letters(newest)?);
        // A letter may come between the two looks.
        let total = known.max(letters.len());
        Ok(written(&Listed { total, dead_letters: letters }))
    })
    .await
}

async fn read(
    State(shared): State<Shared>,
    id: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Result<Response, Problem> {
    Query::parse(&uri, &[])?;
    let id = id_of(id, &uri)?;
    operate(&shared, &shared.operations, &uri, move |handle| {
        let (letter, lines) = handle.dead_letter(&id)?;
        let description = written(&letter);
        let size = lines.iter().map(|line| line.len() + 1).sum::<usize>();
        let mut body = String::with_capacity(description.len() + size + 40);
        body.push_str(&format!(r#"{{"dead_letter":{description},"data":["#));
        for (n, line) in lines.iter().enumerate() {
            // Lines are JSON as they are; one that an editor has damaged must not damage the answer.
            if serde_json::from_str::<IgnoredAny>(line).is_err() {
                return Err(DeadLetterError::Damaged { id: id.clone(), why: format!("line {} is no JSON", n + 1) });
            }
            body.push_str(if n == 0 { "" } else { "," });
            body.push_str(line);
        }
        body.push_str("]}");
        Ok(body)
    })
    .await
}

async fn redrive(
    State(shared): State<Shared>,
    id: Result<Path<String>, PathRejection>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    Query::parse(&uri, &[])?;
    body::none(&headers, body, uri.path()).await?;
    let id = id_of(id, &uri)?;
    operate(&shared, &shared.operations, &uri, move |handle| {
        let spans = handle.redrive(&id)?;
        Ok(written(&Redriven { letters: 1, spans, failed: Vec::new(), left: 0 }))
    })
    .await
}

async fn redrive_matching(
    State(shared): State<Shared>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let query = Query::parse(&uri, &["reason", "status", "endpoint"])?;
    body::none(&headers, body, uri.path()).await?;
    let mut filter = DeadLetterFilter::default();
    if let Some(reason) = query.get("reason") {
        filter = filter.with_reason(reason);
    }
    if let Some(status) = query.get("status") {
        filter = filter.with_status(status);
    }
    if let Some(endpoint) = query.get("endpoint") {
        filter = filter.with_endpoint(endpoint);
    }
    operate(&shared, &shared.operations, &uri, move |handle| {
        let mut report = handle.redrive_matching(&filter);
        // Without a list of letters there is nothing to report.
        if report.failed.first().is_some_and(|(id, _)| id.is_empty()) {
            return Err(report.failed.swap_remove(0).1);
        }
        let failed = report.failed.into_iter().map(|(id, error)| Failed { id, error: error.to_string() }).collect();
        Ok(written(&Redriven { letters: report.letters, spans: report.spans, failed, left: report.left }))
    })
    .await
}

pub(crate) fn id_of(id: Result<Path<String>, PathRejection>, uri: &Uri) -> Result<String, Problem> {
    match id {
        Ok(Path(id)) if id.chars().count() <= 255 => Ok(id),
        _ => Err(Problem::of_field("id", "is no name", "UTF-8 of 255 characters at most", uri.path())),
    }
}

/// Runs an operation on a blocking thread. Its place among `places` is free again when the client has taken the answer:
/// until then the answer is in memory.
async fn operate(
    shared: &Shared,
    places: &Arc<Semaphore>,
    uri: &Uri,
    operation: impl FnOnce(&Handle) -> Result<String, DeadLetterError> + Send + 'static,
) -> Result<Response, Problem> {
    let path = uri.path().to_owned();
    let problem = |status, detail: String| Problem::new(status, detail, path.as_str());
    let Some(handle) = shared.observer.handle() else {
        let detail = "spans are not exported, so there are no dead letters".to_owned();
        return Err(problem(StatusCode::CONFLICT, detail));
    };
    let Ok(place) = places.clone().try_acquire_owned() else {
        let detail = "other operations on dead letters are running; ask again".to_owned();
        return Err(problem(StatusCode::SERVICE_UNAVAILABLE, detail).retry_soon());
    };
    let done = tokio::task::spawn_blocking(move || {
        // A client that goes ends this request, and not the thread: the place stays taken until the thread is done.
        operation(&handle).map(|body| (body, place))
    });
    match done.await {
        Ok(Ok((body, place))) => Ok(json_answer(StatusCode::OK, body).map(|body| held_until_sent(body, place))),
        Ok(Err(error)) => Err(problem(status_of(&error), error.to_string())),
        // The runtime ends, or the operation panicked.
        Err(error) => Err(problem(StatusCode::SERVICE_UNAVAILABLE, error.to_string())),
    }
}

fn status_of(error: &DeadLetterError) -> StatusCode {
    match error {
        DeadLetterError::Unknown { .. } => StatusCode::NOT_FOUND,
        DeadLetterError::Damaged { .. } => StatusCode::CONFLICT,
        DeadLetterError::NoRoom(_) => StatusCode::INSUFFICIENT_STORAGE,
        DeadLetterError::TimedOut => StatusCode::GATEWAY_TIMEOUT,
        // Storage, Unavailable, Forked, and others of a newer exporter: later it may work.
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}
