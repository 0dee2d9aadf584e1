//! Bytes to text: plain, zstd or gzip, recognised by the first bytes; goes on behind damage.

#[cfg(any(feature = "zstd", feature = "gzip"))]
use std::io::SeekFrom;
use std::io::{self, BufRead, Read};

use crate::form::name::{Extension, Packing};

/// Reads a file and gives its text piece by piece.
#[derive(Debug)]
pub(crate) struct Unpacker<F> {
    state: State<F>,
    /// How often a damaged part made it search for the next one.
    #[cfg_attr(not(any(feature = "zstd", feature = "gzip")), expect(dead_code, reason = "plain files have no parts"))]
    searches: u32,
}

/// The bytes that a call of [`Unpacker::fill`] has added to the text.
#[cfg_attr(not(any(feature = "zstd", feature = "gzip")), expect(dead_code, reason = "plain files have no parts"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filled {
    /// A piece of a compressed part whose checksum is not read yet.
    Part,
    /// A piece whose end is verified: the checksum of each compressed part before it was right. Plain text has none.
    Whole,
    /// The file ends in the middle of a part.
    Torn,
    /// The part is damaged; the text goes on with the next one.
    Corrupt,
    /// None: the file ends.
    End,
}

enum State<F> {
    Plain(Source<F>),
    #[cfg(feature = "zstd")]
    Zstd {
        source: Source<F>,
        decoder: Box<zstd::stream::raw::Decoder<'static>>,
        /// The position in the file where the present part begins.
        part: Option<u64>,
    },
    #[cfg(feature = "gzip")]
    Gzip {
        source: Source<F>,
    },
    #[cfg(feature = "gzip")]
    GzipPart {
        decoder: Box<flate2::bufread::GzDecoder<Source<F>>>,
        part: u64,
    },
    /// While a call moves the source from one state to another, and after a call that failed.
    Moved,
}

impl<F: Read + io::Seek> Unpacker<F> {
    /// Recognises the compression by the first bytes. If they are neither a magic number nor plain text, the extension
    /// of the name decides.
    pub(crate) fn new(file: F, extension: Extension) -> io::Result<Self> {
        let mut source = Source::new(file);
        let first = source.peek(ZSTD_MAGIC.len())?;
        // `peek` may give more bytes, and plain text behind the first four need not be ASCII.
        let first = &first[..first.len().min(ZSTD_MAGIC.len())];
        let found = if first.starts_with(&ZSTD_MAGIC) {
            Packing::Zstd
        } else if first.starts_with(&GZIP_MAGIC[..3]) {
            Packing::Gzip
        } else if extension.format.is_plain(first) {
            Packing::Plain
        } else {
            extension.packing
        };
        let state = match found {
            Packing::Plain => State::Plain(source),
            #[cfg(feature = "zstd")]
            Packing::Zstd => State::Zstd { source, decoder: Box::new(zstd_decoder()?), part: None },
            #[cfg(feature = "gzip")]
            Packing::Gzip => State::Gzip { source },
            #[cfg(not(all(feature = "zstd", feature = "gzip")))]
            _ => return Err(io::Error::new(io::ErrorKind::Unsupported, "this compression is not compiled in")),
        };
        Ok(Self { state, searches: 0 })
    }

    /// Adds a piece of text at the end of `text`.
    pub(crate) fn fill(&mut self, text: &mut Vec<u8>) -> io::Result<Filled> {
        match std::mem::replace(&mut self.state, State::Moved) {
            State::Plain(mut source) => {
                let bytes = source.fill_buf()?;
                let len = bytes.len();
                text.extend_from_slice(bytes);
                source.consume(len);
                self.state = State::Plain(source);
                Ok(if len == 0 { Filled::End } else { Filled::Whole })
            }
            #[cfg(feature = "zstd")]
            State::Zstd { source, decoder, part } => self.fill_zstd(source, decoder, part, text),
            #[cfg(feature = "gzip")]
            State::Gzip { mut source } => {
                if source.fill_buf()?.is_empty() {
                    self.state = State::Gzip { source };
                    return Ok(Filled::End);
                }
                let part = source.position();
                self.fill_gzip(Box::new(flate2::bufread::GzDecoder::new(source)), part, text)
            }
            #[cfg(feature = "gzip")]
            State::GzipPart { decoder, part } => self.fill_gzip(decoder, part, text),
            State::Moved => Err(io::Error::other("the file was read on after an error")),
        }
    }

    #[cfg(feature = "zstd")]
    fn fill_zstd(
        &mut self,
        mut source: Source<F>,
        mut decoder: Box<zstd::stream::raw::Decoder<'static>>,
        part: Option<u64>,
        text: &mut Vec<u8>,
    ) -> io::Result<Filled> {
        use zstd::stream::raw::Operation as _;

        let input = source.fill_buf()?;
        let at_end = input.is_empty();
        let begin = match part {
            Some(begin) => begin,
            None if at_end => {
                self.state = State::Zstd { source, decoder, part: None };
                return Ok(Filled::End);
            }
            None => {
                decoder.reinit()?;
                source.position()
            }
        };
        let old_len = text.len();
        text.resize(old_len + CHUNK, 0);
        let ran = decoder.run_on_buffers(source.fill_buf()?, &mut text[old_len..]);
        let (filled, part) = match ran {
            Ok(status) => {
                text.truncate(old_len + status.bytes_written);
                source.consume(status.bytes_read);
                if status.remaining == 0 {
                    (Filled::Whole, None)
                } else if at_end && status.bytes_written == 0 {
                    (self.after_damage(&mut source, begin, &ZSTD_MAGIC, true)?, None)
                } else {
                    (Filled::Part, Some(begin))
                }
            }
            Err(_) => {
                text.truncate(old_len);
                (self.after_damage(&mut source, begin, &ZSTD_MAGIC, false)?, None)
            }
        };
        self.state = State::Zstd { source, decoder, part };
        Ok(filled)
    }

    #[cfg(feature = "gzip")]
    fn fill_gzip(
        &mut self,
        mut decoder: Box<flate2::bufread::GzDecoder<Source<F>>>,
        part: u64,
        text: &mut Vec<u8>,
    ) -> io::Result<Filled> {
        let old_len = text.len();
        text.resize(old_len + CHUNK, 0);
        let read = decoder.read(&mut text[old_len..]);
        text.truncate(old_len + read.as_ref().copied().unwrap_or(0));
        match read {
            Ok(0) => {
                self.state = State::Gzip { source: decoder.into_inner() };
                Ok(Filled::Whole)
            }
            Ok(_) => {
                self.state = State::GzipPart { decoder, part };
                Ok(Filled::Part)
            }
            Err(error) => {
                let mut source = decoder.into_inner();
                if source.failed {
                    return Err(error);
                }
                let torn = error.kind() == io::ErrorKind::UnexpectedEof;
                let filled = self.after_damage(&mut source, part, &GZIP_MAGIC, torn)?;
                self.state = State::Gzip { source };
                Ok(filled)
            }
        }
    }

    /// Goes to the next part behind the damaged one that begins at `begin`, or to the end of the file. A part that
    /// reaches beyond the end of the file is torn; if another part begins inside it, its length was damaged instead.
    #[cfg(any(feature = "zstd", feature = "gzip"))]
    fn after_damage(&mut self, source: &mut Source<F>, begin: u64, magic: &[u8], torn: bool) -> io::Result<Filled> {
        self.searches += 1;
        source.seek_to(begin + 1)?;
        let found = self.searches <= MAX_SEARCHES && source.find(magic)?;
        if !found {
            source.skip_to_end()?;
        }
        Ok(if torn && !found { Filled::Torn } else { Filled::Corrupt })
    }
}

impl<F> std::fmt::Debug for State<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Plain",
            #[cfg(feature = "zstd")]
            Self::Zstd { .. } => "Zstd",
            #[cfg(feature = "gzip")]
            Self::Gzip { .. } | Self::GzipPart { .. } => "Gzip",
            Self::Moved => "Moved",
        })
    }
}

#[cfg(feature = "zstd")]
fn zstd_decoder() -> io::Result<zstd::stream::raw::Decoder<'static>> {
    let mut decoder = zstd::stream::raw::Decoder::new()?;
    decoder.set_parameter(zstd::stream::raw::DParameter::WindowLogMax(WINDOW_LOG_MAX))?;
    Ok(decoder)
}

/// A file with a buffer, a position, and a flag that tells a failed read from a failed decoder.
struct Source<F> {
    file: F,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// The position in the file where the buffer ends.
    offset: u64,
    /// A read of the file has failed.
    failed: bool,
}

impl<F: Read + io::Seek> Source<F> {
    fn new(file: F) -> Self {
        Self { file, buffer: vec![0; CHUNK].into(), start: 0, end: 0, offset: 0, failed: false }
    }

    /// The next `len` bytes, or more, without taking them; fewer at the end of the file.
    fn peek(&mut self, len: usize) -> io::Result<&[u8]> {
        while self.end - self.start < len && self.read_more()? > 0 {}
        Ok(&self.buffer[self.start..self.end])
    }

    /// Reads the next bytes of the file into the buffer, behind those that it holds.
    fn read_more(&mut self) -> io::Result<usize> {
        if self.end == self.buffer.len() || self.start == self.end {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        loop {
            match self.file.read(&mut self.buffer[self.end..]) {
                Ok(len) => {
                    self.end += len;
                    self.offset += len as u64;
                    return Ok(len);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.failed = true;
                    return Err(error);
                }
            }
        }
    }
}

/// Moves in the file, for the search behind damage.
#[cfg(any(feature = "zstd", feature = "gzip"))]
impl<F: Read + io::Seek> Source<F> {
    fn position(&self) -> u64 {
        self.offset - (self.end - self.start) as u64
    }

    fn seek_to(&mut self, position: u64) -> io::Result<()> {
        let buffered = self.offset - self.end as u64;
        if (buffered..=self.offset).contains(&position) {
            self.start = usize::try_from(position - buffered).unwrap_or(self.end);
        } else {
            self.offset = self.file.seek(SeekFrom::Start(position))?;
            (self.start, self.end) = (0, 0);
        }
        Ok(())
    }

    fn skip_to_end(&mut self) -> io::Result<()> {
        self.offset = self.file.seek(SeekFrom::End(0))?;
        (self.start, self.end) = (0, 0);
        Ok(())
    }

    /// Goes to the next occurrence of `wanted`; if there is none, to the end of the file.
    fn find(&mut self, wanted: &[u8]) -> io::Result<bool> {
        loop {
            let bytes = self.peek(wanted.len())?;
            if bytes.len() < wanted.len() {
                return Ok(false);
            }
            match bytes.windows(wanted.len()).position(|window| window == wanted) {
                Some(index) => {
                    self.start += index;
                    return Ok(true);
                }
                None => self.start = self.end - (wanted.len() - 1),
            }
        }
    }
}

impl<F: Read + io::Seek> Read for Source<F> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let len = self.fill_buf()?.len().min(out.len());
        out[..len].copy_from_slice(&self.buffer[self.start..self.start + len]);
        self.start += len;
        Ok(len)
    }
}

impl<F: Read + io::Seek> BufRead for Source<F> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.start == self.end {
            self.read_more()?;
        }
        Ok(&self.buffer[self.start..self.end])
    }

    fn consume(&mut self, len: usize) {
        self.start = (self.start + len).min(self.end);
    }
}

/// The most text that one call of [`Unpacker::fill`] adds.
pub(super) const CHUNK: usize = 64 << 10;

/// RFC 8878, section 3.1.1.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// RFC 1952, section 2.3.1: the magic number, deflate, and no flags, as this crate writes it.
const GZIP_MAGIC: [u8; 4] = [0x1f, 0x8b, 8, 0];

/// 8 MiB, the window that every reader of zstd should support (RFC 8878, section 3.1.1.1.2).
#[cfg(feature = "zstd")]
const WINDOW_LOG_MAX: u32 = 23;

/// After this many damaged parts the rest of the file is skipped, so that a hostile file cannot block the disk thread.
#[cfg(any(feature = "zstd", feature = "gzip"))]
const MAX_SEARCHES: u32 = 1_000;
