//! The tests over HTTP.

use std::ops::RangeInclusive;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use telemetry_manager::otlp_transport::{Fault, FaultMode};

use super::body::{Fields, Refusal, schema_of};
use super::loads::Loads;
use super::pipeline::StartError;
use super::plan::{PLAN_RATE, PLAN_SECONDS, SETTLE, Severity, TestPlan, TestType};
use super::registry::Tests;
use super::run::TestReport;
use crate::body;
use crate::letters::id_of;
use crate::problem::{Problem, problem};
use crate::query::Query;

pub(crate) const START: &str = "/telemetry-test/test/start";
pub(crate) const TEST: &str = "/telemetry-test/test/{test_id}";
pub(crate) const TESTS: &str = "/telemetry-test/tests";
pub(crate) const LOADS: &str = "/telemetry-test/generate-loads";
pub(crate) const FAILURE: &str = "/telemetry-test/simulate/collector-failure";

/// Seconds of a test, and of a fault.
const SECONDS: RangeInclusive<u32> = 1..=3_600;
/// Spans a second of a test, before its severity.
const RATE: RangeInclusive<u32> = 1..=1_000;
/// Spans of a test, its severity included: they may all wait in its scratch directory.
const MAX_SPANS: u64 = 1_000_000;
/// Spans of a load.
const COUNT: RangeInclusive<u32> = 1..=10_000;
/// Spans of a load where the client names no number.
const LOAD_COUNT: u32 = 100;
/// Milliseconds between two spans of a load.
const DELAY: RangeInclusive<u32> = 0..=10_000;
/// The time of a whole load, which is that of its request.
const LOAD_TIME: Duration = Duration::from_secs(60);
/// The HTTP status of a fault.
const STATUS: RangeInclusive<u32> = 300..=599;
/// The delay of a fault of mode `slow`.
const SLOW: Duration = Duration::from_secs(2);

/// The routes of the tests.
pub(crate) fn routes<S: Clone + Send + Sync + 'static>(tests: Tests) -> Router<S> {
    Router::new()
        .route(START, post(start))
        .route(TEST, get(report).delete(cancel))
        .route(TESTS, get(list))
        .route(LOADS, post(generate))
        .route(FAILURE, post(fail).delete(repair))
        .with_state(tests)
}

/// A test was started.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Started<'a> {
    /// The id, which each span of the test has as `holdfast.test_id`.
    test_id: &'a str,
}

/// The tests that run and the last ones that have ended, newest first.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Listed {
    tests: Vec<TestReport>,
}

/// The calls of the process to its collector fail from now on.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Failing {
    /// The way in which they fail.
    mode: &'static str,
    /// The time after which the failure ends by itself.
    duration_seconds: u64,
}

/// There is no failure any more.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Repaired {
    /// Whether there was one.
    ended: bool,
}

/// The schema of a body that starts a test.
pub(crate) fn plan_schema() -> Value {
    schema_of(plan_fields)
}

/// The schema of a body that asks for a load.
pub(crate) fn loads_schema() -> Value {
    schema_of(loads_fields)
}

/// The schema of a body that has the collector fail.
pub(crate) fn failure_schema() -> Value {
    schema_of(fault_fields)
}

/// A body within its limits; the target must have no parameters.
async fn read(uri: &Uri, headers: &HeaderMap, body: Body) -> Result<Vec<u8>, Problem> {
    Query::parse(uri, &[])?;
    body::read(headers, body, uri.path()).await
}

async fn start(State(tests): State<Tests>, uri: Uri, headers: HeaderMap, body: Body) -> Result<Response, Problem> {
    let body = read(&uri, &headers, body).await?;
    let plan = plan(&headers, &body).map_err(|refusal| refusal.into_problem(uri.path()))?;
    // Opens files.
    Ok(match tokio::task::spawn_blocking(move || tests.start(plan)).await {
        Ok(Ok(id)) => {
            let location = HeaderValue::from_str(&TEST.replace("{test_id}", &id));
            let mut response = answer(StatusCode::ACCEPTED, &Started { test_id: &id });
            response.headers_mut().extend(location.map(|location| (header::LOCATION, location)));
            response
        }
        Ok(Err(error)) => not_started(&error, &uri),
        Err(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, "the start of the test panicked", uri.path()),
    })
}

fn plan(headers: &HeaderMap, body: &[u8]) -> Result<TestPlan, Refusal> {
    let plan = Fields::read(headers, body, plan_fields)?;
    if plan.spans() > MAX_SPANS {
        let (why, accepted) =
            (format!("makes {} spans with duration_seconds", plan.spans()), "in all, severity included");
        return Err(Refusal::of_product("span_rate", &why, &format!("{MAX_SPANS} spans {accepted}")));
    }
    Ok(plan)
}

fn plan_fields(fields: &mut Fields<'_>) -> Result<TestPlan, Refusal> {
    let test_type = fields.word("test_type", &TestType::ALL.map(|kind| (kind.as_str(), kind)), None)?;
    let duration = Duration::from_secs(fields.integer("duration_seconds", SECONDS, Some(PLAN_SECONDS))?.into());
    let span_rate = fields.integer("span_rate", RATE, Some(PLAN_RATE))?;
    let severities = Severity::ALL.map(|severity| (severity.as_str(), severity));
    let severity = fields.word("severity", &severities, Some(Severity::default().as_str()))?;
    Ok(TestPlan { test_type, duration, span_rate, severity, settle: SETTLE })
}

/// The id in a path.
type Id = Result<Path<String>, PathRejection>;

async fn report(State(tests): State<Tests>, id: Id, uri: Uri) -> Result<Response, Problem> {
    Query::parse(&uri, &[])?;
    Ok(found(tests.get(&id_of(id, &uri)?), StatusCode::OK, &uri))
}

async fn cancel(State(tests): State<Tests>, id: Id, uri: Uri) -> Result<Response, Problem> {
    Query::parse(&uri, &[])?;
    let report = tests.cancel(&id_of(id, &uri)?);
    let has_ended = report.as_ref().is_some_and(|report| report.state.has_ended());
    Ok(found(report, if has_ended { StatusCode::OK } else { StatusCode::ACCEPTED }, &uri))
}

fn found(report: Option<TestReport>, status: StatusCode, uri: &Uri) -> Response {
    match report {
        Some(report) => answer(status, &report),
        None => problem(
            StatusCode::NOT_FOUND,
            "there is no test with this id; GET /telemetry-test/tests lists those that run and the last 20",
            uri.path(),
        ),
    }
}

async fn list(State(tests): State<Tests>, uri: Uri) -> Result<Response, Problem> {
    Query::parse(&uri, &[])?;
    Ok(answer(StatusCode::OK, &Listed { tests: tests.list() }))
}

async fn generate(State(tests): State<Tests>, uri: Uri, headers: HeaderMap, body: Body) -> Result<Response, Problem> {
    let body = read(&uri, &headers, body).await?;
    let loads = loads(&headers, &body).map_err(|refusal| refusal.into_problem(uri.path()))?;
    Ok(match tests.generate(loads).await {
        Ok(generated) => answer(StatusCode::OK, &generated),
        Err(error) => not_started(&error, &uri),
    })
}

fn loads(headers: &HeaderMap, body: &[u8]) -> Result<Loads, Refusal> {
    let loads = Fields::read(headers, body, loads_fields)?;
    let pauses = loads.delay * loads.span_count;
    if pauses > LOAD_TIME {
        let why = format!("times span_count is {} ms", pauses.as_millis());
        return Err(Refusal::of_product("delay_ms", &why, &format!("{} ms a request", LOAD_TIME.as_millis())));
    }
    Ok(loads)
}

fn loads_fields(fields: &mut Fields<'_>) -> Result<Loads, Refusal> {
    let span_count = fields.integer("span_count", COUNT, Some(LOAD_COUNT))?;
    let delay = Duration::from_millis(fields.integer("delay_ms", DELAY, Some(0))?.into());
    let include_errors = fields.boolean("include_errors", false)?;
    Ok(Loads { span_count, delay, include_errors })
}

/// The ways in which the collector fails; the status comes beside the word.
#[derive(Clone, Copy)]
enum Mode {
    Refuse,
    Hang,
    Status,
    Slow,
}

async fn fail(State(tests): State<Tests>, uri: Uri, headers: HeaderMap, body: Body) -> Result<Response, Problem> {
    let body = read(&uri, &headers, body).await?;
    let (word, fault, duration) =
        Fields::read(&headers, &body, fault_fields).map_err(|refusal| refusal.into_problem(uri.path()))?;
    let Some(faults) = tests.observer().faults() else { return Ok(not_started(&StartError::NotExported, &uri)) };
    faults.begin(fault, Some(duration));
    Ok(answer(StatusCode::OK, &Failing { mode: word, duration_seconds: duration.as_secs() }))
}

fn fault_fields(fields: &mut Fields<'_>) -> Result<(&'static str, Fault, Duration), Refusal> {
    let modes = [
        ("refuse", ("refuse", Mode::Refuse)),
        ("hang", ("hang", Mode::Hang)),
        ("status", ("status", Mode::Status)),
        ("slow", ("slow", Mode::Slow)),
    ];
    let (word, mode) = fields.word("mode", &modes, Some("refuse"))?;
    let duration = Duration::from_secs(fields.integer("duration_seconds", SECONDS, Some(30))?.into());
    let status = fields.integer("status", STATUS, Some(503))?;
    let mode = match mode {
        Mode::Refuse => FaultMode::Refuse,
        Mode::Hang => FaultMode::Hang,
        Mode::Status => FaultMode::Status(u16::try_from(status).unwrap_or(503)),
        Mode::Slow => FaultMode::Slow(SLOW),
    };
    Ok((word, Fault::new(mode), duration))
}

async fn repair(State(tests): State<Tests>, uri: Uri) -> Result<Response, Problem> {
    Query::parse(&uri, &[])?;
    Ok(match tests.observer().faults() {
        Some(faults) => answer(StatusCode::OK, &Repaired { ended: faults.end() }),
        None => not_started(&StartError::NotExported, &uri),
    })
}

fn answer(status: StatusCode, body: &impl Serialize) -> Response {
    let headers: [(HeaderName, HeaderValue); 2] = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    match serde_json::to_string(body) {
        Ok(body) => (status, headers, body).into_response(),
        Err(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be written as JSON", ""),
    }
}

fn not_started(error: &StartError, uri: &Uri) -> Response {
    let status = match error {
        StartError::NotExported | StartError::OwnTransport => StatusCode::CONFLICT,
        StartError::TooMany { .. } => StatusCode::TOO_MANY_REQUESTS,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    problem(status, &error.to_string(), uri.path())
}
