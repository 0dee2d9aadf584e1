//! Reading back: groups, progress, restarts.

use std::collections::BTreeMap;
use std::fs;

use file_fallback::{Damage, Notice, SettleError, Settled, Verdict};

use crate::{at, config, count, data_files, drain, id_of, lines, missing, next_group, once, open, scratch, units};

#[test]
fn groups_come_oldest_file_first_and_within_their_size() {
    let scratch = scratch();
    let mut store = open(config(scratch.path()));
    drop(store.spill(&lines(0..10, 1_000), at(0)).expect("room"));
    drop(store.spill(&lines(10..20, 30_000), at(1)).expect("room"));
    let mut ids = Vec::new();
    let mut groups = Vec::new();
    while let Some(group) = next_group(&mut store, 5_000) {
        assert!(group.bytes() <= 5_000 || group.records.len() == 1);
        ids.extend(group.records.iter().filter_map(|text| id_of(text)));
        groups.push(group);
    }
    assert_eq!(ids, (0..20).collect::<Vec<_>>());
    assert_eq!(groups.len(), 3 + 10, "four lines a group, or one that is larger");
    assert_eq!(store.stored().files, 2, "handed out is not settled");
    for group in groups.into_iter().rev() {
        let count = group.records.iter().filter_map(|text| id_of(text)).map(|id| count(id) as u64).sum();
        assert_eq!(store.acknowledge(group, units).expect("durable"), Settled { count, surplus: 0 });
    }
    assert_eq!((store.stored().files, store.stored().count, store.stored().bytes), (0, 0, 0));
    assert_eq!(data_files(scratch.path()), Vec::<String>::new());
    assert_eq!(store.take_notices(), []);
}

#[test]
fn settled_records_do_not_come_back_after_a_restart() {
    for len in [100, 30_000] {
        let scratch = scratch();
        let mut store = open(config(scratch.path()));
        drop(store.spill(&lines(0..20, len), at(0)).expect("room"));
        let mut settled: BTreeMap<usize, usize> = BTreeMap::new();
        // Each run settles every other record of one group, and ends with a second group handed out.
        for _ in 0..30 {
            let Some(group) = next_group(&mut store, len * 3) else { break };
            let _lost = next_group(&mut store, len * 3);
            let mut verdicts = Vec::new();
            for (index, text) in group.records.iter().enumerate() {
                let id = id_of(text).expect("whole");
                let done = index % 2 == 0;
                verdicts.push(if done { Verdict::Done(count(id) as u64) } else { Verdict::Keep });
                *settled.entry(id).or_default() += usize::from(done);
            }
            store.settle(group, &verdicts).expect("durable");
            let stored = store.stored();
            drop(store);
            store = open(config(scratch.path()));
            assert_eq!(store.stored(), stored);
        }
        settled.retain(|_, times| *times > 0);
        let (rest, _) = drain(&mut store, len * 3);
        for (id, times) in rest {
            *settled.entry(id).or_default() += times;
        }
        assert_eq!(settled, once(0..20), "each line once, lines of {len} bytes");
        assert_eq!(store.stored().count, 0);
        assert_eq!(data_files(scratch.path()), Vec::<String>::new());
    }
}

#[test]
fn groups_settled_out_of_order_are_remembered() {
    let scratch = scratch();
    let mut store = open(config(scratch.path()));
    drop(store.spill(&lines(0..5, 100), at(0)).expect("room"));
    let mut groups = Vec::new();
    while let Some(group) = next_group(&mut store, 1) {
        groups.push(group);
    }
    let third = groups.remove(2);
    let first = groups.remove(0);
    store.acknowledge(third, |_| count(2) as u64).expect("durable");
    store.acknowledge(first, |_| count(0) as u64).expect("durable");
    drop(store);
    let mut store = open(config(scratch.path()));
    assert_eq!(drain(&mut store, 1_000), (once([1, 3, 4]), 0));
}

#[test]
fn a_group_is_settled_once_and_by_its_own_store() {
    let (scratch, other) = (scratch(), scratch());
    let mut store = open(config(scratch.path()));
    let mut elsewhere = open(config(other.path()));
    drop(store.spill(&lines(0..2, 100), at(0)).expect("room"));
    let group = next_group(&mut store, 1_000).expect("two lines");
    assert!(matches!(elsewhere.acknowledge(group, |_| 3), Err(SettleError::UnknownGroup)));
    drop(store);
    let mut store = open(config(scratch.path()));
    let group = next_group(&mut store, 1_000).expect("two lines");
    let wrong = store.settle(group, &[Verdict::Keep]);
    assert!(matches!(wrong, Err(SettleError::WrongLength { verdicts: 1, records: 2 })));
    assert_eq!(drain(&mut store, 1_000), (once(0..2), 0), "the records are read again");
}

#[test]
fn a_file_that_holds_less_than_its_name_promises_is_set_aside_and_more_is_surplus() {
    let scratch = scratch();
    let text = "{\"id\":4}\n{\"id\":9}\n"; // five each
    fs::write(scratch.path().join("traces-20260201T000000.000Z-00000001-n7.jsonl"), text).expect("written");
    fs::write(scratch.path().join("traces-20260201T000000.000Z-00000002-n17.jsonl"), text).expect("written");
    let mut store = open(config(scratch.path()));
    assert_eq!(store.stored().count, 24);
    let group = next_group(&mut store, 150).expect("two lines");
    assert_eq!(store.acknowledge(group, |_| 5).expect("durable"), Settled { count: 7, surplus: 3 });
    let group = next_group(&mut store, 150).expect("two lines");
    assert_eq!(store.acknowledge(group, |_| 5).expect("durable"), Settled { count: 10, surplus: 0 });
    let notices = store.take_notices();
    assert!(
        matches!(&notices[..], [Notice::SetAside { damage: Damage::Incomplete, count: 7, moved_to: Some(_), .. }]),
        "{notices:?}"
    );
    assert_eq!((store.stored().count, data_files(scratch.path()).len()), (0, 0));
    assert_eq!(store.set_aside().expect("readable").files, 1);
}

#[test]
fn a_file_that_another_program_removed_is_counted_and_the_others_are_read() {
    let scratch = scratch();
    let mut store = open(config(scratch.path()));
    let taken = store.spill(&lines(0..4, 100), at(0)).expect("room");
    drop(store.spill(&lines(4..6, 100), at(0)).expect("room"));
    fs::remove_file(scratch.path().join(&taken.name)).expect("there");
    assert_eq!(drain(&mut store, 1_000), (once(4..6), 0));
    assert_eq!(store.take_notices(), [Notice::Vanished { name: taken.name, count: taken.count }]);
    assert_eq!(store.stored().count, 0);
}

#[test]
fn old_progress_does_not_hide_a_new_file() {
    let scratch = scratch();
    let mut store = open(config(scratch.path()));
    drop(store.spill(&lines(0..5, 100), at(0)).expect("room"));
    let group = next_group(&mut store, 1).expect("five lines");
    store.acknowledge(group, |_| 1).expect("durable");
    let log = fs::read(scratch.path().join("progress.log")).expect("there");
    drop(drain(&mut store, 1_000));
    drop(store);
    // The log is restored, no file is left, and the time is the same: the next file must not get the old name.
    fs::write(scratch.path().join("progress.log"), &log).expect("written");
    let mut store = open(config(scratch.path()));
    drop(store.spill(&lines(0..5, 100), at(0)).expect("room"));
    drop(store);
    let mut store = open(config(scratch.path()));
    assert_eq!(drain(&mut store, 1_000), (once(0..5), 0));
}

#[test]
fn a_damaged_or_foreign_progress_log_costs_duplicates_only() {
    let garbage: [&[u8]; 4] = [b"", b"garbage\nmore\n", &[0; 5_000], b"00000000 {}\n"];
    for (index, log) in garbage.into_iter().enumerate() {
        let scratch = scratch();
        let mut store = open(config(scratch.path()));
        drop(store.spill(&lines(0..5, 100), at(0)).expect("room"));
        let group = next_group(&mut store, 1).expect("five lines");
        store.acknowledge(group, |_| 1).expect("durable");
        drop(store);
        fs::write(scratch.path().join("progress.log"), log).expect("written");
        let mut store = open(config(scratch.path()));
        assert_eq!(store.stored().count, 15);
        let group = next_group(&mut store, 1).expect("five lines");
        store.acknowledge(group, |_| 1).expect("a new log");
        assert_eq!(drain(&mut store, 1_000), (once(1..5), 0));
        let damaged = store.take_notices().iter().any(|notice| matches!(notice, Notice::ProgressDamaged { .. }));
        assert_eq!(damaged, index == 1 || index == 3, "a torn tail is no damage");
    }
    // A directory in place of the log: verdicts count, and the error reports that they are not durable.
    let scratch = scratch();
    fs::create_dir(scratch.path().join("progress.log")).expect("made");
    let mut store = open(config(scratch.path()));
    drop(store.spill(&lines(0..5, 100), at(0)).expect("room"));
    let group = next_group(&mut store, 1).expect("five lines");
    match store.acknowledge(group, |_| 1) {
        Err(SettleError::NotDurable { settled: Settled { count: 1, surplus: 0 }, .. }) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(store.stored().count, 14);
    assert_eq!(missing(&store.take_notices()), 0);
}

/// A log with a changed bit, which claims more settled records; and another file that was put under the name of the
/// first.
#[test]
fn a_damaged_mark_and_the_mark_of_another_file_do_not_count() {
    let partly_settled = || {
        let scratch = scratch();
        let mut store = open(config(scratch.path()));
        let name = store.spill(&lines(0..5, 100), at(0)).expect("room").name;
        let group = next_group(&mut store, 1).expect("five lines");
        store.acknowledge(group, |_| count(0) as u64).expect("durable");
        (scratch, name)
    };

    let (dir, _) = partly_settled();
    let path = dir.path().join("progress.log");
    let text = fs::read_to_string(&path).expect("readable");
    let changed = text.replace("[[0,1]]", "[[0,3]]");
    assert_ne!(changed, text);
    fs::write(&path, changed).expect("written");
    let mut store = open(config(dir.path()));
    assert!(matches!(store.take_notices()[..], [Notice::ProgressDamaged { marks: 1 }]));
    assert_eq!(drain(&mut store, 1_000), (once(0..5), 0));

    let (dir, name) = partly_settled();
    let others: Vec<u8> = lines(0..5, 150).into_iter().flat_map(|line| [line.bytes, b"\n".to_vec()].concat()).collect();
    fs::write(dir.path().join(name), others).expect("written");
    assert_eq!(drain(&mut open(config(dir.path())), 1_000), (once(0..5), 0));
}

#[test]
fn ten_thousand_files_are_opened_by_name_alone() {
    let scratch = scratch();
    for seq in 1..=10_000 {
        // Sparse, and no JSON: opening the store reads none of them.
        let path = scratch.path().join(format!("traces-20260201T000000.000Z-{seq:08}-n3.jsonl"));
        fs::File::create(path).expect("made").set_len(10).expect("sparse");
    }
    let store = open(config(scratch.path()));
    assert_eq!((store.stored().files, store.stored().count, store.stored().bytes), (10_000, 30_000, 100_000));
}
