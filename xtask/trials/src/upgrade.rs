//! An older version and the present one on one state directory: upgrade, rollback, and both at once. The services note
//! outside which spans were accepted; in the end each of them is in the collector's record or is a dead letter.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mock_collector::{Answer, Behavior, ChildCollector, read_record};
use tempfile::TempDir;

use crate::chaos::disk::{self, Kind};
use crate::{Failure, SpanIds, now, wait_until};

/// The longest wait for a phase, and for the last delivery.
const PATIENCE: Duration = Duration::from_secs(90);

/// Everything counts as delivered when nothing has waited for so long.
const SETTLED: Duration = Duration::from_millis(500);

/// Spans that may come twice for each instant at which the collector went away or a process was killed beside it: the
/// calls that were out, and the answers since the last synced mark.
const REPEATED: u64 = 2_000;

/// The two programs, each built from `src/bin/upgraded_service.rs`.
#[derive(Clone, Debug)]
pub struct Programs {
    /// Of the older version.
    pub old: PathBuf,
    /// Of the present one.
    pub new: PathBuf,
}

type Scenario = fn(&mut Trial) -> Result<(), Failure>;

/// Plays all scenarios, and returns a sentence for each thing that is not as it must be. `program` is this package's
/// program, which serves as the collector.
///
/// # Errors
///
/// When the trial itself breaks: no process, no port, no folder.
pub fn run(programs: &Programs, program: &Path) -> Result<Vec<String>, Failure> {
    let scenarios: [(&str, Scenario); 3] = [("upgrade", upgrade), ("rollback", rollback), ("both at once", both)];
    let mut wrong = Vec::new();
    for (name, play) in scenarios {
        let mut trial = Trial::start(programs, program)?;
        if let Err(error) = play(&mut trial) {
            trial.wrong.push(error.to_string());
        }
        println!(
            "{name:<13} {:>6} spans accepted, {:>6} received, {:>4} of them again, {}",
            trial.accepted()?.len(),
            trial.received()?.len(),
            trial.repeated()?,
            if trial.wrong.is_empty() { "as it must be" } else { "NOT as it must be" }
        );
        wrong.extend(trial.wrong.iter().map(|what| format!("{name}: {what}")));
    }
    Ok(wrong)
}

/// The old version is killed with files, dead letters and a journal; another service shares its directory.
fn upgrade(trial: &mut Trial) -> Result<(), Failure> {
    let old = trial.programs.old.clone();
    trial.collector.set(Behavior::answer(Answer::http(400).with_message("not like this")))?;
    let other = trial.service(&old, "warehouse", 300)?;
    let shop = trial.service(&old, "shop", 3_000)?;
    trial.wait_for(&shop, "a dead letter", |trial| Ok(trial.disk()?.count(Kind::DeadLetter) > 0))?;
    trial.collector.stop()?;
    trial.wait_for(&shop, "files", |trial| Ok(trial.disk()?.count(Kind::Fallback) > 2_000))?;
    trial.wait_for(&shop, "a full journal", |trial| Ok(trial.disk()?.count(Kind::Journal) > 300))?;
    trial.kill(shop)?;
    trial.kill(other)?;
    trial.collector.start_again()?;
    trial.collector.set(Behavior::accept())?;
    let new = trial.programs.new.clone();
    let shop = trial.service(&new, "shop", 0)?;
    trial.settle(&shop, &["shop"])?;
    if trial.differ() {
        let foreign = trial.accepted_of("warehouse")?;
        let received: HashSet<_> = trial.received()?.into_iter().collect();
        let sent = foreign.iter().filter(|ids| received.contains(*ids)).count();
        if sent > 0 {
            trial.wrong.push(format!("{sent} spans of another service were sent"));
        }
        if !trial.status(&shop)?.issues.contains("warehouse") {
            trial.wrong.push(format!("health does not name the other service: {}", trial.status(&shop)?.issues));
        }
    }
    trial.end(shop)?;
    let other = trial.service(&new, "warehouse", 0)?;
    trial.settle(&other, &["shop", "warehouse"])?;
    trial.end(other)?;
    trial.check(1)
}

/// The present version leaves its files; the old one runs for a while and touches none of them.
fn rollback(trial: &mut Trial) -> Result<(), Failure> {
    let (old, new) = (trial.programs.old.clone(), trial.programs.new.clone());
    trial.collector.stop()?;
    let shop = trial.service(&new, "shop", 3_000)?;
    trial.wait_for(&shop, "files", |trial| Ok(trial.disk()?.count(Kind::Fallback) > 2_000))?;
    trial.kill(shop)?;
    let left = files_below(&trial.state)?;
    let shop = trial.service(&old, "shop", 3_000)?;
    let more = left.len() + 3;
    trial.wait_for(&shop, "files of the old version", |trial| Ok(files_below(&trial.state)?.len() > more))?;
    trial.kill(shop)?;
    if trial.differ() {
        let now = files_below(&trial.state)?;
        let touched = left.iter().filter(|(path, content)| now.get(*path) != Some(content));
        let touched = touched.map(|(path, _)| path.display().to_string()).collect::<Vec<_>>();
        if !touched.is_empty() {
            trial.wrong.push(format!("the old version touched {}", touched.join(", ")));
        }
    }
    trial.collector.start_again()?;
    let shop = trial.service(&new, "shop", 0)?;
    trial.settle(&shop, &["shop"])?;
    trial.end(shop)?;
    trial.check(1)
}

/// The present version starts while the old one runs; spans flow in both, also without the collector.
fn both(trial: &mut Trial) -> Result<(), Failure> {
    let (old, new) = (trial.programs.old.clone(), trial.programs.new.clone());
    let first = trial.service(&old, "shop", 1_000)?;
    trial.wait_for(&first, "a delivery", |trial| Ok(trial.received()?.len() > 500))?;
    let second = trial.service(&new, "shop", 1_000)?;
    trial.wait_for(&second, "a delivery of both", |trial| Ok(trial.received()?.len() > 3_000))?;
    trial.collector.stop()?;
    trial.wait_for(&second, "files of both", |trial| Ok(trial.disk()?.count(Kind::Fallback) > 3_000))?;
    trial.kill(first)?;
    trial.kill(second)?;
    trial.collector.start_again()?;
    let last = trial.service(&new, "shop", 0)?;
    trial.settle(&last, &["shop"])?;
    trial.end(last)?;
    trial.check(2)
}

struct Trial {
    programs: Programs,
    folder: TempDir,
    state: PathBuf,
    collector: ChildCollector,
    /// The service of each process that was started, by its number.
    names: Vec<&'static str>,
    wrong: Vec<String>,
}

/// A process; killed when this is dropped.
struct Service {
    child: Child,
    number: usize,
}

#[derive(Debug)]
struct Status {
    waiting: u64,
    lost: u64,
    imbalance: i64,
    issues: String,
}

impl Trial {
    fn start(programs: &Programs, program: &Path) -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let record = folder.path().join("record");
        let collector =
            ChildCollector::start(program, [OsStr::new("collector"), OsStr::new("--record"), record.as_os_str()])?;
        let state = folder.path().join("state");
        Ok(Self { programs: programs.clone(), folder, state, collector, names: Vec::new(), wrong: Vec::new() })
    }

    /// The two programs are not of one version.
    fn differ(&self) -> bool {
        self.programs.old != self.programs.new
    }

    fn base(&self, number: usize) -> PathBuf {
        self.folder.path().join(format!("service-{number}"))
    }

    /// Starts a process of this service, and waits until it is ready.
    fn service(&mut self, program: &Path, name: &'static str, rate: u32) -> Result<Service, Failure> {
        let number = self.names.len();
        self.names.push(name);
        let child = Command::new(program)
            .arg(self.base(number))
            .arg(rate.to_string())
            .env("OTEL_SERVICE_NAME", name)
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", self.collector.http_endpoint())
            .env("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
            .env("TELEMETRY_STATE_DIR", &self.state)
            .env("TELEMETRY_JOURNAL_ENABLED", "true")
            .env("TELEMETRY_JOURNAL_SYNC_TIMEOUT", "10s")
            .env("TELEMETRY_BUFFER_MAX_SPANS", "2000")
            .env("TELEMETRY_REFUSED", "dead-letter")
            .env("TELEMETRY_RETRY_INITIAL_DELAY", "50ms")
            .env("TELEMETRY_RETRY_MAX_DELAY", "200ms")
            .env("CIRCUIT_BREAKER_RECOVERY_TIMEOUT", "1")
            .stdin(Stdio::piped())
            .spawn()?;
        let mut service = Service { child, number };
        let status = self.base(number).with_extension("status");
        wait_until("a service that is ready", PATIENCE, || {
            fs::metadata(&status).is_ok_and(|status| status.len() > 0) || service.has_ended()
        })?;
        if service.has_ended() { Err(format!("service {number} ended at its start").into()) } else { Ok(service) }
    }

    fn wait_for(
        &mut self,
        service: &Service,
        what: &str,
        reached: impl Fn(&Self) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        // Files come and go while they are read: such a look is repeated.
        let outcome = wait_until(what, PATIENCE, || reached(self).unwrap_or(false));
        outcome.map_err(|error| format!("{error}: {:?}", self.status(service)).into())
    }

    fn kill(&mut self, mut service: Service) -> Result<(), Failure> {
        service.child.kill()?;
        service.child.wait()?;
        self.look_at(&service)
    }

    fn end(&mut self, mut service: Service) -> Result<(), Failure> {
        drop(service.child.stdin.take());
        wait_until("the end of a service", PATIENCE, || service.has_ended())?;
        self.look_at(&service)
    }

    fn look_at(&mut self, service: &Service) -> Result<(), Failure> {
        let Status { lost, imbalance, issues, .. } = self.status(service)?;
        if lost > 0 || imbalance != 0 {
            self.wrong.push(format!(
                "service {}: {lost} spans are lost by its own ledger, {imbalance} are unaccounted for: {issues}",
                service.number
            ));
        }
        Ok(())
    }

    /// Waits until the process has sent each span of these services that is no dead letter, and nothing waits.
    fn settle(&mut self, service: &Service, names: &[&str]) -> Result<(), Failure> {
        let mut since = None;
        let settled = wait_until("every accepted span", PATIENCE, || {
            let waits = self.status(service).map_or(1, |status| status.waiting);
            let is_done = waits == 0 && self.missing(names).is_ok_and(|missing| missing.is_empty());
            since = since.filter(|_| is_done).or(is_done.then(now));
            since.is_some_and(|since| since.elapsed() > SETTLED)
        });
        if let Err(error) = settled {
            let missing = self.missing(names)?.len();
            self.wrong.push(format!("{error}: {missing} are missing: {:?}", self.status(service)?));
        }
        Ok(())
    }

    /// The verdict at the end; `instants`: how often the collector went away while spans were sent.
    fn check(&mut self, instants: u64) -> Result<(), Failure> {
        let names = self.names.clone();
        let (missing, repeated) = (self.missing(&names)?.len(), self.repeated()?);
        let made: HashSet<_> = (0..self.names.len())
            .map(|number| self.made(number))
            .collect::<Result<Vec<_>, _>>()?
            .concat()
            .into_iter()
            .collect();
        let invented = self.received()?.iter().filter(|ids| !made.contains(*ids)).count();
        let left = self.disk()?.waiting();
        let repeated = repeated.saturating_sub(instants * REPEATED);
        for (count, what) in [
            (missing, "accepted spans are neither delivered nor dead letters"),
            (invented, "spans were never made"),
            (left, "spans are still in the journal or in files"),
            (usize::try_from(repeated)?, "spans came again beyond the bound"),
        ] {
            if count > 0 {
                self.wrong.push(format!("{count} {what}"));
            }
        }
        Ok(())
    }

    /// Accepted spans of these services that are neither delivered nor dead letters.
    fn missing(&self, names: &[&str]) -> Result<Vec<SpanIds>, Failure> {
        let received: HashSet<_> = self.received()?.into_iter().collect();
        let dead: HashSet<_> = self.disk()?.of(Kind::DeadLetter).collect();
        let mut missing = Vec::new();
        for (number, _) in self.names.iter().enumerate().filter(|(_, name)| names.contains(name)) {
            missing.extend(
                self.accepted_by(number)?.into_iter().filter(|ids| !received.contains(ids) && !dead.contains(ids)),
            );
        }
        Ok(missing)
    }

    fn made(&self, number: usize) -> Result<Vec<SpanIds>, Failure> {
        Ok(read_record(self.base(number).with_extension("made"))?)
    }

    fn accepted_by(&self, number: usize) -> Result<Vec<SpanIds>, Failure> {
        let made = self.made(number)?;
        let ranges = fs::read(self.base(number).with_extension("accepted"))?;
        let mut accepted = Vec::new();
        for range in ranges.as_chunks::<16>().0 {
            let bound = |at: usize| range[at..at + 8].try_into().map(u64::from_le_bytes);
            let (from, to) = (usize::try_from(bound(0)?)?, usize::try_from(bound(8)?)?);
            accepted.extend_from_slice(made.get(from..to).ok_or("a span was accepted before it was made")?);
        }
        Ok(accepted)
    }

    fn accepted_of(&self, name: &str) -> Result<Vec<SpanIds>, Failure> {
        let numbers = (0..self.names.len()).filter(|&number| self.names[number] == name);
        Ok(numbers.map(|number| self.accepted_by(number)).collect::<Result<Vec<_>, _>>()?.concat())
    }

    fn accepted(&self) -> Result<Vec<SpanIds>, Failure> {
        Ok((0..self.names.len()).map(|number| self.accepted_by(number)).collect::<Result<Vec<_>, _>>()?.concat())
    }

    fn received(&self) -> Result<Vec<SpanIds>, Failure> {
        let record = self.folder.path().join("record");
        if record.exists() { Ok(read_record(&record)?) } else { Ok(Vec::new()) }
    }

    /// Spans in the record beyond the first of each.
    fn repeated(&self) -> Result<u64, Failure> {
        let mut times: HashMap<SpanIds, u64> = HashMap::new();
        self.received()?.into_iter().for_each(|ids| *times.entry(ids).or_default() += 1);
        Ok(times.values().map(|times| times - 1).sum())
    }

    fn disk(&self) -> Result<disk::Disk, Failure> {
        disk::read(&self.state)
    }

    fn status(&self, service: &Service) -> Result<Status, Failure> {
        let text = fs::read_to_string(self.base(service.number).with_extension("status"))?;
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let mut fields = whole.lines().last().unwrap_or_default().splitn(4, '\t');
        let mut field = || fields.next().ok_or("a line of the status has four fields");
        Ok(Status {
            waiting: field()?.parse()?,
            lost: field()?.parse()?,
            imbalance: field()?.parse()?,
            issues: field()?.to_owned(),
        })
    }
}

impl Service {
    fn has_ended(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_some())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Each file below a folder and its content.
fn files_below(folder: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>, Failure> {
    let (mut files, mut folders) = (BTreeMap::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.insert(path.clone(), fs::read(path)?);
            }
        }
    }
    Ok(files)
}
