//! The way from a variable's text to a typed field, and back.

use std::ffi::OsStr;
use std::fmt;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use resilient_exporter::SyncPolicy;

use super::Propagator;
use super::choice::Choice;
use super::kind::{Bare, Kind};
use super::slips;
use super::text::{format_bytes, format_duration, parse_bool, parse_bytes, parse_count, parse_duration, parse_factor};

/// The value of a setting. `Display` writes it as a variable takes it.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Value {
    Bool(bool),
    Count(u64),
    Rate(Option<NonZeroU32>),
    Factor(f64),
    Bytes(u64),
    Duration(Duration),
    Sync(SyncPolicy),
    Text(String),
    Path(Option<PathBuf>),
    /// A field without a value, such as a limit that there is none of. No text of a variable means it.
    Unset,
}

impl Value {
    /// Reads a variable's text as `kind`; none if it is not accepted.
    pub(crate) fn read(kind: Kind, text: &OsStr) -> Option<Self> {
        if kind == Kind::Path {
            let is_for_a_shell = text.to_str().is_some_and(slips::is_for_a_shell);
            return (!is_for_a_shell).then(|| Self::Path(Some(PathBuf::from(text))));
        }
        let text = text.to_str()?.trim();
        let value = match kind {
            Kind::Bool => Self::Bool(parse_bool(text)?),
            Kind::Count { .. } => Self::Count(parse_count(text)?),
            Kind::Rate if text.eq_ignore_ascii_case("unlimited") => Self::Rate(None),
            Kind::Rate => Self::Rate(Some(NonZeroU32::new(u32::try_from(parse_count(text)?).ok()?)?)),
            Kind::Factor { .. } => Self::Factor(parse_factor(text)?),
            Kind::Bytes { .. } => Self::Bytes(parse_bytes(text)?),
            Kind::Duration { bare, .. } => Self::Duration(parse_duration(text, bare)?),
            Kind::Sync { .. } => Self::Sync(match text.to_ascii_lowercase().as_str() {
                "batch" => SyncPolicy::Batch,
                "never" => SyncPolicy::Never,
                interval => SyncPolicy::Interval(parse_duration(interval, Bare::Seconds)?),
            }),
            Kind::Choice(_) => Self::Text(text.to_ascii_lowercase()),
            Kind::Path | Kind::Text(_) => Self::Text(text.to_owned()),
        };
        value.is_accepted_by(kind).then_some(value)
    }

    /// Whether the value is of this kind and within its range.
    pub(crate) fn is_accepted_by(&self, kind: Kind) -> bool {
        match (kind, self) {
            (Kind::Count { min, max }, Self::Count(value)) | (Kind::Bytes { min, max }, Self::Bytes(value)) => {
                (min..=max).contains(value)
            }
            (Kind::Factor { min, max }, Self::Factor(value)) => (min..=max).contains(value),
            (Kind::Duration { min, max, .. }, Self::Duration(value))
            | (Kind::Sync { min, max }, Self::Sync(SyncPolicy::Interval(value))) => (min..=max).contains(value),
            (Kind::Choice(words), Self::Text(value)) => words.contains(&value.as_str()),
            (Kind::Text(_), Self::Text(value)) => !value.trim().is_empty(),
            (Kind::Path, Self::Path(path)) => path.as_ref().is_none_or(|path| !path.as_os_str().is_empty()),
            (Kind::Count { .. } | Kind::Duration { .. }, Self::Unset)
            | (Kind::Bool, Self::Bool(_))
            | (Kind::Rate, Self::Rate(_))
            | (Kind::Sync { .. }, Self::Sync(_)) => true,
            // A row whose kind does not fit its field: the test of the defaults finds it.
            (_, _) => false,
        }
    }

    /// The value as an error shows it: text in quotation marks, and a word for a blank one.
    pub(crate) fn shown(&self) -> String {
        match self {
            Self::Text(text) if text.trim().is_empty() => "empty".to_owned(),
            Self::Text(text) => format!("{text:?}"),
            Self::Path(Some(path)) if path.as_os_str().is_empty() => "an empty path".to_owned(),
            value => value.to_string(),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => write!(f, "{value}"),
            Self::Count(value) => write!(f, "{value}"),
            Self::Rate(None) => f.write_str("unlimited"),
            Self::Rate(Some(value)) => write!(f, "{value}"),
            Self::Factor(value) => write!(f, "{value}"),
            Self::Bytes(value) => f.write_str(&format_bytes(*value)),
            Self::Duration(value) | Self::Sync(SyncPolicy::Interval(value)) => f.write_str(&format_duration(*value)),
            Self::Sync(SyncPolicy::Batch) => f.write_str("batch"),
            Self::Sync(SyncPolicy::Never) => f.write_str("never"),
            Self::Text(value) => f.write_str(value),
            Self::Unset => Ok(()),
            Self::Path(value) => value.as_ref().map_or(Ok(()), |path| write!(f, "{}", path.display())),
        }
    }
}

/// A type that a field of the settings may have.
pub(crate) trait Field {
    /// The field's value in the form of its row's kind.
    fn get(&self, kind: Kind) -> Value;

    /// Sets the field; false if the value has another form.
    fn set(&mut self, value: Value) -> bool;
}

/// Implements [`Field`] for a type that one form of [`Value`] holds as it is.
macro_rules! field {
    ($($type:ty: $form:ident;)+) => {$(
        impl Field for $type {
            fn get(&self, _kind: Kind) -> Value {
                Value::$form(self.clone())
            }

            fn set(&mut self, value: Value) -> bool {
                let Value::$form(value) = value else { return false };
                *self = value;
                true
            }
        }
    )+};
}

field! {
    bool: Bool;
    f64: Factor;
    Duration: Duration;
    Option<NonZeroU32>: Rate;
    SyncPolicy: Sync;
    Option<PathBuf>: Path;
    String: Text;
}

/// Implements [`Field`] for whole numbers, which count or are sizes. A number that is larger than the type becomes its
/// largest, as on machines with a smaller word.
macro_rules! number {
    ($($type:ty)+) => {$(
        impl Field for $type {
            fn get(&self, kind: Kind) -> Value {
                let number = u64::try_from(*self).unwrap_or(u64::MAX);
                if matches!(kind, Kind::Bytes { .. }) { Value::Bytes(number) } else { Value::Count(number) }
            }

            fn set(&mut self, value: Value) -> bool {
                let (Value::Count(number) | Value::Bytes(number)) = value else { return false };
                *self = Self::try_from(number).unwrap_or(Self::MAX);
                true
            }
        }
    )+};
}

number! { u8 u32 u64 usize }

/// A limit on a number that there may be none of.
impl Field for Option<NonZeroUsize> {
    fn get(&self, _kind: Kind) -> Value {
        self.map_or(Value::Unset, |limit| Value::Count(u64::try_from(limit.get()).unwrap_or(u64::MAX)))
    }

    fn set(&mut self, value: Value) -> bool {
        let Value::Count(number) = value else { return false };
        *self = NonZeroUsize::new(usize::try_from(number).unwrap_or(usize::MAX));
        true
    }
}

/// The same for one that may be 0.
impl Field for Option<u32> {
    fn get(&self, _kind: Kind) -> Value {
        self.map_or(Value::Unset, |limit| Value::Count(u64::from(limit)))
    }

    fn set(&mut self, value: Value) -> bool {
        let Value::Count(number) = value else { return false };
        *self = Some(u32::try_from(number).unwrap_or(u32::MAX));
        true
    }
}

impl Field for Option<Duration> {
    fn get(&self, _kind: Kind) -> Value {
        self.map_or(Value::Unset, Value::Duration)
    }

    fn set(&mut self, value: Value) -> bool {
        let Value::Duration(limit) = value else { return false };
        *self = Some(limit);
        true
    }
}

impl Field for Option<String> {
    fn get(&self, _kind: Kind) -> Value {
        Value::Text(self.clone().unwrap_or_default())
    }

    fn set(&mut self, value: Value) -> bool {
        let Value::Text(text) = value else { return false };
        *self = Some(text);
        true
    }
}

impl<T: Choice> Field for T {
    fn get(&self, _kind: Kind) -> Value {
        Value::Text(self.word().to_owned())
    }

    fn set(&mut self, value: Value) -> bool {
        let Value::Text(word) = value else { return false };
        T::of_word(&word).map(|choice| *self = choice).is_some()
    }
}

impl Field for Vec<(String, String)> {
    fn get(&self, _kind: Kind) -> Value {
        let entries = self.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>();
        Value::Text(entries.join(","))
    }

    /// Lists have readers of their own.
    fn set(&mut self, _value: Value) -> bool {
        false
    }
}

impl Field for Vec<Propagator> {
    fn get(&self, _kind: Kind) -> Value {
        let words = self.iter().map(|propagator| match propagator {
            Propagator::TraceContext => "tracecontext",
            Propagator::Baggage => "baggage",
        });
        let words = words.collect::<Vec<_>>();
        Value::Text(if words.is_empty() { "none".to_owned() } else { words.join(",") })
    }

    /// Lists have readers of their own.
    fn set(&mut self, _value: Value) -> bool {
        false
    }
}
