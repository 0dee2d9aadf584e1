//! Settings and numbers as data. Times are seconds, whole or with a fraction; unknown names are refused.

use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::config::{Config, ConfigBuilder, Dropped, InvalidConfig, Rate, Trip, Window};
use crate::state::{Counters, Reason, State};

/// The serialized form of [`Config`]; a setting that is left out has its default.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trip: Option<TripSettings>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    open_duration: Option<Seconds>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    open_multiplier: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    open_durations: Option<Vec<Seconds>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_open_duration: Option<Seconds>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    open_jitter: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    half_open_probes: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    half_open_successes: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    probe_timeout: Option<Seconds>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dropped: Option<DroppedSettings>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum TripSettings {
    Consecutive(u32),
    Rate(RateSettings),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RateSettings {
    window: WindowSettings,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    minimum_calls: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failure_rate: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    slow: Option<SlowSettings>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WindowSettings {
    Calls(u32),
    Seconds(Seconds),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SlowSettings {
    rate: f64,
    slower_than: Seconds,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum DroppedSettings {
    Neutral,
    Failure,
}

/// A duration as a number of seconds.
#[derive(Clone, Copy)]
struct Seconds(Duration);

impl Serialize for Config {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Settings::from(self).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Config {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Config, D::Error> {
        Settings::deserialize(deserializer)?.build().map_err(D::Error::custom)
    }
}

impl Settings {
    fn build(self) -> Result<Config, InvalidConfig> {
        let mut builder: ConfigBuilder = Config::builder();
        if let Some(trip) = self.trip {
            builder = builder.with_trip(trip.into());
        }
        if let Some(Seconds(duration)) = self.open_duration {
            builder = builder.with_open_duration(duration);
        }
        if let Some(multiplier) = self.open_multiplier {
            builder = builder.with_open_multiplier(multiplier);
        }
        if let Some(durations) = self.open_durations {
            builder = builder.with_open_table(durations.into_iter().map(|Seconds(duration)| duration).collect());
        }
        if let Some(Seconds(duration)) = self.max_open_duration {
            builder = builder.with_max_open_duration(duration);
        }
        if let Some(part) = self.open_jitter {
            builder = builder.with_open_jitter(part);
        }
        if let Some(probes) = self.half_open_probes {
            builder = builder.with_half_open_probes(probes);
        }
        if let Some(successes) = self.half_open_successes {
            builder = builder.with_half_open_successes(successes);
        }
        if let Some(Seconds(timeout)) = self.probe_timeout {
            builder = builder.with_probe_timeout(timeout);
        }
        match self.dropped {
            Some(DroppedSettings::Failure) => builder = builder.with_dropped(Dropped::Failure),
            Some(DroppedSettings::Neutral) | None => {}
        }
        if let Some(seed) = self.seed {
            builder = builder.with_seed(seed);
        }
        builder.build()
    }
}

impl From<&Config> for Settings {
    fn from(config: &Config) -> Settings {
        let by_multiplier = config.open_multiplier.is_some();
        Settings {
            trip: Some(config.trip.into()),
            open_duration: by_multiplier.then(|| Seconds(config.open_duration(1))),
            open_multiplier: config.open_multiplier,
            open_durations: (!by_multiplier)
                .then(|| config.open_durations.iter().map(|duration| Seconds(*duration)).collect()),
            max_open_duration: Some(Seconds(config.max_open_duration)),
            open_jitter: Some(config.open_jitter),
            half_open_probes: Some(config.half_open_probes),
            half_open_successes: Some(config.half_open_successes),
            probe_timeout: config.probe_timeout.map(Seconds),
            dropped: Some(match config.dropped {
                Dropped::Neutral => DroppedSettings::Neutral,
                Dropped::Failure => DroppedSettings::Failure,
            }),
            seed: config.seed,
        }
    }
}

impl From<TripSettings> for Trip {
    fn from(settings: TripSettings) -> Trip {
        let settings = match settings {
            TripSettings::Consecutive(failures) => return Trip::Consecutive(failures),
            TripSettings::Rate(settings) => settings,
        };
        let mut rate = match settings.window {
            WindowSettings::Calls(calls) => Rate::over_calls(calls),
            WindowSettings::Seconds(Seconds(time)) => Rate::over_time(time),
        };
        if let Some(calls) = settings.minimum_calls {
            rate = rate.with_minimum_calls(calls);
        }
        // A limit on slow calls alone is one on slow calls alone.
        rate = match (settings.failure_rate, &settings.slow) {
            (Some(part), _) => rate.with_failure_rate(part),
            (None, Some(_)) => rate.without_failure_rate(),
            (None, None) => rate,
        };
        if let Some(SlowSettings { rate: part, slower_than: Seconds(limit) }) = settings.slow {
            rate = rate.with_slow_rate(part, limit);
        }
        Trip::Rate(rate)
    }
}

impl From<Trip> for TripSettings {
    fn from(trip: Trip) -> TripSettings {
        match trip {
            Trip::Consecutive(failures) => TripSettings::Consecutive(failures),
            Trip::Rate(rate) => TripSettings::Rate(RateSettings {
                window: match rate.window {
                    Window::Calls(calls) => WindowSettings::Calls(calls),
                    Window::Time(time) => WindowSettings::Seconds(Seconds(time)),
                },
                minimum_calls: Some(rate.minimum_calls),
                failure_rate: rate.failure_rate,
                slow: rate.slow.map(|(rate, slower_than)| SlowSettings { rate, slower_than: Seconds(slower_than) }),
            }),
        }
    }
}

impl Serialize for Seconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.0.as_secs_f64())
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Seconds, D::Error> {
        let seconds = f64::deserialize(deserializer)?;
        Duration::try_from_secs_f64(seconds).map(Seconds).map_err(|_| {
            D::Error::custom(format_args!("{seconds} is not a number of seconds, accepted: 0 to about 18 * 10^18"))
        })
    }
}

impl Serialize for State {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl Serialize for Counters {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct as _;
        let mut fields = serializer.serialize_struct("Counters", 8)?;
        fields.serialize_field("trips", &self.trips)?;
        fields.serialize_field("consecutive_failures", &self.consecutive_failures)?;
        fields.serialize_field("window_calls", &self.window_calls)?;
        fields.serialize_field("window_failures", &self.window_failures)?;
        fields.serialize_field("window_slow", &self.window_slow)?;
        fields.serialize_field("probes", &self.probes)?;
        fields.serialize_field("probe_successes", &self.probe_successes)?;
        fields.serialize_field("late", &self.late)?;
        fields.end()
    }
}
