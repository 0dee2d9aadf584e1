//! Limits from the variable to the bytes that the collector receives.

use opentelemetry_proto::tonic::common::v1::KeyValue as Received;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use telemetry_manager::opentelemetry::trace::{
    Link, SpanBuilder, SpanContext, SpanId, TraceFlags, TraceId, TraceState, Tracer as _, TracerProvider as _,
};
use telemetry_manager::opentelemetry::{InstrumentationScope, KeyValue};

use crate::support::Setup;

/// The length in characters of the one text among these attributes.
fn length(attributes: &[Received]) -> usize {
    match attributes.iter().find(|one| one.key == "long").and_then(|one| one.value.as_ref()?.value.as_ref()) {
        Some(Value::StringValue(text)) => text.chars().count(),
        other => panic!("{other:?}"),
    }
}

/// The lengths that the collector receives of a text of 40 characters: in resource, scope, span, event and link.
fn received(vars: &[(&str, &str)]) -> [usize; 5] {
    let setup = Setup::new();
    let long = || "\u{e4}\u{1f600}".repeat(20);
    let manager = setup.builder(vars).with_resource_attributes([KeyValue::new("long", long())]).build();
    let manager = manager.expect("telemetry starts");
    let attributes = || vec![KeyValue::new("long", long())];
    let scope = InstrumentationScope::builder("test").with_attributes(attributes()).build();
    let linked = SpanContext::new(TraceId::from(1), SpanId::from(2), TraceFlags::SAMPLED, false, TraceState::NONE);
    let tracer = manager.tracer_provider().tracer_with_scope(scope);
    let span = SpanBuilder::from_name("work").with_attributes(attributes()).with_links(vec![Link::new(
        linked,
        attributes(),
        0,
    )]);
    let mut span = tracer.build(span);
    telemetry_manager::opentelemetry::trace::Span::add_event(&mut span, "event", attributes());
    drop(span);
    manager.shutdown().expect("delivered");
    let request = setup.requests().remove(0);
    let [resource] = &request.resource_spans[..] else { panic!("one resource") };
    let scope = &resource.scope_spans[0];
    let span = &scope.spans[0];
    [
        length(&resource.resource.as_ref().expect("a resource").attributes),
        length(&scope.scope.as_ref().expect("a scope").attributes),
        length(&span.attributes),
        length(&span.events[0].attributes),
        length(&span.links[0].attributes),
    ]
}

#[test]
fn the_general_limit_holds_for_all_but_the_resource_and_that_of_spans_beats_it() {
    let general = ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "30");
    let of_spans = ("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "7");
    assert_eq!(received(&[]), [40; 5]);
    assert_eq!(received(&[general]), [40, 30, 30, 30, 30]);
    assert_eq!(received(&[of_spans]), [40, 40, 7, 7, 7]);
    assert_eq!(received(&[general, of_spans]), [40, 30, 7, 7, 7]);
    assert_eq!(received(&[general, (of_spans.0, "many")]), [40, 30, 30, 30, 30], "a bad value counts as unset");
    assert_eq!(received(&[(general.0, "0")]), [40, 0, 0, 0, 0], "the smallest number of the specification");
}
