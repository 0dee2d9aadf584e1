//! The layer round a service.

use std::convert::Infallible;
use std::future::{pending, ready};
use std::time::Duration;

use breaker::tower::BreakerLayer;
use breaker::{Breaker, CallError, Config, Outcome, Rejected, State};
use tower::{Layer, Service, ServiceExt, service_fn};

fn on_paused_time() -> Breaker {
    let config = Config::builder().with_open_jitter(0.0).build().expect("valid");
    Breaker::with_clock(config, || tokio::time::Instant::now().into_std())
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_an_error_of_the_response_that_says_when_to_come_back() {
    let breaker = on_paused_time();
    let service = service_fn(|fails: bool| ready(if fails { Err("no") } else { Ok("yes") }));
    let mut service = BreakerLayer::new(breaker.clone()).layer(service);
    for _ in 0..5 {
        assert_eq!(service.ready().await.expect("ready").call(true).await, Err(CallError::Inner("no")));
    }
    let refused = service.ready().await.expect("still ready").call(false).await.unwrap_err();
    assert_eq!(refused.retry_after(), Some(Duration::from_secs(60)));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(service.clone().oneshot(false).await, Ok("yes"));
    assert_eq!(service.breaker().state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn of_eight_at_once_one_is_let_in_and_dropping_it_frees_the_slot() {
    let breaker = on_paused_time();
    let service = service_fn(|()| pending::<Result<(), Infallible>>());
    let mut service = BreakerLayer::new(breaker.clone()).layer(service);
    breaker.force_open();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let mut responses: Vec<_> = (0..8).map(|_| service.call(())).collect();
    assert_eq!(breaker.counters().probes, 1);
    for refused in responses.drain(1..) {
        assert!(matches!(refused.await, Err(CallError::Rejected(_))));
    }
    drop(responses);
    assert_eq!((breaker.state(), breaker.counters().probes), (State::HalfOpen, 0));
}

#[tokio::test(start_paused = true)]
async fn a_classifier_reads_the_response_and_a_failing_readiness_counts() {
    let by_status = |result: &Result<u16, Infallible>| match result {
        Ok(500..) => Outcome::Failure,
        _ => Outcome::Success,
    };
    let breaker = on_paused_time();
    let mut service = BreakerLayer::new(breaker.clone())
        .with_classifier(by_status)
        .layer(service_fn(|status: u16| ready(Ok::<_, Infallible>(status))));
    for _ in 0..5 {
        assert_eq!(service.call(503).await, Ok(503));
    }
    assert_eq!(breaker.state(), State::Open);

    let breaker = on_paused_time();
    let mut broken = BreakerLayer::new(breaker.clone()).layer(NeverReady);
    for _ in 0..5 {
        assert_eq!(broken.ready().await.err(), Some(CallError::Inner("broken")));
    }
    assert_eq!(breaker.state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn a_stack_of_boxed_errors_with_a_time_out_outside_still_says_when_to_come_back() {
    type BoxError = Box<dyn std::error::Error + Send + Sync>;
    let breaker = on_paused_time();
    let service = service_fn(|()| ready(Err::<(), BoxError>("no".into())));
    let service = BreakerLayer::new(breaker.clone()).layer(service).map_err(CallError::into_error::<BoxError>);
    let mut service = tower::timeout::Timeout::new(service, Duration::from_secs(1));
    assert_eq!(service.call(()).await.unwrap_err().to_string(), "no");
    breaker.force_open();
    let refused = service.call(()).await.unwrap_err();
    let refused = refused.downcast_ref::<Rejected>().expect("the refusal");
    assert_eq!(refused.retry_after(), Some(Duration::from_secs(60)));
}

#[derive(Clone)]
struct NeverReady;

impl Service<()> for NeverReady {
    type Response = ();
    type Error = &'static str;
    type Future = std::future::Ready<Result<(), &'static str>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), &'static str>> {
        std::task::Poll::Ready(Err("broken"))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        ready(Ok(()))
    }
}
