//! The table as instruments of a meter.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;
use resilient_exporter::{CallDurations, CallEnded, Lateness};

use super::labels::{component, with_error};
use super::sample::{Sample, Value};
use super::table::LATENESS;
use super::{Kind, METRICS, Metric, Snapshot};
use crate::manager::Observer;

/// The instruments of one meter, which observe for as long as this value lives: the API knows no other way to end an
/// observation. Dropping it costs nothing; the instruments then have no samples.
#[must_use = "dropping it ends the observations"]
pub struct Registration {
    source: Arc<Source>,
    /// The exporter tells them of calls while they live.
    _calls: Vec<Arc<CallObserver>>,
}

type CallObserver = dyn Fn(CallEnded) + Send + Sync;

impl std::fmt::Debug for Registration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registration").field("observer", &self.source.observer).finish_non_exhaustive()
    }
}

struct Source {
    number: u64,
    observer: Observer,
}

/// Makes an instrument of `meter` for each row of [`METRICS`]. Observations of one collection come from one snapshot,
/// so that the terms of the ledger add up. A collection costs one short lock of the exporter; between collections
/// nothing runs, but for the histograms of calls and of lateness: their instruments are told of each call that ends
/// from now on, since the API has no histogram that is read.
///
/// Register once for each meter provider: a second registration at the same provider reports the same series again, and
/// readers take one of the two. After the shutdown of telemetry the last numbers are reported. Metrics must not take
/// the way of the spans that they are about: give the meter provider an exporter of its own. The histograms are
/// recorded on the thread that sends: a meter of yours that blocks there stops delivery.
///
/// ```
/// use opentelemetry::metrics::MeterProvider as _;
/// use telemetry_manager::{OpenTelemetryManager, metrics};
///
/// let telemetry = OpenTelemetryManager::builder().with_fallback_enabled(false).with_vars(|_| None).build()?;
/// let provider = opentelemetry_sdk::metrics::SdkMeterProvider::builder().build(); // with your reader
/// let registration = metrics::register(&provider.meter("holdfast"), &telemetry.observer());
/// // .. the program runs, and holds `registration` ..
/// # drop(registration);
/// # Ok::<(), telemetry_manager::SetupError>(())
/// ```
pub fn register(meter: &Meter, observer: &Observer) -> Registration {
    static NUMBERS: AtomicU64 = AtomicU64::new(0);
    let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
    let source = Arc::new(Source { number, observer: observer.clone() });
    let mut calls = Vec::new();
    for (row, metric) in METRICS.iter().enumerate() {
        let source = Arc::downgrade(&source);
        match metric.kind {
            Kind::Counter => {
                let builder = meter.u64_observable_counter(metric.name).with_callback(move |instrument| {
                    observe(&source, row, |value, labels| {
                        if let Value::Count(count) = value {
                            instrument.observe(*count, labels);
                        }
                    });
                });
                builder.with_unit(metric.unit).with_description(metric.help).build();
            }
            Kind::UpDownCounter => {
                let builder = meter.i64_observable_up_down_counter(metric.name).with_callback(move |instrument| {
                    observe(&source, row, |value, labels| {
                        if let Value::Sum(sum) = value {
                            instrument.observe(*sum, labels);
                        }
                    });
                });
                builder.with_unit(metric.unit).with_description(metric.help).build();
            }
            Kind::Gauge => {
                let builder = meter.f64_observable_gauge(metric.name).with_callback(move |instrument| {
                    observe(&source, row, |value, labels| {
                        if let Value::Number(number) = value {
                            instrument.observe(*number, labels);
                        }
                    });
                });
                builder.with_unit(metric.unit).with_description(metric.help).build();
            }
            Kind::Histogram => calls.extend(observe_calls(meter, metric, observer)),
        }
    }
    Registration { source, _calls: calls }
}

/// Has the exporter record each call into the histogram of this row.
fn observe_calls(meter: &Meter, metric: &Metric, observer: &Observer) -> Option<Arc<CallObserver>> {
    let handle = observer.handle()?;
    let builder = meter.f64_histogram(metric.name).with_unit(metric.unit).with_description(metric.help);
    let health = handle.health();
    let calls: Arc<CallObserver> = if metric.name == LATENESS {
        let histogram = builder.with_boundaries(Lateness::BOUNDS.to_vec()).build();
        let labels = attributes(&[("signal", health.signal.as_str().into())]);
        Arc::new(move |call: CallEnded| {
            call.lateness.iter().for_each(|lateness| histogram.record(lateness.as_secs_f64(), &labels));
        })
    } else {
        let histogram = builder.with_boundaries(CallDurations::BOUNDS.to_vec()).build();
        let component = component(&health);
        Arc::new(move |call: CallEnded| {
            let labels = with_error(component.clone(), call.result.error_type());
            histogram.record(call.duration.as_secs_f64(), &attributes(&labels));
        })
    };
    handle.observe_calls(&calls);
    Some(calls)
}

/// Reports the samples of a row. The SDK contains no panic of a callback.
fn observe(source: &Weak<Source>, row: usize, mut report: impl FnMut(&Value, &[KeyValue])) {
    let Some(source) = source.upgrade() else { return };
    let _ = catch_unwind(AssertUnwindSafe(|| {
        for Sample { labels, value } in METRICS[row].samples(&snapshot(&source, row)) {
            report(&value, &attributes(&labels));
        }
    }));
}

fn attributes(labels: &[(&'static str, std::borrow::Cow<'static, str>)]) -> Vec<KeyValue> {
    labels.iter().map(|(key, value)| KeyValue::new(*key, value.clone())).collect()
}

/// A collection in progress on this thread.
struct Collection {
    registration: u64,
    /// The rows that were read.
    rows: u128,
    snapshot: Rc<Snapshot>,
}

const _: () = assert!(METRICS.len() <= 128, "a row has a bit of `Collection::rows`");

thread_local! {
    static COLLECTION: RefCell<Option<Collection>> = const { RefCell::new(None) };
}

/// The snapshot of the collection that reads this row now. The API tells no callback of a collection: the SDK runs all
/// callbacks of one on one thread, each once. A row that was read already, or another registration, begins the next.
fn snapshot(source: &Source, row: usize) -> Rc<Snapshot> {
    let taken = COLLECTION.try_with(|collection| {
        let bit = 1_u128 << row;
        // Taken out, so that code which runs meanwhile finds no borrowed cell.
        let current = collection.borrow_mut().take();
        let current = current.filter(|current| current.registration == source.number && current.rows & bit == 0);
        let mut current = current.unwrap_or_else(|| Collection {
            registration: source.number,
            rows: 0,
            snapshot: Rc::new(Snapshot::of(&source.observer)),
        });
        current.rows |= bit;
        let snapshot = Rc::clone(&current.snapshot);
        // Views may leave rows out: this is the end of most collections, and the next one ends the others.
        if Some(row) != METRICS.iter().rposition(|metric| metric.kind != Kind::Histogram) {
            *collection.borrow_mut() = Some(current);
        }
        snapshot
    });
    taken.unwrap_or_else(|_| Rc::new(Snapshot::of(&source.observer)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OpenTelemetryManager;

    #[test]
    fn a_row_that_is_read_again_begins_the_next_collection() {
        let vars = |name: &str| (name == "OTEL_SDK_DISABLED").then(|| "true".into());
        let telemetry = OpenTelemetryManager::builder().with_globals(false).with_vars(vars).build().expect("valid");
        let [first, second] = [7, 8].map(|number| Source { number, observer: telemetry.observer() });
        let (begin, middle) = (snapshot(&first, 0), snapshot(&first, 3));
        assert!(Rc::ptr_eq(&begin, &middle), "rows of one collection");
        // A view may leave out the last rows, so that no row ends the collection.
        let next = snapshot(&first, 0);
        assert!(!Rc::ptr_eq(&begin, &next), "row 0 was read");
        assert!(!Rc::ptr_eq(&next, &snapshot(&second, 1)), "another registration");
        assert!(!Rc::ptr_eq(&next, &snapshot(&first, 1)), "its own again");
    }
}
