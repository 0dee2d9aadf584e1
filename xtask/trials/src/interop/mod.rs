//! Our exporter against the OpenTelemetry Collector itself, compared span by span.

mod files;
mod otelcol;
mod wire;

use std::path::PathBuf;

use crate::contender::Protocol;
use crate::{Failure, now};

/// Where the Collector and its configurations are.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The Collector's program.
    pub program: PathBuf,
    /// The folder with `otlp.yaml` and `files.yaml`.
    pub configs: PathBuf,
}

/// Runs every check and prints a line for each.
///
/// # Errors
///
/// When a check failed; all of them ran.
pub fn run(setup: &Setup) -> Result<(), Failure> {
    type Check<'a> = Box<dyn FnOnce() -> Result<String, Failure> + 'a>;
    let mut checks: Vec<(String, Check<'_>)> = Vec::new();
    for protocol in [Protocol::Grpc, Protocol::Http] {
        checks.push((format!("delivery by {protocol}"), Box::new(move || wire::delivery(setup, protocol))));
        checks.push((format!("killed and started again, {protocol}"), Box::new(move || wire::killed(setup, protocol))));
        checks.push((format!("over its limit, {protocol}"), Box::new(move || wire::over_its_limit(setup, protocol))));
    }
    for form in files::Form::ALL {
        checks.push((format!("its file receiver, {}", form.name()), Box::new(move || files::read_by_it(setup, form))));
    }
    let mut failed = 0;
    for (name, check) in checks {
        let started = now();
        let outcome = check();
        let seconds = started.elapsed().as_secs_f64();
        match outcome {
            Ok(seen) => println!("ok      {name}: {seen} ({seconds:.1} s)"),
            Err(failure) => {
                failed += 1;
                println!("FAILED  {name}: {failure} ({seconds:.1} s)");
            }
        }
    }
    if failed == 0 { Ok(()) } else { Err(format!("{failed} checks against the Collector failed").into()) }
}
