//! A tower service behind a breaker, called by a retry that waits for both.
//! `cargo run -p backoff --example retried_service --features tokio`

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use backoff::{Backoff, Exponential, retry_async, tokio_sleep};
use breaker::tower::BreakerLayer;
use breaker::{Breaker, CallError, Config};
use tower::{Layer, ServiceExt, service_fn};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A service that is down for its first five requests.
    let requests = Arc::new(AtomicU32::new(0));
    let service = service_fn(move |name: &'static str| {
        let number = requests.fetch_add(1, Ordering::SeqCst);
        async move { if number < 5 { Err("down") } else { Ok(format!("hello {name}")) } }
    });
    let breaker = Breaker::new(Config::builder().with_open_duration(Duration::from_millis(100)).build()?);
    let service = BreakerLayer::new(breaker.clone()).layer(service);

    let policy = Exponential::builder()
        .with_initial_delay(Duration::from_millis(5))
        .with_max_delay(Duration::from_millis(50))
        .build()?;
    let answer = retry_async(|| service.clone().oneshot("world"))
        .backoff(Backoff::builder(policy).with_max_retries(Some(10)).build()?)
        .hint(CallError::retry_after)
        .notify(|error, delay| println!("{error}; again in {delay:?}"))
        .run_async(tokio_sleep)
        .await;
    match answer {
        Ok(answer) => println!("{answer}, breaker {}", breaker.state()),
        Err(end) => println!("{end}: {}", end.error),
    }
    Ok(())
}
