//! A tower service behind a breaker. `cargo run -p breaker --example guarded_service --features tower`

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use breaker::tower::BreakerLayer;
use breaker::{Breaker, Config, Outcome};
use tower::{Layer, Service, ServiceExt, service_fn};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A service that answers 503 to its first five requests.
    let requests = Arc::new(AtomicU32::new(0));
    let service = service_fn(move |path: &'static str| {
        let status = if requests.fetch_add(1, Ordering::SeqCst) < 5 { 503_u16 } else { 200 };
        async move { Ok::<_, Infallible>((path, status)) }
    });

    let breaker = Breaker::new(Config::builder().with_open_duration(Duration::from_millis(50)).build()?);
    let by_status = |result: &Result<(&str, u16), Infallible>| match result {
        Ok((_, 500..)) => Outcome::Failure,
        Ok((_, 400..)) => Outcome::Neutral,
        _ => Outcome::Success,
    };
    let mut service = BreakerLayer::new(breaker.clone()).with_classifier(by_status).layer(service);

    for _ in 0..8 {
        match service.ready().await?.call("/orders").await {
            Ok((path, status)) => println!("{path}: {status}"),
            Err(refused) => {
                println!("refused: {refused}");
                tokio::time::sleep(refused.retry_after().unwrap_or_default()).await;
            }
        }
    }
    println!("{} after {} trip", breaker.state(), breaker.trips());
    Ok(())
}
