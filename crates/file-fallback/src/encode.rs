//! Records to the bytes of a file.

use std::io::{self, Write};

use crate::config::{Compression, Config};
use crate::name::Extension;
use crate::spill::Record;

/// What will be written, its size known before the disk is touched.
pub(crate) struct Encoded<'a> {
    pub(crate) extension: Extension,
    body: Body<'a>,
}

#[cfg_attr(not(any(feature = "zstd", feature = "gzip")), expect(dead_code, reason = "plain text has no parts"))]
enum Body<'a> {
    Records(&'a [Record]),
    Bytes(Vec<u8>),
}

impl<'a> Encoded<'a> {
    pub(crate) fn new(records: &'a [Record], config: &Config) -> io::Result<Self> {
        let small = text_len(records) <= u64::try_from(config.compress_above).unwrap_or(u64::MAX);
        let plain = || Self { extension: Extension::Plain, body: Body::Records(records) };
        Ok(match config.compression {
            _ if small => plain(),
            Compression::Never => plain(),
            #[cfg(feature = "zstd")]
            Compression::Zstd => {
                Self { extension: Extension::Zstd, body: Body::Bytes(zstd_frames(records, config.zstd_level)?) }
            }
            #[cfg(feature = "gzip")]
            Compression::Gzip => Self { extension: Extension::Gzip, body: Body::Bytes(gzip_members(records)?) },
            #[cfg(not(all(feature = "zstd", feature = "gzip")))]
            _ => plain(),
        })
    }

    pub(crate) fn len(&self) -> u64 {
        match &self.body {
            Body::Records(records) => text_len(records),
            Body::Bytes(bytes) => bytes.len() as u64,
        }
    }

    pub(crate) fn write_to(&self, file: &mut impl Write) -> io::Result<()> {
        match &self.body {
            Body::Bytes(bytes) => file.write_all(bytes),
            Body::Records(records) => {
                let mut file = io::BufWriter::with_capacity(WRITE_AT_ONCE, file);
                for record in *records {
                    file.write_all(&record.bytes)?;
                    file.write_all(b"\n")?;
                }
                file.flush()
            }
        }
    }
}

/// The length of the plain text.
pub(crate) fn text_len(records: &[Record]) -> u64 {
    records.iter().map(|record| record.bytes.len() as u64 + 1).sum()
}

/// Records in runs of about [`FRAME_TEXT`], each of which is compressed by itself: damage in one leaves the others readable.
#[cfg(any(feature = "zstd", feature = "gzip"))]
fn frames(records: &[Record], mut each: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut text = Vec::new();
    for record in records {
        text.extend_from_slice(&record.bytes);
        text.push(b'\n');
        if text.len() >= FRAME_TEXT {
            each(&text)?;
            text.clear();
        }
    }
    if text.is_empty() { Ok(()) } else { each(&text) }
}

#[cfg(feature = "zstd")]
fn zstd_frames(records: &[Record], level: i32) -> io::Result<Vec<u8>> {
    let mut compressor = zstd::bulk::Compressor::new(level)?;
    compressor.include_checksum(true)?;
    let mut bytes = Vec::new();
    frames(records, |text| {
        bytes.extend_from_slice(&compressor.compress(text)?);
        Ok(())
    })?;
    Ok(bytes)
}

#[cfg(feature = "gzip")]
fn gzip_members(records: &[Record]) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    frames(records, |text| {
        let mut encoder = flate2::write::GzEncoder::new(&mut bytes, flate2::Compression::default());
        encoder.write_all(text)?;
        encoder.finish().map(drop)
    })?;
    Ok(bytes)
}

/// The text after which a frame ends, with the record that reaches it.
pub(crate) const FRAME_TEXT: usize = 256 << 10;

const WRITE_AT_ONCE: usize = 64 << 10;
