use std::sync::Mutex;

use bytes::Bytes;
use otlp_payload::{BatchId, Signal};

use super::*;
use crate::RefusalKind;

const SECOND: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(10);

/// Takes every payload, and keeps the place in memory of each call's future.
#[derive(Default)]
struct Takes(Mutex<Vec<usize>>);

impl Transport for Takes {
    fn send<'life0, 'life1, 'async_trait>(&'life0 self, _: &'life1 Payload) -> Call<'async_trait>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        Self: 'async_trait,
    {
        // A future of no size has no place.
        let answer = Mutex::new(Some(Outcome::Delivered { rejected: 0, message: None }));
        let call: Call<'_> = Box::pin(async move { answer.lock().expect("no panic").take().expect("one poll") });
        self.0.lock().expect("no panic").push(place(&call));
        call
    }

    fn endpoint(&self) -> &str {
        "a collector"
    }
}

fn place(call: &Call<'_>) -> usize {
    std::ptr::from_ref(&**call).cast::<()>().addr()
}

fn payload() -> Payload {
    let id = BatchId { incarnation: 1, seq: 0 };
    Payload::of(Signal::Traces, id, SystemTime::UNIX_EPOCH, 3, Bytes::from_static(b"three spans"))
}

fn faulty() -> (Faults, FaultyTransport, Arc<Takes>) {
    let (faults, takes) = (Faults::default(), Arc::new(Takes::default()));
    let transport = faults.wrap(Arc::clone(&takes) as Arc<dyn Transport>, TIMEOUT);
    (faults, transport, takes)
}

#[tokio::test(start_paused = true)]
async fn without_a_fault_the_call_is_the_wrapped_transports_own() {
    let (faults, transport, takes) = faulty();
    let payload = payload();
    let mut places = Vec::new();
    for _ in 0..3 {
        let call = transport.send(&payload);
        places.push(place(&call));
        assert!(call.await.is_delivered());
    }
    assert_eq!(places, *takes.0.lock().expect("no panic"), "a box in between would have a place of its own");
    assert_eq!((faults.injected(), faults.current(), faults.end()), (0, None, false));
    assert_eq!(transport.endpoint(), "a collector");
}

#[tokio::test(start_paused = true)]
async fn a_follower_learns_of_each_change_and_of_the_time_that_is_over() {
    let faults = Faults::default();
    let start = Instant::now();
    let mut told = Vec::new();
    {
        let follow = faults.follow(|fault| told.push((fault.map(|fault| fault.mode()), start.elapsed())));
        let act = async {
            sleep(SECOND).await;
            faults.begin(Fault::new(FaultMode::Refuse), Some(3 * SECOND));
            sleep(5 * SECOND).await;
            faults.begin(Fault::new(FaultMode::Hang), None);
            sleep(SECOND).await;
            faults.end();
            sleep(SECOND).await;
        };
        tokio::select! {
            () = follow => unreachable!("it never ends"),
            () = act => {}
        }
    }
    let expected = [
        (None, Duration::ZERO),
        (Some(FaultMode::Refuse), SECOND),
        (None, 4 * SECOND),
        (Some(FaultMode::Hang), 6 * SECOND),
        (None, 7 * SECOND),
    ];
    assert_eq!(told, expected);
}

#[tokio::test(start_paused = true)]
async fn a_fault_ends_by_itself_after_its_time_and_early_on_command() {
    let (faults, transport, takes) = faulty();
    let payload = payload();
    let fault = Fault::new(FaultMode::Refuse);
    faults.begin(fault, Some(3 * SECOND));
    let Outcome::Retryable { after: None, cause: Cause::Connect(_), possible_duplicate: false } =
        transport.send(&payload).await
    else {
        panic!("no refused connection")
    };
    tokio::time::advance(2 * SECOND).await;
    assert_eq!(faults.current(), Some((fault, Some(SECOND))));
    assert!(!transport.send(&payload).await.is_delivered());
    tokio::time::advance(SECOND).await;
    assert!(transport.send(&payload).await.is_delivered());
    assert_eq!((faults.current(), faults.end()), (None, false), "it has ended");

    faults.begin(fault, None);
    tokio::time::advance(1_000 * SECOND).await;
    assert_eq!(faults.current(), Some((fault, None)));
    assert!(!transport.send(&payload).await.is_delivered());
    assert!(faults.end());
    assert!(transport.send(&payload).await.is_delivered());
    assert_eq!((faults.injected(), takes.0.lock().expect("no panic").len()), (3, 2));
}

/// No call goes out while a fault holds, whichever held when it began, and none takes longer than its time-out.
#[tokio::test(start_paused = true)]
async fn a_call_that_hangs_has_the_fault_that_takes_the_place_of_the_first() {
    let (faults, transport, takes) = faulty();
    let payload = payload();
    let begin = Instant::now();
    faults.begin(Fault::new(FaultMode::Hang), None);
    let replace = async {
        sleep(SECOND).await;
        faults.begin(Fault::new(FaultMode::Hang), None);
        sleep(SECOND).await;
        faults.begin(Fault::new(FaultMode::Refuse), None);
    };
    let (outcome, ()) = tokio::join!(transport.send(&payload), replace);
    assert!(matches!(outcome, Outcome::Retryable { cause: Cause::Connect(_), .. }), "{outcome:?}");
    assert_eq!((begin.elapsed(), takes.0.lock().expect("no panic").len()), (2 * SECOND, 0));

    faults.begin(Fault::new(FaultMode::Hang), None);
    let begin = Instant::now();
    let replace = async {
        sleep(TIMEOUT / 2).await;
        faults.begin(Fault::new(FaultMode::Hang), None);
    };
    let (outcome, ()) = tokio::join!(transport.send(&payload), replace);
    assert!(matches!(outcome, Outcome::Retryable { cause: Cause::Timeout(_), .. }), "{outcome:?}");
    assert_eq!((begin.elapsed(), takes.0.lock().expect("no panic").len()), (TIMEOUT, 0));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_hangs_times_out_or_is_sent_when_the_fault_ends() {
    let (faults, transport, takes) = faulty();
    let payload = payload();
    let begin = Instant::now();
    faults.begin(Fault::new(FaultMode::Hang), Some(TIMEOUT + SECOND));
    let Outcome::Retryable { cause: Cause::Timeout(TIMEOUT), .. } = transport.send(&payload).await else {
        panic!("no time-out")
    };
    assert_eq!((begin.elapsed(), takes.0.lock().expect("no panic").len()), (TIMEOUT, 0));
    assert!(transport.send(&payload).await.is_delivered());
    assert_eq!(begin.elapsed(), TIMEOUT + SECOND, "the collector went on");

    faults.begin(Fault::new(FaultMode::Hang), None);
    let (call, command) = (transport.send(&payload), faults.clone());
    let end = tokio::spawn(async move {
        sleep(SECOND).await;
        command.end()
    });
    assert!(call.await.is_delivered());
    assert_eq!(begin.elapsed(), TIMEOUT + 2 * SECOND);
    assert!(end.await.expect("no panic"));
}

#[tokio::test(start_paused = true)]
async fn a_status_is_classified_as_one_of_a_collector_and_a_slow_call_is_sent_late() {
    let (faults, transport, _) = faulty();
    let payload = payload();
    for (status, read) in [(503, 503), (429, 429), (200, 503), (0, 503), (999, 503)] {
        faults.begin(Fault::new(FaultMode::Status(status)), None);
        match transport.send(&payload).await {
            Outcome::Retryable { cause: Cause::Http { status, message }, possible_duplicate: false, .. } => {
                assert_eq!((status, message.as_str()), (read, "injected fault"));
            }
            other => panic!("{status}: {other:?}"),
        }
    }
    faults.begin(Fault::new(FaultMode::Status(401)), None);
    let outcome = transport.send(&payload).await;
    assert!(matches!(outcome, Outcome::Refused { kind: RefusalKind::Sender, .. }), "{outcome:?}");

    let begin = Instant::now();
    faults.begin(Fault::new(FaultMode::Slow(2 * SECOND)), None);
    assert!(transport.send(&payload).await.is_delivered());
    assert_eq!(begin.elapsed(), 2 * SECOND);
    faults.begin(Fault::new(FaultMode::Slow(TIMEOUT)), None);
    assert!(!transport.send(&payload).await.is_delivered());
    assert_eq!(begin.elapsed(), 2 * SECOND + TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn a_share_is_one_of_calls_or_of_blocks_of_time() {
    let (faults, transport, _) = faulty();
    let payload = payload();
    for (share, expected) in [(0.0, 0..=0), (0.25, 220..=280), (0.5, 470..=530), (1.0, 1_000..=1_000)] {
        let before = faults.injected();
        faults.begin(Fault::new(FaultMode::Refuse).with_share(share), None);
        for _ in 0..1_000 {
            transport.send(&payload).await;
        }
        let failed = faults.injected() - before;
        assert!(expected.contains(&failed), "{share}: {failed}");
    }
    for share in [f64::NAN, -1.0] {
        assert_eq!(Fault::new(FaultMode::Hang).with_share(share).share(), 0.0);
    }
    for (share, expected) in [(0.5, "fsfsfsfs"), (0.25, "fsssfsss"), (1.0, "ffffffff"), (0.0, "ssssssss")] {
        faults.begin(Fault::new(FaultMode::Refuse).with_share(share).with_block(5 * SECOND), None);
        let mut seen = String::new();
        for _ in 0..8 {
            let first = transport.send(&payload).await.is_delivered();
            tokio::time::advance(Duration::from_millis(4_999)).await;
            assert_eq!(transport.send(&payload).await.is_delivered(), first, "{share}: one block");
            tokio::time::advance(Duration::from_millis(1)).await;
            seen.push(if first { 's' } else { 'f' });
        }
        assert_eq!(seen, expected, "{share}");
    }
}
