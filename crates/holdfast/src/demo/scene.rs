//! The course of the demo: collector, exporter, application, and the threads that direct and watch them.

use std::collections::BTreeMap;
use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use mock_collector::{MockCollector, SpanIds};
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider};
use otlp_transport::Config;
use resilient_exporter::{Event, Handle, ResilientSpanExporter};
use tokio::signal::unix::{SignalKind, signal};

use super::report::{Collected, Report};
use super::view::{Moment, View, grouped, name};
use super::{Plan, Protocol, app};

/// Settings that are shorter than their defaults, so that the breaker trips, probes and closes within the run.
const INITIAL_DELAY: Duration = Duration::from_millis(100);
const MAX_DELAY: Duration = Duration::from_secs(2);
const OPEN_TIME: Duration = Duration::from_secs(2);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the delivery of the remaining spans may take after the run.
const FLUSH: Duration = Duration::from_secs(30);

/// How often the main thread reads the events and redraws the line.
const LOOK: Duration = Duration::from_millis(100);

/// A message of the directing thread to the watching one.
enum Scene {
    CollectorDown,
    CollectorUp,
    /// The collector could not be started again.
    CollectorLost(io::Error),
    LoadEnded,
    NotFlushed(String),
    Done(Vec<SpanIds>),
}

/// The parts of the demo, for the directing thread.
struct Stage<'a> {
    plan: &'a Plan,
    collector: &'a MockCollector,
    provider: &'a SdkTracerProvider,
    handle: &'a Handle,
    control: &'a app::Control,
}

/// Runs the demo and returns its report. The state directory is removed before this returns.
pub(super) fn play(plan: &Plan, view: &mut View) -> Result<Report, Box<dyn Error>> {
    // Owner only, under a random name.
    let owner_only = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    let state = tempfile::Builder::new().prefix("holdfast-demo-").permissions(owner_only).tempdir()?;
    let collector = MockCollector::start()?;
    let (endpoint, protocol) = match plan.protocol {
        Protocol::Grpc => (collector.grpc_endpoint(), otlp_transport::Protocol::Grpc),
        Protocol::Http => (collector.http_endpoint(), otlp_transport::Protocol::HttpProtobuf),
    };
    introduce(plan, &endpoint, view);

    let settings = Config::builder().with_endpoint(endpoint).with_protocol(protocol).with_timeout(REQUEST_TIMEOUT);
    let exporter = ResilientSpanExporter::builder()
        .with_primary(otlp_transport::connect(settings.build()?)?)
        .with_state_dir(state.path())
        .with_retry_initial_delay(INITIAL_DELAY)
        .with_retry_max_delay(MAX_DELAY)
        .with_circuit_breaker_timeout(OPEN_TIME)
        .build()?;
    let handle = exporter.handle();
    let resource = Resource::builder().with_service_name("holdfast-demo").build();
    // The SDK's own defaults: the environment must not change the demo.
    let batches = BatchConfigBuilder::default()
        .with_max_queue_size(2_048)
        .with_max_export_batch_size(512)
        .with_scheduled_delay(Duration::from_secs(5));
    let processor = BatchSpanProcessor::builder(exporter).with_batch_config(batches.build()).build();
    let provider = SdkTracerProvider::builder()
        .with_span_processor(processor)
        .with_sampler(Sampler::AlwaysOn)
        .with_resource(resource)
        .build();

    let control = app::Control::default();
    let stage = Stage { plan, collector: &collector, provider: &provider, handle: &handle, control: &control };
    let interrupts = interrupts(state.path().to_owned())?;
    let made = thread::scope(|scope| {
        let (sender, scenes) = mpsc::channel();
        let stage = &stage;
        scope.spawn(move || direct(stage, &sender, &interrupts));
        watch(stage, &scenes, view)
    });
    let collected = Collected::compare(&collector, &made);
    let health = handle.health();
    let report = Report::new(made.len() as u64, health.ledger, collected, health.metrics.circuit_breaker_trips);
    if let Err(error) = provider.shutdown() {
        view.note(&format!("the SDK's shutdown failed: {error}"));
    }
    if let Err(error) = state.close() {
        view.note(&format!("the state directory could not be removed: {error}"));
    }
    Ok(report)
}

fn introduce(plan: &Plan, endpoint: &str, view: &mut View) {
    let Plan { rate, down, up, end, protocol } = plan;
    let protocol = match protocol {
        Protocol::Grpc => "gRPC",
        Protocol::Http => "HTTP",
    };
    let rate = grouped(u64::from(*rate));
    view.note(&format!(
        "holdfast demo: an application makes {rate} spans/s for {end:?}, sent by {protocol} to {endpoint}"
    ));
    view.note(&match up.saturating_sub(*down) {
        Duration::ZERO => "  the collector lives all the time".to_owned(),
        outage => format!("  the collector dies at {down:?} and comes back at {up:?}, after {outage:?}"),
    });
    view.note(&format!(
        "  shortened for this run: first retry delay {INITIAL_DELAY:?} (usually 1s), longest {MAX_DELAY:?} (20s),"
    ));
    view.note(&format!("    breaker open time {OPEN_TIME:?} (60s), request time-out {REQUEST_TIMEOUT:?} (10s)"));
    view.note("  as usual: 5 failures open the breaker, 10,000 spans wait in memory, more go to files");
    view.note("");
}

/// Stops and starts the collector and ends the application at their times, on a thread of its own. An interrupt brings
/// the end forward.
fn direct(stage: &Stage<'_>, scenes: &Sender<Scene>, interrupts: &Receiver<()>) {
    let Stage { plan, collector, provider, handle, control } = stage;
    let report = |scene| drop(scenes.send(scene)); // the receiver is gone only if the watching thread panicked
    let tracer: SdkTracer = provider.tracer("shop");
    let made = thread::scope(|scope| {
        let application = scope.spawn(|| app::run(&tracer, plan.rate, control));
        let _ended = EndOnDrop(control); // also when this thread panics: the scope waits for the application
        let mut hurry = wait(interrupts, plan.down);
        if plan.up > plan.down && !hurry {
            collector.stop();
            report(Scene::CollectorDown);
            hurry = wait(interrupts, plan.up - plan.down);
            report(match collector.start_again() {
                Ok(()) => Scene::CollectorUp,
                Err(error) => Scene::CollectorLost(error),
            });
        }
        if !hurry {
            wait(interrupts, plan.end - plan.up);
        }
        control.end();
        application.join().expect("the application does not panic")
    });
    report(Scene::LoadEnded);
    // Spans that were not flushed are counted in the report, too.
    let queue = provider.force_flush().err().map(|error| format!("the SDK's queue was not flushed: {error}"));
    let kept = handle.settled(FLUSH).err().map(|error| error.to_string());
    queue.into_iter().chain(kept).for_each(|trouble| report(Scene::NotFlushed(trouble)));
    report(Scene::Done(made));
}

struct EndOnDrop<'a>(&'a app::Control);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Waits for `time`, or until an interrupt: then true.
fn wait(interrupts: &Receiver<()>, time: Duration) -> bool {
    match interrupts.recv_timeout(time) {
        Ok(()) | Err(RecvTimeoutError::Disconnected) => true,
        Err(RecvTimeoutError::Timeout) => false,
    }
}

/// Shows the demo until the directing thread is done; returns the ids of all spans made.
fn watch(stage: &Stage<'_>, scenes: &Receiver<Scene>, view: &mut View) -> Vec<SpanIds> {
    let began = now();
    let events = stage.handle.subscribe();
    loop {
        let scene = scenes.recv_timeout(LOOK);
        let elapsed = now().saturating_duration_since(began);
        let mut note = |text: &str| view.note(&format!("{:5.1}s  {text}", elapsed.as_secs_f64()));
        news(events.try_iter()).iter().for_each(|text| note(text));
        match scene {
            Ok(Scene::CollectorDown) => note("the collector is dead: its port refuses"),
            Ok(Scene::CollectorUp) => note("the collector is back"),
            Ok(Scene::CollectorLost(error)) => note(&format!("the collector could not be started again: {error}")),
            Ok(Scene::LoadEnded) => note("the application ended; what is kept is being delivered"),
            Ok(Scene::NotFlushed(trouble)) => note(&trouble),
            Ok(Scene::Done(made)) => {
                view.show_now(&moment(stage, elapsed));
                return made;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Vec::new(), // the scope passes its panic on
        }
        view.show(&moment(stage, elapsed));
    }
}

/// The events since the last look, in few lines: spans with the same fate are summed up.
fn news(events: impl Iterator<Item = Event>) -> Vec<String> {
    let mut lines = Vec::new();
    let mut sums: BTreeMap<String, u64> = BTreeMap::new();
    for event in events {
        let (spans, what) = match event {
            Event::Breaker { from, to, .. } => {
                lines.push(format!("breaker {} -> {}", name(from), name(to)));
                continue;
            }
            Event::Replayed { delivered, other: 0 } if delivered > 0 => {
                lines.push("all files are delivered".to_owned());
                continue;
            }
            Event::Replayed { .. } => {
                lines.push("no file is left".to_owned());
                continue;
            }
            Event::OutageBegan { cause, remedy, .. } => {
                lines.push(format!("an outage has begun: {cause}; {remedy}"));
                continue;
            }
            Event::OutageEnded { duration, .. } => {
                lines.push(format!("the outage has ended after {} s", duration.as_secs()));
                continue;
            }
            Event::DiskTrouble { error } => {
                lines.push(format!("files cannot be used: {error}"));
                continue;
            }
            Event::Spilled { spans, .. } => (spans, "went from the full buffer to a file".to_owned()),
            Event::Rejected { spans, message, .. } => (spans, format!("were rejected by the collector: {message}")),
            Event::DeadLettered { spans, reason, .. } => (spans, format!("became dead letters: {reason}")),
            Event::DeadLettersEvicted { spans } => (
                usize::try_from(spans).unwrap_or(usize::MAX),
                "were lost with dead letters that their limits removed".into(),
            ),
            Event::Dropped { spans, reason, .. } => {
                (spans, format!("were dropped ({}): {}", reason.as_str(), reason.remedy()))
            }
            _ => continue, // a later release may have more events
        };
        *sums.entry(what).or_default() += spans as u64;
    }
    lines.extend(sums.iter().map(|(what, spans)| format!("{} spans {what}", grouped(*spans))));
    lines
}

fn moment(stage: &Stage<'_>, elapsed: Duration) -> Moment {
    let health = stage.handle.health();
    Moment {
        elapsed,
        collector_up: stage.collector.is_running(),
        breaker: health.breaker,
        made: stage.control.made(),
        buffer: health.metrics.buffer_size,
        files: health.fallback_files,
        in_files: health.ledger.in_fallback,
        delivered: health.ledger.delivered,
    }
}

/// A message for the first SIGINT or SIGTERM; the second one ends the process at once, without its state.
fn interrupts(state: PathBuf) -> io::Result<Receiver<()>> {
    let (sender, receiver) = mpsc::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let context = runtime.enter();
    let [mut interrupt, mut terminate] = [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?];
    drop(context);
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            for first in [true, false] {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if !first || sender.send(()).is_err() {
                    let _ = std::fs::remove_dir_all(&state);
                    std::process::exit(130); // 128 + SIGINT, as shells say
                }
            }
        });
    })?;
    Ok(receiver)
}

/// The clock of the demo.
#[expect(clippy::disallowed_methods, reason = "the demo happens in real time")]
pub(super) fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use resilient_exporter::DropReason;

    use super::*;

    #[test]
    fn news_sum_up_spans_with_the_same_fate() {
        let spilled = |spans| Event::Spilled { spans, file: "any".to_owned() };
        let dropped = |spans| Event::Dropped { spans, reason: DropReason::DiskSlow, detail: String::new() };
        let events =
            [spilled(1_000), Event::Replayed { delivered: 1_000, other: 0 }, dropped(3), spilled(500), dropped(4)];
        let lines = news(events.into_iter());
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert_eq!(lines[0], "all files are delivered");
        assert!(lines.contains(&"1,500 spans went from the full buffer to a file".to_owned()), "{lines:?}");
        assert!(lines.iter().any(|line| line.starts_with("7 spans were dropped (disk_slow): ")), "{lines:?}");
    }
}
