//! How often a call allocates behind a switch for faults that is off. One test: the counter is of the whole process.

use std::alloc::System;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use futures_executor::block_on;
use otlp_payload::{BatchId, Payload, Signal};
use otlp_transport::{Faults, Outcome, Transport};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static GLOBAL: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

struct Takes;

#[async_trait]
impl Transport for Takes {
    async fn send(&self, payload: &Payload) -> Outcome {
        Outcome::Delivered { rejected: payload.item_count().saturating_sub(3), message: None }
    }

    fn endpoint(&self) -> &str {
        "a collector"
    }
}

#[test]
fn a_switch_for_faults_that_is_off_allocates_nothing() {
    let id = BatchId { incarnation: 1, seq: 0 };
    let payload = Payload::of(Signal::Traces, id, UNIX_EPOCH, 3, Bytes::from_static(b"three spans"));
    let faulty = Faults::default().wrap(Arc::new(Takes), Duration::from_secs(10));
    let (alone, behind) = (allocations(&Takes, &payload), allocations(&faulty, &payload));
    assert_eq!((alone, behind), (100, 100), "one for the future of each call, and no other");
}

/// The allocations of 100 calls, in the run with the fewest: the test harness has a thread of its own, which allocates
/// now and then.
fn allocations(transport: &dyn Transport, payload: &Payload) -> usize {
    let runs = (0..10).map(|_| {
        let region = Region::new(GLOBAL);
        for _ in 0..100 {
            assert!(block_on(transport.send(payload)).is_delivered());
        }
        region.change().allocations
    });
    runs.min().expect("ten runs")
}
