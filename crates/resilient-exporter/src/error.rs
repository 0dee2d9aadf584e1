//! Why an exporter could not be built.

use std::io;

use crate::stores::files::FileStoreError;

/// Why [`Builder::build`](crate::Builder::build) refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// Nothing to send with.
    #[error("no primary: give the builder a transport or an exporter by with_primary")]
    NoPrimary,
    /// A setting is out of range.
    #[error("{field} is {value}; accepted: {accepted}")]
    InvalidSetting {
        /// The builder's field.
        field: &'static str,
        /// Its value.
        value: String,
        /// What would be accepted.
        accepted: &'static str,
    },
    /// A setting of the circuit breaker is out of range.
    #[error("circuit breaker")]
    CircuitBreaker(#[source] breaker::InvalidConfig),
    /// A setting of the backoff is out of range.
    #[error("retry backoff")]
    Retry(#[source] backoff::InvalidConfig),
    /// The fallback's directory cannot be used, or is not safe to use.
    #[error("fallback directory")]
    Fallback(#[source] file_fallback::OpenError),
    /// A setting of the fallback is out of range.
    #[error("fallback settings")]
    FallbackSettings(#[source] file_fallback::InvalidConfig),
    /// Durable mode was asked for, and no directory is known to keep the journal in.
    #[error("the journal has no directory: set a state directory, or turn the journal off")]
    NoJournalDirectory,
    /// Durable mode was asked for, and the journal cannot be used: a promise that cannot be kept is not made.
    #[error("journal")]
    Journal(#[source] crate::stores::journal::JournalOpenError),
    /// The system gave no thread or no event queue.
    #[error("worker thread could not be started")]
    Thread(#[source] io::Error),
}

impl From<FileStoreError> for BuildError {
    fn from(error: FileStoreError) -> Self {
        match error {
            FileStoreError::Settings(error) => Self::FallbackSettings(error),
            FileStoreError::Open(error) => Self::Fallback(error),
        }
    }
}
