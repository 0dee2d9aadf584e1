//! One span, one scope, one attribute: fields in the order of their numbers, proto3 defaults left out.

use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry::trace::{Event, Link, SpanId, SpanKind, Status, TraceState};
use opentelemetry::{Array, InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::trace::SpanData;

use crate::wire::{close, open, put_bytes, put_varint, varint_len};

/// `SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK`: we always know whether the parent is remote.
const HAS_IS_REMOTE: u32 = 0x100;
/// `SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK`.
const IS_REMOTE: u32 = 0x200;

/// Field 1 of `ScopeSpans`. Texts of attributes have at most `limit` characters, here and in each function below.
pub(super) fn scope(out: &mut Vec<u8>, scope: &InstrumentationScope, limit: usize) {
    let message = open(out, 0x0a, 1);
    text(out, 0x0a, scope.name());
    text(out, 0x12, scope.version().unwrap_or_default());
    for KeyValue { key, value, .. } in scope.attributes() {
        key_value(out, 0x1a, key.as_str(), value, limit);
    }
    close(out, message);
}

/// Field 2 of `ScopeSpans`.
pub(super) fn span(out: &mut Vec<u8>, span: &SpanData, limit: usize) {
    let message = open(out, 0x12, 2);
    let context = &span.span_context;
    ids(out, context.trace_id().to_bytes(), context.span_id().to_bytes());
    trace_state(out, context.trace_state());
    if span.parent_span_id != SpanId::INVALID {
        let mut field = [0; 10];
        field[..2].copy_from_slice(&[0x22, 8]);
        field[2..].copy_from_slice(&span.parent_span_id.to_bytes());
        out.extend_from_slice(&field);
    }
    text(out, 0x2a, &span.name);
    out.extend_from_slice(&[0x30, kind(&span.span_kind)]);
    fixed64(out, 0x39, nanos(span.start_time));
    fixed64(out, 0x41, nanos(span.end_time));
    attributes(out, 0x4a, &span.attributes, limit);
    number(out, 0x50, span.dropped_attributes_count);
    for event in &span.events.events {
        self::event(out, event, limit);
    }
    number(out, 0x60, span.events.dropped_count);
    for link in &span.links.links {
        self::link(out, link, limit);
    }
    number(out, 0x70, span.links.dropped_count);
    status(out, &span.status);
    let flags = flags(context.trace_flags().to_u8(), span.parent_span_is_remote).to_le_bytes();
    out.extend_from_slice(&[0x85, 0x01, flags[0], flags[1], flags[2], flags[3]]);
    close(out, message);
}

fn event(out: &mut Vec<u8>, event: &Event, limit: usize) {
    // Two bytes of length from 128 bytes on: a usual event has a name and two or three attributes.
    let message = open(out, 0x5a, if event.attributes.len() < 3 { 1 } else { 2 });
    fixed64(out, 0x09, nanos(event.timestamp));
    text(out, 0x12, &event.name);
    attributes(out, 0x1a, &event.attributes, limit);
    number(out, 0x20, event.dropped_attributes_count);
    close(out, message);
}

fn link(out: &mut Vec<u8>, link: &Link, limit: usize) {
    let message = open(out, 0x6a, 1);
    let context = &link.span_context;
    ids(out, context.trace_id().to_bytes(), context.span_id().to_bytes());
    trace_state(out, context.trace_state());
    attributes(out, 0x22, &link.attributes, limit);
    number(out, 0x28, link.dropped_attributes_count);
    let flags = flags(context.trace_flags().to_u8(), context.is_remote()).to_le_bytes();
    out.extend_from_slice(&[0x35, flags[0], flags[1], flags[2], flags[3]]);
    close(out, message);
}

/// A status is written even when it is unset, as an empty message.
fn status(out: &mut Vec<u8>, status: &Status) {
    match status {
        Status::Unset => out.extend_from_slice(&[0x7a, 0]),
        Status::Ok => out.extend_from_slice(&[0x7a, 2, 0x18, 1]),
        Status::Error { description } => {
            let message = open(out, 0x7a, 1);
            text(out, 0x12, description);
            out.extend_from_slice(&[0x18, 2]);
            close(out, message);
        }
    }
}

#[inline]
fn ids(out: &mut Vec<u8>, trace: [u8; 16], span: [u8; 8]) {
    let mut fields = [0; 28];
    fields[..2].copy_from_slice(&[0x0a, 16]);
    fields[2..18].copy_from_slice(&trace);
    fields[18..20].copy_from_slice(&[0x12, 8]);
    fields[20..].copy_from_slice(&span);
    out.extend_from_slice(&fields);
}

/// The W3C header form, `key=value,key=value`, without building it first.
fn trace_state(out: &mut Vec<u8>, state: &TraceState) {
    let length: usize = state.into_iter().map(|(key, value)| key.len() + value.len() + 2).sum();
    let Some(length) = length.checked_sub(1) else { return };
    out.push(0x1a);
    put_varint(out, length as u64);
    for (index, (key, value)) in state.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(key.as_bytes());
        out.push(b'=');
        out.extend_from_slice(value.as_bytes());
    }
}

#[inline]
fn attributes(out: &mut Vec<u8>, tag: u8, attributes: &[KeyValue], limit: usize) {
    for KeyValue { key, value, .. } in attributes {
        key_value(out, tag, key.as_str(), value, limit);
    }
}

/// One `KeyValue`; every length is known before anything is written.
#[inline]
pub(super) fn key_value(out: &mut Vec<u8>, tag: u8, key: &str, value: &Value, limit: usize) {
    /// The longest key beside which each length below takes one byte, for every value but a text.
    const SHORT: usize = 0x80 - 16;
    if key.is_empty() || key.len() > SHORT {
        return any_key_value(out, tag, key, value, limit);
    }
    // The usual values: a field of known bytes behind the key.
    match value {
        Value::String(text) => {
            let text = shortened(text.as_str(), limit).as_bytes();
            if key.len() + text.len() > SHORT {
                return any_key_value(out, tag, key, value, limit);
            }
            short_key(out, tag, key, 4 + text.len());
            out.extend_from_slice(&[0x12, 2 + text.len() as u8, 0x0a, text.len() as u8]);
            out.extend_from_slice(text);
        }
        Value::Bool(value) => {
            short_key(out, tag, key, 4);
            out.extend_from_slice(&[0x12, 2, 0x10, u8::from(*value)]);
        }
        Value::I64(value @ 0..0x80) => {
            short_key(out, tag, key, 4);
            out.extend_from_slice(&[0x12, 2, 0x18, *value as u8]);
        }
        Value::I64(value @ 0x80..0x4000) => {
            short_key(out, tag, key, 5);
            out.extend_from_slice(&[0x12, 3, 0x18, *value as u8 | 0x80, (*value >> 7) as u8]);
        }
        _ => any_key_value(out, tag, key, value, limit),
    }
}

/// The tag and the length of a `KeyValue`, and its key; `rest` bytes follow. Both lengths take one byte.
#[inline]
fn short_key(out: &mut Vec<u8>, tag: u8, key: &str, rest: usize) {
    out.extend_from_slice(&[tag, (2 + key.len() + rest) as u8, 0x0a, key.len() as u8]);
    out.extend_from_slice(key.as_bytes());
}

/// One `KeyValue` of any size.
fn any_key_value(out: &mut Vec<u8>, tag: u8, key: &str, value: &Value, limit: usize) {
    let value_len = value_len(value, limit);
    let key_len = if key.is_empty() { 0 } else { bytes_len(key.len()) };
    let length = key_len + bytes_len(value_len);
    out.push(tag);
    put_varint(out, length as u64);
    text(out, 0x0a, key);
    out.push(0x12);
    put_varint(out, value_len as u64);
    any_value(out, value, limit);
}

/// The first `limit` characters of a text.
#[inline]
fn shortened(text: &str, limit: usize) -> &str {
    // A character has one byte at least: most texts are not looked into.
    if text.len() <= limit { text } else { first_characters(text, limit) }
}

#[cold]
fn first_characters(text: &str, count: usize) -> &str {
    text.char_indices().nth(count).map_or(text, |(end, _)| &text[..end])
}

/// The length of the `AnyValue` that holds `value`.
#[inline]
fn value_len(value: &Value, limit: usize) -> usize {
    match value {
        Value::Bool(_) => 2,
        Value::I64(value) => int_len(*value),
        Value::F64(_) => 9,
        Value::String(value) => bytes_len(shortened(value.as_str(), limit).len()),
        Value::Array(array) => bytes_len(array_len(array, limit)),
        // A kind that OTLP has and this version of the API does not: an empty value.
        _ => 0,
    }
}

#[inline]
fn int_len(value: i64) -> usize {
    1 + varint_len(value as u64)
}

#[inline]
fn bytes_len(length: usize) -> usize {
    1 + varint_len(length as u64) + length
}

fn array_len(array: &Array, limit: usize) -> usize {
    match array {
        Array::Bool(values) => values.len() * bytes_len(2),
        Array::I64(values) => values.iter().map(|value| bytes_len(int_len(*value))).sum(),
        Array::F64(values) => values.len() * bytes_len(9),
        Array::String(values) => {
            values.iter().map(|value| bytes_len(bytes_len(shortened(value.as_str(), limit).len()))).sum()
        }
        _ => 0,
    }
}

/// The content of an `AnyValue`; a member of its `oneof` is written even when it is 0 or empty.
#[inline]
fn any_value(out: &mut Vec<u8>, value: &Value, limit: usize) {
    match value {
        Value::Bool(value) => out.extend_from_slice(&[0x10, u8::from(*value)]),
        Value::I64(value) => int(out, *value),
        Value::F64(value) => double(out, *value),
        Value::String(value) => put_bytes(out, 0x0a, shortened(value.as_str(), limit).as_bytes()),
        Value::Array(array) => {
            out.push(0x2a);
            put_varint(out, array_len(array, limit) as u64);
            self::array(out, array, limit);
        }
        _ => {}
    }
}

#[inline]
fn int(out: &mut Vec<u8>, value: i64) {
    out.push(0x18);
    put_varint(out, value as u64);
}

#[inline]
fn double(out: &mut Vec<u8>, value: f64) {
    let bytes = value.to_le_bytes();
    out.push(0x21);
    out.extend_from_slice(&bytes);
}

fn array(out: &mut Vec<u8>, array: &Array, limit: usize) {
    match array {
        Array::Bool(values) => {
            for value in values {
                out.extend_from_slice(&[0x0a, 2, 0x10, u8::from(*value)]);
            }
        }
        Array::I64(values) => {
            for value in values {
                out.extend_from_slice(&[0x0a, int_len(*value) as u8]);
                int(out, *value);
            }
        }
        Array::F64(values) => {
            for value in values {
                out.extend_from_slice(&[0x0a, 9]);
                double(out, *value);
            }
        }
        Array::String(values) => {
            for value in values {
                let value = shortened(value.as_str(), limit).as_bytes();
                out.push(0x0a);
                put_varint(out, bytes_len(value.len()) as u64);
                put_bytes(out, 0x0a, value);
            }
        }
        _ => {}
    }
}

#[inline]
fn text(out: &mut Vec<u8>, tag: u8, value: &str) {
    if !value.is_empty() {
        put_bytes(out, tag, value.as_bytes());
    }
}

#[inline]
fn number(out: &mut Vec<u8>, tag: u8, value: u32) {
    if value != 0 {
        out.push(tag);
        put_varint(out, u64::from(value));
    }
}

#[inline]
fn fixed64(out: &mut Vec<u8>, tag: u8, value: u64) {
    if value != 0 {
        let mut field = [tag; 9];
        field[1..].copy_from_slice(&value.to_le_bytes());
        out.extend_from_slice(&field);
    }
}

/// The time of a span for [`Payload::newest`](crate::Payload::newest): its end, or its start without an end.
#[inline]
pub(super) fn time(span: &SpanData) -> u64 {
    match nanos(span.end_time) {
        0 => nanos(span.start_time),
        end => end,
    }
}

/// Nanoseconds since 1970; 0 before it, and the low 64 bits after 2554, as the stock exporter has it.
#[inline]
fn nanos(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs().wrapping_mul(1_000_000_000).wrapping_add(u64::from(since.subsec_nanos())))
}

fn kind(kind: &SpanKind) -> u8 {
    match kind {
        SpanKind::Internal => 1,
        SpanKind::Server => 2,
        SpanKind::Client => 3,
        SpanKind::Producer => 4,
        SpanKind::Consumer => 5,
    }
}

fn flags(trace_flags: u8, remote: bool) -> u32 {
    u32::from(trace_flags) | HAS_IS_REMOTE | if remote { IS_REMOTE } else { 0 }
}
