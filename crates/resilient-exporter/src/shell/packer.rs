//! The thread that compresses waiting batches. Neither the application's threads nor the net thread pay for it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use opentelemetry::Context;
use otlp_payload::Payload;

use super::shared::Shared;
use crate::core::{Effect, Packed, Packer};
use crate::locks::{Condvar, Mutex};
use crate::report::warnings::Kind;

/// The job of the thread. Its lock is taken after the core's, never before it, and held for an instant at a time.
#[derive(Default)]
pub(crate) struct PackQueue {
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    /// The core has one job at a time.
    job: Option<Vec<Payload>>,
    has_ended: bool,
}

impl PackQueue {
    /// Adds a job.
    ///
    /// # Errors
    /// The effect, if the thread has ended.
    pub(super) fn push(&self, job: Vec<Payload>) -> Result<(), Box<Effect>> {
        let mut state = self.state.lock();
        if state.has_ended {
            return Err(Box::new(Effect::Pack(job)));
        }
        state.job = Some(job);
        self.work.notify_one();
        Ok(())
    }

    /// The thread ends after the job that it has, and takes no other.
    pub(crate) fn end(&self) {
        self.state.lock().has_ended = true;
        self.work.notify_one();
    }

    /// Waits for a job. None at the end.
    fn next(&self) -> Option<Vec<Payload>> {
        let mut state = self.state.lock();
        loop {
            if state.has_ended {
                return None;
            }
            if let Some(job) = state.job.take() {
                return Some(job);
            }
            self.work.wait(&mut state);
        }
    }
}

/// Compresses until `Effect::Stop`. The dictionaries take no more than `room` bytes.
pub(crate) fn run(shared: &Shared, queue: &PackQueue, room: usize) {
    let _suppressed = Context::enter_telemetry_suppressed_scope();
    let mut packer = Packer::new(room);
    while let Some(requests) = queue.next() {
        run_job(shared, requests, |requests| packer.pack(requests));
    }
}

/// Compresses the requests of one job and reports the result. After a panic the requests stay plain.
fn run_job(shared: &Shared, requests: Vec<Payload>, pack: impl FnOnce(&[Payload]) -> Vec<Option<Packed>>) {
    let packed = catch_unwind(AssertUnwindSafe(|| pack(&requests))).unwrap_or_else(|_| {
        shared.note(Kind::PackerPanicked, "");
        Vec::new()
    });
    let packed = packed.into_iter().chain(std::iter::repeat(None));
    let results = requests.iter().map(Payload::id).zip(packed).collect();
    // The plain bytes are free once the core has their compressed forms.
    drop(requests);
    let now = shared.clock.now();
    let waits = shared.decide(|core| {
        core.on_packed(results, now);
        core.is_packing_due()
    });
    if waits {
        // The net thread sleeps until the next batches are due.
        shared.net.notify_one();
    }
}
