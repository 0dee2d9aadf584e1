//! Directories as container platforms mount them: an application under another user keeps its spans there while the
//! collector is away, ends by a signal or a shutdown, and the next start delivers them. Needs root: the cases change
//! users, owners and mounts.

mod app;
mod cases;
mod world;

use crate::Failure;

/// Plays all cases, or those whose name contains `filter`, and prints a line for each. The application is this program.
///
/// # Errors
///
/// When this is not root, when a tool is missing, or with each case in which a span was lost, `main` had an error, a
/// file was made elsewhere, or a mode was wider than 0700 and 0600.
pub fn run(filter: &str) -> Result<(), Failure> {
    if !rustix::process::geteuid().is_root() {
        return Err("the lane changes users, owners and mounts: run it as root".into());
    }
    let stage = world::Stage::new(&std::env::current_exe()?)?;
    println!("{:54} {:8} {:>6} {:>9}  result", "case", "end", "spans", "delivered");
    let mut wrong = Vec::new();
    let mut played = 0;
    for case in cases::all().iter().filter(|case| case.name.contains(filter)) {
        for end in case.ends() {
            let result = case.play(&stage, *end);
            let (spans, delivered) = result.as_ref().map_or((0, 0), |counts| *counts);
            let word = if result.is_ok() { "ok" } else { "WRONG" };
            println!("{:54} {:8} {spans:6} {delivered:9}  {word}", case.name, end.name());
            if let Err(failure) = result {
                println!("    {failure}");
                wrong.push(format!("{}, {}: {failure}", case.name, end.name()));
            }
            played += 1;
        }
    }
    match (played, wrong.len()) {
        (0, _) => Err(format!("no case has a name with {filter:?}").into()),
        (_, 0) => Ok(()),
        (_, count) => {
            Err(format!("{count} of {played} cases are not as they must be:\n  {}", wrong.join("\n  ")).into())
        }
    }
}

/// One life of the application.
///
/// # Errors
///
/// When telemetry cannot be set up: the error of `main` that the cases look for.
pub fn live(spans: &str, end: &str) -> Result<(), Failure> {
    app::live(spans.parse()?, end)
}
