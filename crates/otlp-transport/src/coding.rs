//! Codings of bodies: gzip and zstd, for requests and answers.

use std::io::{self, BufReader, Read, Write};

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use otlp_payload::Payload;

use crate::protocol::Compression;

/// Level 2 compresses 512 spans of an HTTP server from 340 kB to 47 kB; the usual level 6 reaches 43 kB and takes more
/// than twice the time.
const GZIP_LEVEL: u32 = 2;

/// The fastest of the usual levels (1 to 19).
const ZSTD_LEVEL: i32 = 1;

/// The largest window of an answer in zstd, as a power of two: 8 MiB, the most that a decoder of the content coding has
/// to support (RFC 9659). It is memory that the peer chooses.
const ZSTD_WINDOW: u32 = 23;

/// A coding by its name in `content-encoding` and `grpc-encoding`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    Gzip,
    Zstd,
}

/// Why a body in a coding could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("{} data is damaged", .0.name())]
    Damaged(Coding),
    #[error("{} data holds more than {} bytes", .0.name(), .1)]
    TooLarge(Coding, usize),
}

impl Coding {
    /// The coding of requests; none for those that go as they are.
    pub(crate) fn of(compression: Compression) -> Option<Self> {
        match compression {
            Compression::None => None,
            Compression::Gzip => Some(Self::Gzip),
            Compression::Zstd => Some(Self::Zstd),
        }
    }

    /// The coding with this name, in lower case.
    pub(crate) fn named(name: &[u8]) -> Option<Self> {
        match name {
            b"gzip" | b"x-gzip" => Some(Self::Gzip),
            b"zstd" => Some(Self::Zstd),
            _ => None,
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    /// The payload in this coding: made once, and kept with it for later attempts.
    pub(crate) fn of_payload(self, payload: &Payload) -> Bytes {
        payload.coded(self.name(), |bytes| self.compress(bytes))
    }

    fn compress(self, bytes: &[u8]) -> Bytes {
        let room = Vec::with_capacity(bytes.len() / 4 + 64);
        let compressed = match self {
            Self::Gzip => {
                let mut encoder = GzEncoder::new(room, flate2::Compression::new(GZIP_LEVEL));
                encoder.write_all(bytes).and_then(|()| encoder.finish())
            }
            Self::Zstd => zstd::stream::Encoder::new(room, ZSTD_LEVEL).and_then(|mut encoder| {
                encoder.set_pledged_src_size(Some(bytes.len() as u64))?;
                encoder.write_all(bytes)?;
                encoder.finish()
            }),
        };
        // The payload may keep it for an outage.
        let mut compressed = compressed.expect("writing to a Vec does not fail");
        compressed.shrink_to_fit();
        compressed.into()
    }

    /// Opens data of at most `max` bytes, and stops behind them.
    pub(crate) fn open(self, bytes: &[u8], max: usize) -> Result<Vec<u8>, OpenError> {
        let mut out = Vec::new();
        let read = self.decoder(bytes).and_then(|decoder| decoder.take(max as u64 + 1).read_to_end(&mut out));
        read.map_err(|_| OpenError::Damaged(self))?;
        if out.len() > max { Err(OpenError::TooLarge(self, max)) } else { Ok(out) }
    }

    /// Opens data that may have been cut, as far as its bytes reach, up to `max`.
    pub(crate) fn start(self, bytes: &[u8], max: usize) -> Vec<u8> {
        let mut out = Vec::new();
        // An error comes behind the bytes that were decoded before it.
        let _ = self.decoder(bytes).and_then(|decoder| decoder.take(max as u64).read_to_end(&mut out));
        out
    }

    fn decoder<'a>(self, bytes: &'a [u8]) -> io::Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Self::Gzip => Box::new(MultiGzDecoder::new(bytes)),
            Self::Zstd => {
                let mut decoder = zstd::stream::Decoder::with_buffer(BufReader::new(bytes))?;
                decoder.window_log_max(ZSTD_WINDOW)?;
                Box::new(decoder)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use otlp_payload::BatchId;
    use proptest::prelude::*;

    use super::*;

    const BOTH: [Coding; 2] = [Coding::Gzip, Coding::Zstd];

    fn payload(bytes: Vec<u8>) -> Payload {
        Payload::new(BatchId { incarnation: 1, seq: 1 }, UNIX_EPOCH, 1, bytes.into())
    }

    #[test]
    fn a_payload_is_compressed_once_and_all_its_clones_share_the_result() {
        for coding in BOTH {
            let first = payload(b"the same word ".repeat(1_000));
            let later = first.clone();
            let once = coding.of_payload(&first);
            let again = coding.of_payload(&later);
            assert!(once.len() < first.bytes().len() / 10);
            assert_eq!((once.as_ptr(), once.len()), (again.as_ptr(), again.len()), "{coding:?}");
            assert_eq!(coding.open(&once, 1 << 20).as_deref(), Ok(&first.bytes()[..]));
            // Another payload of the same bytes has a form of its own.
            assert_ne!(coding.of_payload(&payload(first.bytes().to_vec())).as_ptr(), once.as_ptr());
        }
    }

    #[test]
    fn each_end_of_the_limit_is_kept() {
        for coding in BOTH {
            let data = coding.compress(&[7; 5_000]);
            assert_eq!(coding.open(&data, 5_000), Ok(vec![7; 5_000]));
            assert_eq!(coding.open(&data, 4_999), Err(OpenError::TooLarge(coding, 4_999)));
            assert_eq!(coding.open(&data[..data.len() - 3], 5_000), Err(OpenError::Damaged(coding)));
            let both = [&data[..], &data].concat();
            assert_eq!(coding.open(&both, 10_000).map(|data| data.len()), Ok(10_000), "frames in a row");
        }
    }

    #[test]
    fn a_window_that_would_take_much_memory_is_damage() {
        let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).expect("memory");
        encoder.window_log(ZSTD_WINDOW + 1).expect("a legal window");
        encoder.write_all(&[0; 100]).expect("to a Vec");
        let data = encoder.finish().expect("to a Vec");
        assert_eq!(Coding::Zstd.open(&data, 1 << 20), Err(OpenError::Damaged(Coding::Zstd)));
    }

    proptest! {
        #[test]
        fn any_bytes_come_back_and_any_data_does_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..300), cut in 0..300_usize) {
            for coding in BOTH {
                let data = coding.compress(&bytes);
                prop_assert_eq!(coding.open(&data, 300), Ok(bytes.clone()));
                let start = coding.start(&data[..cut.min(data.len())], 300);
                prop_assert!(bytes.starts_with(&start));
                let _ = coding.open(&bytes, 300);
            }
        }
    }
}
