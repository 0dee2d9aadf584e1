//! Drops in all orders, spans that end in destructors and during panics, a clock that ends spans.

use super::*;

#[test]
fn no_order_of_drops_loses_a_span() {
    let run = |name: &str, more: usize, end: &dyn Fn(SdkTracerProvider, SdkTracer)| {
        let kept = Kept::default();
        let (tracer, provider, handle) = provider(never(memory_only(&kept)).build_processor().expect("valid"));
        end_spans(&tracer, 5);
        end(provider, tracer);
        eventually(name, || handle.shutdown_result().is_ok() && kept.count() == 5 + more);
        assert_eq!((handle.ledger().imbalance(), handle.ledger().lost()), (0, 0), "{name}");
    };
    run("provider, then tracer", 0, &|provider, tracer| {
        drop(provider);
        drop(tracer);
    });
    run("tracer, then provider", 0, &|provider, tracer| {
        drop(tracer);
        drop(provider);
    });
    run("in a runtime of many threads", 0, &|provider, tracer| {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async move { drop((provider, tracer)) });
    });
    run("in a runtime of one thread, after it", 1, &|provider, tracer| {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            end_spans(&tracer, 1);
            tokio::task::yield_now().await;
        });
        drop(runtime);
        drop((tracer, provider));
    });
    run("during a panic", 1, &|provider, tracer| {
        let panicked = catch_unwind(AssertUnwindSafe(move || {
            let _held = (tracer.start("open"), provider);
            std::panic::resume_unwind(Box::new(()));
        }));
        assert!(panicked.is_err());
    });
    run("by a thread that ends", 0, &|provider, tracer| {
        thread_local! {
            static LAST: RefCell<Option<(SdkTracer, SdkTracerProvider)>> = const { RefCell::new(None) };
        }
        thread::spawn(move || LAST.set(Some((tracer, provider)))).join().expect("no panic");
    });
}

#[test]
fn spans_end_in_destructors_of_threads_and_of_panics() {
    thread_local! {
        static EARLY: RefCell<Option<Span>> = const { RefCell::new(None) };
        static LATE: RefCell<Option<Span>> = const { RefCell::new(None) };
    }
    let kept = Kept::default();
    let builder = memory_only(&kept).processor(|batches| batches.max_export_batch_size = 1);
    let (tracer, provider, handle) = provider(builder.build_processor().expect("valid"));
    for _ in 0..50 {
        let tracer = tracer.clone();
        let ended = thread::spawn(move || {
            EARLY.set(Some(tracer.start("ends with the thread, before its other values")));
            end_spans(&tracer, 1);
            LATE.set(Some(tracer.start("ends with the thread, after them")));
            let _dropped_by_the_panic = tracer.start("open");
            std::panic::resume_unwind(Box::new(()));
        });
        assert!(ended.join().is_err());
    }
    provider.force_flush().expect("answered");
    assert_eq!((handle.ledger().delivered, kept.count()), (200, 200), "{:?}", handle.ledger());
}

/// A clock that ends spans of the exporter that reads it.
struct Tracing {
    tracer: Arc<Mutex<Option<SdkTracer>>>,
    calls: AtomicUsize,
}

impl Clock for Tracing {
    fn now(&self) -> Instant {
        let tracer = self.tracer.lock().clone();
        if self.calls.fetch_add(1, Ordering::Relaxed) < 1_000
            && let Some(tracer) = tracer
        {
            end_spans(&tracer, 1);
        }
        SystemClock.now()
    }

    fn wall(&self) -> SystemTime {
        SystemClock.wall()
    }
}

#[test]
fn a_clock_that_ends_spans_itself_meets_no_lock_of_its_own() {
    let kept = Kept::default();
    let tracer_of_clock = Arc::new(Mutex::new(None));
    let clock = Tracing { tracer: Arc::clone(&tracer_of_clock), calls: AtomicUsize::new(0) };
    let builder = memory_only(&kept).processor(|batches| batches.max_export_batch_size = 2).with_clock(clock);
    let (tracer, provider, handle) = provider(builder.build_processor().expect("valid"));
    *tracer_of_clock.lock() = Some(tracer.clone());
    end_spans(&tracer, 3_000);
    provider.force_flush().expect("answered");
    *tracer_of_clock.lock() = None;
    provider.force_flush().expect("answered");
    let ledger = handle.ledger();
    assert!(ledger.delivered > 3_000 && ledger.delivered == ledger.offered, "{ledger:?}");
}
