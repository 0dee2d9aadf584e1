//! Figures of `holdfast serve` with limits: the time until it is ready, memory and wake-ups while it is idle, and the
//! answers of the health route while 5,000 spans a second flow and the collector is down.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use super::programs::{Programs, Service};
use super::{found, http};
use crate::fail::Failure;
use crate::process::{self, now};
use crate::workspace::Workspace;

const READY: Duration = Duration::from_secs(1);
/// KiB.
const MEMORY: u64 = 30 * 1024;
const WAKE_UPS_PER_SECOND: f64 = 1.0;
const ANSWER_P99: Duration = Duration::from_millis(5);

/// After the start: warnings and look-ups of it are done.
const SETTLE: Duration = Duration::from_secs(5);
/// The time in which wake-ups are counted.
const COUNTED: Duration = Duration::from_secs(30);
/// The time in which health is asked under load, in each round.
const LOADED: Duration = Duration::from_secs(15);
/// Rounds under load, at most: the best one counts, because other programs of the machine only add to the times.
const ROUNDS: usize = 4;

/// A load each 100 ms makes 5,000 spans a second.
const LOADS: (Duration, &str, f64) = (Duration::from_millis(100), r#"{"span_count": 500}"#, 500.0);
/// The least rate that counts as 5,000 a second.
const RATE: f64 = 4_800.0;

const HEALTH: &str = "/telemetry-test/health";

pub(super) fn run(workspace: &Workspace) -> Result<(), Failure> {
    let programs = Programs::build(workspace, "figures", true)?;
    let mut collector = programs.collector()?;
    let endpoint = collector.endpoint();
    let mut service = programs.serve(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)])?;
    println!("e2e figures: {}", machine());
    let ready = service.ready_after;

    thread::park_timeout(SETTLE);
    let (before, begin) = (waits(service.id())?, now());
    while begin.elapsed() < COUNTED {
        thread::park_timeout(COUNTED.saturating_sub(begin.elapsed()));
    }
    let (after, seconds) = (waits(service.id())?, begin.elapsed().as_secs_f64());
    let wake_ups = wake_ups(&before, &after) as f64 / seconds;
    let memory = memory(service.id())?;

    collector.kill();
    let mut loaded = under_load(&service)?;
    for _ in 1..ROUNDS {
        println!("  health under load: {loaded}");
        if loaded.rate >= RATE && loaded.p99 <= ANSWER_P99 {
            break;
        }
        let next = under_load(&service)?;
        if next.rate >= RATE && (next.p99 < loaded.p99 || loaded.rate < RATE) {
            loaded = next;
        }
    }
    service.check_alive()?;
    let rows = [
        row("ready after the start", ready.as_secs_f64() * 1e3, READY.as_secs_f64() * 1e3, "ms"),
        row("memory of the idle service (RSS)", memory as f64 / 1024.0, MEMORY as f64 / 1024.0, "MiB"),
        row("wake-ups of the idle service", wake_ups, WAKE_UPS_PER_SECOND, "a second"),
        row("health under load, p99", loaded.p99.as_secs_f64() * 1e3, ANSWER_P99.as_secs_f64() * 1e3, "ms"),
    ];
    if loaded.rate < RATE {
        return Err(found(format!("the load was {:.0} spans/s: too few to judge the answers under it", loaded.rate)));
    }
    let beyond: Vec<_> = rows.into_iter().flatten().collect();
    if beyond.is_empty() { Ok(()) } else { Err(found(format!("beyond the limit: {}", beyond.join("; ")))) }
}

/// Prints a figure beside its limit, and gives it back if it is beyond.
fn row(name: &str, figure: f64, limit: f64, unit: &str) -> Option<String> {
    let line = format!("{name}: {figure:.2} {unit} (limit {limit} {unit})");
    println!("  {line}");
    (figure > limit).then_some(line)
}

struct Loaded {
    p50: Duration,
    p99: Duration,
    answers: usize,
    /// Spans a second that were made meanwhile.
    rate: f64,
}

impl fmt::Display for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99] = [self.p50, self.p99].map(|time| time.as_secs_f64() * 1e3);
        write!(f, "p50 {p50:.2} ms, p99 {p99:.2} ms, {} answers at {:.0} spans/s", self.answers, self.rate)
    }
}

/// Asks for health all the time, with a load beside it that has its own threads.
fn under_load(service: &Service) -> Result<Loaded, Failure> {
    let (address, begin) = (service.address, now());
    let (interval, body, spans) = LOADS;
    // Two loads run at a time: while one waits for its answer, the other one is sent.
    let loaders: Vec<_> = (0..2_u32)
        .map(|number| {
            thread::spawn(move || -> Result<f64, Failure> {
                let (mut due, mut made) = (begin + interval * number, 0.0);
                while begin.elapsed() < LOADED {
                    wait_until(due);
                    let answer = http::post(address, "/telemetry-test/generate-loads", body)?;
                    if answer.status != 200 {
                        return Err(found(format!("a load was refused: {}", answer.body)));
                    }
                    made += spans;
                    due += 2 * interval;
                }
                Ok(made)
            })
        })
        .collect();
    let mut times = Vec::new();
    while begin.elapsed() < LOADED {
        let asked = now();
        let answer = http::get(address, HEALTH)?;
        // 503 is an answer too: a test of the time, and not of the state.
        if ![200, 503].contains(&answer.status) {
            return Err(found(format!("{HEALTH}: status {}", answer.status)));
        }
        times.push(asked.elapsed());
        wait_until(asked + Duration::from_millis(5));
    }
    let mut made = 0.0;
    for loader in loaders {
        made += loader.join().map_err(|_| found("a thread of the load panicked"))??;
    }
    let rate = made / begin.elapsed().as_secs_f64();
    times.sort_unstable();
    Ok(Loaded { p50: quantile(&times, 0.5), p99: quantile(&times, 0.99), answers: times.len(), rate })
}

fn wait_until(due: Instant) {
    loop {
        let left = due.saturating_duration_since(now());
        if left.is_zero() {
            return;
        }
        thread::park_timeout(left);
    }
}

/// The least of the sorted times that is not below a share of them.
fn quantile(sorted: &[Duration], share: f64) -> Duration {
    let at = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(at.saturating_sub(1)).copied().unwrap_or(Duration::MAX)
}

/// Waits of each thread of a process that ended by a wake-up, since the start of the thread.
fn waits(process: u32) -> Result<BTreeMap<OsString, u64>, Failure> {
    let folder = format!("/proc/{process}/task");
    let threads = fs::read_dir(&folder).map_err(|source| Failure::File { path: folder.into(), source })?;
    let mut waits = BTreeMap::new();
    for thread in threads.flatten() {
        // A thread may end between the two looks.
        let Ok(status) = fs::read_to_string(thread.path().join("status")) else { continue };
        waits.insert(thread.file_name(), field(&status, "voluntary_ctxt_switches").unwrap_or(0));
    }
    Ok(waits)
}

/// The wake-ups between two looks. A thread that has ended meanwhile takes none of the others' with it.
fn wake_ups(before: &BTreeMap<OsString, u64>, after: &BTreeMap<OsString, u64>) -> u64 {
    let since = |(thread, waits): (&OsString, &u64)| waits.saturating_sub(before.get(thread).copied().unwrap_or(0));
    after.iter().map(since).sum()
}

/// KiB of a process in memory.
fn memory(process: u32) -> Result<u64, Failure> {
    let path = format!("/proc/{process}/status");
    let status = fs::read_to_string(&path).map_err(|source| Failure::File { path: path.clone().into(), source })?;
    field(&status, "VmRSS").ok_or_else(|| found(format!("{path} has no VmRSS")))
}

fn field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The machine in words.
fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("", |(_, m)| m);
    let cores = thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or_default();
    let version =
        process::capture_quietly(std::process::Command::new("rustc").arg("--version"), Duration::from_secs(10));
    let version = version.unwrap_or_default();
    format!("{cores} cores {model}, Linux {}, {}, load {load}", read("/proc/sys/kernel/osrelease"), version.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_times_that_occurred() {
        let times: Vec<_> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!((quantile(&times, 0.5), quantile(&times, 0.99)), (times[99], times[197]));
        assert_eq!(quantile(&times[..1], 0.99), times[0]);
        assert_eq!(quantile(&[], 0.5), Duration::MAX, "no answer is no fast one");
    }

    #[test]
    fn a_thread_that_has_ended_hides_no_wake_up_of_the_others() {
        let look = |threads: &[(&str, u64)]| threads.iter().map(|(thread, waits)| ((*thread).into(), *waits)).collect();
        let (before, after) = (look(&[("1", 5), ("2", 40)]), look(&[("1", 8), ("3", 2)]));
        assert_eq!(wake_ups(&before, &after), 5);
    }

    #[test]
    fn a_field_of_the_kernel_is_read_by_its_whole_name() {
        let status = "VmRSS:\t   12345 kB\nnonvoluntary_ctxt_switches:\t7\nvoluntary_ctxt_switches:\t3\n";
        assert_eq!((field(status, "VmRSS"), field(status, "voluntary_ctxt_switches")), (Some(12_345), Some(3)));
    }
}
