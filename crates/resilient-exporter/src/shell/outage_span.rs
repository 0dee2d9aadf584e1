//! The span of an outage, by which a gap in the spans explains itself on the user's timeline.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::SystemTime;

use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{IdGenerator as _, RandomIdGenerator, SpanData, SpanEvents, SpanLinks};
use otlp_payload::Encoder;

use super::shared::Shared;
use crate::locks::Mutex;
use crate::report::events::Event;
use crate::report::position::Position;

/// The name of the span, and of its instrumentation scope without the part behind the dot.
const NAME: &str = "holdfast.outage";

/// The encoder with the resource of the user's provider; none before the exporter has one. Locked alone.
#[derive(Default)]
pub(crate) struct OutageSpans(Mutex<Option<Encoder>>);

impl Shared {
    /// Spans of outages have the resource of this encoder from now on.
    pub(crate) fn set_span_encoder(&self, encoder: &Encoder) {
        if let Some(spans) = &self.outage_spans {
            *spans.0.lock() = Some(encoder.clone());
        }
    }

    /// Offers a span for the outage that has ended by this event: once, as any other span, and without a wait for the
    /// journal. A pipeline that ends takes none.
    pub(super) fn offer_outage_span(&self, event: &Event) {
        let encoder = self.outage_spans.as_ref().and_then(|spans| spans.0.lock().clone());
        let (Some(encoder), Some(span)) = (encoder, span_of(event, |position| self.endpoint(position))) else { return };
        let encode = || {
            let id = self.core().next_id();
            (encoder.encode(id, self.clock.wall(), &[span]), self.clock.now())
        };
        // A panic of a user's clock: the outage has no span.
        let Ok((payload, now)) = catch_unwind(AssertUnwindSafe(encode)) else { return };
        self.decide(|core| core.on_own_span(payload, now, self.journal_timeout()));
        self.net.notify_one();
    }
}

/// The span of an outage. Its status is unset: no operation of the application has failed, and its rate of errors does
/// not count the span.
fn span_of<'a>(event: &Event, name_of: impl Fn(Position) -> &'a str) -> Option<SpanData> {
    let &Event::OutageEnded {
        endpoint,
        duration: _,
        from: Some(from),
        to: Some(to),
        ref cause,
        waited,
        ref lost,
        possible_duplicates,
        lateness,
        peak_memory_bytes,
        peak_disk_bytes,
    } = event
    else {
        return None;
    };
    let mut attributes = vec![KeyValue::new("holdfast.outage.endpoint", endpoint.as_str())];
    if let Some((address, port)) = server_of(name_of(endpoint)) {
        attributes.push(KeyValue::new("server.address", address.to_owned()));
        attributes.push(KeyValue::new("server.port", i64::from(port)));
    }
    attributes.push(KeyValue::new("holdfast.outage.cause", cause.clone()));
    let numbers = [
        ("holdfast.outage.waited", waited),
        ("holdfast.outage.lost", lost.values().sum()),
        ("holdfast.outage.possible_duplicates", possible_duplicates),
        ("holdfast.outage.peak_memory_bytes", peak_memory_bytes),
        ("holdfast.outage.peak_disk_bytes", peak_disk_bytes),
    ];
    attributes.extend(numbers.map(|(key, number)| KeyValue::new(key, signed(number))));
    attributes.extend(
        lost.iter().map(|(reason, spans)| KeyValue::new(format!("holdfast.outage.lost.{reason}"), signed(*spans))),
    );
    attributes.extend(lateness.map(|lateness| KeyValue::new("holdfast.outage.lateness", lateness.as_secs_f64())));
    let ids = RandomIdGenerator::default();
    let (trace, span) = (ids.new_trace_id(), ids.new_span_id());
    Some(SpanData {
        span_context: SpanContext::new(trace, span, TraceFlags::SAMPLED, false, TraceState::default()),
        parent_span_id: SpanId::INVALID,
        parent_span_is_remote: false,
        span_kind: SpanKind::Internal,
        name: NAME.into(),
        start_time: from,
        // A wall clock that was set back meanwhile.
        end_time: SystemTime::max(from, to),
        attributes,
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: Status::Unset,
        instrumentation_scope: InstrumentationScope::builder("holdfast")
            .with_version(env!("CARGO_PKG_VERSION"))
            .build(),
    })
}

/// Host and port of an endpoint that is a URL of HTTP.
fn server_of(endpoint: &str) -> Option<(&str, u16)> {
    let (scheme, rest) = endpoint.split_once("://")?;
    let default = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    let authority = rest.split(['/', '?', '#']).next()?;
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => (host, port.strip_prefix(':')),
        None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
    };
    let port = port.map_or(Some(default), |port| port.parse().ok())?;
    (!host.is_empty()).then_some((host, port))
}

/// A number of more than `i64` holds is the largest that it does.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_server_of_an_endpoint_is_its_host_and_its_port() {
        for (endpoint, server) in [
            ("http://collector:4317", Some(("collector", 4_317))),
            ("https://collector.example/v1/traces", Some(("collector.example", 443))),
            ("http://[::1]:4318/", Some(("::1", 4_318))),
            ("http://127.0.0.1", Some(("127.0.0.1", 80))),
            ("unix:/run/collector.sock", None),
            ("a span exporter", None),
            ("http://:4317", None),
            ("http://collector:port", None),
        ] {
            assert_eq!(server_of(endpoint), server, "{endpoint}");
        }
    }

    #[test]
    fn a_span_lasts_from_the_first_failure_to_the_first_success_and_has_the_numbers() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let ended = |to| Event::OutageEnded {
            endpoint: Position::PRIMARY,
            duration: Duration::from_secs(30),
            from: Some(at(100)),
            to,
            cause: "HTTP status 503".to_owned(),
            waited: 7,
            lost: BTreeMap::from([("buffer_full", 3), ("buffer_age", 2)]),
            possible_duplicates: 1,
            lateness: Some(Duration::from_millis(1_500)),
            peak_memory_bytes: 4_096,
            peak_disk_bytes: u64::MAX,
        };
        let span = span_of(&ended(Some(at(130))), |_| "http://collector:4317").expect("over");
        assert_eq!((span.name.as_ref(), span.start_time, span.end_time), (NAME, at(100), at(130)));
        assert!(span.span_context.is_valid() && span.span_context.is_sampled() && span.status == Status::Unset);
        let attributes: BTreeMap<_, _> =
            span.attributes.iter().map(|attribute| (attribute.key.as_str(), attribute.value.to_string())).collect();
        assert_eq!(attributes.len(), span.attributes.len(), "each key once");
        for (key, value) in [
            ("server.address", "collector"),
            ("server.port", "4317"),
            ("holdfast.outage.endpoint", "primary"),
            ("holdfast.outage.cause", "HTTP status 503"),
            ("holdfast.outage.waited", "7"),
            ("holdfast.outage.lost", "5"),
            ("holdfast.outage.lost.buffer_full", "3"),
            ("holdfast.outage.lost.buffer_age", "2"),
            ("holdfast.outage.possible_duplicates", "1"),
            ("holdfast.outage.lateness", "1.5"),
            ("holdfast.outage.peak_memory_bytes", "4096"),
            ("holdfast.outage.peak_disk_bytes", "9223372036854775807"),
        ] {
            assert_eq!(attributes[key], value, "{key}");
        }
        let set_back = span_of(&ended(Some(at(90))), |_| "").expect("over");
        assert_eq!((set_back.start_time, set_back.end_time), (at(100), at(100)));
        let vanished = Event::JournalVanished { spans: 1 };
        assert!(span_of(&ended(None), |_| "").is_none() && span_of(&vanished, |_| "").is_none());
    }
}
