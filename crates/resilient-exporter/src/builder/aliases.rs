//! The `with_*` methods of single settings: aliases that delegate to the methods of the structs.

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use ::journal::SyncPolicy;
use file_fallback::Compression;

use super::Builder;
use crate::seams::settings::{FallbackFormat, Refused, ReplayOrder};

macro_rules! aliases {
    ($($group:ident: $struct:ident { $($method:ident => $field:ident: $type:ty;)+ })+) => {
        /// Aliases, each for one field of [`Settings`](crate::Settings).
        impl Builder {$($(
            #[doc = concat!(
                "Sets [`", stringify!($struct), "::", stringify!($field), "`](crate::", stringify!($struct), "::",
                stringify!($field), "), as `", stringify!($group), "(|", stringify!($group), "| ", stringify!($group), ".",
                stringify!($field), " = value)` does.",
            )]
            pub fn $method(self, $field: $type) -> Self {
                self.$group(|$group| $group.$field = $field)
            }
        )+)+}

        /// Each alias and the path of its field.
        #[cfg(test)]
        const ALIASES: &[(&str, &str)] =
            &[$($((stringify!($method), concat!(stringify!($group), ".", stringify!($field))),)+)+];
    };
}

aliases! {
    buffer: Buffer {
        with_buffer_size => max_spans: usize;
        with_buffer_max_bytes => max_bytes: usize;
        with_buffer_max_age => max_age: Duration;
    }
    circuit_breaker: Breaker {
        with_circuit_breaker_threshold => failure_threshold: u32;
        with_circuit_breaker_timeout => recovery_timeout: Duration;
        with_half_open_probes => half_open_probes: u32;
        with_half_open_successes => half_open_successes: u32;
    }
    retry: Retry {
        with_retry_max_retries => max_retries: u32;
        with_retry_initial_delay => initial_delay: Duration;
        with_retry_multiplier => multiplier: f64;
        with_retry_max_delay => max_delay: Duration;
        with_retry_jitter => jitter: f64;
    }
    request: Requests {
        with_request_max_bytes => max_bytes: usize;
        with_request_max_spans => max_spans: Option<NonZeroUsize>;
        with_attempt_timeout => attempt_timeout: Duration;
    }
    fallback: Files {
        with_fallback_enabled => enabled: bool;
        with_fallback_max_bytes => max_bytes: u64;
        with_fallback_max_age => max_age: Duration;
        with_fallback_format => format: FallbackFormat;
        with_fallback_compression => compression: Compression;
        with_fallback_compress_above => compress_above: usize;
    }
    journal: Durability {
        with_journal_enabled => enabled: bool;
        with_journal_sync => sync: SyncPolicy;
        with_journal_sync_timeout => sync_timeout: Duration;
        with_journal_max_bytes => max_bytes: u64;
    }
    dead_letter: DeadLetters {
        with_dead_letter_max_bytes => max_bytes: u64;
        with_dead_letter_max_age => max_age: Duration;
    }
    replay: Replay {
        with_replay_rate => rate: Option<NonZeroU32>;
        with_replay_order => order: ReplayOrder;
    }
}

/// The methods of fields that stand in no struct, and aliases that take a path in any form.
impl Builder {
    /// Sets [`Settings::refused`](crate::Settings::refused).
    pub fn with_refused(mut self, refused: Refused) -> Self {
        self.settings.refused = refused;
        self
    }

    /// Sets [`Settings::attribute_value_length_limit`](crate::Settings::attribute_value_length_limit).
    pub fn with_attribute_value_length_limit(mut self, characters: Option<u32>) -> Self {
        self.settings.attribute_value_length_limit = characters;
        self
    }

    /// Sets [`Settings::span_attribute_value_length_limit`](crate::Settings::span_attribute_value_length_limit).
    pub fn with_span_attribute_value_length_limit(mut self, characters: Option<u32>) -> Self {
        self.settings.span_attribute_value_length_limit = characters;
        self
    }

    /// Sets [`Settings::max_age_at_send`](crate::Settings::max_age_at_send).
    pub fn with_max_age_at_send(mut self, age: Option<Duration>) -> Self {
        self.settings.max_age_at_send = age;
        self
    }

    /// Sets [`Settings::outage_span`](crate::Settings::outage_span).
    pub fn with_outage_span(mut self, enabled: bool) -> Self {
        self.settings.outage_span = enabled;
        self
    }

    /// Sets [`Settings::state_dir`](crate::Settings::state_dir).
    pub fn with_state_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.settings.state_dir = Some(dir.into());
        self
    }

    /// Sets [`Settings::state_dir_required`](crate::Settings::state_dir_required).
    pub fn with_state_dir_required(mut self, required: bool) -> Self {
        self.settings.state_dir_required = required;
        self
    }

    /// Sets [`Settings::state_service`](crate::Settings::state_service).
    pub fn with_state_service(mut self, service: impl Into<String>) -> Self {
        self.settings.state_service = Some(service.into());
        self
    }

    /// Sets [`Settings::free_space_reserve`](crate::Settings::free_space_reserve).
    pub fn with_free_space_reserve(mut self, bytes: u64) -> Self {
        self.settings.free_space_reserve = bytes;
        self
    }

    /// Sets [`Settings::max_concurrency`](crate::Settings::max_concurrency).
    pub fn with_max_concurrency(mut self, calls: usize) -> Self {
        self.settings.max_concurrency = calls;
        self
    }

    /// Sets [`Failover::failback_delay`](crate::Failover::failback_delay).
    pub fn with_failback_delay(mut self, delay: Duration) -> Self {
        self.settings.failover.failback_delay = delay;
        self
    }

    /// Sets [`Files::dir`](crate::Files::dir), as `fallback(|fallback| fallback.dir = Some(dir))` does.
    pub fn with_fallback_dir(self, dir: impl Into<PathBuf>) -> Self {
        self.fallback(|fallback| fallback.dir = Some(dir.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seams::settings::Settings;

    /// Aliases that are older than the names of their fields.
    const OLDER: [(&str, &str); 6] = [
        ("with_buffer_size", "buffer.max_spans"),
        ("with_circuit_breaker_threshold", "circuit_breaker.failure_threshold"),
        ("with_circuit_breaker_timeout", "circuit_breaker.recovery_timeout"),
        ("with_half_open_probes", "circuit_breaker.half_open_probes"),
        ("with_half_open_successes", "circuit_breaker.half_open_successes"),
        ("with_attempt_timeout", "request.attempt_timeout"),
    ];

    #[test]
    fn an_alias_has_the_name_of_its_field() {
        for alias in ALIASES.iter().filter(|alias| !OLDER.contains(alias)) {
            assert_eq!(alias.0, format!("with_{}", alias.1.replace('.', "_")));
            assert!(Settings::FIELDS.contains(&alias.1), "{alias:?}");
        }
    }
}
