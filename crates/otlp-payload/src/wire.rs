//! The protobuf wire format, both ways, without any message type: [`Fields`] reads the fields of one message.
//!
//! For the small messages around OTLP too, such as the answers of a collector, which need no generated code.

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
    /// A metric gives its data twice, as one kind or as two.
    TwoValues {
        /// Where the second one begins.
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
            Self::Truncated { offset } => write!(f, "request ends inside the field at byte {offset}"),
            Self::Varint { offset } => write!(f, "request has a number of more than 64 bits at byte {offset}"),
            Self::Tag { offset } => write!(f, "request has no valid field at byte {offset}"),
            Self::WireType { offset } => write!(f, "request has a field of the wrong type at byte {offset}"),
            Self::TooDeep { offset } => write!(f, "request nests deeper than {MAX_DEPTH} at byte {offset}"),
            Self::TwoValues { offset } => write!(f, "request has a metric with two kinds of data at byte {offset}"),
            Self::SeveralResources { count } => write!(f, "request has {count} resources where one was expected"),
        }
    }
}

impl Error for DecodeError {}

/// One field of a message.
#[derive(Clone, Copy)]
pub struct Field<'a> {
    /// The field number, from 1 to 2^29 - 1.
    pub number: u32,
    /// The value, read by its wire type.
    pub value: Value<'a>,
    /// Where the tag of the field begins within the whole request.
    pub offset: usize,
    /// The whole field, its tag included.
    pub(crate) raw: &'a [u8],
}

/// The value of a field, by the wire type of its tag.
#[derive(Clone, Copy)]
pub enum Value<'a> {
    /// A number of up to 64 bits, as it stands: neither zigzag nor sign is applied.
    Varint(u64),
    /// Eight bytes, little endian.
    Fixed64(u64),
    /// Four bytes, little endian.
    Fixed32(u32),
    /// Text, bytes, a message or packed numbers, and where they begin within the whole request.
    Bytes(&'a [u8], usize),
    /// A group, skipped up to its end. Proto3 has no groups, so no field of OTLP is one.
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

    /// The content of a text, of bytes or of a message, and where it begins within the whole request.
    ///
    /// # Errors
    ///
    /// [`DecodeError::WireType`] for a value of another wire type.
    pub fn bytes(&self) -> Result<(&'a [u8], usize), DecodeError> {
        match self.value {
            Value::Bytes(content, at) => Ok((content, at)),
            _ => Err(DecodeError::WireType { offset: self.offset }),
        }
    }

    /// The number of an integer, a boolean or an enumeration.
    ///
    /// # Errors
    ///
    /// [`DecodeError::WireType`] for a value of another wire type.
    pub fn varint(&self) -> Result<u64, DecodeError> {
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

/// The fields of one message, in the order in which they stand. Ends after the first error.
///
/// ```
/// use otlp_payload::wire::Fields;
///
/// // `google.rpc.Status`: its code (field 1) and its message (field 2).
/// let (mut code, mut message) = (0, &b""[..]);
/// for field in Fields::new(b"\x08\x0e\x12\x04busy", 0) {
///     let field = field?;
///     match field.number {
///         1 => code = field.varint()?,
///         2 => message = field.bytes()?.0,
///         _ => {} // unknown fields are skipped
///     }
/// }
/// assert_eq!((code, message), (14, &b"busy"[..]));
/// # Ok::<(), otlp_payload::DecodeError>(())
/// ```
#[derive(Clone)]
pub struct Fields<'a> {
    cursor: Cursor<'a>,
    base: usize,
}

impl<'a> Fields<'a> {
    /// `base` is where `message` begins within the whole request: errors and offsets count from the start of the
    /// request.
    #[must_use]
    pub fn new(message: &'a [u8], base: usize) -> Self {
        Self { cursor: Cursor::new(message), base }
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, DecodeError> {
        let start = self.cursor.at;
        match self.cursor.varint() {
            Some(value) => Ok(value),
            None => Err(self.bad_varint(start)),
        }
    }

    /// Ten bytes are the longest number: where ten were there, the end of the message is not the reason.
    #[cold]
    fn bad_varint(&self, start: usize) -> DecodeError {
        let offset = self.base + start;
        let is_cut = self.cursor.message.len() - start < MAX_VARINT;
        if is_cut { DecodeError::Truncated { offset } } else { DecodeError::Varint { offset } }
    }

    /// Field number and wire type.
    fn tag(&mut self) -> Result<(u32, u64), DecodeError> {
        let offset = self.base + self.cursor.at;
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
            let start = self.cursor.at;
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
        let start = self.cursor.at;
        let (number, wire_type) = self.tag()?;
        let value = self.value(number, wire_type, start)?;
        let raw = self.cursor.message.get(start..self.cursor.at).unwrap_or_default();
        Ok(Field { number, value, offset: self.base + start, raw })
    }

    /// Reads the value behind the tag at `start`.
    #[inline]
    fn value(&mut self, number: u32, wire_type: u64, start: usize) -> Result<Value<'a>, DecodeError> {
        let offset = self.base + start;
        let cut = DecodeError::Truncated { offset };
        Ok(match wire_type {
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(u64::from_le_bytes(self.cursor.fixed().ok_or(cut)?)),
            2 => {
                let length = self.varint()?;
                let length = usize::try_from(length).map_err(|_| cut)?;
                let at = self.base + self.cursor.at;
                Value::Bytes(self.cursor.take(length).ok_or(cut)?, at)
            }
            3 => {
                self.skip_group(number)?;
                Value::Group
            }
            5 => Value::Fixed32(u32::from_le_bytes(self.cursor.fixed().ok_or(cut)?)),
            _ => return Err(DecodeError::Tag { offset }),
        })
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.cursor.is_at_end() {
            return None;
        }
        let field = self.read();
        if field.is_err() {
            self.cursor.at = self.cursor.message.len();
        }
        Some(field)
    }
}

/// The most bytes that a variable-length number of 64 bits takes.
const MAX_VARINT: usize = 10;

/// A place in a message: the one reader of the wire format. [`Fields`] adds the place of an error to it; the JSON
/// writer's quick way, which knows the type of each field before it reads the value, uses it directly.
#[derive(Clone)]
pub(crate) struct Cursor<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    #[inline]
    pub(crate) fn new(message: &'a [u8]) -> Self {
        Self { message, at: 0 }
    }

    /// How many bytes were read.
    #[inline]
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    #[inline]
    pub(crate) fn is_at_end(&self) -> bool {
        self.at >= self.message.len()
    }

    /// A tag of one or two bytes: OTLP has no longer ones. `None` at the end, and for any other.
    #[inline]
    pub(crate) fn short_tag(&mut self) -> Option<u32> {
        let first = *self.message.get(self.at)?;
        if first < 0x80 {
            self.at += 1;
            return Some(u32::from(first));
        }
        let second = self.message.get(self.at + 1).filter(|second| **second < 0x80)?;
        self.at += 2;
        Some(u32::from(first & 0x7f) | u32::from(*second) << 7)
    }

    /// `None` if the message ends before the number, or the number has more than 64 bits.
    #[inline]
    pub(crate) fn varint(&mut self) -> Option<u64> {
        match self.message.get(self.at) {
            Some(&byte) if byte < 0x80 => {
                self.at += 1;
                Some(u64::from(byte))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.message.get(self.at)?;
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                // The tenth byte has room for one bit only.
                return (shift < 63 || byte < 2).then_some(value);
            }
        }
        None
    }

    /// The next `length` bytes, or `None` if the message ends before.
    #[inline]
    pub(crate) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let taken = self.message.get(self.at..)?.get(..length)?;
        self.at += length;
        Some(taken)
    }

    /// A length, and so many bytes.
    #[inline]
    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.varint()?).ok()?;
        self.take(length)
    }

    #[inline]
    pub(crate) fn fixed<const N: usize>(&mut self) -> Option<[u8; N]> {
        let bytes = *self.message.get(self.at..)?.first_chunk()?;
        self.at += N;
        Some(bytes)
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

/// Ends a message: its length becomes the number of bytes written since `open`, in as few bytes as possible.
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
