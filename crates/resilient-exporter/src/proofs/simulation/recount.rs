//! The recount: each term of the ledger beside the spans in the place that the term names.

use super::{Answer, Disturbance, Simulation, in_memory};
use crate::core::{Content, Effect};
use crate::report::position::Position;

impl Simulation {
    /// Recounts every term of the ledger from the spans in the place that the term names.
    pub(super) fn check_ledger(&self) -> Result<(), String> {
        let ledger = self.core.ledger();
        let equal = |term: &str, ledger: u64, recount: u64| match ledger == recount {
            true => Ok(()),
            false => Err(format!("{term}: the ledger counts {ledger}, the recount {recount}")),
        };
        equal("imbalance", ledger.imbalance().unsigned_abs(), 0)?;
        equal("offered", ledger.offered, self.made.len() as u64)?;
        let writing = self.effects.iter().map(|effect| match effect {
            Effect::Spill(spill) => spill.entries.iter().map(|entry| entry.item.payload.item_count()).sum(),
            Effect::StoreDeadLetters(letters) => {
                let pieces = letters.iter().flat_map(|letter| &letter.pieces);
                pieces.map(|entry| entry.item.payload.item_count()).sum()
            }
            _ => 0,
        });
        let writing = writing.sum::<usize>() + self.core.spilling_spans();
        let waiting = self.core.memory.waiting().map(|entry| entry.item.payload.item_count()).sum::<usize>();
        let tried = self.core.memory.tried_size().count;
        equal("buffered", ledger.buffered, (waiting + writing + tried) as u64)?;
        let live = self.calls.iter().filter(|call| self.core.is_live(call.id));
        equal("in_flight", ledger.in_flight, live.map(|call| call.payload.item_count() as u64).sum())?;
        equal("in_fallback", ledger.in_fallback, self.disk.stored().len() as u64)?;
        equal("in_fallback by the fallback's count", ledger.in_fallback, self.disk.usage().spans)?;
        let answered = self.acknowledged + self.rejected - self.unmarked;
        equal("answered", ledger.delivered + ledger.rejected, answered.cast_unsigned())?;
        let taken = (0..self.core.endpoints.len()).map(|at| self.core.accounts.taken(Position::new(at)));
        let (delivered, rejected) = taken.fold((0, 0), |(delivered, rejected), taken| {
            (delivered + taken.delivered as u64, rejected + taken.rejected as u64)
        });
        equal("delivered by endpoint", ledger.delivered, delivered)?;
        equal("rejected by endpoint", ledger.rejected, rejected)?;
        equal("redriven", ledger.redriven, self.redriven)?;
        equal(
            "dead_lettered",
            ledger.dead_lettered,
            self.disk.dead_lettered() as u64 + self.redriven - self.earlier_letters,
        )?;
        if ledger.delivered > self.received.len() as u64 {
            return Err(format!(
                "the ledger counts {} spans as delivered, the collector has {}",
                ledger.delivered,
                self.received.len()
            ));
        }
        let held = self.core.memory.waiting_size();
        let limits = self.core.memory.limits();
        let calls = self.calls.iter().filter(|call| self.core.is_live(call.id));
        // The request, and the compressed form that it has in memory.
        let flight = calls.map(|call| match &call.payload {
            Content::Plain(request) => request.bytes().len(),
            Content::Packed(packed) => call.payload.request_len() + packed.len(),
        });
        let flight = flight.sum::<usize>();
        let spilling = self.core.memory.writing_size();
        let count = held.count + spilling.count + tried + usize::try_from(ledger.in_flight).expect("small");
        if held.bytes + flight + spilling.bytes > limits.max_bytes || count > limits.max_count {
            return Err(format!("over the limits: {held:?} beside {spilling:?} and {flight} bytes in flight"));
        }
        Ok(())
    }
}

/// Each change of the ledger, of a store or of the collector that bypasses the core fails the check.
#[test]
fn the_check_finds_a_changed_number_and_a_lost_batch() {
    let in_use = || {
        let mut simulation = in_memory(true, 7);
        for _ in 0..8 {
            simulation.offer(20);
        }
        simulation.poll();
        simulation.answer(0, Answer::Accept);
        simulation.poll();
        simulation.offer(39);
        simulation.poll();
        simulation.run_effect(Disturbance::None);
        simulation.poll();
        let ledger = simulation.core.ledger();
        let terms = [ledger.offered, ledger.buffered, ledger.in_flight, ledger.in_fallback, ledger.delivered];
        assert!(terms.iter().all(|&term| term > 0), "{ledger:?}");
        simulation.check_ledger().expect("the ledger is right before the corruption");
        simulation
    };
    type Corruption = (&'static str, fn(&mut Simulation));
    let corruptions: [Corruption; 12] = [
        ("offered", |simulation| simulation.core.accounts.ledger_mut().offered += 1),
        ("recovered", |simulation| simulation.core.accounts.ledger_mut().recovered += 1),
        ("buffered", |simulation| simulation.core.accounts.ledger_mut().buffered -= 1),
        ("in_flight", |simulation| simulation.core.accounts.ledger_mut().in_flight += 1),
        ("in_fallback", |simulation| simulation.core.accounts.ledger_mut().in_fallback -= 1),
        ("delivered", |simulation| simulation.core.accounts.ledger_mut().delivered += 1),
        ("dead_lettered", |simulation| simulation.core.accounts.ledger_mut().dead_lettered += 1),
        ("buffered and delivered", |simulation| {
            simulation.core.accounts.ledger_mut().buffered -= 1;
            simulation.core.accounts.ledger_mut().delivered += 1;
        }),
        ("in_fallback and dead_lettered", |simulation| {
            simulation.core.accounts.ledger_mut().in_fallback -= 1;
            simulation.core.accounts.ledger_mut().dead_lettered += 1;
        }),
        ("a batch vanishes from the buffer", |simulation| simulation.core.memory.lose_oldest()),
        ("a batch vanishes from the fallback", |simulation| assert!(simulation.disk.lose_oldest().is_some())),
        ("the collector forgets", |simulation| simulation.received.clear()),
    ];
    for (name, corrupt) in corruptions {
        let mut simulation = in_use();
        corrupt(&mut simulation);
        assert!(simulation.check_ledger().is_err(), "the check does not find the corruption: {name}");
    }
}
