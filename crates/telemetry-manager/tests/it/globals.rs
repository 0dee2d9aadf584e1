use std::collections::HashMap;

use crate::support::World;
use telemetry_manager::opentelemetry::trace::{TraceContextExt as _, Tracer as _};
use telemetry_manager::opentelemetry::{Context, global};

/// The only test that touches the globals: they belong to the whole process.
#[test]
fn the_globals_are_set_by_default_and_propagators_even_when_disabled() {
    let world = World::new();
    let manager =
        world.builder(&[("OTEL_PROPAGATORS", "tracecontext")]).with_globals(true).build().expect("telemetry starts");
    let span = global::tracer("test").start("work");
    let context = Context::new().with_span(span);
    let mut carrier = HashMap::new();
    global::get_text_map_propagator(|propagator| propagator.inject_context(&context, &mut carrier));
    assert!(carrier.contains_key("traceparent") && !carrier.contains_key("baggage"), "{carrier:?}");
    drop(context);
    manager.shutdown().expect("everything is delivered");
    assert_eq!(world.collector.received().unique, 1);

    // Disabled, what came in is passed on: this process only adds nothing.
    let _manager =
        world.builder(&[("OTEL_SDK_DISABLED", "true")]).with_globals(true).build().expect("telemetry starts");
    let parent = global::get_text_map_propagator(|propagator| propagator.extract(&carrier));
    let span = global::tracer("test").start_with_context("work", &parent);
    let (context, mut onward) = (Context::new().with_span(span), HashMap::new());
    global::get_text_map_propagator(|propagator| propagator.inject_context(&context, &mut onward));
    assert_eq!(onward.get("traceparent"), carrier.get("traceparent"));
    assert_eq!(world.collector.received().unique, 1);
}
