//! The Collector on Unix sockets.

use super::Setup;
use super::calls::Vars;
use super::otelcol::Otelcol;
use super::wire::{PATIENCE, Traced};
use crate::contender::{self, Protocol};
use crate::{Failure, wait_until};

/// Spans arrive alike, also those that were made while the Collector was dead.
pub(super) fn delivery(setup: &Setup, protocol: Protocol) -> Result<String, Failure> {
    let folder = tempfile::tempdir()?;
    let mut collector = Otelcol::sockets(setup, folder.path())?;
    let vars = Vars::new(protocol, collector.endpoint(protocol));
    let mut traced = Traced::new(vars.exporter(&folder.path().join("state"))?, contender::resource())?;
    traced.serve(300)?;
    traced.compare(&collector)?;
    collector.kill()?;
    traced.serve(150)?;
    let handle = traced.handle.clone();
    wait_until("a failed attempt", PATIENCE, || handle.health().metrics.failed_exports > 0)?;
    collector.start()?;
    let count = traced.compare(&collector)?;
    traced.provider.shutdown()?;
    Ok(format!("{count} spans, all alike, a third of them made while it was dead"))
}
