//! A guarded call that does nothing: the cost of the breaker itself, beside its peers and two floors.
//!
//! Groups are closed, one failure in ten, and refused while open, each from one thread and from two on one breaker.
//! Floors: an atomic load and a conditional store (no breaker does less), a mutex round a counter (the simplest
//! breaker).

use std::hint::black_box;
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use benches::{now, side_by_side};
use criterion::{BenchmarkGroup, Criterion, measurement::WallTime};
use tower::{Layer, Service, service_fn};

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1_200))
        .sample_size(30)
        .configure_from_args();
    for scenario in [Scenario::Closed, Scenario::OneInTen, Scenario::Refused] {
        one_thread(&mut criterion, scenario);
        two_threads(&mut criterion, scenario);
    }
    criterion.final_summary();
}

#[derive(Clone, Copy, PartialEq)]
enum Scenario {
    Closed,
    OneInTen,
    Refused,
}

impl Scenario {
    fn name(self) -> &'static str {
        match self {
            Scenario::Closed => "closed",
            Scenario::OneInTen => "one_failure_in_ten",
            Scenario::Refused => "refused",
        }
    }

    /// Whether call number `n` succeeds.
    #[inline]
    fn succeeds(self, n: u64) -> bool {
        match self {
            Scenario::Closed => true,
            Scenario::OneInTen => !n.is_multiple_of(10),
            Scenario::Refused => false,
        }
    }
}

fn one_thread(criterion: &mut Criterion, scenario: Scenario) {
    let mut group = criterion.benchmark_group(format!("breaker/{}/1_thread", scenario.name()));
    sync_cases(&mut Single { group: &mut group, scenario });
    // Async peers: the future is ready at once, so one poll is the whole call.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let _inside = runtime.enter();
    let resilience = tower_resilience_circuitbreaker::CircuitBreakerLayer::builder()
        .consecutive_failures(5)
        .wait_duration_in_open(LONG)
        .build()
        .expect("valid");
    let mut service = resilience.layer(service_fn(|ok: bool| std::future::ready(if ok { Ok(()) } else { Err(()) })));
    tower_case(&mut group, "tower-resilience", scenario, |ok| {
        ready(std::future::poll_fn(|context| service.poll_ready(context)))?;
        ready(service.call(ok))
    });
    let old = tower_circuitbreaker::CircuitBreakerConfig::<(), ()>::builder()
        .failure_rate_threshold(0.5)
        .sliding_window_size(100)
        .wait_duration_in_open(LONG)
        .build();
    let mut service =
        old.layer::<_, bool>(service_fn(|ok: bool| std::future::ready(if ok { Ok(()) } else { Err(()) })));
    tower_case(&mut group, "tower-circuitbreaker", scenario, |ok| ready(service.call(ok)));
    let mut service = breaker::tower::BreakerLayer::new(ours())
        .layer(service_fn(|ok: bool| std::future::ready(if ok { Ok::<(), ()>(()) } else { Err(()) })));
    tower_case(&mut group, "breaker, tower layer", scenario, |ok| ready(service.call(ok)));
    group.finish();
}

fn tower_case<T, E>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    scenario: Scenario,
    mut call: impl FnMut(bool) -> Result<T, E>,
) {
    prepare(scenario, |ok| drop(call(ok)));
    let mut n = 0;
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            n += 1;
            black_box(call(black_box(scenario.succeeds(n))).is_ok())
        });
    });
}

fn ready<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("nothing here waits"),
    }
}

fn two_threads(criterion: &mut Criterion, scenario: Scenario) {
    let mut group = criterion.benchmark_group(format!("breaker/{}/2_threads", scenario.name()));
    sync_cases(&mut Double { group: &mut group, scenario });
    group.finish();
}

/// How a case is measured.
trait Measure {
    fn case(&mut self, name: &str, call: impl Fn(bool) -> bool + Sync);
    fn scenario(&self) -> Scenario;
}

struct Single<'a, 'b> {
    group: &'a mut BenchmarkGroup<'b, WallTime>,
    scenario: Scenario,
}

impl Measure for Single<'_, '_> {
    fn case(&mut self, name: &str, call: impl Fn(bool) -> bool + Sync) {
        let scenario = self.scenario;
        prepare(scenario, |ok| {
            call(ok);
        });
        let mut n = 0;
        self.group.bench_function(name, |bencher| {
            bencher.iter(|| {
                n += 1;
                black_box(call(black_box(scenario.succeeds(n))))
            });
        });
    }

    fn scenario(&self) -> Scenario {
        self.scenario
    }
}

struct Double<'a, 'b> {
    group: &'a mut BenchmarkGroup<'b, WallTime>,
    scenario: Scenario,
}

impl Measure for Double<'_, '_> {
    /// Nanoseconds a call and thread: the mean of both threads, which run side by side.
    fn case(&mut self, name: &str, call: impl Fn(bool) -> bool + Sync) {
        let scenario = self.scenario;
        prepare(scenario, |ok| {
            call(ok);
        });
        self.group.bench_function(name, |bencher| {
            bencher.iter_custom(|calls| {
                // Fewer calls are over too soon to overlap.
                let made = calls.max(50_000);
                let run = || {
                    for n in 0..made {
                        black_box(call(black_box(scenario.succeeds(n))));
                    }
                };
                // On a busy machine a clean attempt takes some.
                let attempts = || side_by_side(run);
                let chosen = (0..20).map(|_| attempts()).find(|attempt| attempt.clean).unwrap_or_else(attempts);
                chosen.time.mul_f64(calls as f64 / made as f64)
            });
        });
    }

    fn scenario(&self) -> Scenario {
        self.scenario
    }
}

/// Opens the breaker for the scenario that wants it open.
fn prepare(scenario: Scenario, mut call: impl FnMut(bool)) {
    if scenario == Scenario::Refused {
        for _ in 0..1_000 {
            call(false);
        }
    }
}

fn ours() -> breaker::Breaker {
    breaker::Breaker::new(breaker::Config::builder().with_open_duration(LONG).build().expect("valid"))
}

fn sync_cases(measure: &mut impl Measure) {
    let work = |ok: bool| if ok { Ok(()) } else { Err(()) };

    let word = AtomicU32::new(0);
    measure.case("floor: atomic", |ok| {
        let seen = word.load(Ordering::Relaxed);
        match work(ok) {
            Ok(()) if seen != 0 => word.store(0, Ordering::Relaxed),
            Ok(()) => {}
            Err(()) => word.store((seen + 1) & 3, Ordering::Relaxed),
        }
        ok
    });
    let counter = parking_lot::Mutex::new(0_u32);
    measure.case("floor: mutex", |ok| {
        let mut counter = counter.lock();
        *counter = if ok { 0 } else { (*counter + 1) & 3 };
        ok
    });
    if measure.scenario() == Scenario::Refused {
        let until = now() + LONG;
        measure.case("floor: clock", |_| now() < until);
    }

    let breaker = ours();
    measure.case("breaker", |ok| breaker.call(|| work(ok)).is_ok());
    let breaker = ours();
    let at = now();
    measure.case("breaker, now given", |ok| match breaker.try_acquire_ref_at(at) {
        Ok(permit) if ok => permit.success_at(at).counted(),
        Ok(permit) => permit.failure_at(at).counted(),
        Err(_) => false,
    });
    let breaker = ours();
    measure.case("breaker, owned permit", |ok| match breaker.try_acquire() {
        Ok(permit) if ok => permit.success().counted(),
        Ok(permit) => permit.failure().counted(),
        Err(_) => false,
    });
    let rate = breaker::Trip::Rate(breaker::Rate::over_calls(100));
    let config = breaker::Config::builder().with_trip(rate).with_open_duration(LONG).build();
    let breaker = breaker::Breaker::new(config.expect("valid"));
    measure.case("breaker, rate of 100 calls", |ok| breaker.call(|| work(ok)).is_ok());

    let peer = recloser::Recloser::custom().open_wait(LONG).build();
    measure.case("recloser", |ok| peer.call(|| work(ok)).is_ok());
    let policy = failsafe::failure_policy::consecutive_failures(5, failsafe::backoff::constant(LONG));
    let peer = failsafe::Config::new().failure_policy(policy).build();
    measure.case("failsafe, consecutive", |ok| failsafe::CircuitBreaker::call(&peer, || work(ok)).is_ok());
    let peer = circuitbreaker_rs::CircuitBreaker::<circuitbreaker_rs::DefaultPolicy, Failed>::builder()
        .consecutive_failures(5)
        .cooldown(LONG)
        .build();
    measure.case("circuitbreaker-rs", |ok| peer.call(|| work(ok).map_err(|()| Failed)).is_ok());
}

#[derive(Debug)]
struct Failed;

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("failed")
    }
}

impl std::error::Error for Failed {}

const LONG: Duration = Duration::from_secs(3_000);
