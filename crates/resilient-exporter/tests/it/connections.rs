//! The calls that use a new connection.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use otlp_payload::Payload;
use otlp_transport::{Cause, Outcome, RefusalKind, Transport};
use resilient_exporter::ResilientSpanExporter;

use crate::support::{App, PATIENCE, quick};

/// Gives the first calls these outcomes, then delivers; notes of each call whether its connection is a new one.
#[derive(Clone)]
struct Connections {
    bad: Vec<Outcome>,
    is_new: Arc<AtomicBool>,
    calls: Arc<Mutex<Vec<bool>>>,
}

#[async_trait]
impl Transport for Connections {
    async fn send(&self, _payload: &Payload) -> Outcome {
        let mut calls = self.calls.lock().expect("not poisoned");
        calls.push(self.is_new.swap(false, Ordering::SeqCst));
        let delivered = Outcome::Delivered { rejected: 0, message: None };
        self.bad.get(calls.len() - 1).cloned().unwrap_or(delivered)
    }

    fn endpoint(&self) -> &str {
        "connections"
    }

    fn reconnect(&self) {
        self.is_new.store(true, Ordering::SeqCst);
    }
}

#[test]
fn a_probe_and_a_call_after_two_bad_ones_use_a_new_connection() {
    let cause = |status| Cause::Http { status, message: String::new() };
    let failed = || Outcome::Retryable { after: None, cause: cause(503), possible_duplicate: true };
    let refused = || Outcome::Refused { kind: RefusalKind::Sender, cause: cause(401), possible_duplicate: false };
    for bad in [vec![failed(); 7], vec![refused(); 7], vec![failed(), refused(), failed()]] {
        let transport = Connections { bad, is_new: Arc::default(), calls: Arc::default() };
        let bad = transport.bad.len();
        let builder = quick(ResilientSpanExporter::builder().with_primary(transport.clone()));
        let mut app = App::new(builder.build().expect("valid"));
        app.trace(1);
        app.handle.settled(PATIENCE).expect("delivered in the end");
        app.trace(1);
        app.handle.settled(PATIENCE).expect("delivered");
        // With seven, the breaker opens behind the fifth: the last ones are probes.
        let expected = [vec![false; 2], vec![true; bad - 1], vec![false]].concat();
        assert_eq!(*transport.calls.lock().expect("not poisoned"), expected, "{:?}", transport.bad);
    }
}
