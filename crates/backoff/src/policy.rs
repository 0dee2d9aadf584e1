//! Delays as a function of the attempt.

use std::time::Duration;

use crate::error::{self, InvalidConfig};

/// How long to wait before a retry. A policy is a pure function: attempt number, delay before and sample come in as
/// arguments.
///
/// [`from_fn`] makes one of a closure.
pub trait Policy {
    /// The delay before retry number `attempt`, counted from 0.
    ///
    /// `previous` is the delay before (zero at attempt 0), `unit` a sample from `[0, 1)`. Called once per retry; must
    /// not block.
    fn delay(&self, attempt: u32, previous: Duration, unit: f64) -> Duration;
}

/// A policy of your own: `function(attempt, previous, unit)`, as [`Policy::delay`] describes it.
pub const fn from_fn<F: Fn(u32, Duration, f64) -> Duration>(function: F) -> FromFn<F> {
    FromFn { function }
}

/// Made by [`from_fn`].
#[derive(Clone, Copy, Debug)]
pub struct FromFn<F> {
    function: F,
}

impl<F: Fn(u32, Duration, f64) -> Duration> Policy for FromFn<F> {
    fn delay(&self, attempt: u32, previous: Duration, unit: f64) -> Duration {
        (self.function)(attempt, previous, unit)
    }
}

impl Policy for Exponential {
    #[inline]
    fn delay(&self, attempt: u32, _: Duration, unit: f64) -> Duration {
        Exponential::delay(self, attempt, unit)
    }
}

/// The same delay each time, spread by jitter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Constant {
    /// Nanoseconds.
    nominal: f64,
    max: u64,
    spread: Spread,
}

impl Constant {
    /// `delay` from 0 to 365 days; 0 means "at once".
    ///
    /// # Errors
    /// Names the argument that is out of its range, with its value and the range.
    pub fn new(delay: Duration, jitter: Jitter) -> Result<Constant, InvalidConfig> {
        error::duration("delay", delay, Duration::ZERO, YEAR)?;
        jitter.check()?;
        let (nominal, spread) = (float(nanos(delay)), jitter.spread());
        let max = whole(nominal * (spread.low + spread.width));
        Ok(Constant { nominal, max, spread })
    }
}

impl Policy for Constant {
    fn delay(&self, _: u32, _: Duration, unit: f64) -> Duration {
        Duration::from_nanos(whole(self.spread.over(self.nominal, unit)).min(self.max))
    }
}

/// Evenly from `initial_delay` to three times the delay before, but never above `max_delay` ("decorrelated jitter", AWS
/// Architecture Blog, 2015).
///
/// There the upper end is cut off after drawing, so that a large part of all delays ends up exactly on the cap (two in
/// five from 1 s to 20 s); here the cap limits the range that is drawn from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decorrelated {
    /// Nanoseconds; whole numbers.
    initial: f64,
    min: u64,
    max: u64,
}

impl Decorrelated {
    /// `initial_delay` from 1 ns, `max_delay` from there to 365 days.
    ///
    /// # Errors
    /// Names the argument that is out of its range, with its value and the range.
    pub fn new(initial_delay: Duration, max_delay: Duration) -> Result<Decorrelated, InvalidConfig> {
        error::duration("initial_delay", initial_delay, NANOSECOND, YEAR)?;
        error::duration("max_delay", max_delay, initial_delay, YEAR)?;
        let min = nanos(initial_delay);
        Ok(Decorrelated { initial: float(min), min, max: nanos(max_delay) })
    }
}

impl Default for Decorrelated {
    /// From 1 s to 20 s.
    fn default() -> Decorrelated {
        Decorrelated::new(Duration::from_secs(1), Duration::from_secs(20)).expect("the defaults are valid")
    }
}

impl Policy for Decorrelated {
    fn delay(&self, _: u32, previous: Duration, unit: f64) -> Duration {
        let upper = (previous.as_secs_f64() * 3e9).clamp(self.initial, float(self.max));
        // At attempt 0 there is no delay before: the first one counts as it.
        let upper = if previous.is_zero() { (self.initial * 3.0).min(float(self.max)) } else { upper };
        let nanos = self.initial + (upper - self.initial) * clamped(unit);
        // Above 2^53 ns (104 days) rounding could pass either end by some nanoseconds.
        Duration::from_nanos(whole(nanos).clamp(self.min, self.max))
    }
}

/// `initial_delay * multiplier^attempt`, spread by jitter, never above `max_delay`.
///
/// | Setting | Default | Accepted |
/// | --- | --- | --- |
/// | `initial_delay` | 1 s | 1 ns to 365 days |
/// | `multiplier` | 2 | 1 to 1000 |
/// | `max_delay` | 20 s | `initial_delay` to 365 days |
/// | `jitter` | ±25 % | see [`Jitter`] |
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exponential {
    /// Nanoseconds; whole numbers.
    initial: f64,
    multiplier: f64,
    /// The limit of the nominal delay: the cap, or less where jitter goes above it.
    ceiling: f64,
    max: u64,
    spread: Spread,
}

/// [`Jitter`] ready for use: a delay is `nominal * (low + width * unit)`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Spread {
    low: f64,
    width: f64,
}

/// How a nominal delay `d` is spread.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Jitter {
    /// Exactly `d`.
    None,
    /// Evenly from `d * (1 - part)` to `d * (1 + part)`; `part` from 0 to 1. The mean is `d`.
    ///
    /// Under a cap the *nominal* delay stops at `cap / (1 + part)`: delays near the cap are spread like all others
    /// and do not pile up on it.
    Proportional(f64),
    /// Evenly from 0 to `d` ("full jitter", AWS Architecture Blog, 2015).
    Full,
    /// Evenly from `d / 2` to `d` ("equal jitter", the same source).
    Equal,
}

impl Exponential {
    /// Starts from the defaults.
    pub const fn builder() -> ExponentialBuilder {
        ExponentialBuilder {
            initial_delay: Duration::from_secs(1),
            multiplier: 2.0,
            max_delay: Duration::from_secs(20),
            jitter: Jitter::Proportional(0.25),
        }
    }

    /// From `initial_delay` doubled up to `max_delay`, each ±25 %: the two settings that most programs change. The
    /// [`builder`](Exponential::builder) has them all.
    ///
    /// # Errors
    /// Names the argument that is out of its range, with its value and the range.
    pub fn new(initial_delay: Duration, max_delay: Duration) -> Result<Exponential, InvalidConfig> {
        Exponential::builder().with_initial_delay(initial_delay).with_max_delay(max_delay).build()
    }

    /// The delay before retry number `attempt`, counted from 0.
    ///
    /// `unit` is a sample from `[0, 1)`; values outside are clamped, NaN is taken as 0. Total: every attempt has a
    /// delay, never above `max_delay`.
    #[must_use]
    #[inline]
    pub fn delay(&self, attempt: u32, unit: f64) -> Duration {
        let nominal = lesser(self.initial * power(self.multiplier, attempt), self.ceiling);
        // Above 2^53 ns (104 days) rounding could pass the cap by some nanoseconds.
        Duration::from_nanos(whole(self.spread.over(nominal, unit)).min(self.max))
    }
}

impl Default for Exponential {
    fn default() -> Exponential {
        Exponential::builder().build().expect("the defaults are valid")
    }
}

/// Collects the settings of an [`Exponential`].
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct ExponentialBuilder {
    initial_delay: Duration,
    multiplier: f64,
    max_delay: Duration,
    jitter: Jitter,
}

impl ExponentialBuilder {
    /// The nominal delay before the first retry. Default 1 s.
    pub const fn with_initial_delay(mut self, delay: Duration) -> ExponentialBuilder {
        self.initial_delay = delay;
        self
    }

    /// By how much each delay exceeds the one before. Default 2.
    pub const fn with_multiplier(mut self, multiplier: f64) -> ExponentialBuilder {
        self.multiplier = multiplier;
        self
    }

    /// The cap: no delay exceeds it, jitter included. Default 20 s.
    pub const fn with_max_delay(mut self, delay: Duration) -> ExponentialBuilder {
        self.max_delay = delay;
        self
    }

    /// How delays are spread. Default [`Jitter::Proportional`]`(0.25)`.
    pub const fn with_jitter(mut self, jitter: Jitter) -> ExponentialBuilder {
        self.jitter = jitter;
        self
    }

    /// Checks the whole.
    ///
    /// # Errors
    /// Names the first setting that is out of its range, with its value and the range.
    pub fn build(self) -> Result<Exponential, InvalidConfig> {
        error::duration("initial_delay", self.initial_delay, NANOSECOND, YEAR)?;
        error::float("multiplier", self.multiplier, 1.0, 1000.0)?;
        error::duration("max_delay", self.max_delay, self.initial_delay, YEAR)?;
        self.jitter.check()?;
        let (max, spread) = (nanos(self.max_delay), self.jitter.spread());
        Ok(Exponential {
            initial: float(nanos(self.initial_delay)),
            multiplier: self.multiplier,
            ceiling: float(max) / (spread.low + spread.width).max(1.0),
            max,
            spread,
        })
    }
}

impl Jitter {
    #[inline]
    const fn spread(self) -> Spread {
        let (low, width) = match self {
            Jitter::None => (1.0, 0.0),
            Jitter::Proportional(part) => (1.0 - part, 2.0 * part),
            Jitter::Full => (0.0, 1.0),
            Jitter::Equal => (0.5, 0.5),
        };
        Spread { low, width }
    }

    #[inline]
    fn check(self) -> Result<(), InvalidConfig> {
        match self {
            Jitter::Proportional(part) => error::float("jitter", part, 0.0, 1.0),
            Jitter::None | Jitter::Full | Jitter::Equal => Ok(()),
        }
    }
}

impl Spread {
    #[inline]
    fn over(self, nominal: f64, unit: f64) -> f64 {
        nominal * (self.low + self.width * clamped(unit))
    }
}

/// Checked settings stay below 2^55 ns, so the signed conversions here lose nothing; the unsigned ones take several
/// instructions.
#[inline]
const fn nanos(time: Duration) -> u64 {
    time.as_secs() * 1_000_000_000 + time.subsec_nanos() as u64
}

#[inline]
const fn float(nanos: u64) -> f64 {
    nanos as i64 as f64
}

#[inline]
const fn whole(nanos: f64) -> u64 {
    nanos as i64 as u64
}

/// Into `[0, 1]`; NaN is 0.
#[inline]
fn clamped(unit: f64) -> f64 {
    if unit > 0.0 { lesser(unit, 1.0) } else { 0.0 }
}

/// `f64::min` without its care for NaN: one instruction.
#[inline]
fn lesser(one: f64, other: f64) -> f64 {
    if one < other { one } else { other }
}

/// Ends at infinity, never at NaN, because `base` is at least 1.
#[inline]
fn power(base: f64, exponent: u32) -> f64 {
    if base == 2.0 && exponent < 1024 {
        // A power of two is its exponent (IEEE 754, bias 1023).
        return f64::from_bits((1023 + u64::from(exponent)) << 52);
    }
    by_squaring(base, exponent)
}

fn by_squaring(mut base: f64, mut exponent: u32) -> f64 {
    let mut result = 1.0;
    while exponent > 0 {
        if exponent & 1 == 1 {
            result *= base;
        }
        base *= base;
        exponent >>= 1;
    }
    result
}

const NANOSECOND: Duration = Duration::from_nanos(1);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
