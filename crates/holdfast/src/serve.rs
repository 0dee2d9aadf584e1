//! `holdfast serve`: health and metrics over HTTP, the server's own requests traced through the manager.

use std::net::SocketAddr;
use std::process::ExitCode;

/// What `holdfast serve` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Address and port to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:5210")]
    listen: SocketAddr,
}

/// Serves until SIGINT or SIGTERM.
pub(crate) fn run(args: Args) -> ExitCode {
    eprintln!("holdfast: nothing to serve on {} yet", args.listen);
    ExitCode::FAILURE
}
