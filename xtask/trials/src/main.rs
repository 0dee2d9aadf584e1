//! Runs the trials: see the library.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use trials::chaos::{self, Plan as Storm, Promise};
use trials::collector::Fault;
use trials::interop::{self, Part, Setup};
use trials::latency::{self, Call, Condition};
use trials::outage::{self, Plan};
use trials::upgrade::{self, Programs};
use trials::{Failure, idle, now, setups, slow_disk, tls_front, volumes};

const USAGE: &str = "\
usage: trials outage [--short | --long | --fast]
       trials idle [--seconds N]          wake-ups of our threads in programs that do nothing
       trials idle-app <before>           such a program; used by the trial itself
       trials slow-disk [--seconds N]     the table of delays; needs strace
       trials slow-disk-load <settings>   its application; used by the trial itself
       trials latency [--seconds N]       times of `on_end` and `export` while collector or disk hangs
       trials soak [--minutes N] [--seed S] [--folder F]  random faults of the collector under load, 30 min long
       trials soak-app <settings>         its application; used by the trial itself
       trials interop [<part>] --collector <program> --configs <folder>, and those that the part needs of
                      --python <program> --otlp-py <program> --tinyproxy <program> --squid <program>
                      --openssl <program> --nginx <program>
       trials chaos [<storm> [options]]   without a storm: lists the storms and their options
       trials upgrade <old> <new>         two builds of the service `upgraded_service` on one directory
       trials setups <program> <page> [--write | <part of a name>]  wrong set-ups; needs root
       trials volumes [<part of a name>]  directories as container platforms mount them; needs root
       trials collector [options]         the mock collector; used by the trials themselves
       trials tls-front <gRPC address> <HTTP address> <folder>  TLS before a collector; used by the benches
       trials chaos-life <settings>       one life of a storm; used by the storm itself
       trials names-app                   an application; used by the part `names` of `interop`
       trials signals-app <signal> <state directory>  an application; used by the part `signals` of `interop`
       trials volumes-app <spans> <end>   one life of an application; used by the cases of `volumes`
";

const STORMS: &str = "\
usage: cargo xtask chaos <storm> [options]

  kill                 an application under load is killed (SIGKILL) at random moments while its collector fails in every
                       way; an outside ledger of span ids judges: docs/chaos.md
    --kills N          the number of kills, by default 300
    --minutes M        the longest duration, by default 5; one clean life follows
    --seed S           repeats the plan of an earlier storm; by default a new one
    --processes N      so many at a time on one state directory, by default 1: killed, restarted, rolled over by turns
    --no-journal       without durable mode: only spans that were once on disk must not be lost
";

fn main() -> ExitCode {
    let started = now();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(("collector", rest)) = arguments.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        return mock_collector::run(rest.iter().map(Into::into));
    }
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["outage"] => outages(10, 0.90).and_then(|()| fast_outages(10, 0.90)),
        ["outage", "--short"] => outages(2, 0.50).and_then(|()| fast_outages(2, 0.50)),
        ["outage", "--fast"] => fast_outages(10, 0.90),
        ["outage", "--fast", "--short"] => fast_outages(2, 0.50),
        ["outage", "--long"] => long_outage(),
        ["interop", options @ ..] => interop_part(options),
        ["idle"] => wakeups(60),
        ["idle", "--seconds", seconds] => seconds.parse().map_err(Failure::from).and_then(wakeups),
        ["idle-app", before] => idle::live(before),
        ["latency"] => latencies(2.0),
        ["latency", "--seconds", seconds] => seconds.parse().map_err(Failure::from).and_then(latencies),
        ["soak", options @ ..] => soak(options),
        ["soak-app", settings] => trials::soak::live(settings),
        ["slow-disk"] => slow_disk_table(20),
        ["slow-disk", "--seconds", seconds] => seconds.parse().map_err(Failure::from).and_then(slow_disk_table),
        ["slow-disk-load", settings] => slow_disk::load(settings),
        ["upgrade", old, new] => upgraded(&Programs { old: old.into(), new: new.into() }),
        ["chaos"] => {
            print!("{STORMS}");
            Ok(())
        }
        ["chaos", "kill", options @ ..] => kill_storm(options),
        ["chaos", storm, ..] => Err(format!("there is no storm {storm:?}\n\n{STORMS}").into()),
        ["volumes"] => volumes::run(""),
        ["volumes", filter] => volumes::run(filter),
        ["setups", program, page] => setups::run(program.as_ref(), page.as_ref(), "", false),
        ["setups", program, page, "--write"] => setups::run(program.as_ref(), page.as_ref(), "", true),
        ["setups", program, page, filter] => setups::run(program.as_ref(), page.as_ref(), filter, false),
        ["names-app"] => interop::live(),
        ["signals-app", signal, state] => interop::live_signal(signal, state.as_ref()),
        ["volumes-app", spans, end] => volumes::live(spans, end),
        ["tls-front", grpc, http, folder] => tls_front::serve(grpc, http, folder.as_ref()),
        ["chaos-life", settings] => chaos::live(settings, started),
        _ => Err(USAGE.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("trials: {failure}");
            ExitCode::FAILURE
        }
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

/// The same at 50,000 spans a second through our processor, with its memory in a second table.
fn fast_outages(seconds: u32, stock_loss: f64) -> Result<(), Failure> {
    let program = std::env::current_exe()?;
    println!("\n50,000 spans/s through our span processor, the stock exporter behind the SDK's\n{}", outage::HEAD);
    let (mut wrong, mut memory) = (Vec::new(), Vec::new());
    for fault in Fault::ALL {
        for row in outage::fast::run(&outage::fast::Plan::new(fault, seconds), &program)? {
            println!("{row}");
            wrong.extend(row.verdict(stock_loss).err());
            memory.extend(row.memory());
        }
    }
    println!("\n{}\n{}", outage::fast::HEAD, memory.join("\n"));
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

/// The whole lane `interop`, or one part of it.
fn interop_part(options: &[&str]) -> Result<(), Failure> {
    let (part, options) = match options.split_first() {
        Some((first, rest)) if !first.starts_with("--") => {
            let part = Part::ALL.into_iter().find(|part| part.name() == *first);
            (Some(part.ok_or_else(|| format!("interop has no part {first:?}\n\n{USAGE}"))?), rest)
        }
        _ => (None, options),
    };
    let mut setup = Setup::default();
    for pair in options.chunks(2) {
        let [name, value] = pair else { return Err(format!("{pair:?} needs a value\n\n{USAGE}").into()) };
        let place = match *name {
            "--collector" => &mut setup.program,
            "--configs" => &mut setup.configs,
            "--python" => &mut setup.python,
            "--otlp-py" => &mut setup.otlp_py,
            "--tinyproxy" => &mut setup.tinyproxy,
            "--squid" => &mut setup.squid,
            "--openssl" => &mut setup.openssl,
            "--nginx" => &mut setup.nginx,
            _ => return Err(format!("interop has no option {name:?}\n\n{USAGE}").into()),
        };
        *place = value.into();
    }
    match part {
        Some(part) => interop::run_part(&setup, part),
        None => interop::run(&setup),
    }
}

/// Prints the table; fails if a thread woke up more often than its bound.
fn wakeups(seconds: u64) -> Result<(), Failure> {
    println!("programs that do nothing for {seconds} s\n{}", idle::HEAD);
    let mut wrong = Vec::new();
    for row in idle::run(&std::env::current_exe()?, seconds)? {
        println!("{row}");
        wrong.extend(row.verdict().err());
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}

/// Prints the table; fails if a call took as long as a wait for collector or disk.
fn latencies(seconds: f64) -> Result<(), Failure> {
    let (program, time) = (std::env::current_exe()?, Duration::try_from_secs_f64(seconds)?);
    println!(
        "10,000 spans/s through the processor; 100 batches/s of 512 spans to the exporter alone\n{}",
        latency::HEAD
    );
    let mut wrong = Vec::new();
    for call in [Call::OnEnd, Call::Export] {
        for condition in Condition::ALL {
            for producers in latency::PRODUCERS {
                let row = latency::run(condition, call, producers, time, &program)?;
                println!("{row}");
                wrong.extend(row.verdict().err());
            }
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}

/// Prints the report; fails if a number is not as it must be, and then leaves the folder in place.
fn soak(options: &[&str]) -> Result<(), Failure> {
    let mut plan = trials::soak::Plan {
        time: Duration::from_secs(30 * 60),
        rest: Duration::from_secs(60),
        seed: RandomState::new().build_hasher().finish() >> 32,
        rate: 2_000,
        folder: PathBuf::from("target/soak"),
    };
    for pair in options.chunks(2) {
        let [name, value] = pair else { return Err(format!("{pair:?} needs a value\n\n{USAGE}").into()) };
        match *name {
            "--minutes" => plan.time = Duration::try_from_secs_f64(value.parse::<f64>()? * 60.0)?,
            "--seed" => plan.seed = value.parse()?,
            "--folder" => plan.folder = value.into(),
            _ => return Err(format!("soak has no option {name:?}\n\n{USAGE}").into()),
        }
    }
    plan.folder = std::path::absolute(plan.folder)?.join(format!("seed-{}", plan.seed));
    if plan.folder.exists() {
        std::fs::remove_dir_all(&plan.folder)?;
    }
    std::fs::create_dir_all(&plan.folder)?;
    println!("soak, seed {}, for {:?}", plan.seed, plan.time);
    let report = trials::soak::run(&plan, &std::env::current_exe()?)?;
    println!("{report}");
    if !report.wrong.is_empty() {
        let wrong = report.wrong.join("\n  ");
        return Err(format!("not as it must be; everything is kept in {}\n  {wrong}", plan.folder.display()).into());
    }
    std::fs::remove_dir_all(&plan.folder)?;
    Ok(())
}

/// Prints the table; fails if a row misses its gate.
fn slow_disk_table(seconds: u32) -> Result<(), Failure> {
    let program = std::env::current_exe()?;
    println!("durable mode at 3,000 spans/s for {seconds} s, the collector gone\n{}", slow_disk::HEAD);
    let mut wrong = Vec::new();
    for (delay, least) in slow_disk::DELAYS {
        let row = slow_disk::run(&program, delay, least, seconds)?;
        println!("{row}");
        wrong.extend(row.verdict().err());
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}

/// Fails if a scenario lost, repeated or touched anything.
fn upgraded(programs: &Programs) -> Result<(), Failure> {
    let wrong = upgrade::run(programs, &std::env::current_exe()?)?;
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}

/// Prints the report; fails if a promise was broken, and then leaves the folder in place.
fn kill_storm(options: &[&str]) -> Result<(), Failure> {
    let mut storm = Storm {
        kills: 300,
        seed: RandomState::new().build_hasher().finish() >> 32,
        limit: Duration::from_secs(5 * 60),
        processes: 1,
        journal: true,
        promise: Promise::Accepted,
        folder: PathBuf::from("target/chaos"),
    };
    let mut options = options.iter();
    while let Some(option) = options.next() {
        let mut value = || options.next().ok_or_else(|| Failure::from(format!("{option} needs a value\n\n{STORMS}")));
        match *option {
            "--kills" => storm.kills = value()?.parse()?,
            "--seed" => storm.seed = value()?.parse()?,
            "--minutes" => storm.limit = Duration::try_from_secs_f64(value()?.parse::<f64>()? * 60.0)?,
            "--processes" => storm.processes = value()?.parse::<u32>()?.clamp(1, 16),
            "--folder" => storm.folder = value()?.into(),
            "--no-journal" => (storm.journal, storm.promise) = (false, Promise::Stored),
            _ => return Err(format!("there is no option {option:?}\n\n{STORMS}").into()),
        }
    }
    // Absolute: the application gets it as its state directory.
    storm.folder = std::path::absolute(storm.folder)?.join(format!("seed-{}", storm.seed));
    if storm.folder.exists() {
        std::fs::remove_dir_all(&storm.folder)?;
    }
    println!("kill storm, seed {}: up to {} kills in {:?}", storm.seed, storm.kills, storm.limit);
    let report = chaos::run(&storm, &std::env::current_exe()?)?;
    println!("{report}");
    if !report.wrong.is_empty() {
        let wrong = report.wrong.join("\n  ");
        return Err(format!("not as it must be; everything is kept in {}\n  {wrong}", storm.folder.display()).into());
    }
    std::fs::remove_dir_all(&storm.folder)?;
    Ok(())
}
