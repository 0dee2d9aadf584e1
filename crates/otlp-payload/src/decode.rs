//! Bytes back to the SDK's own types, for exporters that take nothing else.

mod value;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry::trace::{Event, Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use crate::walk::{ENTRIES, RESOURCES, SCOPES};
use crate::wire::{DecodeError, Fields, MAX_DEPTH, array};
use value::{Depth, key_value};

/// The spans of one resource in a request.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Decoded {
    /// The resource that made the spans; empty when the request names none.
    pub resource: Resource,
    /// The spans of all its scopes, scope by scope.
    pub spans: Vec<SpanData>,
}

/// Decodes a request of one resource, as [`Encoder`](crate::Encoder) makes them.
///
/// A value that the SDK's types cannot hold is brought as near as they allow: a value that is bytes becomes base64
/// text; a map or an array of mixed kinds becomes JSON text; an unspecified span kind is internal; an invalid trace
/// state is empty; invalid UTF-8 becomes U+FFFD; span flags above the sampled and remote bits, dropped counts of
/// resource and scope, and fields unknown to this crate are left out; of a singular field given twice the last counts.
/// None of these occurs in the encoder's output: there encoding again gives the same bytes, the order of resource
/// attributes and of equal scopes apart. Whether a span's own context was remote is not in OTLP.
///
/// # Errors
///
/// When the bytes are not readable, or hold more than one resource ([`decode_all`] takes these).
pub fn decode(request: &[u8]) -> Result<Decoded, DecodeError> {
    let mut all = decode_all(request)?;
    match all.len() {
        0 | 1 => {
            let empty = || Decoded { resource: Resource::builder_empty().build(), spans: Vec::new() };
            Ok(all.pop().unwrap_or_else(empty))
        }
        count => Err(DecodeError::SeveralResources { count }),
    }
}

/// Decodes a request of any number of resources, one entry for each, in their order.
///
/// # Errors
///
/// When the bytes are not readable. Nothing is allocated for a length that the bytes do not have.
pub fn decode_all(request: &[u8]) -> Result<Vec<Decoded>, DecodeError> {
    let mut all = Vec::new();
    for field in Fields::new(request, 0) {
        let field = field?;
        if field.number == RESOURCES {
            let (content, base) = field.bytes()?;
            all.push(resource_spans(content, base)?);
        }
    }
    Ok(all)
}

fn resource_spans(message: &[u8], base: usize) -> Result<Decoded, DecodeError> {
    let (mut attributes, mut schema_url, mut spans) = (Vec::new(), String::new(), Vec::new());
    for field in Fields::new(message, base) {
        let field = field?;
        match field.number {
            1 => {
                attributes.clear();
                let (content, base) = field.bytes()?;
                for field in Fields::new(content, base) {
                    let field = field?;
                    if field.number == 1 {
                        attributes.push(key_value(&field, Depth(MAX_DEPTH - 2))?);
                    }
                }
            }
            SCOPES => {
                let (content, base) = field.bytes()?;
                scope_spans(content, base, &mut spans)?;
            }
            3 => schema_url = text(field.bytes()?.0),
            _ => {}
        }
    }
    let mut resource = Resource::builder_empty();
    if !schema_url.is_empty() {
        resource = resource.with_schema_url([], schema_url);
    }
    Ok(Decoded { resource: resource.with_attributes(attributes).build(), spans })
}

/// The scope may stand behind its spans.
fn scope_spans(message: &[u8], base: usize, spans: &mut Vec<SpanData>) -> Result<(), DecodeError> {
    let (mut name, mut version, mut schema_url, mut attributes) =
        (String::new(), String::new(), String::new(), Vec::new());
    for field in Fields::new(message, base) {
        let field = field?;
        match field.number {
            1 => {
                (name, version) = (String::new(), String::new());
                attributes.clear();
                let (content, base) = field.bytes()?;
                for field in Fields::new(content, base) {
                    let field = field?;
                    match field.number {
                        1 => name = text(field.bytes()?.0),
                        2 => version = text(field.bytes()?.0),
                        3 => attributes.push(key_value(&field, Depth(MAX_DEPTH - 3))?),
                        _ => {}
                    }
                }
            }
            3 => schema_url = text(field.bytes()?.0),
            _ => {}
        }
    }
    let mut scope = InstrumentationScope::builder(name).with_attributes(attributes);
    if !version.is_empty() {
        scope = scope.with_version(version);
    }
    if !schema_url.is_empty() {
        scope = scope.with_schema_url(schema_url);
    }
    let scope = scope.build();
    for field in Fields::new(message, base) {
        let field = field?;
        if field.number == ENTRIES {
            let (content, base) = field.bytes()?;
            spans.push(span(content, base, &scope)?);
        }
    }
    Ok(())
}

/// How deep the values of a span may still nest.
const IN_SPAN: Depth = Depth(MAX_DEPTH - 3);

fn span(message: &[u8], base: usize, scope: &InstrumentationScope) -> Result<SpanData, DecodeError> {
    let mut context = Context::default();
    let mut span = SpanData {
        span_context: SpanContext::NONE,
        parent_span_id: SpanId::INVALID,
        parent_span_is_remote: false,
        span_kind: SpanKind::Internal,
        name: String::new().into(),
        start_time: UNIX_EPOCH,
        end_time: UNIX_EPOCH,
        attributes: Vec::new(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: Status::Unset,
        instrumentation_scope: scope.clone(),
    };
    for field in Fields::new(message, base) {
        let field = field?;
        match field.number {
            1 => context.trace_id = array(field.bytes()?.0),
            2 => context.span_id = array(field.bytes()?.0),
            3 => context.trace_state = text(field.bytes()?.0),
            4 => span.parent_span_id = SpanId::from_bytes(array(field.bytes()?.0)),
            5 => span.name = text(field.bytes()?.0).into(),
            6 => span.span_kind = kind(field.varint()?),
            7 => span.start_time = time(field.fixed64()?),
            8 => span.end_time = time(field.fixed64()?),
            9 => span.attributes.push(key_value(&field, IN_SPAN)?),
            10 => span.dropped_attributes_count = field.varint()? as u32,
            11 => {
                let (content, base) = field.bytes()?;
                span.events.events.push(event(content, base)?);
            }
            12 => span.events.dropped_count = field.varint()? as u32,
            13 => {
                let (content, base) = field.bytes()?;
                span.links.links.push(link(content, base)?);
            }
            14 => span.links.dropped_count = field.varint()? as u32,
            15 => {
                let (content, base) = field.bytes()?;
                span.status = status(content, base)?;
            }
            16 => context.flags = field.fixed32()?,
            _ => {}
        }
    }
    // In a span the remote bit speaks of its parent, in a link of the linked context itself.
    span.parent_span_is_remote = context.is_remote();
    span.span_context = context.build(false);
    Ok(span)
}

fn event(message: &[u8], base: usize) -> Result<Event, DecodeError> {
    let (mut time_unix_nano, mut name, mut attributes, mut dropped) = (0, String::new(), Vec::<KeyValue>::new(), 0);
    for field in Fields::new(message, base) {
        let field = field?;
        match field.number {
            1 => time_unix_nano = field.fixed64()?,
            2 => name = text(field.bytes()?.0),
            3 => attributes.push(key_value(&field, Depth(IN_SPAN.0 - 1))?),
            4 => dropped = field.varint()? as u32,
            _ => {}
        }
    }
    Ok(Event::new(name, time(time_unix_nano), attributes, dropped))
}

fn link(message: &[u8], base: usize) -> Result<Link, DecodeError> {
    let (mut context, mut attributes, mut dropped) = (Context::default(), Vec::<KeyValue>::new(), 0);
    for field in Fields::new(message, base) {
        let field = field?;
        match field.number {
            1 => context.trace_id = array(field.bytes()?.0),
            2 => context.span_id = array(field.bytes()?.0),
            3 => context.trace_state = text(field.bytes()?.0),
            4 => attributes.push(key_value(&field, Depth(IN_SPAN.0 - 1))?),
            5 => dropped = field.varint()? as u32,
            6 => context.flags = field.fixed32()?,
            _ => {}
        }
    }
    let remote = context.is_remote();
    Ok(Link::new(context.build(remote), attributes, dropped))
}

fn status(message: &[u8], base: usize) -> Result<Status, DecodeError> {
    let (mut description, mut code) = (String::new(), 0);
    for field in Fields::new(message, base) {
        let field = field?;
        match field.number {
            2 => description = text(field.bytes()?.0),
            3 => code = field.varint()?,
            _ => {}
        }
    }
    Ok(match code {
        1 => Status::Ok,
        2 => Status::Error { description: description.into() },
        _ => Status::Unset,
    })
}

#[derive(Default)]
struct Context {
    trace_id: [u8; 16],
    span_id: [u8; 8],
    trace_state: String,
    flags: u32,
}

impl Context {
    fn is_remote(&self) -> bool {
        self.flags & 0x200 != 0
    }

    fn build(self, is_remote: bool) -> SpanContext {
        SpanContext::new(
            TraceId::from_bytes(self.trace_id),
            SpanId::from_bytes(self.span_id),
            TraceFlags::new((self.flags & 0xff) as u8),
            is_remote,
            trace_state(&self.trace_state),
        )
    }
}

/// Not by the SDK's own parser: that one trims the values, so a trace state that it wrote would not come back.
fn trace_state(header: &str) -> TraceState {
    if header.is_empty() {
        return TraceState::NONE;
    }
    let members = header.split(',').map(|member| member.split_once('=').unwrap_or((member, "")));
    TraceState::from_key_value(members).unwrap_or(TraceState::NONE)
}

fn kind(number: u64) -> SpanKind {
    match number {
        2 => SpanKind::Server,
        3 => SpanKind::Client,
        4 => SpanKind::Producer,
        5 => SpanKind::Consumer,
        _ => SpanKind::Internal,
    }
}

fn time(nanos: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(nanos)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
