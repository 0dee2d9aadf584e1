//! The front of the benches: both exporters deliver through it, and both refuse it where they trust another authority.

use std::path::Path;
use std::time::SystemTime;

use futures_executor::block_on;
use mock_collector::ChildCollector;
use opentelemetry_sdk::trace::SpanExporter as _;
use otlp_payload::{BatchId, Encoder};
use otlp_transport::{Cause, Outcome, Transport as _};
use trials::app;
use trials::contender::{self, Protocol};
use trials::tls_front::TlsFront;

const PROGRAM: &str = env!("CARGO_BIN_EXE_trials");

const SPANS: usize = 10;

#[test]
fn both_exporters_deliver_through_the_front_and_verify_it() {
    let mut collector = ChildCollector::start(PROGRAM, ["collector"]).expect("starts");
    let (folder, other_folder) = (tempfile::tempdir().expect("space"), tempfile::tempdir().expect("space"));
    let front = TlsFront::start(PROGRAM.as_ref(), folder.path(), &collector).expect("starts");
    let other = TlsFront::start(PROGRAM.as_ref(), other_folder.path(), &collector).expect("starts");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("threads");

    for (protocol, endpoint) in [(Protocol::Grpc, front.grpc_endpoint()), (Protocol::Http, front.http_endpoint())] {
        let stock = |authority: &Path| {
            let _context = runtime.enter();
            let exporter = contender::stock_exporter_with_tls(protocol, &endpoint, authority).expect("good settings");
            block_on(exporter.export(app::finished_spans(SPANS)))
        };
        let ours = |authority: &Path| {
            let config = contender::config(protocol, &endpoint).with_certificate(authority).build();
            let transport = otlp_transport::connect(config.expect("good settings")).expect("checked");
            let (id, spans) = (BatchId { incarnation: 1, seq: 0 }, app::finished_spans(SPANS));
            let payload = Encoder::new(&contender::resource()).encode(id, SystemTime::UNIX_EPOCH, &spans);
            runtime.block_on(transport.send(&payload))
        };
        let before = collector.received().expect("alive").spans;
        stock(front.authority()).unwrap_or_else(|error| panic!("{protocol}: {error}"));
        let outcome = ours(front.authority());
        assert_eq!(outcome, Outcome::Delivered { rejected: 0, message: None }, "{protocol}");
        assert_eq!(collector.received().expect("alive").spans - before, 2 * SPANS as u64, "{protocol}");

        assert!(stock(other.authority()).is_err(), "{protocol}");
        let outcome = ours(other.authority());
        assert!(matches!(outcome, Outcome::Retryable { cause: Cause::Connect(_), .. }), "{protocol}: {outcome:?}");
        assert_eq!(collector.received().expect("alive").spans - before, 2 * SPANS as u64, "{protocol}");
    }
}
