//! The error of `build()` for a setting out of its range.

use std::fmt;
use std::time::Duration;

/// A setting out of its range.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InvalidConfig {
    /// The setting, as its `with_*` method names it.
    pub field: &'static str,
    /// The value that was given.
    pub value: String,
    /// The accepted range.
    pub accepted: String,
}

impl fmt::Display for InvalidConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}, accepted: {}", self.field, self.value, self.accepted)
    }
}

impl std::error::Error for InvalidConfig {}

#[inline]
pub(crate) fn float(field: &'static str, value: f64, min: f64, max: f64) -> Result<(), InvalidConfig> {
    // NaN is in no range.
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(refuse(field, value, min, max))
}

#[inline]
pub(crate) fn duration(
    field: &'static str,
    value: Duration,
    min: Duration,
    max: Duration,
) -> Result<(), InvalidConfig> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(refuse(field, value, min, max))
}

#[inline]
pub(crate) fn number(field: &'static str, value: u32, min: u32, max: u32) -> Result<(), InvalidConfig> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(refuse(field, value, min, max))
}

#[cold]
#[inline(never)]
fn refuse<T: fmt::Debug>(field: &'static str, value: T, min: T, max: T) -> InvalidConfig {
    // `Debug` writes whole floats as "1.0": the point says nothing here.
    let plain = |value: T| {
        let text = format!("{value:?}");
        text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
    };
    InvalidConfig { field, value: plain(value), accepted: format!("{} to {}", plain(min), plain(max)) }
}
