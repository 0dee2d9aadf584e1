//! The primitives that the loom tests replace.

#[cfg(not(loom))]
pub(crate) use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicU64, Ordering},
};

#[cfg(loom)]
pub(crate) use self::explored::AtomicU64;
#[cfg(loom)]
pub(crate) use loom::sync::{Arc, Mutex, MutexGuard, atomic::Ordering};

#[cfg(loom)]
mod explored {
    use loom::sync::atomic::{self, Ordering};

    /// An atomic of which loom tries every order of accesses.
    ///
    /// loom 0.7 remembers only the last access of an atomic: where a thread loads and then stores, it does not try to
    /// place the load of another thread in between. A relaxed addition to a second atomic makes every access depend on
    /// every other one, and orders nothing.
    pub(crate) struct AtomicU64 {
        value: atomic::AtomicU64,
        accesses: atomic::AtomicU64,
    }

    impl AtomicU64 {
        pub(crate) fn new(value: u64) -> AtomicU64 {
            AtomicU64 { value: atomic::AtomicU64::new(value), accesses: atomic::AtomicU64::new(0) }
        }

        pub(crate) fn load(&self, order: Ordering) -> u64 {
            self.accesses.fetch_add(1, Ordering::Relaxed);
            self.value.load(order)
        }

        pub(crate) fn swap(&self, value: u64, order: Ordering) -> u64 {
            self.accesses.fetch_add(1, Ordering::Relaxed);
            self.value.swap(value, order)
        }

        pub(crate) fn compare_exchange(
            &self,
            current: u64,
            new: u64,
            success: Ordering,
            failure: Ordering,
        ) -> Result<u64, u64> {
            self.accesses.fetch_add(1, Ordering::Relaxed);
            self.value.compare_exchange(current, new, success, failure)
        }

        pub(crate) fn store(&self, value: u64, order: Ordering) {
            self.accesses.fetch_add(1, Ordering::Relaxed);
            self.value.store(value, order);
        }
    }
}
