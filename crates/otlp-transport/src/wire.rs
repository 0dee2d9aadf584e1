//! Reads the few protobuf messages that come back: a field at a time, from untrusted bytes.

use std::time::Duration;

/// Bytes that are not the protobuf message they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// What an `ExportTraceServiceResponse` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ExportResponse {
    pub(crate) rejected: i64,
    pub(crate) message: String,
}

impl ExportResponse {
    /// Reads `opentelemetry.proto.collector.trace.v1.ExportTraceServiceResponse`. No bytes at all are a full success, and
    /// so is an empty `partial_success`.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut response = Self::default();
        for field in Fields(bytes) {
            if let (1, value) = field? {
                for field in Fields(value.bytes()?) {
                    match field? {
                        (1, value) => response.rejected = value.varint()? as i64,
                        (2, value) => response.message = text(value.bytes()?),
                        _ => {}
                    }
                }
            }
        }
        Ok(response)
    }
}

/// What a `google.rpc.Status` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RpcStatus {
    pub(crate) message: String,
    /// From a `google.rpc.RetryInfo` among the details; zero if that one names no delay.
    pub(crate) retry_delay: Option<Duration>,
}

impl RpcStatus {
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut status = Self::default();
        for field in Fields(bytes) {
            match field? {
                (1, value) => drop(value.varint()?),
                (2, value) => status.message = text(value.bytes()?),
                (3, value) => {
                    if let Some(delay) = read_retry_info(value.bytes()?)? {
                        status.retry_delay = Some(delay);
                    }
                }
                _ => {}
            }
        }
        Ok(status)
    }
}

/// Reads a `google.protobuf.Any`; `None` if it holds anything but a `RetryInfo`.
fn read_retry_info(any: &[u8]) -> Result<Option<Duration>, Malformed> {
    let (mut is_retry_info, mut inner) = (false, &[][..]);
    for field in Fields(any) {
        match field? {
            // The part in front of the last slash may be any host.
            (1, value) => {
                is_retry_info = value.bytes()?.rsplit(|byte| *byte == b'/').next() == Some(b"google.rpc.RetryInfo")
            }
            (2, value) => inner = value.bytes()?,
            _ => {}
        }
    }
    if !is_retry_info {
        return Ok(None);
    }
    let (mut seconds, mut nanos) = (0_i64, 0_i64);
    for field in Fields(inner) {
        if let (1, value) = field? {
            for field in Fields(value.bytes()?) {
                match field? {
                    (1, value) => seconds = value.varint()? as i64,
                    (2, value) => nanos = value.varint()? as i64,
                    _ => {}
                }
            }
        }
    }
    let nanos = u32::try_from(nanos).unwrap_or(0).min(999_999_999);
    Ok(Some(u64::try_from(seconds).map_or(Duration::ZERO, |seconds| Duration::new(seconds, nanos))))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    Fixed,
}

impl<'a> Value<'a> {
    fn varint(&self) -> Result<u64, Malformed> {
        if let Self::Varint(value) = self { Ok(*value) } else { Err(Malformed) }
    }

    fn bytes(&self) -> Result<&'a [u8], Malformed> {
        if let Self::Bytes(value) = self { Ok(value) } else { Err(Malformed) }
    }
}

/// The fields of one message. Ends after the first error.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Result<(u64, Value<'a>), Malformed> {
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            // Groups: proto3 has none.
            _ => return Err(Malformed),
        };
        match key >> 3 {
            0 => Err(Malformed),
            number => Ok((number, value)),
        }
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0_u64;
        for shift in (0..70).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or(Malformed)?;
            self.0 = rest;
            // The tenth byte has room for one bit.
            if shift == 63 && *byte > 1 {
                return Err(Malformed);
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_of_64_bits_and_no_more_are_read() {
        let mut most = vec![0x0a, 11, 0x08];
        most.extend([0xff; 9]);
        most.push(1);
        assert_eq!(ExportResponse::read(&most).map(|response| response.rejected), Ok(-1));
        *most.last_mut().expect("not empty") = 2;
        assert_eq!(ExportResponse::read(&most), Err(Malformed));
        let endless = [&[0x0a, 14, 0x08][..], &[0x80; 13]].concat();
        assert_eq!(ExportResponse::read(&endless), Err(Malformed));
    }

    #[test]
    fn what_is_no_message_is_malformed() {
        for bytes in
            [&b"\x00\x00"[..], b"\x0b", b"\x0c", b"\x0f", b"\x0a", b"\x0a\x02\x08", b"\x09\x01", b"\x0d\x01", b"\x80"]
        {
            assert_eq!(ExportResponse::read(bytes), Err(Malformed), "{bytes:?}");
        }
    }

    #[test]
    fn unknown_fields_of_each_kind_are_skipped() {
        let bytes = b"\x10\x01\x19aaaaaaaa\x22\x03abc\x2daaaa\x0a\x02\x08\x05";
        assert_eq!(ExportResponse::read(bytes).map(|response| response.rejected), Ok(5));
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = ExportResponse::read(&bytes);
            let _ = RpcStatus::read(&bytes);
            let _ = read_retry_info(&bytes);
        }
    }
}
