//! The settings in effect as one line of a log.

use std::fmt::Write as _;

use resilient_exporter::Settings as Exporter;

use super::text::{format_bytes, format_duration};
use super::{Settings, TracesExporter, vendors};

impl Settings {
    /// The settings in effect, in one line. Free of secrets: headers are left out.
    #[must_use]
    pub fn summary(&self) -> String {
        let line = self.line();
        // Names come from outside: a line feed in a name must not begin a second line in the user's log.
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
        let proxy = self.transport.proxy().map_or(String::new(), |proxy| format!(" through the proxy {proxy}"));
        let mut failover = String::new();
        for (at, config) in self.failover.iter().enumerate() {
            let then = if at == 0 { ", then" } else { "," };
            let _ = write!(failover, "{then} {} ({})", config.endpoint(), config.protocol());
        }
        if !failover.is_empty() {
            let _ = write!(failover, ", back after {}", format_duration(self.exporter.failover.failback_delay));
        }
        let Exporter { buffer, circuit_breaker, retry, fallback, journal, state_dir, .. } = &self.exporter;
        let _ = write!(
            line,
            "; collector {} ({}, {} a request){proxy}{failover}; buffer {} spans, {}, {}; breaker opens after {} failures for {}; {} retries \
             from {} to {}",
            self.transport.endpoint(),
            self.transport.protocol(),
            format_duration(self.transport.timeout()),
            buffer.max_spans,
            format_bytes(buffer.max_bytes as u64),
            format_duration(buffer.max_age),
            circuit_breaker.failure_threshold,
            format_duration(circuit_breaker.recovery_timeout),
            retry.max_retries,
            format_duration(retry.initial_delay),
            format_duration(retry.max_delay),
        );
        if let Some(preset) = &self.preset {
            let _ = write!(line, "; {}", vendors::shown(preset));
        }
        match fallback.dir.as_deref().or(state_dir.as_deref()) {
            Some(directory) if fallback.enabled => {
                let _ = write!(
                    line,
                    "; files in {}, {}, {}",
                    directory.display(),
                    format_bytes(fallback.max_bytes),
                    format_duration(fallback.max_age)
                );
            }
            _ => line.push_str("; memory only"),
        }
        if journal.enabled {
            line.push_str("; durable by a journal");
        }
        line
    }
}
