//! Each call to the disk fails in turn, once or for good: no synced batch is lost, no batch that was done and synced
//! comes back, no call panics, and the journal works again once the disk does.

use journal::Journal;
use safe_dir::sim::{Crash, Disk, Fault, Faults, Faulty};
use safe_dir::{Directory, SafeDir};

use super::Account;

fn open_or_mend<D: Directory>(
    account: &mut Account,
    dir: &impl Fn() -> D,
    faults: &Faults,
    crashed: bool,
) -> Journal<Faulty<D>> {
    // A disk that fails for good does not let a journal be opened; then the fault ends.
    account.open(Faulty::new(dir(), faults.clone()), crashed, || faults.clear()).unwrap_or_else(|| {
        faults.clear();
        account.open(Faulty::new(dir(), faults.clone()), crashed, || {}).expect("a well disk opens")
    })
}

/// Batches, marks, spills, rotation and maintenance.
fn exercise<D: Directory>(account: &mut Account, journal: &mut Journal<D>) {
    for round in 0..3 {
        for len in [700, 0, 1_500, 20] {
            account.append(journal, len);
        }
        account.sync(journal);
        // One step of a spill each: announce, sync, write, mark, sync.
        for _ in 0..5 {
            account.spill(journal, 5 * usize::from(account.spills.is_empty()) + 1, round == 1);
        }
        drop(journal.prepare());
        account.append(journal, 300);
        account.done(journal, round, 3);
        account.sync(journal);
        for _ in 0..3 {
            drop(journal.maintain());
            account.check(journal);
        }
    }
}

/// Two runs with the fault in one of them, then one without; returns whether the fault occurred.
fn run<D: Directory>(dir: impl Fn() -> D, cut: impl Fn(), crashed: bool, nth: u64, fault: Fault, lasts: bool) -> bool {
    let (faults, mut account) = (Faults::none(), Account::new(super::SMALL));
    faults.plan(nth, fault, lasts);
    let mut journal = open_or_mend(&mut account, &dir, &faults, false);
    for _ in 0..2 {
        exercise(&mut account, &mut journal);
        let lossy = crashed || journal.status().trouble;
        cut();
        drop(journal);
        journal = open_or_mend(&mut account, &dir, &faults, lossy);
    }
    let fired = faults.fired() > 0;
    faults.clear();
    exercise(&mut account, &mut journal);
    assert!(account.append(&mut journal, 10) && account.sync(&mut journal), "it goes on");
    let waiting: Vec<_> = account.waiting.keys().copied().collect();
    account.mark(&mut journal, &waiting);
    assert!(account.sync(&mut journal));
    drop(journal);
    let mut journal = open_or_mend(&mut account, &dir, &faults, false);
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

/// The first group commit of a segment that was begun ahead costs what each later one costs.
#[test]
fn a_commit_to_a_segment_that_was_begun_ahead_syncs_no_directory() {
    let (disk, faults) = (Disk::new(), Faults::none());
    let (mut journal, _) = super::open(Faulty::new(disk.root(), faults.clone()));
    let commit = |journal: &mut Journal<_>, seq| {
        let before = faults.calls();
        super::append(journal, super::id(seq), 1_000);
        journal.sync().expect("a well disk");
        faults.calls() - before
    };
    let first = commit(&mut journal, 1);
    let usual = commit(&mut journal, 2);
    assert!(first > usual, "{first} calls make a segment and its name durable, {usual} its content");
    journal.prepare().expect("a well disk");
    assert_eq!((journal.status().segments, commit(&mut journal, 3)), (1, usual), "there is room in the segment");
    journal.prepare().expect("a well disk");
    assert_eq!((journal.status().segments, commit(&mut journal, 4)), (2, usual));
    super::append(&mut journal, super::id(5), 2_500);
    journal.prepare().expect("a well disk");
    assert_eq!(journal.status().segments, 2, "the sync of the record comes first");
    journal.sync().expect("a well disk");
    disk.set_capacity(Some(journal.status().bytes));
    // This journal has no reserve that would tell it before.
    drop(journal.prepare().expect_err("a full disk"));
    assert_eq!(journal.status().segments, 2);
    disk.set_capacity(None);
    // A power cut takes the content of the new segment, and nothing else.
    journal.prepare().expect("a well disk");
    assert_eq!(journal.status().segments, 3);
    disk.crash(Crash::Worst);
    drop(journal);
    let (journal, report) = super::open(disk.root());
    assert_eq!((report.batches, report.lost_batches, report.torn_bytes), (5, 0, 0));
    assert_eq!(journal.status().segments, 2);
}
