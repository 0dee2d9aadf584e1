//! Spans of one instrumentation scope together, scopes in the order of their first span.

use std::collections::HashMap;
use std::ptr;

use opentelemetry::{Array, InstrumentationScope, Value};
use opentelemetry_sdk::trace::SpanData;

/// The spans of a batch by scope.
pub(super) enum Groups<'a> {
    /// All spans have the same scope, or there are none.
    One(&'a [SpanData]),
    /// Each scope with its spans.
    Many(Vec<(&'a InstrumentationScope, Vec<&'a SpanData>)>),
}

impl<'a> Groups<'a> {
    pub(super) fn for_each(&self, mut visit: impl FnMut(&'a InstrumentationScope, Spans<'_, 'a>)) {
        match self {
            Self::One(spans) => {
                if let Some(first) = spans.first() {
                    visit(&first.instrumentation_scope, Spans::Slice(spans.iter()));
                }
            }
            Self::Many(groups) => {
                for (scope, spans) in groups {
                    visit(scope, Spans::Picked(spans.iter()));
                }
            }
        }
    }
}

/// The spans of one scope.
pub(super) enum Spans<'g, 'a> {
    Slice(std::slice::Iter<'a, SpanData>),
    Picked(std::slice::Iter<'g, &'a SpanData>),
}

impl<'a> Iterator for Spans<'_, 'a> {
    type Item = &'a SpanData;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Slice(spans) => spans.next(),
            Self::Picked(spans) => spans.next().copied(),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        match self {
            Self::Slice(spans) => spans.size_hint(),
            Self::Picked(spans) => spans.size_hint(),
        }
    }
}

impl ExactSizeIterator for Spans<'_, '_> {}

/// Groups by equality of scopes as the SDK defines it.
pub(super) fn group(spans: &[SpanData]) -> Groups<'_> {
    let Some(first) = spans.first() else { return Groups::One(spans) };
    let scope = &first.instrumentation_scope;
    match spans.iter().position(|span| !identical(scope, &span.instrumentation_scope)) {
        None => Groups::One(spans),
        Some(same) => Groups::Many(group_many(spans, same)),
    }
}

/// How many groups are searched by the cheap comparison before the hash decides.
const NEAR: usize = 4;

/// `same` spans at the start are known to have one scope.
fn group_many(spans: &[SpanData], same: usize) -> Vec<(&InstrumentationScope, Vec<&SpanData>)> {
    let (head, rest) = spans.split_at(same);
    let mut groups: Vec<(&InstrumentationScope, Vec<&SpanData>)> = Vec::new();
    let mut by_scope: HashMap<&InstrumentationScope, usize> = HashMap::new();
    if let Some(first) = head.first() {
        groups.push((&first.instrumentation_scope, head.iter().collect()));
        by_scope.insert(&first.instrumentation_scope, 0);
    }
    let mut last = 0;
    for span in rest {
        let scope = &span.instrumentation_scope;
        let is_it = |index: &usize| groups.get(*index).is_some_and(|(known, _)| identical(known, scope));
        // The hash and equality of a scope build and sort vectors of its attributes: they come last.
        let index = std::iter::once(last).chain(0..groups.len().min(NEAR)).find(is_it).unwrap_or_else(|| {
            *by_scope.entry(scope).or_insert_with(|| {
                groups.push((scope, Vec::new()));
                groups.len() - 1
            })
        });
        groups[index].1.push(span);
        last = index;
    }
    groups
}

/// True only if the scopes are equal; false may still mean equal (the same attributes in another order).
///
/// Not a number is never equal and the two zeros differ, as in the hash map that the stock exporter groups with.
pub(super) fn identical(a: &InstrumentationScope, b: &InstrumentationScope) -> bool {
    same_text(a.name(), b.name())
        && same_option(a.version(), b.version())
        && same_option(a.schema_url(), b.schema_url())
        && same_attributes(a, b)
}

fn same_text(a: &str, b: &str) -> bool {
    a.len() == b.len() && (ptr::eq(a.as_ptr(), b.as_ptr()) || a == b)
}

fn same_option(a: Option<&str>, b: Option<&str>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => same_text(a, b),
        (None, None) => true,
        _ => false,
    }
}

fn same_attributes(a: &InstrumentationScope, b: &InstrumentationScope) -> bool {
    let (mut a, mut b) = (a.attributes(), b.attributes());
    loop {
        match (a.next(), b.next()) {
            (None, None) => return true,
            (Some(a), Some(b)) if same_text(a.key.as_str(), b.key.as_str()) && same_value(&a.value, &b.value) => {}
            _ => return false,
        }
    }
}

fn same_value(a: &Value, b: &Value) -> bool {
    let bits = |a: &f64, b: &f64| a == b && a.to_bits() == b.to_bits();
    match (a, b) {
        (Value::F64(a), Value::F64(b)) => bits(a, b),
        (Value::Array(Array::F64(a)), Value::Array(Array::F64(b))) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| bits(a, b))
        }
        _ => a == b,
    }
}
