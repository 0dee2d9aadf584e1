//! The protobuf wire format, both ways: nothing in here knows a message type.

use std::error::Error;
use std::fmt;

/// How deep messages may nest, counted from the request: the limit of the usual protobuf readers (C++, Java, prost).
pub(crate) const MAX_DEPTH: usize = 100;

/// Why bytes are not a readable `ExportTraceServiceRequest`.
///
/// Such bytes are of no use to a collector either: set them aside, do not send them again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes end inside a field.
    Truncated {
        /// Where the field begins.
        offset: usize,
    },
    /// A variable-length number runs over 64 bits.
    Varint {
        /// Where the number begins.
        offset: usize,
    },
    /// A field number of 0, an unassigned wire type, or the end of a group that did not begin.
    Tag {
        /// Where the field begins.
        offset: usize,
    },
    /// A known field has another wire type than OTLP gives it.
    WireType {
        /// Where the field begins.
        offset: usize,
    },
    /// Values nest deeper than 100 messages or groups, the limit of the usual protobuf readers.
    TooDeep {
        /// Where the first one beyond the limit begins.
        offset: usize,
    },
    /// The request holds more than one resource, and the caller asked for one; see `decode_all`.
    SeveralResources {
        /// How many it holds.
        count: usize,
    },
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated { offset } => write!(f, "trace request ends inside the field at byte {offset}"),
            Self::Varint { offset } => write!(f, "trace request has a number of more than 64 bits at byte {offset}"),
            Self::Tag { offset } => write!(f, "trace request has no valid field at byte {offset}"),
            Self::WireType { offset } => write!(f, "trace request has a field of the wrong type at byte {offset}"),
            Self::TooDeep { offset } => write!(f, "trace request nests deeper than {MAX_DEPTH} at byte {offset}"),
            Self::SeveralResources { count } => write!(f, "trace request has {count} resources where one was expected"),
        }
    }
}

impl Error for DecodeError {}

/// One field as it stands on the wire. `offset` is that of its tag within the whole request.
#[derive(Clone, Copy)]
pub(crate) struct Field<'a> {
    pub(crate) number: u32,
    pub(crate) value: Value<'a>,
    pub(crate) offset: usize,
    /// The whole field, its tag included.
    pub(crate) raw: &'a [u8],
}

#[derive(Clone, Copy)]
pub(crate) enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    /// The content, and where it begins within the whole request.
    Bytes(&'a [u8], usize),
    /// Of the time before proto3. OTLP has none, so it is only ever passed over.
    Group,
}

impl<'a> Field<'a> {
    pub(crate) fn wire_type(&self) -> u32 {
        match self.value {
            Value::Varint(_) => 0,
            Value::Fixed64(_) => 1,
            Value::Bytes(..) => 2,
            Value::Group => 3,
            Value::Fixed32(_) => 5,
        }
    }

    pub(crate) fn bytes(&self) -> Result<(&'a [u8], usize), DecodeError> {
        match self.value {
            Value::Bytes(content, at) => Ok((content, at)),
            _ => Err(DecodeError::WireType { offset: self.offset }),
        }
    }

    pub(crate) fn varint(&self) -> Result<u64, DecodeError> {
        match self.value {
            Value::Varint(value) => Ok(value),
            _ => Err(DecodeError::WireType { offset: self.offset }),
        }
    }

    pub(crate) fn fixed64(&self) -> Result<u64, DecodeError> {
        match self.value {
            Value::Fixed64(value) => Ok(value),
            _ => Err(DecodeError::WireType { offset: self.offset }),
        }
    }

    pub(crate) fn fixed32(&self) -> Result<u32, DecodeError> {
        match self.value {
            Value::Fixed32(value) => Ok(value),
            _ => Err(DecodeError::WireType { offset: self.offset }),
        }
    }
}

/// The fields of one message, in the order in which they stand.
#[derive(Clone)]
pub(crate) struct Fields<'a> {
    message: &'a [u8],
    at: usize,
    base: usize,
}

impl<'a> Fields<'a> {
    /// `base` is where `message` begins within the whole request.
    pub(crate) fn new(message: &'a [u8], base: usize) -> Self {
        Self { message, at: 0, base }
    }

    fn varint(&mut self) -> Result<u64, DecodeError> {
        match self.message.get(self.at) {
            Some(&byte) if byte < 0x80 => {
                self.at += 1;
                Ok(u64::from(byte))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, DecodeError> {
        let offset = self.base + self.at;
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.message.get(self.at).ok_or(DecodeError::Truncated { offset })?;
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                // The tenth byte has room for one bit only.
                return if shift == 63 && byte > 1 { Err(DecodeError::Varint { offset }) } else { Ok(value) };
            }
        }
        Err(DecodeError::Varint { offset })
    }

    fn take(&mut self, length: usize, start: usize) -> Result<&'a [u8], DecodeError> {
        let rest = self.message.get(self.at..).unwrap_or_default();
        let taken = rest.get(..length).ok_or(DecodeError::Truncated { offset: self.base + start })?;
        self.at += length;
        Ok(taken)
    }

    /// Field number and wire type.
    fn tag(&mut self) -> Result<(u32, u64), DecodeError> {
        let offset = self.base + self.at;
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| DecodeError::Tag { offset })?;
        if number == 0 || number >= 1 << 29 {
            return Err(DecodeError::Tag { offset });
        }
        Ok((number, tag & 7))
    }

    /// Goes to the end of the group whose tag was just read.
    #[cold]
    fn skip_group(&mut self, number: u32) -> Result<(), DecodeError> {
        let mut open = vec![number];
        while let Some(innermost) = open.last() {
            let start = self.at;
            let offset = self.base + start;
            let (number, wire_type) = self.tag()?;
            match wire_type {
                3 if open.len() >= MAX_DEPTH => return Err(DecodeError::TooDeep { offset }),
                3 => open.push(number),
                4 if number == *innermost => drop(open.pop()),
                _ => drop(self.value(number, wire_type, start)?),
            }
        }
        Ok(())
    }

    fn read(&mut self) -> Result<Field<'a>, DecodeError> {
        let start = self.at;
        let (number, wire_type) = self.tag()?;
        let value = self.value(number, wire_type, start)?;
        let raw = self.message.get(start..self.at).unwrap_or_default();
        Ok(Field { number, value, offset: self.base + start, raw })
    }

    /// What stands behind the tag at `start`.
    #[inline]
    fn value(&mut self, number: u32, wire_type: u64, start: usize) -> Result<Value<'a>, DecodeError> {
        let offset = self.base + start;
        Ok(match wire_type {
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(u64::from_le_bytes(array(self.take(8, start)?))),
            2 => {
                let length = self.varint()?;
                let length = usize::try_from(length).map_err(|_| DecodeError::Truncated { offset })?;
                let at = self.base + self.at;
                Value::Bytes(self.take(length, start)?, at)
            }
            3 => {
                self.skip_group(number)?;
                Value::Group
            }
            5 => Value::Fixed32(u32::from_le_bytes(array(self.take(4, start)?))),
            _ => return Err(DecodeError::Tag { offset }),
        })
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.message.len() {
            return None;
        }
        let field = self.read();
        if field.is_err() {
            self.at = self.message.len();
        }
        Some(field)
    }
}

/// Right-aligned copy: a slice of another length than `N` keeps its last bytes, the missing ones in front are 0.
pub(crate) fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    <[u8; N]>::try_from(bytes).unwrap_or_else(|_| {
        let mut array = [0; N];
        for (to, from) in array.iter_mut().rev().zip(bytes.iter().rev()) {
            *to = *from;
        }
        array
    })
}

/// How many bytes `value` takes as a varint: one for each seven bits, at least one.
#[inline]
pub(crate) const fn varint_len(value: u64) -> usize {
    ((64 - (value | 1).leading_zeros() as usize) * 9 + 64) / 64
}

#[inline]
pub(crate) fn put_varint(out: &mut Vec<u8>, value: u64) {
    if value < 0x80 {
        out.push(value as u8);
    } else {
        put_long_varint(out, value);
    }
}

fn put_long_varint(out: &mut Vec<u8>, mut value: u64) {
    let mut bytes = [0_u8; 10];
    let mut length = 0;
    for byte in &mut bytes {
        length += 1;
        if value < 0x80 {
            *byte = value as u8;
            break;
        }
        *byte = value as u8 | 0x80;
        value >>= 7;
    }
    out.extend_from_slice(&bytes[..length]);
}

/// Writes `tag`, the length and the content; `tag` is a whole one-byte tag.
#[inline]
pub(crate) fn put_bytes(out: &mut Vec<u8>, tag: u8, content: &[u8]) {
    if content.len() < 0x80 {
        out.extend_from_slice(&[tag, content.len() as u8]);
    } else {
        out.push(tag);
        put_long_varint(out, content.len() as u64);
    }
    out.extend_from_slice(content);
}

/// A message whose length is written after its content.
#[derive(Clone, Copy)]
pub(crate) struct Open {
    content: usize,
    guess: usize,
}

/// Starts a message with room for a length of `guess` bytes; a wrong guess costs one move of the content.
#[inline]
pub(crate) fn open(out: &mut Vec<u8>, tag: u8, guess: usize) -> Open {
    out.extend_from_slice(&[tag, 0, 0, 0, 0, 0][..=guess]);
    Open { content: out.len(), guess }
}

/// Ends a message: its length becomes what was written since `open`, in as few bytes as possible.
#[inline]
pub(crate) fn close(out: &mut Vec<u8>, open: Open) {
    let length = out.len() - open.content;
    let needed = varint_len(length as u64);
    if needed != open.guess {
        move_content(out, open, length, needed);
    }
    let at = open.content - open.guess;
    if needed == 1 {
        out[at] = length as u8;
        return;
    }
    let mut rest = length;
    for byte in &mut out[at..at + needed - 1] {
        *byte = rest as u8 | 0x80;
        rest >>= 7;
    }
    out[at + needed - 1] = rest as u8;
}

#[cold]
fn move_content(out: &mut Vec<u8>, open: Open, length: usize, needed: usize) {
    let to = open.content - open.guess + needed;
    out.resize(out.len().max(to + length), 0);
    out.copy_within(open.content..open.content + length, to);
    out.truncate(to + length);
}
