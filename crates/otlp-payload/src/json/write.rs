//! Protobuf to JSON lines.

use super::object::put_message;
use super::schema::{Message, RESOURCE, Request, SCOPE, request};
use super::text::put_string;
use crate::signal::Signal;
use crate::walk::{ENTRIES, RESOURCES, SCOPES, for_each_below};
use crate::wire::{DecodeError, Fields, MAX_DEPTH};

/// One line of a file: a `TracesData`, `LogsData` or `MetricsData` object, without the newline.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct JsonLine {
    /// The text, UTF-8 without a line break inside.
    pub text: Vec<u8>,
    /// How many spans it holds, or items of another signal: at least one.
    pub items: usize,
    /// Longer than the limit, which some readers will not take: a single span (log record, metric) that is so by
    /// itself, or spans whose resource and scope leave less than an eighth of a line to them.
    pub oversized: bool,
}

/// Writes an `ExportTraceServiceRequest` as lines of at most `max_line_bytes` each.
///
/// A line begins with the ids of its first span: `scopeSpans` stand before `resource` and `spans` before `scope`, since
/// the Collector tells files apart by their first 1,000 bytes. A request that does not fit into one line becomes
/// several, each with its resource and its scopes; a request of several resources has at least one line for each. A
/// span that does not fit into any line gets one of its own and is marked. Where a resource (with the scope) takes more
/// than seven eighths of a line, its spans stay in one line, marked too, for it would be repeated without end. Scopes
/// and resources without spans are left out.
///
/// Enumerations are numbers, 64-bit integers strings, ids lower-case hex; proto3 defaults are left out. Bytes that are
/// not UTF-8 become U+FFFD, a payload of NaN is not kept, fields unknown to OTLP 1.11 are left out, and of a field
/// given twice the last counts; the [`Encoder`](crate::Encoder) writes none of these but NaN.
///
/// # Errors
///
/// When the bytes are not readable.
pub fn to_lines(request: &[u8], max_line_bytes: usize) -> Result<Vec<JsonLine>, DecodeError> {
    to_lines_of(Signal::Traces, request, max_line_bytes)
}

/// [`to_lines`] for a request of any signal: `LogsData` and `MetricsData` objects, whose lines are cut between log
/// records and between metrics. A metric stays whole, with all its data points; one without stands in the line of
/// others, and is left out where there would be no other.
///
/// # Errors
///
/// When the bytes are not readable.
pub fn to_lines_of(signal: Signal, bytes: &[u8], max_line_bytes: usize) -> Result<Vec<JsonLine>, DecodeError> {
    let mut lines = Vec::new();
    for field in Fields::new(bytes, 0) {
        let field = field?;
        if field.number == RESOURCES {
            let (content, base) = field.bytes()?;
            put_resource(&mut lines, signal, content, base, max_line_bytes)?;
        }
    }
    Ok(lines)
}

fn put_resource(
    lines: &mut Vec<JsonLine>,
    signal: Signal,
    message: &[u8],
    base: usize,
    max_line_bytes: usize,
) -> Result<(), DecodeError> {
    // Text is about 2.2 times as long as the bytes.
    let capacity = message.len().saturating_mul(5).div_euclid(2).min(max_line_bytes).saturating_add(256);
    let mut line = Line {
        lines,
        // Below resource and scope.
        below: signal.levels().get(3..).unwrap_or_default(),
        names: request(signal),
        max: max_line_bytes,
        capacity,
        text: Vec::new(),
        entries: 0,
        items: 0,
        in_scope: false,
        scope_end: Vec::new(),
        line_end: ending(message, base, &RESOURCE, b"],\"resource\":", b"}]}")?,
    };
    for field in Fields::new(message, base) {
        let field = field?;
        if field.number != SCOPES {
            continue;
        }
        let (message, base) = field.bytes()?;
        line.scope_end = ending(message, base, &SCOPE, b"],\"scope\":", b"}")?;
        for field in Fields::new(message, base) {
            let field = field?;
            if field.number == ENTRIES {
                let (entry, base) = field.bytes()?;
                line.add(entry, base)?;
            }
        }
        line.end_scope();
    }
    line.end();
    Ok(())
}

/// The text behind the spans or the scopes: fields 1 (a message) and 3 (the schema URL), then `end`.
fn ending(
    message: &[u8],
    base: usize,
    schema: &'static Message,
    start: &[u8],
    end: &[u8],
) -> Result<Vec<u8>, DecodeError> {
    let (mut first, mut schema_url) = (None, None);
    for field in Fields::new(message, base) {
        let field = field?;
        match field.number {
            1 => first = Some(field.bytes()?),
            3 => schema_url = Some(field.bytes()?.0),
            _ => {}
        }
    }
    let mut out = Vec::new();
    match first {
        Some((content, base)) => {
            out.extend_from_slice(start);
            put_message(&mut out, schema, content, base, MAX_DEPTH - 2)?;
        }
        None => out.push(b']'),
    }
    if let Some(url) = schema_url.filter(|url| !url.is_empty()) {
        out.extend_from_slice(b",\"schemaUrl\":");
        put_string(&mut out, url);
    }
    out.extend_from_slice(end);
    Ok(out)
}

/// The line that is being written.
struct Line<'l> {
    lines: &'l mut Vec<JsonLine>,
    /// The field numbers that lead from an entry to its items.
    below: &'static [&'static [u32]],
    names: &'static Request,
    max: usize,
    capacity: usize,
    text: Vec<u8>,
    /// Spans, log records or metrics.
    entries: usize,
    items: usize,
    in_scope: bool,
    scope_end: Vec<u8>,
    line_end: Vec<u8>,
}

impl Line<'_> {
    fn add(&mut self, entry: &[u8], base: usize) -> Result<(), DecodeError> {
        let mut items = 0;
        for_each_below(entry, base, self.below, &mut |_, _| items += 1)?;
        let before = self.text.len();
        let was_in_scope = self.in_scope;
        self.start_entry();
        let start = self.text.len();
        put_message(&mut self.text, self.names.entry, entry, base, MAX_DEPTH - 3)?;
        if self.length() > self.max && self.entries > 0 && !self.is_tight(was_in_scope) {
            // The entry goes to the next line as it is written here.
            let entry = self.text.split_off(start);
            self.text.truncate(before);
            self.in_scope = was_in_scope;
            self.end_scope();
            self.end();
            self.start_entry();
            self.text.extend_from_slice(&entry);
        }
        self.entries += 1;
        self.items += items;
        Ok(())
    }

    /// Whether resource and scope leave less than an eighth of a line to entries. They would be written for each few of
    /// them again: a batch of a thousand spans would become a thousand times its resource.
    fn is_tight(&self, in_scope: bool) -> bool {
        let scope = if in_scope { self.scope_end.len() } else { 0 };
        let around = self.names.line_start.len() + self.names.scope_start.len() + scope + self.line_end.len();
        around > self.max - self.max / 8
    }

    /// The length of the line if it ended here.
    fn length(&self) -> usize {
        self.text.len() + self.scope_end.len() + self.line_end.len()
    }

    fn start_entry(&mut self) {
        if self.in_scope {
            self.text.push(b',');
            return;
        }
        if self.entries == 0 {
            self.text = Vec::with_capacity(self.capacity);
            self.text.extend_from_slice(self.names.line_start);
        } else {
            self.text.push(b',');
        }
        self.text.extend_from_slice(self.names.scope_start);
        self.in_scope = true;
    }

    fn end_scope(&mut self) {
        if self.in_scope {
            self.text.extend_from_slice(&self.scope_end);
            self.in_scope = false;
        }
    }

    fn end(&mut self) {
        // Metrics without data points alone are no line: nothing would count them.
        if self.items > 0 {
            let mut text = std::mem::take(&mut self.text);
            text.extend_from_slice(&self.line_end);
            let oversized = text.len() > self.max;
            self.lines.push(JsonLine { text, items: self.items, oversized });
        }
        (self.entries, self.items) = (0, 0);
    }
}
