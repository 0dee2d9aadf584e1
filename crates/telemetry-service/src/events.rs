//! Server-sent events: each event of the exporter, and a snapshot of the numbers each second.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use axum::Router;
use axum::extract::{Extension, State};
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::sse::{Event as Sent, Sse};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use futures_util::stream;
use serde_json::Value;
use telemetry_manager::resilient_exporter::Event;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::numbers;
use crate::problem::Problem;
use crate::query::Query;
use crate::serve::Stopping;
use crate::shared::{MAX_LISTENERS, Shared};

mod form;

/// The time between two looks for events, which are given by a channel that no task can wait for.
const LOOK: Duration = Duration::from_millis(100);

/// Looks from one snapshot to the next.
const LOOKS: u32 = 10;

/// Events of one look, at most; the others come with the next one.
const BURST: usize = 100;

pub(crate) fn routes() -> Router<Shared> {
    Router::new().route("/telemetry-test/events", get(listen))
}

/// The stream of one listener. It ends with the server; without listeners nothing runs.
struct Listener {
    shared: Shared,
    /// None if spans are not exported: then there are snapshots alone.
    events: Option<Receiver<Event>>,
    looks: Interval,
    /// Looks until the next snapshot.
    left: u32,
    ready: VecDeque<Sent>,
    stopping: Option<Stopping>,
    _place: OwnedSemaphorePermit,
}

async fn listen(State(shared): State<Shared>, stopping: Option<Extension<Stopping>>, uri: Uri) -> Response {
    if let Err(problem) = Query::parse(&uri, &[]) {
        return problem.into_response();
    }
    let Ok(place) = shared.listeners.clone().try_acquire_owned() else {
        let detail = format!("there are {MAX_LISTENERS} listeners, which is the limit");
        return Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail, uri.path()).retry_soon().into_response();
    };
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let listener = Listener {
        events: shared.observer.handle().map(|handle| handle.subscribe()),
        shared,
        looks,
        left: 0,
        ready: VecDeque::new(),
        stopping: stopping.map(|Extension(stopping)| stopping),
        _place: place,
    };
    let mut response = Sse::new(stream::unfold(listener, next)).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn next(mut listener: Listener) -> Option<(Result<Sent, Infallible>, Listener)> {
    loop {
        if let Some(sent) = listener.ready.pop_front() {
            return Some((Ok(sent), listener));
        }
        let stopped = async {
            match &mut listener.stopping {
                Some(stopping) => stopping.stopped().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stopped => return None,
            _ = listener.looks.tick() => {}
        }
        listener.look();
    }
}

impl Listener {
    fn look(&mut self) {
        if let Some(events) = &self.events {
            let read = events.try_iter().take(BURST).map(|event| form::as_json(&event));
            self.ready.extend(read.map(|event| sent("event", &event)));
        }
        if self.left == 0 {
            self.left = LOOKS;
            self.ready.push_back(sent("snapshot", &snapshot(&self.shared)));
        }
        self.left -= 1;
    }
}

fn snapshot(shared: &Shared) -> Value {
    // One look: a second one could see a later state, whose numbers do not agree with the first one's.
    let (report, exporter) = shared.observer.snapshot();
    let mut snapshot = numbers::as_json(&report, exporter.as_ref());
    snapshot["status"] = report.status.to_string().into();
    snapshot["breaker"] = exporter.map(|health| health.breaker.to_string()).into();
    snapshot
}

/// JSON has no line ends of its own, so that an event is one line of data.
fn sent(name: &str, data: &Value) -> Sent {
    Sent::default().event(name).data(data.to_string())
}
