//! The process of an exporter. A child made by `fork` has a copy of its memory and none of its threads: a lock that one
//! of them held is held there for ever, and no queue is emptied. Hence each call of a user's asks this first, before it
//! takes a lock, and nothing here takes one.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::report::forked::Forked;
use crate::report::log;

pub(crate) struct Process {
    id: u32,
    /// Spans that this process has refused as a child.
    refused: AtomicU64,
    has_warned: AtomicBool,
}

impl Process {
    pub(crate) fn current() -> Self {
        Self { id: std::process::id(), refused: AtomicU64::new(0), has_warned: AtomicBool::new(false) }
    }

    /// Some in a child of the process that built the exporter. Costs one call of the system.
    pub(crate) fn forked(&self) -> Option<Forked> {
        (std::process::id() != self.id).then(|| Forked::new(self.id, self.refused.load(Ordering::Relaxed)))
    }

    /// In a child: refuses these spans, and warns of that once.
    pub(crate) fn refuse(&self, spans: usize) -> Option<Forked> {
        self.forked()?;
        self.refused.fetch_add(spans as u64, Ordering::Relaxed);
        let forked = self.forked()?;
        if !self.has_warned.swap(true, Ordering::Relaxed) {
            log::warn_contained!("{forked}");
        }
        Some(forked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_no_child_of_itself_and_counts_refused_spans_as_the_child_of_another() {
        let own = Process::current();
        assert_eq!((own.forked(), own.refuse(3)), (None, None));
        let parent = Process { id: own.id.wrapping_add(1), ..Process::current() };
        parent.refuse(3);
        let forked = parent.refuse(2).expect("another process");
        assert_eq!((forked.parent, forked.refused), (parent.id, 5));
        let ledger = forked.ledger();
        assert_eq!((ledger.offered, ledger.refused.get("forked"), ledger.imbalance()), (5, Some(&5), 0));
    }
}
