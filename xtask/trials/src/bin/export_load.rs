//! The client of the instruction budget: exports batches of the usual spans one after another, each until it is
//! acknowledged, and does as little else as possible. Run under callgrind by `cargo xtask bench`.

use std::process::ExitCode;
use std::time::Duration;

use futures_executor::block_on;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use resilient_exporter::ResilientSpanExporter;
use trials::Failure;
use trials::app;
use trials::contender;
use trials::peer::Peer;

/// Spans in a batch: the default of the SDK's batch processor.
const BATCH: usize = 512;

/// How long one batch may take, under an instrumented run on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

const USAGE: &str = "usage: export_load <none|stock|ours> <grpc|http|grpc-tls|http-tls> <spans>";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("export_load: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[&str]) -> Result<(), Failure> {
    let [exporter, peer, spans] = arguments else { return Err(USAGE.into()) };
    // In processes of its own, which callgrind does not count.
    let peer = Peer::start(peer)?;
    let template = app::finished_spans(BATCH);
    let batches = (0..spans.parse::<usize>()? / BATCH).map(|_| template.clone());
    match *exporter {
        "none" => batches.for_each(hold),
        "stock" => {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
            let _context = runtime.enter();
            let mut exporter = match peer.authority() {
                None => contender::stock_exporter(peer.protocol, &peer.endpoint())?,
                Some(authority) => contender::stock_exporter_with_tls(peer.protocol, &peer.endpoint(), authority)?,
            };
            exporter.set_resource(&contender::resource());
            for batch in batches {
                block_on(exporter.export(batch))?;
            }
        }
        "ours" => {
            let state = tempfile::tempdir()?;
            let transport = otlp_transport::connect(peer.config().build()?)?;
            let builder = ResilientSpanExporter::builder().with_primary(transport).with_state_dir(state.path());
            let mut exporter = builder.build()?;
            exporter.set_resource(&contender::resource());
            let handle = exporter.handle();
            let mut offered = 0;
            for batch in batches {
                offered += batch.len() as u64;
                block_on(exporter.export(batch))?;
                handle.settled(PATIENCE)?;
            }
            if handle.ledger().delivered != offered {
                return Err(format!("{offered} spans were offered, the ledger says {:?}", handle.ledger()).into());
            }
        }
        _ => return Err(USAGE.into()),
    }
    Ok(())
}

/// Leaks the batch: an exporter that drops it pays for that itself, and the other runs are compared with this one.
fn hold(batch: Vec<SpanData>) {
    std::mem::forget(std::hint::black_box(batch));
}
