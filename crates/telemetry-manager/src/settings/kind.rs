//! The accepted values of a setting, and the consequence of others.

use std::time::Duration;

use super::text::{format_bytes, format_duration};

/// The accepted values of a setting. Ranges include both ends.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Kind {
    /// `true` or `false` in any case.
    Bool,
    /// A whole number.
    Count { min: u64, max: u64 },
    /// A whole number of spans a second from 1, or `unlimited`.
    Rate,
    /// A number with or without decimals.
    Factor { min: f64, max: f64 },
    /// A size in bytes, `KiB`, `MiB`, `GiB`, `TiB` or the decimal `kB` to `TB`.
    Bytes { min: u64, max: u64 },
    /// A duration with the units `ms`, `s`, `m`, `h`, `d`, or a number in the unit `bare`.
    Duration { bare: Bare, min: Duration, max: Duration },
    /// `batch`, `never`, or the longest time between two syncs of the journal.
    Sync { min: Duration, max: Duration },
    /// One of a few words, in any case.
    Choice(&'static [&'static str]),
    /// A directory; its path need not be Unicode.
    Path,
    /// Text with rules of its own, described here.
    Text(&'static str),
}

impl Kind {
    /// The accepted values, as the end of the sentence "accepted is ..".
    pub(crate) fn accepted(self) -> String {
        match self {
            Self::Bool => "true or false".to_owned(),
            Self::Count { min, max } => format!("a whole number from {min} to {max}"),
            Self::Rate => "a whole number from 1 to 4294967295, or unlimited".to_owned(),
            Self::Factor { min, max } => format!("a number from {min} to {max}"),
            Self::Bytes { min, max } => format!(
                "a size such as 512KiB, 10MiB or 1GiB, or a number of bytes, from {} to {}",
                format_bytes(min),
                format_bytes(max)
            ),
            Self::Duration { bare, min, max } => format!(
                "a duration such as 250ms, 5s, 5m or 1h30m, or a number of {}, from {} to {}",
                bare.plural(),
                format_duration(min),
                format_duration(max)
            ),
            Self::Sync { min, max } => format!(
                "batch, never, or a duration such as 250ms or 5s, or a number of seconds, from {} to {}",
                format_duration(min),
                format_duration(max)
            ),
            Self::Choice(choices) => {
                let (last, others) = choices.split_last().expect("no choice without two values");
                format!("{} or {last}", others.join(", "))
            }
            Self::Path => "a path".to_owned(),
            Self::Text(accepted) => accepted.to_owned(),
        }
    }
}

/// The unit of a duration that is written without one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Bare {
    /// Seconds: in our own variables.
    Seconds,
    /// Milliseconds: in `OTEL_*`, as the OpenTelemetry specification has it.
    Milliseconds,
}

impl Bare {
    const fn plural(self) -> &'static str {
        match self {
            Self::Seconds => "seconds",
            Self::Milliseconds => "milliseconds",
        }
    }
}

/// The consequence of a value in the environment that is not accepted. In code such a value is always an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum OnBad {
    /// One warning; the default holds.
    Default,
    /// Setup fails: guessing would send telemetry elsewhere or expose it.
    Error,
    /// A setting of storage: setup fails if the state directory is required; else one warning, and the default holds.
    Storage,
}
