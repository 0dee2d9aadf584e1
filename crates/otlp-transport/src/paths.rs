//! The places of a signal's requests at a collector.

use otlp_payload::Signal;

use crate::outcome::{Cause, Outcome};

/// The path of a signal's requests, which is put behind a general endpoint.
pub(crate) const fn path(signal: Signal) -> &'static str {
    match signal {
        Signal::Traces => "v1/traces",
        Signal::Logs => "v1/logs",
        Signal::Metrics => "v1/metrics",
    }
}

/// The path of a signal's gRPC method.
pub(crate) const fn method(signal: Signal) -> &'static str {
    match signal {
        Signal::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        Signal::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
        Signal::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
    }
}

/// The outcome of a payload whose signal the settings are not for: nothing was sent.
pub(crate) fn unsettled(settings: &str, payload: Signal) -> Outcome {
    let cause = Cause::Connect(format!(
        "the settings are for {settings}, and the payload is of {payload}: build settings with_signal({payload:?}) too"
    ));
    Outcome::Retryable { after: None, cause, possible_duplicate: false }
}
