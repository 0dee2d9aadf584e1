//! A policy built and five jittered delays drawn from it, beside the peers and a floor: five shifts and five random
//! numbers.

use std::hint::black_box;
use std::time::Duration;

use backon::BackoffBuilder;
use criterion::Criterion;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1_200))
        .sample_size(30)
        .configure_from_args();
    let mut group = criterion.benchmark_group("backoff/build_and_five_draws");
    group.bench_function("floor", |bencher| bencher.iter(|| floor(black_box(SECOND))));
    group.bench_function("backoff", |bencher| bencher.iter(|| ours(black_box(SECOND))));
    group.bench_function("backoff, seeded", |bencher| bencher.iter(|| seeded(black_box(SECOND))));
    group.bench_function("backoff, delay(attempt, unit)", |bencher| bencher.iter(|| by_attempt(black_box(SECOND))));
    group.bench_function("backon", |bencher| bencher.iter(|| peer_backon(black_box(SECOND))));
    group.bench_function("tokio-retry", |bencher| bencher.iter(|| peer_tokio_retry(black_box(SECOND))));
    group.bench_function("exponential-backoff", |bencher| bencher.iter(|| peer_exponential(black_box(SECOND))));
    group.finish();
    criterion.final_summary();
}

fn floor(first: Duration) {
    let nanos = first.as_nanos() as u64;
    (0..5).map(|n| Duration::from_nanos((nanos << n) - fastrand::u64(0..nanos))).for_each(consume);
}

fn consume(delay: Duration) {
    black_box(delay);
}

fn policy(first: Duration) -> backoff::Exponential {
    backoff::Exponential::builder().with_initial_delay(first).build().expect("valid")
}

fn ours(first: Duration) {
    backoff::Backoff::new(policy(first)).delays().for_each(consume);
}

fn seeded(first: Duration) {
    let backoff = backoff::Backoff::builder(policy(first)).with_seed(black_box(1)).build().expect("valid");
    backoff.delays().for_each(consume);
}

fn by_attempt(first: Duration) {
    let policy = policy(first);
    (0..5).map(|attempt| policy.delay(attempt, fastrand::f64())).for_each(consume);
}

fn peer_backon(first: Duration) {
    let builder = backon::ExponentialBuilder::default().with_min_delay(first).with_jitter().with_max_times(5);
    builder.build().for_each(consume);
}

fn peer_tokio_retry(first: Duration) {
    let millis = first.as_millis() as u64;
    tokio_retry::strategy::ExponentialBackoff::from_millis(2)
        .factor(millis / 2)
        .map(tokio_retry::strategy::jitter)
        .take(5)
        .for_each(consume);
}

fn peer_exponential(first: Duration) {
    exponential_backoff::Backoff::new(6, first, Some(Duration::from_secs(20))).into_iter().flatten().for_each(consume);
}

const SECOND: Duration = Duration::from_secs(1);
