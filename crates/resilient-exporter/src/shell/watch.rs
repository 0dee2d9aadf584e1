//! Counts of wake-ups, and the observers of calls.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use crate::locks::Mutex;
use crate::report::calls::CallEnded;
use crate::report::details::Wakeups;

/// The number of the next exporter of this process.
static INSTANCES: AtomicU64 = AtomicU64::new(0);

/// The number of one more exporter.
pub(crate) fn next_instance() -> u64 {
    INSTANCES.fetch_add(1, Ordering::Relaxed)
}

/// The wake-ups of each thread.
#[derive(Default)]
pub(crate) struct WakeupCounts {
    net: AtomicU64,
    disk: AtomicU64,
    journal: AtomicU64,
}

impl WakeupCounts {
    pub(crate) fn count_net(&self) {
        self.net.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_disk(&self) {
        self.disk.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_journal(&self) {
        self.journal.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn counts(&self) -> Wakeups {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Wakeups { net: of(&self.net), disk: of(&self.disk), journal: of(&self.journal) }
    }
}

/// Code of a user's that is told of each call.
pub(crate) type CallObserver = dyn Fn(CallEnded) + Send + Sync;

/// The observers of calls. Each lives as long as its owner keeps it.
#[derive(Default)]
pub(crate) struct CallObservers(Mutex<Vec<Weak<CallObserver>>>);

impl CallObservers {
    pub(crate) fn add(&self, observer: &Arc<CallObserver>) {
        self.0.lock().push(Arc::downgrade(observer));
    }

    /// Tells the observers of a call, outside all locks. A panic of one ends there, and the others are told.
    pub(crate) fn tell(&self, call: CallEnded) {
        let observers: Vec<_> = {
            let mut observers = self.0.lock();
            observers.retain(|observer| observer.strong_count() > 0);
            observers.iter().filter_map(Weak::upgrade).collect()
        };
        for observer in observers {
            // The last owner may have let go meanwhile: its destructor is contained as well.
            let _ = catch_unwind(AssertUnwindSafe(move || observer(call)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::report::calls::CallResult;

    #[test]
    fn an_observer_is_told_until_its_owner_lets_go_and_whatever_another_one_does() {
        let (observers, told) = (CallObservers::default(), Arc::new(AtomicU64::new(0)));
        let call = CallEnded { result: CallResult::Accepted, duration: Duration::ZERO, lateness: None };
        let panics: Arc<CallObserver> = Arc::new(|_| panic!("an observer of a user's"));
        let count = Arc::clone(&told);
        let counts: Arc<CallObserver> = Arc::new(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        observers.add(&panics);
        observers.add(&counts);
        observers.tell(call);
        assert_eq!(told.load(Ordering::Relaxed), 1);
        drop((panics, counts));
        observers.tell(call);
        assert_eq!(told.load(Ordering::Relaxed), 1);
        assert!(observers.0.lock().is_empty(), "no observer is kept for ever");
    }

    #[test]
    fn two_exporters_have_two_numbers() {
        assert_ne!(next_instance(), next_instance());
    }
}
