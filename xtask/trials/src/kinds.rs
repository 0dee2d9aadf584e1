//! Programs whose spans are of every kind that OTLP knows and the SDK can make, and of every size.

use std::time::{Duration, UNIX_EPOCH};

use opentelemetry::trace::{
    Event, Link, Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags,
    TraceId, TraceState, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Array, Context, InstrumentationScope, KeyValue, StringValue, Value};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, SpanData};

use crate::app::{self, Recorder};

/// The resource of one program, and its batches in order.
#[derive(Clone, Debug)]
pub struct Program {
    /// Who it is.
    pub resource: Resource,
    /// The batches that its batch processor handed to an exporter.
    pub batches: Vec<Vec<SpanData>>,
}

impl Program {
    /// How many spans it made.
    #[must_use]
    pub fn spans(&self) -> usize {
        self.batches.iter().map(Vec::len).sum()
    }
}

/// So many programs make one span each, all of one trace: the files that they leave begin alike.
pub const ALIKE: usize = 12;

/// The programs, in the order in which they run. No span is longer than a line of a file.
#[must_use]
pub fn programs() -> Vec<Program> {
    let spans = Spans::new();
    // A file below 1,000 bytes, by which the Collector distinguishes files: this file has fewer.
    let mut programs = vec![Program { resource: small_resource(), batches: vec![vec![spans.empty()]] }];
    // The same with so large a resource that a reader of the beginning does not see the spans behind it.
    let large = large_resource();
    programs.extend((0..ALIKE).map(|_| Program { resource: large.clone(), batches: vec![vec![spans.empty()]] }));
    let every_kind = (0..300).map(|number| spans.of_every_kind(number)).collect::<Vec<_>>();
    let mut one_by_one = every_kind[..20].iter().map(|span| vec![span.clone()]).collect::<Vec<_>>();
    one_by_one.push(every_kind[20..].to_vec());
    programs.push(Program { resource: large.clone(), batches: one_by_one });
    // Lines just below 1,000,000 bytes: of one span, and of as many as fit when a batch becomes several lines.
    let large_spans =
        vec![vec![spans.large(990_000)], (0..400).map(|_| spans.large(4 << 10)).collect(), vec![spans.large(997_000)]];
    programs.push(Program { resource: small_resource(), batches: large_spans });
    let many = app::finished_spans(2_048).chunks(512).map(<[SpanData]>::to_vec).collect();
    programs.push(Program { resource: large, batches: many });
    programs
}

/// A program with a span that is longer than a line may be, between two that are not.
#[must_use]
pub fn oversized() -> Program {
    let spans = Spans::new();
    Program { resource: small_resource(), batches: vec![vec![spans.empty(), spans.large(1_500_000), spans.empty()]] }
}

/// Makes spans through the real SDK.
struct Spans {
    provider: SdkTracerProvider,
    recorder: Recorder,
    trace: Context,
}

impl Spans {
    fn new() -> Self {
        let recorder = Recorder::default();
        let provider = SdkTracerProvider::builder().with_span_processor(recorder.clone()).build();
        // Our caller is another program.
        let remote = SpanContext::new(
            TraceId::from(0xfe_dcba_9876_5432_1001_2345_6789_abcd_u128),
            SpanId::from(0x8765_4321_0fed_cba9_u64),
            TraceFlags::SAMPLED,
            true,
            "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE".parse::<TraceState>().expect("as in the specification"),
        );
        Self { provider, recorder, trace: Context::new().with_remote_span_context(remote) }
    }

    /// A span with the fields that every span has, and no other.
    fn empty(&self) -> SpanData {
        self.one(&self.provider.tracer(""), SpanBuilder::from_name(""), &self.trace)
    }

    fn large(&self, bytes: usize) -> SpanData {
        let letters = (0..bytes).map(|at| char::from(b'a' + (at % 23) as u8)).collect::<String>();
        let builder = SpanBuilder::from_name("large").with_attributes([KeyValue::new("body", letters)]);
        self.one(&self.provider.tracer("large"), builder, &Context::new())
    }

    fn of_every_kind(&self, number: u32) -> SpanData {
        let kinds = [SpanKind::Internal, SpanKind::Server, SpanKind::Client, SpanKind::Producer, SpanKind::Consumer];
        let start = UNIX_EPOCH + Duration::from_nanos(1_790_000_000_123_456_789 + u64::from(number));
        let mut builder = SpanBuilder::from_name(texts()[number as usize % texts().len()])
            .with_kind(kinds[number as usize % kinds.len()].clone())
            .with_start_time(start)
            .with_attributes(attributes(number))
            .with_events(vec![
                Event::new("", UNIX_EPOCH, Vec::new(), 0),
                Event::new("ereignis grün", start, attributes(number + 1), 7),
            ])
            .with_links(links(number));
        if number.is_multiple_of(50) {
            // More than the SDK's limits: the SDK counts those that it drops.
            builder = builder
                .with_attributes((0..200).map(|n| KeyValue::new(format!("attribute {n}"), n)))
                .with_events((0..200).map(|n| Event::new(format!("event {n}"), start, Vec::new(), 0)).collect());
        }
        let context = if number.is_multiple_of(2) { self.trace.clone() } else { Context::new() };
        let tracer = self.tracer(number);
        let mut span = tracer.build_with_context(builder, &context);
        span.set_status(match number % 4 {
            0 => Status::Unset,
            1 => Status::Ok,
            2 => Status::error(""),
            _ => Status::error("außer Betrieb"),
        });
        span.end_with_timestamp(start + Duration::from_micros(u64::from(number)));
        self.recorder.take().pop().expect("ended just now")
    }

    /// Of several scopes, some of which differ in one thing only.
    fn tracer(&self, number: u32) -> SdkTracer {
        let scope = InstrumentationScope::builder("kinds");
        self.provider.tracer_with_scope(match number % 5 {
            0 => scope.build(),
            1 => scope.with_version("1.0").build(),
            2 => scope.with_schema_url("https://opentelemetry.io/schemas/1.30.0").build(),
            3 => scope.with_attributes([KeyValue::new("scope", true), KeyValue::new("n", i64::MIN)]).build(),
            _ => InstrumentationScope::builder("größe").with_version("").build(),
        })
    }

    fn one(&self, tracer: &SdkTracer, builder: SpanBuilder, context: &Context) -> SpanData {
        tracer.build_with_context(builder, context).end();
        self.recorder.take().pop().expect("ended just now")
    }
}

fn links(number: u32) -> Vec<Link> {
    let context = |remote, state: &str| {
        let state = state.parse::<TraceState>().expect("as in the specification");
        SpanContext::new(TraceId::from(u128::MAX), SpanId::from(u64::MAX), TraceFlags::default(), remote, state)
    };
    match number % 3 {
        0 => Vec::new(),
        1 => vec![Link::new(context(true, "a=1"), attributes(number), 3)],
        _ => vec![Link::new(context(false, ""), Vec::new(), 0), Link::new(context(true, ""), Vec::new(), u32::MAX)],
    }
}

/// Every kind of value, with those that are easily lost on the way.
fn attributes(number: u32) -> Vec<KeyValue> {
    let float = f64::from_bits(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(u64::from(number) + 1));
    let doubles = vec![
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        0.0,
        -0.0,
        0.1,
        5e-324,
        f64::MIN_POSITIVE,
        f64::MAX,
        1e21,
        9_007_199_254_740_993.0,
        if float.is_nan() { 1.5 } else { float },
    ];
    let integers = vec![i64::MIN, i64::MAX, 0, -1, (1 << 53) + 1, i64::from(number)];
    let strings = texts().map(StringValue::from).to_vec();
    let mut all = vec![
        KeyValue::new("bool", number.is_multiple_of(2)),
        KeyValue::new("", "a key without a name"),
        KeyValue::new("schlüssel \u{1f980}\"\\\n", "a key with everything"),
        KeyValue::new("bools", Value::Array(Array::Bool(vec![true, false]))),
        KeyValue::new("integers", Value::Array(Array::I64(integers.clone()))),
        KeyValue::new("doubles", Value::Array(Array::F64(doubles.clone()))),
        KeyValue::new("strings", Value::Array(Array::String(strings))),
        KeyValue::new("no strings", Value::Array(Array::String(Vec::new()))),
        KeyValue::new("no integers", Value::Array(Array::I64(Vec::new()))),
    ];
    let named = |name: &str, at: usize| format!("{name} {at}");
    all.extend(integers.into_iter().enumerate().map(|(at, value)| KeyValue::new(named("integer", at), value)));
    all.extend(doubles.into_iter().enumerate().map(|(at, value)| KeyValue::new(named("double", at), value)));
    all.extend(texts().into_iter().enumerate().map(|(at, value)| KeyValue::new(named("text", at), value)));
    all
}

fn texts() -> [&'static str; 7] {
    [
        "",
        "GET /orders",
        "grün, 漢字, \u{1f980}, עברית, e\u{301}",
        "quote \" backslash \\ slash / \\u0041",
        "\u{0}\u{1}\u{1f}\u{7f}\u{80}\n\r\t\u{8}\u{c}",
        "\u{2028}\u{2029}\u{feff}\u{ffff}\u{10ffff}",
        "{\"resourceSpans\":[]}\n{\"resourceSpans\":[]}",
    ]
}

fn small_resource() -> Resource {
    Resource::builder_empty().with_service_name("s").build()
}

/// More than the 1,000 bytes by which the Collector distinguishes files, with every kind of value.
fn large_resource() -> Resource {
    let labels = (0..40)
        .map(|n| KeyValue::new(format!("k8s.pod.label.number-{n}"), format!("a value of some length, number {n}")));
    Resource::builder()
        .with_service_name("laden")
        .with_attributes(labels)
        .with_schema_url(attributes(0), "https://opentelemetry.io/schemas/1.30.0")
        .build()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_span_is_another_and_no_kind_is_forgotten() {
        let programs = programs();
        let spans = programs.iter().flat_map(|program| program.batches.iter().flatten()).collect::<Vec<_>>();
        let ids = spans.iter().map(|span| span.span_context.span_id()).collect::<HashSet<_>>();
        assert_eq!(ids.len(), spans.len());
        assert_eq!(spans.len(), programs.iter().map(Program::spans).sum::<usize>());
        let texts = spans.iter().flat_map(|span| &span.attributes).map(|pair| format!("{:?}", pair.value));
        let texts = texts.collect::<HashSet<_>>();
        for value in
            ["Bool(true)", "I64(-9223372036854775808)", "F64(NaN)", "F64(-inf)", "F64(-0.0)", "Array(String([]))"]
        {
            assert!(texts.contains(value), "{value}");
        }
        assert!(spans.iter().any(|span| span.dropped_attributes_count > 0 && span.events.dropped_count > 0));
        assert!(spans.iter().any(|span| span.links.len() == 2) && spans.iter().any(|span| span.parent_span_is_remote));
    }
}
