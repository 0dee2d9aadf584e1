//! Bodies of answers: how much of them is read, and their encodings undone up to a limit.

use std::time::Duration;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::{HeaderMap, header};

use crate::coding::Coding;

/// How much of the body of a refusal is read, before and after decompression.
pub(crate) const MAX_START: usize = 16 << 10;

/// How long a call waits for the text of a refusal: its status alone decides the outcome.
pub(crate) const MESSAGE_WAIT: Duration = Duration::from_secs(1);

/// Most encodings of one answer that are undone.
const MAX_ENCODINGS: usize = 4;

/// Undoes the content encodings of a whole body, each to at most `max` bytes.
pub(crate) fn decode(headers: &HeaderMap, body: &[u8], max: usize) -> Result<Vec<u8>, String> {
    decode_with(headers, body, |coding, bytes| coding.open(bytes, max).map_err(|error| error.to_string()))
}

/// Undoes the content encodings of a body that may have been cut, as far as its bytes reach: for a text that is shown.
pub(crate) fn decode_start(headers: &HeaderMap, body: &[u8]) -> Vec<u8> {
    decode_with(headers, body, |coding, bytes| Ok(coding.start(bytes, MAX_START))).unwrap_or_default()
}

fn decode_with(
    headers: &HeaderMap,
    body: &[u8],
    open: impl Fn(Coding, &[u8]) -> Result<Vec<u8>, String>,
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
            name => match Coding::named(name) {
                Some(coding) => body = open(coding, &body)?,
                None => return Err("a content encoding that was not asked for".to_owned()),
            },
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
