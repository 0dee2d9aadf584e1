//! The project's own commands: `cargo xtask <lane>`. Each lane is one module. A lane whose tool is missing fails with
//! the tool's name and the way to get it; nothing is skipped.

mod bench;
mod chaos;
mod e2e;
mod fail;
mod fuzz;
mod gate;
mod interop;
mod mutants;
mod process;
mod setups;
mod tidy;
mod trials;
mod upgrade;
mod volumes;
mod workspace;

use std::process::ExitCode;

use fail::Failure;
use workspace::Workspace;

const USAGE: &str = "\
usage: cargo xtask <lane> [options]

  test [--quick | -p CRATE]
                       the whole gate: fmt, tidy, clippy, tests, doc tests, benches in test mode, examples, loom, docs,
                       each crate built alone; --quick: fmt, tidy, clippy, unit and integration tests; -p: fmt, tidy,
                       clippy, tests and doc tests of one crate; needs cargo and a C compiler
  tidy                 rules that no other tool checks: arrows between crates and rooms, manifests, sources, links,
                       words and widths of comments
  bench [--quick] [FILTER]
                       the gated budgets, then the criterion benches, those whose name contains FILTER; --quick: the
                       budgets alone, a line each and the table, within 3 minutes; needs valgrind
  outage [--short | --long | --fast]
                       10 s outages (2 s) at 5,000 spans/s, the stock exporter and ours side by side behind the SDK's
                       processor, then at 50,000 spans/s ours behind its own (--fast: these alone); 10 min, ours alone
  latency [--seconds N]
                       times of on_end and export, 2 s a row, while the collector or the disk hangs and during spills,
                       with 1, 2 and 8 producers
  soak [--minutes N] [--seed S]
                       random faults of the collector and restarts of an application for 30 min: no span lost, the
                       ledger exact, memory flat, wake-ups counted
  idle [--seconds N]   wake-ups of our threads in programs that do nothing, 60 s long: none while nothing is stored
  chaos [kill]         storms: an application killed at random moments, judged by an outside ledger of span ids; without
                       a name it lists them
  upgrade [COMMIT]     upgrade, rollback and both at once: the version of COMMIT, by default the last one with the
                       layout before the present one, and this one on one directory; needs git and the history
  trials slow-disk [--seconds N]
                       durable mode without a collector on a disk whose sync takes 0 to 300 ms; needs strace
  mutants [FILTER] [--since COMMIT | --all] [--write]
                       the tests of a crate must find each bug that is planted in it: bugs of the crates that differ from
                       COMMIT (the merge base with origin/main), those of the name or crate FILTER, or all; --write puts
                       the results into docs/mutants.md; needs git
  fuzz [FILTER] [--seconds N | --long] [--keep]
                       any bytes for each reader of untrusted bytes, 60 s a target (600 s); needs cargo-fuzz and the
                       toolchain nightly; --keep goes on from the inputs that the last run with it has found
  volumes [FILTER]     an application under other users in directories as container platforms mount them, killed or shut
                       down while its collector is away; the cases whose name contains FILTER, or all; needs root
  setups [FILTER | --write]
                       the README's program in a folder of its own starts with each of fifty-six wrong or unusual
                       set-ups; docs/setups.md says what it must do, --write puts there what it does; needs root
  e2e [api | walk | figures | prometheus]
                       `holdfast serve` from outside: its API fuzzed from its own OpenAPI document, the walk of
                       docs/testing.md with a collector that is killed, its start, memory, wake-ups and answers under
                       load; alert rules, dashboard and page before Prometheus' own tools. Needs python3 with venv, and
                       PyPI at the first run; `walk` also curl, `prometheus` the package prometheus
  interop [proxies | tls | peers | names | socket | auth | codings | signals]
                       against the OpenTelemetry Collector itself, also behind real proxies, behind TLS of its own, of
                       nginx and of openssl, by a name whose address changes, on Unix sockets, behind a token, with
                       compressed requests and with logs and metrics (these parts run alone too), and our files against
                       it, jq, gzip, zstd and google.protobuf; needs go (or OTELCOL_BIN=<its program>); the whole needs
                       jq, gzip, zstd, python3 with venv, tinyproxy, squid, openssl, nginx and the right to mount,
                       `proxies` and `peers` two programs of these each, `signals` the first four, `names` that right
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.split_first() {
        Some((lane, rest)) => run(lane, rest),
        None => Err(Failure::Usage("no lane given".into())),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("xtask: {failure}");
            if let Failure::Usage(_) = failure {
                eprint!("\n{USAGE}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(lane: &str, rest: &[String]) -> Result<(), Failure> {
    if matches!(lane, "help" | "--help" | "-h") {
        print!("{USAGE}");
        return Ok(());
    }
    let workspace = Workspace::find()?;
    match lane {
        "test" => gate::run(&workspace, rest),
        "tidy" => no_options(rest).and_then(|()| tidy::run(&workspace)),
        "bench" => bench::run(&workspace, rest),
        "outage" | "idle" | "latency" | "soak" => trials::lane(&workspace, lane, rest),
        "chaos" => chaos::run(&workspace, rest),
        "upgrade" => upgrade::run(&workspace, rest),
        "trials" => trials::run(&workspace, rest),
        "mutants" => mutants::run(&workspace, rest),
        "setups" => setups::run(&workspace, rest),
        "volumes" => volumes::run(&workspace, rest),
        "fuzz" => fuzz::run(&workspace, rest),
        "e2e" => e2e::run(&workspace, rest),
        "interop" => interop::run(&workspace, rest),
        other => Err(Failure::Usage(format!("there is no lane {other:?}"))),
    }
}

fn no_options(rest: &[String]) -> Result<(), Failure> {
    match rest.first() {
        None => Ok(()),
        Some(option) => Err(Failure::Usage(format!("this lane takes no option, got {option:?}"))),
    }
}
