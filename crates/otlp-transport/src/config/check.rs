//! Settings that are checked without a look at the files that they name.

use std::ffi::OsString;

use super::{Config, ConfigBuilder};
use crate::error::ConfigError;
use crate::reading::Reading;

impl ConfigBuilder {
    /// The same as [`build_over`](Self::build_over), but opens no file: neither those of certificates, key and headers
    /// that the settings name, nor the system's authorities. For a program that shows or compares settings and may
    /// never send.
    ///
    /// A transport of such settings reads the files with its first call, and a call that lacks one of them fails before
    /// a byte is sent.
    ///
    /// ```
    /// use otlp_transport::Config;
    ///
    /// let vars = |name: &str| match name {
    ///     "OTEL_EXPORTER_OTLP_ENDPOINT" => Some("https://collector.example:4317".into()),
    ///     "OTEL_EXPORTER_OTLP_CERTIFICATE" => Some("/no/such/file.pem".into()),
    ///     _ => None,
    /// };
    /// let config = Config::builder().check_over(vars)?;
    /// assert_eq!(config.endpoint(), "https://collector.example:4317");
    /// assert!(Config::builder().build_over(vars).is_err());
    /// # Ok::<(), otlp_transport::ConfigError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`build_over`](Self::build_over), but for those about the content of files.
    pub fn check_over(mut self, vars: impl Fn(&str) -> Option<OsString>) -> Result<Config, ConfigError> {
        self.reading = Reading::Later;
        self.build_over(vars)
    }
}
