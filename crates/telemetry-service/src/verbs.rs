//! Checkpoint and drain over HTTP.

use std::ops::RangeInclusive;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use axum::routing::post;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use telemetry_manager::FlushError;
use telemetry_manager::resilient_exporter::Ledger;
use tokio::sync::OwnedSemaphorePermit;

use crate::body;
use crate::problem::{Problem, json_answer};
use crate::query::Query;
use crate::shared::Shared;
use crate::tests::body::{Fields, Refusal, schema_of};

/// Seconds of a checkpoint. Kubernetes gives `preStop` and the end of the process 30 s together.
const CHECKPOINT_SECONDS: RangeInclusive<u32> = 1..=60;
const CHECKPOINT_DEFAULT: u32 = 5;

/// Seconds of a drain.
const DRAIN_SECONDS: RangeInclusive<u32> = 1..=3_600;
const DRAIN_DEFAULT: u32 = 30;

/// The paths.
pub(crate) const CHECKPOINT: &str = "/telemetry-test/checkpoint";
pub(crate) const DRAIN: &str = "/telemetry-test/drain";

pub(crate) fn routes() -> Router<Shared> {
    Router::new().route(CHECKPOINT, post(checkpoint)).route(DRAIN, post(drain))
}

/// The places of the spans when a checkpoint or a drain has ended well.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Waited {
    /// Spans that the collector has acknowledged during the request.
    delivered: u64,
    /// Spans that wait on the disk now: in fallback files, or in the journal alone.
    stored: u64,
    /// Spans that wait in memory now, or are in a call: those of the journal too, and those that came after the
    /// request.
    in_memory: u64,
}

impl Waited {
    fn new(before: &Ledger, after: &Ledger) -> Self {
        Self {
            delivered: after.delivered.saturating_sub(before.delivered),
            stored: after.in_fallback + after.in_journal,
            in_memory: after.staged + after.buffered + after.in_flight,
        }
    }
}

/// Each span that ended before the request is delivered, or safe on the disk: after one attempt outside of backoff and
/// breaker.
async fn checkpoint(
    State(shared): State<Shared>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let timeout = timeout(&uri, &headers, body, CHECKPOINT_SECONDS, CHECKPOINT_DEFAULT).await?;
    let (permit, before) = begin(&shared, &uri)?;
    let observer = shared.observer.clone();
    let flushed = wait(permit, async move { observer.checkpoint_async(timeout).await }).await;
    answer(&shared, &uri, &before, flushed)
}

/// Sends what is stored: the next call goes out at once, and the answer comes when no span waits.
async fn drain(State(shared): State<Shared>, uri: Uri, headers: HeaderMap, body: Body) -> Result<Response, Problem> {
    let timeout = timeout(&uri, &headers, body, DRAIN_SECONDS, DRAIN_DEFAULT).await?;
    let (permit, before) = begin(&shared, &uri)?;
    shared.observer.handle().iter().for_each(|handle| handle.retry_now());
    let observer = shared.observer.clone();
    let settled = wait(permit, async move { observer.settled_async(timeout).await }).await;
    answer(&shared, &uri, &before, settled)
}

async fn timeout(
    uri: &Uri,
    headers: &HeaderMap,
    body: Body,
    accepted: RangeInclusive<u32>,
    default: u32,
) -> Result<Duration, Problem> {
    Query::parse(uri, &[])?;
    let body = body::read(headers, body, uri.path()).await?;
    let seconds = Fields::read(headers, &body, |fields| of_seconds(fields, accepted, default));
    Ok(Duration::from_secs(seconds.map_err(|refusal| refusal.into_problem(uri.path()))?.into()))
}

/// The only field of both bodies.
fn of_seconds(fields: &mut Fields<'_>, accepted: RangeInclusive<u32>, default: u32) -> Result<u32, Refusal> {
    fields.integer("timeout_seconds", accepted, Some(default))
}

/// The schemas of the bodies of a checkpoint and of a drain.
pub(crate) fn schemas() -> [Value; 2] {
    [(CHECKPOINT_SECONDS, CHECKPOINT_DEFAULT), (DRAIN_SECONDS, DRAIN_DEFAULT)]
        .map(|(accepted, default)| schema_of(|fields| of_seconds(fields, accepted, default)))
}

/// A place among the waits, and the ledger at the beginning.
fn begin(shared: &Shared, uri: &Uri) -> Result<(OwnedSemaphorePermit, Ledger), Problem> {
    let problem = |status, detail: &str| Problem::new(status, detail, uri.path());
    let Some(handle) = shared.observer.handle() else {
        return Err(problem(StatusCode::CONFLICT, "spans are not exported, so none waits"));
    };
    let Ok(permit) = shared.waits.clone().try_acquire_owned() else {
        let detail = "other checkpoints and drains are running; ask again";
        return Err(problem(StatusCode::SERVICE_UNAVAILABLE, detail).retry_soon());
    };
    Ok((permit, handle.ledger()))
}

/// Waits in a task of its own, which keeps the place: a client that goes away ends its request, and not the thread that
/// waits for it.
async fn wait(
    permit: OwnedSemaphorePermit,
    result: impl Future<Output = Result<(), FlushError>> + Send + 'static,
) -> Result<(), FlushError> {
    let task = tokio::spawn(async move {
        let result = result.await;
        drop(permit);
        result
    });
    // The task ends early with its runtime alone.
    task.await.unwrap_or(Err(FlushError::NoThread))
}

fn answer(shared: &Shared, uri: &Uri, before: &Ledger, result: Result<(), FlushError>) -> Result<Response, Problem> {
    match result {
        Ok(()) => {
            let after = shared.observer.handle().map(|handle| handle.ledger()).unwrap_or_default();
            Ok(json_answer(StatusCode::OK, serde_json::json!(Waited::new(before, &after)).to_string()))
        }
        Err(error) => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string(), uri.path())),
    }
}
