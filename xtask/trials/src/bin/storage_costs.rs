//! The cost of waiting batches: the buffer, and the journal by each of its sync policies, on a real directory. Prints
//! one JSON object, and figures without a gate to standard error. Run by `cargo xtask bench`.

use std::collections::VecDeque;
use std::fs::File;
use std::hint::black_box;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use journal::{Config, Id, Journal, SyncPolicy, SyncSchedule};
use safe_dir::SafeDir;
use span_buffer::{Buffer, Limits, Size};
use trials::stored::{self, BATCH};
use trials::{Failure, app, now};

const USAGE: &str = "usage: storage_costs <buffer|journal>";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let measured = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["buffer"] => Ok(buffer()),
        ["journal"] => journal(),
        _ => Err(USAGE.into()),
    };
    match measured {
        Ok(Measured { peer, ours }) => {
            println!(r#"{{"peer": {peer:.3}, "ours": {ours:.3}}}"#);
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("storage_costs: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Nanoseconds of the least possible work, and of our code.
struct Measured {
    peer: f64,
    ours: f64,
}

/// A batch in and a batch out, beside a bare queue.
fn buffer() -> Measured {
    const TIMES: u32 = 100_000;
    let size = Size { count: BATCH, bytes: 330_000 };
    let accepted = now();
    let mut buffer = Buffer::new(Limits::default());
    let mut queue = VecDeque::new();
    for batch in 0..16 {
        assert!(buffer.push(batch, size, accepted).is_empty(), "16 batches are within the limits");
        queue.push_back(batch);
    }
    let ours = rounds(31, || {
        for batch in 0..TIMES {
            black_box(buffer.push(black_box(batch), size, accepted));
            black_box(buffer.take());
        }
    });
    let peer = rounds(31, || {
        for batch in 0..TIMES {
            queue.push_back(black_box(batch));
            black_box(queue.pop_front());
        }
    });
    Measured { peer: nanos(peer, TIMES), ours: nanos(ours, TIMES) }
}

/// A span appended without a sync, beside a bare write of the same bytes to a file; then the cost of each policy.
fn journal() -> Result<Measured, Failure> {
    /// Appended between two syncs, which are not timed: as many as can arrive while one sync is under way.
    const BATCHES: u32 = 8;
    const ROUNDS: u64 = 45;
    let scratch = tempfile::tempdir()?;
    let batch = stored::payload(&app::finished_spans(BATCH));
    let body = &batch.bytes()[..];

    let mut file = File::create(scratch.path().join("bare"))?;
    // No segment ends within the rounds: that would be a sync.
    let config = Config { segment_bytes: 128 << 20, ..Config::default() };
    let mut writer = Writer::open(&scratch.path().join("append"), config)?;
    let (mut bare, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let started = now();
        for _ in 0..BATCHES {
            file.write_all(black_box(body))?;
        }
        bare.push(started.elapsed());
        file.sync_data()?;
        let started = now();
        for _ in 0..BATCHES {
            writer.append(body)?;
        }
        ours.push(started.elapsed());
        writer.journal.sync()?;
    }
    policies(scratch.path(), body)?;
    recovery(&scratch.path().join("append"), writer)?;
    let spans = BATCHES * BATCH as u32;
    Ok(Measured { peer: nanos(typical(bare), spans), ours: nanos(typical(ours), spans) })
}

/// Time of appending and syncing alone; the marks of delivered batches and the clearing up come in between, not timed.
fn policies(scratch: &Path, body: &[u8]) -> Result<(), Failure> {
    const BATCHES: u32 = 256;
    let interval = SyncPolicy::Interval(Duration::from_millis(200));
    eprintln!("journal, batches of {BATCH} spans, {} bytes each; appended as fast as it takes them", body.len());
    eprintln!("{:<18} {:>14} {:>12} {:>12} {:>7}", "policy", "group commit", "us a batch", "batches/s", "syncs");
    for (name, policy) in [("batch", SyncPolicy::Batch), ("interval 200 ms", interval), ("never", SyncPolicy::Never)] {
        for group in [1, 8, 64] {
            let mut writer = Writer::open(&scratch.join(format!("{name} {group}")), Config::default())?;
            let mut schedule = SyncSchedule::new(policy);
            let (mut spent, mut syncs) = (Duration::ZERO, 0);
            for _ in 0..BATCHES / group {
                let started = now();
                for _ in 0..group {
                    writer.append(body)?;
                    schedule.appended(started);
                }
                if schedule.is_due(now()) {
                    writer.journal.sync()?;
                    schedule.synced();
                    syncs += 1;
                }
                spent += started.elapsed();
                writer.deliver_all()?;
            }
            let each = spent.as_secs_f64() / f64::from(BATCHES);
            eprintln!("{name:<18} {group:>14} {:>12.0} {:>12.0} {syncs:>7}", each * 1e6, 1.0 / each);
        }
    }
    Ok(())
}

/// The cost of a start that finds a journal: opening, and reading all of it.
fn recovery(dir: &Path, writer: Writer) -> Result<(), Failure> {
    let bytes = writer.journal.status().bytes;
    drop(writer);
    let started = now();
    let mut journal = Writer::open(dir, Config { segment_bytes: 128 << 20, ..Config::default() })?.journal;
    let opened = started.elapsed();
    let mut batches = 0;
    while let Some(batch) = journal.next_recovered(started) {
        black_box(batch?);
        batches += 1;
    }
    let (mebibytes, read) = (bytes >> 20, started.elapsed());
    eprintln!("a journal of {mebibytes} MiB, {batches} batches: opened after {opened:.1?}, all read after {read:.1?}");
    Ok(())
}

struct Writer {
    journal: Journal<SafeDir>,
    next: u64,
    waiting: Vec<Id>,
}

impl Writer {
    fn open(dir: &Path, config: Config) -> Result<Self, Failure> {
        let (journal, _) = Journal::open(SafeDir::open(dir)?, config, 0x5eed, |_| Ok(false))?;
        Ok(Self { journal, next: 0, waiting: Vec::new() })
    }

    fn append(&mut self, body: &[u8]) -> Result<(), Failure> {
        let id = (self.journal.incarnation(), self.next);
        self.next += 1;
        self.journal.append(id, BATCH as u32, black_box(body))?;
        self.waiting.push(id);
        Ok(())
    }

    fn deliver_all(&mut self) -> Result<(), Failure> {
        self.journal.done(&self.waiting)?;
        self.waiting.clear();
        while self.journal.maintain()? {}
        Ok(())
    }
}

fn rounds(count: u32, mut body: impl FnMut()) -> Duration {
    let timed = |_| {
        let started: Instant = now();
        body();
        started.elapsed()
    };
    typical((0..count).map(timed).collect())
}

/// The lower quartile: neighbours on the machine make many rounds slow, and none fast.
fn typical(mut rounds: Vec<Duration>) -> Duration {
    rounds.sort_unstable();
    rounds[rounds.len() / 4]
}

fn nanos(took: Duration, times: u32) -> f64 {
    took.as_secs_f64() * 1e9 / f64::from(times)
}
