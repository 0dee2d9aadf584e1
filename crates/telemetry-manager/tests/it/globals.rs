use std::collections::HashMap;

use crate::support::Setup;
use telemetry_manager::opentelemetry::trace::{TraceContextExt as _, Tracer as _};
use telemetry_manager::opentelemetry::{Context, global};

/// The only test that touches the globals: they belong to the whole process.
#[test]
fn the_globals_are_set_by_default_and_propagators_even_when_disabled() {
    let setup = Setup::new();
    let manager =
        setup.builder(&[("OTEL_PROPAGATORS", "tracecontext")]).with_globals(true).build().expect("telemetry starts");
    let span = global::tracer("test").start("work");
    let context = Context::new().with_span(span);
    let mut carrier = HashMap::new();
    global::get_text_map_propagator(|propagator| propagator.inject_context(&context, &mut carrier));
    assert!(carrier.contains_key("traceparent") && !carrier.contains_key("baggage"), "{carrier:?}");
    drop(context);
    manager.shutdown().expect("everything is delivered");
    assert_eq!(setup.collector.received().unique, 1);

    // A disabled process passes the context that came in on, and adds no span.
    let _manager =
        setup.builder(&[("OTEL_SDK_DISABLED", "true")]).with_globals(true).build().expect("telemetry starts");
    let parent = global::get_text_map_propagator(|propagator| propagator.extract(&carrier));
    let span = global::tracer("test").start_with_context("work", &parent);
    let (context, mut onward) = (Context::new().with_span(span), HashMap::new());
    global::get_text_map_propagator(|propagator| propagator.inject_context(&context, &mut onward));
    assert_eq!(onward.get("traceparent"), carrier.get("traceparent"));
    assert_eq!(setup.collector.received().unique, 1);
}
