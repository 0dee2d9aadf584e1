//! Records to the bytes of a file.

use std::io::{self, Write};

use crate::config::{Compression, Config};
use crate::form::format::Format;
#[cfg(any(feature = "zstd", feature = "gzip"))]
use crate::form::format::PART_BYTES;
use crate::form::name::{Extension, Packing};
use crate::form::record::Record;

/// The settings of new files.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Encoder {
    format: Format,
    compression: Compression,
    compress_above: usize,
    #[cfg_attr(not(feature = "zstd"), expect(dead_code, reason = "the level of zstd"))]
    zstd_level: i32,
}

/// The content of a new file, its size known before the disk is touched.
pub(crate) struct Encoded<'a> {
    packing: Packing,
    format: Format,
    body: Body<'a>,
}

#[cfg_attr(not(any(feature = "zstd", feature = "gzip")), expect(dead_code, reason = "plain files have no parts"))]
enum Body<'a> {
    Records(&'a [Record]),
    Bytes(Vec<u8>),
}

impl Encoder {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            format: config.format,
            compression: config.compression,
            compress_above: config.compress_above,
            zstd_level: config.zstd_level,
        }
    }

    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// The length of a file of these records before compression.
    pub(crate) fn text_len(&self, records: &[Record]) -> u64 {
        plain_len(records, self.format)
    }

    pub(crate) fn encode<'a>(&self, records: &'a [Record]) -> io::Result<Encoded<'a>> {
        let format = self.format;
        let small = plain_len(records, format) <= u64::try_from(self.compress_above).unwrap_or(u64::MAX);
        let plain = || Encoded { packing: Packing::Plain, format, body: Body::Records(records) };
        Ok(match self.compression {
            _ if small => plain(),
            Compression::Never => plain(),
            #[cfg(feature = "zstd")]
            Compression::Zstd => {
                let bytes = zstd_frames(records, format, self.zstd_level)?;
                Encoded { packing: Packing::Zstd, format, body: Body::Bytes(bytes) }
            }
            #[cfg(feature = "gzip")]
            Compression::Gzip => {
                Encoded { packing: Packing::Gzip, format, body: Body::Bytes(gzip_members(records, format)?) }
            }
            #[cfg(not(all(feature = "zstd", feature = "gzip")))]
            _ => plain(),
        })
    }
}

impl Encoded<'_> {
    pub(crate) fn extension(&self) -> Extension {
        Extension { format: self.format, packing: self.packing }
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

fn plain_len(records: &[Record], format: Format) -> u64 {
    records.iter().map(|record| (record.bytes.len() + format.overhead()) as u64).sum()
}

/// Gives the text of the records in parts of about [`PART_BYTES`]. Each part is compressed by itself: damage in one
/// leaves the others readable.
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

const WRITE_AT_ONCE: usize = 64 << 10;
