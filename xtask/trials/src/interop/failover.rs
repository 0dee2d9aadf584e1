//! Two Collectors, of which the first dies, refuses the token, or comes back, and the second has limits of its own.

use std::time::Duration;

use resilient_exporter::{Builder, ResilientSpanExporter};

use super::Setup;
use super::otelcol::Otelcol;
use super::wire::{PATIENCE, Traced};
use crate::canonical::{self, Spans};
use crate::contender::{self, Protocol, Settings};
use crate::{Failure, now, wait_until};

/// A check, with a protocol of its own.
type Check = fn(&Setup, Protocol) -> Result<String, Failure>;

/// All checks, in words.
pub(super) const CHECKS: [(&str, Check); 4] = [
    ("the first dies", died),
    ("both die", both_died),
    ("the first refuses the sender", refused),
    ("the second has smaller limits", limited),
];

/// The failback delay of these checks.
const DELAY: Duration = Duration::from_secs(3);

/// The pace of the load: 50 spans each.
const BURSTS_IN_A_SECOND: u32 = 100;

/// The load while collectors die and return.
const SPANS_IN_A_SECOND: u64 = 5_000;

struct Two<'a> {
    first: Otelcol<'a>,
    second: Otelcol<'a>,
    _folders: [tempfile::TempDir; 3],
    traced: Traced,
}

impl<'a> Two<'a> {
    /// An exporter in front of both, whose settings are quick ones but for the delay.
    fn new(setup: &'a Setup, protocol: Protocol, first: Kind, second: Kind) -> Result<Self, Failure> {
        let folders = [tempfile::tempdir()?, tempfile::tempdir()?, tempfile::tempdir()?];
        let first = first.start(setup, folders[0].path())?;
        let second = second.start(setup, folders[1].path())?;
        let builder = builder(protocol, &first, &second)?.with_state_dir(folders[2].path());
        let traced = Traced::new(builder, contender::resource())?;
        Ok(Self { first, second, _folders: folders, traced })
    }

    /// Serves requests for this time, or until `ends`, at 5,000 spans a second.
    fn serve_for(&mut self, time: Duration, mut ends: impl FnMut(&Traced) -> bool) -> Result<(), Failure> {
        let begin = now();
        let mut bursts = 0;
        while begin.elapsed() < time && !ends(&self.traced) {
            let due = Duration::from_secs(1) * bursts / BURSTS_IN_A_SECOND;
            wait_until("the next burst", PATIENCE, || begin.elapsed() >= due)?;
            self.traced.serve(SPANS_IN_A_SECOND / u64::from(BURSTS_IN_A_SECOND) / 2)?;
            bursts += 1;
        }
        Ok(())
    }

    /// Compares the spans that were made with those of both records, and the ledger with both.
    fn compare(&mut self) -> Result<usize, Failure> {
        self.traced.handle.settled(PATIENCE)?;
        let count = self.traced.made().len();
        let mut all = Spans::new();
        let _ = wait_until("all spans in the records", PATIENCE, || {
            all = Spans::new();
            for collector in [&self.first, &self.second] {
                all.extend(collector.spans(0, Duration::ZERO).unwrap_or_default());
            }
            all.len() >= count
        });
        canonical::compare(self.traced.made(), &all)?;
        let health = self.traced.handle.health();
        let by_collector = health.collectors.iter().map(|collector| collector.delivered).sum::<u64>();
        let ledger = health.ledger;
        if ledger.delivered != count as u64 || by_collector != ledger.delivered || ledger.imbalance() != 0 {
            return Err(format!("all {count} spans arrived, but the ledger says {ledger:?}").into());
        }
        Ok(count)
    }

    fn delivered(&self, at: usize) -> u64 {
        self.traced.handle.health().collectors[at].delivered
    }
}

/// The set-up of one Collector.
#[derive(Clone, Copy)]
enum Kind {
    Open,
    /// Behind a token that the exporter does not have.
    Closed,
    /// Requests of 1 MiB at most by gRPC, and of 256 KiB by HTTP.
    Limited,
}

impl Kind {
    fn start<'a>(self, setup: &'a Setup, folder: &std::path::Path) -> Result<Otelcol<'a>, Failure> {
        match self {
            Self::Open => Otelcol::otlp(setup, folder),
            Self::Closed => Otelcol::auth(setup, folder, "a token of another client"),
            Self::Limited => Otelcol::limited(setup, folder),
        }
    }
}

fn builder(protocol: Protocol, first: &Otelcol<'_>, second: &Otelcol<'_>) -> Result<Builder, Failure> {
    let transport = |collector: &Otelcol<'_>| -> Result<_, Failure> {
        let config = contender::config(protocol, &collector.endpoint(protocol)).build()?;
        Ok(otlp_transport::connect(config)?)
    };
    let builder = ResilientSpanExporter::builder().with_primary(transport(first)?).with_failover(transport(second)?);
    Ok(Settings::Quick.exporter(builder).with_failback_delay(DELAY))
}

fn in_use(traced: &Traced) -> usize {
    let collectors = traced.handle.health().collectors;
    collectors.iter().position(|collector| collector.in_use).unwrap_or(usize::MAX)
}

/// The first dies for good at 5,000 spans/s, and is back later.
fn died(setup: &Setup, protocol: Protocol) -> Result<String, Failure> {
    let mut two = Two::new(setup, protocol, Kind::Open, Kind::Open)?;
    two.serve_for(Duration::from_secs(2), |_| false)?;
    // Spans that the Collector has acknowledged and not yet written are lost with it, which is no fault of ours.
    let before = two.compare()?;
    two.first.kill()?;
    let killed = now();
    two.serve_for(Duration::from_secs(5), |traced| traced.handle.health().collectors[1].delivered > 0)?;
    let took = killed.elapsed();
    if took > Duration::from_secs(1) || two.delivered(1) == 0 {
        return Err(format!("the second had its first span {took:?} after the first had refused").into());
    }
    two.serve_for(Duration::from_secs(3), |_| false)?;
    two.first.start()?;
    let started = now();
    two.serve_for(Duration::from_secs(20), |traced| in_use(traced) == 0)?;
    let back = started.elapsed();
    if in_use(&two.traced) != 0 || back < DELAY {
        return Err(format!("the first was not in use {back:?} after its start, or too early").into());
    }
    two.serve_for(Duration::from_secs(1), |_| false)?;
    let count = two.compare()?;
    let files = two.traced.handle.health().metrics.fallback_usage;
    let duplicates = two.traced.handle.health().possible_duplicates;
    two.traced.provider.shutdown()?;
    Ok(format!(
        "{count} spans, all alike, {before} of them before the kill; the first span at the second after {} ms, back \
         after {:.1} s; {files} files, {duplicates} possible duplicates",
        took.as_millis(),
        back.as_secs_f64()
    ))
}

/// Both die, and the second alone returns.
fn both_died(setup: &Setup, protocol: Protocol) -> Result<String, Failure> {
    let mut two = Two::new(setup, protocol, Kind::Open, Kind::Open)?;
    two.traced.serve(100)?;
    two.compare()?;
    two.first.kill()?;
    two.second.kill()?;
    two.serve_for(Duration::from_secs(4), |_| false)?;
    let waiting = two.traced.handle.ledger();
    two.second.start()?;
    let handle = two.traced.handle.clone();
    wait_until("the second in use", PATIENCE, || handle.health().collectors[1].in_use)?;
    let count = two.compare()?;
    two.traced.provider.shutdown()?;
    Ok(format!("{count} spans, all alike; {} in memory and {} in files waited", waiting.buffered, waiting.in_fallback))
}

/// The first refuses the sender, by 401 or gRPC 16.
fn refused(setup: &Setup, protocol: Protocol) -> Result<String, Failure> {
    let mut two = Two::new(setup, protocol, Kind::Closed, Kind::Open)?;
    two.serve_for(Duration::from_secs(3), |_| false)?;
    let count = two.compare()?;
    let health = two.traced.handle.health();
    if !health.collectors[0].refusing.as_deref().is_some_and(|refusing| refusing.contains("OTEL_EXPORTER_OTLP_HEADERS"))
    {
        return Err(format!("health does not say why the first takes nothing: {health}").into());
    }
    two.traced.provider.shutdown()?;
    Ok(format!("{count} spans, all alike, at the second; {} calls refused", health.metrics.failed_exports))
}

/// The second takes smaller requests than the first: batches of 2 MB, which the first takes whole.
fn limited(setup: &Setup, protocol: Protocol) -> Result<String, Failure> {
    const SPAN_BYTES: usize = 3 << 10;
    let mut two = Two::new(setup, protocol, Kind::Open, Kind::Limited)?;
    for batch in 0..20 {
        if batch == 10 {
            two.compare()?;
            two.first.kill()?;
        }
        for _ in 0..512 {
            two.traced.app.serve_large(SPAN_BYTES);
        }
        two.traced.hand_over()?;
        let handle = two.traced.handle.clone();
        wait_until("space for a batch", PATIENCE, || handle.health().memory.bytes < 4 << 20)?;
    }
    let count = two.compare()?;
    let health = two.traced.handle.health();
    two.traced.provider.shutdown()?;
    let (cuts, ledger) = (health.metrics.failed_exports, &health.ledger);
    if ledger.dead_lettered > 0 || health.collectors[0].delivered < 5_000 || cuts == 0 {
        return Err(format!("{cuts} requests did not succeed, {ledger:?}: {health}").into());
    }
    Ok(format!(
        "{count} spans, all alike; {} at the second after {cuts} calls that failed",
        health.collectors[1].delivered
    ))
}
