// With backoff and breaker.
use std::time::Duration;

use backoff::{Exponential, retry_async, tokio_sleep};
use breaker::{Breaker, CallError, Config, Outcome};

use super::shop::{HttpError, Shop};

pub(super) async fn order(shop: &Shop) -> Result<String, Box<dyn std::error::Error>> {
    let breaker = Breaker::new(Config::builder().with_open_duration(Duration::from_secs(30)).build()?);
    let classifier = |result: &Result<_, HttpError>| match result {
        Err(error) if !error.is_transient() => Outcome::Neutral,
        other => other.into(),
    };
    let order = retry_async(|| breaker.call_async_with(classifier, shop.get("/orders/7")))
        .backoff(Exponential::new(Duration::from_millis(100), Duration::from_secs(10))?)
        .max_retries(10)
        .when(|error| error.inner().is_none_or(HttpError::is_transient))
        .hint(CallError::retry_after)
        .notify(|error, delay| println!("{error}; again in {delay:?}"))
        .run_async(tokio_sleep)
        .await?;
    Ok(order)
}
