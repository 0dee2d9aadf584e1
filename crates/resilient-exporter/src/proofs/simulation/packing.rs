//! The thread that compresses: its results come at any time after their job, and batches may have left meanwhile.

use std::time::Duration;

use otlp_payload::Payload;
use otlp_transport::{Cause, Outcome, RefusalKind};
use proptest::prelude::*;

use super::disk::MemoryFallback;
use super::history::Action;
use super::{Setup, Simulation};
use crate::core::{Content, Effect, Packer, refusals_of};
use crate::report::position::Position;

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

#[test]
fn a_compressed_batch_moves_to_the_second_collector_and_its_dead_letter_names_that_one() {
    let setup = Setup { endpoints: 2, strict: true, ..Setup::usual() };
    let mut simulation = Simulation::new(Box::new(MemoryFallback::in_groups_of(3)), setup);
    simulation.compress();
    simulation.step(Action::Offer(20));
    let cause = Cause::Connect("refused".to_owned());
    let pause = Outcome::Retryable { after: Some(Duration::from_secs(60)), cause, possible_duplicate: false };
    for endpoint in [0, 1] {
        let call = simulation.calls.pop().expect("the batch goes out");
        assert_eq!(call.endpoint, endpoint);
        simulation.end_call(&call, &pause);
        simulation.poll();
    }
    simulation.step(Action::Advance(2_000));
    simulation.step(Action::Pack(Packed::Whole));
    simulation.step(Action::Advance(60_000));
    let mut endpoints = Vec::new();
    while let Some(call) = simulation.calls.pop() {
        assert!(matches!(call.payload, Content::Packed(_)), "{call:?}");
        assert!(simulation.core.memory.occupied_size().bytes > call.payload.request_len(), "both forms count");
        endpoints.push(call.endpoint);
        let cause = Cause::Http { status: 400, message: String::new() };
        let refusal = Outcome::Refused { kind: RefusalKind::Batch, cause, possible_duplicate: false };
        simulation.end_call(&call, if call.endpoint == 1 { &refusal } else { &pause });
        simulation.poll();
    }
    assert_eq!(endpoints.last(), Some(&1), "{endpoints:?}");
    let Some(Effect::StoreDeadLetters(letters)) = simulation.effects.front() else { panic!("no dead letter") };
    let (_, refusals, damaged) = refusals_of(letters);
    let [refusal] = &refusals[..] else { panic!("{refusals:?}") };
    assert_eq!((refusal.endpoint, refusal.payload.item_count(), damaged.len()), (Position::new(1), 20, 0));
    simulation.check_ledger().expect("every span has one place");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// As without compression, with small limits on bytes: they hold for compressed forms and for the requests beside
    /// them, after every step, however many endpoints take the batches.
    #[test]
    fn every_span_is_accounted_for_while_batches_are_compressed(
        fallback: bool,
        seed: u64,
        max_bytes in 2_000..60_000_usize,
        history in super::history::history_with_packing(),
        endpoints in 1..=4_usize,
    ) {
        let mut simulation = super::in_memory(fallback, seed);
        simulation.setup.age_limit = (seed % 4 == 1).then(super::ages::limit);
        simulation.setup.endpoints = endpoints;
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
