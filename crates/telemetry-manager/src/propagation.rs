//! The formats that carry the trace across process borders.

use opentelemetry::global;
use opentelemetry::propagation::{TextMapCompositePropagator, TextMapPropagator};
use opentelemetry_sdk::propagation::{BaggagePropagator, TraceContextPropagator};

use crate::settings::Propagator;

/// Makes these the global propagators, in this order. An empty list installs a propagator that carries nothing.
pub(crate) fn install(propagators: &[Propagator]) {
    let propagators = propagators.iter().map(|propagator| -> Box<dyn TextMapPropagator + Send + Sync> {
        match propagator {
            Propagator::TraceContext => Box::new(TraceContextPropagator::new()),
            Propagator::Baggage => Box::new(BaggagePropagator::new()),
        }
    });
    global::set_text_map_propagator(TextMapCompositePropagator::new(propagators.collect()));
}
