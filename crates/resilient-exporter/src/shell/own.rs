//! The threads of an exporter know that they are its own: a wait for them on one of them would not end.

use std::cell::Cell;
use std::ptr;

use super::shared::Shared;

thread_local! {
    /// The state of the exporter whose thread this is; it lives as long as the thread.
    static OWNER: Cell<*const Shared> = const { Cell::new(ptr::null()) };
}

/// This thread is one of the exporter's from now on.
pub(crate) fn enter(shared: &Shared) {
    OWNER.set(shared);
}

/// This thread is one of the exporter's.
pub(crate) fn is_own(shared: &Shared) -> bool {
    // A thread that ends has no thread-local values: its own loop has ended before.
    OWNER.try_with(|owner| ptr::eq(owner.get(), shared)).unwrap_or(false)
}
