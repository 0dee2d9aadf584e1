//! Programs that do nothing: the wake-ups of our threads, read from the kernel, while nothing is stored and while spans
//! wait for a collector that is away.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use opentelemetry::trace::{Tracer as _, TracerProvider as _};
use resilient_exporter::Handle;
use telemetry_manager::OpenTelemetryManager;

use crate::collector::Collector;
use crate::{Failure, now, wait_until};

/// The longest wait for a program to be ready.
const PATIENCE: Duration = Duration::from_secs(60);

/// Before the count begins: warnings of the start are logged within this time.
const SETTLE: Duration = Duration::from_secs(12);

/// Wake-ups within a minute, at most, of each thread. The kernel counts each wait for the disk as one too.
#[derive(Clone, Copy, Debug)]
struct Bound {
    net: u64,
    disk: u64,
    journal: u64,
}

const NONE: Bound = Bound { net: 0, disk: 0, journal: 0 };

/// The deeds of a program before it fell silent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Before {
    /// The program has traced nothing.
    Nothing,
    /// All of its spans are delivered.
    Delivered,
    /// The breaker is open, and its spans wait in memory.
    InMemory,
    /// The breaker is open, and its spans wait in files.
    InFiles,
}

impl Before {
    const ALL: [(Self, &str); 4] = [
        (Self::Nothing, "nothing"),
        (Self::Delivered, "delivered"),
        (Self::InMemory, "in-memory"),
        (Self::InFiles, "in-files"),
    ];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(before, _)| *before == self).map_or("", |(_, name)| name)
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, own)| *own == name).map(|(before, _)| *before)
    }
}

/// One program.
struct Case {
    name: &'static str,
    before: Before,
    variables: &'static [(&'static str, &'static str)],
    has_collector: bool,
    /// Another process lives in the same state directory.
    has_neighbour: bool,
    bound: Bound,
}

const HTTP: (&str, &str) = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
const DURABLE: (&str, &str) = ("TELEMETRY_JOURNAL_ENABLED", "true");
const MEMORY: (&str, &str) = ("TELEMETRY_FALLBACK_ENABLED", "false");

/// A hundred spans do not fit into a buffer of this size: some of them go to files.
const SMALL: (&str, &str) = ("TELEMETRY_BUFFER_MAX_SPANS", "60");

/// A probe takes the net thread a few wake-ups: its instant, the connection, the refusal. Each of them lets the other
/// threads look for ended processes, at most once in 5 s.
const PROBES: u64 = 16;
const LOOKS: u64 = 24;

/// While files wait, a clean-up each 5 s.
const UPKEEP: u64 = 48;

const CASES: [Case; 10] = [
    Case::quiet("no span", Before::Nothing, &[], true),
    Case::quiet("no span, no collector", Before::Nothing, &[], false),
    Case::quiet("all delivered, gRPC", Before::Delivered, &[], true),
    Case::quiet("all delivered, HTTP", Before::Delivered, &[HTTP], true),
    Case::quiet("all delivered, durable", Before::Delivered, &[DURABLE], true),
    Case::quiet("all delivered, memory only", Before::Delivered, &[MEMORY], true),
    Case {
        has_neighbour: true,
        bound: Bound { disk: 24, ..NONE },
        ..Case::quiet("all delivered, beside another process", Before::Delivered, &[], true)
    },
    Case::waiting("memory waits", Before::InMemory, &[], Bound { net: PROBES, disk: LOOKS, journal: 0 }),
    Case::waiting("files wait", Before::InFiles, &[SMALL], Bound { net: PROBES, disk: UPKEEP, journal: 0 }),
    Case::waiting(
        "files and a journal wait",
        Before::InFiles,
        &[SMALL, DURABLE],
        Bound { net: PROBES, disk: UPKEEP, journal: UPKEEP },
    ),
];

impl Case {
    const fn quiet(
        name: &'static str,
        before: Before,
        variables: &'static [(&'static str, &'static str)],
        has_collector: bool,
    ) -> Self {
        Self { name, before, variables, has_collector, has_neighbour: false, bound: NONE }
    }

    const fn waiting(
        name: &'static str,
        before: Before,
        variables: &'static [(&'static str, &'static str)],
        bound: Bound,
    ) -> Self {
        Self { bound, ..Self::quiet(name, before, variables, false) }
    }
}

/// The head of the table.
pub const HEAD: &str = "wake-ups                                  net   disk  journal  bound";

/// The wake-ups of one program.
#[derive(Debug)]
pub struct Row {
    name: &'static str,
    counts: BTreeMap<String, u64>,
    bound: Bound,
    seconds: u64,
}

impl Row {
    fn count(&self, thread: &str) -> u64 {
        self.counts.get(thread).copied().unwrap_or(0)
    }

    fn all(&self) -> [(&'static str, u64, u64); 3] {
        // A window that is longer than a minute has more instants.
        let most = |a_minute: u64| (a_minute * self.seconds).div_ceil(60);
        [
            ("net", self.count("holdfast-net"), most(self.bound.net)),
            ("disk", self.count("holdfast-disk"), most(self.bound.disk)),
            // The kernel keeps fifteen bytes of a name.
            ("journal", self.count("holdfast-journa"), most(self.bound.journal)),
        ]
    }

    /// # Errors
    ///
    /// Each thread with more wake-ups than its bound.
    pub fn verdict(&self) -> Result<(), String> {
        let above = self.all().into_iter().filter(|(_, count, most)| count > most);
        let above = above.map(|(thread, count, most)| format!("{thread} {count} times, {most} allowed"));
        let above = above.collect::<Vec<_>>();
        if above.is_empty() { Ok(()) } else { Err(format!("{}: {}", self.name, above.join(", "))) }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [(_, net, most_net), (_, disk, most_disk), (_, journal, most_journal)] = self.all();
        write!(f, "{:<40} {net:>4} {disk:>6} {journal:>8}  {most_net}/{most_disk}/{most_journal}", self.name)
    }
}

/// Plays all programs at the same time and counts for so many seconds.
///
/// # Errors
///
/// When a program does not start or is not ready in time.
pub fn run(program: &Path, seconds: u64) -> Result<Vec<Row>, Failure> {
    let scratch = tempfile::tempdir()?;
    let collector = Collector::start(program, scratch.path().join("record"))?;
    // Nothing listens here.
    let nowhere = "http://127.0.0.1:9".to_owned();
    let mut idle = Vec::new();
    for (number, case) in CASES.iter().enumerate() {
        let state = scratch.path().join(format!("state-{number}"));
        let is_http = case.variables.contains(&HTTP);
        let endpoint = match (case.has_collector, is_http) {
            (false, _) => nowhere.clone(),
            (true, false) => collector.grpc_endpoint(),
            (true, true) => collector.http_endpoint(),
        };
        let neighbour = match case.has_neighbour {
            true => Some(Idle::start(program, case, &endpoint, &state)?),
            false => None,
        };
        idle.push((case, Idle::start(program, case, &endpoint, &state)?, neighbour));
    }
    for (_, idle, neighbour) in &mut idle {
        idle.wait_until_ready()?;
        neighbour.iter_mut().try_for_each(Idle::wait_until_ready)?;
    }
    std::thread::park_timeout(SETTLE);
    let before = idle.iter().map(|(_, idle, _)| idle.wakeups()).collect::<Result<Vec<_>, _>>()?;
    let (started, window) = (now(), Duration::from_secs(seconds));
    while let Some(left) = window.checked_sub(started.elapsed()).filter(|left| !left.is_zero()) {
        std::thread::park_timeout(left);
    }
    let mut rows = Vec::new();
    for ((case, idle, _), before) in idle.iter().zip(before) {
        let mut counts = idle.wakeups()?;
        for (thread, count) in &mut counts {
            *count -= before.get(thread).copied().unwrap_or(0);
        }
        if !counts.contains_key("holdfast-net") {
            return Err(format!("{}: the net thread has ended: {counts:?}", case.name).into());
        }
        rows.push(Row { name: case.name, counts, bound: case.bound, seconds });
    }
    Ok(rows)
}

/// A program that does nothing. It ends with its standard input.
struct Idle {
    child: Child,
    _input: ChildStdin,
    output: BufReader<std::process::ChildStdout>,
    name: &'static str,
}

impl Idle {
    fn start(program: &Path, case: &Case, endpoint: &str, state: &PathBuf) -> Result<Self, Failure> {
        let mut command = Command::new(program);
        command.args(["idle-app", case.before.name()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.env("OTEL_SERVICE_NAME", "idle").env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint);
        command.env("TELEMETRY_STATE_DIR", state).envs(case.variables.iter().copied());
        // The breaker opens within a second, for longer than the trial takes.
        command.env("TELEMETRY_RETRY_MAX_DELAY", "100ms").env("TELEMETRY_RETRY_INITIAL_DELAY", "50ms");
        let mut child = command.spawn()?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("the program has no pipes".into());
        };
        Ok(Self { child, _input: input, output: BufReader::new(output), name: case.name })
    }

    fn wait_until_ready(&mut self) -> Result<(), Failure> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        if line.trim() == "ready" { Ok(()) } else { Err(format!("{}: {line:?}", self.name).into()) }
    }

    /// How often each thread of ours has slept, by its name.
    fn wakeups(&self) -> Result<BTreeMap<String, u64>, Failure> {
        wakeups(self.child.id())
    }
}

/// How often each thread of the exporter in a process has slept, by its name.
pub(crate) fn wakeups(process: u32) -> Result<BTreeMap<String, u64>, Failure> {
    let mut wakeups = BTreeMap::new();
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        let task = task?.path();
        // A thread may end meanwhile.
        let Ok(name) = fs::read_to_string(task.join("comm")) else { continue };
        let name = name.trim().to_owned();
        if name.starts_with("holdfast-") {
            let status = fs::read_to_string(task.join("status"))?;
            let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            let count: u64 = line.ok_or("the kernel counts no switches")?.trim().parse()?;
            *wakeups.entry(name).or_default() += count;
        }
    }
    Ok(wakeups)
}

impl Drop for Idle {
    fn drop(&mut self) {
        // An error means that it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program itself.
///
/// # Errors
///
/// When it cannot set up, or its spans do not get where they are to wait.
pub fn live(before: &str) -> Result<(), Failure> {
    let before = Before::named(before).ok_or("no such program")?;
    let telemetry = OpenTelemetryManager::from_env()?;
    let handle = telemetry.handle().ok_or("spans are not exported")?;
    let tracer = telemetry.tracer_provider().tracer("idle");
    let mut is_done: Box<dyn Fn(&Handle) -> bool> = Box::new(|_| true);
    if before != Before::Nothing {
        for _ in 0..20 {
            (0..5).for_each(|_| tracer.in_span("work", |_| {}));
            // Has the batch on its way.
            let _ = telemetry.settled(Duration::ZERO);
        }
        let is_open = |handle: &Handle| handle.health().breaker.to_string() == "open";
        is_done = match before {
            Before::Delivered => Box::new(|handle| handle.ledger().delivered == 100),
            Before::InFiles => Box::new(move |handle| is_open(handle) && handle.ledger().in_fallback > 0),
            _ => Box::new(move |handle| is_open(handle) && handle.ledger().buffered == 100),
        };
    }
    wait_until("the spans are where they wait", PATIENCE, || is_done(&handle))?;
    println!("ready");
    std::io::stdout().flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
