//! Another program removes the directory of a journal, or segments in it, while the journal is in use.

use std::collections::BTreeSet;

use journal::{Id, Journal, Notice, ReadError, SyncError};
use safe_dir::sim::{Crash, Disk, MemoryDir};
use safe_dir::{Directory, Locked, SafeDir};

use super::{SMALL, append, body, count, id, now, open, recovered, settle, tag};

fn journal_in(disk: &Disk) -> Journal<MemoryDir> {
    open(disk.root().subdirectory("journal").expect("made")).0
}

fn name(number: u64) -> String {
    format!("journal-{number:012x}-0000000000000007.seg")
}

fn seqs(batches: &[(Id, u32)]) -> Vec<u64> {
    batches.iter().map(|(id, _)| id.1).collect()
}

#[test]
fn nothing_is_durable_in_a_removed_directory_and_the_journal_goes_on_in_a_new_one() {
    let disk = Disk::new();
    let mut journal = journal_in(&disk);
    for seq in 1..=20 {
        append(&mut journal, id(seq), 500);
    }
    journal.sync().expect("synced");
    journal.done(&[id(2)]).expect("written");
    append(&mut journal, id(21), 50);
    append(&mut journal, id(22), 50);
    journal.spill("f", &[id(21)]).expect("written");
    assert!(disk.remove_tree("journal"));
    for _ in 0..2 {
        let error = journal.sync().expect_err("the directory is gone");
        assert!(error.is_vanished() && matches!(error, SyncError::Vanished(_)), "{error}");
    }
    assert!(journal.status().vanished && journal.status().unsynced_bytes > 0);
    journal.append(id(23), 1, b"x").expect_err("it would be lost");
    assert_eq!(journal.status().batches, 21);
    let lost = journal.renew(Locked::new(disk.root().subdirectory("journal").expect("made")).expect("free"));
    assert_eq!(seqs(&lost), (1..=20).filter(|seq| *seq != 2).collect::<Vec<_>>(), "oldest first, without the done one");
    assert!(lost.iter().all(|(_, count)| *count == 500));
    // The caller has one of them in memory.
    append(&mut journal, id(7), 500);
    journal.sync().expect("synced");
    assert!(!journal.status().vanished && !journal.status().trouble);
    assert_eq!(journal.read(id(22), now()).expect("here").body, body(id(22), 50));
    settle(&mut journal).expect("a well disk");
    disk.crash(Crash::Worst);
    drop(journal);
    let mut asked = Vec::new();
    let dir = disk.root().subdirectory("journal").expect("there");
    let exists = |name: &str| {
        asked.push(name.to_owned());
        Ok(false)
    };
    let (mut journal, _) = Journal::open(dir, SMALL, 8, exists).expect("it opens");
    assert_eq!(recovered(&mut journal).into_keys().map(|id| id.1).collect::<Vec<_>>(), [7, 21, 22]);
    assert_eq!(asked, ["f"], "the open spill is known");
}

#[test]
fn a_removal_is_noticed_without_a_record_to_sync_and_while_a_segment_is_finished() {
    let disk = Disk::new();
    let mut journal = journal_in(&disk);
    append(&mut journal, id(1), 500);
    journal.sync().expect("synced");
    assert!(disk.remove_tree("journal"));
    journal.maintain().expect_err("the directory is gone");
    assert!(journal.status().vanished);
    assert!(journal.sync().expect_err("still gone").is_vanished());
    let lost = journal.renew(Locked::new(disk.root().subdirectory("journal").expect("made")).expect("free"));
    assert_eq!(seqs(&lost), [1]);
    assert!(disk.remove_tree("journal"));
    // A full segment is synced before the next one begins.
    journal.append(id(1), 1, &[7; 500]).expect_err("no segment can begin");
    assert!(journal.sync().expect_err("gone").is_vanished());
    assert!(journal.renew(Locked::new(disk.root().subdirectory("journal").expect("made")).expect("free")).is_empty());
    append(&mut journal, id(1), 500);
    assert!(disk.remove_tree("journal"));
    // The sync that finishes a full segment.
    let refused =
        (2..=20).find(|seq| journal.append_tagged(id(*seq), tag(id(*seq)), 500, &body(id(*seq), 500)).is_err());
    assert!(refused.is_some_and(|seq| seq <= 9), "{refused:?}");
    assert!(journal.sync().expect_err("gone").is_vanished());
    let lost = journal.renew(Locked::new(disk.root().subdirectory("journal").expect("made")).expect("free"));
    assert!(lost.is_empty(), "all are in memory");
    journal.sync().expect("synced");
    let waiting = journal.status().batches;
    assert_eq!(Some(waiting as u64 + 1), refused);
    drop(journal);
    disk.crash(Crash::Worst);
    assert_eq!(recovered(&mut journal_in(&disk)).len(), waiting);
}

#[test]
fn a_batch_that_waits_while_its_spill_is_only_in_the_lost_directory_stays_part_of_it() {
    let disk = Disk::new();
    let mut journal = journal_in(&disk);
    append(&mut journal, id(1), 100);
    journal.spill("f", &[id(1)]).expect("written");
    journal.sync().expect("synced");
    // Copies the batch to the head: it is in memory, and the record of its spill is not.
    for seq in 2..=40 {
        append(&mut journal, id(seq), 500);
        journal.done(&[id(seq)]).expect("written");
        journal.sync().expect("synced");
        journal.maintain().expect("a well disk");
    }
    assert_eq!(journal.read(id(1), now()).expect("here").count, 100);
    assert!(disk.remove_tree("journal"));
    append(&mut journal, id(41), 10);
    assert!(journal.sync().expect_err("gone").is_vanished());
    let lost = journal.renew(Locked::new(disk.root().subdirectory("journal").expect("made")).expect("free"));
    assert_eq!(seqs(&lost), [1]);
    assert_eq!(journal.take_back(&[id(1)]).expect("nothing to do"), 0, "its spill ended with it");
}

#[test]
fn removed_segments_are_noticed_and_their_batches_reported_once() {
    let disk = Disk::new();
    let (mut journal, _) = open(disk.root());
    for seq in 1..=20 {
        append(&mut journal, id(seq), 500);
    }
    journal.sync().expect("synced");
    append(&mut journal, id(21), 50);
    let first: Vec<u64> = (1..=7).collect();
    disk.root().remove(&name(1)).expect("there");
    settle(&mut journal).expect("a well disk");
    let gone = journal.take_vanished();
    assert_eq!(seqs(&gone), first);
    assert!(journal.take_vanished().is_empty());
    let told =
        |notice: &Notice| matches!(notice, Notice::Vanished { batches: 7, items: 3_500, name: of } if *of == name(1));
    assert_eq!(count(&mut journal, told), 1);
    assert!(matches!(journal.read(id(1), now()), Err(ReadError::Unknown(_))));
    // By a read.
    disk.root().remove(&name(2)).expect("there");
    assert!(matches!(journal.read(id(9), now()), Err(ReadError::Vanished { count: 500, .. })));
    assert_eq!(seqs(&journal.take_vanished()), (8..=14).collect::<Vec<_>>());
    // The head, by a sync: its new records go to a new segment.
    disk.root().remove(&name(3)).expect("there");
    journal.sync().expect("written once more");
    assert_eq!(seqs(&journal.take_vanished()), (15..=20).collect::<Vec<_>>());
    for (id, count) in gone {
        append(&mut journal, id, count as usize);
    }
    journal.sync().expect("synced");
    drop(journal);
    disk.crash(Crash::Worst);
    let found: BTreeSet<u64> = recovered(&mut open(disk.root()).0).into_keys().map(|id| id.1).collect();
    assert_eq!(found, first.into_iter().chain([21]).collect());
}

#[test]
fn the_rest_of_a_removed_journal_is_taken_over_and_the_missing_batches_are_lost() {
    let (theirs, disk) = (Disk::new(), Disk::new());
    let (mut other, _) = open(theirs.root());
    for seq in 1..=20 {
        append(&mut other, id(seq), 500);
    }
    other.sync().expect("synced");
    drop(other);
    let (mut other, _) = open(theirs.root());
    let (mut own, _) = Journal::open(disk.root(), SMALL, 20, |_| Ok(false)).expect("it opens");
    theirs.root().remove(&name(2)).expect("there");
    let taken = own.take_over(&mut other, 1 << 20, now());
    assert_eq!((taken.moved.len(), taken.lost.len()), (13, 0));
    assert_eq!(seqs(&other.take_vanished()), (8..=14).collect::<Vec<_>>());
    assert!(taken.is_empty && own.take_vanished().is_empty());
    assert!(own.has(id(7)) && !own.has(id(8)));
}

#[test]
fn of_a_removed_directory_all_batches_that_no_sync_waits_for_are_lost_also_before_it_is_made_anew() {
    let disk = Disk::new();
    let mut journal = journal_in(&disk);
    for seq in 1..=20 {
        append(&mut journal, id(seq), 500);
    }
    journal.sync().expect("synced");
    append(&mut journal, id(21), 50);
    assert!(disk.remove_tree("journal"));
    assert!(journal.take_vanished().is_empty(), "no call has noticed");
    journal.maintain().expect_err("the directory is gone");
    assert_eq!(seqs(&journal.take_vanished()), (1..=20).collect::<Vec<_>>());
    assert!(journal.take_vanished().is_empty());
    assert_eq!(journal.status().batches, 1);
    assert_eq!(journal.read(id(21), now()).expect("in memory").count, 50);
    journal.append(id(3), 1, b"x").expect_err("it would be lost");
    journal.maintain().expect_err("still gone");
    let lost = journal.renew(Locked::new(disk.root().subdirectory("journal").expect("made")).expect("free"));
    assert!(lost.is_empty());
    append(&mut journal, id(3), 500);
    journal.sync().expect("synced");
    drop(journal);
    disk.crash(Crash::Worst);
    assert_eq!(recovered(&mut journal_in(&disk)).into_keys().map(|id| id.1).collect::<Vec<_>>(), [3, 21]);
}

#[test]
fn the_oldest_segment_is_lost_and_not_given_up_if_another_program_has_removed_it() {
    for is_removed in [false, true] {
        let disk = Disk::new();
        let (mut journal, _) = open(disk.root());
        for seq in 1..=20 {
            append(&mut journal, id(seq), 500);
        }
        journal.sync().expect("synced");
        if is_removed {
            disk.root().remove(&name(1)).expect("there");
        }
        let given_up = journal.remove_oldest_finished().expect("a well disk").expect("a segment");
        let gone = journal.take_vanished();
        let first = (1..=7).collect::<Vec<_>>();
        let expected = if is_removed { (vec![], first) } else { (first, vec![]) };
        assert_eq!((seqs(&given_up), seqs(&gone)), expected);
        let next = journal.remove_oldest_finished().expect("a well disk").expect("a segment");
        assert_eq!(seqs(&next), (8..=14).collect::<Vec<_>>());
    }
}

#[test]
fn batches_that_are_done_do_not_come_back_although_a_segment_with_their_marks_was_removed() {
    let disk = Disk::new();
    let (mut journal, _) = open(disk.root());
    for seq in 1..=28 {
        append(&mut journal, id(seq), 500);
        if seq == 16 {
            // Their marks are in the third segment, and they are in the first and the second.
            journal.done(&(2..=12).map(id).collect::<Vec<_>>()).expect("written");
        }
    }
    journal.sync().expect("synced");
    disk.root().remove(&name(3)).expect("there");
    settle(&mut journal).expect("a well disk");
    let gone = seqs(&journal.take_vanished());
    assert_eq!(gone.first(), Some(&15), "{gone:?}");
    assert!(gone.len() > 4 && gone.len() < 8, "{gone:?}");
    journal.sync().expect("synced");
    drop(journal);
    disk.crash(Crash::Worst);
    let found = recovered(&mut open(disk.root()).0).into_keys().map(|id| id.1).collect::<Vec<_>>();
    let waiting = (1..=28).filter(|seq| !(2..=12).contains(seq) && !gone.contains(seq)).collect::<Vec<_>>();
    assert_eq!(found, waiting);
}

#[test]
fn a_batch_whose_copy_was_removed_is_still_where_it_was_copied_from() {
    let disk = Disk::new();
    let (mut journal, _) = open(disk.root());
    for seq in 1..=9 {
        append(&mut journal, id(seq), 500);
    }
    journal.sync().expect("synced");
    append(&mut journal, id(10), 500);
    disk.fail_syncs(1);
    journal.sync().expect_err("planned");
    journal.sync().expect("synced");
    // Copies the batches of the second segment. It stays, since batches wait in the first.
    settle(&mut journal).expect("a well disk");
    disk.root().remove(&name(3)).expect("there");
    settle(&mut journal).expect("a well disk");
    assert!(journal.take_vanished().is_empty());
    assert_eq!((journal.status().batches, journal.read(id(8), now()).expect("there").body), (10, body(id(8), 500)));
    drop(journal);
    disk.crash(Crash::Worst);
    let found = recovered(&mut open(disk.root()).0).into_keys().map(|id| id.1).collect::<Vec<_>>();
    assert_eq!(found, (1..=10).collect::<Vec<_>>());
}

#[test]
fn records_that_no_sync_has_covered_survive_a_kill_after_the_removal_was_noticed() {
    for removes_all in [false, true] {
        let disk = Disk::new();
        let mut journal = journal_in(&disk);
        append(&mut journal, id(1), 100);
        append(&mut journal, id(2), 100);
        if removes_all {
            assert!(disk.remove_tree("journal"));
            journal.maintain().expect_err("the directory is gone");
            let dir = Locked::new(disk.root().subdirectory("journal").expect("made")).expect("free");
            assert!(journal.renew(dir).is_empty());
        } else {
            disk.root().subdirectory("journal").expect("there").remove(&name(1)).expect("there");
            journal.maintain().expect("a well disk");
        }
        drop(journal);
        let found = recovered(&mut journal_in(&disk)).into_keys().map(|id| id.1).collect::<Vec<_>>();
        assert_eq!(found, [1, 2]);
    }
}

#[test]
fn a_read_that_finds_no_segment_notices_that_the_head_or_the_directory_is_gone() {
    let disk = Disk::new();
    let mut journal = journal_in(&disk);
    append(&mut journal, id(1), 100);
    journal.sync().expect("synced");
    append(&mut journal, id(2), 100);
    disk.root().subdirectory("journal").expect("there").remove(&name(1)).expect("there");
    assert!(matches!(journal.read(id(1), now()), Err(ReadError::Vanished { count: 100, .. })));
    assert_eq!(seqs(&journal.take_vanished()), [1]);
    append(&mut journal, id(1), 100);
    journal.sync().expect("written to the next segment");
    assert!(disk.remove_tree("journal"));
    append(&mut journal, id(3), 100);
    assert!(matches!(journal.read(id(1), now()), Err(ReadError::Vanished { count: 100, .. })));
    assert!(journal.status().vanished);
    assert_eq!(seqs(&journal.take_vanished()), [2, 1], "in the order of their last appends");
    assert_eq!(journal.status().batches, 1, "one waits for its sync");
}

#[test]
fn a_removal_is_noticed_on_real_files() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let path = scratch.path().join("journal");
    let (mut journal, _) = open(SafeDir::open(&path).expect("ours"));
    append(&mut journal, id(1), 100);
    journal.sync().expect("synced");
    std::fs::remove_dir_all(&path).expect("removed");
    append(&mut journal, id(2), 100);
    assert!(journal.sync().expect_err("gone").is_vanished());
    let lost = journal.renew(Locked::new(SafeDir::open(&path).expect("ours")).expect("free"));
    assert_eq!(seqs(&lost), [1]);
    journal.sync().expect("synced");
    std::fs::remove_file(path.join(name(2))).or_else(|_| std::fs::remove_file(path.join(name(3)))).expect("the head");
    append(&mut journal, id(3), 100);
    journal.sync().expect("written once more");
    assert_eq!(seqs(&journal.take_vanished()), [2]);
    drop(journal);
    assert_eq!(recovered(&mut open(SafeDir::open(&path).expect("ours")).0).into_keys().collect::<Vec<_>>(), [id(3)]);
}
