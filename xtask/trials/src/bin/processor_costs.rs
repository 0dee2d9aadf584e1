//! The cost of a span, from its start to its end, for the thread of the application, and for the process until the
//! collector has acknowledged it: our processor, the SDK's batch processor with the stock exporter, the same with our
//! exporter. Each has a collector of its own, in another process. Run by `cargo xtask bench`.

use std::process::ExitCode;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, Span, SpanData, SpanProcessor};
use resilient_exporter::Handle;
use rustix::time::{ClockId, clock_gettime};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use trials::app::App;
use trials::contender::{self, Settings};
use trials::peer::Peer;
use trials::{Failure, now};

/// Spans between two flushes, of all producers together: four batches, and as many as the SDK's queue holds. A part of
/// a larger burst might be dropped, at next to no cost for the thread.
const BURST: u64 = 2_048;

/// How long a flush may take, under an instrumented run on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

const USAGE: &str = "usage: processor_costs thread <producers> | processor_costs <stock|batch|ours> <spans>";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("processor_costs: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[&str]) -> Result<(), Failure> {
    // Carries the connection of the stock exporter, and outlives its provider.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    match *arguments {
        ["thread", producers] => application_thread(&runtime, producers.parse()?),
        ["stock", spans] => whole_process(Contender::start(&runtime, Kind::Stock)?, spans.parse()?),
        ["batch", spans] => whole_process(Contender::start(&runtime, Kind::Batch)?, spans.parse()?),
        ["ours", spans] => whole_process(Contender::start(&runtime, Kind::Ours)?, spans.parse()?),
        _ => Err(USAGE.into()),
    }
}

/// Makes so many spans and does as little else as possible: a program to count instructions of.
fn whole_process(mut contender: Contender, spans: u64) -> Result<(), Failure> {
    let mut app = App::new(&contender.provider);
    for _ in 0..spans / BURST {
        for _ in 0..BURST {
            app.serve();
        }
        contender.deliver(BURST)?;
    }
    contender.has_delivered_all()
}

/// Prints nanoseconds of a producer's processor time for each span.
fn application_thread(runtime: &Runtime, producers: usize) -> Result<(), Failure> {
    const WARM_UP: usize = 10;
    const ROUNDS: usize = 160;
    let mut contenders = Vec::new();
    for kind in Kind::ALL {
        contenders.push(Contender::start(runtime, kind)?);
    }
    let producers = Producers::start(producers, &contenders);
    let mut bursts: [Vec<Burst>; 4] = Default::default();
    for round in 0..WARM_UP + ROUNDS {
        // In every second round the other way round: each follows on each of its neighbours as often.
        let last = contenders.len() - 1;
        for index in (0..=last).map(|turn| if round % 2 == 0 { turn } else { last - turn }) {
            let burst = producers.serve(index)?;
            contenders[index].deliver(burst.spans)?;
            if round >= WARM_UP {
                bursts[index].push(burst);
            }
        }
    }
    contenders.iter_mut().try_for_each(Contender::has_delivered_all)?;

    eprintln!("{} producer(s), {ROUNDS} bursts of {BURST} spans each, ns a span", producers.orders.len());
    eprintln!("{:<8} {:>12} {:>12} {:>12}", "", "thread, 1/4", "thread, 1/2", "clock, 1/2");
    for (kind, bursts) in Kind::ALL.iter().zip(&bursts) {
        let kind = format!("{kind:?}");
        let [lower, median] = [1, 2].map(|quarter| nanos(bursts, |burst| burst.processor, quarter));
        eprintln!("{kind:<8} {lower:>12.0} {median:>12.0} {:>12.0}", nanos(bursts, |burst| burst.clock, 2));
    }
    // The lower quartile: neighbours on the machine make many bursts slow, and none fast.
    let [_, stock, _, ours] = bursts.map(|bursts| nanos(&bursts, |burst| burst.processor, 1));
    println!(r#"{{"peer": {stock:.1}, "ours": {ours:.1}}}"#);
    Ok(())
}

/// A quartile of the time for each span.
fn nanos(bursts: &[Burst], time: impl Fn(&Burst) -> Duration, quarter: usize) -> f64 {
    let mut nanos: Vec<f64> = bursts.iter().map(|burst| time(burst).as_secs_f64() * 1e9 / burst.spans as f64).collect();
    nanos.sort_unstable_by(f64::total_cmp);
    nanos.get(nanos.len() * quarter / 4).copied().unwrap_or(f64::NAN)
}

/// A processor with its exporter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// Spans are made and dropped: the tracer's own cost.
    None,
    /// The SDK's batch processor with the stock exporter.
    Stock,
    /// The SDK's batch processor with our exporter.
    Batch,
    /// Our processor.
    Ours,
}

impl Kind {
    const ALL: [Self; 4] = [Self::None, Self::Stock, Self::Batch, Self::Ours];
}

/// Such a processor behind a tracer, in front of a collector.
struct Contender {
    kind: Kind,
    provider: SdkTracerProvider,
    /// The handle of an exporter of ours.
    handle: Option<Handle>,
    peer: Peer,
    made: u64,
    _state: TempDir,
}

impl Contender {
    fn start(runtime: &Runtime, kind: Kind) -> Result<Self, Failure> {
        let peer = Peer::start("grpc")?;
        let state = tempfile::tempdir()?;
        let builder = || contender::builder(Settings::Default, peer.protocol, &peer.endpoint(), state.path());
        let providers = SdkTracerProvider::builder().with_resource(contender::resource());
        let (provider, handle) = match kind {
            Kind::None => (providers.with_span_processor(NoProcessor).build(), None),
            Kind::Stock => (contender::stock(runtime, peer.protocol, &peer.endpoint())?, None),
            Kind::Batch => {
                let (provider, handle) = contender::ours(builder()?)?;
                (provider, Some(handle))
            }
            Kind::Ours => {
                let processor = builder()?.build_processor()?;
                let handle = processor.handle();
                (providers.with_span_processor(processor).build(), Some(handle))
            }
        };
        Ok(Self { kind, provider, handle, peer, made: 0, _state: state })
    }

    /// Waits until the collector has acknowledged all spans, so many new ones among them.
    fn deliver(&mut self, made: u64) -> Result<(), Failure> {
        self.made += made;
        if self.kind != Kind::Ours {
            // The SDK's processor keeps up to a batch. Ours would save spans to files if the collector were slow, as
            // all is under callgrind.
            self.provider.force_flush()?;
        }
        self.handle.as_ref().map_or(Ok(()), |handle| Ok(handle.settled(PATIENCE)?))
    }

    /// Each span is at the collector once: no contender was fast because it dropped some.
    fn has_delivered_all(&mut self) -> Result<(), Failure> {
        let received = self.peer.received()?;
        let expected = if self.kind == Kind::None { 0 } else { self.made };
        if (received.spans, received.duplicates) != (expected, 0) {
            return Err(format!("{} spans were made, the collector has {received:?}", self.made).into());
        }
        Ok(())
    }
}

/// Drops each span.
#[derive(Debug)]
struct NoProcessor;

impl SpanProcessor for NoProcessor {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, _: SpanData) {}

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// The spans of one burst, and the time that they took their threads.
struct Burst {
    spans: u64,
    /// The time on a processor, of all producers together.
    processor: Duration,
    /// The time of the clock, of all together.
    clock: Duration,
}

impl Burst {
    /// Makes so many spans on this thread.
    fn of(app: &mut App, spans: u64) -> Self {
        let (processor, clock) = (processor_time(), now());
        for _ in 0..spans {
            app.serve();
        }
        Self { spans, processor: processor_time().saturating_sub(processor), clock: clock.elapsed() }
    }
}

/// The threads of the application. Each has a tracer of each contender, and makes an equal part of a burst.
struct Producers {
    /// The next contender, to each thread.
    orders: Vec<Sender<usize>>,
    done: Receiver<Burst>,
}

impl Producers {
    fn start(count: usize, contenders: &[Contender]) -> Self {
        let (end, done) = channel();
        let together = Arc::new(Barrier::new(count));
        let start = |_| {
            let mut apps: Vec<App> = contenders.iter().map(|contender| App::new(&contender.provider)).collect();
            let (order, orders) = channel();
            let (end, together) = (end.clone(), Arc::clone(&together));
            thread::spawn(move || {
                for contender in orders {
                    let app: &mut App = &mut apps[contender];
                    together.wait();
                    if end.send(Burst::of(app, BURST / count as u64)).is_err() {
                        return;
                    }
                }
            });
            order
        };
        Self { orders: (0..count).map(start).collect(), done }
    }

    /// A burst through this contender.
    fn serve(&self, contender: usize) -> Result<Burst, Failure> {
        for order in &self.orders {
            order.send(contender)?;
        }
        let mut all = Burst { spans: 0, processor: Duration::ZERO, clock: Duration::ZERO };
        for _ in &self.orders {
            let burst = self.done.recv()?;
            all.spans += burst.spans;
            all.processor += burst.processor;
            all.clock += burst.clock;
        }
        Ok(all)
    }
}

/// The time that the calling thread has spent on a processor.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}
