//! The settings of a store.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::form::format::{Format, MAX_RECORD_BYTES};

/// The settings of a store; valid once built. See the table of defaults on the front page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub(crate) dir: PathBuf,
    pub(crate) signal: String,
    pub(crate) max_bytes: u64,
    pub(crate) max_age: Duration,
    pub(crate) max_files: usize,
    pub(crate) free_space_reserve: u64,
    pub(crate) format: Format,
    pub(crate) compression: Compression,
    pub(crate) compress_above: usize,
    pub(crate) zstd_level: i32,
    pub(crate) max_record_bytes: usize,
    pub(crate) quarantine_max_bytes: u64,
    pub(crate) newest_time: Option<SystemTime>,
    pub(crate) first_number: u64,
}

/// Collects the settings of a [`Config`].
#[derive(Clone, Debug)]
#[must_use = "nothing is made before `build()`"]
pub struct Builder {
    config: Config,
}

/// How large spills are compressed. The first bytes of a file decide how it is unpacked, not this setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Compression {
    /// `.zst`; needs the feature `zstd`.
    Zstd,
    /// `.gz`; needs the feature `gzip`.
    Gzip,
    /// Plain, also where they are large.
    Never,
}

/// Why settings were refused.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidConfig {
    /// The signal begins every file name: 1 to 32 of `a` to `z`, `0` to `9`, `_`.
    Signal {
        /// The value that was given.
        signal: String,
    },
    /// A number is outside its range.
    OutOfRange {
        /// The setting.
        field: &'static str,
        /// The value that was given.
        value: u64,
        /// The smallest that is accepted.
        min: u64,
        /// The largest that is accepted.
        max: u64,
    },
    /// The compression is not compiled in.
    Unsupported {
        /// The value that was given.
        compression: Compression,
        /// The feature of this crate that brings it.
        feature: &'static str,
    },
}

impl Config {
    /// Begins with the defaults, and the directory, which has none. The directory is made if it does not exist.
    pub fn builder(dir: impl Into<PathBuf>) -> Builder {
        let config = Self {
            dir: dir.into(),
            signal: "traces".to_owned(),
            max_bytes: 1 << 30,
            max_age: Duration::from_secs(7 * 24 * 3600),
            max_files: 20_000,
            free_space_reserve: 64 << 20,
            format: Format::default(),
            compression: Compression::default(),
            compress_above: 64 << 10,
            zstd_level: 3,
            max_record_bytes: 1_000_000,
            quarantine_max_bytes: 64 << 20,
            newest_time: None,
            first_number: 1,
        };
        Builder { config }
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn of_lines(self) -> Self {
        Self { format: Format::Lines, ..self }
    }

    /// See [`Builder::with_format`].
    #[must_use]
    pub const fn format(&self) -> Format {
        self.format
    }

    /// See [`Builder::with_max_record_bytes`].
    #[must_use]
    pub const fn max_record_bytes(&self) -> usize {
        self.max_record_bytes
    }
}

impl Builder {
    /// The kind of the records, `traces` by default. File names begin with it: a store reads only files of its own
    /// signal.
    pub fn with_signal(mut self, signal: impl Into<String>) -> Self {
        self.config.signal = signal.into();
        self
    }

    /// The number in the name of the first file, 1 by default; the number after the highest one in the directory, if
    /// that is higher. For several processes whose files must never share a name, as where the journal of one is asked
    /// whether its file exists among those of another: a random number for each. More than 10^15 counts as 10^15.
    pub const fn with_first_number(mut self, first_number: u64) -> Self {
        self.config.first_number = first_number;
        self
    }

    /// The most bytes on disk, 1 GiB by default; beyond that the oldest files are removed. Files in the quarantine have
    /// a limit of their own.
    pub const fn with_max_bytes(mut self, max_bytes: u64) -> Self {
        self.config.max_bytes = max_bytes;
        self
    }

    /// The age at which a file is removed, 7 days by default; [`Duration::MAX`] for never.
    pub const fn with_max_age(mut self, max_age: Duration) -> Self {
        self.config.max_age = max_age;
        self
    }

    /// The most files, 20,000 by default; beyond that the oldest are removed.
    pub const fn with_max_files(mut self, max_files: usize) -> Self {
        self.config.max_files = max_files;
        self
    }

    /// The bytes that a spill leaves free on the file system, 64 MiB by default, and a tenth of its size at most. The
    /// oldest files are removed for them, if that is enough.
    pub const fn with_free_space_reserve(mut self, bytes: u64) -> Self {
        self.config.free_space_reserve = bytes;
        self
    }

    /// The format of new files: lines by default. Files of the other format are read all the same.
    pub const fn with_format(mut self, format: Format) -> Self {
        self.config.format = format;
        self
    }

    /// How large spills are compressed: zstd by default, where it is compiled in.
    pub const fn with_compression(mut self, compression: Compression) -> Self {
        self.config.compression = compression;
        self
    }

    /// The bytes above which a spill is compressed, 64 KiB by default.
    pub const fn with_compress_above(mut self, bytes: usize) -> Self {
        self.config.compress_above = bytes;
        self
    }

    /// The level of zstd, 3 by default; 1 to 19.
    pub const fn with_zstd_level(mut self, level: i32) -> Self {
        self.config.zstd_level = level;
        self
    }

    /// The longest record, 1,000,000 bytes by default: a spill with a longer record is refused, a file with one is set
    /// aside. The OpenTelemetry Collector skips lines from 1 MiB on.
    pub const fn with_max_record_bytes(mut self, bytes: usize) -> Self {
        self.config.max_record_bytes = bytes;
        self
    }

    /// The most bytes on disk of files that were set aside, 64 MiB by default; beyond that the oldest of them are
    /// removed.
    pub const fn with_quarantine_max_bytes(mut self, bytes: u64) -> Self {
        self.config.quarantine_max_bytes = bytes;
        self
    }

    /// The newest time that an earlier process has seen (see [`ClockFile`](crate::ClockFile)); unknown by default. A
    /// start whose wall clock is more than 24 hours beyond it removes no file for its age in the first hour, and then
    /// one a second.
    pub const fn with_newest_time(mut self, newest: Option<SystemTime>) -> Self {
        self.config.newest_time = newest;
        self
    }

    /// Checks all settings.
    ///
    /// # Errors
    ///
    /// The first setting that cannot be used, with its value and range.
    pub fn build(self) -> Result<Config, InvalidConfig> {
        let config = self.config;
        let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if !(1..=MAX_SIGNAL_LEN).contains(&config.signal.len()) || !config.signal.chars().all(valid) {
            return Err(InvalidConfig::Signal { signal: config.signal });
        }
        let wide = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let level = u64::try_from(config.zstd_level).unwrap_or(0);
        for (field, value, min, max) in [
            ("max_bytes", config.max_bytes, 1, u64::MAX),
            ("max_files", wide(config.max_files), 1, u64::MAX),
            ("max_record_bytes", wide(config.max_record_bytes), 1, MAX_RECORD_BYTES),
            ("zstd_level", level, 1, 19),
        ] {
            if !(min..=max).contains(&value) {
                return Err(InvalidConfig::OutOfRange { field, value, min, max });
            }
        }
        match config.compression.missing_feature() {
            Some(feature) => Err(InvalidConfig::Unsupported { compression: config.compression, feature }),
            None => Ok(config),
        }
    }
}

impl Compression {
    const fn missing_feature(self) -> Option<&'static str> {
        match self {
            Self::Zstd if !cfg!(feature = "zstd") => Some("zstd"),
            Self::Gzip if !cfg!(feature = "gzip") => Some("gzip"),
            Self::Zstd | Self::Gzip | Self::Never => None,
        }
    }
}

impl Default for Compression {
    fn default() -> Self {
        if cfg!(feature = "zstd") {
            Self::Zstd
        } else if cfg!(feature = "gzip") {
            Self::Gzip
        } else {
            Self::Never
        }
    }
}

impl fmt::Display for InvalidConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal { signal } => {
                let shown: String = signal.chars().take(MAX_SIGNAL_LEN).collect();
                write!(f, "signal {shown:?} cannot begin a file name: use 1 to {MAX_SIGNAL_LEN} of a-z, 0-9 and _")
            }
            Self::OutOfRange { field, value, min, max: u64::MAX } => {
                write!(f, "{field} is {value}: use at least {min}")
            }
            Self::OutOfRange { field, value, min, max } => write!(f, "{field} is {value}: use {min} to {max}"),
            Self::Unsupported { compression, feature } => write!(
                f,
                "compression {compression:?} is not compiled in: enable the feature \"{feature}\" of file-fallback, or \
                 choose another"
            ),
        }
    }
}

impl std::error::Error for InvalidConfig {}

const MAX_SIGNAL_LEN: usize = 32;
