//! Flush and checkpoint through the manager.

use std::sync::{Arc, Mutex, OnceLock};

use telemetry_manager::otlp_transport::{Cause, Outcome, Transport};
use telemetry_manager::resilient_exporter::WaitFailure;
use telemetry_manager::{FlushError, Observer};

use crate::support::{LONG, Setup, trace};

/// A transport that awaits a flush, as the code of a user's on a thread of the exporter's may.
#[derive(Default)]
struct Asking {
    observer: OnceLock<Observer>,
    told: Mutex<Vec<Result<(), FlushError>>>,
}

#[async_trait::async_trait]
impl Transport for Asking {
    async fn send(&self, _: &otlp_payload::Payload) -> Outcome {
        if let Some(observer) = self.observer.get() {
            let flushed = observer.flush_async(LONG).await;
            self.told.lock().expect("no panic").push(flushed);
        }
        Outcome::Retryable { after: None, cause: Cause::Connect("a test".to_owned()), possible_duplicate: false }
    }

    fn endpoint(&self) -> &str {
        "asking"
    }
}

#[test]
fn an_async_wait_on_a_thread_of_the_exporters_ends_at_once() {
    let (setup, asking) = (Setup::new(), Arc::new(Asking::default()));
    let primary: Box<dyn Transport> = Box::new(Arc::clone(&asking));
    let manager = setup.builder(&[]).with_primary(primary).build().expect("telemetry starts");
    asking.observer.set(manager.observer()).unwrap_or_else(|_| unreachable!("set once"));
    trace(&manager, 3);
    manager.checkpoint(LONG).expect("after one attempt in a file");
    let told = asking.told.lock().expect("no panic");
    let own = told.iter().filter(|result| match result {
        Err(FlushError::Exporter(error)) => error.failure == WaitFailure::OwnThread,
        _ => false,
    });
    assert!(!told.is_empty() && own.count() == told.len(), "{told:?}");
}
