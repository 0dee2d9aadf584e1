//! The places of connections: a bounded number, from which the longest idle one makes room for a new one.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::Notify;

use crate::held::held_until_sent;

/// All places. Its lock is held for an instant at a time.
#[derive(Clone)]
pub(super) struct Connections {
    table: Arc<Mutex<Table>>,
}

struct Table {
    max: usize,
    /// Numbers connections, and the moments at which they became idle.
    next: u64,
    open: BTreeMap<u64, Entry>,
}

struct Entry {
    /// Requests that are being answered.
    answering: usize,
    idle_since: u64,
    given_up: Arc<Notify>,
}

/// The place of one connection; free again when dropped.
pub(super) struct Place {
    id: u64,
    given_up: Arc<Notify>,
    table: Arc<Mutex<Table>>,
}

impl Connections {
    pub(super) fn new(max: usize) -> Self {
        Self { table: Arc::new(Mutex::new(Table { max, next: 0, open: BTreeMap::new() })) }
    }

    /// A place, if need be the one of the connection that is idle for the longest, which is told. None if all
    /// connections are being answered.
    pub(super) fn enter(&self) -> Option<Place> {
        let mut table = lock(&self.table);
        if table.open.len() >= table.max {
            let idle = table.open.iter().filter(|(_, entry)| entry.answering == 0);
            let (&id, _) = idle.min_by_key(|(_, entry)| entry.idle_since)?;
            if let Some(entry) = table.open.remove(&id) {
                entry.given_up.notify_one();
            }
        }
        let id = table.moment();
        let given_up = Arc::new(Notify::new());
        table.open.insert(id, Entry { answering: 0, idle_since: id, given_up: Arc::clone(&given_up) });
        Some(Place { id, given_up, table: Arc::clone(&self.table) })
    }
}

impl Table {
    fn moment(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

impl Place {
    /// Completes when another connection has taken the place.
    pub(super) async fn given_up(&self) {
        self.given_up.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.table).open.remove(&self.id);
    }
}

/// A request: from its last byte to the last byte of its answer its connection keeps its place. While its body arrives
/// the connection counts as idle, since a client may send it as slowly as it likes.
pub(super) struct Answering {
    place: Arc<Place>,
    has_begun: AtomicBool,
}

impl Answering {
    pub(super) fn new(place: Arc<Place>) -> Arc<Self> {
        Arc::new(Self { place, has_begun: AtomicBool::new(false) })
    }

    /// The request is complete.
    fn begin(&self) {
        if !self.has_begun.swap(true, Ordering::AcqRel)
            && let Some(entry) = lock(&self.place.table).open.get_mut(&self.place.id)
        {
            entry.answering += 1;
        }
    }

    /// The body of the request, whose end begins the answer.
    pub(super) fn from_the_end_of<B>(self: &Arc<Self>, body: B) -> Body
    where
        B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<axum::BoxError>,
    {
        if body.is_end_stream() {
            self.begin();
        }
        Body::new(Arriving { body, answering: Arc::clone(self) })
    }

    /// The body of the answer, which ends when the socket has taken its last byte.
    pub(super) fn until_the_end_of(self: Arc<Self>, body: Body) -> Body {
        held_until_sent(body, self)
    }
}

/// The body of a request. Dropped before its end it is not read any more: the answer has begun.
struct Arriving<B> {
    body: B,
    answering: Arc<Answering>,
}

impl<B: HttpBody + Unpin> HttpBody for Arriving<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(frame, Poll::Ready(None | Some(Err(_)))) {
            self.answering.begin();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> Drop for Arriving<B> {
    fn drop(&mut self) {
        self.answering.begin();
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        if !*self.has_begun.get_mut() {
            return;
        }
        let mut table = lock(&self.place.table);
        let now = table.moment();
        if let Some(entry) = table.open.get_mut(&self.place.id) {
            entry.answering -= 1;
            entry.idle_since = now;
        }
    }
}

/// No code that holds the lock panics.
fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answering(place: &Arc<Place>) -> Arc<Answering> {
        let answering = Answering::new(Arc::clone(place));
        answering.begin();
        answering
    }

    fn is_open(place: &Place) -> bool {
        lock(&place.table).open.contains_key(&place.id)
    }

    #[test]
    fn the_longest_idle_connection_makes_room_and_one_that_is_answered_does_not() {
        let connections = Connections::new(2);
        let first = Arc::new(connections.enter().expect("room"));
        let second = Arc::new(connections.enter().expect("room"));
        // The first one becomes idle after the second.
        drop(answering(&first));
        let third = connections.enter().expect("the place of the second");
        assert_eq!((is_open(&first), is_open(&second), is_open(&third)), (true, false, true));
        let first_answers = answering(&first);
        let fourth = Arc::new(connections.enter().expect("the place of the third"));
        assert_eq!((is_open(&first), is_open(&third)), (true, false));
        let fourth_answers = answering(&fourth);
        assert!(connections.enter().is_none(), "both are being answered");
        drop(fourth_answers);
        assert!(connections.enter().is_some());
        drop(first_answers);
        assert!(is_open(&first));
    }

    #[test]
    fn a_closed_connection_frees_its_place() {
        let connections = Connections::new(1);
        let place = Arc::new(connections.enter().expect("room"));
        let answers = answering(&place);
        assert!(connections.enter().is_none());
        drop((answers, place));
        assert!(connections.enter().is_some());
    }
}
