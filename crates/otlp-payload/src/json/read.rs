//! JSON lines to protobuf.

use std::ptr;

use bytes::Bytes;

use super::digits::{put_from_base64, put_from_hex};
use super::error::JsonError;
use super::number::{double, exact_integer, number_end, plain_digits, signed};
use super::scan::{Scanner, Text};
use super::schema::{ANY_VALUE, Field, KEY_VALUE, Kind, Message, Number, request};
use crate::signal::Signal;
use crate::wire::{Fields, MAX_DEPTH, close, open, put_bytes, put_varint, varint_len};

/// The longest line that [`from_line`] takes: 64 MiB, OTLP's recommended limit of a request.
pub const MAX_LINE_BYTES: usize = 64 << 20;

/// Reads one line: the bytes of an `ExportTraceServiceRequest`, and how many spans it holds.
///
/// Takes all that proto3 JSON and OTLP allow, from any writer: keys in any order, in camelCase or as in the `.proto`
/// files, `null` for absent, numbers as strings and strings as numbers, integers in any notation, enumerations by
/// number or by name, hex of either case, base64 of either alphabet with or without padding, unknown fields (skipped),
/// half a surrogate pair (U+FFFD). An unknown name of an enumeration, a key twice in one object and two values in one
/// attribute are errors. Ids of a wrong length are kept: the collector is their judge.
///
/// A line whose `resourceSpans` is not empty gives bytes that are not empty, also if it yields no span, such as where
/// all spans stand under a name that OTLP does not have: a count of 0 with bytes is not the same as an empty request.
///
/// The fields of the result are in the order of their numbers, in any order of the keys. Memory is bounded by the
/// length of the line: protobuf is at most a twelfth longer than the JSON that it is read from, and that only where
/// enumerations are negative. A line of metrics gives at most four times its length: `0,` in the bounds of a histogram
/// becomes eight bytes.
///
/// # Errors
///
/// When the line is longer than [`MAX_LINE_BYTES`] or no such object. No bytes make it panic.
pub fn from_line(line: &[u8]) -> Result<(Bytes, usize), JsonError> {
    from_line_within(line, MAX_LINE_BYTES)
}

/// [`from_line`] with a limit of one's own.
///
/// # Errors
///
/// As [`from_line`].
pub fn from_line_within(line: &[u8], max_bytes: usize) -> Result<(Bytes, usize), JsonError> {
    from_line_of(Signal::Traces, line, max_bytes)
}

/// [`from_line`] for a request of any signal, with a limit of one's own: the bytes of the request, and how many items
/// it holds.
///
/// ```
/// use otlp_payload::{Signal, json};
///
/// let line = br#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"body":{"stringValue":"full"}}]}]}]}"#;
/// let (request, items) = json::from_line_of(Signal::Logs, line, 1_000)?;
/// assert_eq!(items, 1);
/// let lines = json::to_lines_of(Signal::Logs, &request, 1_000).expect("readable");
/// assert!(lines[0].text.starts_with(br#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"body":"#));
/// # Ok::<(), json::JsonError>(())
/// ```
///
/// # Errors
///
/// As [`from_line`]; [`JsonError::NoItems`] for a line of another signal.
pub fn from_line_of(signal: Signal, line: &[u8], max_bytes: usize) -> Result<(Bytes, usize), JsonError> {
    if line.len() > max_bytes {
        return Err(JsonError::TooLong { length: line.len(), limit: max_bytes });
    }
    // Nearly all lines are ASCII, and to see this is less work.
    if !line.is_ascii() {
        std::str::from_utf8(line).map_err(|error| match error.error_len() {
            Some(_) => JsonError::Utf8 { offset: error.valid_up_to() },
            None => JsonError::Truncated { offset: line.len() },
        })?;
    }
    // Protobuf is about half as long as its JSON.
    let half = line.len() / 2;
    // A long line is mostly one long text, which stays as long: a buffer that grows by doubling would take its place
    // twice.
    let capacity = if line.len() < LONG_LINE { half + half / 4 } else { line.len() };
    let mut reader = Reader {
        scan: Scanner::new(line),
        out: Vec::with_capacity(capacity),
        items: 0,
        long: varint_len(half as u64).max(2),
    };
    reader.scan.next_token();
    let known = reader.message(&request(signal).message, MAX_DEPTH)?;
    if reader.scan.next_token().is_some() {
        return Err(reader.scan.unexpected("the end of the line"));
    }
    if known == Known::NoneOfSome {
        return Err(JsonError::NoItems { signal });
    }
    reader.out.shrink_to_fit();
    Ok((reader.out.into(), reader.items))
}

/// Lines of an exporter are shorter, but for a span of this size.
const LONG_LINE: usize = 2 << 20;

/// The bit of all members of a `oneof` beside other fields: no message has so many fields.
const CHOICE: u32 = 1 << 31;

struct Reader<'a> {
    scan: Scanner<'a>,
    out: Vec<u8>,
    items: usize,
    /// How long the length of a message of many items will be.
    long: usize,
}

/// Whether an object had fields that OTLP knows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    Empty,
    Some,
    NoneOfSome,
}

impl<'a> Reader<'a> {
    /// Reads an object, and writes the content of its message. `depth` is how many messages may still nest in it.
    fn message(&mut self, schema: &'static Message, depth: usize) -> Result<Known, JsonError> {
        if !self.scan.take(b'{') {
            return Err(self.wrong("an object"));
        }
        if self.scan.take(b'}') {
            return Ok(Known::Empty);
        }
        let start = self.out.len();
        let (mut next, mut seen, mut highest, mut known) = (0, 0_u32, 0, Known::NoneOfSome);
        loop {
            self.scan.next_token();
            let key_at = self.scan.offset();
            match self.key(schema, next)? {
                None => self.scan.skip_value()?,
                Some((index, field)) => {
                    known = Known::Some;
                    next = index + 1;
                    let is_null = self.scan.next_token() == Some(b'n') && self.scan.take_literal("null");
                    if !is_null {
                        // Of a `oneof` there is one member in all.
                        let bit = match (schema.oneof, field.is_choice) {
                            (true, _) => 1,
                            (_, true) => CHOICE,
                            _ => 1 << index,
                        };
                        if seen & bit != 0 {
                            return Err(JsonError::Duplicate { offset: key_at });
                        }
                        seen |= bit;
                        let before = self.out.len();
                        self.field(schema, field, depth)?;
                        if field.number < highest {
                            self.put_in_order(start, before, field.number);
                        } else {
                            highest = field.number;
                        }
                    }
                }
            }
            if !self.scan.take(b',') {
                self.scan.expect(b'}', "a comma or the end of the object")?;
                return Ok(known);
            }
        }
    }

    /// Reads a key and its colon. Keys mostly come in the order of the table: `next` is tried first.
    #[inline]
    fn key(&mut self, schema: &'static Message, next: usize) -> Result<Option<(usize, &'static Field)>, JsonError> {
        match schema.fields.get(next) {
            Some(field) if self.scan.take_literal(field.key) => Ok(Some((next, field))),
            _ => self.other_key(schema, next),
        }
    }

    fn other_key(
        &mut self,
        schema: &'static Message,
        next: usize,
    ) -> Result<Option<(usize, &'static Field)>, JsonError> {
        let key = self.scan.string()?;
        self.scan.expect(b':', "a colon")?;
        let mut unescaped = Vec::new();
        let name = if key.escaped {
            key.unescape(&mut unescaped)?;
            &unescaped
        } else {
            key.raw
        };
        let (before, behind) = schema.fields.split_at(next.min(schema.fields.len()));
        let behind = behind.iter().enumerate().map(|(index, field)| (index + before.len(), field));
        let is_it = |(_, field): &(usize, &Field)| field.name.as_bytes() == name || field.proto_name.as_bytes() == name;
        Ok(behind.chain(before.iter().enumerate()).find(is_it))
    }

    /// The output from `before` on belongs in front of the fields with higher numbers.
    fn put_in_order(&mut self, start: usize, before: usize, number: u32) {
        let written = self.out.get(start..before).unwrap_or_default();
        let higher = Fields::new(written, start).filter_map(Result::ok).find(|field| field.number > number);
        if let Some(to) = higher.map(|field| field.offset) {
            let moved = self.out.split_off(before);
            self.out.resize(before + moved.len(), 0);
            self.out.copy_within(to..before, to + moved.len());
            self.out[to..to + moved.len()].copy_from_slice(&moved);
        }
    }

    #[inline]
    fn field(&mut self, schema: &'static Message, field: &'static Field, depth: usize) -> Result<(), JsonError> {
        if !field.repeated {
            return self.value(field, schema.oneof || field.is_choice, depth);
        }
        if !self.scan.take(b'[') {
            return Err(self.wrong("an array"));
        }
        if self.scan.take(b']') {
            return Ok(());
        }
        if let Kind::Packed(number) = field.kind {
            return self.packed(field, number);
        }
        loop {
            self.scan.next_token();
            self.value(field, true, depth)?;
            if !self.scan.take(b',') {
                return self.scan.expect(b']', "a comma or the end of the array");
            }
        }
    }

    /// The numbers of an array whose first one comes next, one behind the other in one field.
    fn packed(&mut self, field: &'static Field, number: Number) -> Result<(), JsonError> {
        let packed = open(&mut self.out, field.tag as u8, 1);
        loop {
            self.scan.next_token();
            match number {
                Number::Fixed64 => {
                    let value = self.integer("an unsigned 64-bit integer", unsigned)?;
                    self.out.extend_from_slice(&value.to_le_bytes());
                }
                Number::Uint64 => {
                    let value = self.integer("an unsigned 64-bit integer", unsigned)?;
                    put_varint(&mut self.out, value);
                }
                Number::Double => {
                    let value = self.double()?;
                    self.out.extend_from_slice(&value.to_le_bytes());
                }
            }
            if !self.scan.take(b',') {
                self.scan.expect(b']', "a comma or the end of the array")?;
                close(&mut self.out, packed);
                return Ok(());
            }
        }
    }

    /// One value; unless `keep`, a default leaves nothing.
    fn value(&mut self, field: &'static Field, keep: bool, depth: usize) -> Result<(), JsonError> {
        match field.kind {
            Kind::Message(schema) => return self.nested(field, schema, depth),
            Kind::Text => {
                let text = self.string()?;
                if text.escaped {
                    let message = open(&mut self.out, field.tag as u8, 1);
                    text.unescape(&mut self.out)?;
                    close(&mut self.out, message);
                } else if keep || !text.raw.is_empty() {
                    put_bytes(&mut self.out, field.tag as u8, text.raw);
                }
            }
            Kind::Hex => self.hex(field)?,
            Kind::Base64 => self.base64(field)?,
            Kind::Bool => {
                let value = self.scan.take_literal("true");
                if !value && !self.scan.take_literal("false") {
                    return Err(self.wrong("true or false"));
                }
                self.varint(field, u64::from(value), keep);
            }
            Kind::Int64 => {
                let value = self.integer("a 64-bit integer", signed)?;
                self.varint(field, value as u64, keep);
            }
            Kind::Fixed64 => {
                let value = self.integer("an unsigned 64-bit integer", unsigned)?;
                if keep || value != 0 {
                    put_varint(&mut self.out, u64::from(field.tag));
                    self.out.extend_from_slice(&value.to_le_bytes());
                }
            }
            Kind::Sfixed64 => {
                let value = self.integer("a 64-bit integer", signed)?;
                if keep || value != 0 {
                    put_varint(&mut self.out, u64::from(field.tag));
                    self.out.extend_from_slice(&value.to_le_bytes());
                }
            }
            Kind::Int32 => {
                let value = self.integer("a 32-bit integer", signed_32)?;
                self.varint(field, i64::from(value) as u64, keep);
            }
            Kind::Sint32 => {
                let value = self.integer("a 32-bit integer", signed_32)?;
                // Zigzag: the sign is the lowest bit.
                self.varint(field, u64::from((value << 1 ^ value >> 31).cast_unsigned()), keep);
            }
            Kind::Uint32 => {
                let value = self.integer("an unsigned 32-bit integer", unsigned_32)?;
                self.varint(field, u64::from(value), keep);
            }
            Kind::Fixed32 => {
                let value = self.integer("an unsigned 32-bit integer", unsigned_32)?;
                if keep || value != 0 {
                    put_varint(&mut self.out, u64::from(field.tag));
                    self.out.extend_from_slice(&value.to_le_bytes());
                }
            }
            Kind::Enum(names) => {
                let value = self.enumeration(names)?;
                self.varint(field, i64::from(value) as u64, keep);
            }
            Kind::Double => {
                let value = self.double()?;
                put_varint(&mut self.out, u64::from(field.tag));
                self.out.extend_from_slice(&value.to_le_bytes());
            }
            // An array: `field` has read it.
            Kind::Packed(_) => return Err(self.wrong("an array")),
        }
        Ok(())
    }

    #[inline]
    fn varint(&mut self, field: &Field, value: u64, keep: bool) {
        if keep || value != 0 {
            put_varint(&mut self.out, u64::from(field.tag));
            put_varint(&mut self.out, value);
        }
    }

    fn nested(&mut self, field: &'static Field, schema: &'static Message, depth: usize) -> Result<(), JsonError> {
        let depth = depth.checked_sub(1).ok_or(JsonError::TooDeep { offset: self.scan.offset() })?;
        if ptr::eq(schema, &KEY_VALUE) && depth > 0 {
            let start = self.scan.offset();
            if self.attribute(field.tag as u8).is_some() {
                return Ok(());
            }
            self.scan.advance_to(start);
        }
        let guess = if field.guess == 0 { self.long } else { usize::from(field.guess) };
        let message = open(&mut self.out, field.tag as u8, guess);
        // The stock serializer writes an attribute value of no kind as null.
        let is_null = ptr::eq(schema, &ANY_VALUE) && self.scan.take_literal("null");
        if !is_null {
            self.message(schema, depth)?;
        }
        close(&mut self.out, message);
        self.items += usize::from(schema.is_item);
        Ok(())
    }

    /// The shape that nearly all attributes have when a program wrote them: no white space, the key first, one value
    /// that is no array. `None` when it is another one; nothing is written then.
    #[inline]
    fn attribute(&mut self, tag: u8) -> Option<()> {
        self.scan.take_bytes(b"{\"key\":")?;
        let key = self.plain_string()?;
        self.scan.take_bytes(b",\"value\":{\"")?;
        match self.scan.peek()? {
            b's' => {
                self.scan.take_bytes(b"stringValue\":")?;
                let text = self.plain_string()?;
                self.scan.take_bytes(b"}}")?;
                let text_len = 1 + varint_len(text.len() as u64) + text.len();
                self.put_key(tag, key, text_len);
                put_bytes(&mut self.out, 0x0a, text);
            }
            b'i' => {
                self.scan.take_bytes(b"intValue\":\"")?;
                let negative = self.scan.take_bytes(b"-").is_some();
                let (magnitude, end) = plain_digits(self.scan.bytes(), self.scan.offset())?;
                self.scan.advance_to(end);
                self.scan.take_bytes(b"\"}}")?;
                let value = signed(negative, magnitude)? as u64;
                self.put_key(tag, key, 1 + varint_len(value));
                self.out.push(0x18);
                put_varint(&mut self.out, value);
            }
            b'b' => {
                self.scan.take_bytes(b"boolValue\":")?;
                let value = self.scan.take_bytes(b"true").is_some();
                if !value {
                    self.scan.take_bytes(b"false")?;
                }
                self.scan.take_bytes(b"}}")?;
                self.put_key(tag, key, 2);
                self.out.extend_from_slice(&[0x10, u8::from(value)]);
            }
            _ => return None,
        }
        Some(())
    }

    /// The start of a `KeyValue` up to its `AnyValue`, which is `value_len` long.
    #[inline]
    fn put_key(&mut self, tag: u8, key: &[u8], value_len: usize) {
        let key_len = 1 + varint_len(key.len() as u64) + key.len();
        let length = key_len + 1 + varint_len(value_len as u64) + value_len;
        if length < 0x80 && !key.is_empty() {
            // Each of the three lengths is one byte then.
            self.out.extend_from_slice(&[tag, length as u8, 0x0a, key.len() as u8]);
            self.out.extend_from_slice(key);
            self.out.extend_from_slice(&[0x12, value_len as u8]);
        } else {
            let length = if key.is_empty() { length - key_len } else { length };
            self.out.push(tag);
            put_varint(&mut self.out, length as u64);
            if !key.is_empty() {
                put_bytes(&mut self.out, 0x0a, key);
            }
            self.out.push(0x12);
            put_varint(&mut self.out, value_len as u64);
        }
    }

    /// A string without escapes.
    #[inline]
    fn plain_string(&mut self) -> Option<&'a [u8]> {
        let text = self.scan.string().ok()?;
        (!text.escaped).then_some(text.raw)
    }

    #[inline]
    fn string(&mut self) -> Result<Text<'a>, JsonError> {
        if self.scan.peek() == Some(b'"') { self.scan.string() } else { Err(self.wrong("a string")) }
    }

    /// A value of another kind, or no JSON at all.
    #[cold]
    fn wrong(&self, expected: &'static str) -> JsonError {
        let offset = self.scan.offset();
        match self.scan.peek() {
            _ if self.scan.is_torn() => self.scan.unexpected(expected),
            Some(b'"' | b'{' | b'[' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n') => JsonError::Value { offset, expected },
            _ => self.scan.unexpected(expected),
        }
    }

    fn hex(&mut self, field: &Field) -> Result<(), JsonError> {
        let text = self.string()?;
        let bad = JsonError::Value { offset: text.offset, expected: "hex digits in pairs" };
        let (pairs, rest) = text.raw.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(bad);
        }
        if pairs.is_empty() {
            return Ok(());
        }
        self.out.push(field.tag as u8);
        put_varint(&mut self.out, pairs.len() as u64);
        put_from_hex(&mut self.out, pairs).ok_or(bad)
    }

    fn base64(&mut self, field: &Field) -> Result<(), JsonError> {
        let text = self.string()?;
        let bad = JsonError::Value { offset: text.offset, expected: "base64" };
        let mut unescaped = Vec::new();
        let mut digits = text.raw;
        if text.escaped {
            // Some writers escape the slash of the standard alphabet.
            text.unescape(&mut unescaped)?;
            digits = &unescaped;
        }
        let message = open(&mut self.out, field.tag as u8, 1);
        put_from_base64(&mut self.out, digits).ok_or(bad)?;
        close(&mut self.out, message);
        Ok(())
    }

    /// An integer, as a number or in a string, that `fit` takes.
    #[inline]
    fn integer<T>(&mut self, expected: &'static str, fit: impl Fn(bool, u64) -> Option<T>) -> Result<T, JsonError> {
        let offset = self.scan.offset();
        let bytes = self.scan.bytes();
        let quoted = usize::from(self.scan.peek() == Some(b'"'));
        match plain_digits(bytes, offset + quoted) {
            Some((value, end)) if quoted == 0 || bytes.get(end) == Some(&b'"') => {
                self.scan.advance_to(end + quoted);
                return fit(false, value).ok_or(JsonError::Value { offset, expected });
            }
            _ => {}
        }
        let number = self.number(expected)?;
        let fitting = exact_integer(number).and_then(|(negative, magnitude)| fit(negative, magnitude));
        fitting.ok_or(JsonError::Value { offset, expected })
    }

    /// A number, as it is or in a string.
    fn number(&mut self, expected: &'static str) -> Result<&'a str, JsonError> {
        match self.scan.peek() {
            Some(b'-' | b'0'..=b'9') => self.scan.number(),
            Some(b'"') => {
                let text = self.scan.string()?;
                let is_number = number_end(text.raw, 0) == Some(text.raw.len());
                let number = std::str::from_utf8(text.raw).ok().filter(|_| is_number);
                number.ok_or(JsonError::Value { offset: text.offset - 1, expected })
            }
            _ => Err(self.wrong(expected)),
        }
    }

    fn double(&mut self) -> Result<f64, JsonError> {
        for (name, value) in
            [("\"NaN\"", f64::NAN), ("\"Infinity\"", f64::INFINITY), ("\"-Infinity\"", f64::NEG_INFINITY)]
        {
            if self.scan.peek() == Some(b'"') && self.scan.take_literal(name) {
                return Ok(value);
            }
        }
        let (offset, expected) = (self.scan.offset(), "a double");
        double(self.number(expected)?).ok_or(JsonError::Value { offset, expected })
    }

    fn enumeration(&mut self, names: &'static [&'static str]) -> Result<i32, JsonError> {
        let expected = "a number or a name of the enumeration";
        if self.scan.peek() == Some(b'"') {
            let offset = self.scan.offset();
            let text = self.scan.string()?;
            if let Some(number) = names.iter().position(|name| name.as_bytes() == text.raw) {
                return i32::try_from(number).map_err(|_| JsonError::Value { offset, expected });
            }
            self.scan.advance_to(offset);
        }
        self.integer(expected, signed_32)
    }
}

fn unsigned(negative: bool, magnitude: u64) -> Option<u64> {
    (!negative || magnitude == 0).then_some(magnitude)
}

fn unsigned_32(negative: bool, magnitude: u64) -> Option<u32> {
    unsigned(negative, magnitude).and_then(|value| u32::try_from(value).ok())
}

fn signed_32(negative: bool, magnitude: u64) -> Option<i32> {
    signed(negative, magnitude).and_then(|value| i32::try_from(value).ok())
}
