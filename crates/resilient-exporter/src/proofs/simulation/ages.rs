//! Spans that are too old to be sent.

use std::time::Duration;

use super::{Answer, Disturbance, Setup, Simulation, in_memory, numbers};
use crate::core::{AgeLimit, Call, Effect};
use crate::proofs::spans::start;

/// Half of all spans are older than this: they end up to 50 ms after they start.
pub(super) fn limit() -> AgeLimit {
    AgeLimit { before: start() + Duration::from_millis(25), max_age: Duration::from_secs(60) }
}

/// A span with this number is older than the limit.
pub(super) fn is_old(number: u64) -> bool {
    number % 50 < 25
}

impl Simulation {
    /// Each call keeps the limits of the settings.
    pub(super) fn check_limits(&self, calls: &[Call]) {
        let Setup { request_max_spans, age_limit, .. } = self.setup;
        for call in calls {
            let spans = call.payload.item_count();
            assert!(spans <= request_max_spans, "a request of {spans} spans");
            let is_young = age_limit.is_none() || numbers(&call.payload.request()).all(|number| !is_old(number));
            assert!(is_young, "an old span is sent");
        }
    }
}

fn with_limit(fallback: bool) -> Simulation {
    let mut simulation = in_memory(fallback, 2);
    simulation.setup.age_limit = Some(limit());
    simulation
}

/// The letters that the disk thread is to store: their spans, their causes and their calls.
fn letters(simulation: &Simulation) -> Vec<(usize, String, u32)> {
    let letters = simulation.effects.iter().filter_map(|effect| match effect {
        Effect::StoreDeadLetters(letters) => Some(letters),
        _ => None,
    });
    let shown = letters.flatten().map(|letter| {
        let spans = letter.pieces.iter().map(|entry| entry.size.count).sum();
        (spans, letter.cause.to_string(), letter.attempts)
    });
    shown.collect()
}

#[test]
fn the_old_spans_of_a_batch_become_one_dead_letter_and_the_others_are_sent() {
    let mut simulation = with_limit(true);
    simulation.offer(40);
    simulation.poll();
    assert_eq!(letters(&simulation), [(24, "too_old: ended more than 60s before it could be sent".to_owned(), 0)]);
    assert_eq!(simulation.calls.iter().map(|call| call.payload.item_count()).collect::<Vec<_>>(), [16]);
    simulation.check_ledger().expect("each span is counted");
    simulation.deliver_everything();
    let ledger = simulation.core.ledger();
    assert_eq!((ledger.delivered, ledger.dead_lettered, ledger.lost()), (16, 24, 0), "{ledger:?}");
}

#[test]
fn stored_spans_that_are_too_old_become_dead_letters_too() {
    let mut simulation = in_memory(true, 2);
    for _ in 0..10 {
        simulation.offer(30);
        simulation.poll();
        simulation.answer(0, Answer::Unavailable);
        while !simulation.effects.is_empty() {
            simulation.run_effect(Disturbance::None);
        }
    }
    let stored = simulation.core.ledger().in_fallback;
    assert!(stored >= 100, "{:?}", simulation.core.ledger());
    // The time has passed.
    simulation.setup.age_limit = Some(limit());
    simulation.deliver_everything();
    simulation.check_ledger().expect("each span is counted");
    let ledger = simulation.core.ledger();
    let old = (1..=300).filter(|number| is_old(*number)).count() as u64;
    assert_eq!((ledger.delivered, ledger.dead_lettered, ledger.lost()), (300 - old, old, 0), "{ledger:?}");
}

#[test]
fn without_a_place_for_dead_letters_they_are_dropped_with_their_reason() {
    let mut simulation = with_limit(false);
    simulation.offer(40);
    simulation.deliver_everything();
    let ledger = simulation.core.ledger();
    assert_eq!((ledger.delivered, ledger.dropped.get("too_old")), (16, Some(&24)), "{ledger:?}");
}

#[test]
fn no_span_is_too_old_without_a_limit() {
    let mut simulation = Simulation { setup: Setup { age_limit: None, ..Setup::usual() }, ..in_memory(true, 2) };
    simulation.offer(40);
    simulation.deliver_everything();
    assert_eq!(simulation.core.ledger().delivered, 40);
}
