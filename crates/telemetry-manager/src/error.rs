//! Errors of setting telemetry up, flushing it and shutting it down.

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::path::PathBuf;

use opentelemetry_sdk::error::OTelSdkError;
use otlp_transport::ErrorChain;
use resilient_exporter::BuildError;

use crate::settings::directories::VARIABLES;
use crate::settings::table::{STATE_DIR, STATE_DIR_REQUIRED};
use crate::settings::{Setting, slips};

/// A setting whose value is not accepted. `Display` names the setting, its value unless secret, and the accepted
/// values.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct InvalidSetting {
    /// The source of the value: an environment variable, a field such as `buffer.max_spans`, or a method of the
    /// builder.
    pub setting: &'static str,
    /// The value; secrets are left out.
    pub value: String,
    /// The accepted values.
    pub accepted: String,
}

impl InvalidSetting {
    pub(crate) fn in_environment(setting: &Setting, value: &str) -> Self {
        let accepted = setting.accepted() + &slips::hint(setting.kind, value);
        Self { setting: setting.name, value: format!("{:?}", slips::before_next(value)), accepted }
    }

    pub(crate) fn in_code(setting: &Setting, value: String) -> Self {
        Self { setting: setting.builder, value, accepted: setting.accepted() }
    }
}

impl fmt::Display for InvalidSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}; accepted is {}", self.setting, self.value, self.accepted)
    }
}

impl Error for InvalidSetting {}

/// The reason why telemetry is not set up. No thread of telemetry runs, and no global was changed.
///
/// `Debug` writes the text of `Display`, because a `main` that returns this error shows its `Debug`.
#[non_exhaustive]
pub enum SetupError {
    /// All settings with bad values that must not be guessed, in the order of `docs/settings.md`.
    Settings(Vec<InvalidSetting>),
    /// Endpoint, headers or TLS.
    Transport(otlp_transport::ConfigError),
    /// Storage is required, and a directory cannot be used, or is not safe to use.
    Directory {
        /// The environment variable, the field or the method of the builder that chose it.
        setting: &'static str,
        /// The directory.
        path: PathBuf,
        /// The reason.
        error: Box<dyn Error + Send + Sync>,
    },
    /// Storage is required, and no setting and no variable names a directory.
    NoDirectory,
    /// The exporter: a setting without a variable is out of range, or the system refuses a thread.
    Exporter(BuildError),
    /// A closure or another part that was given to the builder panicked. Only
    /// [`Builder::build_or_disabled`](crate::Builder::build_or_disabled) has this error; elsewhere the panic goes on.
    Panicked {
        /// The message of the panic, if it is a text.
        message: String,
    },
}

impl SetupError {
    /// The setting that the error is about, the first one if there are several.
    pub(crate) fn setting(&self) -> &str {
        match self {
            Self::Settings(settings) => settings.first().map_or("", |setting| setting.setting),
            Self::Transport(error) => error.setting(),
            Self::Directory { setting, .. } => setting,
            Self::NoDirectory => STATE_DIR.name,
            Self::Exporter(_) => "with_exporter",
            Self::Panicked { .. } => "build_or_disabled",
        }
    }

    pub(crate) fn of_panic(panic: &(dyn Any + Send)) -> Self {
        Self::Panicked { message: panic_message(panic) }
    }
}

/// The message of a panic, if it is a text.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").to_owned()
}

impl fmt::Debug for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settings(settings) => {
                for (at, setting) in settings.iter().enumerate() {
                    let separator = if at == 0 { "" } else { "; " };
                    write!(f, "{separator}{setting}")?;
                }
                Ok(())
            }
            Self::Transport(error) => error.fmt(f),
            Self::Directory { setting, path, error } => {
                let (error, state, required) = (ErrorChain(&**error), STATE_DIR.name, STATE_DIR_REQUIRED.name);
                let user = rustix::process::geteuid().as_raw();
                write!(
                    f,
                    "{path:?} of {setting} cannot be used ({error}), and {required} is true: set {state} to a directory \
                     that user {user} can make or write in, or set {required}=false to start with spans in memory only"
                )
            }
            Self::NoDirectory => {
                let (state, required, others) = (STATE_DIR.name, STATE_DIR_REQUIRED.name, VARIABLES.join(", "));
                write!(
                    f,
                    "none of {state}, {others} names a directory, and {required} is true: set {state}, or set \
                     {required}=false to start with spans in memory only"
                )
            }
            Self::Exporter(error) => write!(f, "{}", ErrorChain(error)),
            Self::Panicked { message } => {
                write!(
                    f,
                    "the set-up panicked ({message:?}): look at the closures and parts that the builder was given"
                )
            }
        }
    }
}

impl Error for SetupError {}

impl From<BuildError> for SetupError {
    fn from(error: BuildError) -> Self {
        Self::Exporter(error)
    }
}

impl From<otlp_transport::ConfigError> for SetupError {
    fn from(error: otlp_transport::ConfigError) -> Self {
        Self::Transport(error)
    }
}

/// A flush, a checkpoint or a wait for the files that ended early. The spans that wait are sent later.
#[derive(Debug)]
#[non_exhaustive]
pub enum FlushError {
    /// The SDK's batch processor did not export its queue.
    Sdk(OTelSdkError),
    /// Spans are in memory only.
    Exporter(resilient_exporter::FlushError),
    /// Spans still wait in memory or in files.
    Unsettled(resilient_exporter::SettleError),
    /// The system refused the thread on which an `_async` call waits. Nothing was done: raise the limit on threads, or
    /// use the call that blocks.
    NoThread,
}

impl fmt::Display for FlushError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sdk(_) => f.write_str("the batch processor did not export its queue"),
            Self::Exporter(error) => error.fmt(f),
            Self::Unsettled(error) => error.fmt(f),
            Self::NoThread => f.write_str(
                "nothing was flushed, since the system refused the thread to wait on: raise the limit on threads, or \
                 call without async",
            ),
        }
    }
}

impl Error for FlushError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Sdk(error) => Some(error),
            Self::Exporter(_) | Self::Unsettled(_) | Self::NoThread => None,
        }
    }
}

/// A shutdown that lost spans, or may have.
#[derive(Debug)]
#[non_exhaustive]
pub enum ShutdownError {
    /// The exporter dropped spans, or ended before the disk had stored all.
    Exporter(resilient_exporter::ShutdownError),
    /// The SDK did not finish in time, so spans may still be in its queue.
    Sdk {
        /// The SDK's error.
        error: OTelSdkError,
        /// The exporter's spans at that instant: those dropped since its shutdown began, and those in memory only.
        exporter: Option<resilient_exporter::ShutdownError>,
    },
}

impl fmt::Display for ShutdownError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exporter(error) => error.fmt(f),
            Self::Sdk { exporter, .. } => {
                f.write_str(
                    "the batch processor did not finish in time, and its queue may hold spans: end spans earlier, or \
                     check for a span processor of your own that blocks",
                )?;
                exporter.as_ref().map_or(Ok(()), |error| write!(f, "; {error}"))
            }
        }
    }
}

impl Error for ShutdownError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Sdk { error, .. } => Some(error),
            Self::Exporter(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_a_shutdown_names_causes_and_remedies() {
        let mut exporter = resilient_exporter::ShutdownError::default();
        exporter.in_memory = 3;
        exporter.dropped.insert("buffer_full", 2);
        let text = "2 spans were dropped (buffer_full): enable the file fallback or raise the buffer's limits; 3 spans \
                    are in memory only, since the disk did not store them before the deadline of the shutdown, and \
                    are lost when the process ends: give shutdown more time or use a faster disk for the state directory";
        assert_eq!(ShutdownError::Exporter(exporter.clone()).to_string(), text);
        let timeout = || OTelSdkError::Timeout(std::time::Duration::from_secs(5));
        let own = "the batch processor did not finish in time, and its queue may hold spans: end spans earlier, or check \
                   for a span processor of your own that blocks";
        assert_eq!(ShutdownError::Sdk { error: timeout(), exporter: None }.to_string(), own);
        let both = ShutdownError::Sdk { error: timeout(), exporter: Some(exporter) };
        assert_eq!(both.to_string(), format!("{own}; {text}"));
        assert!(both.source().is_some());
    }
}
