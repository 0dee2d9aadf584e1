//! Bodies: compresses requests, decompresses answers up to a limit.

use std::io::{Read, Write};
use std::time::Duration;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use http::{HeaderMap, header};

/// How much of the body of a refusal is read, before and after decompression.
pub(crate) const MAX_START: usize = 16 << 10;

/// How long a call waits for the text of a refusal: its status alone decides the outcome.
pub(crate) const MESSAGE_WAIT: Duration = Duration::from_secs(1);

/// Level 2 compresses 512 spans of an HTTP server from 340 kB to 47 kB; the usual level 6 reaches 43 kB and takes more
/// than twice the time.
const GZIP_LEVEL: u32 = 2;

pub(crate) fn gzip(bytes: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 4 + 64), flate2::Compression::new(GZIP_LEVEL));
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("writing to a Vec does not fail").into()
}

/// Why a compressed body could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum GunzipError {
    #[error("gzip data is damaged")]
    Damaged,
    #[error("gzip data holds more than {0} bytes")]
    TooLarge(usize),
}

/// Opens gzip data of at most `max` bytes, and stops behind them.
pub(crate) fn gunzip(bytes: &[u8], max: usize) -> Result<Vec<u8>, GunzipError> {
    let mut out = Vec::new();
    let limit = max as u64 + 1;
    MultiGzDecoder::new(bytes).take(limit).read_to_end(&mut out).map_err(|_| GunzipError::Damaged)?;
    if out.len() > max { Err(GunzipError::TooLarge(max)) } else { Ok(out) }
}

/// Most encodings of one answer that are undone.
const MAX_ENCODINGS: usize = 4;

/// Undoes the content encodings of a whole body, each to at most `max` bytes.
pub(crate) fn decode(headers: &HeaderMap, body: &[u8], max: usize) -> Result<Vec<u8>, String> {
    decode_with(headers, body, |bytes| gunzip(bytes, max).map_err(|error| error.to_string()))
}

/// Undoes the content encodings of a body that may have been cut, as far as its bytes reach: for a text that is shown.
pub(crate) fn decode_start(headers: &HeaderMap, body: &[u8]) -> Vec<u8> {
    let start = |bytes: &[u8]| {
        let mut out = Vec::new();
        // An error comes behind the bytes that were decoded before it.
        let _ = MultiGzDecoder::new(bytes).take(MAX_START as u64).read_to_end(&mut out);
        Ok(out)
    };
    decode_with(headers, body, start).unwrap_or_default()
}

fn decode_with(
    headers: &HeaderMap,
    body: &[u8],
    gunzip: impl Fn(&[u8]) -> Result<Vec<u8>, String>,
) -> Result<Vec<u8>, String> {
    let mut body = body.to_vec();
    let lists: Vec<_> = headers.get_all(header::CONTENT_ENCODING).iter().map(|list| list.as_bytes()).collect();
    let encodings: Vec<&[u8]> = lists.iter().flat_map(|list| list.split(|byte| *byte == b',')).collect();
    if encodings.len() > MAX_ENCODINGS {
        return Err(format!("{} content encodings", encodings.len()));
    }
    // The last one was applied last (RFC 9110, section 8.4). No bytes are no bytes in any encoding.
    for encoding in encodings.iter().rev().map(|encoding| encoding.trim_ascii().to_ascii_lowercase()) {
        match encoding.as_slice() {
            _ if body.is_empty() => {}
            b"" | b"identity" => {}
            b"gzip" | b"x-gzip" => body = gunzip(&body)?,
            _ => return Err("a content encoding that was not asked for".to_owned()),
        }
    }
    Ok(body)
}

/// Base64 of a binary gRPC header: with padding or without (gRPC over HTTP/2, "Custom-Metadata").
pub(crate) fn decode_base64(text: &[u8]) -> Option<Vec<u8>> {
    const ENGINE: GeneralPurpose = GeneralPurpose::new(
        &STANDARD,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    ENGINE.decode(text).ok()
}
