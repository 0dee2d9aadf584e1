//! The kill storm: an application under load is killed again and again at random moments, while its collector fails in
//! every way; an outside ledger of span ids shows in the end whether a span was lost.
//!
//! `docs/chaos.md` has the promises and how they are judged.

mod account;
pub(crate) mod conditions;
mod crowd;
pub(crate) mod disk;
mod ledger;
pub(crate) mod life;
mod report;
mod storm;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use report::Report;

use crate::Failure;

/// One storm.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Kills, at most.
    pub kills: u32,
    /// The seed of every random choice.
    pub seed: u64,
    /// How long processes are killed; the last, clean life comes on top.
    pub limit: Duration,
    /// Processes at a time on the one state directory. With several, each is killed, restarted or rolled over in turn
    /// while the others go on.
    pub processes: u32,
    /// Whether the application runs in durable mode.
    pub journal: bool,
    /// The promise that the storm checks.
    pub promise: Promise,
    /// Everything is written in here. Must not exist.
    pub folder: PathBuf,
}

/// The spans that must not be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// Each span that `export` accepted is delivered or on disk: durable mode.
    Accepted,
    /// Each span that was once on disk is delivered or on disk: any mode.
    Stored,
}

/// Runs the storm. `program` is this package's program, which also serves as the application and as the collector.
///
/// # Errors
///
/// When the trial itself breaks: no process, no port, no folder. A broken promise is no error here: it stands in the
/// report.
pub fn run(plan: &Plan, program: &Path) -> Result<Report, Failure> {
    storm::run(plan, program)
}

/// One life of the application, as the storm describes it in JSON; `started` is when `main` began.
///
/// # Errors
///
/// When the exporter cannot be built, or the outside ledger cannot be written.
pub fn live(settings: &str, started: Instant) -> Result<(), Failure> {
    life::live(&serde_json::from_str(settings)?, started)
}
