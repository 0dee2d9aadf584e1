//! Runs the trials: see the library.

use std::process::ExitCode;

use trials::Failure;
use trials::collector::Fault;
use trials::interop::{self, Setup};
use trials::outage::{self, Plan};

const USAGE: &str = "\
usage: trials outage [--short | --long]
       trials interop --collector <program> --configs <folder> --python <program> --otlp-py <program>
       trials collector [options]         the mock collector; used by the trials themselves
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(("collector", rest)) = arguments.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        return mock_collector::run(rest.iter().map(Into::into));
    }
    match run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("trials: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[&str]) -> Result<(), Failure> {
    match arguments {
        ["outage"] => outages(10, 0.90),
        ["outage", "--short"] => outages(2, 0.50),
        ["outage", "--long"] => long_outage(),
        ["interop", "--collector", program, "--configs", configs, "--python", python, "--otlp-py", otlp_py] => {
            interop::run(&Setup {
                program: program.into(),
                configs: configs.into(),
                python: python.into(),
                otlp_py: otlp_py.into(),
            })
        }
        _ => Err(USAGE.into()),
    }
}

/// Prints the table; fails if ours lost anything, or if stock lost less than `stock_loss` of an outage's spans.
fn outages(seconds: u32, stock_loss: f64) -> Result<(), Failure> {
    let program = std::env::current_exe()?;
    println!("{}", outage::HEAD);
    let mut wrong = Vec::new();
    for fault in Fault::ALL {
        for row in outage::run(&Plan::timed(fault, seconds), &program)? {
            println!("{row}");
            wrong.extend(row.verdict(stock_loss).err());
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}

/// Ten minutes, ours alone; fails if anything was lost.
fn long_outage() -> Result<(), Failure> {
    println!("{}", outage::HEAD);
    let rows = outage::run(&Plan::long(), &std::env::current_exe()?)?;
    for row in &rows {
        println!("{row}");
        if let Some(ours) = &row.ours {
            println!("{}; {} spans delivered, {}", row.exporter, ours.ledger.delivered, ours.usage());
        }
        row.verdict(0.0)?;
    }
    Ok(())
}
