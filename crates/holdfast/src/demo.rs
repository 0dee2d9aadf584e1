//! `holdfast demo`: a collector dies under load and comes back, and every span is accounted for.

mod app;
mod report;
mod scene;
mod view;

use std::process::ExitCode;
use std::time::Duration;

use clap::ValueEnum;

/// The most spans of a run: the demo must fit any machine, and an id costs it about 80 bytes.
const MAX_SPANS: u64 = 2_000_000;
const MAX_RATE: u32 = 50_000;
const MIN_DURATION: Duration = Duration::from_secs(1);
const MAX_DURATION: Duration = Duration::from_secs(3600);

/// The arguments of `holdfast demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long the collector is down, in the middle of the run
    #[arg(long, value_name = "TIME", default_value = "8s", value_parser = duration)]
    outage: Duration,

    /// Spans a second that the application makes
    #[arg(long, value_name = "SPANS", default_value_t = 2_000)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_RATE)))]
    rate: u32,

    /// How long the application runs
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = duration)]
    duration: Duration,

    /// How spans are carried to the collector
    #[arg(long, value_enum, default_value_t = Protocol::Grpc)]
    protocol: Protocol,

    /// Print the result as one JSON object on the last line of standard output, everything else on standard error
    #[arg(long)]
    json: bool,
}

/// How spans are carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Protocol {
    Grpc,
    Http,
}

/// The course of the demo: the arguments, checked.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    /// Spans a second.
    rate: u32,
    protocol: Protocol,
    /// When the collector dies and when it comes back, from the start.
    down: Duration,
    up: Duration,
    /// When the application ends.
    end: Duration,
}

/// Runs the demo. The exit code is 0 only if no span was lost and the ledger balances, and 2 for impossible arguments.
pub(crate) fn run(args: Args) -> ExitCode {
    let plan = match plan(&args) {
        Ok(plan) => plan,
        Err(fault) => {
            eprintln!("error: {fault}\n\nFor more information, try 'holdfast demo --help'.");
            return ExitCode::from(2);
        }
    };
    let mut view = view::View::new(args.json);
    match scene::play(&plan, &mut view) {
        Ok(report) => view.finish(&report, args.json),
        Err(error) => {
            view.note(&format!("the demo could not run: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn plan(args: &Args) -> Result<Plan, String> {
    let &Args { outage, rate, duration, protocol, .. } = args;
    if !(MIN_DURATION..=MAX_DURATION).contains(&duration) {
        return Err(format!("--duration is {duration:?}; accepted: {MIN_DURATION:?} to {MAX_DURATION:?}"));
    }
    if outage > duration {
        return Err(format!(
            "--outage is {outage:?}, longer than the run; accepted: 0s to the {duration:?} of --duration"
        ));
    }
    let spans = u128::from(rate) * duration.as_millis() / 1000;
    if spans > u128::from(MAX_SPANS) {
        return Err(format!("--rate times --duration is {spans} spans; accepted: up to {MAX_SPANS}"));
    }
    let down = (duration - outage) / 2;
    Ok(Plan { rate, protocol, down, up: down + outage, end: duration })
}

/// `8s`, `250ms`, `5m`; a bare number is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|char: char| !char.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let milliseconds = match unit {
        "ms" => 1,
        "s" | "" => 1000,
        "m" => 60_000,
        _ => 0,
    };
    let number: Option<u64> = number.parse().ok();
    match number.and_then(|number| number.checked_mul(milliseconds)) {
        Some(total) if milliseconds > 0 => Ok(Duration::from_millis(total)),
        _ => Err("accepted: a whole number with ms, s or m behind it, such as 8s".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(outage: u64, rate: u32, duration: u64) -> Args {
        let (outage, duration) = (Duration::from_secs(outage), Duration::from_secs(duration));
        Args { outage, rate, duration, protocol: Protocol::Grpc, json: false }
    }

    #[test]
    fn durations_have_a_unit_or_are_seconds() {
        assert_eq!(duration("8s"), Ok(Duration::from_secs(8)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(duration("7"), Ok(Duration::from_secs(7)));
        for bad in ["", "s", "-1s", "1.5s", "8 s", "8h", "99999999999999999999s", "18446744073709551615s", "\u{661}s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_outage_stands_in_the_middle() {
        let plan = plan(&args(8, 2_000, 20)).expect("the defaults");
        let seconds = [plan.down, plan.up, plan.end].map(|time| time.as_secs());
        assert_eq!(seconds, [6, 14, 20]);
    }

    #[test]
    fn impossible_arguments_are_refused_by_name() {
        assert!(plan(&args(21, 2_000, 20)).unwrap_err().contains("--outage is 21s"));
        assert!(plan(&args(0, 2_000, 0)).unwrap_err().contains("--duration is 0ns"));
        assert!(plan(&args(0, 2_000, 3601)).unwrap_err().contains("--duration"));
        assert!(plan(&args(0, 50_000, 41)).unwrap_err().contains("2050000 spans"));
        assert!(plan(&args(20, 1, 20)).is_ok());
    }
}
