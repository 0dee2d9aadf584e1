//! The program `mock-collector`: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    mock_collector::run(std::env::args_os().skip(1))
}
