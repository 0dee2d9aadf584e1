//! The mutex and the condition variable of the standard library, without poisoning: a panic under a lock is contained
//! elsewhere, and the lock's content is whole.
//!
//! `parking_lot` would be shorter. It keeps the waiting threads of the whole process in one table, and a child made by
//! `fork` has a copy of that table with threads that it does not have: locks that are made and used in the child alone
//! lose wake-ups then. The standard library's locks know nothing of each other.

use std::ops::{Deref, DerefMut};
use std::sync::{self, PoisonError, TryLockError};
use std::time::Duration;

#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(sync::Mutex<T>);

/// The lock is held until the drop.
pub(crate) struct MutexGuard<'a, T>(
    /// None while a condition variable has it, which is as long as this is borrowed.
    Option<sync::MutexGuard<'a, T>>,
);

#[derive(Debug, Default)]
pub(crate) struct Condvar(sync::Condvar);

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard(Some(self.0.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// None while another thread, or this one, holds the lock.
    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(guard) => Some(MutexGuard(Some(guard))),
            Err(TryLockError::Poisoned(poisoned)) => Some(MutexGuard(Some(poisoned.into_inner()))),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

impl Condvar {
    pub(crate) const fn new() -> Self {
        Self(sync::Condvar::new())
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }

    /// Waits for a notice. It may return without one.
    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        if let Some(inner) = guard.0.take() {
            guard.0 = Some(self.0.wait(inner).unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// The same, for `timeout` at most; returns whether that has passed.
    pub(crate) fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, timeout: Duration) -> bool {
        let Some(inner) = guard.0.take() else { return false };
        let (inner, result) = self.0.wait_timeout(inner, timeout).unwrap_or_else(PoisonError::into_inner);
        guard.0 = Some(inner);
        result.timed_out()
    }

    /// Waits as long as `condition` holds, for `timeout` at most; returns whether it holds still.
    pub(crate) fn wait_while_for<T>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        condition: impl FnMut(&mut T) -> bool,
        timeout: Duration,
    ) -> bool {
        let Some(inner) = guard.0.take() else { return false };
        let waited = self.0.wait_timeout_while(inner, timeout, condition);
        let (inner, result) = waited.unwrap_or_else(PoisonError::into_inner);
        guard.0 = Some(inner);
        result.timed_out()
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("a condition variable returns the lock before its borrow ends")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect("a condition variable returns the lock before its borrow ends")
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn a_panic_under_the_lock_leaves_it_usable() {
        let mutex = Mutex::new(1);
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            *mutex.lock() += 1;
            let _guard = mutex.lock();
            std::panic::resume_unwind(Box::new(()));
        }));
        assert!(panicked.is_err());
        assert_eq!(mutex.try_lock().as_deref(), Some(&2));
        let _guard = mutex.lock();
        assert!(mutex.try_lock().is_none());
    }

    #[test]
    fn a_wait_gives_the_lock_to_the_thread_that_ends_it() {
        let (mutex, changed) = (Mutex::new(0), Condvar::new());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut value = mutex.lock();
                while *value == 0 {
                    changed.wait(&mut value);
                }
                *value = 2;
                changed.notify_all();
            });
            *mutex.lock() = 1;
            changed.notify_one();
            let mut value = mutex.lock();
            assert!(!changed.wait_while_for(&mut value, |value| *value < 2, Duration::from_secs(60)));
            assert_eq!(*value, 2);
        });
    }

    #[test]
    fn a_wait_ends_with_its_time() {
        let (mutex, never) = (Mutex::new(()), Condvar::new());
        assert!(never.wait_for(&mut mutex.lock(), Duration::from_millis(1)));
        assert!(never.wait_while_for(&mut mutex.lock(), |()| true, Duration::from_millis(1)));
        assert!(!never.wait_while_for(&mut mutex.lock(), |()| false, Duration::from_secs(60)));
    }
}
