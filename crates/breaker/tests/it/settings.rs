//! The settings that `build()` refuses, and that no accepted one panics.

use std::cell::Cell;
use std::time::Duration;

use breaker::{Breaker, Config, ConfigBuilder, Machine, Outcome, Rate, State, Trip};
use proptest::prelude::*;
use proptest::test_runner::{TestRng, TestRunner};

#[test]
fn bad_settings_are_refused_with_field_value_and_range() {
    let builder = Config::builder;
    let rate = |rate: Rate| builder().with_trip(Trip::Rate(rate));
    let (second, day) = (Duration::from_secs(1), Duration::from_secs(86_400));
    let cases: Vec<(ConfigBuilder, &str)> = vec![
        (builder().with_failure_threshold(0), "failure_threshold is 0, accepted: 1 to 1000000"),
        (builder().with_failure_threshold(u32::MAX), "failure_threshold is 4294967295, accepted: 1 to 1000000"),
        (builder().with_open_duration(Duration::ZERO), "open_duration is 0ns, accepted: 1ms to 31536000s"),
        (builder().with_open_duration(day * 366), "open_duration is 31622400s, accepted: 1ms to 31536000s"),
        (builder().with_open_multiplier(f64::NAN), "open_multiplier is NaN, accepted: 1 to 100"),
        (builder().with_open_multiplier(0.5), "open_multiplier is 0.5, accepted: 1 to 100"),
        (builder().with_max_open_duration(second), "max_open_duration is 1s, accepted: 60s to 31536000s"),
        (builder().with_open_durations(|_| Duration::ZERO), "open_durations is 0ns, accepted: 1ms to 31536000s"),
        (builder().with_open_jitter(f64::NAN), "open_jitter is NaN, accepted: 0 to 1"),
        (builder().with_open_jitter(-0.1), "open_jitter is -0.1, accepted: 0 to 1"),
        (builder().with_half_open_probes(0), "half_open_probes is 0, accepted: 1 to 1000"),
        (builder().with_half_open_successes(0), "half_open_successes is 0, accepted: 1 to 1000000"),
        (builder().with_probe_timeout(Duration::ZERO), "probe_timeout is 0ns, accepted: 1ms to 31536000s"),
        (rate(Rate::over_calls(0)), "window is 0, accepted: 1 to 65536"),
        (rate(Rate::over_calls(10).with_minimum_calls(11)), "minimum_calls is 11, accepted: 1 to 10"),
        (rate(Rate::over_calls(10).with_minimum_calls(0)), "minimum_calls is 0, accepted: 1 to 10"),
        (rate(Rate::over_time(day * 2)), "window is 172800s, accepted: 10ms to 86400s"),
        (rate(Rate::over_calls(9).with_failure_rate(f64::NAN)), "failure_rate is NaN, accepted: 0.000001 to 1"),
        (rate(Rate::over_calls(9).with_failure_rate(1.1)), "failure_rate is 1.1, accepted: 0.000001 to 1"),
        (rate(Rate::over_calls(9).with_slow_rate(0.0, second)), "slow_rate is 0, accepted: 0.000001 to 1"),
        (
            rate(Rate::over_calls(9).with_slow_rate(0.5, Duration::ZERO)),
            "slower_than is 0ns, accepted: 1ns to 31536000s",
        ),
        (
            rate(Rate::over_calls(9).without_failure_rate()),
            "failure_rate is none, accepted: a failure rate, a slow rate or both",
        ),
    ];
    for (builder, message) in cases {
        assert_eq!(builder.build().unwrap_err().to_string(), message);
    }
}

#[test]
fn the_open_time_grows_by_a_multiplier_or_by_any_function_up_to_its_longest() {
    let seconds = |config: &Config| [1, 2, 3, 4, 5, u32::MAX].map(|trip| config.open_duration(trip).as_secs());
    let config = Config::builder().with_open_duration(Duration::from_secs(10)).with_open_multiplier(3.0);
    let config = config.with_max_open_duration(Duration::from_secs(200)).build().expect("valid");
    assert_eq!(seconds(&config), [10, 30, 90, 200, 200, 200]);
    let config = Config::builder().with_open_durations(|trip| Duration::from_secs(u64::from(trip * trip)));
    assert_eq!(seconds(&config.clone().build().expect("valid")), [1, 4, 9, 16, 25, 1024]);
    let shorter = config.with_max_open_duration(Duration::from_secs(10)).build();
    assert_eq!(seconds(&shorter.expect("the open duration that was replaced binds nothing")), [1, 4, 9, 10, 10, 10]);
}

#[test]
fn seven_of_ten_reach_seventy_percent_exactly() {
    for percent in 1..=100_u32 {
        let rate = Rate::over_calls(100).with_minimum_calls(100).with_failure_rate(f64::from(percent) / 100.0);
        let breaker = Breaker::new(Config::builder().with_trip(Trip::Rate(rate)).build().expect("valid"));
        for call in 0..100 {
            assert_eq!(breaker.state(), State::Closed);
            let outcome = if call < 100 - percent { Outcome::Success } else { Outcome::Failure };
            let _ = breaker.try_acquire().expect("closed").report(outcome);
        }
        assert_eq!(breaker.state(), State::Open, "{percent} %");
    }
}

#[test]
fn a_part_of_so_many_calls_reaches_the_limit_that_is_written_as_that_part() {
    for calls in 1..=200_u32 {
        for failures in 1..=calls {
            let rate = Rate::over_calls(calls).with_minimum_calls(calls);
            let rate = rate.with_failure_rate(f64::from(failures) / f64::from(calls));
            let mut machine = Machine::new(Config::builder().with_trip(Trip::Rate(rate)).build().expect("valid"));
            for call in 0..calls {
                assert_eq!(machine.state(), State::Closed, "{failures} of {calls}");
                let outcome = if call < calls - failures { Outcome::Success } else { Outcome::Failure };
                let ticket = machine.try_acquire(Duration::ZERO).answer.expect("closed");
                let _ = machine.report(ticket, outcome, Duration::ZERO);
            }
            assert_eq!(machine.state(), State::Open, "{failures} of {calls}");
        }
    }
}

#[test]
fn the_end_of_time_is_a_time_like_any_other() {
    for now in [Duration::MAX, Duration::from_nanos(u64::MAX), Duration::from_nanos(u64::MAX - 1)] {
        let mut machine = Machine::new(Config::default());
        let late = machine.try_acquire(now).answer.expect("closed");
        machine.command(breaker::Command::ForceOpen(Some(Duration::MAX)), now);
        assert_eq!(machine.state(), State::Open);
        machine.command(breaker::Command::ForceOpen(None), Duration::ZERO);
        let probe = machine.try_acquire(now).answer.expect("the open time is over");
        assert!(machine.report(probe, Outcome::FailureWithHint(Duration::MAX), now).answer.counted());
        assert!(!machine.report(late, Outcome::Failure, now).answer.counted());
    }
}

#[test]
fn a_reset_forgets_a_clock_that_ran_ahead() {
    let rate = Rate::over_time(Duration::from_secs(10)).with_minimum_calls(2);
    let mut machine = Machine::new(Config::builder().with_trip(Trip::Rate(rate)).build().expect("valid"));
    let report = |machine: &mut Machine, outcome, now| {
        let ticket = machine.try_acquire(now).answer.expect("closed");
        let _ = machine.report(ticket, outcome, now);
    };
    report(&mut machine, Outcome::Failure, Duration::MAX);
    machine.command(breaker::Command::Reset, Duration::ZERO);
    report(&mut machine, Outcome::Failure, Duration::ZERO);
    report(&mut machine, Outcome::Success, Duration::from_secs(60));
    assert_eq!(machine.counters().window_calls, 1, "the failure of a minute ago has left the window");
}

/// Accepted or not, at the edges or anywhere.
fn edges() -> impl Strategy<Value = Duration> {
    let year = 365 * 86_400;
    prop_oneof![
        6 => (1..=year * 1000_u64).prop_map(Duration::from_millis),
        2 => prop_oneof![Just(1), Just(10), Just(86_400_000), Just(year * 1000)].prop_map(Duration::from_millis),
        1 => prop_oneof![Just(Duration::ZERO), Just(Duration::from_nanos(1)), Just(Duration::MAX)],
        1 => any::<Duration>(),
    ]
}

fn factor(most: f64) -> impl Strategy<Value = f64> {
    prop_oneof![8 => 0.0..=most, 1 => prop_oneof![Just(0.0), Just(1.0), Just(most)], 1 => any::<f64>()]
}

#[test]
fn any_settings_build_or_are_refused_and_times_at_the_edges_do_not_panic() {
    let trip = prop_oneof![
        prop_oneof![1..10_u32, any::<u32>()].prop_map(Trip::Consecutive),
        (prop_oneof![(10..86_400_000_u64).prop_map(Duration::from_millis), edges()], 1..4_u32, factor(1.0), edges())
            .prop_map(|(window, calls, part, slow)| {
                Trip::Rate(
                    Rate::over_time(window)
                        .with_minimum_calls(calls)
                        .with_failure_rate(part)
                        .with_slow_rate(part, slow),
                )
            }),
    ];
    let probes = prop_oneof![4 => 1..10_u32, 1 => any::<u32>()];
    let settings = (trip, edges(), edges(), factor(100.0), factor(1.0), probes, edges());
    let algorithm = ProptestConfig::default().rng_algorithm;
    let config = ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(algorithm));
    let (built, opened) = (Cell::new(0), Cell::new(0));
    runner
        .run(&settings, |(trip, open, longest, multiplier, jitter, probes, time)| {
            let config = Config::builder()
                .with_trip(trip)
                .with_open_duration(open)
                .with_max_open_duration(longest)
                .with_open_multiplier(multiplier)
                .with_open_jitter(jitter)
                .with_half_open_probes(probes)
                .build();
            let Ok(config) = config else { return Ok(()) };
            built.set(built.get() + 1);
            let mut machine = Machine::new(config);
            for now in [Duration::ZERO, open, time, Duration::MAX, Duration::ZERO, Duration::MAX] {
                for _ in 0..10 {
                    if let Ok(ticket) = machine.try_acquire(now).answer {
                        let _ = machine.report(ticket, Outcome::FailureWithHint(Duration::MAX), now);
                    }
                }
                opened.set(opened.get() + u32::from(machine.state() == State::Open));
                machine.command(breaker::Command::ForceOpen(Some(Duration::MAX)), now);
            }
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
    // Settings that are all refused would show nothing.
    assert!(built.get() > 100 && opened.get() > 100, "{} built, {} opened", built.get(), opened.get());
}
