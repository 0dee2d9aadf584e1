//! Credentials that change, through the whole exporter.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use mock_collector::MockCollector;
use otlp_payload::Payload;
use otlp_transport::{Cause, Config, Note, Outcome, Protocol, Transport, connect};
use resilient_exporter::{Builder, ResilientSpanExporter};

use crate::log;
use crate::support::{App, PATIENCE, eventually};

/// A failure would wait for longer than any test.
fn slow(builder: Builder) -> Builder {
    builder
        .with_retry_initial_delay(Duration::from_secs(600))
        .with_retry_max_delay(Duration::from_secs(600))
        .with_fallback_enabled(false)
}

/// Refuses the credentials of the first calls, and has newer ones then.
struct Renews {
    calls: Arc<AtomicUsize>,
    ids: Arc<Mutex<Vec<u64>>>,
    panics: bool,
}

#[async_trait]
impl Transport for Renews {
    async fn send(&self, payload: &Payload) -> Outcome {
        self.ids.lock().expect("not poisoned").push(payload.id().seq);
        match self.calls.fetch_add(1, Ordering::Relaxed) {
            0 => {
                let cause = Cause::Http { status: 401, message: String::new() };
                Outcome::CredentialsRenewed { cause, generation: 2 }
            }
            _ => Outcome::Delivered { rejected: 0, message: None },
        }
    }

    fn endpoint(&self) -> &str {
        "renews"
    }

    fn can_change(&self) -> bool {
        assert!(!self.panics, "a bug of the user's");
        true
    }

    async fn has_changed(&self) -> bool {
        panic!("a bug of the user's")
    }

    fn take_notes(&self) -> Vec<Note> {
        assert!(!self.panics, "a bug of the user's");
        Vec::new()
    }
}

#[test]
fn a_batch_whose_credentials_were_renewed_goes_out_once_more_at_once() {
    for panics in [false, true] {
        let (calls, ids) = (Arc::default(), Arc::default());
        let transport = Renews { calls: Arc::clone(&calls), ids: Arc::clone(&ids), panics };
        let mut app = App::new(slow(ResilientSpanExporter::builder().with_primary(transport)).build().expect("valid"));
        app.trace(5);
        app.handle.settled(PATIENCE).expect("delivered without a wait of the backoff");
        assert_eq!((app.handle.ledger().delivered, calls.load(Ordering::Relaxed)), (5, 2));
        let ids = ids.lock().expect("not poisoned").clone();
        assert_eq!(ids[0], ids[1], "the same batch");
        app.shutdown().expect("nothing waits");
    }
}

#[test]
fn a_headers_file_that_comes_late_passes_the_wait_for_credentials() {
    log::capture();
    let collector = MockCollector::start().expect("loopback");
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("headers");
    let config = Config::builder()
        .with_protocol(Protocol::HttpProtobuf)
        .with_endpoint(collector.http_endpoint())
        .with_headers_file(&path)
        .build()
        .expect("a file that may come");
    let primary = connect(config).expect("no I/O yet");
    let mut app = App::new(slow(ResilientSpanExporter::builder().with_primary(primary)).build().expect("valid"));
    app.trace(5);
    app.wait_until("a call without credentials", |handle| handle.health().metrics.failed_exports == 1);
    assert_eq!(collector.received().requests, 0, "nothing is sent");
    fs::write(&path, "authorization=Bearer%20canary").expect("written");
    app.wait_until("the file is found within 5 s", |handle| handle.ledger().delivered == 5);
    assert_eq!((app.handle.health().metrics.failed_exports, collector.received().requests), (1, 1));
    // A file that vanishes is warned about once, and its headers stay.
    fs::remove_file(&path).expect("removed");
    (0..3).for_each(|_| app.trace(5));
    app.wait_until("deliveries by the last good headers", |handle| handle.ledger().delivered == 20);
    let of_this_file = |line: &String| line.contains("need a look") && line.contains("the last good headers stay");
    let warnings = || log::warnings_about(&path.to_string_lossy()).into_iter().filter(of_this_file).collect::<Vec<_>>();
    eventually("a warning", || !warnings().is_empty());
    let [warning] = &warnings()[..] else { panic!("{:?}", warnings()) };
    assert!(warning.contains("does not exist"), "{warning}");
    app.shutdown().expect("nothing waits");
}
