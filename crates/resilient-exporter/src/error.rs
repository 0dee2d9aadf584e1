//! Errors of building an exporter.

use std::io;

use crate::seams::settings::TooSmall;
use crate::stores::files::FileStoreError;

/// The reason why [`Builder::build`](crate::Builder::build) built no exporter.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// There is no way to send.
    #[error("no primary: give the builder a transport or an exporter by with_primary")]
    NoPrimary,
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
    /// The fallback's directory cannot be used, or is not safe to use.
    #[error("fallback directory")]
    Fallback(#[source] file_fallback::OpenError),
    /// The crate `file-fallback` refuses a setting of the files, such as a compression that is not compiled in.
    #[error("fallback settings")]
    FallbackSettings(#[source] file_fallback::InvalidConfig),
    /// Durable mode is enabled, and there is no state directory for its journal.
    #[error("the journal has no directory: set a state directory, or turn the journal off")]
    NoJournalDirectory,
    /// Durable mode is enabled, and its journal cannot be used. The exporter does not fall back to memory: the promise
    /// of durability would be broken unnoticed.
    #[error("journal")]
    Journal(#[source] crate::stores::journal::JournalOpenError),
    /// The operating system refused a thread or an event queue.
    #[error("worker thread could not be started")]
    Thread(#[source] io::Error),
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
            FileStoreError::Open(error) => Self::Fallback(error),
        }
    }
}
