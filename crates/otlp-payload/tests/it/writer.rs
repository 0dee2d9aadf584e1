//! A batch that is written span by span has the bytes of one that is encoded at once.

use std::time::UNIX_EPOCH;

use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanData;
use otlp_payload::{BatchWriter, Encoder, ValueLimits};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use crate::encode::ID;
use crate::spans;

/// Each batch by the same writer.
fn written(writer: &mut BatchWriter, encoder: &Encoder, batch: &[SpanData]) -> Vec<u8> {
    batch.iter().for_each(|span| writer.push(span));
    let payload = writer.finish(encoder, ID, UNIX_EPOCH);
    assert_eq!((payload.item_count(), payload.id(), payload.created()), (batch.len(), ID, UNIX_EPOCH));
    let (bytes, length) = (payload.bytes().clone(), payload.bytes().len());
    drop(payload);
    let vec = Vec::from(bytes);
    assert_eq!(vec.capacity(), length, "no spare room");
    vec
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn equals_the_encoder_batch_after_batch(
        resource in spans::resource(),
        batches in vec(vec(spans::span(), 1..12), 1..6),
        cleared in 0..6_usize,
        limits in (0..20_usize, 0..20_usize),
    ) {
        let limits = ValueLimits::new(Some(limits.0), Some(limits.1));
        let encoder = Encoder::new(&resource).with_value_limits(limits);
        let mut writer = BatchWriter::new(limits);
        for (index, batch) in batches.iter().enumerate() {
            if index == cleared {
                batch.iter().for_each(|span| writer.push(span));
                prop_assert_eq!(writer.clear(), batch.len());
                prop_assert_eq!((writer.span_count(), writer.byte_count()), (0, 0));
            }
            let expected = encoder.encode(ID, UNIX_EPOCH, batch);
            prop_assert_eq!(&written(&mut writer, &encoder, batch)[..], &expected.bytes()[..]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_batch_that_is_appended_has_the_bytes_of_both(
        batch in vec(spans::span(), 0..12),
        cut in 0..12_usize,
        again in vec(spans::span(), 1..4),
    ) {
        let encoder = Encoder::new(&Resource::builder_empty().build());
        let [mut one, mut other] = [(); 2].map(|()| BatchWriter::new(ValueLimits::default()));
        let (first, second) = batch.split_at(cut.min(batch.len()));
        first.iter().for_each(|span| one.push(span));
        second.iter().for_each(|span| other.push(span));
        one.append(&mut other);
        prop_assert_eq!((one.span_count(), other.span_count(), other.byte_count()), (batch.len(), 0, 0));
        let expected = encoder.encode(ID, UNIX_EPOCH, &batch);
        let joined = one.finish(&encoder, ID, UNIX_EPOCH);
        // An empty batch of the encoder has no scope either.
        prop_assert_eq!(joined.bytes(), expected.bytes());
        for writer in [&mut one, &mut other] {
            let expected = encoder.encode(ID, UNIX_EPOCH, &again);
            prop_assert_eq!(&written(writer, &encoder, &again)[..], &expected.bytes()[..]);
        }
    }
}

fn template() -> SpanData {
    spans::span().new_tree(&mut TestRunner::deterministic()).expect("a span").current()
}

fn of(scope: InstrumentationScope) -> SpanData {
    SpanData { instrumentation_scope: scope, ..template() }
}

#[test]
fn many_scopes_and_those_that_are_equal_to_none_stay_in_the_order_of_their_first_spans() {
    let scope = |index: usize| {
        let nan = if index % 10 == 3 { f64::NAN } else { 1.0 };
        let attributes = [KeyValue::new("nan", nan), KeyValue::new("index", index as i64 % 3)];
        InstrumentationScope::builder(format!("scope {}", index * 7 % 40)).with_attributes(attributes).build()
    };
    let encoder = Encoder::new(&Resource::builder_empty().build());
    let mut writer = BatchWriter::new(ValueLimits::default());
    for first in [0, 3, 100] {
        let batch = (first..first + 150).map(|index| of(scope(index))).collect::<Vec<_>>();
        let expected = encoder.encode(ID, UNIX_EPOCH, &batch);
        assert_eq!(written(&mut writer, &encoder, &batch), expected.bytes()[..], "{first}");
    }
}

#[test]
fn the_attributes_of_a_scope_stand_in_the_order_of_the_first_span_of_each_batch() {
    let (one, two) = (KeyValue::new("one", 1), KeyValue::new("two", 2));
    let scope = |attributes: [&KeyValue; 2]| {
        of(InstrumentationScope::builder("s").with_attributes(attributes.map(Clone::clone)).build())
    };
    let encoder = Encoder::new(&Resource::builder_empty().build());
    let mut writer = BatchWriter::new(ValueLimits::default());
    for batch in [[scope([&one, &two]), scope([&two, &one])], [scope([&two, &one]), scope([&one, &two])]] {
        let expected = encoder.encode(ID, UNIX_EPOCH, &batch);
        assert_eq!(written(&mut writer, &encoder, &batch), expected.bytes()[..]);
    }
}

#[test]
fn the_byte_count_is_that_of_the_request_to_a_few_bytes() {
    let encoder = Encoder::new(&Resource::builder_empty().build());
    let empty = encoder.encode(ID, UNIX_EPOCH, &[]).bytes().len();
    let mut writer = BatchWriter::new(ValueLimits::default());
    for size in [0, 1, 100, 20_000] {
        let mut span = template();
        span.name = "n".repeat(size).into();
        for _ in 0..10 {
            writer.push(&span);
        }
        let counted = writer.byte_count();
        let bytes = written_size(&mut writer, &encoder);
        assert!(counted + empty <= bytes + 16 && bytes <= counted + empty + 16, "{counted} of {bytes}");
    }
}

fn written_size(writer: &mut BatchWriter, encoder: &Encoder) -> usize {
    writer.finish(encoder, ID, UNIX_EPOCH).bytes().len()
}
