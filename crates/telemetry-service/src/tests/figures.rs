//! The numbers of a test over time, in bounded memory.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Serialize, Serializer};
use telemetry_manager::resilient_exporter::{Health, Ledger};

/// The numbers of one instant, in spans unless they say otherwise.
#[derive(Clone, PartialEq, Debug, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Figure {
    /// The time since the start of the test.
    #[serde(rename = "at_seconds", serialize_with = "seconds")]
    #[schemars(with = "f64")]
    pub at: Duration,
    /// Made by the test.
    pub made: u64,
    /// Taken by the collector.
    pub delivered: u64,
    /// In memory, or sent without an answer yet.
    pub waiting: u64,
    /// In files, in the journal, or kept as dead letters.
    pub stored: u64,
    /// Given up.
    pub lost: u64,
    /// Calls that failed.
    pub failed_exports: u64,
    /// The state of the circuit breaker.
    pub breaker: String,
}

impl Figure {
    pub(super) fn new(at: Duration, made: u64, health: &Health) -> Self {
        let ledger = &health.ledger;
        Self {
            at,
            made,
            delivered: ledger.delivered,
            waiting: ledger.buffered + ledger.in_flight,
            stored: stored(ledger, health.dead_letters_evicted),
            lost: lost(ledger, health.dead_letters_evicted),
            failed_exports: health.metrics.failed_exports,
            breaker: health.breaker.to_string(),
        }
    }
}

/// Spans that are kept on disk. A dead letter that its limits removed is kept nowhere.
pub(super) fn stored(ledger: &Ledger, evicted: u64) -> u64 {
    ledger.in_fallback + ledger.in_journal + ledger.dead_lettered.saturating_sub(evicted)
}

/// Spans that are kept nowhere, and that no collector has.
pub(super) fn lost(ledger: &Ledger, evicted: u64) -> u64 {
    ledger.lost() + evicted.min(ledger.dead_lettered)
}

/// A number of seconds to 1 ms.
pub(super) fn seconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_millis() as f64 / 1_000.0)
}

/// Figures kept, at most.
const KEPT: usize = 120;

/// Figures at even distances. When there are too many, every second one goes, and new ones come half as often.
#[derive(Debug)]
pub(super) struct Figures {
    kept: Vec<Figure>,
    /// The time between two figures, at least.
    distance: Duration,
}

impl Figures {
    pub(super) fn new(distance: Duration) -> Self {
        Self { kept: Vec::with_capacity(KEPT), distance }
    }

    /// Whether a figure of this instant would be kept.
    pub(super) fn is_due(&self, at: Duration) -> bool {
        self.kept.last().is_none_or(|last| at >= last.at + self.distance)
    }

    pub(super) fn push(&mut self, figure: Figure) {
        if self.kept.len() == KEPT {
            let mut is_kept = false;
            self.kept.retain(|_| {
                is_kept = !is_kept;
                is_kept
            });
            self.distance *= 2;
        }
        self.kept.push(figure);
    }

    pub(super) fn all(&self) -> &[Figure] {
        &self.kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(at: Duration) -> Figure {
        let breaker = "closed".to_owned();
        Figure { at, made: 0, delivered: 0, waiting: 0, stored: 0, lost: 0, failed_exports: 0, breaker }
    }

    #[test]
    fn a_long_test_keeps_a_bounded_number_of_figures_at_even_distances() {
        let (mut figures, tick) = (Figures::new(Duration::from_millis(100)), Duration::from_millis(100));
        for tick in (0..36_000).map(|number| tick * number) {
            if figures.is_due(tick) {
                figures.push(figure(tick));
            }
        }
        let times: Vec<_> = figures.all().iter().map(|figure| figure.at).collect();
        assert!((KEPT / 2..=KEPT).contains(&times.len()), "{}", times.len());
        assert_eq!(times[0], Duration::ZERO);
        let distances: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(distances.iter().all(|distance| *distance <= 2 * distances[0]), "{distances:?}");
        assert!(*times.last().expect("some") > Duration::from_secs(3_500), "to the end");
    }

    #[test]
    fn the_time_of_a_figure_is_in_seconds() {
        let json = serde_json::to_value(figure(Duration::from_micros(1_234_567))).expect("JSON");
        assert_eq!(json["at_seconds"], 1.234);
    }
}
