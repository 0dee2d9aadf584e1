//! A tower stack with retries above a breaker. `cargo run -p backoff --example retried_service --features tower`
//!
//! The service is down for its first five requests. The breaker opens; the retry waits as long as its refusal says, and
//! the probe finds the service well.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use backoff::{Exponential, tower::RetryPolicy};
use breaker::{Breaker, CallError, Config, tower::BreakerLayer};
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let requests = Arc::new(AtomicU32::new(0));
    let client = service_fn(move |name: &'static str| {
        let number = requests.fetch_add(1, Ordering::SeqCst);
        async move { if number < 5 { Err(std::io::Error::other("down")) } else { Ok(format!("hello {name}")) } }
    });

    let breaker = Breaker::new(Config::builder().with_open_duration(Duration::from_millis(100)).build()?);
    breaker.subscribe(|moved| println!("  [{} -> {}: {}]", moved.from, moved.to, moved.reason));
    let policy = Exponential::new(Duration::from_millis(5), Duration::from_millis(50))?;
    let mut service = ServiceBuilder::new()
        .retry(RetryPolicy::new(policy).max_retries(10).hint(CallError::retry_after))
        .layer(BreakerLayer::new(breaker))
        .service(client);
    println!("{}", service.ready().await?.call("world").await?);
    Ok(())
}
