// With backon and failsafe.
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use failsafe::failure_policy::consecutive_failures;
use failsafe::futures::CircuitBreaker;
use failsafe::{Config, Error, backoff};

use super::shop::{HttpError, Shop};

pub(super) async fn order(shop: &Shop) -> Result<String, Error<HttpError>> {
    let policy = consecutive_failures(5, backoff::constant(Duration::from_secs(30)));
    let breaker = Config::new().failure_policy(policy).build();
    let retries = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_secs(10))
        .with_max_times(10)
        .with_jitter();
    (|| breaker.call_with(|error: &HttpError| error.is_transient(), shop.get("/orders/7")))
        .retry(retries)
        .when(|error| match error {
            Error::Inner(error) => error.is_transient(),
            Error::Rejected => true,
        })
        .notify(|error, delay| println!("{error}; again in {delay:?}"))
        .await
}
