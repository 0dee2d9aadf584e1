//! The result: the ledger beside the spans that the application made and the collector received.

use std::collections::HashSet;

use mock_collector::{MockCollector, SpanIds};
use resilient_exporter::Ledger;
use serde::Serialize;

/// The verdict when no span was lost.
const NOTHING_LOST: &str = "nothing lost";

/// The result; as JSON, the last line of `holdfast demo --json`.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Spans that the application made.
    pub(super) made: u64,
    /// Spans that the SDK's own queue dropped before the exporter saw them.
    pub(super) bsp_dropped: u64,
    pub(super) ledger: Ledger,
    pub(super) collector: Collected,
    pub(super) breaker: Trips,
    /// "nothing lost", or a list of the losses.
    pub(super) verdict: String,
}

/// The collector's receipts, compared with the ids of the application.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Collected {
    /// Spans, each receipt counted.
    pub(super) received: u64,
    /// Different spans.
    pub(super) unique: u64,
    /// Receipts of a span that had been received before.
    pub(super) duplicates: u64,
    /// Spans of the application that were never received.
    pub(super) missing: u64,
    /// Different spans that the collector received and the application did not make.
    #[serde(skip)]
    pub(super) foreign: u64,
}

/// The breaker's trips.
#[derive(Debug, Serialize)]
pub(super) struct Trips {
    /// How often it opened.
    pub(super) trips: u64,
}

impl Collected {
    /// Compares by span id.
    pub(super) fn compare(collector: &MockCollector, made: &[SpanIds]) -> Self {
        let counts = collector.received();
        let seen: HashSet<SpanIds> = collector.span_ids().into_iter().collect();
        let missing = made.iter().filter(|id| !seen.contains(*id)).count() as u64;
        let foreign = (seen.len() as u64).saturating_sub(made.len() as u64 - missing);
        let (received, unique, duplicates) = (counts.spans, counts.unique, counts.duplicates);
        Self { received, unique, duplicates, missing, foreign }
    }
}

impl Report {
    pub(super) fn new(made: u64, ledger: Ledger, collector: Collected, trips: u64) -> Self {
        let bsp_dropped = made.saturating_sub(ledger.offered);
        let mut report =
            Self { made, bsp_dropped, ledger, collector, breaker: Trips { trips }, verdict: String::new() };
        let problems = report.problems();
        report.verdict = if problems.is_empty() { NOTHING_LOST.to_owned() } else { problems.join("; ") };
        report
    }

    /// No span was lost and the ledger balances.
    pub(super) fn is_good(&self) -> bool {
        self.verdict == NOTHING_LOST
    }

    fn problems(&self) -> Vec<String> {
        let Self { made, bsp_dropped, ledger, collector, .. } = self;
        let waiting = ledger.buffered + ledger.in_flight + ledger.in_journal + ledger.in_fallback;
        let counts = [
            (*bsp_dropped, "dropped by the SDK's own queue"),
            (ledger.offered.saturating_sub(*made), "offered to the exporter although nobody made them"),
            (ledger.rejected, "rejected by the collector"),
            (ledger.dead_lettered, "refused by the collector and kept as dead letters"),
            (ledger.taken_over, "taken over by another process"),
            (waiting, "kept but not delivered in time"),
            (collector.missing, "never received by the collector"),
            (collector.foreign, "received although nobody made them"),
        ];
        let mut problems: Vec<String> = counts
            .iter()
            .filter(|(spans, _)| *spans > 0)
            .map(|(spans, what)| format!("{spans} spans {what}"))
            .collect();
        let lost = [("dropped", &ledger.dropped), ("refused", &ledger.refused)];
        for (what, reasons) in lost {
            let reasons = reasons.iter().filter(|(_, spans)| **spans > 0);
            problems.extend(reasons.map(|(reason, spans)| format!("{spans} spans {what}: {reason}")));
        }
        if ledger.imbalance() != 0 {
            problems.push(format!("the ledger is out of balance by {} spans", ledger.imbalance()));
        }
        // Spans whose answer never came may have been taken although the ledger has them elsewhere.
        let unsure = waiting + ledger.dead_lettered + ledger.lost();
        if !(ledger.delivered..=ledger.delivered + unsure).contains(&collector.unique) {
            let (delivered, unique) = (ledger.delivered, collector.unique);
            problems.push(format!("the ledger says {delivered} delivered, the collector has {unique}"));
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(change: impl FnOnce(&mut Ledger)) -> Ledger {
        let mut ledger = Ledger::default();
        (ledger.offered, ledger.delivered) = (10, 10);
        change(&mut ledger);
        ledger
    }

    const ALL: Collected = Collected { received: 12, unique: 10, duplicates: 2, missing: 0, foreign: 0 };

    #[test]
    fn duplicates_are_no_loss() {
        let report = Report::new(10, ledger(|_| ()), ALL, 3);
        assert!(report.is_good());
        let json = serde_json::to_value(&report).expect("serializes");
        assert_eq!((&json["verdict"], &json["breaker"]["trips"]), (&"nothing lost".into(), &3.into()));
        assert_eq!(json["collector"], serde_json::json!({"received": 12, "unique": 10, "duplicates": 2, "missing": 0}));
        assert_eq!(
            (&json["made"], &json["bsp_dropped"], &json["ledger"]["delivered"]),
            (&10.into(), &0.into(), &10.into())
        );
    }

    #[test]
    fn every_kind_of_loss_is_named_with_its_number() {
        let lost = |made, ledger, collector| {
            let report = Report::new(made, ledger, collector, 0);
            assert!(!report.is_good());
            report.verdict
        };
        assert_eq!(lost(13, ledger(|_| ()), ALL), "3 spans dropped by the SDK's own queue");
        assert!(lost(9, ledger(|_| ()), ALL).contains("1 spans offered to the exporter although nobody made them"));
        let missing = Collected { unique: 9, received: 9, duplicates: 0, missing: 1, foreign: 0 };
        let verdict = lost(10, ledger(|_| ()), missing);
        assert!(verdict.contains("1 spans never received"), "{verdict}");
        assert!(verdict.contains("the ledger says 10 delivered, the collector has 9"), "{verdict}");
        let dropped = ledger(|ledger| {
            ledger.delivered = 6;
            ledger.dropped.insert("buffer_full", 4);
        });
        let six = Collected { unique: 6, received: 6, duplicates: 0, missing: 4, foreign: 0 };
        assert!(lost(10, dropped.clone(), six).contains("4 spans dropped: buffer_full"));
        let taken_unanswered = Collected { unique: 8, received: 8, duplicates: 0, missing: 2, foreign: 0 };
        assert!(!lost(10, dropped, taken_unanswered).contains("the ledger says"));
        let waiting = ledger(|ledger| (ledger.delivered, ledger.in_fallback) = (6, 4));
        assert!(lost(10, waiting, six).contains("4 spans kept but not delivered in time"));
        assert!(lost(10, ledger(|ledger| ledger.buffered = 1), ALL).contains("out of balance by -1"));
        assert!(lost(10, ledger(|_| ()), Collected { foreign: 1, ..ALL }).contains("although nobody made them"));
    }
}
