//! The bounded queue, spilling to files and reading them back; lines of about 1,250 bytes a span, 512 spans a batch.

use std::hint::black_box;
use std::time::{Duration, Instant, SystemTime};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use file_fallback::{Compression, Config, FileFallback, Group, Next, Record};
use span_buffer::{Buffer, Limits, Size};

const SPANS: usize = 512;

fn buffer(c: &mut Criterion) {
    let now = start();
    let size = Size { count: SPANS, bytes: 300_000 };
    let mut group = c.benchmark_group("buffer/push+take");
    group.throughput(Throughput::Elements(1));
    for waiting in [0, 16] {
        let mut buffer = Buffer::new(Limits::default());
        for batch in 0..waiting {
            assert!(buffer.push(batch, size, now).is_empty());
        }
        group.bench_function(format!("{waiting} waiting"), |b| {
            b.iter(|| {
                assert!(buffer.push(black_box(7), size, now).is_empty());
                buffer.take()
            });
        });
    }
    let mut buffer = Buffer::new(Limits::default());
    for batch in 0..10_000 {
        drop(buffer.push(batch, Size { count: 1, bytes: 1 }, now));
    }
    group.bench_function("take and give back, 10,000 waiting", |b| {
        b.iter(|| {
            let batch = buffer.take().expect("full");
            buffer.give_back(black_box(batch));
        });
    });
    group.finish();
}

fn spill(c: &mut Criterion) {
    let lines = batch_lines();
    let mut group = c.benchmark_group("fallback/spill");
    group.throughput(Throughput::Elements(SPANS as u64));
    for compression in [Compression::Zstd, Compression::Gzip, Compression::Never] {
        let scratch = tempfile::tempdir().expect("a temporary directory");
        let mut store = open(scratch.path(), compression);
        // With its syncs, so much of it is the disk.
        group.bench_function(format!("{compression:?}, durable"), |b| {
            b.iter(|| store.spill(black_box(&lines), time()).expect("there is space"));
        });
    }
    group.finish();
}

fn replay(c: &mut Criterion) {
    let lines = batch_lines();
    let mut group = c.benchmark_group("fallback/replay");
    group.throughput(Throughput::Elements(SPANS as u64));
    for compression in [Compression::Zstd, Compression::Gzip, Compression::Never] {
        let scratch = tempfile::tempdir().expect("a temporary directory");
        let mut store = open(scratch.path(), compression);
        let spilled = store.spill(&lines, time()).expect("there is space");
        assert_eq!(spilled.count, SPANS as u64);
        group.bench_function(format!("{compression:?}, read and given back"), |b| {
            b.iter(|| {
                let group = group_of(store.next_group(4 << 20).expect("readable"));
                store.give_back(group).expect("ours");
            });
        });
    }
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let mut store = open(scratch.path(), Compression::Zstd);
    group.bench_function("acknowledge the last group of a file, durable", |b| {
        b.iter_batched(
            || (),
            |()| {
                drop(store.spill(&lines, time()).expect("there is space"));
                let group = group_of(store.next_group(4 << 20).expect("readable"));
                store.acknowledge(group, |_| SPANS as u64).expect("durable")
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn start_up(c: &mut Criterion) {
    let mut group = c.benchmark_group("fallback/open");
    let scratch = tempfile::tempdir().expect("a temporary directory");
    for seq in 1..=10_000 {
        let path = scratch.path().join(format!("traces-20260201T000000.000Z-{seq:08}-n512.jsonl"));
        std::fs::File::create(path).and_then(|file| file.set_len(50_000)).expect("there is space");
    }
    group.throughput(Throughput::Elements(10_000));
    group.sample_size(20);
    group.bench_function("10,000 files", |b| b.iter(|| open(scratch.path(), Compression::Zstd).stored()));
    group.finish();
}

fn open(dir: &std::path::Path, compression: Compression) -> FileFallback {
    let config = Config::builder(dir).with_free_space_reserve(0).with_compression(compression).with_max_bytes(8 << 30);
    FileFallback::open(config.build().expect("valid")).expect("a free directory")
}

fn group_of(next: Next) -> Group {
    match next {
        Next::Group(group) => group,
        Next::Pause | Next::Empty => panic!("one file waits"),
    }
}

/// One batch as one line, like OTLP JSON: the same keys again and again, ids that are random.
fn batch_lines() -> Vec<Record> {
    let mut text = String::from("{\"resourceSpans\":[{\"scopeSpans\":[{\"spans\":[");
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    for span in 0..SPANS {
        let mut id = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        let (high, low, own, duration) = (id(), id(), id(), id() % 40_000_000);
        text.push_str(&format!(
            "{}{{\"traceId\":\"{high:016x}{low:016x}\",\"spanId\":\"{own:016x}\",\"name\":\"GET /api/v1/products/{{id}}\",\"kind\":2,\
             \"startTimeUnixNano\":\"1790000000{:09}\",\"endTimeUnixNano\":\"1790000001{duration:09}\",\"attributes\":[",
            if span == 0 { "" } else { "," },
            span * 200_000
        ));
        for (index, key) in ATTRIBUTES.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            text.push_str(&format!(
                "{comma}{{\"key\":\"{key}\",\"value\":{{\"stringValue\":\"value {}\"}}}}",
                id() % 50
            ));
        }
        text.push_str("],\"status\":{},\"flags\":257}");
    }
    text.push_str("],\"scope\":{\"name\":\"shop.http\"}}]}]}");
    vec![Record { bytes: text.into_bytes(), count: SPANS }]
}

const ATTRIBUTES: [&str; 11] = [
    "http.request.method",
    "url.scheme",
    "url.path",
    "http.route",
    "http.response.status_code",
    "http.response.body.size",
    "server.address",
    "server.port",
    "client.address",
    "user_agent.original",
    "network.protocol.version",
];

fn time() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_769_904_000)
}

#[expect(clippy::disallowed_methods, reason = "any start will do")]
fn start() -> Instant {
    Instant::now()
}

criterion_group!(benches, buffer, spill, replay, start_up);
criterion_main!(benches);
