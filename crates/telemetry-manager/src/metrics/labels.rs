//! The labels of the table, and the readers of those that several metrics have.

use std::borrow::Cow;
use std::collections::BTreeMap;

use resilient_exporter::{CallResult, CollectorHealth, DropReason, Health, RefuseReason, Signal, Status};

use super::sample::{Label, Samples, Value, Values};

/// Statuses of health.
pub(super) const STATUSES: [&str; 3] = ["healthy", "degraded", "unhealthy"];
/// Threads of the exporter.
pub(super) const THREADS: [&str; 3] = ["net", "disk", "journal"];
/// Outcomes of a call.
pub(super) const OUTCOMES: [&str; 2] = ["success", "failure"];
/// States of a breaker, one series each, so that a graph can stack them and an alert can name one.
pub(super) const STATES: [&str; 5] = ["closed", "half_open", "open", "isolated", "disabled"];

const SIGNALS: [&str; Signal::ALL.len()] = {
    let mut names = [""; Signal::ALL.len()];
    let mut at = 0;
    while at < names.len() {
        names[at] = Signal::ALL[at].as_str();
        at += 1;
    }
    names
};

pub(super) const DROP_REASONS: [&str; DropReason::ALL.len()] = {
    let mut names = [""; DropReason::ALL.len()];
    let mut at = 0;
    while at < names.len() {
        names[at] = DropReason::ALL[at].as_str();
        at += 1;
    }
    names
};

pub(super) const REFUSE_REASONS: [&str; RefuseReason::ALL.len()] = {
    let mut names = [""; RefuseReason::ALL.len()];
    let mut at = 0;
    while at < names.len() {
        names[at] = RefuseReason::ALL[at].as_str();
        at += 1;
    }
    names
};

/// The failed ends of a span: those of the collector's own, then all reasons of losses.
const EXPORT_ERRORS: [&str; 2 + DROP_REASONS.len() + REFUSE_REASONS.len()] = {
    let mut names = [""; 2 + DROP_REASONS.len() + REFUSE_REASONS.len()];
    (names[0], names[1]) = (REJECTED, DEAD_LETTERED);
    let mut at = 0;
    while at < DROP_REASONS.len() {
        names[2 + at] = DROP_REASONS[at];
        at += 1;
    }
    let mut at = 0;
    while at < REFUSE_REASONS.len() {
        names[2 + DROP_REASONS.len() + at] = REFUSE_REASONS[at];
        at += 1;
    }
    names
};

/// The failures of a call: all results but the first, which is the success.
const CALL_ERRORS: [&str; CallResult::ALL.len() - 1] = {
    let mut names = [""; CallResult::ALL.len() - 1];
    let mut at = 0;
    while at < names.len() {
        names[at] = match CallResult::ALL[at + 1].error_type() {
            Some(name) => name,
            None => panic!("one result is a success"),
        };
        at += 1;
    }
    names
};

const REJECTED: &str = "rejected";
const DEAD_LETTERED: &str = "dead_lettered";

/// The type of the component, by its name in Rust: the conventions list no type that stands for it.
const EXPORTER: &str = "resilient_exporter::ResilientSpanExporter";
const PROCESSOR: &str = "resilient_exporter::ResilientSpanProcessor";

pub(super) const STATUS: Label = Label { key: "status", values: Values::OneOf(&STATUSES) };
pub(super) const VERSION: Label = Label { key: "version", values: Values::Fixed("the version of this library") };
pub(super) const THREAD: Label = Label { key: "thread", values: Values::OneOf(&THREADS) };
pub(super) const SIGNAL: Label = Label { key: "signal", values: Values::OneOf(&SIGNALS) };
pub(super) const DROP_REASON: Label = Label { key: "reason", values: Values::OneOf(&DROP_REASONS) };
pub(super) const REFUSE_REASON: Label = Label { key: "reason", values: Values::OneOf(&REFUSE_REASONS) };
pub(super) const OUTCOME: Label = Label { key: "outcome", values: Values::OneOf(&OUTCOMES) };
pub(super) const STATE: Label = Label { key: "state", values: Values::OneOf(&STATES) };
pub(super) const ENDPOINT: Label =
    Label { key: "endpoint", values: Values::Fixed("`primary`, `2` and so on, by the order of the settings") };
pub(super) const COMPONENT_TYPE: Label = Label { key: "otel.component.type", values: Values::OneOf(&[EXPORTER]) };
pub(super) const PROCESSOR_TYPE: Label = Label { key: "otel.component.type", values: Values::OneOf(&[PROCESSOR]) };
pub(super) const COMPONENT_NAME: Label =
    Label { key: "otel.component.name", values: Values::Fixed("the type, `/`, and a number from 0 in the process") };
pub(super) const EXPORT_ERROR: Label = Label { key: "error.type", values: Values::OneOf(&EXPORT_ERRORS) };
pub(super) const PROCESSING_ERROR: Label = Label { key: "error.type", values: Values::OneOf(&REFUSE_REASONS) };
pub(super) const CALL_ERROR: Label = Label { key: "error.type", values: Values::OneOf(&CALL_ERRORS) };

type Owned = (&'static str, Cow<'static, str>);

pub(super) const fn status(status: Status) -> &'static str {
    match status {
        Status::Healthy => STATUSES[0],
        Status::Degraded => STATUSES[1],
        Status::Unhealthy => STATUSES[2],
    }
}

/// One sample for each reason, 0 where nothing was lost by it: a series that begins at its first loss hides this loss
/// from `increase`.
pub(super) fn by_reason(
    health: &Health,
    reasons: &[&'static str],
    counts: &BTreeMap<&'static str, u64>,
    out: &mut Samples,
) {
    for reason in reasons {
        let items = counts.get(reason).copied().unwrap_or_default();
        out.with(&[("signal", health.signal.as_str()), ("reason", reason)], Value::Count(items));
    }
}

/// The collectors, each with its label: by position, never by URL.
pub(super) fn endpoints(health: &Health) -> impl Iterator<Item = (Owned, &CollectorHealth)> {
    let label = |collector: &CollectorHealth| ("endpoint", Cow::Borrowed(collector.position.as_str()));
    health.collectors.iter().map(move |collector| (label(collector), collector))
}

pub(super) fn by_endpoint(health: &Health, out: &mut Samples, read: impl Fn(&CollectorHealth) -> f64) {
    for (endpoint, collector) in endpoints(health) {
        out.owned(vec![endpoint], Value::Number(read(collector)));
    }
}

pub(super) fn counted_by_endpoint(health: &Health, out: &mut Samples, read: impl Fn(&CollectorHealth) -> u64) {
    for (endpoint, collector) in endpoints(health) {
        out.owned(vec![endpoint], Value::Count(read(collector)));
    }
}

/// The exporter, as a component of the semantic conventions.
pub(super) fn component(health: &Health) -> [Owned; 2] {
    named(EXPORTER, health)
}

/// The processor, if it is ours.
pub(super) fn processor(health: &Health) -> Option<[Owned; 2]> {
    has_processor(health).then(|| named(PROCESSOR, health))
}

fn has_processor(health: &Health) -> bool {
    health.staging_capacity.is_some()
}

fn named(component: &'static str, health: &Health) -> [Owned; 2] {
    let name = Cow::Owned(format!("{component}/{}", health.instance));
    [(COMPONENT_TYPE.key, Cow::Borrowed(component)), (COMPONENT_NAME.key, name)]
}

/// The component, and `error.type` if there is an error.
pub(super) fn with_error(component: [Owned; 2], error: Option<&'static str>) -> Vec<Owned> {
    let error = error.map(|error| (EXPORT_ERROR.key, Cow::Borrowed(error)));
    component.into_iter().chain(error).collect()
}

/// Each span counts once: when its batch is the exporter's, or when it is refused.
pub(super) fn processed(health: &Health, out: &mut Samples) {
    let Some(processor) = processor(health) else { return };
    let ledger = &health.ledger;
    out.owned(with_error(processor.clone(), None), Value::Count(ledger.accepted()));
    for reason in REFUSE_REASONS {
        let refused = ledger.refused.get(reason).copied().unwrap_or_default();
        out.owned(with_error(processor.clone(), Some(reason)), Value::Count(refused));
    }
}

/// Each span counts once, at its end. A processor of ours has counted those that were refused. Dead letters have
/// failed; one that is redriven and delivered counts twice, as it was exported twice.
pub(super) fn exported(health: &Health, out: &mut Samples) {
    let ledger = &health.ledger;
    let ends =
        [(None, ledger.delivered), (Some(REJECTED), ledger.rejected), (Some(DEAD_LETTERED), ledger.dead_lettered)];
    let lost = |names: &'static [&'static str], counts: &BTreeMap<&'static str, u64>| {
        let count = |name: &&'static str| (Some(*name), counts.get(name).copied().unwrap_or_default());
        names.iter().map(count).collect::<Vec<_>>()
    };
    let refused = if has_processor(health) { Vec::new() } else { lost(&REFUSE_REASONS, &ledger.refused) };
    let lost = [lost(&DROP_REASONS, &ledger.dropped), refused];
    for (error, spans) in ends.into_iter().chain(lost.into_iter().flatten()) {
        out.owned(with_error(component(health), error), Value::Count(spans));
    }
}
