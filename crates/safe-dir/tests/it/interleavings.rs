//! Processes that share a directory, in any order of their steps: each is a thread, and one of them runs at a time.

use std::any::Any;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use safe_dir::sim::{Disk, MemoryDir, Reach};
use safe_dir::{Adopted, Directory as _, HEARTBEAT_TIMEOUT, SharedDir, publish};

use crate::shared::{empty, files, machine};

thread_local! {
    /// The number of the process that this thread is; none for the test itself, which runs freely.
    static PROCESS: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Lets one process at a time make one step.
#[derive(Default)]
struct Scheduler {
    state: Mutex<Turns>,
    changed: Condvar,
}

#[derive(Default)]
struct Turns {
    /// Those that wait for their next step.
    waiting: BTreeSet<usize>,
    running: Option<usize>,
    killed: BTreeSet<usize>,
    ended: BTreeMap<usize, Option<String>>,
}

/// The unwinding of a process that is killed.
struct Killed;

impl Scheduler {
    fn lock(&self) -> MutexGuard<'_, Turns> {
        self.state.lock().expect("no test panics while it holds this")
    }

    /// Called by a process ahead of each step.
    fn wait_for_turn(&self) {
        let Some(process) = PROCESS.get() else { return };
        let mut turns = self.lock();
        turns.running = None;
        turns.waiting.insert(process);
        self.changed.notify_all();
        while turns.running != Some(process) {
            turns = self.changed.wait(turns).expect("as above");
        }
        turns.waiting.remove(&process);
        if turns.killed.contains(&process) {
            drop(turns);
            resume_unwind(Box::new(Killed));
        }
    }

    fn end(&self, process: usize, result: Result<(), Box<dyn Any + Send>>) {
        let failure = result.err().filter(|cause| !cause.is::<Killed>()).map(|cause| {
            let text = cause.downcast_ref::<String>().cloned();
            text.or_else(|| cause.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
        });
        let mut turns = self.lock();
        turns.running = None;
        turns.ended.insert(process, failure);
        self.changed.notify_all();
    }

    /// Waits until each of `count` processes waits for its turn or has ended; returns those that wait.
    fn ready(&self, count: usize) -> Vec<usize> {
        let mut turns = self.lock();
        while turns.running.is_some() || turns.waiting.len() + turns.ended.len() < count {
            turns = self.changed.wait(turns).expect("as above");
        }
        turns.waiting.iter().copied().collect()
    }

    fn run(&self, process: usize, kill: bool) {
        let mut turns = self.lock();
        if kill {
            turns.killed.insert(process);
        }
        turns.running = Some(process);
        self.changed.notify_all();
    }
}

/// One decision of the schedule, ahead of a step.
#[derive(Clone, Copy, Debug)]
enum Choice {
    /// The process with this number among those that wait makes its next step.
    Step(usize),
    /// It is killed there.
    Kill(usize),
    /// More than the time-out of heartbeats passes.
    Wait,
}

/// A disk, and the processes on it.
struct World {
    disk: Disk,
    scheduler: Arc<Scheduler>,
    ledger: Arc<Mutex<Ledger>>,
}

/// The facts that processes know, and that must hold for the others.
#[derive(Debug, Default)]
struct Ledger {
    /// The files that were stored.
    stored: BTreeSet<String>,
    /// How often more than the time-out of heartbeats passed.
    waits: u32,
    /// The live processes that found their directory in its place after a heartbeat, with `waits` ahead of it.
    safe: BTreeMap<usize, u32>,
}

/// One process of a world.
struct Process {
    number: usize,
    host: u32,
    disk: Disk,
    /// The number of its incarnation.
    incarnation: u64,
    ledger: Arc<Mutex<Ledger>>,
}

impl World {
    fn new(reach: Reach) -> Self {
        let (disk, scheduler) = (Disk::new(), Arc::new(Scheduler::default()));
        disk.set_reach(reach);
        let turns = Arc::clone(&scheduler);
        disk.before_each_step(move || turns.wait_for_turn());
        Self { disk, scheduler, ledger: Arc::default() }
    }

    fn wait(&self) {
        let mut ledger = self.ledger.lock().expect("no panic");
        ledger.waits += 1;
        self.disk.set_now(SystemTime::UNIX_EPOCH + HEARTBEAT_TIMEOUT * 2 * ledger.waits + Duration::from_secs(1));
    }

    /// Runs one process per host by the choices, then by turns until all have ended; then the last process adopts all
    /// that is left. The numbers of the incarnations are `distance` apart; processes that take the time for it and
    /// start together have the same. Returns whether each file that was stored is there once, and nothing else.
    fn check(&self, hosts: &[u32], distance: u64, choices: impl IntoIterator<Item = Choice>) -> Result<(), String> {
        std::thread::scope(|scope| {
            for (number, host) in (1..).zip(hosts.iter().copied()) {
                let (disk, ledger) = (self.disk.clone(), Arc::clone(&self.ledger));
                let process = Process { number, host, disk, incarnation: 7 + number as u64 * distance, ledger };
                let scheduler = Arc::clone(&self.scheduler);
                scope.spawn(move || {
                    PROCESS.set(Some(number));
                    let ledger = Arc::clone(&process.ledger);
                    let result = catch_unwind(AssertUnwindSafe(|| {
                        scheduler.wait_for_turn();
                        process.live();
                    }));
                    drop(ledger.lock().map(|mut ledger| ledger.safe.remove(&number)));
                    scheduler.end(number, result);
                });
            }
            let (mut choices, mut turn) = (choices.into_iter(), 0);
            loop {
                let waiting = self.scheduler.ready(hosts.len());
                if waiting.is_empty() {
                    break;
                }
                turn += 1;
                match choices.next().unwrap_or(Choice::Step(turn)) {
                    Choice::Step(index) => self.scheduler.run(waiting[index % waiting.len()], false),
                    Choice::Kill(index) => self.scheduler.run(waiting[index % waiting.len()], true),
                    Choice::Wait => self.wait(),
                }
            }
        });
        for (process, failure) in &self.scheduler.lock().ended {
            if let Some(failure) = failure {
                return Err(format!("process {process}: {failure}"));
            }
        }
        self.check_the_end()
    }

    fn check_the_end(&self) -> Result<(), String> {
        let mut last =
            SharedDir::claim(self.disk.root_on(99), machine(99), 99).map_err(|error| format!("{error:?}"))?;
        let mut moved = Vec::new();
        for _ in 0..3 {
            self.wait();
            for name in last.others().map_err(|error| error.to_string())? {
                let adopted = last.adopt(&name).map_err(|error| format!("{error:?}"))?;
                moved.extend(empty(&last, adopted.ok_or_else(|| format!("{name} has no owner and is not adopted"))?));
            }
        }
        moved.retain(|name| !name.starts_with(".tmp-"));
        let found: BTreeSet<_> = moved.iter().cloned().collect();
        let stored = &self.ledger.lock().expect("no panic").stored;
        if found.len() != moved.len() || !found.is_superset(stored) {
            return Err(format!("stored {stored:?}, found {moved:?}"));
        }
        let left = files(last.root());
        if left != BTreeSet::from([last.name().to_owned()]) {
            return Err(format!("left in the root: {left:?}"));
        }
        Ok(())
    }
}

impl Process {
    /// Starts, stores a file, adopts what others have left in two rounds, ends.
    fn live(self) {
        let started = self.waits();
        let number = self.number;
        let root = self.disk.root_on(self.host);
        let mut shared = SharedDir::claim(root, machine(self.host), self.incarnation).expect("the disk works");
        // The bytes tell the process, as a number that is free again may be taken by another one.
        let since = self.waits();
        // A process that was stopped for a minute has lost its directory, which may be removed by now: in earnest it
        // claims another one.
        match shared.beat(number as u64) {
            Ok(()) => {}
            Err(_) if self.waits() != started && shared.is_gone() => return,
            Err(error) => panic!("{error:?}"),
        }
        if self.has_lost(&shared, started) {
            return;
        }
        self.ledger().safe.insert(number, since);
        let name = format!("of-{number}");
        match publish(shared.own(), &name, |file| file.write_all(b"x")) {
            Ok(()) => drop(self.ledger().stored.insert(name)),
            Err(error) => assert_ne!(self.waits(), started, "{error}"),
        }
        for _ in 0..2 {
            for name in shared.others().expect("readable") {
                match shared.adopt(&name) {
                    Ok(Some(adopted)) => self.empty(&shared, adopted, started),
                    Ok(None) => {}
                    // Its own directory is gone, and with it the heartbeat that others are compared with.
                    Err(_) if self.waits() != started => return,
                    Err(error) => panic!("{error:?}"),
                }
            }
            self.has_lost(&shared, started);
        }
    }

    fn empty(&self, shared: &SharedDir<MemoryDir>, adopted: Adopted<MemoryDir>, started: u32) {
        if let Some(owner) = &adopted.owner {
            let ledger = self.ledger();
            let safe_since = usize::try_from(owner.bytes).ok().and_then(|number| ledger.safe.get(&number)).copied();
            let waits = ledger.waits;
            drop(ledger);
            assert_ne!(safe_since, Some(waits), "the owner is alive, and its heartbeat is recent");
        }
        let dir = &adopted.locked.dir;
        let mut files: Vec<_> = files(dir).into_iter().collect();
        // A stopped owner that wakes up may publish its file meanwhile: its temporary one is gone then.
        files.retain(|name| dir.rename(name, shared.own(), name).is_ok());
        // Neither fails unless this process was stopped for a minute and has lost its own directory.
        let synced = shared.own().sync().is_ok() && dir.sync().is_ok();
        let removed = adopted.remove(shared.root()).is_ok();
        assert!(synced && removed || self.waits() != started, "{files:?}");
    }

    /// Without time that passes, no process takes a directory that another holds.
    fn has_lost(&self, shared: &SharedDir<MemoryDir>, started: u32) -> bool {
        let is_gone = shared.is_gone();
        // A number that was free may be taken again: the new owner loses its name for a moment to a process that looked
        // at the old one before the time passed.
        let may_be_gone = shared.is_on_network() && (self.waits() != started || started > 0);
        assert!(!is_gone || may_be_gone, "a directory was taken from a live process");
        is_gone
    }

    fn waits(&self) -> u32 {
        self.ledger().waits
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().expect("no panic")
    }
}

fn choices(with_waits: bool) -> impl Strategy<Value = Vec<Choice>> {
    let choice = (any::<u8>(), 0..8_usize).prop_map(move |(kind, index)| match kind {
        0..4 => Choice::Kill(index),
        4..8 if with_waits => Choice::Wait,
        _ => Choice::Step(index),
    });
    // A process often makes several steps in a row: else two of them hardly ever meet in the same place.
    let run = (choice, 1..12_usize).prop_map(|(choice, length)| match choice {
        Choice::Step(_) => vec![choice; length],
        other => vec![other],
    });
    prop::collection::vec(run, 0..60).prop_map(|runs| runs.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn on_a_local_disk_no_live_process_loses_its_directory(choices in choices(false), count in 2..5_usize) {
        let world = World::new(Reach::Local);
        prop_assert_eq!(world.check(&vec![0; count], 0, choices), Ok(()));
    }

    #[test]
    fn on_a_network_disk_only_a_process_without_heartbeat_loses_its_directory(
        choices in choices(true),
        hosts in prop::collection::vec(0..3_u32, 2..5),
        locks_are_local: bool,
        distance in 0..3_u64,
    ) {
        let world = World::new(if locks_are_local { Reach::NetworkWithLocalLocks } else { Reach::Network });
        prop_assert_eq!(world.check(&hosts, distance, choices), Ok(()));
    }
}

/// Two processes with each schedule that changes between them at most twice in their first steps, one of which may be
/// killed at the first change.
#[test]
fn every_schedule_with_two_changes_keeps_each_file() {
    const STEPS: usize = 45;
    for kill in [false, true] {
        for first in 0..STEPS {
            for second in (first..STEPS).step_by(if kill { 5 } else { 2 }) {
                let world = World::new(Reach::Local);
                let change = if kill { Choice::Kill(0) } else { Choice::Step(1) };
                let choices = std::iter::repeat_n(Choice::Step(0), first)
                    .chain([change])
                    .chain(std::iter::repeat_n(Choice::Step(1), second - first))
                    .chain(std::iter::repeat_n(Choice::Step(0), STEPS));
                assert_eq!(world.check(&[0, 0], 0, choices), Ok(()), "changes after {first} and {second}, kill {kill}");
            }
        }
    }
}

/// While one process adopts, another one is faster at each step in turn, and a third one starts and takes the number
/// that is free again: on a local disk its directory keeps its name at every moment, on a network disk in the end.
#[test]
fn a_process_that_takes_a_free_number_keeps_its_name() {
    for (reach, hosts) in [(Reach::Local, [0, 0]), (Reach::NetworkWithLocalLocks, [1, 2])] {
        let mut started = 0;
        for (at, end) in (0..40).flat_map(|at| [End::Emptied, End::Killed, End::Holds].map(|end| (at, end))) {
            started += u32::from(overtake(reach, hosts, at, end));
        }
        assert!(started > 2, "{reach:?}: the other process was faster at some steps");
    }
}

/// The state of an adopted directory after its adopter was faster.
#[derive(Clone, Copy, Debug)]
enum End {
    Emptied,
    /// The adopter has ended.
    Killed,
    /// The adopter has not emptied it yet.
    Holds,
}

/// Returns whether the second process adopted the directory and the third one took its number, when the first one had
/// made `at` steps of its adoption.
fn overtake(reach: Reach, [slow, fast]: [u32; 2], at: u32, end: End) -> bool {
    let world = World::new(reach);
    let claim = |host, incarnation| {
        SharedDir::claim(world.disk.root_on(host), machine(host), incarnation).expect("the disk works")
    };
    drop(claim(9, 1));
    world.wait();
    let (mut slow, mut fast) = (claim(slow, 2), claim(fast, 3));
    let (mut third, mut held): (Option<SharedDir<MemoryDir>>, _) = (None, None);
    let mut renamed = Vec::new();
    std::thread::scope(|scope| {
        let scheduler = Arc::clone(&world.scheduler);
        let adopting = scope.spawn(move || {
            PROCESS.set(Some(0));
            let adopted = slow.adopt("0000000000000001").expect("the disk works");
            scheduler.end(0, Ok(()));
            adopted
        });
        for step in 0.. {
            if world.scheduler.ready(1).is_empty() {
                break;
            }
            if step == at
                && let Some(adopted) = fast.adopt("0000000000000001").expect("the disk works")
            {
                match end {
                    End::Emptied => drop(empty(&fast, adopted)),
                    End::Killed => drop(adopted),
                    End::Holds => held = Some(adopted),
                }
                third = Some(claim(3, 1));
            }
            if third.as_ref().is_some_and(|third| third.is_gone() && !third.is_on_network()) {
                renamed.push(step);
            }
            world.scheduler.run(0, false);
        }
        let adopted = adopting.join().expect("no panic");
        assert!(adopted.is_none() || third.is_none(), "{end:?} at {at}: both have adopted it");
    });
    assert!(third.as_ref().is_none_or(|third| !third.is_gone()), "{end:?} at {at}");
    // Not ahead of this: the first process would wait for its next turn for ever.
    assert!(renamed.is_empty(), "{end:?} at {at}: the name was lost at {renamed:?}");
    drop(held);
    third.is_some_and(|third| third.name() == "0000000000000001")
}
