//! Errors of building an exporter.

use std::io;
use std::path::PathBuf;

use crate::seams::settings::TooSmall;
use crate::stores::files::FileStoreError;
use crate::stores::home::StateDirError;

/// The reason why [`Builder::build`](crate::Builder::build) built no exporter.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// There is no way to send.
    #[error("no primary: give the builder a transport or an exporter by with_primary")]
    NoPrimary,
    /// The transport sends no payloads of the pipeline's signal.
    #[error("the transport to {endpoint} sends no {signal}: build its settings with_signal, or use a SignalTransport")]
    Signal {
        /// Its endpoint.
        endpoint: String,
        /// The signal of the pipeline.
        signal: otlp_payload::Signal,
    },
    /// There are more collectors than an exporter has places for.
    #[error("{count} endpoints; accepted: at most {most}, the primary included")]
    TooManyEndpoints {
        /// All endpoints.
        count: usize,
        /// As many as are accepted.
        most: usize,
    },
    /// A value of [`Settings`](crate::Settings) is outside its range.
    #[error("{field} is {value}; accepted: {accepted}")]
    InvalidSetting {
        /// The path of the field, such as `buffer.max_spans`.
        field: &'static str,
        /// Its value.
        value: String,
        /// The values that are accepted.
        accepted: String,
    },
    /// A value of the [`breaker::ConfigBuilder`] that the caller gave is outside its range.
    #[error("circuit breaker")]
    CircuitBreaker(#[source] breaker::InvalidConfig),
    /// Storage is required, and its directory cannot be used.
    #[error("storage is required, and {} cannot be used: choose another directory, or repair this one", path.display())]
    StateDir {
        /// The directory.
        path: PathBuf,
        /// The cause.
        #[source]
        error: StateDirError,
    },
    /// Storage is required, and the directory of the fallback files cannot be used, or is not safe to use.
    #[error("fallback directory")]
    FallbackDirectory(#[source] safe_dir::OpenError),
    /// Storage is required, and the fallback files cannot be opened.
    #[error("fallback files")]
    Fallback(#[source] file_fallback::OpenError),
    /// The crate `file-fallback` refuses a setting of the files, such as a compression that is not compiled in.
    #[error("fallback settings")]
    FallbackSettings(#[source] file_fallback::InvalidConfig),
    /// Storage is required, durable mode is enabled, and there is no state directory for its journal.
    #[error("the journal has no directory: set a state directory, or turn the journal off")]
    NoJournalDirectory,
    /// Storage is required, durable mode is enabled, and its journal cannot be used.
    #[error("journal")]
    Journal(#[source] crate::stores::journal::JournalOpenError),
    /// The operating system refused a thread or an event queue.
    #[error("worker thread could not be started")]
    Thread(#[source] io::Error),
}

impl BuildError {
    /// Whether the storage of the spans cannot be used: [`Builder::memory_only`](crate::Builder::memory_only) builds an
    /// exporter nevertheless.
    #[must_use]
    pub const fn is_of_storage(&self) -> bool {
        matches!(
            self,
            Self::StateDir { .. }
                | Self::FallbackDirectory(_)
                | Self::Fallback(_)
                | Self::NoJournalDirectory
                | Self::Journal(_)
        )
    }
}

impl From<TooSmall> for BuildError {
    fn from(TooSmall { field, value, accepted }: TooSmall) -> Self {
        Self::InvalidSetting { field, value, accepted }
    }
}

impl From<FileStoreError> for BuildError {
    fn from(error: FileStoreError) -> Self {
        match error {
            FileStoreError::Settings(error) => Self::FallbackSettings(error),
            FileStoreError::Directory(error) => Self::FallbackDirectory(error),
            FileStoreError::Open(error) => Self::Fallback(error),
        }
    }
}
