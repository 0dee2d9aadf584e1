//! Every call to the disk fails once, and from then on, at every place: nothing that was synced is lost, nothing that was done and synced comes
//! back, nothing panics, and on a well disk the journal goes on.

use journal::Journal;
use safe_dir::sim::{Crash, Disk, Fault, Faults, Faulty};
use safe_dir::{Directory, SafeDir};

use super::World;

fn well_or_not<D: Directory>(
    world: &mut World,
    dir: &impl Fn() -> D,
    faults: &Faults,
    crashed: bool,
) -> Journal<Faulty<D>> {
    // A disk that fails for good does not let a journal be opened; then it is mended.
    world.open(Faulty::new(dir(), faults.clone()), crashed, || faults.clear()).unwrap_or_else(|| {
        faults.clear();
        world.open(Faulty::new(dir(), faults.clone()), crashed, || {}).expect("a well disk opens")
    })
}

/// Batches, marks, spills, rotation, clearing up.
fn live<D: Directory>(world: &mut World, journal: &mut Journal<D>) {
    for round in 0..3 {
        for len in [700, 0, 1_500, 20] {
            world.append(journal, len);
        }
        world.sync(journal);
        // Announce, sync, write, mark, sync.
        for _ in 0..5 {
            world.spill(journal, 5 * usize::from(world.spills.is_empty()) + 1, round == 1);
        }
        world.append(journal, 300);
        world.done(journal, round, 3);
        world.sync(journal);
        for _ in 0..3 {
            drop(journal.maintain());
            world.check(journal);
        }
    }
}

/// Two lives with the fault somewhere in them, then one without; says whether it came to the fault.
fn run<D: Directory>(dir: impl Fn() -> D, cut: impl Fn(), crashed: bool, nth: u64, fault: Fault, lasts: bool) -> bool {
    let (faults, mut world) = (Faults::none(), World::new(super::SMALL));
    faults.plan(nth, fault, lasts);
    let mut journal = well_or_not(&mut world, &dir, &faults, false);
    for _ in 0..2 {
        live(&mut world, &mut journal);
        let lossy = crashed || journal.status().trouble;
        cut();
        drop(journal);
        journal = well_or_not(&mut world, &dir, &faults, lossy);
    }
    let fired = faults.fired() > 0;
    faults.clear();
    live(&mut world, &mut journal);
    assert!(world.append(&mut journal, 10) && world.sync(&mut journal), "it goes on");
    let waiting: Vec<_> = world.live.keys().copied().collect();
    world.mark(&mut journal, &waiting);
    assert!(world.sync(&mut journal));
    drop(journal);
    let mut journal = well_or_not(&mut world, &dir, &faults, false);
    super::settle(&mut journal).expect("a well disk");
    let left = dir().list().expect("readable").into_iter().filter_map(|entry| entry.name.into_string().ok());
    assert_eq!(left.filter(|name| name.starts_with("journal-")).count(), 0, "nothing is left over");
    fired
}

fn sweep(fault: Fault, lasts: bool) {
    for crash in [None, Some(Crash::Worst), Some(Crash::Random(11))] {
        let mut nth = 1;
        loop {
            let disk = Disk::new();
            let cut = || crash.into_iter().for_each(|crash| disk.crash(crash));
            if !run(|| disk.root(), cut, crash.is_some(), nth, fault, lasts) {
                break;
            }
            nth += 1;
        }
        assert!(nth > 100, "only {nth} calls");
    }
}

#[test]
fn eio_once() {
    sweep(Fault::Errno(5), false);
}

#[test]
fn eio_from_then_on() {
    sweep(Fault::Errno(5), true);
}

#[test]
fn enospc_in_the_middle_of_a_write() {
    sweep(Fault::TornWrite(28), false);
    sweep(Fault::TornWrite(28), true);
}

#[test]
fn emfile_and_eintr_once() {
    sweep(Fault::Errno(24), false);
    sweep(Fault::Errno(4), false);
}

#[test]
fn short_writes() {
    sweep(Fault::ShortWrite, false);
    sweep(Fault::ShortWrite, true);
}

#[test]
fn eio_once_over_real_files() {
    let mut nth = 1;
    loop {
        let scratch = tempfile::tempdir().expect("a temporary directory");
        if !run(|| SafeDir::open(scratch.path()).expect("ours"), || {}, false, nth, Fault::Errno(5), false) {
            break;
        }
        nth += 1;
    }
    assert!(nth > 100, "only {nth} calls");
}
