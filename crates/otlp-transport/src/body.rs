//! Bodies: compresses requests, decompresses answers up to a limit.

use std::io::{Read, Write};
use std::time::Duration;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;

/// The largest answer that is read, after decompression: 4 MiB (OTLP specification, "response size").
pub(crate) const MAX_RESPONSE: usize = 4 << 20;

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
    #[error("gzip data holds more than {MAX_RESPONSE} bytes")]
    TooLarge,
}

/// Opens gzip data, and stops at [`MAX_RESPONSE`].
pub(crate) fn gunzip(bytes: &[u8]) -> Result<Vec<u8>, GunzipError> {
    let mut out = Vec::new();
    let limit = MAX_RESPONSE as u64 + 1;
    MultiGzDecoder::new(bytes).take(limit).read_to_end(&mut out).map_err(|_| GunzipError::Damaged)?;
    if out.len() > MAX_RESPONSE { Err(GunzipError::TooLarge) } else { Ok(out) }
}

/// Base64 of a binary gRPC header: with padding or without (gRPC over HTTP/2, "Custom-Metadata").
pub(crate) fn decode_base64(text: &[u8]) -> Option<Vec<u8>> {
    const ENGINE: GeneralPurpose = GeneralPurpose::new(
        &STANDARD,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    ENGINE.decode(text).ok()
}
