//! Another program removes a part of the journal while the process runs: turns of the journal thread over real
//! directories, then a kill and a restart.
//!
//! Each proof counts by itself: a span is lost if it was on the removed part and is not in the memory of the process.
//! Those spans are `dropped{vanished}` and never come back; all others are delivered.

mod computer;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use self::computer::{
    BATCH, Computer, FIRST, Numbers, Process, copy, journal_of, numbers_in, process_of, segments, spans_in,
};
use crate::seams::clock::Clock as _;

/// Forty batches, of which memory holds the last six; another program then harms the journal and the process goes on.
/// `harm` returns the spans that it takes away.
fn batches_are_lost_or_appended_again(harm: impl FnOnce(&Path) -> Numbers) {
    let mut computer = Computer::new();
    let state = computer.state();
    let (shared, committer) = computer.start(&state);
    let mut process = Process::new(&shared, committer);
    (0..40).for_each(|_| assert!(process.export(&mut computer), "durable"));
    let (made, in_memory) = (40 * BATCH, process.in_memory());
    assert_eq!((in_memory.len() as u64, process.ledger().in_journal), (6 * BATCH, 34 * BATCH));

    let removed = harm(&state);
    process.maintain(&computer);
    let lost = removed.difference(&in_memory).copied().collect::<Numbers>();
    let all = (FIRST..FIRST + made).collect::<Numbers>();
    let left = all.difference(&lost).copied().collect::<Numbers>();
    assert_eq!(process.vanished(), lost.len() as u64);
    let ledger = process.ledger();
    assert_eq!((ledger.buffered, ledger.in_journal), (6 * BATCH, 34 * BATCH - lost.len() as u64), "{ledger:?}");
    assert_eq!(shared.core().only_in_memory(), 0, "what was lost in memory is durable again");
    let stored = spans_in(&segments(&journal_of(&state)));
    assert_eq!(stored.keys().copied().collect::<Numbers>(), left, "the journal has all that is not lost");
    assert!(stored.values().all(|times| *times == 1), "only lost batches are appended again: {stored:?}");
    assert!(process.export(&mut computer), "new batches are durable");
    let left = left.into_iter().chain(FIRST + made..FIRST + made + BATCH).collect::<Numbers>();
    each_is_delivered_once(&mut computer, &mut process, &left);
    assert_eq!(process.vanished(), lost.len() as u64);
    assert!(segments(&journal_of(&state)).len() <= 1, "delivered batches are marked");
}

/// The process is killed, and the next one delivers exactly these; without the kill, the process itself does.
fn each_is_delivered_once(computer: &mut Computer, process: &mut Process<'_>, left: &Numbers) {
    let is_once = |received: &BTreeMap<u64, u32>| {
        assert_eq!(received.keys().copied().collect::<Numbers>(), *left, "none comes back, and none is missing");
        assert!(received.values().all(|times| *times == 1), "{received:?}");
    };
    let after = computer.scratch.path().join("after");
    copy(&computer.state(), &after);
    let (next, committer) = computer.start(&after);
    let mut next = Process::new(&next, committer);
    assert_eq!(next.ledger().recovered, left.len() as u64);
    next.deliver_all(computer);
    assert_eq!((next.vanished(), next.ledger().delivered), (0, left.len() as u64));
    is_once(&std::mem::take(&mut computer.received));

    let delivered = process.ledger().delivered;
    process.deliver_all(computer);
    assert_eq!(process.ledger().delivered - delivered, left.len() as u64);
    is_once(&computer.received);
}

#[test]
fn the_batches_of_one_removed_segment_are_lost_or_appended_again_and_all_others_stay() {
    for from_the_end in 0..6 {
        batches_are_lost_or_appended_again(|state| {
            let segments = segments(state);
            assert!(segments.len() >= 7, "{segments:?}");
            // Behind them the next one is in memory too, or is written.
            let removed = [segments[segments.len() - 1 - from_the_end].clone()];
            let numbers = numbers_in(&removed);
            fs::remove_file(&removed[0]).expect("there");
            numbers
        });
    }
}

#[test]
fn the_batches_of_several_removed_segments_are_lost_or_appended_again() {
    batches_are_lost_or_appended_again(|state| {
        let removed = segments(state).into_iter().step_by(2).collect::<Vec<_>>();
        let numbers = numbers_in(&removed);
        removed.iter().for_each(|segment| fs::remove_file(segment).expect("there"));
        numbers
    });
}

#[test]
fn of_a_removed_directory_the_batches_in_memory_are_appended_again() {
    batches_are_lost_or_appended_again(|state| {
        let numbers = numbers_in(&segments(state));
        fs::remove_dir_all(journal_of(state)).expect("there");
        numbers
    });
}

#[test]
fn a_segment_that_is_moved_away_is_lost() {
    for which in [0, 6] {
        batches_are_lost_or_appended_again(|state| {
            let segment = segments(state)[which].clone();
            let numbers = numbers_in(std::slice::from_ref(&segment));
            fs::rename(&segment, state.with_file_name("elsewhere")).expect("there");
            numbers
        });
    }
}

#[test]
fn a_directory_that_is_moved_away_is_lost() {
    batches_are_lost_or_appended_again(|state| {
        let numbers = numbers_in(&segments(state));
        fs::rename(journal_of(state), state.with_file_name("elsewhere")).expect("there");
        numbers
    });
}

/// A process has left forty batches. The next one has read some of them, and some are unread, when another program
/// harms their journal. `harm` returns the spans that it takes away.
fn found_batches_are_lost_or_appended_again(harm: impl FnOnce(&Path) -> Numbers) {
    let mut computer = Computer::new();
    let state = computer.state();
    let (shared, committer) = computer.start(&state);
    let mut first = Process::new(&shared, committer);
    (0..40).for_each(|_| assert!(first.export(&mut computer), "durable"));
    drop(first);
    let (shared, committer) = computer.start(&state);
    let mut process = Process::new(&shared, committer);
    process.read_back(&computer);
    let (all, in_memory) = ((FIRST..FIRST + 40 * BATCH).collect::<Numbers>(), process.in_memory());
    assert_eq!((process.ledger().recovered, in_memory.len() as u64), (40 * BATCH, 4 * BATCH));

    let removed = harm(&process_of(&state, "+1"));
    process.maintain(&computer);
    let lost = removed.difference(&in_memory).copied().collect::<Numbers>();
    let left = all.difference(&lost).copied().collect::<Numbers>();
    let (ledger, lost) = (process.ledger(), lost.len() as u64);
    assert_eq!((process.vanished(), ledger.in_journal), (lost, 36 * BATCH - lost), "{ledger:?}");
    assert_eq!(shared.core().only_in_memory(), 0, "what was lost in memory is durable again");
    each_is_delivered_once(&mut computer, &mut process, &left);
    assert_eq!((process.vanished(), process.ledger().taken_over), (lost, 0));
}

#[test]
fn of_an_ended_process_s_journal_a_removed_segment_takes_its_own_batches_along_and_no_other() {
    for which in [0, 1, 4, 6] {
        found_batches_are_lost_or_appended_again(|ended| {
            let segment = segments(ended)[which].clone();
            let numbers = numbers_in(std::slice::from_ref(&segment));
            fs::remove_file(segment).expect("there");
            numbers
        });
    }
}

#[test]
fn of_an_ended_process_s_journal_that_is_removed_or_moved_away_the_batches_in_memory_are_appended_again() {
    for below in ["journal", ""] {
        for is_moved in [false, true] {
            found_batches_are_lost_or_appended_again(|ended| {
                let (numbers, path) = (numbers_in(&segments(ended)), ended.join(below));
                // Without a slash at its end.
                let path = path.components().collect::<PathBuf>();
                if is_moved {
                    fs::rename(path, ended.parent().expect("the state").with_file_name("elsewhere")).expect("there");
                } else {
                    fs::remove_dir_all(path).expect("there");
                }
                numbers
            });
        }
    }
}

/// The process loses its own directory, and with it the hold on the journal of an ended process, which still exists.
#[test]
fn a_journal_of_an_ended_process_outlives_the_directory_of_the_process_that_holds_it() {
    let mut computer = Computer::new();
    let state = computer.state();
    let (shared, committer) = computer.start(&state);
    let mut first = Process::new(&shared, committer);
    (0..40).for_each(|_| assert!(first.export(&mut computer), "durable"));
    drop(first);
    let (shared, committer) = computer.start(&state);
    let mut process = Process::new(&shared, committer);
    process.read_back(&computer);
    // Batches of both processes are in memory, and in the journals alone.
    (0..5).for_each(|_| assert!(process.export(&mut computer), "durable"));
    (0..3).for_each(|_| assert!(process.export(&mut computer), "durable"));
    let (in_memory, own) = (process.in_memory(), process_of(&state, "2"));
    let removed = numbers_in(&segments(&own));
    fs::remove_dir_all(own).expect("there");
    for _ in 0..4 {
        process.maintain(&computer);
    }
    let lost = removed.difference(&in_memory).copied().collect::<Numbers>();
    let left = (FIRST..FIRST + 48 * BATCH).filter(|number| !lost.contains(number)).collect::<Numbers>();
    assert_eq!((process.vanished(), lost.len() as u64), (2 * BATCH, 2 * BATCH));
    let ledger = process.ledger();
    assert_eq!(ledger.recovered - ledger.taken_over, 40 * BATCH, "{ledger:?}");
    assert_eq!(shared.core().only_in_memory(), 0);
    each_is_delivered_once(&mut computer, &mut process, &left);
    assert_eq!(process.vanished(), 2 * BATCH);
}

#[test]
fn batches_that_are_delivered_do_not_come_back_although_a_segment_with_their_marks_was_removed() {
    let mut computer = Computer::new();
    let state = computer.state();
    let (shared, committer) = computer.start(&state);
    let mut process = Process::new(&shared, committer);
    (0..40).for_each(|_| assert!(process.export(&mut computer), "durable"));
    process.deliver(&mut computer, 12);
    (0..20).for_each(|_| assert!(process.export(&mut computer), "durable"));
    let received = std::mem::take(&mut computer.received);
    let marks = segments(&state).into_iter().rev().nth(4).expect("a segment behind the marks");
    let (in_memory, removed) = (process.in_memory(), numbers_in(std::slice::from_ref(&marks)));
    fs::remove_file(marks).expect("there");
    // The copies of the batches that wait before the marks take some steps.
    (0..10).for_each(|_| process.maintain(&computer));
    let lost = removed.difference(&in_memory).copied().collect::<Numbers>();
    assert_eq!(process.vanished(), lost.len() as u64);
    let is_left = |number: &u64| !lost.contains(number) && !received.contains_key(number);
    let left = (FIRST..FIRST + 60 * BATCH).filter(is_left).collect::<Numbers>();
    each_is_delivered_once(&mut computer, &mut process, &left);
}

/// A shutdown without a fallback leaves its batches in the journal.
#[test]
fn batches_that_a_shutdown_leaves_in_a_journal_that_vanishes_are_appended_again_or_counted() {
    for is_usable in [true, false] {
        let mut computer = Computer::new();
        let state = computer.state();
        let (shared, committer) = computer.start(&state);
        let mut process = Process::new(&shared, committer);
        (0..8).for_each(|_| assert!(process.export(&mut computer), "durable"));
        let now = computer.clocks.now();
        shared.decide(|core| core.stop(now));
        assert_eq!(process.ledger().in_journal, 8 * BATCH);
        let journal = journal_of(&state);
        fs::remove_dir_all(&journal).expect("there");
        if !is_usable {
            fs::write(&journal, "no directory").expect("written");
        }
        process.turn();
        process.worker.close();
        let ledger = process.ledger();
        let (vanished, shutdown) = (ledger.dropped.get("vanished"), ledger.dropped.get("shutdown"));
        assert_eq!(vanished, Some(&(2 * BATCH)), "the journal alone held them: {ledger:?}");
        assert_eq!(shutdown, if is_usable { None } else { Some(&(6 * BATCH)) }, "{ledger:?}");
        assert_eq!((ledger.buffered, ledger.in_journal), (0, if is_usable { 6 * BATCH } else { 0 }), "{ledger:?}");
        drop(process);
        if is_usable {
            let (next, committer) = computer.start(&state);
            let mut next = Process::new(&next, committer);
            next.deliver_all(&mut computer);
            assert_eq!(computer.received.len() as u64, 6 * BATCH);
        }
    }
}
