//! The soak: applications that trace through our processor for a long time, while their collector fails in every way
//! and works again. One of them lives through all of it, and its memory, threads and wake-ups are watched; another one
//! on the same state directory is shut down and started again at random moments.

mod app;
mod process;
mod report;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use mock_collector::{Behavior, ChildCollector};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

pub use self::report::Report;

use self::app::{Command, FORCE_FLUSH, Life, Reply, SHUTDOWN};
use self::process::Process;
use crate::chaos::conditions::Condition;
use crate::{Failure, now};

/// One soak.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How long collectors fail and applications make spans.
    pub time: Duration,
    /// How long the application that lived through it is watched once all its spans are delivered.
    pub rest: Duration,
    /// The seed of every random choice.
    pub seed: u64,
    /// Spans a second of each of the two applications, on average.
    pub rate: u32,
    /// Where records, ids and the state directory are. Must exist.
    pub folder: PathBuf,
}

/// The longest time until everything is delivered, once the collector works and no span is made any more.
const PATIENCE: Duration = Duration::from_secs(120);

/// By how much a command may be later than the time that it was given, on a machine that has other things to do.
const LATE: Duration = Duration::from_secs(3);

/// Threads of each application that make spans.
const PRODUCERS: u32 = 4;

/// Between two looks at the memory.
const LOOK: Duration = Duration::from_millis(250);

/// Runs the soak. `program` is this package's program, which also serves as the applications and as the collector.
///
/// # Errors
///
/// When the trial itself breaks: no process, no port, no folder; and when an application hangs or dies. A number that
/// is not as it must be is no error here: it stands in the report.
pub fn run(plan: &Plan, program: &Path) -> Result<Report, Failure> {
    Soak::start(plan, program)?.run()
}

/// One life of an application, as the soak describes it in JSON.
///
/// # Errors
///
/// When the processor cannot be built, or a pipe or a file breaks.
pub fn live(settings: &str) -> Result<(), Failure> {
    app::live(settings)
}

struct Soak<'a> {
    plan: &'a Plan,
    program: &'a Path,
    chance: SmallRng,
    collector: ChildCollector,
    record: PathBuf,
    /// The application that lives through all of it.
    lasting: Process,
    /// The one that is started again and again.
    passing: Process,
    lives: Vec<Life>,
    report: Report,
}

impl<'a> Soak<'a> {
    fn start(plan: &'a Plan, program: &'a Path) -> Result<Self, Failure> {
        let record = plan.folder.join("record");
        let arguments = ["collector".into(), "--record".into(), record.clone().into_os_string()];
        let collector = ChildCollector::start(program, arguments)?;
        let mut chance = SmallRng::seed_from_u64(plan.seed);
        let mut lives = Vec::new();
        let lasting = Process::start(program, next_life(plan, &collector, &mut chance, &mut lives))?;
        let passing = Process::start(program, next_life(plan, &collector, &mut chance, &mut lives))?;
        let report = Report::new(plan.seed, lasting.life.durable);
        Ok(Self { plan, program, chance, collector, record, lasting, passing, lives, report })
    }

    fn run(mut self) -> Result<Report, Failure> {
        let started = now();
        let before = self.lasting.wakeups()?;
        while started.elapsed() < self.plan.time {
            self.step(started)?;
        }
        self.report.load = started.elapsed();
        self.report.wakeups = difference(&self.lasting.wakeups()?, &before);
        self.end_of_load()?;
        self.deliver_all()?;
        self.watch_at_rest()?;
        let last = self.lasting.ask(Command::End)?;
        self.check("lasting, at its end", &last);
        self.ended(&last);
        self.lasting.wait()?;
        let mut made = Vec::new();
        for file in self.lives.iter().flat_map(Life::id_files) {
            made.extend(app::read_ids(&file)?);
        }
        self.report.lives = self.lives.len() - 1;
        self.report.judge(made, mock_collector::read_record(&self.record)?);
        Ok(self.report)
    }

    /// One condition of the collector, for a while, with a few commands in it.
    fn step(&mut self, started: Instant) -> Result<(), Failure> {
        let condition = Condition::any(&mut self.chance);
        let name = match condition {
            Condition::Up if self.chance.random_bool(0.1) => {
                self.collector.set_next(1, Behavior::reject(3, "three too many"))?;
                "PartialSuccess".to_owned()
            }
            _ => format!("{condition:?}"),
        };
        *self.report.conditions.entry(name).or_default() += 1;
        condition.begin(&mut self.collector, &mut self.chance)?;
        let until = now() + Duration::from_millis(self.chance.random_range(200..3_000));
        if self.chance.random_bool(0.3) {
            self.command()?;
        }
        if self.chance.random_bool(0.12) {
            self.start_again()?;
        }
        while now() < until {
            thread::park_timeout(LOOK);
            self.report.resident.push((started.elapsed(), self.lasting.resident()?));
        }
        condition.end(&mut self.collector)?;
        let reply = self.lasting.ask(Command::Tell)?;
        self.check("lasting", &reply);
        let reply = self.passing.ask(Command::Tell)?;
        self.check("passing", &reply);
        self.report.open_files = self.report.open_files.max(self.lasting.open_files()?);
        self.report.threads = self.report.threads.max(self.lasting.threads()?);
        self.report.steps += 1;
        Ok(())
    }

    /// A flush of one of the applications. The disk works, so that each one has a place for all spans.
    fn command(&mut self) -> Result<(), Failure> {
        let ms = self.chance.random_range(1_000..4_000);
        let (command, bound) = match self.chance.random_range(0..3) {
            0 => (Command::Flush { ms }, Duration::from_millis(ms)),
            1 => (Command::Checkpoint { ms }, Duration::from_millis(ms)),
            _ => (Command::ForceFlush, FORCE_FLUSH),
        };
        let (name, process) = match self.chance.random_bool(0.5) {
            true => ("lasting", &mut self.lasting),
            false => ("passing", &mut self.passing),
        };
        let reply = process.ask(command)?;
        let name = format!("{name}, {command:?}");
        self.report.flushes += 1;
        self.report.worst_flush = self.report.worst_flush.max(Duration::from_millis(reply.took_ms));
        if Duration::from_millis(reply.took_ms) > bound + LATE {
            self.report.wrong(format!("{name}: took {} ms", reply.took_ms));
        }
        self.check(&name, &reply);
        Ok(())
    }

    /// Shuts the passing application down in the middle of its work, and starts it again.
    fn start_again(&mut self) -> Result<(), Failure> {
        let life = next_life(self.plan, &self.collector, &mut self.chance, &mut self.lives);
        let reply = self.passing.ask(Command::End)?;
        self.check("passing, at its end", &reply);
        self.ended(&reply);
        if Duration::from_millis(reply.took_ms) > SHUTDOWN + LATE {
            self.report.wrong(format!("the shutdown took {} ms", reply.took_ms));
        }
        let next = Process::start(self.program, life)?;
        std::mem::replace(&mut self.passing, next).wait()
    }

    fn end_of_load(&mut self) -> Result<(), Failure> {
        let reply = self.passing.ask(Command::End)?;
        self.check("passing, at its end", &reply);
        self.ended(&reply);
        let reply = self.lasting.ask(Command::Rest)?;
        self.check("lasting", &reply);
        Ok(())
    }

    /// Waits until the lasting application has delivered its spans, and those that the lives of the other have left on
    /// the disk; dead letters are sent again.
    fn deliver_all(&mut self) -> Result<(), Failure> {
        let started = now();
        let mut looked = 0;
        loop {
            let reply = self.lasting.ask(Command::Tell)?;
            self.check("lasting", &reply);
            let left = self.left_by_others()?;
            if reply.waiting == 0 && left == 0 && reply.dead_letters == 0 {
                looked += 1;
                // A directory that is being taken over is in none of the numbers for a moment.
                if looked == 3 {
                    self.report.delivered_after = started.elapsed();
                    return Ok(());
                }
            } else {
                looked = 0;
            }
            if reply.dead_letters > 0 && left == 0 && reply.waiting == 0 {
                let redriven = self.lasting.ask(Command::Redrive)?;
                self.report.redriven += reply.dead_letters;
                self.check("lasting, redrive", &redriven);
            }
            if started.elapsed() > PATIENCE {
                self.report.wrong(format!("{left} directories of ended lives are left, and of the other: {reply:?}"));
                return Ok(());
            }
            thread::park_timeout(LOOK);
        }
    }

    /// Directories of processes that have ended and were not taken over.
    fn left_by_others(&self) -> Result<usize, Failure> {
        let mut dirs = 0;
        for entry in std::fs::read_dir(&self.lasting.life.state)? {
            let entry = entry?;
            // The records of outages are of all processes.
            dirs += usize::from(entry.file_type()?.is_dir() && entry.file_name() != "outages");
        }
        // One is that of the lasting application.
        Ok(dirs.saturating_sub(1))
    }

    /// Nothing is left to do: the threads of the lasting application sleep.
    fn watch_at_rest(&mut self) -> Result<(), Failure> {
        let before = self.lasting.wakeups()?;
        let started = now();
        while let Some(left) = self.plan.rest.checked_sub(started.elapsed()).filter(|left| !left.is_zero()) {
            thread::park_timeout(left);
        }
        self.report.at_rest = difference(&self.lasting.wakeups()?, &before);
        self.report.rest = started.elapsed();
        Ok(())
    }

    fn check(&mut self, name: &str, reply: &Reply) {
        if let Some(error) = &reply.error {
            self.report.wrong(format!("{name}: {error}"));
        }
        if reply.imbalance != 0 {
            self.report.wrong(format!("{name}: {} spans are unaccounted for", reply.imbalance));
        }
        if !reply.lost.is_empty() {
            self.report.wrong(format!("{name}: lost {:?}", reply.lost));
        }
        if !reply.within_limits {
            self.report.wrong(format!("{name}: memory is beyond its limits"));
        }
    }

    /// Adds the last numbers of a life.
    fn ended(&mut self, reply: &Reply) {
        if reply.made != reply.offered {
            self.report.wrong(format!("{} spans were made and {} offered", reply.made, reply.offered));
        }
        self.report.rejected += reply.rejected;
        self.report.possible_duplicates += reply.possible_duplicates;
    }
}

fn next_life(plan: &Plan, collector: &ChildCollector, chance: &mut SmallRng, lives: &mut Vec<Life>) -> Life {
    let is_http = chance.random_bool(0.5);
    let life = Life {
        endpoint: if is_http { collector.http_endpoint() } else { collector.grpc_endpoint() },
        is_http,
        state: plan.folder.join("state"),
        ids: plan.folder.join(format!("ids-{}", lives.len())),
        durable: chance.random_bool(0.5),
        producers: PRODUCERS,
        rate: plan.rate,
        delay_ms: chance.random_range(20..1_000),
        seed: chance.random(),
    };
    lives.push(life.clone());
    life
}

fn difference(now: &BTreeMap<String, u64>, before: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let since = |(name, count): (&String, &u64)| (name.clone(), count - before.get(name).copied().unwrap_or(0));
    now.iter().map(since).collect()
}
