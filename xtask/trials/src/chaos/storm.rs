//! The storm itself: starts, pauses and kills processes, changes the collector's behavior, and reads the disk after
//! each kill. `crowd` plays the storm of several processes.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use rustix::process::{Pid, Signal, kill_process};

use super::account::{Account, Found};
use super::conditions::{Condition, Peer, Window};
use super::life::{Compress, Journal, Life, Protocol, Status, read_status};
use super::report::{Report, explain};
use super::{Plan, disk, ledger};
use crate::{Failure, now, wait_until};

/// A receipt so long before a kill may come again: one that was acknowledged within 100 ms of the last mark, plus the
/// time of the disk operation under way on a busy machine.
pub(super) const BEFORE_A_KILL: Duration = Duration::from_millis(100 + 200);

/// The collector still reads requests that a dead client had sent.
pub(super) const AFTER_A_KILL: Duration = Duration::from_millis(100);

/// A process must be able to accept by then.
const READY: Duration = Duration::from_secs(2);

/// With more spans than this still owed, the storm lets a life catch up.
pub(super) const BACKLOG: usize = 12_000;

/// How long the last life may take to deliver everything, and another to catch up.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Everything counts as delivered when nothing has waited for so long.
pub(super) const SETTLED: Duration = Duration::from_millis(300);

/// Lives without a look at the disk, because a second process was there.
const UNSEEN: u32 = 5;

/// Bytes that may be left in the state directory, dead letters aside, when everything was delivered: the last segment
/// of the journal, in which every batch is done, locks and a progress log.
const EMPTY: u64 = (8 << 20) + (256 << 10);

pub(super) fn run(plan: &Plan, program: &Path) -> Result<Report, Failure> {
    fs::create_dir_all(&plan.folder)?;
    let record = plan.folder.join("record");
    let peer = Peer::start(program, &record)?;
    let mut storm = Storm {
        plan,
        program,
        record,
        chance: SmallRng::seed_from_u64(plan.seed),
        began: now(),
        peer,
        log: File::create_new(plan.folder.join("storm.log"))?,
        account: Account::new(plan.promise),
        lives: 0,
        kills: 0,
        kill_windows: Vec::new(),
        blind_windows: Vec::new(),
        guest: None,
        unseen: 0,
        found: None,
        recovered: 0,
        slowest_start: Duration::ZERO,
        peak_bytes: 0,
        wrong: Vec::new(),
    };
    if plan.processes > 1 {
        return storm.crowd();
    }
    while storm.wrong.is_empty() && storm.kills < plan.kills && storm.began.elapsed() < plan.limit {
        storm.one_life()?;
    }
    storm.finish()
}

/// How a life ends.
#[derive(Clone, Copy, Debug)]
enum End {
    /// Killed so long after it was started.
    Killed(Duration),
    /// Asked to end after a while, and killed so long after that.
    KilledAtShutdown(Duration, Duration),
    /// Asked to end after a while.
    Orderly(Duration),
}

pub(super) struct Storm<'a> {
    pub(super) plan: &'a Plan,
    program: &'a Path,
    record: PathBuf,
    pub(super) chance: SmallRng,
    pub(super) began: Instant,
    pub(super) peer: Peer,
    /// Every event with its time, for the analysis of a storm that broke a promise.
    log: File,
    pub(super) account: Account,
    pub(super) lives: u32,
    pub(super) kills: u32,
    pub(super) kill_windows: Vec<Window>,
    /// Lives that were killed while another process was there.
    pub(super) blind_windows: Vec<Window>,
    /// A second process on the same directory, which may outlive the first.
    guest: Option<Process>,
    /// Lives since the disk was looked at.
    unseen: u32,
    /// The spans that the next process finds, if no other process was there before it.
    pub(super) found: Option<Found>,
    recovered: u64,
    slowest_start: Duration,
    peak_bytes: u64,
    pub(super) wrong: Vec<String>,
}

pub(super) struct Process {
    pub(super) child: Child,
    pub(super) life: Life,
    pub(super) number: u32,
    /// The spans that it must report as found.
    found: Option<Found>,
    asked_to_end: bool,
    started: Instant,
    /// Until when it stood still, and for how long.
    paused: Option<(Instant, Duration)>,
}

impl Storm<'_> {
    fn one_life(&mut self) -> Result<(), Failure> {
        if self.chance.random_bool(0.6) {
            self.change_condition()?;
        }
        let mut process = self.start(true)?;
        if self.guest.is_none() && self.chance.random_bool(0.1) {
            rest(Duration::from_millis(self.chance.random_range(0..60)));
            // Either process may be the first to take the spans that were left.
            process.found = None;
            self.guest = Some(self.start(true)?);
        }
        match self.any_end() {
            End::Killed(after) => {
                self.pass(after, &mut process)?;
                self.kill(process)?;
            }
            End::KilledAtShutdown(after, then) => {
                self.pass(after, &mut process)?;
                process.tell_to_end();
                rest(then);
                self.kill(process)?;
            }
            End::Orderly(after) => {
                self.pass(after, &mut process)?;
                self.end(process)?;
            }
        }
        self.unseen += 1;
        if self.guest.is_some() && (self.unseen > UNSEEN || self.chance.random_bool(0.5)) {
            let guest = self.guest.take().expect("there is one");
            self.kill(guest)?;
        }
        if self.guest.is_none() {
            self.look()?;
        }
        if self.account.open() > BACKLOG && self.guest.is_none() && self.wrong.is_empty() {
            self.catch_up()?;
        }
        Ok(())
    }

    fn any_end(&mut self) -> End {
        let chance = &mut self.chance;
        let mut upto = |micros: u64| Duration::from_micros(chance.random_range(0..micros));
        let (short, long, late) = (upto(5_000), upto(2_000_000), upto(300_000));
        match self.chance.random_range(0..100) {
            0..10 => End::Killed(short),
            10..25 => End::Killed(short * 10),
            25..75 => End::Killed(short + long),
            75..90 => End::KilledAtShutdown(long / 2, late),
            _ => End::Orderly(long / 2),
        }
    }

    /// Lets time pass, in which the collector's condition may change and the process may be paused.
    fn pass(&mut self, time: Duration, process: &mut Process) -> Result<(), Failure> {
        if time < Duration::from_millis(200) {
            rest(time);
            return Ok(());
        }
        rest(time / 2);
        if self.chance.random_bool(0.4) {
            self.change_condition()?;
        }
        if self.chance.random_bool(0.2) {
            let time = Duration::from_millis(self.chance.random_range(1..250));
            process.pause(time)?;
            self.note(format_args!("life {} stood still for {time:?}", process.number))?;
        }
        rest(time / 2);
        Ok(())
    }

    pub(super) fn start(&mut self, load: bool) -> Result<Process, Failure> {
        let number = self.lives;
        self.lives += 1;
        let life = self.any_life(number, load);
        let started = now();
        let child = Command::new(self.program)
            .arg("chaos-life")
            .arg(serde_json::to_string(&life)?)
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(File::create_new(life.file("err"))?)
            .spawn()?;
        self.note(format_args!("life {number} is started: {life:?}"))?;
        let found = self.found.take();
        Ok(Process { child, life, number, found, asked_to_end: false, started, paused: None })
    }

    fn any_life(&mut self, number: u32, load: bool) -> Life {
        let chance = &mut self.chance;
        let mut one_of = |numbers: &[usize]| numbers[chance.random_range(0..numbers.len())];
        let protocol = [Protocol::Grpc, Protocol::Http][one_of(&[0, 1])];
        let journal = [Journal::Batch, Journal::Interval, Journal::Never][one_of(&[0, 0, 1, 2])];
        Life {
            base: self.plan.folder.join(format!("life-{number:04}")),
            state: self.plan.folder.join("state"),
            endpoint: match protocol {
                Protocol::Grpc => self.peer.grpc_endpoint(),
                Protocol::Http => self.peer.http_endpoint(),
            },
            protocol,
            journal: if self.plan.journal { journal } else { Journal::Off },
            protobuf: one_of(&[0, 0, 1]) == 1,
            compression: [Compress::Zstd, Compress::Gzip, Compress::Never][one_of(&[0, 1, 2])],
            compress_above: one_of(&[0, 4 << 10, 64 << 10]),
            buffer_spans: one_of(&[600, 1_200, 3_000]),
            batch: one_of(&[1, 16, 64, 64]),
            producers: if load { one_of(&[1, 1, 2, 3]) as u32 } else { 0 },
            spans_per_second: one_of(&[200, 1_000, 2_000, 6_000]) as u32,
            large_every: one_of(&[0, 0, 50]) as u64,
        }
    }

    /// Kills a process and adds its ledger and its files to the account.
    fn kill(&mut self, mut process: Process) -> Result<(), Failure> {
        if !process.asked_to_end
            && let Some(status) = process.child.try_wait()?
        {
            self.wrong.push(process.gone_by_itself(status));
        }
        // A process that stood still counts as killed at the moment when it was stopped.
        let stood = process.paused.filter(|(until, _)| until.elapsed() < BEFORE_A_KILL).map(|(_, time)| time);
        let from = now() - BEFORE_A_KILL - stood.unwrap_or_default();
        process.child.kill()?;
        process.child.wait()?;
        self.note(format_args!("life {} is killed", process.number))?;
        let to = now() + AFTER_A_KILL;
        match self.guest {
            // Another process may go on with its files before the storm reads in which of them it was killed.
            Some(_) => self.blind_windows.push(Window { from: process.started, to }),
            None => self.kill_windows.push(Window { from, to }),
        }
        self.kills += 1;
        self.take_in(&process)
    }

    pub(super) fn note(&mut self, what: fmt::Arguments<'_>) -> io::Result<()> {
        writeln!(self.log, "{:9.3} {what}", self.began.elapsed().as_secs_f64())
    }

    pub(super) fn change_condition(&mut self) -> Result<(), Failure> {
        let condition = Condition::any(&mut self.chance);
        self.note(format_args!("the collector is {condition:?}"))?;
        self.peer.change(condition, &mut self.chance)
    }

    /// Asks a process to end, and adds its ledger and its files to the account.
    pub(super) fn end(&mut self, mut process: Process) -> Result<(), Failure> {
        process.tell_to_end();
        let mut status = None;
        // The shutdown of a batch processor may wait for a last export, and that of the exporter takes up to 3.5 s.
        let ended = wait_until("the end of a life", Duration::from_secs(15), || {
            status = process.child.try_wait().ok().flatten();
            status.is_some()
        });
        match (ended, status) {
            (Ok(()), Some(status)) if status.success() => {}
            (Ok(()), status) => self.wrong.push(format!("life {} ended with {status:?}", process.number)),
            (Err(error), _) => {
                self.wrong.push(format!("life {}: {error}", process.number));
                process.child.kill()?;
                process.child.wait()?;
            }
        }
        self.note(format_args!("life {} has ended", process.number))?;
        self.take_in(&process)
    }

    pub(super) fn take_in(&mut self, process: &Process) -> Result<(), Failure> {
        let Process { life, number, .. } = process;
        self.account.take_ledger(*number, ledger::read(&life.file("ledger"))?);
        let statuses = read_status(&life.file("status"))?;
        let mut wrong = |what: String| self.wrong.push(format!("life {number}: {what}"));
        if let Some(Status { imbalance, ledger_json, .. }) = statuses.iter().find(|status| status.imbalance != 0) {
            wrong(format!("{imbalance} spans are unaccounted for: {ledger_json}"));
        }
        if let Some(Status { dropped, ledger_json, .. }) = statuses.iter().find(|status| status.dropped != 0) {
            wrong(format!("{dropped} spans were dropped: {ledger_json}"));
        }
        if let Some(first) = statuses.first() {
            let ready = Duration::from_millis(first.ready_ms);
            self.slowest_start = self.slowest_start.max(ready);
            if ready > READY * self.plan.processes {
                wrong(format!("it took {ready:?} to accept its first span"));
            }
            let recovered = first.recovered;
            self.recovered += recovered;
            if let Some(Found { least, most }) = process.found
                && !(least..=most).contains(&recovered)
            {
                wrong(format!(
                    "it found {recovered} spans at start, where {least} to {most} were: {}",
                    first.ledger_json
                ));
            }
        }
        // Files that explain no broken promise are removed, so that a storm does not fill the disk.
        if self.wrong.is_empty() && fs::metadata(life.file("err"))?.len() == 0 {
            fs::remove_file(life.file("err"))?;
        }
        Ok(())
    }

    /// Looks for every span that must not be lost. No process may be alive.
    pub(super) fn look(&mut self) -> Result<(), Failure> {
        self.unseen = 0;
        self.account.take_record(&self.record)?;
        let disk = disk::read(&self.plan.folder.join("state"))?;
        self.peak_bytes = self.peak_bytes.max(disk.bytes);
        self.found = Some(self.account.audit(self.lives - 1, &disk));
        let set_aside = disk.places.iter().filter(|place| place.kind == disk::Kind::Quarantine);
        for place in set_aside {
            self.wrong.push(format!("{} was set aside as damaged, though no disk failed", place.path.display()));
        }
        if !self.account.lost.is_empty() {
            let (count, first) = (self.account.lost.len(), &self.account.lost[0]);
            self.wrong.push(format!("{count} spans are lost; the first: {first}"));
        }
        if let Some(first) = self.account.invented.first() {
            self.wrong.push(format!("{} spans were never made; the first: {first}", self.account.invented.len()));
        }
        Ok(())
    }

    /// A life without new spans, killed when most of the backlog is delivered.
    fn catch_up(&mut self) -> Result<(), Failure> {
        self.note(format_args!("catching up"))?;
        self.peer.clear_up()?;
        let process = self.start(false)?;
        let waiting = || read_status(&process.life.file("status")).ok()?.last().map(|status| status.waiting);
        let caught_up = wait_until("catching up", PATIENCE, || waiting().is_some_and(|waiting| waiting < 500));
        if let Err(error) = caught_up {
            self.wrong.push(format!("life {}: {error}: {:?} spans still wait", process.number, waiting()));
        }
        self.kill(process)?;
        self.look()
    }

    /// One clean life delivers everything; then the verdict.
    fn finish(mut self) -> Result<Report, Failure> {
        self.peer.clear_up()?;
        if let Some(guest) = self.guest.take() {
            self.kill(guest)?;
            self.look()?;
        }
        if self.wrong.is_empty() {
            let process = self.start(false)?;
            let state = self.plan.folder.join("state");
            let mut since = None;
            let all_sent = || {
                // The spans of a dead process count as waiting from the moment when its directory is taken over.
                let statuses = read_status(&process.life.file("status")).ok();
                let empty = statuses.and_then(|statuses| Some(statuses.last()?.waiting == 0)) == Some(true)
                    && !has_further(&state);
                since = since.filter(|_| empty).or(empty.then(now));
                since.is_some_and(|since| since.elapsed() > SETTLED)
            };
            if let Err(error) = wait_until("delivering everything", PATIENCE, all_sent) {
                self.wrong.push(format!("life {}: {error}", process.number));
            }
            self.end(process)?;
            self.look()?;
            let disk = disk::read(&self.plan.folder.join("state"))?;
            let dead = |disk: &disk::Disk| disk.places.iter().any(|place| place.kind == disk::Kind::DeadLetter);
            if disk.bytes > EMPTY && !dead(&disk) {
                self.wrong.push(format!("{} bytes in {} files are left on disk", disk.bytes, disk.files));
            }
            if disk.further > 1 {
                self.wrong.push(format!("{} directories of dead processes are left", disk.further - 1));
            }
        }
        self.report()
    }

    /// The verdict on all that was seen.
    pub(super) fn report(self) -> Result<Report, Failure> {
        let Self { plan, account, peer, mut wrong, began, kill_windows, blind_windows, .. } = self;
        let (conditions, times) = peer.finish()?;
        let duplicates = explain(&account, [conditions, blind_windows].concat(), kill_windows, &times, began);
        let (dead_lettered, left_on_disk) = account.left();
        for (count, what) in [
            (left_on_disk, "are still in files after a life that should have delivered them"),
            (duplicates.unexplained, "came again without a reason"),
        ] {
            if count > 0 && (wrong.is_empty() || what.starts_with("came")) {
                wrong.push(format!("{count} spans {what}"));
            }
        }
        wrong.extend(duplicates.examples);
        Ok(Report {
            seed: plan.seed,
            kills: self.kills,
            lives: self.lives,
            made: account.made(),
            accepted: account.accepted(),
            volatile: account.volatile,
            delivered: account.delivered(),
            duplicates: account.repeats.len() as u64,
            bound: duplicates.bound,
            cut_short: duplicates.cut_short,
            unexplained: duplicates.unexplained,
            oldest: duplicates.oldest,
            left_on_disk,
            dead_lettered,
            invented: account.invented.len() as u64,
            lost: account.lost.len() as u64,
            gone: account.gone(),
            recovered: self.recovered,
            slowest_start: self.slowest_start,
            peak_bytes: self.peak_bytes,
            took: began.elapsed(),
            wrong,
        })
    }
}

impl Process {
    fn tell_to_end(&mut self) {
        self.asked_to_end = true;
        drop(self.child.stdin.take());
    }

    /// Stands still for a while.
    pub(super) fn pause(&mut self, time: Duration) -> Result<(), Failure> {
        let pid = Pid::from_child(&self.child);
        match kill_process(pid, Signal::STOP) {
            Ok(()) => {
                rest(time);
                kill_process(pid, Signal::CONT)?;
                self.paused = Some((now(), time));
                Ok(())
            }
            // It has ended by itself, which will be noticed.
            Err(error) if error == rustix::io::Errno::SRCH => Ok(()),
            Err(error) => Err(io::Error::from(error).into()),
        }
    }

    pub(super) fn gone_by_itself(&self, status: ExitStatus) -> String {
        let said = fs::read_to_string(self.life.file("err")).unwrap_or_default();
        format!("life {} ended by itself with {status}: {said}", self.number)
    }
}

impl Drop for Process {
    /// A trial that breaks leaves no process behind.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether there are directories of other processes than the one that lives.
fn has_further(state: &Path) -> bool {
    let all = fs::read_dir(state).into_iter().flatten().flatten();
    all.filter(|entry| disk::is_of_a_process(&entry.file_name().to_string_lossy())).count() > 1
}

/// Waits for time to pass: the times between two events are part of the storm's plan.
pub(super) fn rest(time: Duration) {
    let started = now();
    while let Some(left) = time.checked_sub(started.elapsed()).filter(|left| !left.is_zero()) {
        std::thread::park_timeout(left);
    }
}
