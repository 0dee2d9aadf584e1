//! Delays, limits, settings, the budget.

use std::cell::Cell;
use std::time::Duration;

use backoff::{Backoff, Budget, Constant, Decorrelated, Exponential, Jitter, Policy, Stop};
use proptest::prelude::*;
use proptest::test_runner::{TestRng, TestRunner};

fn seconds(value: f64) -> Duration {
    Duration::from_secs_f64(value)
}

fn jitter() -> impl Strategy<Value = Jitter> {
    prop_oneof![
        Just(Jitter::None),
        (0.0..=1.0_f64).prop_map(Jitter::Proportional),
        Just(Jitter::Full),
        Just(Jitter::Equal)
    ]
}

fn exponential() -> impl Strategy<Value = (Exponential, Duration, f64, Duration, Jitter)> {
    let year = 365 * 86_400 * 1_000_000_000_u64;
    (1..=year, 0..=year, prop_oneof![1.0..=1000.0_f64, Just(2.0), Just(1.0)], jitter()).prop_map(
        move |(initial, longer, multiplier, jitter)| {
            let (initial, max) = (Duration::from_nanos(initial), Duration::from_nanos((initial + longer).min(year)));
            let policy = Exponential::builder()
                .with_initial_delay(initial)
                .with_multiplier(multiplier)
                .with_max_delay(max)
                .with_jitter(jitter)
                .build()
                .expect("in range");
            (policy, initial, multiplier, max, jitter)
        },
    )
}

proptest! {
    #[test]
    fn every_delay_lies_in_the_jitter_round_its_nominal_value_and_under_the_cap(
        (policy, initial, multiplier, max, jitter) in exponential(),
        attempt in prop_oneof![0..40_u32, any::<u32>()],
        unit in 0.0..1.0_f64,
    ) {
        let delay = policy.delay(attempt, unit);
        prop_assert!(delay <= max, "{delay:?} is above {max:?}");
        // The slow model: multiply step by step.
        let (mut nominal, room) = (initial.as_secs_f64(), if let Jitter::Proportional(part) = jitter { part } else { 0.0 });
        let ceiling = max.as_secs_f64() / (1.0 + room);
        for _ in 0..attempt.min(100_000) {
            nominal *= multiplier;
            if nominal >= ceiling || multiplier == 1.0 {
                break;
            }
        }
        let nominal = nominal.min(ceiling);
        let (low, high) = match jitter {
            Jitter::Proportional(part) => (nominal * (1.0 - part), nominal * (1.0 + part)),
            Jitter::Full => (0.0, nominal),
            Jitter::Equal => (nominal / 2.0, nominal),
            _ => (nominal, nominal),
        };
        let (delay, slack) = (delay.as_secs_f64(), nominal * 1e-9 + 2e-9);
        prop_assert!(delay >= low - slack && delay <= high + slack, "{delay} is not in {low}..={high}");
    }
}

/// Accepted or not, at the edges or anywhere.
fn edges() -> impl Strategy<Value = Duration> {
    let year = 365 * 86_400 * 1_000_000_000_u64;
    prop_oneof![
        6 => (1..=year).prop_map(Duration::from_nanos),
        2 => prop_oneof![Just(0), Just(1), Just(year), Just(year + 1)].prop_map(Duration::from_nanos),
        1 => Just(Duration::MAX),
        1 => any::<Duration>(),
    ]
}

#[test]
fn nothing_panics_whatever_comes() {
    let multiplier = prop_oneof![4 => 1.0..=1000.0_f64, 1 => any::<f64>()];
    let part = prop_oneof![4 => 0.0..=1.0_f64, 1 => any::<f64>()];
    let given = (edges(), edges(), multiplier, part, any::<u32>(), edges(), any::<f64>());
    let algorithm = ProptestConfig::default().rng_algorithm;
    let config = ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(algorithm));
    let (exponential, decorrelated, constant) = (Cell::new(0), Cell::new(0), Cell::new(0));
    let one_more = |count: &Cell<u32>| count.set(count.get() + 1);
    runner
        .run(&given, |(initial, max, multiplier, part, attempt, previous, unit)| {
            let jitter = Jitter::Proportional(part);
            let built = Exponential::builder().with_initial_delay(initial).with_max_delay(max);
            let built = built.with_multiplier(multiplier).with_jitter(jitter).build();
            for unit in [unit, 1.0, f64::NAN, f64::INFINITY, -1.0] {
                if let Ok(policy) = &built {
                    one_more(&exponential);
                    prop_assert!(policy.delay(attempt, unit) <= max);
                }
                if let Ok(policy) = Decorrelated::new(initial, max) {
                    one_more(&decorrelated);
                    prop_assert!((initial..=max).contains(&Policy::delay(&policy, attempt, previous, unit)));
                }
                if let Ok(policy) = Constant::new(initial, jitter) {
                    one_more(&constant);
                    prop_assert!(Policy::delay(&policy, attempt, previous, unit) <= initial * 2);
                }
            }
            let delay = Backoff::default().delays().next_after(max, Some(initial));
            prop_assert!(delay.is_ok_and(|delay| delay <= Duration::from_secs(3600)));
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
    // Settings that are all refused would show nothing.
    let built = [exponential.get(), decorrelated.get(), constant.get()];
    assert!(built.iter().all(|count| *count > 1_000), "{built:?}");
}

#[test]
fn the_default_sequence_is_one_two_four_eight_sixteen() {
    let policy = Exponential::default();
    let middle: Vec<u64> = (0..7).map(|attempt| policy.delay(attempt, 0.5).as_secs()).collect();
    assert_eq!(middle, [1, 2, 4, 8, 16, 16, 16], "a cap of 20 s leaves room for 25 % above 16 s");
    assert_eq!(policy.delay(4, 0.0), Duration::from_secs(12));
    assert!(policy.delay(4, 1.0) <= Duration::from_secs(20) && policy.delay(4, 1.0) > seconds(19.99));
    assert_eq!(Backoff::default().delays().count(), 5);
}

#[test]
fn delays_are_spread_evenly_round_their_nominal_value_and_do_not_pile_up_on_the_cap() {
    let policy = Exponential::builder().with_max_delay(Duration::from_secs(10)).build().expect("valid");
    let backoff = Backoff::builder(policy).with_max_retries(None).with_seed(7).build().expect("valid");
    let drawn: Vec<f64> = backoff.delays().skip(10).take(20_000).map(|delay| delay.as_secs_f64()).collect();
    let (low, high, mean) = (6.0, 10.0, drawn.iter().sum::<f64>() / 20_000.0);
    assert!((mean - 8.0).abs() < 0.05, "{mean}");
    for tenth in 0..10 {
        let (from, to) =
            (low + (high - low) * f64::from(tenth) / 10.0, low + (high - low) * f64::from(tenth + 1) / 10.0);
        let inside = drawn.iter().filter(|delay| (from..=to).contains(*delay)).count();
        assert!((1_700..2_300).contains(&inside), "{inside} of 20,000 in {from}..={to}");
    }
    let most_equal = drawn.iter().filter(|delay| **delay >= 10.0).count();
    assert!(most_equal < 5, "{most_equal} lie on the cap");
}

#[test]
fn decorrelated_delays_stay_below_the_cap_without_piling_up_on_it() {
    let backoff = Backoff::builder(Decorrelated::default()).with_max_retries(None).with_seed(3).build().expect("valid");
    let drawn: Vec<Duration> = backoff.delays().take(10_000).collect();
    assert!(drawn.iter().all(|delay| (Duration::from_secs(1)..=Duration::from_secs(20)).contains(delay)));
    assert!(drawn.iter().filter(|delay| **delay == Duration::from_secs(20)).count() < 5);
    assert!(drawn.iter().any(|delay| *delay > Duration::from_secs(19)), "it does grow");
}

#[test]
fn a_seed_repeats_and_without_one_two_operations_differ() {
    let seeded = Backoff::builder(Exponential::default()).with_seed(1).build().expect("valid");
    assert!(seeded.delays().eq(seeded.delays()));
    let backoff = Backoff::default();
    assert!(!backoff.delays().eq(backoff.delays()));
}

#[test]
fn limits_stop_before_the_delay_that_would_break_them() {
    let backoff = Backoff::builder(Exponential::builder().with_jitter(Jitter::None).build().expect("valid"))
        .with_max_elapsed(Duration::from_secs(10))
        .build()
        .expect("valid");
    let mut delays = backoff.delays();
    assert_eq!(delays.next_after(Duration::from_secs(8), None), Ok(Duration::from_secs(1)));
    assert_eq!(delays.next_after(Duration::from_secs(9), None), Err(Stop::Elapsed), "9 s + 2 s");
    assert_eq!(delays.next_after(Duration::from_secs(1), None), Ok(Duration::from_secs(2)), "nothing was used up");
    assert_eq!(delays.next_after(Duration::ZERO, Some(Duration::from_secs(7))), Ok(Duration::from_secs(7)));
    assert_eq!(delays.next_after(Duration::ZERO, Some(Duration::from_secs(1))), Ok(Duration::from_secs(8)));
    assert_eq!(delays.next_after(Duration::ZERO, Some(Duration::from_secs(11))), Err(Stop::Elapsed));
    delays.reset();
    assert_eq!((delays.next(), delays.retries()), (Some(Duration::from_secs(1)), 1));
}

#[test]
fn a_delay_that_a_limit_forbids_uses_no_sample_up() {
    let builder = Backoff::builder(Exponential::default()).with_seed(1);
    let backoff = builder.with_max_elapsed(Duration::from_secs(100)).build().expect("valid");
    let (mut delays, mut asked_twice) = (backoff.delays(), backoff.delays());
    for _ in 0..5 {
        assert_eq!(asked_twice.next_after(Duration::from_secs(100), None), Err(Stop::Elapsed));
        assert_eq!(asked_twice.next_after(Duration::ZERO, None), delays.next_after(Duration::ZERO, None));
    }
}

#[test]
fn bad_settings_are_refused_with_field_value_and_range() {
    let (zero, long, builder) = (Duration::ZERO, Duration::from_secs(366 * 86_400), Exponential::builder);
    let second = Duration::from_secs(1);
    let messages = [
        (builder().with_initial_delay(zero).build().err(), "initial_delay is 0ns, accepted: 1ns to 31536000s"),
        (builder().with_initial_delay(second * 21).build().err(), "max_delay is 20s, accepted: 21s to 31536000s"),
        (builder().with_max_delay(long).build().err(), "max_delay is 31622400s, accepted: 1s to 31536000s"),
        (builder().with_multiplier(0.9).build().err(), "multiplier is 0.9, accepted: 1 to 1000"),
        (builder().with_multiplier(f64::NAN).build().err(), "multiplier is NaN, accepted: 1 to 1000"),
        (builder().with_multiplier(f64::INFINITY).build().err(), "multiplier is inf, accepted: 1 to 1000"),
        (builder().with_jitter(Jitter::Proportional(1.5)).build().err(), "jitter is 1.5, accepted: 0 to 1"),
        (builder().with_jitter(Jitter::Proportional(f64::NAN)).build().err(), "jitter is NaN, accepted: 0 to 1"),
        (Constant::new(long, Jitter::None).err(), "delay is 31622400s, accepted: 0ns to 31536000s"),
        (Decorrelated::new(second, zero).err(), "max_delay is 0ns, accepted: 1s to 31536000s"),
        (Backoff::builder(()).with_max_elapsed(zero).build().err(), "max_elapsed is 0ns, accepted: 1ns to 31536000s"),
        (
            Backoff::builder(()).with_max_hint(Duration::MAX).build().err(),
            "max_hint is 18446744073709551615.999999999s, accepted: 0ns to 31536000s",
        ),
        (Budget::builder().with_capacity(0).build().err(), "capacity is 0, accepted: 1 to 4294967295"),
        (Budget::builder().with_ratio(f64::NAN).build().err(), "ratio is NaN, accepted: 0.001 to 1000"),
    ];
    for (error, message) in messages {
        assert_eq!(error.expect(message).to_string(), message);
    }
}

#[test]
fn a_budget_pays_for_as_many_retries_as_it_holds_even_from_many_threads() {
    let budget = Budget::builder().with_capacity(1_000).with_ratio(0.5).build().expect("valid");
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let budget = budget.clone();
            std::thread::spawn(move || (0..1_000).filter(|_| budget.withdraw()).count())
        })
        .collect();
    let paid: usize = threads.into_iter().map(|thread| thread.join().expect("no panic")).sum();
    assert_eq!((paid, budget.available()), (1_000, 0));
    for _ in 0..10 {
        budget.deposit();
    }
    assert_eq!(budget.available(), 5);
    for _ in 0..10_000 {
        budget.deposit();
    }
    assert_eq!(budget.available(), 1_000, "it never holds more than its capacity");
}
