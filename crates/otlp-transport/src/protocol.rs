//! The two protocols of OTLP that the transports speak, and the compression of their bodies.

use std::fmt;

/// How requests are carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Protocol {
    /// gRPC over HTTP/2: `grpc`.
    Grpc,
    /// Protobuf bodies over HTTP/1.1: `http/protobuf`.
    HttpProtobuf,
}

impl Protocol {
    /// The protocol of a word, in any case; and a remark where another one is used than the word says.
    pub(crate) fn of_word(word: &str) -> Option<(Self, Option<&'static str>)> {
        match word.to_ascii_lowercase().as_str() {
            "grpc" => Some((Self::Grpc, None)),
            "http/protobuf" => Some((Self::HttpProtobuf, None)),
            // The same port and the same path, and collectors go by the content type.
            "http/json" => {
                Some((Self::HttpProtobuf, Some("http/json is not spoken: http/protobuf is used in its place")))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Grpc => "grpc",
            Self::HttpProtobuf => "http/protobuf",
        })
    }
}

/// Whether request bodies are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Compression {
    /// As they are: `none`.
    #[default]
    None,
    /// With gzip, at a low level: `gzip`. About a seventh of the bytes, for several times the work of all other steps
    /// of a span: worth it on slow or metered networks. A payload is compressed once, whatever the number of attempts.
    Gzip,
    /// With zstd, at its lowest level: `zstd`. Fewer bytes than gzip for less work; not all collectors take it. It is
    /// no coding of the OpenTelemetry specification, which has `gzip` and `none`.
    Zstd,
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        })
    }
}
