//! Settings: checked once by `build()`, valid for good afterwards.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

/// Valid settings of a breaker. `Config::default()` stands in the README's table.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub(crate) trip: Trip,
    /// Open times by the number of entries into open in a row; the last one holds from there on. Never empty.
    pub(crate) open_durations: Arc<[Duration]>,
    pub(crate) open_multiplier: Option<f64>,
    pub(crate) max_open_duration: Duration,
    pub(crate) open_jitter: f64,
    pub(crate) half_open_probes: u32,
    pub(crate) half_open_successes: u32,
    pub(crate) probe_timeout: Option<Duration>,
    pub(crate) dropped: Dropped,
    pub(crate) seed: Option<u64>,
}

/// When a closed breaker opens.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Trip {
    /// After so many failures in a row: with 5, the fifth one opens. A success starts again from 0.
    Consecutive(u32),
    /// When too large a part of the latest calls failed or was slow.
    Rate(Rate),
}

/// A limit on failures (and, if asked for, slow calls) in a sliding window.
///
/// It is looked at after each failure and each slow call, so a plain success never opens a breaker.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    pub(crate) window: Window,
    pub(crate) minimum_calls: u32,
    pub(crate) failure_rate: Option<f64>,
    pub(crate) slow: Option<(f64, Duration)>,
}

/// Which calls a [`Rate`] looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Window {
    /// The last so many outcomes, exactly.
    Calls(u32),
    /// The outcomes of the last so much time; it slides in steps of a tenth.
    Time(Duration),
}

/// The outcome of a permit that is dropped without a report: a cancelled future, a panic, an early return.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dropped {
    /// Nothing: it neither counts nor keeps a slot. The default.
    Neutral,
    /// A failure: right for callers who put their time-out outside of the guarded call.
    Failure,
}

impl Rate {
    /// Half of the last `window` calls failed, of at least 10 (or `window`, if that is fewer).
    #[must_use]
    pub const fn over_calls(window: u32) -> Rate {
        let minimum_calls = if window < MINIMUM_CALLS { window } else { MINIMUM_CALLS };
        Rate { window: Window::Calls(window), minimum_calls, failure_rate: Some(0.5), slow: None }
    }

    /// Half of the calls of the last `window` failed, of at least 10.
    #[must_use]
    pub const fn over_time(window: Duration) -> Rate {
        Rate { window: Window::Time(window), minimum_calls: MINIMUM_CALLS, failure_rate: Some(0.5), slow: None }
    }

    /// How many calls the window must hold before it says anything. Default 10.
    #[must_use]
    pub const fn with_minimum_calls(mut self, calls: u32) -> Rate {
        self.minimum_calls = calls;
        self
    }

    /// Opens when this part of the calls failed. Default 0.5, resolution one in a million.
    #[must_use]
    pub const fn with_failure_rate(mut self, rate: f64) -> Rate {
        self.failure_rate = Some(rate);
        self
    }

    /// Failures do not matter, only slow calls do.
    #[must_use]
    pub const fn without_failure_rate(mut self) -> Rate {
        self.failure_rate = None;
        self
    }

    /// Opens also when this part of the calls took `slower_than` or longer, failed or not. Off by default. A probe that
    /// slow counts as a failed one.
    #[must_use]
    pub const fn with_slow_rate(mut self, rate: f64, slower_than: Duration) -> Rate {
        self.slow = Some((rate, slower_than));
        self
    }

    /// Which calls it looks at.
    #[must_use]
    pub const fn window(&self) -> Window {
        self.window
    }

    /// How many calls the window must hold.
    #[must_use]
    pub const fn minimum_calls(&self) -> u32 {
        self.minimum_calls
    }

    /// The part of failures that opens, if failures matter.
    #[must_use]
    pub const fn failure_rate(&self) -> Option<f64> {
        self.failure_rate
    }

    /// The part of slow calls that opens, and the limit above which a call is slow; `None` if slow calls do not count.
    #[must_use]
    pub const fn slow(&self) -> Option<(f64, Duration)> {
        self.slow
    }
}

impl Config {
    /// Starts from the defaults.
    pub const fn builder() -> ConfigBuilder {
        ConfigBuilder {
            trip: Trip::Consecutive(5),
            open_duration: Duration::from_secs(60),
            open_multiplier: 1.0,
            table: None,
            max_open_duration: None,
            open_jitter: 0.10,
            half_open_probes: 1,
            half_open_successes: 1,
            probe_timeout: None,
            dropped: Dropped::Neutral,
            seed: None,
        }
    }

    /// When a closed breaker opens.
    #[must_use]
    pub const fn trip(&self) -> Trip {
        self.trip
    }

    /// The open time, before jitter, of entry number `trip` in a row (from 1; 0 is taken as 1).
    #[must_use]
    pub fn open_duration(&self, trip: u32) -> Duration {
        let index = (trip.max(1) - 1) as usize;
        self.open_durations[index.min(self.open_durations.len() - 1)]
    }

    /// How many probes may be out at once.
    #[must_use]
    pub const fn half_open_probes(&self) -> u32 {
        self.half_open_probes
    }

    /// How many probes must succeed.
    #[must_use]
    pub const fn half_open_successes(&self) -> u32 {
        self.half_open_successes
    }

    pub(crate) fn slower_than(&self) -> Option<Duration> {
        match self.trip {
            Trip::Rate(Rate { slow: Some((_, slower_than)), .. }) => Some(slower_than),
            Trip::Rate(_) | Trip::Consecutive(_) => None,
        }
    }
}

impl Default for Config {
    fn default() -> Config {
        Config::builder().build().expect("the defaults are valid")
    }
}

/// Collects settings; [`ConfigBuilder::build`] checks them all.
#[derive(Clone, Debug)]
#[must_use]
pub struct ConfigBuilder {
    trip: Trip,
    open_duration: Duration,
    open_multiplier: f64,
    table: Option<Vec<Duration>>,
    max_open_duration: Option<Duration>,
    open_jitter: f64,
    half_open_probes: u32,
    half_open_successes: u32,
    probe_timeout: Option<Duration>,
    dropped: Dropped,
    seed: Option<u64>,
}

impl ConfigBuilder {
    /// Opens after so many failures in a row. Default 5; 1 to 1,000,000.
    pub fn with_failure_threshold(self, failures: u32) -> ConfigBuilder {
        self.with_trip(Trip::Consecutive(failures))
    }

    /// When a closed breaker opens. Default [`Trip::Consecutive`]`(5)`.
    pub fn with_trip(mut self, trip: Trip) -> ConfigBuilder {
        self.trip = trip;
        self
    }

    /// How long an open breaker refuses, before jitter. Default 60 s; 1 ms to 365 days.
    pub fn with_open_duration(mut self, duration: Duration) -> ConfigBuilder {
        self.open_duration = duration;
        self
    }

    /// Multiplies the open time with each probe that failed since the breaker last closed, up to the 32nd entry into
    /// open in a row. Default 1 (fixed); 1 to 100.
    pub fn with_open_multiplier(mut self, multiplier: f64) -> ConfigBuilder {
        self.open_multiplier = multiplier;
        self
    }

    /// The open time as a function of the number of entries into open in a row, counted from 1. It replaces
    /// [`with_open_duration`](ConfigBuilder::with_open_duration) and
    /// [`with_open_multiplier`](ConfigBuilder::with_open_multiplier).
    ///
    /// The function is called here, for 1 to 32, and never again; its last value holds from there on.
    pub fn with_open_durations(mut self, by_trip: impl FnMut(u32) -> Duration) -> ConfigBuilder {
        self.table = Some((1..=TABLE).map(by_trip).collect());
        self
    }

    #[cfg(feature = "serde")]
    pub(crate) fn with_open_table(mut self, durations: Vec<Duration>) -> ConfigBuilder {
        self.table = Some(durations);
        self
    }

    /// No growth and no hint makes the open time, before jitter, longer than this. Default 1 hour, or the open duration
    /// if that is longer.
    pub fn with_max_open_duration(mut self, duration: Duration) -> ConfigBuilder {
        self.max_open_duration = Some(duration);
        self
    }

    /// Adds a random part of the open time, from nothing up to this much, so that many breakers do not probe in step.
    /// Default 0.10; 0 to 1.
    pub fn with_open_jitter(mut self, part: f64) -> ConfigBuilder {
        self.open_jitter = part;
        self
    }

    /// How many probes may be out at once while half-open. Default 1; 1 to 1000.
    pub fn with_half_open_probes(mut self, probes: u32) -> ConfigBuilder {
        self.half_open_probes = probes;
        self
    }

    /// How many probes must succeed before the breaker closes. Default 1; 1 to 1,000,000.
    pub fn with_half_open_successes(mut self, successes: u32) -> ConfigBuilder {
        self.half_open_successes = successes;
        self
    }

    /// A probe without an outcome for so long is given up and its slot free for the next one. Default: the open time of
    /// the trip, before jitter and hints; 1 ms to 365 days.
    ///
    /// The time must be longer than a good call may take: under steady traffic, probes that take longer are all
    /// replaced before they answer, and the breaker stays half-open.
    pub fn with_probe_timeout(mut self, timeout: Duration) -> ConfigBuilder {
        self.probe_timeout = Some(timeout);
        self
    }

    /// The outcome of a permit that is dropped without a report. Default [`Dropped::Neutral`].
    pub fn with_dropped(mut self, dropped: Dropped) -> ConfigBuilder {
        self.dropped = dropped;
        self
    }

    /// Makes the jitter repeatable. Default: seeded by the standard library's hasher; without `std` a constant.
    pub fn with_seed(mut self, seed: u64) -> ConfigBuilder {
        self.seed = Some(seed);
        self
    }

    /// Checks the whole.
    ///
    /// # Errors
    /// Names the first setting that is out of its range, with its value and the range.
    pub fn build(self) -> Result<Config, InvalidConfig> {
        match self.trip {
            Trip::Consecutive(failures) => number("failure_threshold", failures, 1, 1_000_000)?,
            Trip::Rate(rate) => check_rate(&rate)?,
        }
        duration("open_duration", self.open_duration, MILLISECOND, YEAR)?;
        float("open_multiplier", self.open_multiplier, 1.0, 100.0)?;
        let max = self.max_open_duration.unwrap_or(HOUR.max(self.open_duration));
        // A function replaces the open duration, so that one binds nothing then.
        let shortest = if self.table.is_some() { MILLISECOND } else { self.open_duration };
        duration("max_open_duration", max, shortest, YEAR)?;
        float("open_jitter", self.open_jitter, 0.0, 1.0)?;
        number("half_open_probes", self.half_open_probes, 1, 1000)?;
        number("half_open_successes", self.half_open_successes, 1, 1_000_000)?;
        if let Some(timeout) = self.probe_timeout {
            duration("probe_timeout", timeout, MILLISECOND, YEAR)?;
        }
        let by_function = self.table.is_some();
        let open_durations: Arc<[Duration]> = match self.table {
            Some(table) => {
                number("open_durations", u32::try_from(table.len()).unwrap_or(u32::MAX), 1, TABLE)?;
                for value in &table {
                    duration("open_durations", *value, MILLISECOND, YEAR)?;
                }
                table.into_iter().map(|value| value.min(max)).collect()
            }
            None => growing(self.open_duration, self.open_multiplier, max),
        };
        Ok(Config {
            trip: self.trip,
            open_durations,
            open_multiplier: (!by_function).then_some(self.open_multiplier),
            max_open_duration: max,
            open_jitter: self.open_jitter,
            half_open_probes: self.half_open_probes,
            half_open_successes: self.half_open_successes,
            probe_timeout: self.probe_timeout,
            dropped: self.dropped,
            seed: self.seed,
        })
    }
}

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

impl core::error::Error for InvalidConfig {}

/// `first`, `first * multiplier`, .. until `max` or [`TABLE`] entries. Settings were checked, so nothing overflows.
fn growing(first: Duration, multiplier: f64, max: Duration) -> Arc<[Duration]> {
    let mut table = Vec::from([first]);
    let mut next = first;
    while multiplier > 1.0 && next < max && table.len() < TABLE as usize {
        next = Duration::try_from_secs_f64(next.as_secs_f64() * multiplier).unwrap_or(max).min(max);
        table.push(next);
    }
    table.into()
}

fn check_rate(rate: &Rate) -> Result<(), InvalidConfig> {
    let most = match rate.window {
        Window::Calls(calls) => {
            number("window", calls, 1, 65_536)?;
            calls
        }
        Window::Time(time) => {
            duration("window", time, MILLISECOND * 10, DAY)?;
            1_000_000
        }
    };
    number("minimum_calls", rate.minimum_calls, 1, most)?;
    if let Some(part) = rate.failure_rate {
        float("failure_rate", part, 0.000_001, 1.0)?;
    }
    if let Some((part, slower_than)) = rate.slow {
        float("slow_rate", part, 0.000_001, 1.0)?;
        duration("slower_than", slower_than, Duration::from_nanos(1), YEAR)?;
    }
    if rate.failure_rate.is_none() && rate.slow.is_none() {
        let accepted = String::from("a failure rate, a slow rate or both");
        return Err(InvalidConfig { field: "failure_rate", value: String::from("none"), accepted });
    }
    Ok(())
}

fn number(field: &'static str, value: u32, min: u32, max: u32) -> Result<(), InvalidConfig> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(InvalidConfig { field, value: format!("{value}"), accepted: format!("{min} to {max}") })
}

fn float(field: &'static str, value: f64, min: f64, max: f64) -> Result<(), InvalidConfig> {
    // NaN is in no range.
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(InvalidConfig { field, value: format!("{value}"), accepted: format!("{min} to {max}") })
}

fn duration(field: &'static str, value: Duration, min: Duration, max: Duration) -> Result<(), InvalidConfig> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(InvalidConfig { field, value: format!("{value:?}"), accepted: format!("{min:?} to {max:?}") })
}

const TABLE: u32 = 32;
const MINIMUM_CALLS: u32 = 10;
const MILLISECOND: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
