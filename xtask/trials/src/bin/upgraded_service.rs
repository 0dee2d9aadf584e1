//! The service of the upgrade trial: set up by the environment alone, so that it compiles against every version of
//! `telemetry-manager`. Makes spans at a pace until its input ends, and notes outside which of them were accepted.
//!
//! `upgraded_service <base> <spans a second>` appends to `<base>.made` the ids of each span before it ends (trace id,
//! span id), to `<base>.accepted` pairs of numbers, each a range of these that is durable, and to `<base>.status` the
//! exporter's numbers.

use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use telemetry_manager::OpenTelemetryManager;
use telemetry_manager::opentelemetry::KeyValue;
use telemetry_manager::opentelemetry::trace::{Span as _, Tracer as _, TracerProvider as _};
use telemetry_manager::resilient_exporter::Handle;

/// Spans between two flushes; the queue of the batch processor takes more.
const BURST: u64 = 100;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(base), Some(rate)) = (arguments.next(), arguments.next()) else {
        return Err("usage: upgraded_service <base> <spans a second>".into());
    };
    let rate: u64 = rate.to_str().ok_or("the pace is a number")?.parse()?;
    let file =
        |kind: &str| OpenOptions::new().create_new(true).append(true).open(PathBuf::from(&base).with_extension(kind));
    let (mut made, mut accepted, mut status) = (file("made")?, file("accepted")?, file("status")?);
    let manager = OpenTelemetryManager::from_env()?;
    let handle = manager.handle().ok_or("spans are exported")?;
    let provider = manager.tracer_provider().clone();
    let tracer = provider.tracer("upgraded");
    tell(&mut status, &handle)?;
    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, main) = (Arc::clone(&stop), std::thread::current());
    std::thread::spawn(move || {
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        stopped.store(true, Ordering::Release);
        main.unpark();
    });
    let mut count = 0_u64;
    while !stop.load(Ordering::Acquire) {
        let first = count;
        let volatile = handle.health().accepted_not_durable;
        for _ in 0..BURST.min(rate) {
            let mut span = tracer.start("GET /orders");
            span.set_attribute(KeyValue::new("number", i64::try_from(count)?));
            let context = span.span_context();
            let mut ids = context.trace_id().to_bytes().to_vec();
            ids.extend_from_slice(&context.span_id().to_bytes());
            made.write_all(&ids)?;
            span.end();
            count += 1;
        }
        let is_accepted = provider.force_flush().is_ok() && handle.health().accepted_not_durable == volatile;
        if is_accepted && count > first {
            accepted.write_all(&[first.to_le_bytes(), count.to_le_bytes()].concat())?;
        }
        tell(&mut status, &handle)?;
        let pause = (1_000 * BURST.min(rate)).checked_div(rate).unwrap_or(20);
        std::thread::park_timeout(Duration::from_millis(pause));
    }
    // An error says that spans were neither sent nor stored; the status has their number.
    let _ = manager.shutdown();
    tell(&mut status, &handle)?;
    Ok(())
}

/// Appends a line: spans that wait, that are lost, that are unaccounted for, and the issues of health.
fn tell(status: &mut File, handle: &Handle) -> io::Result<()> {
    let (ledger, health) = (handle.ledger(), handle.health());
    let waiting = ledger.buffered + ledger.in_flight + ledger.in_fallback;
    let issues = health.issues.join(" | ").replace('\n', " ");
    status.write_all(format!("{waiting}\t{}\t{}\t{issues}\n", ledger.lost(), ledger.imbalance()).as_bytes())
}
