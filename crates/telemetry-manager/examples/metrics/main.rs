//! Writes the pages that are made from the table of metrics: `docs/metrics.md`, the Grafana dashboard, the alert rules
//! for Prometheus and their unit tests.
//!
//! `cargo run -p telemetry-manager --example metrics -- docs` writes them below `docs`; without a folder their sizes
//! are printed alone.

mod pages;

use std::path::PathBuf;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let folder = env::args_os().nth(1).map(PathBuf::from);
    for (name, text) in pages::all() {
        println!("{name}: {} lines", text.lines().count());
        if let Some(folder) = &folder {
            let path = folder.join(name);
            path.parent().map_or(Ok(()), fs::create_dir_all)?;
            fs::write(path, text)?;
        }
    }
    println!("{} queries in the dashboard, {} alerts", pages::dashboard::queries().len(), pages::alerts::ALERTS.len());
    Ok(())
}
