//! The `holdfast` command: `serve` (also without a subcommand) and `demo`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod demo;
mod serve;

/// Telemetry that survives its collector.
#[derive(Debug, Parser)]
#[command(name = "holdfast", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    serve: serve::Args,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve health and metrics over HTTP and trace its own requests; runs also without a subcommand
    Serve(serve::Args),
    /// Kill a collector under load, bring it back, and account for every span
    Demo(demo::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {
        Some(Command::Demo(args)) => demo::run(args),
        Some(Command::Serve(args)) => serve::run(args),
        None => serve::run(cli.serve),
    }
}
