//! Calls to the collector at a time: as many as the setting allows, and no more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use otlp_payload::Payload;
use otlp_transport::{Outcome, Transport};
use resilient_exporter::ResilientSpanExporter;

use crate::support::{App, PATIENCE, quick};

/// Delivers each batch after other calls had their turns, and counts the calls that are out.
#[derive(Clone, Default)]
struct Counting {
    is_open: Arc<AtomicBool>,
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

#[async_trait]
impl Transport for Counting {
    async fn send(&self, _payload: &Payload) -> Outcome {
        let out = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(out, Ordering::SeqCst);
        while !self.is_open.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        self.now.fetch_sub(1, Ordering::SeqCst);
        Outcome::Delivered { rejected: 0, message: None }
    }

    fn endpoint(&self) -> &str {
        "counting"
    }
}

#[test]
fn calls_at_a_time_grow_to_the_setting_and_not_beyond() {
    for most in [1, 3, 12] {
        let transport = Counting::default();
        let builder = ResilientSpanExporter::builder().with_primary(transport.clone()).with_max_concurrency(most);
        let mut app = App::new(quick(builder).build().expect("valid"));
        for _ in 0..1_000 {
            app.trace(1);
        }
        transport.is_open.store(true, Ordering::SeqCst);
        app.handle.settled(PATIENCE).expect("delivered");
        assert_eq!(transport.most.load(Ordering::SeqCst), most);
    }
}

#[test]
fn no_call_at_all_is_refused_as_a_setting() {
    let builder = ResilientSpanExporter::builder().with_primary(Counting::default()).with_max_concurrency(0);
    let error = builder.build().expect_err("nothing would be sent").to_string();
    assert!(error.contains("max_concurrency") && error.contains("1 or more"), "{error}");
}
