//! Settings that are one of a few words.

use resilient_exporter::{BufferCompression, Compression, FallbackFormat, Refused, ReplayOrder};

use super::{TracesExporter, TracesProcessor, TracesSampler};

/// A type whose values have words. Each value in `VALUES` has the word at the same place in `WORDS`.
pub(crate) trait Choice: Copy + PartialEq + 'static {
    const WORDS: &'static [&'static str];
    const VALUES: &'static [Self];

    fn of_word(word: &str) -> Option<Self> {
        let at = Self::WORDS.iter().position(|known| known.eq_ignore_ascii_case(word))?;
        Self::VALUES.get(at).copied()
    }

    /// Empty for a value that a newer version of another crate adds.
    fn word(self) -> &'static str {
        let at = Self::VALUES.iter().position(|value| *value == self);
        at.and_then(|at| Self::WORDS.get(at)).copied().unwrap_or_default()
    }
}

impl Choice for TracesExporter {
    const WORDS: &'static [&'static str] = &["otlp", "none"];
    const VALUES: &'static [Self] = &[Self::Otlp, Self::None];
}

impl Choice for TracesProcessor {
    const WORDS: &'static [&'static str] = &["resilient", "batch"];
    const VALUES: &'static [Self] = &[Self::Resilient, Self::Batch];
}

impl Choice for TracesSampler {
    const WORDS: &'static [&'static str] = &[
        "always_on",
        "always_off",
        "traceidratio",
        "parentbased_always_on",
        "parentbased_always_off",
        "parentbased_traceidratio",
    ];
    const VALUES: &'static [Self] = &[
        Self::AlwaysOn,
        Self::AlwaysOff,
        Self::TraceIdRatio,
        Self::ParentBasedAlwaysOn,
        Self::ParentBasedAlwaysOff,
        Self::ParentBasedTraceIdRatio,
    ];
}

impl Choice for BufferCompression {
    const WORDS: &'static [&'static str] = &["none", "zstd"];
    const VALUES: &'static [Self] = &[Self::None, Self::Zstd];
}

impl Choice for FallbackFormat {
    const WORDS: &'static [&'static str] = &["json", "protobuf"];
    const VALUES: &'static [Self] = &[Self::Json, Self::Protobuf];
}

impl Choice for Refused {
    const WORDS: &'static [&'static str] = &["keep", "dead-letter"];
    const VALUES: &'static [Self] = &[Self::Keep, Self::DeadLetter];
}

impl Choice for ReplayOrder {
    const WORDS: &'static [&'static str] = &["oldest", "newest"];
    const VALUES: &'static [Self] = &[Self::Oldest, Self::Newest];
}

impl Choice for Compression {
    const WORDS: &'static [&'static str] = &["zstd", "gzip", "never"];
    const VALUES: &'static [Self] = &[Self::Zstd, Self::Gzip, Self::Never];
}
