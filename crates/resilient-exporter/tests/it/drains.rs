//! The calls of a shutdown in each state of the collector: one at once, further ones while answers come.

use std::time::{Duration, Instant};

use breaker::State;
use mock_collector::{Answer, Behavior, MockCollector};
use otlp_transport::Transport;
use resilient_exporter::{Builder, ResilientSpanExporter};
use tempfile::TempDir;

use crate::support::{App, eventually, grpc, http, now};

/// Longer than any shutdown: no wait of this length ends by itself.
const LONG: Duration = Duration::from_secs(60);

/// The time of a shutdown that waits until it is over, and of one that ends before on any machine.
const SHORT: Duration = Duration::from_millis(1_500);
const ENOUGH: Duration = Duration::from_millis(4_500);

/// As many spans as waited in the outage that this was seen in.
const SPANS: usize = 3_388;

/// Spans of one batch of the SDK.
const BATCH: usize = 512;

struct Scene {
    collector: MockCollector,
    app: App,
    /// The state directory; none: no disk.
    _state: Option<TempDir>,
}

impl Scene {
    /// An exporter that waits long after each failure, with a disk.
    fn new(primary: impl Fn(&MockCollector) -> Box<dyn Transport>) -> Self {
        let state = tempfile::tempdir().expect("temp dir");
        let dir = state.path().to_owned();
        let scene = Self::with(primary, |builder| builder.with_state_dir(dir));
        Self { _state: Some(state), ..scene }
    }

    fn with(primary: impl Fn(&MockCollector) -> Box<dyn Transport>, adjust: impl FnOnce(Builder) -> Builder) -> Self {
        let collector = MockCollector::start().expect("loopback");
        let builder = ResilientSpanExporter::builder().with_primary(primary(&collector));
        let builder = builder.with_retry_initial_delay(LONG).with_retry_max_delay(LONG).with_retry_jitter(0.0);
        let app = App::new(adjust(builder).build().expect("valid"));
        Self { collector, app, _state: None }
    }

    /// Without a disk; a shutdown takes `timeout` at most.
    fn without_disk(timeout: Duration, adjust: impl FnOnce(Builder) -> Builder) -> Self {
        Self::with(http, |builder| {
            let builder = builder.with_fallback_enabled(false);
            adjust(builder.shutdown(|shutdown| shutdown.timeout = timeout))
        })
    }

    fn failed(&self) -> u64 {
        self.app.handle.health().metrics.failed_exports
    }

    /// Makes the first calls fail, so that all spans wait for the backoff.
    fn fail(&mut self, spans: usize) {
        self.app.trace(spans);
        eventually("a call fails", || self.failed() > 0 && self.app.handle.ledger().in_flight == 0);
    }

    /// Shuts down; returns the requests that the collector got meanwhile, and the time that it took.
    fn shut_down(&self) -> (u64, Duration) {
        let (before, start) = (self.collector.received().requests, now());
        self.app.shutdown().expect("the SDK discards the exporter's error");
        (self.collector.received().requests - before, since(start))
    }

    #[track_caller]
    fn assert_all_delivered(&self) {
        let ledger = self.app.handle.ledger();
        assert_eq!((ledger.delivered, ledger.imbalance()), (self.app.made(), 0), "{ledger:?}");
        assert_eq!((self.app.missing(&[&self.collector]), self.app.handle.shutdown_result()), (0, Ok(())));
    }

    #[track_caller]
    fn assert_all_in_files(&self) {
        let ledger = self.app.handle.ledger();
        assert_eq!((ledger.in_fallback, ledger.imbalance()), (self.app.made(), 0), "{ledger:?}");
        assert_eq!(self.app.handle.shutdown_result(), Ok(()));
    }

    #[track_caller]
    fn assert_all_dropped(&self) {
        let ledger = self.app.handle.ledger();
        assert_eq!((ledger.dropped.get("shutdown"), ledger.imbalance()), (Some(&self.app.made()), 0), "{ledger:?}");
        let error = self.app.handle.shutdown_result().expect_err("all are dropped");
        assert_eq!((error.dropped, error.in_memory), (ledger.dropped, 0));
    }
}

fn since(start: Instant) -> Duration {
    now().saturating_duration_since(start)
}

fn unavailable() -> Behavior {
    Behavior::answer(Answer::http(503))
}

fn throttle() -> Behavior {
    Behavior::answer(Answer::http(429).with_retry_after(LONG))
}

#[test]
fn in_the_backoff_one_attempt_goes_out_and_all_batches_follow_once_it_is_answered() {
    for primary in [grpc, http] {
        let mut scene = Scene::new(primary);
        scene.collector.stop();
        scene.fail(SPANS);
        scene.collector.start_again().expect("the same ports");
        scene.shut_down();
        scene.assert_all_delivered();
    }
}

#[test]
fn while_the_collector_is_away_all_batches_go_to_files_after_one_attempt() {
    let mut scene = Scene::new(http);
    scene.collector.stop();
    scene.fail(SPANS);
    let before = scene.failed();
    let (_, took) = scene.shut_down();
    assert_eq!(scene.failed() - before, 1);
    scene.assert_all_in_files();
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn while_the_collector_answers_503_all_batches_go_to_files_after_one_attempt() {
    let mut scene = Scene::new(http);
    scene.collector.set(unavailable());
    scene.fail(SPANS);
    let (requests, took) = scene.shut_down();
    assert_eq!(requests, 1);
    scene.assert_all_in_files();
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn a_collector_that_fails_during_the_shutdown_leaves_the_rest_to_the_files() {
    let mut scene = Scene::new(http);
    scene.collector.set(unavailable());
    scene.fail(SPANS);
    scene.collector.set_next(1, Behavior::accept());
    scene.shut_down();
    let ledger = scene.app.handle.ledger();
    assert!(ledger.delivered > 0 && ledger.in_fallback > 0, "{ledger:?}");
    assert_eq!(ledger.delivered + ledger.in_fallback, scene.app.made(), "{ledger:?}");
    assert_eq!(scene.app.handle.shutdown_result(), Ok(()));
}

#[test]
fn a_pause_of_the_collectors_holds_where_the_disk_takes_the_batches() {
    let mut scene = Scene::new(http);
    scene.collector.set(throttle());
    scene.fail(SPANS);
    let (requests, took) = scene.shut_down();
    assert_eq!(requests, 0);
    scene.assert_all_in_files();
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn a_pause_of_the_collectors_holds_where_the_journal_has_the_batches() {
    let state = tempfile::tempdir().expect("temp dir");
    let dir = state.path().to_owned();
    let mut scene = Scene::without_disk(ENOUGH, |builder| {
        let builder = builder.with_state_dir(dir).with_journal_enabled(true);
        builder.with_journal_sync_timeout(Duration::from_secs(30))
    });
    scene.collector.set(throttle());
    scene.fail(SPANS);
    let (requests, _) = scene.shut_down();
    assert_eq!(requests, 0);
    let ledger = scene.app.handle.ledger();
    let (waiting, lost) = (ledger.buffered + ledger.in_journal, ledger.lost());
    assert_eq!((waiting, lost, ledger.imbalance()), (scene.app.made(), 0, 0), "{ledger:?}");
    assert_eq!(scene.app.handle.shutdown_result(), Ok(()), "the next start sends them");
}

#[test]
fn without_a_disk_one_attempt_passes_a_pause_of_the_collectors() {
    let mut scene = Scene::without_disk(SHORT, |builder| builder);
    scene.collector.set(throttle());
    scene.fail(SPANS);
    let (requests, _) = scene.shut_down();
    assert_eq!(requests, 1);
    scene.assert_all_dropped();

    let mut scene = Scene::without_disk(ENOUGH, |builder| builder);
    scene.collector.set(throttle());
    scene.fail(SPANS);
    scene.collector.set(Behavior::accept());
    scene.shut_down();
    scene.assert_all_delivered();
}

/// An exporter whose breaker opens at the first failure, for `open`.
fn tripping(open: Duration) -> (Scene, TempDir) {
    let state = tempfile::tempdir().expect("temp dir");
    let dir = state.path().to_owned();
    let scene = Scene::with(http, |builder| {
        let builder = builder.with_state_dir(dir).with_retry_initial_delay(Duration::from_millis(1));
        let builder = builder.with_retry_max_delay(Duration::from_millis(1));
        builder.with_circuit_breaker_threshold(1).with_circuit_breaker_timeout(open)
    });
    (scene, state)
}

#[test]
fn an_open_breaker_lets_one_attempt_out_and_all_batches_follow_once_it_is_answered() {
    let (mut scene, _state) = tripping(LONG);
    scene.collector.set(unavailable());
    scene.fail(SPANS);
    assert_eq!(scene.app.handle.health().breaker, State::Open);
    scene.collector.set(Behavior::accept());
    scene.shut_down();
    scene.assert_all_delivered();
}

#[test]
fn an_open_breaker_lets_no_second_attempt_out_after_a_failure() {
    let (mut scene, _state) = tripping(LONG);
    scene.collector.set(unavailable());
    scene.fail(SPANS);
    let (requests, took) = scene.shut_down();
    assert_eq!(requests, 1);
    scene.assert_all_in_files();
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn a_shutdown_waits_for_the_probe_that_is_out() {
    let (mut scene, _state) = tripping(Duration::from_millis(5));
    scene.collector.set_next(1, unavailable());
    scene.collector.set_next(1, Behavior::accept().after(Duration::from_millis(300)));
    scene.app.trace(SPANS);
    eventually("the probe is out", || {
        scene.app.handle.health().breaker == State::HalfOpen && scene.app.handle.ledger().in_flight > 0
    });
    scene.shut_down();
    scene.assert_all_delivered();
}

#[test]
fn a_probe_that_is_never_answered_leaves_time_for_the_disk() {
    let (mut scene, _state) = tripping(Duration::from_millis(5));
    scene.collector.set(Behavior::never_answer());
    scene.collector.set_next(1, unavailable());
    scene.app.trace(SPANS);
    eventually("the probe is out", || {
        scene.app.handle.health().breaker == State::HalfOpen && scene.app.handle.ledger().in_flight > 0
    });
    let (requests, took) = scene.shut_down();
    // The probe itself may be counted, and one attempt follows once it has timed out.
    assert!(requests <= 2, "{requests}");
    scene.assert_all_in_files();
    assert!(took < Duration::from_secs(4), "{took:?}");
    assert!(scene.app.handle.health().possible_duplicates > 0);
}

#[test]
fn without_a_disk_rounds_follow_until_the_time_is_over() {
    let adjust = |builder: Builder| {
        let builder = builder.with_retry_initial_delay(Duration::from_millis(50));
        builder.with_retry_max_delay(Duration::from_millis(50)).with_circuit_breaker_timeout(Duration::from_millis(50))
    };
    let mut scene = Scene::without_disk(SHORT, adjust);
    scene.collector.set(unavailable());
    scene.fail(2 * BATCH);
    let (requests, took) = scene.shut_down();
    // A call in 50 ms, each with its answer: 27 in nine tenths of the time.
    assert!((2..=30).contains(&requests), "{requests} calls in {took:?}");
    scene.assert_all_dropped();

    let mut scene = Scene::without_disk(ENOUGH, adjust);
    scene.collector.set(unavailable());
    scene.fail(2 * BATCH);
    scene.collector.set(Behavior::accept());
    scene.collector.set_next(3, unavailable());
    scene.shut_down();
    scene.assert_all_delivered();
}

#[test]
fn a_suspect_does_not_wait_in_a_shutdown() {
    for repaired in [true, false] {
        let mut scene = Scene::new(http);
        scene.app.trace(10);
        eventually("the collector accepts", || scene.app.handle.ledger().delivered == 10);
        let refuse = Behavior::answer(Answer::http(400));
        scene.collector.set(refuse);
        scene.app.trace(20);
        eventually("the batch is refused", || scene.failed() == 1 && scene.app.handle.ledger().buffered == 20);
        if repaired {
            scene.collector.set(Behavior::accept());
        }
        let (requests, took) = scene.shut_down();
        assert_eq!(requests, 1);
        let ledger = scene.app.handle.ledger();
        let expected = if repaired { (30, 0) } else { (10, 20) };
        assert_eq!((ledger.delivered, ledger.in_fallback), expected, "{ledger:?}");
        assert!(took < Duration::from_secs(2), "{took:?}");
    }
}

#[test]
fn the_pieces_of_a_batch_that_was_too_large_are_sent_in_the_shutdown() {
    let mut scene = Scene::new(http);
    scene.collector.set_next(1, Behavior::answer(Answer::http(413)));
    scene.app.trace(BATCH);
    eventually("the batch is too large", || scene.failed() == 1);
    scene.shut_down();
    scene.assert_all_delivered();
}

#[test]
fn an_answer_that_a_batch_is_too_large_ends_the_backoff_of_a_shutdown() {
    let mut scene = Scene::new(http);
    scene.collector.stop();
    scene.fail(SPANS);
    scene.collector.start_again().expect("the same ports");
    scene.collector.set_next(1, Behavior::answer(Answer::http(413)));
    scene.shut_down();
    scene.assert_all_delivered();
}
