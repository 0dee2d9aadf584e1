//! Attribute values, the ones that the SDK cannot hold included.

use opentelemetry::{Array, KeyValue, StringValue, Value};

use super::text;
use crate::json::text::{put_base64, put_double, put_string};
use crate::wire::{DecodeError, Field, Fields};

/// How many messages may still nest.
#[derive(Clone, Copy)]
pub(super) struct Depth(pub(super) usize);

impl Depth {
    fn enter(self, field: &Field<'_>) -> Result<Self, DecodeError> {
        self.0.checked_sub(1).map(Self).ok_or(DecodeError::TooDeep { offset: field.offset })
    }
}

/// `field` holds a `KeyValue`.
pub(super) fn key_value(field: &Field<'_>, depth: Depth) -> Result<KeyValue, DecodeError> {
    let (key, value) = pair(field, depth)?;
    Ok(KeyValue::new(key, to_value(value)))
}

fn pair(field: &Field<'_>, depth: Depth) -> Result<(String, Any), DecodeError> {
    let depth = depth.enter(field)?;
    let (content, base) = field.bytes()?;
    let (mut key, mut value) = (String::new(), Any::Empty);
    for field in Fields::new(content, base) {
        let field = field?;
        match field.number {
            1 => key = text(field.bytes()?.0),
            2 => value = any(&field, depth)?,
            _ => {}
        }
    }
    Ok((key, value))
}

/// An `AnyValue` as it is.
enum Any {
    Empty,
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(String),
    Bytes(Vec<u8>),
    Array(Vec<Any>),
    Map(Vec<(String, Any)>),
}

/// `field` holds an `AnyValue`; the last member counts.
fn any(field: &Field<'_>, depth: Depth) -> Result<Any, DecodeError> {
    let depth = depth.enter(field)?;
    let (content, base) = field.bytes()?;
    let mut value = Any::Empty;
    for field in Fields::new(content, base) {
        let field = field?;
        match field.number {
            1 => value = Any::Text(text(field.bytes()?.0)),
            2 => value = Any::Bool(field.varint()? != 0),
            3 => value = Any::Int(field.varint()? as i64),
            4 => value = Any::Double(f64::from_bits(field.fixed64()?)),
            5 => value = Any::Array(array(&field, depth)?),
            6 => value = Any::Map(map(&field, depth)?),
            7 => value = Any::Bytes(field.bytes()?.0.to_vec()),
            _ => {}
        }
    }
    Ok(value)
}

fn array(field: &Field<'_>, depth: Depth) -> Result<Vec<Any>, DecodeError> {
    let depth = depth.enter(field)?;
    let (content, base) = field.bytes()?;
    let mut values = Vec::new();
    for field in Fields::new(content, base) {
        let field = field?;
        if field.number == 1 {
            values.push(any(&field, depth)?);
        }
    }
    Ok(values)
}

fn map(field: &Field<'_>, depth: Depth) -> Result<Vec<(String, Any)>, DecodeError> {
    let depth = depth.enter(field)?;
    let (content, base) = field.bytes()?;
    let mut values = Vec::new();
    for field in Fields::new(content, base) {
        let field = field?;
        if field.number == 1 {
            values.push(pair(&field, depth)?);
        }
    }
    Ok(values)
}

fn to_value(any: Any) -> Value {
    match any {
        Any::Bool(value) => value.into(),
        Any::Int(value) => value.into(),
        Any::Double(value) => value.into(),
        Any::Text(value) => value.into(),
        Any::Array(values) => match to_array(&values) {
            Some(array) => Value::Array(array),
            None => bare_text(&Any::Array(values)).into(),
        },
        Any::Empty | Any::Bytes(_) | Any::Map(_) => bare_text(&any).into(),
    }
}

/// The array if all values are of one kind that the SDK has.
fn to_array(values: &[Any]) -> Option<Array> {
    // Which kind an empty array is of cannot be told, and makes no difference to its encoding.
    let array = match values.first().unwrap_or(&Any::Text(String::new())) {
        Any::Bool(_) => {
            Array::Bool(all(values, |value| if let Any::Bool(value) = value { Some(*value) } else { None })?)
        }
        Any::Int(_) => Array::I64(all(values, |value| if let Any::Int(value) = value { Some(*value) } else { None })?),
        Any::Double(_) => {
            Array::F64(all(values, |value| if let Any::Double(value) = value { Some(*value) } else { None })?)
        }
        Any::Text(_) => Array::String(all(values, |value| match value {
            Any::Text(value) => Some(StringValue::from(value.clone())),
            _ => None,
        })?),
        Any::Empty | Any::Bytes(_) | Any::Array(_) | Any::Map(_) => return None,
    };
    Some(array)
}

fn all<T>(values: &[Any], as_kind: impl Fn(&Any) -> Option<T>) -> Option<Vec<T>> {
    values.iter().map(as_kind).collect()
}

/// OpenTelemetry's rule for formats without structured values: nothing is empty, bytes are base64, the rest is JSON.
fn bare_text(value: &Any) -> String {
    let mut out = Vec::new();
    match value {
        Any::Empty => {}
        Any::Bytes(bytes) => put_base64(&mut out, bytes),
        other => put_json(&mut out, other),
    }
    text(&out)
}

fn put_json(out: &mut Vec<u8>, value: &Any) {
    match value {
        Any::Empty => out.extend_from_slice(b"null"),
        Any::Bool(value) => out.extend_from_slice(if *value { b"true" } else { b"false" }),
        Any::Int(value) => out.extend_from_slice(value.to_string().as_bytes()),
        Any::Double(value) => put_double(out, *value),
        Any::Text(value) => put_string(out, value.as_bytes()),
        Any::Bytes(value) => {
            out.push(b'"');
            put_base64(out, value);
            out.push(b'"');
        }
        Any::Array(values) => {
            out.push(b'[');
            for (index, value) in values.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                put_json(out, value);
            }
            out.push(b']');
        }
        Any::Map(values) => {
            out.push(b'{');
            for (index, (key, value)) in values.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                put_string(out, key.as_bytes());
                out.push(b':');
                put_json(out, value);
            }
            out.push(b'}');
        }
    }
}
