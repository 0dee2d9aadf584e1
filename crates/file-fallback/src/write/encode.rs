//! Records to the bytes of a file.

use std::io::{self, Write};

use crate::config::{Compression, Config};
use crate::form::format::Format;
use crate::form::name::Packing;
use crate::write::writer::Record;

/// What will be written, its size known before the disk is touched.
pub(crate) struct Encoded<'a> {
    pub(crate) packing: Packing,
    format: Format,
    body: Body<'a>,
}

#[cfg_attr(not(any(feature = "zstd", feature = "gzip")), expect(dead_code, reason = "plain files have no parts"))]
enum Body<'a> {
    Records(&'a [Record]),
    Bytes(Vec<u8>),
}

impl<'a> Encoded<'a> {
    pub(crate) fn new(records: &'a [Record], config: &Config) -> io::Result<Self> {
        let format = config.format;
        let small = plain_len(records, format) <= u64::try_from(config.compress_above).unwrap_or(u64::MAX);
        let plain = || Self { packing: Packing::Plain, format, body: Body::Records(records) };
        Ok(match config.compression {
            _ if small => plain(),
            Compression::Never => plain(),
            #[cfg(feature = "zstd")]
            Compression::Zstd => {
                let bytes = zstd_frames(records, format, config.zstd_level)?;
                Self { packing: Packing::Zstd, format, body: Body::Bytes(bytes) }
            }
            #[cfg(feature = "gzip")]
            Compression::Gzip => {
                Self { packing: Packing::Gzip, format, body: Body::Bytes(gzip_members(records, format)?) }
            }
            #[cfg(not(all(feature = "zstd", feature = "gzip")))]
            _ => plain(),
        })
    }

    pub(crate) fn len(&self) -> u64 {
        match &self.body {
            Body::Records(records) => plain_len(records, self.format),
            Body::Bytes(bytes) => bytes.len() as u64,
        }
    }

    pub(crate) fn write_to(&self, file: &mut impl Write) -> io::Result<()> {
        match &self.body {
            Body::Bytes(bytes) => file.write_all(bytes),
            Body::Records(records) => {
                let mut file = io::BufWriter::with_capacity(WRITE_AT_ONCE, file);
                for record in *records {
                    self.format.put(&mut file, &record.bytes)?;
                }
                file.flush()
            }
        }
    }
}

/// The length before compression.
pub(crate) fn plain_len(records: &[Record], format: Format) -> u64 {
    records.iter().map(|record| (record.bytes.len() + format.overhead()) as u64).sum()
}

/// Records in runs of about [`PART_BYTES`], each of which is compressed by itself: damage in one leaves the others readable.
#[cfg(any(feature = "zstd", feature = "gzip"))]
fn parts(records: &[Record], format: Format, mut each: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut text = Vec::new();
    for record in records {
        format.put(&mut text, &record.bytes)?;
        if text.len() >= PART_BYTES {
            each(&text)?;
            text.clear();
        }
    }
    if text.is_empty() { Ok(()) } else { each(&text) }
}

#[cfg(feature = "zstd")]
fn zstd_frames(records: &[Record], format: Format, level: i32) -> io::Result<Vec<u8>> {
    let mut compressor = zstd::bulk::Compressor::new(level)?;
    compressor.include_checksum(true)?;
    let mut bytes = Vec::new();
    parts(records, format, |text| {
        bytes.extend_from_slice(&compressor.compress(text)?);
        Ok(())
    })?;
    Ok(bytes)
}

#[cfg(feature = "gzip")]
fn gzip_members(records: &[Record], format: Format) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    parts(records, format, |text| {
        let mut encoder = flate2::write::GzEncoder::new(&mut bytes, flate2::Compression::default());
        encoder.write_all(text)?;
        encoder.finish().map(drop)
    })?;
    Ok(bytes)
}

/// The bytes after which a part ends, with the record that reaches them.
pub(crate) const PART_BYTES: usize = 256 << 10;

const WRITE_AT_ONCE: usize = 64 << 10;
