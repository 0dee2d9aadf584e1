//! One protobuf message to one JSON object, by the tables.

use std::ptr;

use super::schema::{Field, KEY_VALUE, Kind, Message, Number};
use super::text::{Block, put_base64, put_double, put_hex, put_integer, put_string, put_text};
use crate::wire::{self, Cursor, DecodeError, Fields};

/// Writes one message as an object. `depth` is how many messages may still nest in it.
///
/// The usual output of an encoder goes the quick way. Any other message (unknown fields, fields out of order or twice,
/// wrong types, torn lengths) is found there, and that message is done again the careful way, which goes on to the
/// bottom: the work for a message at the bottom is done at most twice for each message around it.
pub(super) fn put_message(
    out: &mut Vec<u8>,
    schema: &'static Message,
    content: &[u8],
    base: usize,
    depth: usize,
) -> Result<(), DecodeError> {
    let start = out.len();
    if !quick(out, schema, content, base, depth)? {
        out.truncate(start);
        careful(out, schema, content, base, depth)?;
    }
    Ok(())
}

/// Writes the fields as they stand; false where they are not known, in order, each singular one once, of the right
/// type. The output is of no use then.
fn quick(
    out: &mut Vec<u8>,
    schema: &'static Message,
    content: &[u8],
    base: usize,
    depth: usize,
) -> Result<bool, DecodeError> {
    out.push(b'{');
    let mut cursor = Cursor::new(content);
    let mut rest = schema.fields;
    let mut current: Option<&'static Field> = None;
    let mut has_chosen = false;
    while let Some(tag) = cursor.short_tag() {
        let field = match current {
            Some(field) if field.tag == tag => {
                if !field.repeated {
                    return Ok(false);
                }
                out.push(b',');
                field
            }
            _ => {
                let Some(index) = rest.iter().position(|field| field.tag == tag) else { return Ok(false) };
                let Some((field, behind)) = rest.get(index..).and_then(<[Field]>::split_first) else {
                    return Ok(false);
                };
                rest = behind;
                if field.is_choice && std::mem::replace(&mut has_chosen, true) {
                    return Ok(false);
                }
                if let Some(last) = current {
                    if schema.oneof {
                        return Ok(false);
                    }
                    end_field(out, last);
                    out.push(b',');
                }
                field.opening.put(out);
                current = Some(field);
                field
            }
        };
        if let Kind::Message(schema) = field.kind {
            let Some(content) = cursor.bytes() else { return Ok(false) };
            if ptr::eq(schema, &KEY_VALUE) && depth > 1 && attribute(out, content).is_some() {
                continue;
            }
            let Some(depth) = depth.checked_sub(1) else { return Ok(false) };
            put_message(out, schema, content, base + cursor.position() - content.len(), depth)?;
        } else if scalar(out, field.kind, &mut cursor).is_none() {
            return Ok(false);
        }
    }
    if let Some(last) = current {
        end_field(out, last);
    }
    out.push(b'}');
    Ok(cursor.is_at_end())
}

#[inline]
fn end_field(out: &mut Vec<u8>, field: &Field) {
    if field.repeated {
        out.push(b']');
    }
}

/// The shape that nearly all attributes have: a short key and one short value that is no array.
///
/// Nothing is written when it is another one.
#[inline]
fn attribute(out: &mut Vec<u8>, content: &[u8]) -> Option<()> {
    let (&[0x0a, key_len @ ..0x80], rest) = content.split_first_chunk()? else { return None };
    let (key, rest) = rest.split_at_checked(usize::from(key_len))?;
    let (&[0x12, value_len], value) = rest.split_first_chunk()? else { return None };
    let (&kind, value) = value.split_first()?;
    if usize::from(value_len) != value.len() + 1 || value_len >= 0x80 {
        return None;
    }
    match kind {
        0x0a => {
            let (&length, text) = value.split_first()?;
            if usize::from(length) != text.len() {
                return None;
            }
            put_key(out, key);
            STRING_VALUE.put(out);
            put_text(out, text);
            QUOTED_END.put(out);
        }
        0x10 => {
            let &[value @ ..2] = value else { return None };
            put_key(out, key);
            if value == 0 { FALSE.put(out) } else { TRUE.put(out) }
        }
        0x18 => {
            let mut cursor = Cursor::new(value);
            let number = cursor.varint().filter(|_| cursor.is_at_end())?;
            put_key(out, key);
            INT_VALUE.put(out);
            put_integer(out, number as i64);
            QUOTED_END.put(out);
        }
        0x21 => {
            let number = f64::from_le_bytes(value.try_into().ok()?);
            put_key(out, key);
            DOUBLE_VALUE.put(out);
            put_double(out, number);
            out.extend_from_slice(b"}}");
        }
        _ => return None,
    }
    Some(())
}

/// Up to the quote that ends the key.
#[inline]
fn put_key(out: &mut Vec<u8>, key: &[u8]) {
    KEY.put(out);
    put_text(out, key);
}

// From quote to quote.
static KEY: Block = Block::new("{\"key\":\"");
static STRING_VALUE: Block = Block::new("\",\"value\":{\"stringValue\":\"");
static INT_VALUE: Block = Block::new("\",\"value\":{\"intValue\":\"");
static DOUBLE_VALUE: Block = Block::new("\",\"value\":{\"doubleValue\":");
static FALSE: Block = Block::new("\",\"value\":{\"boolValue\":false}}");
static TRUE: Block = Block::new("\",\"value\":{\"boolValue\":true}}");
static QUOTED_END: Block = Block::new("\"}}");

/// A field that is no message; `None` if it is torn.
#[inline]
fn scalar(out: &mut Vec<u8>, kind: Kind, cursor: &mut Cursor<'_>) -> Option<()> {
    match kind {
        Kind::Text => put_string(out, cursor.bytes()?),
        Kind::Hex => {
            out.push(b'"');
            put_hex(out, cursor.bytes()?);
            out.push(b'"');
        }
        Kind::Base64 => {
            out.push(b'"');
            put_base64(out, cursor.bytes()?);
            out.push(b'"');
        }
        Kind::Bool => out.extend_from_slice(if cursor.varint()? == 0 { b"false" } else { b"true" }),
        Kind::Int64 => quoted(out, cursor.varint()? as i64),
        Kind::Fixed64 => quoted(out, u64::from_le_bytes(cursor.fixed()?)),
        Kind::Sfixed64 => quoted(out, i64::from_le_bytes(cursor.fixed()?)),
        // A varint of a 32-bit field keeps its low 32 bits, as protobuf says.
        Kind::Int32 | Kind::Enum(_) => put_integer(out, cursor.varint()? as i32),
        Kind::Uint32 => put_integer(out, cursor.varint()? as u32),
        Kind::Sint32 => {
            let zigzag = cursor.varint()? as u32;
            put_integer(out, (zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed());
        }
        Kind::Fixed32 => put_integer(out, u32::from_le_bytes(cursor.fixed()?)),
        Kind::Packed(number) => {
            let mut numbers = Cursor::new(cursor.bytes()?);
            // Without a number there is nothing between two commas.
            put_number(out, number, &mut numbers)?;
            while !numbers.is_at_end() {
                out.push(b',');
                put_number(out, number, &mut numbers)?;
            }
        }
        Kind::Double => put_double(out, f64::from_le_bytes(cursor.fixed()?)),
        Kind::Message(_) => return None,
    }
    Some(())
}

/// One packed number; `None` if it is torn.
fn put_number(out: &mut Vec<u8>, number: Number, cursor: &mut Cursor<'_>) -> Option<()> {
    match number {
        Number::Fixed64 => quoted(out, u64::from_le_bytes(cursor.fixed()?)),
        Number::Uint64 => quoted(out, cursor.varint()?),
        Number::Double => put_double(out, f64::from_le_bytes(cursor.fixed()?)),
    }
    Some(())
}

fn quoted(out: &mut Vec<u8>, value: impl itoa::Integer) {
    out.push(b'"');
    put_integer(out, value);
    out.push(b'"');
}

/// Sorts and checks the fields first, here and in all messages below.
fn careful(
    out: &mut Vec<u8>,
    schema: &'static Message,
    content: &[u8],
    base: usize,
    depth: usize,
) -> Result<(), DecodeError> {
    out.push(b'{');
    let mut last: Option<&'static Field> = None;
    for (known, field) in ordered(schema, content, base)? {
        match last {
            Some(last) if ptr::eq(last, known) => out.push(b','),
            _ => {
                if let Some(last) = last {
                    end_field(out, last);
                    out.push(b',');
                }
                known.opening.put(out);
            }
        }
        last = Some(known);
        if let Kind::Message(schema) = known.kind {
            let depth = depth.checked_sub(1).ok_or(DecodeError::TooDeep { offset: field.offset })?;
            let (content, base) = field.bytes()?;
            careful(out, schema, content, base, depth)?;
        } else {
            let mut cursor = Cursor::new(field.raw);
            // The tag may be longer than it needs to be.
            cursor.varint();
            let put = match known.kind {
                Kind::Packed(number) if field.wire_type() != 2 => put_number(out, number, &mut cursor),
                kind => scalar(out, kind, &mut cursor),
            };
            put.ok_or(DecodeError::WireType { offset: field.offset })?;
        }
    }
    if let Some(last) = last {
        end_field(out, last);
    }
    out.push(b'}');
    Ok(())
}

/// The known fields by number; of a field given twice, and of all members of a `oneof`, the last.
fn ordered<'a>(
    schema: &'static Message,
    content: &'a [u8],
    base: usize,
) -> Result<Vec<(&'static Field, wire::Field<'a>)>, DecodeError> {
    let mut fields = Vec::new();
    for field in Fields::new(content, base) {
        let field = field?;
        if let Some(known) = schema.fields.iter().find(|known| known.number == field.number) {
            let is_single = matches!(known.kind, Kind::Packed(number) if number.wire_type() == field.wire_type());
            if known.tag & 7 != field.wire_type() && !is_single {
                return Err(DecodeError::WireType { offset: field.offset });
            }
            // An empty field of packed numbers has none.
            if !matches!((known.kind, field.bytes()), (Kind::Packed(_), Ok(([], _)))) {
                fields.push((known, field));
            }
        }
    }
    if schema.oneof {
        fields.drain(..fields.len().saturating_sub(1));
    }
    if let Some(chosen) = fields.iter().rposition(|(known, _)| known.is_choice) {
        let chosen = fields[chosen].0;
        fields.retain(|(known, _)| !known.is_choice || ptr::eq(*known, chosen));
    }
    fields.sort_by_key(|(known, _)| known.number);
    // `dedup` keeps the first of equals.
    fields.reverse();
    fields.dedup_by(|(next, _), (kept, _)| ptr::eq(*next, *kept) && !next.repeated);
    fields.reverse();
    Ok(fields)
}
