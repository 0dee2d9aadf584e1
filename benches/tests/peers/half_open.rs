//! The behavior of breakers when a call is dropped, panics, hangs or ends late: the real peers and ours, driven alike,
//! as a table.
//!
//! Each row is asserted, the peers' too: when a newer version does better, this test fails, and the pages are
//! corrected. `cargo test -p benches --test peers half_open -- --nocapture` prints the table.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tower::{Service, service_fn};

#[test]
fn what_breaks_observed() {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime for the tower peers");
    let _inside = runtime.enter();
    let rows = [
        row("breaker", || ours(breaker::Dropped::Neutral)),
        row("breaker, dropped = failure", || ours(breaker::Dropped::Failure)),
        row("failsafe", failsafe),
        row("recloser", recloser),
        row("circuitbreaker-rs", circuitbreaker_rs),
        row("tower-circuitbreaker", tower_circuitbreaker),
        row("tower-resilience", tower_resilience),
    ];
    println!(
        "| | let in, of 8 at once | probes dropped | 8 panicked | 2 late successes | 2 late failures | 100 dropped calls |"
    );
    println!("| --- | ---: | --- | --- | --- | --- | --- |");
    for row in &rows {
        println!("{row}");
    }
    let expected = [
        "| breaker | 1 | usable | usable | ignored | ignored | stays closed |",
        "| breaker, dropped = failure | 1 | usable | usable | ignored | ignored | opens |",
        "| failsafe | 8 | usable | usable | **close it** | **reopen it** | stays closed |",
        "| recloser | 8 | usable | usable | **close it** | **reopen it** | stays closed |",
        "| circuitbreaker-rs | 2 | **stuck** | **stuck** | **close it** | **reopen it** | stays closed |",
        "| tower-circuitbreaker | 8 | usable | usable | **close it** | **reopen it** | stays closed |",
        "| tower-resilience | 1 | usable | usable | **close it** | **reopen it** | stays closed |",
    ];
    assert_eq!(rows.map(|row| row.to_string()), expected);
}

/// One breaker, set to one probe where it has that setting, that opens after 5 failures (or as near to that as its
/// settings allow).
trait Peer {
    /// A guarded call of `operation`; gives whether the operation ran.
    fn call(&self, operation: Operation) -> Pin<Box<dyn Future<Output = Answer>>>;
}

type Operation = Pin<Box<dyn Future<Output = Result<(), Failed>> + Send>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Refused,
    Done,
}

#[derive(Debug)]
struct Failed;

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("failed")
    }
}

impl std::error::Error for Failed {}

struct Row {
    name: &'static str,
    let_in: u32,
    after_drops: bool,
    after_panics: bool,
    late_successes_ignored: bool,
    late_failures_ignored: bool,
    opens_by_drops: bool,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let usable = |usable| if usable { "usable" } else { "**stuck**" };
        let Row { name, let_in, .. } = self;
        let (dropped, panicked) = (usable(self.after_drops), usable(self.after_panics));
        let successes = if self.late_successes_ignored { "ignored" } else { "**close it**" };
        let failures = if self.late_failures_ignored { "ignored" } else { "**reopen it**" };
        let drops = if self.opens_by_drops { "opens" } else { "stays closed" };
        write!(f, "| {name} | {let_in} | {dropped} | {panicked} | {successes} | {failures} | {drops} |")
    }
}

fn row<P: Peer>(name: &'static str, make: impl Fn() -> P) -> Row {
    let (let_in, after_drops) = concurrent_probes(&make());
    Row {
        name,
        let_in,
        after_drops,
        after_panics: after_panics(&make()),
        late_successes_ignored: late_successes_are_ignored(&make),
        late_failures_ignored: late_failures_are_ignored(&make()),
        opens_by_drops: opens_by_drops(&make()),
    }
}

/// How many of eight hanging calls run while half-open, and whether the breaker is usable after all were dropped.
fn concurrent_probes(peer: &impl Peer) -> (u32, bool) {
    open(peer);
    wait(OPEN);
    let ran = Arc::new(AtomicU32::new(0));
    let mut calls = Vec::new();
    for _ in 0..8 {
        let ran = Arc::clone(&ran);
        let mut call = peer.call(Box::pin(async move {
            ran.fetch_add(1, Ordering::SeqCst);
            std::future::pending().await
        }));
        let _ = poll(&mut call);
        calls.push(call);
    }
    drop(calls);
    (ran.load(Ordering::SeqCst), usable(peer))
}

fn after_panics(peer: &impl Peer) -> bool {
    open(peer);
    wait(OPEN);
    for _ in 0..8 {
        let mut call = peer.call(Box::pin(async { panic_quietly() }));
        let _ = catch_unwind(AssertUnwindSafe(|| poll(&mut call)));
        drop(catch_unwind(AssertUnwindSafe(|| drop(call))));
    }
    usable(peer)
}

/// With a probe out, are further failures answered as in half-open, or as by a breaker that late successes have closed?
fn late_successes_are_ignored<P: Peer>(make: &impl Fn() -> P) -> bool {
    let failures_until_refused = |peer: &P| (0..100).take_while(|_| finish(peer, Err(Failed)) == Answer::Done).count();
    let half_open = make();
    let control = start_probe(&half_open);
    let when_half_open = failures_until_refused(&half_open);
    drop(control);

    let peer = make();
    let late = [start(&peer), start(&peer)];
    let probe = start_probe(&peer);
    late.into_iter().for_each(|call| call.end(Ok(())));
    let after_late = failures_until_refused(&peer);
    drop(probe);
    after_late == when_half_open
}

/// With a probe out, do late failures reopen the breaker, so that it refuses although its probe succeeded?
fn late_failures_are_ignored(peer: &impl Peer) -> bool {
    let late = [start(peer), start(peer)];
    let probe = start_probe(peer);
    late.into_iter().for_each(|call| call.end(Err(Failed)));
    probe.end(Ok(()));
    finish(peer, Ok(())) == Answer::Done
}

fn opens_by_drops(peer: &impl Peer) -> bool {
    for _ in 0..100 {
        drop(start(peer));
    }
    finish(peer, Ok(())) == Answer::Refused
}

/// A call that has begun and ends when the test sends the signal.
struct Started {
    call: Pin<Box<dyn Future<Output = Answer>>>,
    end: tokio::sync::oneshot::Sender<Result<(), Failed>>,
}

impl Started {
    fn end(mut self, result: Result<(), Failed>) {
        self.end.send(result).expect("the operation waits for it");
        assert_eq!(poll(&mut self.call), Poll::Ready(Answer::Done));
    }
}

fn start(peer: &impl Peer) -> Started {
    let (end, ended) = tokio::sync::oneshot::channel();
    let mut call = peer.call(Box::pin(async { ended.await.expect("the sender is kept") }));
    let _ = poll(&mut call);
    Started { call, end }
}

fn start_probe(peer: &impl Peer) -> Started {
    open(peer);
    wait(OPEN);
    start(peer)
}

fn finish(peer: &impl Peer, result: Result<(), Failed>) -> Answer {
    match poll(&mut peer.call(Box::pin(std::future::ready(result)))) {
        Poll::Ready(answer) => answer,
        Poll::Pending => panic!("nothing here waits"),
    }
}

fn open(peer: &impl Peer) {
    let failures = (0..1_000).take_while(|_| finish(peer, Err(Failed)) == Answer::Done).count();
    assert!(failures < 1_000, "it never opens");
}

/// Whether it lets a call out within nine open times.
fn usable(peer: &impl Peer) -> bool {
    (0..9).any(|_| {
        finish(peer, Ok(())) == Answer::Done || {
            wait(OPEN);
            false
        }
    })
}

fn poll<T>(future: &mut Pin<Box<dyn Future<Output = T>>>) -> Poll<T> {
    future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

/// No peer but ours takes a time or a clock: their open time has to pass.
#[expect(clippy::disallowed_methods, reason = "the peers read the real clock")]
fn wait(time: Duration) {
    let end = Instant::now() + time + Duration::from_millis(2);
    while Instant::now() < end {
        std::thread::yield_now();
    }
}

/// Without the message of the default hook, which would fill the output.
fn panic_quietly() -> Result<(), Failed> {
    std::panic::resume_unwind(Box::new("in the operation"))
}

const OPEN: Duration = Duration::from_millis(20);

struct Ours(breaker::Breaker);

fn ours(dropped: breaker::Dropped) -> Ours {
    let config = breaker::Config::builder()
        .with_open_duration(OPEN)
        .with_open_jitter(0.0)
        .with_probe_timeout(Duration::from_secs(60))
        .with_dropped(dropped)
        .build();
    Ours(breaker::Breaker::new(config.expect("valid")))
}

impl Peer for Ours {
    fn call(&self, operation: Operation) -> Pin<Box<dyn Future<Output = Answer>>> {
        let breaker = self.0.clone();
        Box::pin(async move {
            match breaker.call_async(operation).await {
                Err(breaker::CallError::Rejected(_)) => Answer::Refused,
                Ok(()) | Err(breaker::CallError::Inner(Failed)) => Answer::Done,
            }
        })
    }
}

struct Failsafe<B>(B);

fn failsafe() -> impl Peer {
    let policy = failsafe::failure_policy::consecutive_failures(5, failsafe::backoff::constant(OPEN));
    Failsafe(failsafe::Config::new().failure_policy(policy).build())
}

impl<B: failsafe::futures::CircuitBreaker + Clone + 'static> Peer for Failsafe<B> {
    fn call(&self, operation: Operation) -> Pin<Box<dyn Future<Output = Answer>>> {
        let breaker = self.0.clone();
        Box::pin(async move {
            match breaker.call(operation).await {
                Err(failsafe::Error::Rejected) => Answer::Refused,
                Ok(()) | Err(failsafe::Error::Inner(Failed)) => Answer::Done,
            }
        })
    }
}

struct Recloser(recloser::AsyncRecloser);

fn recloser() -> Recloser {
    let breaker = recloser::Recloser::custom().error_rate(0.5).closed_len(4).half_open_len(1).open_wait(OPEN).build();
    Recloser(recloser::AsyncRecloser::from(breaker))
}

impl Peer for Recloser {
    fn call(&self, operation: Operation) -> Pin<Box<dyn Future<Output = Answer>>> {
        let call = self.0.call(operation);
        Box::pin(async move {
            match call.await {
                Err(recloser::Error::Rejected) => Answer::Refused,
                Ok(()) | Err(recloser::Error::Inner(Failed)) => Answer::Done,
            }
        })
    }
}

type Rs = circuitbreaker_rs::CircuitBreaker<circuitbreaker_rs::DefaultPolicy, Failed>;

struct CircuitbreakerRs(Rc<Rs>);

fn circuitbreaker_rs() -> CircuitbreakerRs {
    let breaker =
        Rs::builder().consecutive_failures(5).consecutive_successes(2).probe_interval(1).cooldown(OPEN).build();
    CircuitbreakerRs(Rc::new(breaker))
}

impl Peer for CircuitbreakerRs {
    fn call(&self, operation: Operation) -> Pin<Box<dyn Future<Output = Answer>>> {
        let breaker = Rc::clone(&self.0);
        Box::pin(async move {
            match breaker.call_async(|| operation).await {
                Ok(()) | Err(circuitbreaker_rs::BreakerError::Operation(Failed)) => Answer::Done,
                Err(_) => Answer::Refused,
            }
        })
    }
}

/// A tower peer: a service whose requests are the operations.
struct Tower<S>(Rc<RefCell<S>>);

fn run(operation: Operation) -> Operation {
    operation
}

fn tower_circuitbreaker() -> impl Peer {
    let layer = tower_circuitbreaker::CircuitBreakerConfig::<(), Failed>::builder()
        .failure_rate_threshold(0.5)
        .sliding_window_size(5)
        .minimum_number_of_calls(5)
        .permitted_calls_in_half_open(1)
        .wait_duration_in_open(OPEN)
        .build();
    Tower(Rc::new(RefCell::new(layer.layer::<_, Operation>(service_fn(run)))))
}

fn tower_resilience() -> impl Peer {
    use tower::Layer;
    let layer = tower_resilience_circuitbreaker::CircuitBreakerLayer::builder()
        .consecutive_failures(5)
        .permitted_calls_in_half_open(1)
        .wait_duration_in_open(OPEN)
        .build()
        .expect("valid");
    Tower(Rc::new(RefCell::new(layer.layer(service_fn(run)))))
}

trait Refusal {
    fn refused(&self) -> bool;
}

impl Refusal for tower_circuitbreaker::CircuitBreakerError<Failed> {
    fn refused(&self) -> bool {
        self.is_circuit_open()
    }
}

impl Refusal for tower_resilience_circuitbreaker::CircuitBreakerError<Failed> {
    fn refused(&self) -> bool {
        self.is_circuit_open()
    }
}

impl<S> Peer for Tower<S>
where
    S: Service<Operation, Response = ()> + 'static,
    S::Error: Refusal,
{
    fn call(&self, operation: Operation) -> Pin<Box<dyn Future<Output = Answer>>> {
        let service = Rc::clone(&self.0);
        let mut operation = Some(operation);
        let began = Cell::new(false);
        let mut response: Option<Pin<Box<S::Future>>> = None;
        Box::pin(std::future::poll_fn(move |context| {
            if !began.replace(true) {
                let mut service = service.borrow_mut();
                match service.poll_ready(context) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(answer(Err(error))),
                    Poll::Pending => panic!("nothing holds its lock"),
                }
                response = operation.take().map(|operation| Box::pin(service.call(operation)));
            }
            response.as_mut().expect("it began").as_mut().poll(context).map(answer)
        }))
    }
}

fn answer<E: Refusal>(result: Result<(), E>) -> Answer {
    match result {
        Err(error) if error.refused() => Answer::Refused,
        Ok(()) | Err(_) => Answer::Done,
    }
}
