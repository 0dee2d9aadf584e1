//! Who wants to hear of transitions.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError, RwLock};

use crate::history::Transition;

/// Names a listener, to forget it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerId(u64);

type Listener = Arc<dyn Fn(&Transition) + Send + Sync>;

pub(crate) struct Listeners {
    list: RwLock<List>,
}

struct List {
    next: u64,
    /// Replaced, never changed, so that telling needs only a clone of the pointer.
    all: Arc<[(ListenerId, Listener)]>,
}

impl Listeners {
    pub(crate) fn new() -> Listeners {
        Listeners { list: RwLock::new(List { next: 0, all: Arc::from([]) }) }
    }

    pub(crate) fn add(&self, listener: impl Fn(&Transition) + Send + Sync + 'static) -> ListenerId {
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        let id = ListenerId(list.next);
        list.next += 1;
        let added: (ListenerId, Listener) = (id, Arc::new(listener));
        let all = list.all.iter().cloned().chain([added]).collect();
        let old = std::mem::replace(&mut list.all, all);
        drop(list);
        drop(old);
        id
    }

    pub(crate) fn remove(&self, id: ListenerId) -> bool {
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        let all: Arc<[_]> = list.all.iter().filter(|(known, _)| *known != id).cloned().collect();
        let was_there = all.len() < list.all.len();
        let old = std::mem::replace(&mut list.all, all);
        drop(list);
        // The listener's own destructor runs here, outside the lock.
        drop(old);
        was_there
    }

    pub(crate) fn tell(&self, transition: &Transition) {
        let all = Arc::clone(&self.list.read().unwrap_or_else(PoisonError::into_inner).all);
        for (_, listener) in all.iter() {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| listener(transition))) {
                // The payload of a panic may itself panic when it is dropped; then it is leaked.
                if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
                    std::mem::forget(again);
                }
            }
        }
    }
}
