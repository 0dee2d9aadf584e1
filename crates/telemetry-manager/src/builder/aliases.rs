//! The `with_*` methods of single settings: each gives one field.

use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use resilient_exporter::{Compression, FallbackFormat, ReplayOrder, SyncPolicy};

use super::Builder;

macro_rules! aliases {
    ($($group:ident { $($method:ident => $field:ident: $type:ty;)+ })+) => {
        /// Aliases, each for one field of a struct of the settings. The variable of the field is not read.
        impl Builder {$($(
            #[doc = concat!(
                "Sets `", stringify!($field), "`, as `", stringify!($group), "(|", stringify!($group), "| ",
                stringify!($group), ".", stringify!($field), " = value)` does.",
            )]
            pub fn $method(mut self, $field: $type) -> Self {
                self.code.given.insert(concat!(stringify!($group), ".", stringify!($field)));
                self.$group(move |$group| $group.$field = $field)
            }
        )+)+}

        /// Each alias and the path of its field.
        #[cfg(test)]
        const ALIASES: &[(&str, &str)] =
            &[$($((stringify!($method), concat!(stringify!($group), ".", stringify!($field))),)+)+];
    };
}

aliases! {
    batch {
        with_schedule_delay => schedule_delay: Duration;
        with_max_queue_size => max_queue_size: usize;
        with_max_export_batch_size => max_export_batch_size: usize;
        with_export_timeout => export_timeout: Duration;
    }
    buffer {
        with_buffer_size => max_spans: usize;
        with_buffer_max_bytes => max_bytes: usize;
        with_buffer_max_age => max_age: Duration;
    }
    circuit_breaker {
        with_circuit_breaker_threshold => failure_threshold: u32;
        with_circuit_breaker_timeout => recovery_timeout: Duration;
        with_half_open_probes => half_open_probes: u32;
        with_half_open_successes => half_open_successes: u32;
    }
    failover {
        with_failback_delay => failback_delay: Duration;
    }
    retry {
        with_retry_max_retries => max_retries: u32;
        with_retry_initial_delay => initial_delay: Duration;
        with_retry_multiplier => multiplier: f64;
        with_retry_max_delay => max_delay: Duration;
        with_retry_jitter => jitter: f64;
    }
    request {
        with_request_max_bytes => max_bytes: usize;
        with_request_max_spans => max_spans: Option<NonZeroUsize>;
    }
    fallback {
        with_fallback_enabled => enabled: bool;
        with_fallback_max_bytes => max_bytes: u64;
        with_fallback_max_age => max_age: Duration;
        with_fallback_format => format: FallbackFormat;
        with_fallback_compression => compression: Compression;
        with_fallback_compress_above => compress_above: usize;
    }
    journal {
        with_journal_enabled => enabled: bool;
        with_journal_sync => sync: SyncPolicy;
        with_journal_sync_timeout => sync_timeout: Duration;
        with_journal_staging => staging: Duration;
        with_journal_max_bytes => max_bytes: u64;
    }
    dead_letter {
        with_dead_letter_max_bytes => max_bytes: u64;
        with_dead_letter_max_age => max_age: Duration;
    }
    replay {
        with_replay_rate => rate: Option<NonZeroU32>;
        with_replay_order => order: ReplayOrder;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::SETTINGS;

    #[test]
    fn each_alias_gives_the_field_of_a_row() {
        for (alias, path) in ALIASES {
            assert!(SETTINGS.iter().any(|row| row.builder == *path), "{alias} sets {path}, which has no row");
        }
    }
}
