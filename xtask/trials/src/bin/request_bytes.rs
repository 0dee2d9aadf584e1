//! How many bytes one request allocates on its way to a collector, by an allocator that counts, beside the bytes of the
//! request: nothing of a payload is copied into memory of its own but, behind TLS, into the records. Prints one JSON
//! object. Run by `cargo xtask bench`.

use std::alloc::System;
use std::process::ExitCode;
use std::time::SystemTime;

use otlp_payload::{BatchId, Encoder};
use otlp_transport::{Outcome, Transport as _};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use trials::peer::Peer;
use trials::{Failure, app, contender};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Spans in a request: the default of the SDK's batch processor.
const BATCH: usize = 512;

/// Requests before the first that counts: the connection stands, and its buffers have their size.
const BEFORE: u32 = 8;

const REQUESTS: u32 = 32;

const KIB: f64 = 1_024.0;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("request_bytes: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[&str]) -> Result<(), Failure> {
    let [name] = arguments else { return Err(format!("usage: request_bytes <{}>", Peer::NAMES).into()) };
    // In processes of its own, whose memory does not count.
    let peer = Peer::start(name)?;
    let transport = otlp_transport::connect(peer.config().build()?)?;
    let id = BatchId { incarnation: 1, seq: 0 };
    let payload = Encoder::new(&contender::resource()).encode(id, SystemTime::UNIX_EPOCH, &app::finished_spans(BATCH));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let send = || match runtime.block_on(transport.send(&payload)) {
        Outcome::Delivered { rejected: 0, .. } => Ok(()),
        other => Err(Failure::from(format!("a request was not delivered: {other:?}"))),
    };
    (0..BEFORE).try_for_each(|_| send())?;
    let region = Region::new(ALLOCATOR);
    (0..REQUESTS).try_for_each(|_| send())?;
    let allocated = region.change().bytes_allocated as f64 / f64::from(REQUESTS);
    println!(r#"{{"peer": {:.4}, "ours": {:.4}}}"#, payload.bytes().len() as f64 / KIB, allocated / KIB);
    Ok(())
}
