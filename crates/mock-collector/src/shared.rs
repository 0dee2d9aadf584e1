//! The state that all connections of a collector share: script, receipts, limits.

use std::io;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use tokio::sync::{Notify, broadcast};

use crate::behavior::{End, Script};
use crate::receipts::{Book, Request, SpanIds};
use crate::socket::Gate;

/// The state that connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) limits: Limits,
    pub(crate) script: Mutex<Script>,
    pub(crate) ends: broadcast::Sender<End>,
    pub(crate) book: Mutex<Book>,
    pub(crate) arrived: Condvar,
    pub(crate) arrived_async: Notify,
    pub(crate) gate: Arc<Gate>,
}

impl Shared {
    /// Counts a request that was read to its end, and takes these of its spans.
    pub(crate) fn take(&self, request: Request, ids: &[SpanIds], refused: bool) -> io::Result<()> {
        self.change(|book| {
            book.received.requests += 1;
            book.received.refused += u64::from(refused);
            book.keep(request);
            book.take(ids)
        })
    }

    /// Changes the receipts and wakes the threads and tasks that wait for them.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Book) -> T) -> T {
        let result = change(&mut self.book.lock());
        self.arrived.notify_all();
        self.arrived_async.notify_waiters();
        result
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) grpc_bytes: usize,
    pub(crate) http_bytes: usize,
}
