//! Counting and naming the items of a request.

use crate::signal::Signal;
use crate::wire::{DecodeError, Fields, array};

/// `ExportTraceServiceRequest.resource_spans`, and the same of the other signals.
pub(crate) const RESOURCES: u32 = 1;
/// `ResourceSpans.resource`, and `Resource.attributes`.
const RESOURCE: u32 = 1;
const ATTRIBUTES: u32 = 1;
/// `KeyValue.key` and `KeyValue.value`; `AnyValue.string_value`.
const KEY: u32 = 1;
const VALUE: u32 = 2;
const STRING_VALUE: u32 = 1;
/// `ResourceSpans.scope_spans`, and the same of the other signals.
pub(crate) const SCOPES: u32 = 2;
/// `ScopeSpans.spans`, `ScopeLogs.log_records`, `ScopeMetrics.metrics`.
pub(crate) const ENTRIES: u32 = 2;

/// Counts the spans of an `ExportTraceServiceRequest`; the spans themselves are not looked into.
///
/// # Errors
///
/// When the bytes are no such request, down to the borders of the spans.
pub fn count_spans(request: &[u8]) -> Result<usize, DecodeError> {
    count_items(Signal::Traces, request)
}

/// Counts the items of a request of this signal: spans, log records or data points. The items themselves are not looked
/// into.
///
/// ```
/// use otlp_payload::{Signal, count_items};
///
/// // One resource, one scope, and the metric "m": a gauge with two empty data points.
/// let request = b"\x0a\x0d\x12\x0b\x12\x09\x0a\x01m\x2a\x04\x0a\0\x0a\0";
/// assert_eq!(count_items(Signal::Metrics, request), Ok(2));
/// ```
///
/// # Errors
///
/// When the bytes are no such request, down to the borders of the items.
pub fn count_items(signal: Signal, request: &[u8]) -> Result<usize, DecodeError> {
    let mut count = 0;
    for_each_item(signal, request, |_, _| count += 1)?;
    Ok(count)
}

/// The trace id and span id of each span, in the order in which they stand.
///
/// An id of another length than OTLP's is right-aligned: missing bytes in front are 0, the last ones count.
///
/// # Errors
///
/// When the bytes are no readable request, the spans' own fields included; nothing is returned then.
pub fn span_ids(request: &[u8]) -> Result<impl ExactSizeIterator<Item = ([u8; 16], [u8; 8])>, DecodeError> {
    let mut ids = Vec::new();
    let mut result = Ok(());
    for_each_item(Signal::Traces, request, |span, base| {
        if result.is_ok() {
            result = ids_of(span, base).map(|found| ids.push(found));
        }
    })?;
    result?;
    Ok(ids.into_iter())
}

/// The text of the attribute `key` of the first resource, such as `service.name`. None if that resource has no such
/// attribute, or one that is no text.
///
/// # Errors
///
/// When the bytes are no readable request, down to the attributes of the first resource.
pub fn resource_text<'a>(request: &'a [u8], key: &str) -> Result<Option<&'a str>, DecodeError> {
    let Some(resource_spans) = messages(request, 0, RESOURCES).next() else { return Ok(None) };
    let (resource_spans, base) = resource_spans?;
    let mut found = None;
    for resource in messages(resource_spans, base, RESOURCE) {
        let (resource, base) = resource?;
        for attribute in messages(resource, base, ATTRIBUTES) {
            let (attribute, base) = attribute?;
            // An empty key has no field.
            let (mut is_wanted, mut text) = (key.is_empty(), None);
            for field in Fields::new(attribute, base) {
                let field = field?;
                match field.number {
                    KEY => is_wanted = field.bytes()?.0 == key.as_bytes(),
                    VALUE => {
                        let (value, base) = field.bytes()?;
                        text = messages(value, base, STRING_VALUE).last().transpose()?.map(|(text, _)| text);
                    }
                    _ => {}
                }
            }
            if is_wanted {
                found = text.and_then(|text| std::str::from_utf8(text).ok());
            }
        }
    }
    Ok(found)
}

fn ids_of(span: &[u8], base: usize) -> Result<([u8; 16], [u8; 8]), DecodeError> {
    let mut ids = ([0; 16], [0; 8]);
    for field in Fields::new(span, base) {
        let field = field?;
        match field.number {
            1 => ids.0 = array(field.bytes()?.0),
            2 => ids.1 = array(field.bytes()?.0),
            _ => {}
        }
    }
    Ok(ids)
}

/// Calls `visit` with each item's content and its place in the request.
pub(crate) fn for_each_item<'a>(
    signal: Signal,
    request: &'a [u8],
    mut visit: impl FnMut(&'a [u8], usize),
) -> Result<(), DecodeError> {
    for_each_below(request, 0, signal.levels(), &mut visit)
}

/// The same for one message: `levels` are the field numbers that lead from it to the items.
pub(crate) fn for_each_below<'a>(
    message: &'a [u8],
    base: usize,
    levels: &[&[u32]],
    visit: &mut impl FnMut(&'a [u8], usize),
) -> Result<(), DecodeError> {
    let Some((numbers, below)) = levels.split_first() else {
        visit(message, base);
        return Ok(());
    };
    for field in Fields::new(message, base) {
        let field = field?;
        if numbers.contains(&field.number) {
            let (content, base) = field.bytes()?;
            for_each_below(content, base, below, visit)?;
        }
    }
    Ok(())
}

/// The contents of all fields of `message` with this number.
fn messages(message: &[u8], base: usize, number: u32) -> impl Iterator<Item = Result<(&[u8], usize), DecodeError>> {
    Fields::new(message, base).filter_map(move |field| match field {
        Ok(field) if field.number == number => Some(field.bytes()),
        Ok(_) => None,
        Err(error) => Some(Err(error)),
    })
}
