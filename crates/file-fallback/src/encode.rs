//! Lines to the bytes of a file.

use std::io::{self, Write};

use crate::config::{Compression, Config};
use crate::name::Extension;
use crate::spill::Line;

/// What will be written, its size known before the disk is touched.
pub(crate) struct Encoded<'a> {
    pub(crate) extension: Extension,
    body: Body<'a>,
}

#[cfg_attr(not(any(feature = "zstd", feature = "gzip")), expect(dead_code, reason = "plain text has no parts"))]
enum Body<'a> {
    Lines(&'a [Line]),
    Bytes(Vec<u8>),
}

impl<'a> Encoded<'a> {
    pub(crate) fn new(lines: &'a [Line], config: &Config) -> io::Result<Self> {
        let small = text_len(lines) <= u64::try_from(config.compress_above).unwrap_or(u64::MAX);
        let plain = || Self { extension: Extension::Plain, body: Body::Lines(lines) };
        Ok(match config.compression {
            _ if small => plain(),
            Compression::Never => plain(),
            #[cfg(feature = "zstd")]
            Compression::Zstd => {
                Self { extension: Extension::Zstd, body: Body::Bytes(zstd_frames(lines, config.zstd_level)?) }
            }
            #[cfg(feature = "gzip")]
            Compression::Gzip => Self { extension: Extension::Gzip, body: Body::Bytes(gzip_members(lines)?) },
            #[cfg(not(all(feature = "zstd", feature = "gzip")))]
            _ => plain(),
        })
    }

    pub(crate) fn len(&self) -> u64 {
        match &self.body {
            Body::Lines(lines) => text_len(lines),
            Body::Bytes(bytes) => bytes.len() as u64,
        }
    }

    pub(crate) fn write_to(&self, file: &mut impl Write) -> io::Result<()> {
        match &self.body {
            Body::Bytes(bytes) => file.write_all(bytes),
            Body::Lines(lines) => {
                let mut file = io::BufWriter::with_capacity(WRITE_AT_ONCE, file);
                for line in *lines {
                    file.write_all(&line.text)?;
                    file.write_all(b"\n")?;
                }
                file.flush()
            }
        }
    }
}

/// The length of the plain text.
pub(crate) fn text_len(lines: &[Line]) -> u64 {
    lines.iter().map(|line| line.text.len() as u64 + 1).sum()
}

/// Lines in runs of about [`FRAME_TEXT`], each of which is compressed by itself: damage in one leaves the others readable.
#[cfg(any(feature = "zstd", feature = "gzip"))]
fn frames(lines: &[Line], mut each: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut text = Vec::new();
    for line in lines {
        text.extend_from_slice(&line.text);
        text.push(b'\n');
        if text.len() >= FRAME_TEXT {
            each(&text)?;
            text.clear();
        }
    }
    if text.is_empty() { Ok(()) } else { each(&text) }
}

#[cfg(feature = "zstd")]
fn zstd_frames(lines: &[Line], level: i32) -> io::Result<Vec<u8>> {
    let mut compressor = zstd::bulk::Compressor::new(level)?;
    compressor.include_checksum(true)?;
    let mut bytes = Vec::new();
    frames(lines, |text| {
        bytes.extend_from_slice(&compressor.compress(text)?);
        Ok(())
    })?;
    Ok(bytes)
}

#[cfg(feature = "gzip")]
fn gzip_members(lines: &[Line]) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    frames(lines, |text| {
        let mut encoder = flate2::write::GzEncoder::new(&mut bytes, flate2::Compression::default());
        encoder.write_all(text)?;
        encoder.finish().map(drop)
    })?;
    Ok(bytes)
}

/// The text after which a frame ends, with the line that reaches it.
pub(crate) const FRAME_TEXT: usize = 256 << 10;

const WRITE_AT_ONCE: usize = 64 << 10;
