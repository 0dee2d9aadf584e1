//! `retry` and `retry_async`.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use backoff::{Backoff, Budget, Exponential, GaveUp, Jitter, Stop, retry, retry_async};

fn exact() -> Backoff {
    Backoff::new(Exponential::builder().with_jitter(Jitter::None).build().expect("valid"))
}

fn seconds(values: &[u64]) -> Vec<Duration> {
    values.iter().map(|value| Duration::from_secs(*value)).collect()
}

#[test]
fn five_retries_are_six_calls_and_the_end_says_how_many_and_how_long() {
    let (start, now, calls) = (crate::clock(), Cell::new(Duration::ZERO), Cell::new(0));
    let slept = RefCell::new(Vec::new());
    let notified = RefCell::new(Vec::new());
    let gave_up = retry(|| {
        calls.set(calls.get() + 1);
        now.set(now.get() + Duration::from_secs(3));
        Err::<(), _>("no")
    })
    .backoff(exact())
    .notify(|error, delay| notified.borrow_mut().push((*error, delay)))
    .run_with(
        || start + now.get(),
        |delay| {
            slept.borrow_mut().push(delay);
            now.set(now.get() + delay);
        },
    )
    .unwrap_err();
    assert_eq!((gave_up.error, gave_up.stop, gave_up.calls, calls.get()), ("no", Stop::Retries, 6, 6));
    assert_eq!(gave_up.elapsed, Duration::from_secs(6 * 3 + 31));
    assert_eq!(gave_up.to_string(), "gave up after 6 calls in 49s: the retries are spent");
    assert_eq!(*slept.borrow(), seconds(&[1, 2, 4, 8, 16]));
    assert_eq!(notified.borrow().len(), 5);
}

#[test]
fn a_policy_alone_is_a_backoff_with_the_default_limits() {
    let slept = RefCell::new(Vec::new());
    let policy = Exponential::new(Duration::from_secs(3), Duration::from_secs(30)).expect("valid");
    let gave_up = retry(|| Err::<(), _>("no"))
        .backoff(policy)
        .run_with(crate::clock, |delay| slept.borrow_mut().push(delay))
        .unwrap_err();
    assert_eq!((gave_up.stop, gave_up.calls), (Stop::Retries, 6));
    let nominal = [3.0, 6.0, 12.0, 24.0, 24.0];
    for (delay, nominal) in slept.borrow().iter().zip(nominal) {
        assert!((nominal * 0.75..=nominal * 1.25).contains(&delay.as_secs_f64()), "{delay:?} is not {nominal} +-25 %");
    }
}

#[test]
fn a_number_of_retries_holds_whether_it_is_given_before_the_backoff_or_after_it() {
    let calls = |gave_up: Result<(), GaveUp<&str>>| gave_up.unwrap_err().calls;
    let fails = || retry(|| Err::<(), _>("no"));
    let two = Backoff::builder(Exponential::default()).with_max_retries(Some(2)).build().expect("valid");
    assert_eq!(calls(fails().backoff(two).run_with(crate::clock, |_| ())), 3);
    assert_eq!(calls(fails().backoff(two).max_retries(7).run_with(crate::clock, |_| ())), 8);
    assert_eq!(calls(fails().max_retries(7).backoff(two).when(|_| true).run_with(crate::clock, |_| ())), 8);
    assert_eq!(calls(fails().max_retries(0).run_with(crate::clock, |_| ())), 1);
}

#[test]
fn an_error_that_is_not_worth_it_is_not_retried_and_costs_no_budget() {
    let budget = Budget::builder().with_capacity(1).build().expect("valid");
    let gave_up = retry(|| Err::<(), _>(400)).when(|status| *status >= 500).budget(budget.clone()).run().unwrap_err();
    assert_eq!((gave_up.stop, gave_up.calls, budget.available()), (Stop::NotRetryable, 1, 1));
    assert!(gave_up.to_string().starts_with("gave up after 1 call in"), "{gave_up}");
    let gave_up = retry(|| Err::<(), _>(503)).budget(budget.clone()).run_with(crate::clock, |_| ()).unwrap_err();
    assert_eq!((gave_up.stop, gave_up.calls, budget.available()), (Stop::Budget, 2, 0));
    for _ in 0..5 {
        assert_eq!(retry(|| Ok::<_, ()>(1)).budget(budget.clone()).run(), Ok(1));
    }
    assert_eq!(budget.available(), 1, "five successes pay for one retry");
}

#[test]
fn the_longer_of_hint_and_delay_is_waited_for() {
    let slept = RefCell::new(Vec::new());
    let hints = RefCell::new(vec![None, Some(0), Some(30), Some(1)].into_iter());
    let _ = retry(|| Err::<(), _>(hints.borrow_mut().next().flatten()))
        .backoff(exact())
        .hint(|hint: &Option<u64>| hint.map(Duration::from_secs))
        .run_with(crate::clock, |delay| slept.borrow_mut().push(delay));
    assert_eq!(*slept.borrow(), seconds(&[1, 2, 30, 8, 16]));
}

#[test]
fn each_rule_that_is_added_counts() {
    let (slept, notified) = (RefCell::new(Vec::new()), Cell::new(0));
    let errors = RefCell::new(vec![3, 10, 4, 5].into_iter());
    let gave_up = retry(|| Err::<(), u64>(errors.borrow_mut().next().unwrap_or_default()))
        .backoff(exact())
        .hint(|error| Some(Duration::from_secs(*error)))
        .when(|error| *error != 5)
        .hint(|_| Some(Duration::from_secs(7)))
        .when(|error| *error != 0)
        .notify(|_, _| notified.set(notified.get() + 1))
        .notify(|_, _| notified.set(notified.get() + 10))
        .run_with(crate::clock, |delay| slept.borrow_mut().push(delay))
        .unwrap_err();
    assert_eq!((gave_up.error, gave_up.stop, gave_up.calls), (5, Stop::NotRetryable, 4));
    assert_eq!(*slept.borrow(), seconds(&[7, 10, 7]));
    assert_eq!(notified.get(), 33, "both, for each of three retries");
}

#[tokio::test(start_paused = true)]
async fn a_retry_waits_for_the_breaker_and_needs_one_call_then() {
    let config = breaker::Config::builder().with_open_jitter(0.0).build().expect("valid");
    let breaker = breaker::Breaker::with_clock(config, || tokio::time::Instant::now().into_std());
    breaker.force_open();
    let start = tokio::time::Instant::now();
    let calls = Cell::new(0);
    let operation = || {
        breaker.call_async(async {
            calls.set(calls.get() + 1);
            Ok::<_, ()>(calls.get())
        })
    };
    let value = retry_async(operation)
        .backoff(exact())
        .hint(breaker::CallError::retry_after)
        .run_async(tokio::time::sleep)
        .await;
    assert_eq!((value, start.elapsed()), (Ok(1), Duration::from_secs(60)));
}

#[tokio::test(start_paused = true)]
async fn the_asynchronous_driver_waits_on_its_sleeper_and_may_be_cancelled() {
    let (start, calls) = (tokio::time::Instant::now(), Cell::new(0));
    let operation = || {
        calls.set(calls.get() + 1);
        async { Err::<(), _>("no") }
    };
    let run = retry_async(operation)
        .backoff(exact())
        .run_async_with(|| tokio::time::Instant::now().into_std(), tokio::time::sleep);
    let GaveUp { calls: made, elapsed, stop, .. } = run.await.unwrap_err();
    assert_eq!((made, elapsed, stop), (6, Duration::from_secs(31), Stop::Retries));
    assert_eq!(start.elapsed(), elapsed);

    calls.set(0);
    let run = retry_async(operation).backoff(exact()).run_async(tokio::time::sleep);
    assert!(tokio::time::timeout(Duration::from_millis(1_500), run).await.is_err());
    assert_eq!(calls.get(), 2, "one at once, one after a second, none after it was dropped");
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_was_paid_for_but_never_made_is_given_back() {
    let budget = Budget::builder().with_capacity(2).build().expect("valid");
    let fails_then_hangs = || {
        let calls = Cell::new(0);
        move || {
            calls.set(calls.get() + 1);
            let first = calls.get() == 1;
            async move { if first { Err::<(), _>("no") } else { std::future::pending().await } }
        }
    };
    for (cancelled_after, left) in [(500, 2), (1_500, 1)] {
        let run = retry_async(fails_then_hangs()).backoff(exact()).budget(budget.clone()).run_async(tokio::time::sleep);
        assert!(tokio::time::timeout(Duration::from_millis(cancelled_after), run).await.is_err());
        assert_eq!(budget.available(), left, "cancelled after {cancelled_after} ms: in the sleep, in the second call");
    }

    let interrupted =
        || retry(|| Err::<(), _>("no")).budget(budget.clone()).run_with(crate::clock, |_| panic!("woken up"));
    assert!(catch_unwind(AssertUnwindSafe(interrupted)).is_err());
    assert_eq!(budget.available(), 1);
}

#[test]
fn a_retry_of_sendable_things_is_sendable() {
    fn sendable<T: Send>(_: T) {}
    let operation = || std::future::ready(Ok::<_, String>(1));
    sendable(retry_async(operation).when(|_| true).run_async(|_| std::future::ready(())));
}
