//! The memory of compressed forms, which batches that were tried once keep beside their plain bytes until they have
//! ended. One test: the counter is of the whole process.

use std::alloc::System;
use std::net::Ipv4Addr;
use std::time::UNIX_EPOCH;

use benches::{http_resource, http_spans};
use otlp_payload::{BatchId, Encoder, Payload};
use otlp_transport::{Cause, Compression, Config, Outcome, Protocol, connect};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::net::TcpSocket;

#[global_allocator]
static GLOBAL: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The default capacity of the buffer, in batches of the SDK's processor.
const BATCHES: u64 = 20;
const BATCH: usize = 512;

/// Allocations of the runtime, the transport and the test harness.
const BESIDE: usize = 64 << 10;

#[test]
fn the_compressed_forms_of_usual_spans_take_a_sixth_of_their_bytes_and_of_no_spans_more_than_half() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _context = runtime.enter();
    // Bound and not listening: each connection is refused.
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a free port");
    let endpoint = format!("http://{}", socket.local_addr().expect("bound"));
    // The bytes that the payloads of `make` keep beside their plain ones once each was tried, and the plain bytes.
    let kept_by = |compression, make: &dyn Fn(u64) -> Payload| {
        let config = Config::builder().with_endpoint(&endpoint).with_protocol(Protocol::Grpc);
        let config = config.with_compression(compression).build().expect("valid");
        let transport = connect(config).expect("checked");
        let payloads: Vec<Payload> = (0..BATCHES).map(make).collect();
        let try_one = |payload| match runtime.block_on(transport.send(payload)) {
            Outcome::Retryable { cause: Cause::Connect(_), .. } => {}
            other => panic!("{other:?}"),
        };
        let before = held();
        payloads.iter().for_each(try_one);
        let kept = held().saturating_sub(before);
        payloads.iter().for_each(try_one);
        assert!(held().saturating_sub(before) <= kept + BESIDE, "{compression}: the second attempt keeps no more");
        let plain: usize = payloads.iter().map(|payload| payload.bytes().len()).sum();
        drop(payloads);
        assert!(held() + plain <= before + BESIDE, "{compression}: the forms end with their payloads");
        println!("{compression}: {} KiB beside {} KiB, {:.3}", kept >> 10, plain >> 10, kept as f64 / plain as f64);
        (kept, plain)
    };

    let (encoder, spans) = (Encoder::new(&http_resource()), http_spans(BATCH));
    let id = |seq| BatchId { incarnation: 1, seq };
    let usual = |seq| encoder.encode(id(seq), UNIX_EPOCH, &spans);
    for compression in [Compression::Gzip, Compression::Zstd] {
        let (kept, plain) = kept_by(compression, &usual);
        assert!((plain / 20..=plain / 6).contains(&kept), "{compression}: {kept} of {plain} bytes");
    }
    let (kept, _) = kept_by(Compression::None, &usual);
    assert!(kept <= BESIDE, "{kept} bytes without compression");

    // Bytes in no order, of so many kinds: a form of nearly half the bytes is kept, a larger one is not.
    for (kinds, is_kept) in [(8, true), (64, false)] {
        for compression in [Compression::Gzip, Compression::Zstd] {
            let (kept, plain) = kept_by(compression, &|seq| {
                let mut random = fastrand::Rng::with_seed(seq);
                let bytes: Vec<u8> = (0..300_000).map(|_| random.u8(..kinds)).collect();
                Payload::new(id(seq), UNIX_EPOCH, BATCH, bytes.into())
            });
            let expected = if is_kept { plain / 3..=plain / 2 + BESIDE } else { 0..=BESIDE };
            assert!(expected.contains(&kept), "{compression}, {kinds} kinds: {kept} of {plain} bytes");
        }
    }
}

/// Bytes allocated and not freed.
fn held() -> usize {
    let stats = GLOBAL.stats();
    stats.bytes_allocated.saturating_sub(stats.bytes_deallocated)
}
