//! The thread that compresses: its results come at any time after their job, and batches may have left meanwhile.

use otlp_payload::Payload;
use proptest::prelude::*;

use super::Simulation;
use crate::core::{Effect, Packer};

/// The end of a job.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Packed {
    Whole,
    /// The compressed forms do not give their requests back.
    Damaged,
    /// The thread panicked over the job.
    Nothing,
    /// The thread has ended.
    Never,
}

pub(super) fn packed() -> impl Strategy<Value = Packed> {
    prop_oneof![
        60 => Just(Packed::Whole),
        4 => Just(Packed::Damaged),
        2 => Just(Packed::Nothing),
        1 => Just(Packed::Never),
    ]
}

/// The thread and its job.
pub(super) struct Thread {
    packer: Packer,
    job: Option<Vec<Payload>>,
}

impl Thread {
    pub(super) fn new() -> Self {
        Self { packer: Packer::new(0), job: None }
    }

    /// The thread of another process, which has no job.
    pub(super) fn restart(&mut self) {
        *self = Self::new();
    }

    pub(super) fn set_job(&mut self, job: Vec<Payload>) {
        assert!(self.job.is_none(), "the core has one job at a time");
        assert!(!job.is_empty());
        self.job = Some(job);
    }
}

impl Simulation {
    /// Batches that wait are compressed from now on.
    pub(super) fn compress(&mut self) {
        self.setup.compression = true;
        self.core = self.setup.core(0, self.now);
        let room = self.core.memory.dictionary_room().expect("batches are compressed");
        self.thread.packer = Packer::new(room);
    }

    /// The thread ends its job, if it has one.
    pub(super) fn pack(&mut self, packed: Packed) {
        let Some(job) = self.thread.job.take() else { return };
        let room = self.core.memory.dictionary_room().expect("batches are compressed");
        let now = self.now;
        let thread = &mut self.thread;
        if packed == Packed::Never {
            return self.report(|core| core.on_undone(Effect::Pack(job), now));
        }
        if packed == Packed::Nothing {
            thread.packer = Packer::new(room);
        }
        let results = thread.packer.pack(&job).into_iter().map(|result| match packed {
            Packed::Whole => result,
            Packed::Damaged => result.map(|result| result.damaged()),
            Packed::Nothing | Packed::Never => None,
        });
        let results = job.iter().map(Payload::id).zip(results).collect();
        self.report(|core| core.on_packed(results, now));
    }

    /// The net thread ends calls whose batches are damaged before they go out.
    pub(super) fn end_damaged_calls(&mut self) {
        let now = self.now;
        let damaged = |call: &mut super::Call| call.payload.plain().is_err();
        for call in self.calls.extract_if(.., damaged).collect::<Vec<_>>() {
            let error = call.payload.plain().expect_err("damaged");
            self.report(|core| core.on_call_damaged(call.id, &error, now));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// As without compression, with small limits on bytes: they hold for compressed forms and for the requests beside
    /// them, after every step.
    #[test]
    fn every_span_is_accounted_for_while_batches_are_compressed(
        fallback: bool,
        seed: u64,
        max_bytes in 2_000..60_000_usize,
        history in super::history::history_with_packing(),
    ) {
        let mut simulation = super::in_memory(fallback, seed);
        simulation.setup.age_limit = (seed % 4 == 1).then(super::ages::limit);
        simulation.setup.limits.max_bytes = max_bytes;
        simulation.setup.limits.max_count = 2_000;
        simulation.compress();
        let mut simulation = super::run(simulation, history)?;
        simulation.deliver_everything();
        simulation.check_ledger().map_err(TestCaseError::fail)?;
        let ledger = simulation.core.ledger();
        prop_assert_eq!(ledger.buffered + ledger.in_flight + ledger.in_fallback, 0, "spans still wait: {:?}", ledger);
        prop_assert!(simulation.received.keys().all(|key| simulation.made.contains(key)));
        let gone = ledger.lost() + ledger.dead_lettered + ledger.rejected;
        prop_assert!(simulation.received.len() as u64 + gone >= simulation.made.len() as u64, "{:?}", ledger);
    }
}
