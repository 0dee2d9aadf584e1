//! Reads the three protobuf messages of an answer, a field at a time, from untrusted bytes.

use std::time::Duration;

use otlp_payload::DecodeError;
use otlp_payload::wire::{Field, Fields, Value};

/// Bytes that are not the protobuf message they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// The content of an `ExportTraceServiceResponse`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ExportResponse {
    pub(crate) rejected: i64,
    pub(crate) message: String,
}

impl ExportResponse {
    /// Reads `opentelemetry.proto.collector.trace.v1.ExportTraceServiceResponse`. No bytes at all are a full success,
    /// and so is an empty `partial_success`.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        Self::read_with(bytes, |_| Ok(()))
    }

    /// The same without unknown fields: for bytes that nothing but themselves shows to be this message.
    pub(crate) fn read_known(bytes: &[u8]) -> Result<Self, Malformed> {
        Self::read_with(bytes, |_| Err(Malformed))
    }

    fn read_with(bytes: &[u8], unknown: impl Fn(u32) -> Result<(), Malformed>) -> Result<Self, Malformed> {
        let mut response = Self::default();
        for partial_success in fields(bytes) {
            let partial_success = partial_success?;
            if partial_success.number != 1 {
                unknown(partial_success.number)?;
                continue;
            }
            for field in fields(partial_success.bytes()?.0) {
                let field = field?;
                match field.number {
                    1 => response.rejected = field.varint()? as i64,
                    2 => response.message = text(field.bytes()?.0),
                    number => unknown(number)?,
                }
            }
        }
        Ok(response)
    }
}

/// The content of a `google.rpc.Status`, without its code.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RpcStatus {
    pub(crate) message: String,
    /// From a `google.rpc.RetryInfo` among the details; zero if that one names no delay.
    pub(crate) retry_delay: Option<Duration>,
}

impl RpcStatus {
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut status = Self::default();
        for field in fields(bytes) {
            let field = field?;
            match field.number {
                1 => drop(field.varint()?),
                2 => status.message = text(field.bytes()?.0),
                3 => {
                    if let Some(delay) = read_retry_info(field.bytes()?.0)? {
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
    for field in fields(any) {
        let field = field?;
        match field.number {
            // The part in front of the last slash may be any host.
            1 => {
                let type_url = field.bytes()?.0;
                is_retry_info = type_url.rsplit(|byte| *byte == b'/').next() == Some(b"google.rpc.RetryInfo");
            }
            2 => inner = field.bytes()?.0,
            _ => {}
        }
    }
    if !is_retry_info {
        return Ok(None);
    }
    let (mut seconds, mut nanos) = (0_i64, 0_i64);
    for retry_delay in fields(inner) {
        let retry_delay = retry_delay?;
        if retry_delay.number != 1 {
            continue;
        }
        for field in fields(retry_delay.bytes()?.0) {
            let field = field?;
            match field.number {
                1 => seconds = field.varint()? as i64,
                2 => nanos = field.varint()? as i64,
                _ => {}
            }
        }
    }
    let nanos = u32::try_from(nanos).unwrap_or(0).min(999_999_999);
    Ok(Some(u64::try_from(seconds).map_or(Duration::ZERO, |seconds| Duration::new(seconds, nanos))))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The fields of one message, by `otlp-payload`'s reader of the wire format. A group is malformed here: proto3 has
/// none.
fn fields(message: &[u8]) -> impl Iterator<Item = Result<Field<'_>, Malformed>> {
    Fields::new(message, 0).map(|field| match field {
        Ok(Field { value: Value::Group, .. }) | Err(_) => Err(Malformed),
        Ok(field) => Ok(field),
    })
}

/// Only the existence of an error in an answer matters: no byte of the answer is used then.
impl From<DecodeError> for Malformed {
    fn from(_: DecodeError) -> Self {
        Self
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
    fn bytes_that_are_no_message_are_malformed() {
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
