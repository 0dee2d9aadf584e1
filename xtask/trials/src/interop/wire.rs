//! Over the network: delivery, an outage, requests larger than it takes.

use std::time::Duration;

use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use resilient_exporter::{Builder, Handle};

use super::Setup;
use super::otelcol::Otelcol;
use crate::app::{App, Recorder};
use crate::canonical::{self, Spans};
use crate::contender::{self, BURST, Protocol, Settings};
use crate::{Failure, wait_until};

/// How long anything may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// An application that traces through our exporter, and beside it a recorder of the spans that it made.
pub(super) struct Traced {
    pub(super) app: App,
    pub(super) handle: Handle,
    pub(super) provider: SdkTracerProvider,
    recorder: Recorder,
    resource: Resource,
    made: Spans,
}

impl Traced {
    pub(super) fn new(builder: Builder, resource: Resource) -> Result<Self, Failure> {
        let exporter = builder.build()?;
        let handle = exporter.handle();
        let recorder = Recorder::default();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(recorder.clone())
            .with_batch_exporter(exporter)
            .with_resource(resource.clone())
            .build();
        Ok(Self { app: App::new(&provider), handle, provider, recorder, resource, made: Spans::new() })
    }

    /// Everything made so far.
    pub(super) fn made(&mut self) -> &Spans {
        self.made.append(&mut canonical::made(&self.recorder.take(), &self.resource));
        &self.made
    }

    /// Everything made so far, for the taking.
    pub(super) fn into_made(mut self) -> Spans {
        self.made();
        self.made
    }

    /// Serves requests, two spans each, no faster than the exporter has space for them.
    pub(super) fn serve(&mut self, requests: u64) -> Result<(), Failure> {
        for request in 0..requests {
            self.app.serve_nested();
            if request % (BURST / 2) == 0 {
                let made = self.made().len() as u64;
                let handle = &self.handle;
                wait_until("space for a burst", PATIENCE, || contender::has_space(made, handle))?;
            }
        }
        self.hand_over()
    }

    /// Waits until the batch processor has handed everything to the exporter.
    pub(super) fn hand_over(&mut self) -> Result<(), Failure> {
        self.provider.force_flush()?;
        let (made, offered) = (self.made().len() as u64, self.handle.ledger().offered);
        if made == offered {
            Ok(())
        } else {
            Err(format!("{made} spans were made, {offered} reached the exporter").into())
        }
    }

    /// Compares the made spans with the Collector's record, and checks the exporter's ledger.
    pub(super) fn compare(&mut self, collector: &Otelcol<'_>) -> Result<usize, Failure> {
        let count = self.made().len();
        canonical::compare(self.made(), &collector.spans(count, PATIENCE)?)?;
        self.handle.settled(PATIENCE)?;
        let ledger = self.handle.ledger();
        if ledger.delivered != count as u64 || ledger.imbalance() != 0 {
            return Err(format!("all {count} spans arrived, but the ledger says {ledger:?}").into());
        }
        Ok(count)
    }
}

pub(super) fn delivery(setup: &Setup, protocol: Protocol) -> Result<String, Failure> {
    let folder = tempfile::tempdir()?;
    let collector = Otelcol::otlp(setup, folder.path())?;
    let builder =
        contender::builder(Settings::Default, protocol, &collector.endpoint(protocol), &folder.path().join("state"))?;
    let mut traced = Traced::new(builder, contender::resource())?;
    traced.serve(1_500)?;
    let count = traced.compare(&collector)?;
    traced.provider.shutdown()?;
    Ok(format!("{count} spans, all alike"))
}

pub(super) fn killed(setup: &Setup, protocol: Protocol) -> Result<String, Failure> {
    let folder = tempfile::tempdir()?;
    let mut collector = Otelcol::otlp(setup, folder.path())?;
    let builder =
        contender::builder(Settings::Quick, protocol, &collector.endpoint(protocol), &folder.path().join("state"))?;
    let mut traced = Traced::new(builder, contender::resource())?;
    traced.serve(500)?;
    // Spans that the Collector has acknowledged and not yet written are lost with it, which is no fault of ours: wait
    // for the record.
    traced.compare(&collector)?;
    collector.kill()?;
    // More than the buffer takes: the rest goes to files.
    traced.serve(7_000)?;
    let handle = traced.handle.clone();
    wait_until("an open breaker", PATIENCE, || handle.health().metrics.circuit_breaker_trips > 0)?;
    collector.start()?;
    traced.serve(500)?;
    let count = traced.compare(&collector)?;
    let metrics = traced.handle.health().metrics;
    traced.provider.shutdown()?;
    if metrics.fallback_usage == 0 {
        return Err("nothing went to files: the outage was too short to show anything".into());
    }
    Ok(format!(
        "{count} spans, all alike; {} failed attempts, {} spills",
        metrics.failed_exports, metrics.fallback_usage
    ))
}

pub(super) fn over_its_limit(setup: &Setup, protocol: Protocol) -> Result<String, Failure> {
    const SPAN_BYTES: usize = 100 << 10;
    // As shipped: 4 MiB of a received message, 20 MiB of a body.
    let limit = match protocol {
        Protocol::Grpc => 4 << 20,
        Protocol::Http => 20 << 20,
    };
    let spans = 2 * limit / SPAN_BYTES;
    let folder = tempfile::tempdir()?;
    let collector = Otelcol::otlp(setup, folder.path())?;
    let state = folder.path().join("state");
    // Our own limits are out of the way, so that the Collector has to refuse.
    let builder = contender::unlimited(protocol, &collector.endpoint(protocol), &state)?;
    let mut traced = Traced::new(builder, contender::resource())?;
    for _ in 0..spans {
        traced.app.serve_large(SPAN_BYTES);
    }
    // Fewer than the 512 of a batch: they leave the batch processor as one.
    traced.hand_over()?;
    let count = traced.compare(&collector)?;
    let metrics = traced.handle.health().metrics;
    traced.provider.shutdown()?;
    if metrics.failed_exports == 0 || metrics.successful_exports < 2 {
        return Err(format!("it was never refused and split: {metrics:?}").into());
    }
    Ok(format!(
        "{count} spans of {} KiB in one batch, refused {} times, delivered in {} parts, all alike",
        SPAN_BYTES >> 10,
        metrics.failed_exports,
        metrics.successful_exports
    ))
}
