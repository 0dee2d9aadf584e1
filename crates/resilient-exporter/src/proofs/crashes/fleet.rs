//! Several processes of one service that are alive at once on one disk.

use std::cell::OnceCell;
use std::slice::Iter;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::journal::SyncPolicy;
use proptest::prelude::*;
use safe_dir::Kind;
use safe_dir::sim::{Crash, Fault, Faults, Reach};

use super::Step;
use super::computer::{Computer, STATE, Start};
use super::process::Process;
use super::tree;
use crate::shell::shared::Shared;

/// An event in the life of a fleet. A number names one of the processes that are alive, one of the files, and so on, as
/// the remainder of a division by their count.
#[derive(Clone, Debug)]
pub(super) enum Event {
    Start(Member),
    /// One process takes a step.
    At(usize, Step),
    /// A process is killed.
    Kill(usize),
    /// A process is killed at the n-th call to the disk of its disk thread's turn.
    KillDuring(usize, u64),
    /// A process shuts down in order.
    Shutdown(usize),
    /// A new process starts, then an old one shuts down.
    RollOver(usize, Member),
    /// A program that ends at once starts again and again, and exports a batch each time.
    CrashLoop(u64),
    /// The power fails for all processes.
    PowerCut(Crash),
    /// The n-th step on the disk from now takes this many milliseconds.
    Stall(u64, u64),
    /// The next syncs of files fail, and their data is lost; those behind them report success.
    FailSyncs(u32),
    /// Another program removes a directory or a file.
    Remove(usize),
    /// Another program removes a segment of a journal that a process has, and all processes learn of it.
    RemoveSegment(usize),
    /// Another program leaves a file among the fallback files that none can read.
    Plant(usize, Planted),
    /// Each process that opens this fallback file panics from now on.
    PanicOn(usize),
    /// The disk takes no more than this many bytes.
    LimitDisk(u64),
    /// No call to the disk fails or panics any more, and its size is unlimited.
    Repair,
}

/// The settings of a process of a fleet.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) is_durable: bool,
    pub(super) host: u32,
    /// Its wall clock is wrong by so many seconds.
    pub(super) skew: i64,
    pub(super) max_bytes: u64,
    /// The n-th call to the disk fails, from the start on: that call alone, or all calls from there on.
    pub(super) fault: Option<(u64, Fault, bool)>,
}

impl Default for Member {
    fn default() -> Self {
        Self { is_durable: true, host: 0, skew: 0, max_bytes: 1 << 30, fault: None }
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Planted {
    NoJson,
    NoZstd,
    NoProtobuf,
    Empty,
}

/// The most processes that are alive at once.
const MAX_ALIVE: usize = 4;

/// Milliseconds between two rounds of the last process.
const ROUND: u64 = 500;

/// A stall that waits for its step.
#[derive(Default)]
struct Stall {
    steps: AtomicU64,
    ms: AtomicU64,
}

pub(super) struct Fleet<'a> {
    pub(super) computer: Computer,
    slots: Iter<'a, OnceCell<Shared>>,
    pub(super) alive: Vec<Process<'a>>,
    reach: Reach,
    stall: Arc<Stall>,
    /// The fallback file that no process can open without a panic.
    panics_on: Option<String>,
    planted: u64,
    /// Calls to the disk that were planned to fail and did, in processes that have ended.
    pub(super) fired: u64,
}

/// The end of a history.
pub(super) struct Ended {
    /// Calls to the disk that failed as planned.
    pub(super) fired: u64,
    /// Spans that the ledgers count as lost.
    pub(super) lost: u64,
}

/// Plays a history, and checks its end.
pub(super) fn play(policy: SyncPolicy, reach: Reach, events: Vec<Event>) -> Result<Ended, TestCaseError> {
    let starts = events.iter().map(|event| if let Event::CrashLoop(times) = event { *times } else { 1 });
    let slots = (0..starts.sum::<u64>() + 4).map(|_| OnceCell::new()).collect::<Vec<_>>();
    let mut fleet = Fleet::new(policy, reach, &slots);
    for event in events {
        let name = format!("{event:?}");
        fleet.act(event).map_err(|error| TestCaseError::fail(format!("after {name}: {error}")))?;
    }
    fleet.end()
}

impl<'a> Fleet<'a> {
    fn new(policy: SyncPolicy, reach: Reach, slots: &'a [OnceCell<Shared>]) -> Self {
        let mut computer = Computer::new(policy, true);
        computer.strict = reach == Reach::Local;
        computer.has_true_past = true;
        computer.disk.set_reach(reach);
        computer.advance(Duration::ZERO);
        let stall = Arc::new(Stall::default());
        let (waiting, clocks) = (Arc::clone(&stall), computer.clocks.clone());
        computer.disk.before_each_step(move || {
            let left = waiting.steps.load(Ordering::Relaxed);
            waiting.steps.store(left.saturating_sub(1), Ordering::Relaxed);
            if left == 1 {
                clocks.advance(Duration::from_millis(waiting.ms.load(Ordering::Relaxed)));
            }
        });
        let (alive, slots) = (Vec::new(), slots.iter());
        Self { computer, slots, alive, reach, stall, panics_on: None, planted: 0, fired: 0 }
    }

    fn act(&mut self, event: Event) -> Result<(), TestCaseError> {
        // The file `clock` may be missing from here on.
        let loses_clock = matches!(event, Event::Remove(_) | Event::LimitDisk(_) | Event::FailSyncs(_));
        self.computer.has_true_past &= !loses_clock;
        match event {
            Event::Start(member) => self.start(&member)?,
            Event::At(at, step) => {
                if let Some(at) = self.at(at) {
                    self.alive[at].step(&mut self.computer, step);
                }
            }
            Event::Kill(at) => self.kill(at)?,
            Event::KillDuring(at, nth) => {
                if let Some(at) = self.at(at) {
                    self.alive[at].faults.plan(nth, Fault::Errno(5), true);
                    self.alive[at].step(&mut self.computer, Step::DiskTurn);
                    self.kill(at)?;
                }
            }
            Event::Shutdown(at) => self.shut_down(at)?,
            Event::RollOver(at, member) => {
                let old = self.at(at);
                self.start(&member)?;
                if let Some(old) = old {
                    self.shut_down(old)?;
                }
            }
            Event::CrashLoop(times) => {
                for _ in 0..times {
                    self.start(&Member::default())?;
                    let last = self.alive.len().wrapping_sub(1);
                    if let Some(process) = self.alive.get_mut(last) {
                        process.step(&mut self.computer, Step::Export(4));
                        self.kill(last)?;
                    }
                }
            }
            Event::PowerCut(crash) => {
                self.computer.disk.crash(crash);
                self.computer.forget_unsynced();
                self.computer.strict &= self.computer.policy != SyncPolicy::Never;
                while !self.alive.is_empty() {
                    self.kill(0)?;
                }
            }
            Event::Stall(steps, ms) => {
                self.stall.ms.store(ms, Ordering::Relaxed);
                self.stall.steps.store(steps, Ordering::Relaxed);
            }
            Event::FailSyncs(count) => {
                self.computer.strict = false;
                self.computer.has_lied = true;
                self.computer.disk.fail_syncs(count);
            }
            Event::Remove(at) => self.remove(at),
            Event::RemoveSegment(at) => self.remove_segment(at),
            Event::Plant(at, planted) => self.plant(at, planted),
            Event::PanicOn(at) => {
                let files = self.fallback_files();
                if let Some(path) = files.get(at % files.len().max(1)) {
                    self.computer.strict = false;
                    self.panics_on = path.rsplit_once('/').map(|(_, name)| name.to_owned());
                    self.alive.iter().for_each(|process| process.faults.panic_on(self.panics_on.as_deref()));
                }
            }
            Event::LimitDisk(bytes) => {
                self.computer.strict = false;
                self.computer.limit_disk(Some(bytes));
            }
            Event::Repair => self.repair(),
        }
        for process in &self.alive {
            process.check_ledger().map_err(TestCaseError::fail)?;
        }
        Ok(())
    }

    fn at(&self, at: usize) -> Option<usize> {
        at.checked_rem(self.alive.len())
    }

    fn start(&mut self, member: &Member) -> Result<(), TestCaseError> {
        if self.alive.len() == MAX_ALIVE {
            return Ok(());
        }
        let faults = Faults::none();
        faults.panic_on(self.panics_on.as_deref());
        if let Some((nth, fault, lasts)) = member.fault {
            self.computer.strict = false;
            faults.plan(nth, fault, lasts);
        }
        self.computer.strict &= member.max_bytes == Member::default().max_bytes && member.skew == 0;
        self.computer.has_true_past &= member.skew >= 0 && member.fault.is_none();
        let start = Start {
            is_durable: member.is_durable,
            host: if self.reach == Reach::Local { 0 } else { member.host },
            max_bytes: member.max_bytes,
            clocks: self.computer.clocks.skewed(member.skew),
            faults: faults.clone(),
        };
        let Some((shared, stores)) = self.computer.start_process(start) else {
            self.fired += faults.fired();
            let is_in_trouble = faults.fired() > 0 || self.computer.is_full || !self.computer.strict;
            prop_assert!(is_in_trouble, "a process does not start on a healthy disk");
            return Ok(());
        };
        let slot = self.slots.next().expect("one for each start");
        self.alive.push(Process::new(slot.get_or_init(|| shared), stores));
        Ok(())
    }

    /// A power cut has killed the process with its disk already.
    fn kill(&mut self, at: usize) -> Result<(), TestCaseError> {
        if let Some(at) = self.at(at) {
            let mut process = self.alive.remove(at);
            self.fired += process.faults.fired();
            process.kill(&mut self.computer);
            if !self.computer.strict {
                // After a failed write the unsynced batches may be in memory only.
                self.computer.forget_unsynced();
            }
            process.add_losses(&mut self.computer)?;
            process.faults.plan(0, Fault::Errno(5), true);
        }
        Ok(())
    }

    fn shut_down(&mut self, at: usize) -> Result<(), TestCaseError> {
        if let Some(at) = self.at(at) {
            let mut process = self.alive.remove(at);
            process.step(&mut self.computer, Step::Shutdown);
            self.fired += process.faults.fired();
            process.check_ledger().map_err(TestCaseError::fail)?;
            process.add_losses(&mut self.computer)?;
        }
        Ok(())
    }

    /// Removes one of the directories and files of the processes, the state directory itself among them.
    fn remove(&mut self, at: usize) {
        let paths = tree::paths(&self.computer.disk);
        let paths = paths.into_iter().filter(|(path, _)| !path.contains("quarantine")).collect::<Vec<_>>();
        let Some((path, kind)) = at.checked_rem(paths.len()).map(|at| paths[at].clone()) else { return };
        let computer = &mut self.computer;
        let lost = tree::spans_below(&computer.disk, &path, &computer.made);
        computer.durable.retain(|key| !lost.contains(key));
        computer.forgotten.extend(lost);
        computer.strict = false;
        tree::remove(&computer.disk, &path, kind);
    }

    /// On a disk without faults: otherwise a process may not learn of it.
    fn remove_segment(&mut self, at: usize) {
        let segments = tree::segments(&self.computer.disk);
        let is_in_use = |path: &String| tree::is_in_use(&self.computer.disk, path);
        let segments = segments.into_iter().filter(is_in_use).collect::<Vec<_>>();
        let Some(path) = at.checked_rem(segments.len()).filter(|_| self.computer.strict).map(|at| &segments[at]) else {
            return;
        };
        self.computer.removed.extend(tree::spans_below(&self.computer.disk, path, &self.computer.made));
        tree::remove(&self.computer.disk, path, Kind::File);
        for _ in 0..=segments.len() {
            self.computer.advance(Duration::from_millis(1_100));
            for process in &mut self.alive {
                process.step(&mut self.computer, Step::JournalTurn);
                process.step(&mut self.computer, Step::DiskTurn);
            }
        }
    }

    fn fallback_files(&self) -> Vec<String> {
        let paths = tree::paths(&self.computer.disk).into_iter().map(|(path, _)| path);
        paths.filter(|path| path.contains("/fallback/traces-")).collect()
    }

    fn plant(&mut self, at: usize, planted: Planted) {
        let dirs = tree::paths(&self.computer.disk).into_iter();
        let dirs = dirs.filter(|(path, kind)| *kind == Kind::Directory && path.ends_with("/fallback"));
        let dirs = dirs.map(|(path, _)| path).collect::<Vec<_>>();
        let Some(dir) = at.checked_rem(dirs.len()).map(|at| &dirs[at]) else { return };
        self.planted += 1;
        self.computer.strict = false;
        let (end, content): (_, &[u8]) = match planted {
            Planted::NoJson => ("jsonl", b"no JSON\n"),
            Planted::NoZstd => ("jsonl.zst", b"no zstd"),
            Planted::NoProtobuf => ("binpb", &[0xff; 40]),
            Planted::Empty => ("jsonl", b""),
        };
        let name = format!("{dir}/traces-20260201T000000.000Z-{:08}-n2.{end}", 9_000 + self.planted);
        tree::write(&self.computer.disk, &name, content);
    }

    fn repair(&mut self) {
        self.panics_on = None;
        self.stall.steps.store(0, Ordering::Relaxed);
        self.computer.disk.fail_syncs(0);
        self.computer.limit_disk(None);
        for process in &self.alive {
            self.fired += process.faults.fired();
            process.faults.clear();
            process.faults.panic_on(None);
        }
    }

    /// One healthy process is left with a willing collector: nothing stays on the disk, and no span is missing.
    fn end(mut self) -> Result<Ended, TestCaseError> {
        self.repair();
        if self.alive.is_empty() {
            self.start(&Member::default())?;
        }
        while self.alive.len() > 1 {
            self.kill(1)?;
        }
        let was_strict = self.computer.strict;
        let mut last = self.alive.remove(0);
        // Content that could not be taken over in the trouble before may be left to the next process.
        let rounds = if was_strict { 2_000 } else { 400 };
        self.take_over(&mut last, rounds, was_strict)?;
        last.step(&mut self.computer, Step::Shutdown);
        last.add_losses(&mut self.computer)?;
        drop(last);
        self.start(&Member::default())?;
        let mut last = self.alive.pop().expect("a healthy disk");
        self.take_over(&mut last, 2_000, true)?;
        self.computer.disk.crash(match self.computer.policy {
            SyncPolicy::Never => Crash::Best,
            SyncPolicy::Batch | SyncPolicy::Interval(_) => Crash::Worst,
        });
        last.add_losses(&mut self.computer)?;
        drop(last);
        self.start(&Member::default())?;
        let ledger = self.alive[0].shared.core().ledger().clone();
        prop_assert_eq!(ledger.recovered, 0, "a delivered batch was recovered once more: {:?}", ledger);
        self.alive.clear();
        self.computer.check_spans()?;
        Ok(Ended { fired: self.fired, lost: self.computer.lost })
    }

    /// The process sends all that it has, and takes over the directories of all others.
    fn take_over(&mut self, last: &mut Process<'a>, rounds: usize, must_end: bool) -> Result<(), TestCaseError> {
        for _ in 0..rounds {
            self.computer.drain(last)?;
            if self.left_on_disk().is_empty() {
                return Ok(());
            }
            self.computer.serve(last, ROUND);
        }
        let (left, health) = (self.left_on_disk(), last.shared.health());
        prop_assert!(!must_end, "left on the disk: {:?} {:?}", left, health);
        Ok(())
    }

    /// Directories of processes but for one, and files of batches outside quarantine.
    fn left_on_disk(&self) -> Vec<String> {
        let paths = tree::paths(&self.computer.disk).into_iter().filter_map(|(path, kind)| {
            let path = path.strip_prefix(STATE)?.strip_prefix('/')?.to_owned();
            Some((path, kind))
        });
        let (mut processes, mut files) = (Vec::new(), Vec::new());
        for (path, kind) in paths {
            match path.split('/').collect::<Vec<_>>()[..] {
                [_] if kind == Kind::Directory => processes.push(path),
                [_, "fallback", name] if name.starts_with("traces-") => files.push(path),
                _ => {}
            }
        }
        if processes.len() > 1 {
            files.append(&mut processes);
        }
        files
    }
}
