//! Settings as data.

use std::time::Duration;

use breaker::{Breaker, Config, Dropped, Rate, Trip};

#[test]
fn settings_survive_a_round_trip() {
    let slow = Rate::over_time(Duration::from_secs(30)).with_slow_rate(0.25, Duration::from_millis(1_500));
    let all = [
        Config::builder(),
        Config::builder()
            .with_failure_threshold(3)
            .with_open_multiplier(2.0)
            .with_seed(7)
            .with_dropped(Dropped::Failure),
        Config::builder().with_trip(Trip::Rate(slow)).with_probe_timeout(Duration::from_millis(250)),
        Config::builder().with_trip(Trip::Rate(slow.without_failure_rate())),
        Config::builder().with_open_durations(|trip| Duration::from_secs(u64::from(trip))),
        Config::builder()
            .with_open_duration(Duration::from_secs(1))
            .with_open_durations(|trip| Duration::from_secs(u64::from(trip)))
            .with_max_open_duration(Duration::from_secs(9)),
    ];
    for builder in all {
        let config = builder.build().expect("valid");
        let text = serde_json::to_string(&config).expect("it is data");
        assert_eq!(serde_json::from_str::<Config>(&text).expect(&text), config, "{text}");
    }
}

#[test]
fn what_is_left_out_has_its_default_and_what_is_wrong_is_named() {
    assert_eq!(serde_json::from_str::<Config>("{}").expect("defaults"), Config::default());
    let text = r#"{"trip": {"rate": {"window": {"calls": 20}, "failure_rate": 0.3}}, "open_duration": 30}"#;
    let config: Config = serde_json::from_str(text).expect("valid");
    assert_eq!(config.trip(), Trip::Rate(Rate::over_calls(20).with_failure_rate(0.3)));
    for (text, part) in [
        (r#"{"open_duration": 0}"#, "open_duration is 0ns, accepted: 1ms to 31536000s"),
        (r#"{"open_duration": -1}"#, "-1 is not a number of seconds"),
        (r#"{"open_time": 5}"#, "unknown field `open_time`"),
        (r#"{"open_durations": []}"#, "open_durations is 0, accepted: 1 to 32"),
        (r#"{"trip": {"rate": {"window": {"calls": 5}, "minimum_calls": 9}}}"#, "minimum_calls is 9, accepted: 1 to 5"),
    ] {
        let error = serde_json::from_str::<Config>(text).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn states_and_numbers_go_out() {
    let breaker = Breaker::default();
    breaker.force_open();
    assert_eq!(serde_json::to_string(&breaker.state()).expect("a string"), r#""open""#);
    let numbers = serde_json::to_value(breaker.counters()).expect("an object");
    assert_eq!(numbers["trips"], 1);
}
