//! The paths, in parts that are merged: health, metrics, dead letters, events.
//!
//! A part is a `Router<Shared>` of paths with the same [`Need`]; [`part`] puts the guard in front of all methods of its
//! paths. Another part joins by one line in [`build`].

use axum::Router;
use axum::http::{Method, StatusCode, Uri};
use axum::middleware;
use axum::response::Response;

use crate::access::{self, Need};
use crate::openapi::{self, Described};
use crate::problem::problem;
use crate::shared::Shared;
use crate::tests::Tests;
use crate::{events, health, letters, numbers, verbs};

/// The paths that lie outside of [`BELOW`].
const ROOT_PATHS: [&str; 4] = ["/health", "/health/live", "/health/ready", "/metrics"];

/// All other paths begin so.
const BELOW: &str = "/telemetry-test/";

/// All routes and the answer to unknown paths; or the routes below [`BELOW`] alone, for an application that has its own
/// answer to those: axum merges no two of them.
pub(crate) fn build(shared: Shared, has_root_routes: bool) -> Router {
    let described = Described { is_loopback: shared.is_loopback, has_root_routes };
    let mut router = Router::new()
        .merge(part(openapi::routes(described), &shared, Need::TokenElsewhere))
        .merge(part(health::telemetry_routes(), &shared, Need::TokenElsewhere))
        .merge(part(numbers::telemetry_routes(), &shared, Need::TokenElsewhere))
        .merge(part(events::routes(), &shared, Need::TokenElsewhere))
        .merge(part(crate::tests::routes(Tests::new(shared.observer.clone())), &shared, Need::Tests))
        .merge(part(letters::list_routes(), &shared, Need::TokenElsewhere))
        .merge(part(letters::content_routes(), &shared, Need::Token))
        .merge(part(verbs::routes(), &shared, Need::Token));
    if has_root_routes {
        router = router
            .merge(part(health::root_routes(), &shared, Need::Nothing))
            .merge(part(numbers::root_routes(), &shared, Need::Nothing))
            .fallback(not_found);
    }
    router.with_state(shared)
}

/// Has each request to the paths of `routes` pass the guard, with any method. Other paths do not: a layer lies around
/// the answer to unknown paths too, which an application that merges the router would inherit.
pub(crate) fn part(routes: Router<Shared>, shared: &Shared, need: Need) -> Router<Shared> {
    let guard = middleware::from_fn_with_state((shared.clone(), need), access::guard);
    routes.method_not_allowed_fallback(method_not_allowed).layer(guard).reset_fallback()
}

/// Whether the path is one of the service's: these are polled, and spans of them would hide those of the application.
pub(crate) fn is_own(path: &str) -> bool {
    ROOT_PATHS.contains(&path) || path.starts_with(BELOW)
}

async fn not_found(uri: Uri) -> Response {
    let detail = "there is nothing here; there are GET /health, /health/live, /health/ready, /metrics, \
                  /telemetry-test/health, /telemetry-test/metrics, /telemetry-test/outages, /telemetry-test/events, \
                  /telemetry-test/dead-letters and /telemetry-test/tests; /telemetry-test/openapi.json has all";
    problem(StatusCode::NOT_FOUND, detail, uri.path())
}

async fn method_not_allowed(method: Method, uri: Uri) -> Response {
    let detail = format!("{method:.40} is not supported here; the header allow names what is");
    problem(StatusCode::METHOD_NOT_ALLOWED, &detail, uri.path())
}
