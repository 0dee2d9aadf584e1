//! The effective settings in one line, for the log at start.

use std::fmt::Write as _;

use super::value::{format_bytes, format_duration};
use super::{Settings, TracesExporter};

impl Settings {
    /// The effective settings in one line. Free of secrets: headers are not in it.
    #[must_use]
    pub fn summary(&self) -> String {
        let line = self.line();
        // Names come from outside: a line feed in one must not begin a second line in somebody's log.
        let mut shown = String::with_capacity(line.len());
        for c in line.chars() {
            if c.is_control() { shown.extend(c.escape_default()) } else { shown.push(c) }
        }
        shown
    }

    fn line(&self) -> String {
        let mut line = format!("service {}", self.service_name);
        if let Some(version) = &self.service_version {
            let _ = write!(line, " {version}");
        }
        if self.sdk_disabled {
            line.push_str("; telemetry is disabled");
            return line;
        }
        if self.traces_exporter == TracesExporter::None {
            line.push_str("; spans are not exported");
            return line;
        }
        let _ = write!(
            line,
            "; collector {} ({}, {} a request); buffer {} spans, {}, {}; breaker opens after {} failures for {}; {} retries \
             from {} to {}",
            self.transport.endpoint(),
            self.transport.protocol(),
            format_duration(self.transport.timeout()),
            self.buffer.max_spans,
            format_bytes(self.buffer.max_bytes as u64),
            format_duration(self.buffer.max_age),
            self.breaker.failure_threshold,
            format_duration(self.breaker.recovery_timeout),
            self.retry.max_retries,
            format_duration(self.retry.initial_delay),
            format_duration(self.retry.max_delay),
        );
        let directory = self.fallback.dir.as_deref().or(self.state_dir.as_ref().map(super::StateDir::path));
        match directory {
            Some(directory) if self.fallback.enabled => {
                let _ = write!(
                    line,
                    "; files in {}, {}, {}",
                    directory.display(),
                    format_bytes(self.fallback.max_bytes),
                    format_duration(self.fallback.max_age)
                );
            }
            _ => line.push_str("; memory only"),
        }
        if self.journal.enabled {
            line.push_str("; durable by a journal");
        }
        line
    }
}
