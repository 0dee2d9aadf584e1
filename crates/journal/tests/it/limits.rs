//! Sizes, ids, rotation, maintenance and the order of a spill, one by one.

use journal::{AppendError, Config, Id, Journal, Notice, OpenError, ReadError};
use safe_dir::sim::{Crash, Disk, Fault, Faults, Faulty};
use safe_dir::{Directory, SafeDir};

use super::{SMALL, append, body, count, id, now, open, recovered, settle};

fn segments<D: Directory>(dir: &D) -> usize {
    let names = dir.list().expect("readable").into_iter().filter_map(|entry| entry.name.into_string().ok());
    names.filter(|name| name.starts_with("journal-")).count()
}

#[test]
fn a_batch_survives_on_real_files_and_the_lock_keeps_others_out() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let dir = || SafeDir::open(scratch.path()).expect("ours");
    let (mut journal, report) = open(dir());
    assert_eq!((report.segments, report.batches), (0, 0));
    append(&mut journal, id(1), 50_000);
    append(&mut journal, id(2), 0);
    journal.sync().expect("synced");
    assert!(matches!(Journal::open(dir(), SMALL, 9, |_| Ok(false)), Err(OpenError::Lock(_))));
    assert_eq!(journal.read(id(1), now()).expect("whole").body, body(id(1), 50_000));
    assert!(matches!(journal.read(id(3), now()), Err(ReadError::Unknown(_))));
    drop(journal);
    let (mut journal, report) = open(dir());
    assert_eq!((report.batches, report.items), (2, 50_000));
    assert_eq!(recovered(&mut journal).len(), 2);
}

#[test]
fn settings_out_of_range_are_refused() {
    for config in [
        Config { segment_bytes: 1, ..SMALL },
        Config { segment_bytes: u64::MAX, ..SMALL },
        Config { max_bytes: SMALL.segment_bytes, ..SMALL },
        Config { max_body_bytes: u32::MAX, ..SMALL },
    ] {
        assert!(matches!(Journal::open(Disk::new().root(), config, 7, |_| Ok(false)), Err(OpenError::Config { .. })));
    }
    assert!(Journal::open(Disk::new().root(), Config::default(), 7, |_| Ok(false)).is_ok());
}

#[test]
fn a_batch_that_does_not_fit_is_refused_as_a_whole() {
    let disk = Disk::new();
    let (mut journal, _) = open(disk.root());
    append(&mut journal, id(1), 10);
    assert!(matches!(journal.append(id(1), 1, b"again"), Err(AppendError::Duplicate(_))));
    assert!(matches!(journal.append(id(2), 1, &vec![0; 65_537]), Err(AppendError::TooLarge { .. })));
    assert!(matches!(journal.spill("", &[id(1)]), Err(AppendError::NoName)));
    assert!(matches!(journal.spill("f", &vec![id(1); 70_000]), Err(AppendError::TooLarge { .. })));
    let mut seq = 1;
    let full = loop {
        seq += 1;
        match journal.append(id(seq), 1, &vec![0; 60_000]) {
            Ok(()) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(full, AppendError::Full { .. }), "{full}");
    assert!(journal.status().bytes <= SMALL.max_bytes && journal.status().bytes > SMALL.max_bytes - 70_000);
    // Marks are accepted, and make space.
    let ids: Vec<Id> = (2..seq).map(id).collect();
    assert_eq!(journal.done(&ids).expect("written"), ids.len());
    journal.sync().expect("synced");
    settle(&mut journal).expect("a well disk");
    append(&mut journal, id(seq), 60_000);
}

#[test]
fn no_segment_begins_in_the_reserve() {
    let disk = Disk::new();
    disk.set_capacity(Some(100_000));
    drop(disk.root().create("other").expect("made"));
    let config = Config { free_space_reserve: 20_000, ..SMALL };
    let (mut journal, _) = Journal::open(disk.root(), config, 7, |_| Ok(false)).expect("it opens");
    // A tenth of a small disk is enough.
    disk.tamper("other", |bytes| bytes.resize(90_001, 0));
    let refused = journal.append(id(1), 1, b"x").expect_err("no room");
    assert!(matches!(refused, AppendError::NoRoom { needed: 10_000, available: 9_999 }), "{refused}");
    disk.tamper("other", |bytes| bytes.truncate(90_000));
    append(&mut journal, id(1), 1);
}

#[test]
fn an_incarnation_in_any_record_is_not_used_again() {
    let disk = Disk::new();
    let (mut journal, _) = open(disk.root());
    assert_eq!(journal.incarnation(), 7);
    append(&mut journal, (8, 1), 10);
    drop(journal);
    assert_eq!(open(disk.root()).0.incarnation(), 9);
}

#[test]
fn one_waiting_batch_does_not_retain_all_segments() {
    let disk = Disk::new();
    let (mut journal, _) = open(disk.root());
    append(&mut journal, id(1), 100);
    for seq in 2..200 {
        append(&mut journal, id(seq), 500);
        journal.done(&[id(seq)]).expect("written");
        journal.sync().expect("synced");
        journal.maintain().expect("a well disk");
        assert!(journal.status().bytes < 8 * SMALL.segment_bytes, "{} bytes", journal.status().bytes);
    }
    assert!(segments(&disk.root()) < 8);
    disk.crash(Crash::Worst);
    drop(journal);
    assert_eq!(recovered(&mut open(disk.root()).0).into_keys().collect::<Vec<_>>(), [id(1)]);
}

#[test]
fn one_waiting_batch_does_not_fill_the_smallest_journal() {
    let disk = Disk::new();
    let config = Config { max_bytes: 2 * SMALL.segment_bytes, ..SMALL };
    let (mut journal, _) = Journal::open(disk.root(), config, 7, |_| Ok(false)).expect("it opens");
    append(&mut journal, id(1), 100);
    for seq in 2..200 {
        append(&mut journal, id(seq), 500);
        journal.done(&[id(seq)]).expect("written");
        journal.sync().expect("synced");
        settle(&mut journal).expect("a well disk");
    }
    assert_eq!(journal.read(id(1), now()).expect("whole").body, body(id(1), 100));
}

#[test]
fn a_copied_batch_is_durable_before_its_old_segment_is_removed() {
    let mut nth = 1;
    loop {
        let (disk, faults) = (Disk::new(), Faults::none());
        let (mut journal, _) = open(Faulty::new(disk.root(), faults.clone()));
        append(&mut journal, id(1), 100);
        for seq in 2..50 {
            append(&mut journal, id(seq), 500);
            journal.done(&[id(seq)]).expect("written");
        }
        journal.sync().expect("synced");
        faults.plan(nth, Fault::Errno(5), false);
        drop(journal.maintain());
        // From here on no byte can be written; removals still work.
        disk.set_capacity(Some(0));
        for _ in 0..3 {
            drop(journal.maintain());
        }
        disk.set_capacity(None);
        disk.crash(Crash::Worst);
        drop(journal);
        let (mut journal, _) = open(disk.root());
        assert_eq!(recovered(&mut journal).into_keys().collect::<Vec<_>>(), [id(1)], "call {nth} failed");
        if faults.fired() == 0 {
            break;
        }
        nth += 1;
    }
    assert!(nth > 8, "read, write, both syncs and removals were all tried");
}

#[test]
fn a_segment_goes_when_the_marks_of_its_batches_are_durable_and_not_before() {
    for bodies in [[1_000, 3_000], [4_000, 10], [6_000, 6_000]] {
        let disk = Disk::new();
        let (mut journal, _) = open(disk.root());
        for (seq, len) in (1..).zip(bodies) {
            append(&mut journal, id(seq), len);
        }
        // Also where writing the mark finishes the segment, with a sync that does not cover the mark.
        journal.done(&[id(1), id(2)]).expect("written");
        let before = segments(&disk.root());
        settle(&mut journal).expect("a well disk");
        assert_eq!(segments(&disk.root()), before, "{bodies:?}");
        journal.sync().expect("synced");
        settle(&mut journal).expect("a well disk");
        assert_eq!(segments(&disk.root()), 1, "{bodies:?}: the head is left");
    }
}

#[test]
fn a_full_disk_can_be_emptied() {
    let disk = Disk::new();
    let (mut journal, _) = open(disk.root());
    for seq in 1..=40 {
        append(&mut journal, id(seq), 1_000);
    }
    journal.sync().expect("synced");
    let before = segments(&disk.root());
    disk.set_capacity(Some(0));
    let ids: Vec<Id> = (1..=40).map(id).collect();
    journal.done(&ids).expect_err("no byte for a mark");
    settle(&mut journal).expect("removing needs none");
    assert!(before > 10 && segments(&disk.root()) <= 1);
    disk.set_capacity(None);
    journal.sync().expect("the mark is written at last");
    drop(journal);
    disk.crash(Crash::Worst);
    assert_eq!(open(disk.root()).1.batches, 0);
}

#[test]
fn a_failed_sync_is_not_repeated_on_the_same_file() {
    let (disk, faults) = (Disk::new(), Faults::none());
    let (mut journal, _) = open(Faulty::new(disk.root(), faults.clone()));
    append(&mut journal, id(1), 100);
    journal.sync().expect("synced");
    append(&mut journal, id(2), 100);
    faults.plan(1, Fault::Errno(5), false);
    let error = journal.sync().expect_err("the disk fails");
    assert!(
        std::error::Error::source(&error).is_some_and(|source| source.to_string().contains("journal-000000000001"))
    );
    assert!(journal.status().trouble);
    assert_eq!(count(&mut journal, |notice| matches!(notice, Notice::SyncFailed { .. })), 1);
    journal.sync().expect("a new file");
    assert_eq!(segments(&disk.root()), 2);
    settle(&mut journal).expect("a well disk");
    assert_eq!(segments(&disk.root()), 1, "what waited in the old one is in the new one");
    drop(journal);
    disk.crash(Crash::Worst);
    assert_eq!(recovered(&mut open(disk.root()).0).len(), 2);
}

#[test]
fn a_disk_that_never_syncs_fills_neither_memory_nor_itself() {
    let (disk, faults) = (Disk::new(), Faults::none());
    let (mut journal, _) = open(Faulty::new(disk.root(), faults.clone()));
    let mut accepted = 0;
    for seq in 1..=50 {
        // Create, header and records succeed, and the sync fails: for this batch, or to make space for it.
        faults.plan(4, Fault::Errno(5), false);
        if journal.append(id(seq), 1, &[7; 500]).is_ok() {
            accepted += 1;
            journal.sync().expect_err("it does not");
        }
        assert_eq!(faults.fired(), 1);
        assert!(journal.status().unsynced_bytes <= SMALL.segment_bytes);
        assert_eq!(segments(&disk.root()), 0, "copies of what is in memory do not pile up");
    }
    assert_eq!(accepted, 7, "a segment's worth");
    faults.clear();
    journal.sync().expect("well again");
    drop(journal);
    disk.crash(Crash::Worst);
    assert_eq!(open(disk.root()).1.batches, 7);
}

/// The step of a spill at which the crash comes, whether its file exists then, and whether the journal has the batch
/// afterwards.
#[test]
fn journal_and_file_never_both_own_a_batch() {
    for (steps, file, in_journal) in
        [(0, false, true), (1, false, true), (2, true, false), (3, true, false), (4, false, false)]
    {
        let disk = Disk::new();
        let (mut journal, _) = open(disk.root());
        append(&mut journal, id(1), 10);
        journal.sync().expect("synced");
        for step in 0..steps {
            match step {
                0 => assert_eq!(journal.spill("f", &[id(1), id(9)]).expect("written"), 1),
                1 => journal.sync().expect("synced"),
                2 => assert_eq!(journal.done(&[id(1)]).expect("written"), 1),
                _ => journal.sync().expect("synced"),
            }
        }
        disk.crash(Crash::Worst);
        drop(journal);
        let mut asked = Vec::new();
        let (journal, report) = Journal::open(disk.root(), SMALL, 9, |name| {
            asked.push(name.to_owned());
            Ok(file)
        })
        .expect("it opens");
        assert_eq!(report.batches == 1, in_journal, "after {steps} steps");
        assert_eq!(asked.len(), usize::from(steps == 2 || steps == 3));
        assert!(report.unsynced.is_none());
        // The answer is durable, even if the file changes afterwards.
        disk.crash(Crash::Worst);
        drop(journal);
        let (_, report) = Journal::open(disk.root(), SMALL, 10, |_| panic!("asked twice")).expect("it opens");
        assert_eq!(report.batches == 1, in_journal);
    }
}

#[test]
fn an_answer_that_cannot_be_had_changes_nothing() {
    let disk = Disk::new();
    let (mut journal, _) = open(disk.root());
    append(&mut journal, id(1), 10);
    journal.spill("f", &[id(1)]).expect("written");
    drop(journal);
    let unknown = Journal::open(disk.root(), SMALL, 9, |_| Err(std::io::ErrorKind::PermissionDenied.into()));
    assert!(matches!(unknown, Err(OpenError::Spill { name, .. }) if name == "f"));
    assert_eq!(open(disk.root()).1.taken_back, 1);
}

#[test]
fn a_spill_that_was_taken_back_is_not_asked_for() {
    let disk = Disk::new();
    let (mut journal, _) = open(disk.root());
    append(&mut journal, id(1), 10);
    journal.spill("f", &[id(1)]).expect("written");
    assert_eq!(journal.take_back(&[id(1)]).expect("written"), 1);
    assert_eq!(journal.take_back(&[id(1)]).expect("nothing to do"), 0);
    journal.sync().expect("synced");
    drop(journal);
    let (_, report) = Journal::open(disk.root(), SMALL, 9, |_| panic!("taken back")).expect("it opens");
    assert_eq!(report.batches, 1);
}

#[test]
fn the_journal_of_an_ended_process_is_taken_over_batch_by_batch() {
    let (theirs, ours) = (Disk::new(), Disk::new());
    let (mut dead, _) = open(theirs.root());
    append(&mut dead, id(1), 300);
    append(&mut dead, id(2), 30);
    drop(dead);
    let (mut dead, _) = open(theirs.root());
    let (mut journal, _) = Journal::open(ours.root(), SMALL, 20, |_| Ok(false)).expect("it opens");
    while let Some(batch) = dead.next_recovered(now()) {
        let batch = batch.expect("whole");
        journal.append_tagged(batch.id, batch.tag, batch.count, &batch.body).expect("appended");
        journal.sync().expect("synced");
        dead.done(&[batch.id]).expect("written");
    }
    dead.sync().expect("synced");
    drop((dead, journal));
    assert_eq!(open(theirs.root()).1.batches, 0);
    assert_eq!(recovered(&mut open(ours.root()).0).len(), 2);
}

#[test]
fn a_journal_in_which_no_batch_waits_is_removed_and_gives_its_directory_back() {
    let disk = Disk::new();
    let (mut journal, _) = open(disk.root());
    for seq in 1..=40 {
        append(&mut journal, id(seq), 1_000);
    }
    journal.done(&(1..40).map(id).collect::<Vec<_>>()).expect("written");
    journal.sync().expect("synced");
    assert!(journal.remove().expect("nothing to do").is_none(), "the last batch waits");
    let (mut journal, report) = open(disk.root());
    assert_eq!(report.batches, 1);
    journal.done(&[id(40)]).expect("written");
    let locked = journal.remove().expect("a well disk").expect("no batch waits");
    assert_eq!(segments(&locked.dir), 0);
    assert!(matches!(Journal::open(disk.root(), SMALL, 9, |_| Ok(false)), Err(OpenError::Lock(_))), "still locked");
    // The mark of the last batch was not synced: it is gone together with its batch.
    disk.crash(Crash::Worst);
    assert_eq!(open(disk.root()).1.batches, 0);
}

#[test]
fn a_lowered_limit_refuses_batches_and_nothing_else() {
    let disk = Disk::new();
    let (mut journal, _) = open(disk.root());
    for seq in 1..=40 {
        append(&mut journal, id(seq), 1_000);
    }
    journal.sync().expect("synced");
    assert_eq!(journal.status().max_bytes, SMALL.max_bytes);
    journal.set_max_bytes(10_000);
    assert_eq!(journal.status().max_bytes, 10_000);
    assert!(matches!(journal.append(id(41), 1, b"x"), Err(AppendError::Full { max_bytes: 10_000, .. })));
    assert_eq!(journal.read(id(40), now()).expect("whole").body, body(id(40), 1_000));
    drop(journal);
    // The same at a start.
    let config = Config { max_bytes: 10_000, ..SMALL };
    let (mut journal, report) = Journal::open(disk.root(), config, 8, |_| Ok(false)).expect("it opens");
    assert_eq!((report.batches, report.damaged, report.lost_batches), (40, 0, 0));
    assert_eq!(recovered(&mut journal).len(), 40);
    assert!(matches!(journal.append(id(41), 1, b"x"), Err(AppendError::Full { .. })));
    journal.done(&(1..=36).map(id).collect::<Vec<_>>()).expect("a mark is always accepted");
    append(&mut journal, id(41), 10);
}

#[test]
fn segments_that_no_batch_needs_make_room_before_a_batch_is_refused() {
    // Without maintenance, and without a sync of the marks; once with a batch that waits in the oldest segment.
    for first in [1, 2] {
        let disk = Disk::new();
        let config = Config { max_bytes: 4 * SMALL.segment_bytes, ..SMALL };
        let (mut journal, _) = Journal::open(disk.root(), config, 7, |_| Ok(false)).expect("it opens");
        for seq in 1..=100 {
            append(&mut journal, id(seq), 700);
            if seq > first {
                journal.done(&[id(seq - 1)]).expect("written");
            }
        }
        let expected = if first == 2 { vec![id(1), id(100)] } else { vec![id(100)] };
        assert_eq!(journal.waiting().into_iter().map(|(id, _)| id).collect::<Vec<_>>(), expected);
        journal.sync().expect("synced");
        drop(journal);
        disk.crash(Crash::Worst);
        assert_eq!(recovered(&mut open(disk.root()).0).into_keys().collect::<Vec<_>>(), expected);
    }
}

#[test]
fn segments_that_no_batch_needs_make_room_on_a_small_disk() {
    let disk = Disk::new();
    disk.set_capacity(Some(40_000));
    let config = Config { free_space_reserve: 1 << 20, ..SMALL };
    let (mut journal, _) = Journal::open(disk.root(), config, 7, |_| Ok(false)).expect("it opens");
    for seq in 1..=200 {
        append(&mut journal, id(seq), 700);
        journal.done(&[id(seq)]).expect("written");
    }
    let waiting = (201..).find(|seq| journal.append(id(*seq), 1, &[0; 700]).is_err()).expect("full at last");
    assert!(waiting > 230, "{waiting}: a tenth stays free, not more");
}

#[test]
fn the_oldest_segment_goes_whole_without_a_byte() {
    let disk = Disk::new();
    let (mut journal, _) = open(disk.root());
    for seq in 1..=20 {
        append(&mut journal, id(seq), 500);
    }
    journal.done(&[id(3)]).expect("written");
    journal.sync().expect("synced");
    assert_eq!(journal.oldest(), Some((id(1), 500)));
    disk.set_capacity(Some(0));
    let before = journal.status();
    let removed = journal.remove_oldest_finished().expect("needs no byte").expect("there is one");
    assert_eq!(removed, [1, 2, 4, 5, 6, 7].map(|seq| (id(seq), 500)));
    assert_eq!((journal.oldest(), journal.status().batches), (Some((id(8), 500)), before.batches - 6));
    assert!(journal.status().bytes < before.bytes - 3_000 && segments(&disk.root()) == before.segments - 1);
    assert!(journal.remove_oldest_finished().expect("needs no byte").is_some());
    assert!(journal.remove_oldest_finished().expect("the head stays").is_none());
    assert!(matches!(journal.read(id(1), now()), Err(ReadError::Unknown(_))));
    disk.set_capacity(None);
    disk.crash(Crash::Worst);
    drop(journal);
    assert_eq!(
        recovered(&mut open(disk.root()).0).into_keys().collect::<Vec<_>>(),
        (15..=20).map(id).collect::<Vec<_>>()
    );
}

#[test]
fn the_age_of_a_batch_is_that_of_its_first_record() {
    let disk = Disk::new();
    let (mut journal, _) = open(disk.root());
    append(&mut journal, id(1), 100);
    for seq in 2..60 {
        append(&mut journal, id(seq), 500);
        if seq < 59 && seq != 30 {
            journal.done(&[id(seq)]).expect("written");
        }
        journal.sync().expect("synced");
        journal.maintain().expect("a well disk");
        // Also while its copy stands behind batch 30.
        assert_eq!(journal.waiting().first(), Some(&(id(1), 100)));
    }
    append(&mut journal, id(60), 10);
    assert_eq!(journal.waiting().into_iter().map(|(id, _)| id.1).collect::<Vec<_>>(), [1, 30, 59, 60]);
    // Its copy stands in a later segment than the one that went first.
    assert_eq!(journal.oldest(), Some((id(1), 100)));
}

#[test]
fn the_next_process_finds_batches_in_the_order_of_their_first_records() {
    for last in 4..60 {
        let disk = Disk::new();
        let (mut journal, _) = open(disk.root());
        append(&mut journal, id(1), 100);
        for seq in 2..=last {
            append(&mut journal, id(seq), 500);
            if seq < last && seq != 30 {
                journal.done(&[id(seq)]).expect("written");
            }
            journal.sync().expect("synced");
            journal.maintain().expect("a well disk");
        }
        let before = journal.waiting();
        drop(journal);
        // The copy of batch 1 may stand behind batch 30.
        let (mut journal, _) = open(disk.root());
        assert_eq!(journal.waiting(), before, "{last} batches");
        let first = journal.next_recovered(now()).expect("batches wait").expect("a well disk");
        assert_eq!(first.id, id(1), "{last} batches");
    }
}
