//! An ended process's journal is moved into another one: in bounded steps, with unreadable batches, full disks and
//! faults at each call.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use journal::{AppendError, Config, Id, Journal, Notice, ReadError, TakeOverError, TakenOver};
use safe_dir::Directory;
use safe_dir::sim::{Crash, Disk, Fault, Faults, Faulty};

use super::sectors::BadSectors;
use super::{SMALL, append, body, count, id, now, open, recovered, settle};

const FIRST: &str = "journal-000000000001-0000000000000007.seg";
const SECOND: Duration = Duration::from_secs(1);
const OURS: u64 = 20;

/// A disk with the journal of an ended process: batches of these lengths, synced.
fn ended(lens: &[usize]) -> Disk {
    let disk = Disk::new();
    let (mut journal, _) = open(disk.root());
    for (seq, len) in (1..).zip(lens) {
        append(&mut journal, id(seq), *len);
    }
    journal.sync().expect("synced");
    disk
}

fn ours<D: Directory>(dir: D, config: Config) -> Journal<D> {
    Journal::open(dir, config, OURS, |_| Ok(false)).expect("it opens").0
}

fn seqs(batches: &[(Id, u32)]) -> Vec<u64> {
    batches.iter().map(|(id, _)| id.1).collect()
}

/// Steps until the other journal is empty, at most 100; all that was moved and lost.
fn move_all<D: Directory>(own: &mut Journal<D>, other: &mut Journal<D>, max_bytes: usize) -> TakenOver {
    let mut all = TakenOver::default();
    for step in 0..100 {
        let taken = own.take_over(other, max_bytes, now() + step * SECOND);
        all.moved.extend(taken.moved);
        all.lost.extend(taken.lost);
        if taken.is_empty {
            return all;
        }
    }
    panic!("{} batches are left", other.status().batches);
}

#[test]
fn batches_move_oldest_first_in_steps_of_about_the_given_bytes() {
    let (theirs, disk) = (ended(&[1_000; 10]), Disk::new());
    let (mut other, _) = open(theirs.root());
    let mut own = ours(disk.root(), SMALL);
    let mut moved = Vec::new();
    for step in 1..=5 {
        let taken = own.take_over(&mut other, 2_000, now());
        assert!(taken.error.is_none() && taken.lost.is_empty());
        assert_eq!((taken.moved.len(), taken.is_empty), (2, step == 5));
        moved.extend(taken.moved);
        // Durable here, and gone there, at the end of each step.
        assert_eq!(own.status().unsynced_bytes, 0);
        assert_eq!(other.status().unsynced_bytes, 0);
    }
    assert_eq!(moved, (1..=10).map(|seq| (id(seq), 1_000)).collect::<Vec<_>>());
    let taken = own.take_over(&mut other, 2_000, now());
    assert!(taken.moved.is_empty() && taken.is_empty, "nothing is reported twice");
    assert_eq!(own.read(id(4), now()).expect("here").body, body(id(4), 1_000));
    assert!(other.remove().expect("a well disk").is_some());
    disk.crash(Crash::Worst);
    theirs.crash(Crash::Worst);
    assert_eq!(open(theirs.root()).1.segments, 0);
    drop(own);
    assert_eq!(recovered(&mut open(disk.root()).0).len(), 10);
}

#[test]
fn a_step_frees_the_segments_that_it_emptied() {
    let (theirs, disk) = (ended(&[1_000; 40]), Disk::new());
    let (mut other, _) = open(theirs.root());
    let mut own = ours(disk.root(), SMALL);
    let before = other.status().bytes;
    let _ = own.take_over(&mut other, 20_000, now());
    assert!(other.status().bytes < before - 12_000, "{} of {before} bytes", other.status().bytes);
}

#[test]
fn one_unreadable_batch_holds_up_no_other_and_is_lost_after_three_failures_a_second_apart() {
    let theirs = ended(&[300; 5]);
    let sectors = BadSectors::default();
    let (mut other, _) = open(sectors.dir(theirs.root()));
    sectors.set(FIRST, 32 + 340 + 100..32 + 340 + 200);
    let disk = Disk::new();
    let mut own = ours(sectors.dir(disk.root()), SMALL);
    let start = now();
    let taken = own.take_over(&mut other, 1 << 20, start);
    assert_eq!((seqs(&taken.moved), taken.lost.len(), taken.is_empty), (vec![1, 3, 4, 5], 0, false));
    assert!(matches!(taken.error, Some(TakeOverError::Read(_))), "{:?}", taken.error);
    for wait in [0, 1, 10, 999, 1_000, 1_500] {
        let taken = own.take_over(&mut other, 1 << 20, start + Duration::from_millis(wait));
        assert_eq!((taken.moved.len(), taken.lost.len(), taken.is_empty), (0, 0, false), "after {wait} ms");
        assert!(matches!(taken.error, Some(TakeOverError::Read(_))));
    }
    let taken = own.take_over(&mut other, 1 << 20, start + 2 * SECOND);
    assert_eq!((taken.lost, taken.is_empty, taken.error.is_none()), (vec![(id(2), 300)], true, true));
    assert_eq!(count(&mut other, |notice| matches!(notice, Notice::Lost { .. })), 1);
    assert!(other.remove().expect("a well disk").is_some());
    let quarantine = theirs.root().subdirectory("quarantine").expect("there");
    assert_eq!(quarantine.list().expect("readable").len(), 1, "its segment is set aside");
}

#[test]
fn a_disk_that_fails_for_a_moment_loses_nothing() {
    let theirs = ended(&[300; 5]);
    let sectors = BadSectors::default();
    let (mut other, _) = open(sectors.dir(theirs.root()));
    sectors.set(FIRST, 32 + 340..32 + 2 * 340);
    let start = now();
    for _ in 0..10 {
        assert!(matches!(other.read(id(2), start), Err(ReadError::File(_))), "ten failures in a moment are one");
    }
    sectors.clear();
    assert_eq!(other.read(id(2), start + SECOND).expect("well again").body, body(id(2), 300));
    sectors.set(FIRST, 32 + 340..32 + 2 * 340);
    for seconds in [2, 3] {
        assert!(matches!(other.read(id(2), start + seconds * SECOND), Err(ReadError::File(_))), "counted anew");
    }
    assert!(matches!(other.read(id(2), start + 4 * SECOND), Err(ReadError::Damaged { count: 300, .. })));
    // The loss is marked: the next process does not report it again.
    other.sync().expect("a well disk");
    drop(other);
    sectors.clear();
    theirs.crash(Crash::Worst);
    assert_eq!(recovered(&mut open(theirs.root()).0).into_keys().collect::<Vec<_>>(), [1, 3, 4, 5].map(id));
}

#[test]
fn a_full_journal_takes_over_as_much_as_it_holds_and_the_rest_later() {
    let (theirs, disk) = (ended(&[3_000; 10]), Disk::new());
    let (mut other, _) = open(theirs.root());
    let mut own = ours(disk.root(), Config { max_bytes: 4 * SMALL.segment_bytes, ..SMALL });
    let taken = own.take_over(&mut other, 1 << 20, now());
    assert!(matches!(taken.error, Some(TakeOverError::Append(AppendError::Full { .. }))), "{:?}", taken.error);
    let moved: BTreeSet<u64> = seqs(&taken.moved).into_iter().collect();
    assert!(moved.len() > 2 && moved.len() < 10 && !taken.is_empty);
    assert_eq!(other.status().batches, 10 - moved.len(), "those are marked");
    let again = own.take_over(&mut other, 1 << 20, now());
    assert!(again.moved.is_empty() && again.error.is_some());
    // The batch that did not fit is the next one.
    own.done(&moved.iter().map(|seq| id(*seq)).collect::<Vec<_>>()).expect("written");
    own.sync().expect("synced");
    settle(&mut own).expect("a well disk");
    let rest = own.take_over(&mut other, 1 << 20, now());
    assert_eq!(seqs(&rest.moved)[0], moved.len() as u64 + 1);
}

#[test]
fn a_batch_above_the_own_limit_of_a_body_is_taken_over() {
    let (theirs, disk) = (ended(&[3_000, 10]), Disk::new());
    let (mut other, _) = open(theirs.root());
    let mut own = ours(disk.root(), Config { max_body_bytes: 100, ..SMALL });
    assert_eq!(seqs(&move_all(&mut own, &mut other, 1 << 20).moved), [1, 2]);
}

#[test]
fn batches_are_reported_and_marked_only_once_they_are_durable_here() {
    let (theirs, disk, faults) = (ended(&[300; 5]), Disk::new(), Faults::none());
    let (mut other, _) = open(Faulty::new(theirs.root(), Faults::none()));
    let mut own = ours(Faulty::new(disk.root(), faults.clone()), SMALL);
    append(&mut own, (OURS, 1), 10);
    own.sync().expect("synced");
    disk.fail_syncs(1);
    let taken = own.take_over(&mut other, 1 << 20, now());
    assert!(matches!(taken.error, Some(TakeOverError::Sync(_))) && taken.moved.is_empty() && !taken.is_empty);
    assert_eq!(other.status().batches, 5);
    let taken = own.take_over(&mut other, 1 << 20, now());
    assert_eq!((seqs(&taken.moved), taken.is_empty), (vec![1, 2, 3, 4, 5], true));
    // Also if the other journal is closed between the two steps.
    let (mut other, _) = open(Faulty::new(ended(&[50; 2]).root(), Faults::none()));
    own.done(&(1..=5).map(id).collect::<Vec<_>>()).expect("written");
    own.sync().expect("synced");
    disk.fail_syncs(1);
    assert!(own.take_over(&mut other, 1 << 20, now()).moved.is_empty());
    drop(other);
    let (mut other, _) = open(Faulty::new(ended(&[50; 2]).root(), Faults::none()));
    let taken = own.take_over(&mut other, 1 << 20, now());
    assert_eq!((seqs(&taken.moved), taken.is_empty), (vec![1, 2], true));
}

/// Moves a journal while the n-th call to one of the two disks fails; checks each batch.
fn with_fault(nth: u64, fault: Fault, lasts: bool, in_other: bool, kill: bool) -> bool {
    let lens = [700, 0, 1_500, 20, 3_000, 900];
    let (theirs, disk, faults) = (ended(&lens), Disk::new(), Faults::none());
    let (well, at_other) = (Faults::none(), faults.clone());
    let (own_faults, other_faults) = if in_other { (well, at_other) } else { (faults.clone(), well) };
    let (mut other, _) = open(Faulty::new(theirs.root(), other_faults));
    let mut own = ours(Faulty::new(disk.root(), own_faults), SMALL);
    faults.plan(nth, fault, lasts);
    let mut reported = BTreeMap::new();
    let start: Instant = now();
    for step in 0..20 {
        let taken = own.take_over(&mut other, 2_000, start + step * (SECOND / 10));
        assert!(taken.lost.is_empty(), "a moment's failure loses no batch");
        for (id, count) in taken.moved {
            assert!(reported.insert(id, count).is_none(), "{id:?} is reported twice");
            assert!(other.read(id, start).is_err(), "{id:?} is still in the other journal");
        }
        if step == 8 {
            faults.clear();
        }
        if kill && step == 5 {
            break;
        }
        if taken.is_empty && step > 8 {
            break;
        }
    }
    let fired = faults.fired() > 0;
    faults.clear();
    drop((own, other));
    disk.crash(Crash::Worst);
    theirs.crash(Crash::Worst);
    let here = recovered(&mut open(disk.root()).0);
    let there = recovered(&mut open(theirs.root()).0);
    for (seq, len) in (1..).zip(lens) {
        let copy = here.get(&id(seq)).or(there.get(&id(seq)));
        assert_eq!(copy, Some(&body(id(seq), len)), "{seq} is in one of them");
        assert!(!reported.contains_key(&id(seq)) || here.contains_key(&id(seq)), "{seq} was reported as durable here");
    }
    assert!(kill || (reported.len() == lens.len() && there.is_empty()), "all are moved in the end");
    fired
}

#[test]
fn each_call_to_either_disk_fails_once_or_for_a_while() {
    for (fault, lasts) in [
        (Fault::Errno(5), false),
        (Fault::Errno(5), true),
        (Fault::Errno(24), true),
        (Fault::TornWrite(28), true),
        (Fault::TornWrite(28), false),
        (Fault::ShortWrite, true),
    ] {
        for (in_other, kill) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut nth = 1;
            while with_fault(nth, fault, lasts, in_other, kill) {
                nth += 1;
            }
            assert!(nth > 8, "only {nth} calls: {fault:?}, {lasts}, {in_other}, {kill}");
        }
    }
}
