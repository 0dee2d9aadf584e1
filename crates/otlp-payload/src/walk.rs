//! Counting and naming the spans of a request.

use crate::wire::{DecodeError, Fields, array};

/// `ExportTraceServiceRequest.resource_spans`.
pub(crate) const RESOURCE_SPANS: u32 = 1;
/// `ResourceSpans.resource`, and `Resource.attributes`.
const RESOURCE: u32 = 1;
const ATTRIBUTES: u32 = 1;
/// `KeyValue.key` and `KeyValue.value`; `AnyValue.string_value`.
const KEY: u32 = 1;
const VALUE: u32 = 2;
const STRING_VALUE: u32 = 1;
/// `ResourceSpans.scope_spans`.
pub(crate) const SCOPE_SPANS: u32 = 2;
/// `ScopeSpans.spans`.
pub(crate) const SPANS: u32 = 2;

/// Counts the spans of an `ExportTraceServiceRequest`; the spans themselves are not looked into.
///
/// # Errors
///
/// When the bytes are no such request, down to the borders of the spans.
pub fn count_spans(request: &[u8]) -> Result<usize, DecodeError> {
    let mut count = 0;
    for_each_span(request, |_, _| count += 1)?;
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
    for_each_span(request, |span, base| {
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
    let Some(resource_spans) = messages(request, 0, RESOURCE_SPANS).next() else { return Ok(None) };
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

/// Calls `visit` with each span's content and its place in the request.
pub(crate) fn for_each_span<'a>(request: &'a [u8], mut visit: impl FnMut(&'a [u8], usize)) -> Result<(), DecodeError> {
    for resource_spans in messages(request, 0, RESOURCE_SPANS) {
        let (resource_spans, base) = resource_spans?;
        for scope_spans in messages(resource_spans, base, SCOPE_SPANS) {
            let (scope_spans, base) = scope_spans?;
            for span in messages(scope_spans, base, SPANS) {
                let (span, base) = span?;
                visit(span, base);
            }
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
