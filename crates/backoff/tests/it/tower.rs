//! The policy in a tower stack, on tokio's paused time.

use std::future::{pending, ready};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backoff::tower::{RetryPolicy, Verdict};
use backoff::{Backoff, Budget, Constant, Exponential, Jitter};
use breaker::tower::BreakerLayer;
use breaker::{Breaker, CallError, Config, State};
use tokio::time::Instant;
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};

fn exact() -> Exponential {
    Exponential::builder().with_jitter(Jitter::None).build().expect("valid")
}

/// A client that fails `failures` times, and the times at which it was called.
fn client(
    failures: usize,
) -> (impl Service<u32, Response = u32, Error = &'static str, Future: Send> + Clone, Arc<Mutex<Vec<Instant>>>) {
    let times = Arc::new(Mutex::new(Vec::new()));
    let service = service_fn({
        let times = Arc::clone(&times);
        move |request: u32| {
            let mut times = times.lock().expect("no panic under it");
            times.push(Instant::now());
            ready(if times.len() > failures { Ok(request) } else { Err("no") })
        }
    });
    (service, times)
}

fn seconds(times: &Mutex<Vec<Instant>>, start: Instant) -> Vec<u64> {
    times.lock().expect("no panic under it").drain(..).map(|time| (time - start).as_secs()).collect()
}

#[tokio::test(start_paused = true)]
async fn each_request_has_delays_and_limits_of_its_own() {
    let (service, times) = client(usize::MAX);
    let service = ServiceBuilder::new().retry(RetryPolicy::new(exact())).service(service);
    for _ in 0..2 {
        let start = Instant::now();
        assert_eq!(service.clone().oneshot(7).await, Err("no"), "the last error, as it is");
        assert_eq!(seconds(&times, start), [0, 1, 3, 7, 15, 31]);
    }
    let both = tokio::join!(service.clone().oneshot(7), service.oneshot(8));
    assert_eq!((both, times.lock().expect("no panic under it").len()), ((Err("no"), Err("no")), 12));
}

#[tokio::test(start_paused = true)]
async fn requests_that_fail_together_do_not_come_back_together() {
    let (service, times) = client(usize::MAX);
    let mut service = ServiceBuilder::new().retry(RetryPolicy::new(Exponential::default())).service(service);
    // Through one handle: a clone of it would have a policy of its own anyway.
    let (one, other) = (service.call(1), service.call(2));
    let _ = tokio::join!(one, other);
    let times = times.lock().expect("no panic under it").clone();
    assert_eq!(times[0], times[1]);
    assert_ne!(times[2], times[3], "both drew the same jitter");
}

#[tokio::test(start_paused = true)]
async fn above_a_breaker_the_retry_waits_for_the_probe() {
    let config = Config::builder().with_open_jitter(0.0).build().expect("valid");
    let breaker = Breaker::with_clock(config, || Instant::now().into_std());
    let (service, times) = client(5);
    let mut service = ServiceBuilder::new()
        .retry(RetryPolicy::new(exact()).max_retries(6).hint(CallError::retry_after))
        .layer(BreakerLayer::new(breaker.clone()))
        .service(service);
    let start = Instant::now();
    assert_eq!(service.ready().await.expect("ready").call(7).await, Ok(7));
    // Five failures in 15 s open it for 60 s. The refusal at 31 s costs a retry and no call, and waits for the rest.
    assert_eq!(seconds(&times, start), [0, 1, 3, 7, 15, 75]);
    assert_eq!((breaker.state(), breaker.trips()), (State::Closed, 1));
}

#[tokio::test(start_paused = true)]
async fn a_classifier_retries_responses_and_leaves_errors_alone() {
    type Answer = Result<(u16, Option<Duration>), &'static str>;
    let answers: [Answer; 5] =
        [Ok((503, None)), Ok((503, Some(Duration::from_secs(30)))), Ok((404, None)), Ok((503, None)), Err("broken")];
    let calls = Arc::new(AtomicU32::new(0));
    let service = service_fn({
        let calls = Arc::clone(&calls);
        move |()| ready(answers[calls.fetch_add(1, Ordering::SeqCst) as usize])
    });
    let classify = |answer: &Answer| match answer {
        Ok((500.., retry_after)) => Verdict::Retry { hint: *retry_after },
        _ => Verdict::Final,
    };
    let retries = RetryPolicy::new(exact()).with_classifier(classify);
    let service = ServiceBuilder::new().retry(retries).service(service);
    let start = Instant::now();
    assert_eq!(service.clone().oneshot(()).await, Ok((404, None)));
    assert_eq!((calls.load(Ordering::SeqCst), start.elapsed()), (3, Duration::from_secs(31)));
    assert_eq!(service.oneshot(()).await, Err("broken"));
    assert_eq!((calls.load(Ordering::SeqCst), start.elapsed()), (5, Duration::from_secs(32)));
}

#[tokio::test(start_paused = true)]
async fn the_elapsed_limit_includes_the_calls_and_begins_with_the_request() {
    let calls = Arc::new(AtomicU32::new(0));
    let service = service_fn({
        let calls = Arc::clone(&calls);
        move |()| {
            calls.fetch_add(1, Ordering::SeqCst);
            async {
                tokio::time::sleep(Duration::from_secs(4)).await;
                Err::<(), _>("slow")
            }
        }
    });
    let backoff = Backoff::builder(exact()).with_max_elapsed(Duration::from_secs(10)).build().expect("valid");
    let mut service = ServiceBuilder::new().retry(RetryPolicy::new(backoff)).service(service);
    // A service that was made long ago: the first call ends at 4 s, the second at 9 s, and 2 s more would be too late.
    tokio::time::sleep(Duration::from_secs(100)).await;
    for calls_so_far in [2, 4] {
        assert_eq!(service.ready().await.expect("ready").call(()).await, Err("slow"));
        assert_eq!(calls.load(Ordering::SeqCst), calls_so_far);
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_must_not_be_repeated_goes_out_once() {
    let (service, times) = client(usize::MAX);
    let only_even = |request: &u32| request.is_multiple_of(2).then_some(*request);
    let service = ServiceBuilder::new().retry(RetryPolicy::new(exact()).with_request_clone(only_even)).service(service);
    assert_eq!(service.clone().oneshot(7).await, Err("no"));
    assert_eq!(times.lock().expect("no panic under it").len(), 1);
    assert_eq!(service.oneshot(8).await, Err("no"));
    assert_eq!(times.lock().expect("no panic under it").len(), 7);
}

#[tokio::test(start_paused = true)]
async fn a_budget_is_shared_paid_once_for_each_retry_and_paid_back_for_one_that_was_cancelled() {
    let budget = Budget::builder().with_capacity(4).with_ratio(0.5).build().expect("valid");
    let policy = Constant::new(Duration::from_secs(1), Jitter::None).expect("valid");
    let (service, times) = client(3);
    let service = ServiceBuilder::new().retry(RetryPolicy::new(policy).budget(budget.clone())).service(service);
    assert_eq!(service.clone().oneshot(7).await, Ok(7), "three retries and a success");
    assert_eq!((times.lock().expect("no panic under it").len(), budget.available()), (4, 1));
    assert_eq!(service.oneshot(7).await, Ok(7));
    assert_eq!(budget.available(), 2, "each success brings in half a retry");

    // One that hangs in its second call has spent its retry, one that is cancelled before that has not.
    for (cancelled_after, left) in [(500, 2), (1_500, 1)] {
        let calls = Arc::new(AtomicU32::new(0));
        let fails_then_hangs = service_fn(move |()| {
            let first = calls.fetch_add(1, Ordering::SeqCst) == 0;
            async move { if first { Err::<(), _>("no") } else { pending().await } }
        });
        let retries = RetryPolicy::new(policy).budget(budget.clone());
        let call = ServiceBuilder::new().retry(retries).service(fails_then_hangs).oneshot(());
        assert!(tokio::time::timeout(Duration::from_millis(cancelled_after), call).await.is_err());
        assert_eq!(budget.available(), left, "cancelled after {cancelled_after} ms");
    }
    let (service, times) = client(usize::MAX);
    let service = ServiceBuilder::new().retry(RetryPolicy::new(policy).budget(budget.clone())).service(service);
    assert_eq!(service.oneshot(7).await, Err("no"));
    assert_eq!((times.lock().expect("no panic under it").len(), budget.available()), (2, 0), "one was left");
}
