//! Reads one setting after another: code beats the environment, which beats the default.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::table::{Kind, OnBad, Setting};
use super::value::{format_bytes, format_duration, parse_bool, parse_bytes, parse_count, parse_duration, parse_factor};
use crate::error::InvalidSetting;

/// Something the user should know about a setting: what was ignored, and what holds instead. Free of secrets.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Warning {
    /// The environment variable that it is about.
    pub setting: &'static str,
    /// The whole sentence, with the variable in it.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// A value given in code.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Given {
    Bool(bool),
    Count(u64),
    Rate(Option<u32>),
    Factor(f64),
    Bytes(u64),
    Duration(Duration),
    Text(String),
    Path(PathBuf),
}

impl fmt::Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => write!(f, "{value}"),
            Self::Count(value) => write!(f, "{value}"),
            Self::Rate(None) => f.write_str("unlimited"),
            Self::Rate(Some(value)) => write!(f, "{value}"),
            Self::Factor(value) => write!(f, "{value}"),
            Self::Bytes(value) => f.write_str(&format_bytes(*value)),
            Self::Duration(value) => f.write_str(&format_duration(*value)),
            Self::Text(value) => write!(f, "{value:?}"),
            Self::Path(value) => write!(f, "{}", value.display()),
        }
    }
}

/// What was given in code, by variable.
pub(crate) type Overrides = BTreeMap<&'static str, Given>;

pub(crate) struct Reader<'a> {
    vars: &'a dyn Fn(&str) -> Option<OsString>,
    overrides: &'a Overrides,
    pub(crate) warnings: Vec<Warning>,
    pub(crate) errors: Vec<InvalidSetting>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(vars: &'a dyn Fn(&str) -> Option<OsString>, overrides: &'a Overrides) -> Self {
        Self { vars, overrides, warnings: Vec::new(), errors: Vec::new() }
    }

    pub(crate) fn bool(&mut self, setting: &Setting) -> bool {
        self.or_default(setting, |given| if let Given::Bool(value) = given { Some(*value) } else { None })
    }

    pub(crate) fn count(&mut self, setting: &Setting) -> u64 {
        self.or_default(setting, |given| if let Given::Count(value) = given { Some(*value) } else { None })
    }

    /// A count whose range ends at or below `u32::MAX`.
    pub(crate) fn count_u32(&mut self, setting: &Setting) -> u32 {
        u32::try_from(self.count(setting)).unwrap_or(u32::MAX)
    }

    /// A count or a size for memory: saturates on machines with a smaller word.
    pub(crate) fn count_usize(&mut self, setting: &Setting) -> usize {
        usize::try_from(self.count(setting)).unwrap_or(usize::MAX)
    }

    pub(crate) fn rate(&mut self, setting: &Setting) -> Option<u32> {
        self.or_default(setting, |given| if let Given::Rate(value) = given { Some(*value) } else { None })
    }

    pub(crate) fn factor(&mut self, setting: &Setting) -> f64 {
        self.or_default(setting, |given| if let Given::Factor(value) = given { Some(*value) } else { None })
    }

    pub(crate) fn bytes(&mut self, setting: &Setting) -> u64 {
        self.or_default(setting, |given| if let Given::Bytes(value) = given { Some(*value) } else { None })
    }

    pub(crate) fn bytes_usize(&mut self, setting: &Setting) -> usize {
        usize::try_from(self.bytes(setting)).unwrap_or(usize::MAX)
    }

    pub(crate) fn duration(&mut self, setting: &Setting) -> Duration {
        self.or_default(setting, |given| if let Given::Duration(value) = given { Some(*value) } else { None })
    }

    /// One of the words of a [`Kind::Choice`], in lower case.
    pub(crate) fn choice(&mut self, setting: &Setting) -> String {
        self.or_default(setting, |given| if let Given::Text(value) = given { Some(value.clone()) } else { None })
    }

    /// Text as it stands, trimmed; no default.
    pub(crate) fn text(&mut self, setting: &Setting) -> Option<String> {
        if let Some(Given::Text(text)) = self.overrides.get(setting.name) {
            if text.trim().is_empty() {
                self.errors.push(InvalidSetting::in_code(setting, "empty".to_owned()));
            }
            return Some(text.clone());
        }
        let raw = self.raw(setting.name)?;
        match raw.into_string() {
            Ok(text) => Some(text.trim().to_owned()),
            Err(raw) => {
                self.refuse(setting, &raw.to_string_lossy());
                None
            }
        }
    }

    /// A directory; an empty one in code counts as bad, in the environment as unset.
    pub(crate) fn path(&mut self, setting: &Setting) -> Option<PathBuf> {
        match self.overrides.get(setting.name) {
            Some(Given::Path(path)) if path.as_os_str().is_empty() => {
                self.errors.push(InvalidSetting::in_code(setting, "an empty path".to_owned()));
                None
            }
            Some(Given::Path(path)) => Some(path.clone()),
            _ => self.raw(setting.name).map(PathBuf::from),
        }
    }

    /// The variable, if it is set and not empty: the specification makes no difference between the two.
    pub(crate) fn raw(&self, name: &str) -> Option<OsString> {
        (self.vars)(name).filter(|value| !value.to_str().is_some_and(|text| text.trim().is_empty()))
    }

    pub(crate) fn is_given_in_code(&self, setting: &Setting) -> bool {
        self.overrides.contains_key(setting.name)
    }

    pub(crate) fn warn(&mut self, setting: &'static str, message: String) {
        self.warnings.push(Warning { setting, message });
    }

    /// Reports a value that is not accepted, as the table says: an error, or a warning that names the default.
    pub(crate) fn refuse(&mut self, setting: &Setting, value: &str) {
        match setting.on_bad {
            OnBad::Error => self.errors.push(InvalidSetting::in_environment(setting, value)),
            OnBad::Default => {
                let instead = if setting.default.is_empty() {
                    "it is ignored".to_owned()
                } else {
                    format!("{} is used", setting.default)
                };
                let message = format!(
                    "{}={value:?} is not accepted, {instead}; accepted is {}",
                    setting.name,
                    setting.accepted()
                );
                self.warn(setting.name, message);
            }
        }
    }

    fn or_default<T>(&mut self, setting: &Setting, take: impl Fn(&Given) -> Option<T>) -> T {
        self.given(setting)
            .and_then(|given| take(&given))
            .or_else(|| take(&read(setting.kind, setting.default)?))
            .expect("each default is accepted by its own kind, which a test checks")
    }

    /// What code or the environment says, if it is accepted.
    fn given(&mut self, setting: &Setting) -> Option<Given> {
        if let Some(given) = self.overrides.get(setting.name) {
            if accepts(setting.kind, given) {
                return Some(given.clone());
            }
            self.errors.push(InvalidSetting::in_code(setting, given.to_string()));
            return None;
        }
        let raw = self.raw(setting.name)?;
        let given = raw.to_str().and_then(|text| read(setting.kind, text.trim()));
        if given.is_none() {
            self.refuse(setting, &raw.to_string_lossy());
        }
        given
    }
}

/// Reads `text` as `kind` wants it, range included.
pub(crate) fn read(kind: Kind, text: &str) -> Option<Given> {
    let given = match kind {
        Kind::Bool => Given::Bool(parse_bool(text)?),
        Kind::Count { .. } => Given::Count(parse_count(text)?),
        Kind::Rate if text.eq_ignore_ascii_case("unlimited") => Given::Rate(None),
        Kind::Rate => Given::Rate(Some(u32::try_from(parse_count(text)?).ok()?)),
        Kind::Factor { .. } => Given::Factor(parse_factor(text)?),
        Kind::Bytes { .. } => Given::Bytes(parse_bytes(text)?),
        Kind::Duration { bare, .. } => Given::Duration(parse_duration(text, bare)?),
        Kind::Choice(_) => Given::Text(text.to_ascii_lowercase()),
        Kind::Path => Given::Path(PathBuf::from(text)),
        Kind::Text(_) => Given::Text(text.to_owned()),
    };
    accepts(kind, &given).then_some(given)
}

fn accepts(kind: Kind, given: &Given) -> bool {
    match (kind, given) {
        (Kind::Count { min, max }, Given::Count(value)) | (Kind::Bytes { min, max }, Given::Bytes(value)) => {
            (min..=max).contains(value)
        }
        (Kind::Rate, Given::Rate(value)) => *value != Some(0),
        (Kind::Factor { min, max }, Given::Factor(value)) => (min..=max).contains(value),
        (Kind::Duration { min, max, .. }, Given::Duration(value)) => (min..=max).contains(value),
        (Kind::Choice(choices), Given::Text(value)) => choices.contains(&value.as_str()),
        (Kind::Bool, Given::Bool(_)) | (Kind::Path, Given::Path(_)) | (Kind::Text(_), Given::Text(_)) => true,
        // A builder method that gives another kind than its row in the table says: a mistake of ours, refused loudly.
        (_, _) => false,
    }
}
