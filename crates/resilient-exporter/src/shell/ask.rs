//! An operation that a user's thread hands to the disk thread.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::seams::dead_letters::DeadLetterError;
use crate::seams::fallback::Fallback;
use crate::shell::shared::Shared;

/// By the disk thread.
pub(crate) fn redrive(id: &str, fallback: &mut dyn Fallback, shared: &Shared) -> Result<u64, DeadLetterError> {
    let redriven = fallback.redrive(id, shared.clock.wall())?;
    shared.decide(|core, effects| core.redriven(redriven, effects));
    Ok(redriven.spans)
}

type Question = dyn FnOnce(&mut dyn Fallback, &Shared) + Send;

/// Something to be done with the fallback by its own thread, for somebody who waits. Dropped undone, it is an answer too.
pub(crate) struct Ask(pub(crate) Box<Question>);

impl Ask {
    pub(crate) fn answer(self, fallback: &mut dyn Fallback, shared: &Shared) {
        if catch_unwind(AssertUnwindSafe(|| (self.0)(fallback, shared))).is_err() {
            tracing::error!("the fallback panicked over a dead letter");
        }
    }
}

impl fmt::Debug for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ask")
    }
}
