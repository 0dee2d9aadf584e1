//! Failed attempts: which records are read first, groups of several files, and the marks that preserve both.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use file_fallback::{Attempts, Damage, FileFallback, Format, Group, Next, Notice, SettleError, Settled, Verdict};
use safe_dir::Directory;
use safe_dir::sim::{Disk, Fault, Faults, Faulty};

use crate::{
    at, config, count, data_files, drain, ended, id_of, lines, missing, next_group, once, open, records, scratch,
    take_over, units,
};

fn failed(failed: u32) -> Attempts {
    Attempts { failed, note: [failed, 2, u32::MAX, 0, 5, 6] }
}

fn ids(group: &Group) -> Vec<usize> {
    group.records.iter().filter_map(|text| id_of(text)).collect()
}

/// Settles a group: the records for which `verdict` gives attempts have failed, the others are done.
fn settle<D: Directory>(
    store: &mut FileFallback<D>,
    group: Group,
    verdict: impl Fn(usize) -> Option<Attempts>,
) -> Vec<usize> {
    let of = |id: usize| verdict(id).map_or(Verdict::Done(count(id) as u64), Verdict::Failed);
    let ids = ids(&group);
    let verdicts: Vec<_> = ids.iter().map(|id| of(*id)).collect();
    store.settle(group, &verdicts).expect("durable");
    ids
}

/// A record at the front of the oldest file that always fails keeps neither the records behind it nor other files
/// waiting; it is read again each time when no other record is left.
#[test]
fn a_record_that_failed_is_read_again_after_all_others() {
    let scratch = scratch();
    let mut store = open(config(scratch.path()));
    let mut next = 0;
    for _ in 0..13 {
        drop(store.spill(&lines(next..next + 231, 200), at(0)).expect("room"));
        next += 231;
    }
    let mut good = BTreeSet::new();
    let mut attempts = 0;
    while let Some(group) = next_group(&mut store, 4_000) {
        if ids(&group).contains(&0) {
            attempts += 1;
            assert_eq!(group.failed(), attempts - 1);
            if attempts > 1 {
                assert_eq!((ids(&group), good.len()), (vec![0], next - 1), "all others are delivered");
            }
        }
        let verdict = |id| (id == 0 && attempts < 4).then(|| failed(attempts));
        good.extend(settle(&mut store, group, verdict).into_iter().filter(|id| *id != 0));
    }
    assert_eq!((attempts, good.len(), store.stored().files), (4, 13 * 231 - 1, 0));
    assert_eq!(store.take_notices(), []);
}

/// Records that failed equally often come oldest first; a new file goes before them.
#[test]
fn fewest_failures_first_and_the_oldest_among_equals() {
    let scratch = scratch();
    let mut store = open(config(scratch.path()));
    for first in [0, 3, 6] {
        drop(store.spill(&lines(first..first + 3, 100), at(0)).expect("room"));
    }
    let group = next_group(&mut store, 100_000).expect("three files");
    assert_eq!(ids(&group), (0..9).collect::<Vec<_>>());
    settle(&mut store, group, |id| Some(failed([3, 1, 2, 1, 1, 2, 3, 2, 1][id])));
    let mut order = Vec::new();
    let group = next_group(&mut store, 200).expect("records of the first and the second file");
    order.push((group.failed(), ids(&group)));
    drop(store.spill(&lines([9], 100), at(0)).expect("room"));
    while let Some(group) = next_group(&mut store, 100_000) {
        let expected = if group.failed() == 0 { Attempts::default() } else { failed(group.failed()) };
        assert!(group.sources().all(|source| source.attempts == expected), "{group:?}");
        order.push((group.failed(), ids(&group)));
    }
    assert_eq!(
        order,
        [(1, vec![1]), (0, vec![9]), (1, vec![3, 4, 8]), (2, vec![2, 5, 7]), (3, vec![0, 6])],
        "a group has records of one number of failures"
    );
}

/// New files come as fast as others go: an old record that failed is read by its age.
#[test]
fn the_oldest_records_are_read_however_often_they_failed() {
    let scratch = scratch();
    let mut store = open(config(scratch.path()));
    for first in [0, 3, 6] {
        drop(store.spill(&lines(first..first + 3, 100), at(0)).expect("room"));
    }
    let group = next_group(&mut store, 100_000).expect("three files");
    settle(&mut store, group, |id| {
        [Some(3), Some(1), None, Some(2), Some(2), Some(4), None, None, None][id].map(failed)
    });
    drop(store.spill(&lines([9], 100), at(0)).expect("room"));
    let mut oldest = |max_bytes| match store.oldest_group(max_bytes).expect("readable") {
        Next::Group(group) => Some((ids(&group), group)),
        Next::Pause | Next::Empty => None,
    };
    let (read, small) = oldest(1).expect("a record");
    assert_eq!(read, [1], "of the oldest file the record with the fewest attempts");
    let (read, group) = oldest(100_000).expect("records of all files");
    assert_eq!(read, [0, 3, 4, 9], "of each file those of one number of attempts");
    let attempts = group.sources().map(|source| source.attempts.failed).collect::<Vec<_>>();
    assert_eq!(attempts, [3, 2, 2, 0]);
    let (read, last) = oldest(100_000).expect("the last record");
    assert_eq!(read, [5]);
    assert!(oldest(100_000).is_none(), "all are handed out");
    for group in [small, group, last] {
        settle(&mut store, group, |_| None);
    }
    assert_eq!((store.stored().files, store.take_notices()), (0, vec![]));
}

/// The records of new files go first, in the order of their file; those that failed go behind all others.
#[test]
fn the_newest_records_of_those_that_failed_the_least_are_read() {
    let scratch = scratch();
    let mut store = open(config(scratch.path()));
    for first in [0, 3, 6] {
        drop(store.spill(&lines(first..first + 3, 100), at(first as u64)).expect("room"));
    }
    let newest = |store: &mut FileFallback, max_bytes| match store.newest_group(max_bytes).expect("readable") {
        Next::Group(group) => Some(group),
        Next::Pause | Next::Empty => None,
    };
    let group = newest(&mut store, 100_000).expect("three files");
    assert_eq!(ids(&group), [6, 7, 8, 3, 4, 5, 0, 1, 2]);
    settle(&mut store, group, |id| {
        [None, Some(1), None, Some(1), Some(2), None, None, Some(1), Some(3)][id].map(failed)
    });
    drop(store.spill(&lines(9..11, 100), at(9)).expect("room"));
    let first = newest(&mut store, 1).expect("a record");
    assert_eq!(ids(&first), [9]);
    drop(store.spill(&lines(11..12, 100), at(11)).expect("room"));
    let mut groups = vec![first];
    while let Some(group) = newest(&mut store, 100_000) {
        groups.push(group);
    }
    let read = groups.iter().map(|group| (group.failed(), ids(group))).collect::<Vec<_>>();
    assert_eq!(read, [(0, vec![9]), (0, vec![11, 10]), (1, vec![7, 3, 1]), (2, vec![4]), (3, vec![8])]);
    for group in groups {
        settle(&mut store, group, |_| None);
    }
    assert_eq!((store.stored().files, store.take_notices()), (0, vec![]));
}

/// Records that are given back as they were are read before those that failed.
#[test]
fn a_record_that_was_given_back_has_not_failed() {
    let scratch = scratch();
    let mut store = open(config(scratch.path()));
    drop(store.spill(&lines(0..4, 100), at(0)).expect("room"));
    let group = next_group(&mut store, 100_000).expect("four records");
    settle(&mut store, group, |id| (id != 2).then(|| failed(1)));
    let group = next_group(&mut store, 100_000).expect("three records");
    assert_eq!((ids(&group), group.failed()), (vec![0, 1, 3], 1));
    let log = fs::read(scratch.path().join("progress.log")).expect("there");
    store.give_back(group).expect("ours");
    assert_eq!(fs::read(scratch.path().join("progress.log")).expect("there"), log, "no write");
    let group = next_group(&mut store, 100_000).expect("three records");
    assert_eq!((ids(&group), group.failed()), (vec![0, 1, 3], 1));
    // Attempts can be taken back: the record is as new.
    let verdicts = [Verdict::Failed(Attempts::default()), Verdict::Keep, Verdict::Keep];
    store.settle(group, &verdicts).expect("durable");
    let group = next_group(&mut store, 100_000).expect("one record");
    assert_eq!((ids(&group), group.failed()), (vec![0], 0));
}

#[test]
fn attempts_survive_a_restart_and_an_adoption() {
    let scratch = scratch();
    let (own, other) = (scratch.path().join("own"), scratch.path().join("other"));
    let mut second = open(config(&other));
    for first in [0, 5] {
        drop(second.spill(&lines(first..first + 5, 300), at(0)).expect("room"));
    }
    let group = next_group(&mut second, 100_000).expect("ten records");
    let expected = [3, 0, 1, 0, 2, 1, 0, 0, 0, 1];
    let verdict = |id: usize| (expected[id] > 0).then(|| failed(expected[id]));
    settle(&mut second, group, verdict);
    let stored = second.stored();
    drop(second);
    take_over(&mut open(config(&own)), &ended(&other).dir);
    for _ in 0..3 {
        let mut store = open(config(&own));
        assert_eq!((store.path(), store.stored()), (&*own, stored));
        let mut order = Vec::new();
        while let Some(group) = next_group(&mut store, 100_000) {
            for (id, source) in ids(&group).into_iter().zip(group.sources()) {
                assert_eq!(source.attempts, failed(expected[id]));
                assert_eq!(source.number, id as u64 % 5);
                order.push(id);
            }
        }
        assert_eq!(order, [2, 5, 9, 4, 0]);
    }
}

/// Bytes of a log as version 0.1.0 wrote it before marks held attempts.
#[test]
fn a_log_without_attempts_is_read_and_one_with_attempts_has_its_fields_first() {
    let scratch = scratch();
    let mut store = open(config(scratch.path()));
    let spilled = store.spill(&lines(0..5, 100), at(0)).expect("room");
    let (name, bytes) = (spilled.name, spilled.bytes);
    let log = scratch.path().join("progress.log");
    drop(store);
    let before = format!(r#"{{"file":"{name}","bytes":{bytes},"lines":[[0,1],[3,4]],"count":5,"rejected":false}}"#);
    let line = |json: &str| format!("{:08x} {json}\n", crc32c::crc32c(json.as_bytes()));
    fs::write(&log, line(&before)).expect("written");
    let mut store = open(config(scratch.path()));
    assert_eq!((store.stored().count, store.take_notices().len()), (10, 0));
    let group = next_group(&mut store, 100_000).expect("three records");
    assert_eq!((ids(&group), group.failed()), (vec![1, 2, 4], 0));
    settle(&mut store, group, |id| (id != 2).then(|| failed(id as u32)));
    drop(store);

    // The version before skips fields that it does not know: it reads the settled records and no attempts.
    let text = fs::read_to_string(&log).expect("readable");
    let last = text.lines().last().expect("a mark");
    let json = &last[9..];
    assert_eq!(last[..8], format!("{:08x}", crc32c::crc32c(json.as_bytes())));
    let fields = format!(r#"{{"file":"{name}","bytes":{bytes},"lines":[[0,1],[2,4]],"count":8,"rejected":false,"#);
    let rest = json.strip_prefix(&fields).expect("the fields of the version before, in their form");
    assert_eq!(rest, r#""tried":[[1,1,1,2,4294967295,0,5,6],[4,4,4,2,4294967295,0,5,6]]}"#);

    // A later version may write attempts in another form: the settled records count all the same.
    for other in [r#""tried":{"1":1}}"#, r#""tried":[[1,1],[4]]}"#, r#""tried":null,"more":7}"#] {
        fs::write(&log, line(&(fields.clone() + other))).expect("written");
        let mut store = open(config(scratch.path()));
        let group = next_group(&mut store, 100_000).expect("two records");
        assert_eq!((ids(&group), group.failed(), store.take_notices().len()), (vec![1, 4], 0, 0), "{other}");
    }
}

/// A log that ends in the middle of its last mark has the marks before it.
#[test]
fn a_torn_mark_of_attempts_forgets_no_settled_record() {
    let scratch = scratch();
    let mut store = open(config(scratch.path()));
    drop(store.spill(&lines(0..4, 100), at(0)).expect("room"));
    let group = next_group(&mut store, 1).expect("a record");
    store.acknowledge(group, units).expect("durable");
    let log = scratch.path().join("progress.log");
    let settled = fs::read(&log).expect("readable").len();
    let group = next_group(&mut store, 100_000).expect("three records");
    settle(&mut store, group, |id| Some(failed(id as u32)));
    drop(store);
    let whole = fs::read(&log).expect("readable");
    for len in settled..=whole.len() {
        fs::write(&log, &whole[..len]).expect("written");
        let mut store = open(config(scratch.path()));
        let levels = if len + 1 >= whole.len() { vec![1, 2, 3] } else { vec![0] };
        let mut seen = (Vec::new(), Vec::new());
        while let Some(group) = next_group(&mut store, 100_000) {
            seen.0.push(group.failed());
            seen.1.extend(ids(&group));
        }
        assert_eq!(seen, (levels, vec![1, 2, 3]), "cut to {len}");
    }
}

#[test]
fn small_files_are_read_as_one_group_and_each_is_removed_after_its_last_record() {
    for (files, expected) in [(60, vec![180]), (150, vec![192, 192, 66])] {
        let scratch = scratch();
        let mut store = open(config(scratch.path()));
        for file in 0..files {
            let format = if file % 2 == 0 { Format::Lines } else { Format::Framed };
            drop(store);
            store = open(config(scratch.path()).with_format(format));
            drop(store.spill(&records(file * 3..file * 3 + 3, 200, format), at(0)).expect("room"));
        }
        let mut sizes = Vec::new();
        while let Some(group) = next_group(&mut store, 1 << 20) {
            sizes.push(group.records.len());
            for (source, id) in group.sources().zip(ids(&group)) {
                assert_eq!(
                    source.file,
                    data_files(scratch.path())[id / 3 - sizes[..sizes.len() - 1].iter().sum::<usize>() / 3]
                );
                assert_eq!(source.number, id as u64 % 3);
                assert_eq!(source.format == Format::Framed, id / 3 % 2 == 1);
            }
            let left = store.stored().files;
            store.acknowledge(group, units).expect("durable");
            assert_eq!(store.stored().files, left - *sizes.last().expect("a group") as u64 / 3);
        }
        assert_eq!((sizes, store.stored().count, data_files(scratch.path()).len()), (expected, 0, 0));
        assert_eq!(store.take_notices(), []);
    }
}

/// One group of several files takes one write and one sync for all marks, and one sync for all removals.
#[test]
fn a_group_of_many_files_is_settled_with_two_syncs() {
    let (disk, faults) = (Disk::new(), Faults::none());
    let config = config(Path::new("unused")).build().expect("valid");
    let mut store = FileFallback::open_in(config, Faulty::new(disk.root(), faults.clone())).expect("free");
    let mut settle_all = |first: usize| {
        for file in 0..40 {
            drop(store.spill(&lines(first + file * 2..first + file * 2 + 2, 100), at(0)).expect("room"));
        }
        let group = next_group(&mut store, 1 << 20).expect("80 records");
        assert_eq!(group.records.len(), 80);
        // Every other file keeps one of its records.
        faults.plan(u64::MAX, Fault::Errno(5), false);
        let before = faults.calls();
        settle(&mut store, group, |id| id.is_multiple_of(4).then(|| failed(1)));
        let calls = faults.calls() - before;
        while let Some(group) = next_group(&mut store, 1 << 20) {
            store.acknowledge(group, units).expect("durable");
        }
        calls
    };
    settle_all(0);
    // 20 removals, a sync of the directory, a write and a sync of the log.
    assert_eq!(settle_all(100), 20 + 1 + 2);
}

/// Records of 2,000 files failed: a read meets none of these files until the others are read.
#[test]
fn a_read_looks_at_no_file_whose_records_failed_more_often() {
    let (disk, faults) = (Disk::new(), Faults::none());
    let config = config(Path::new("unused")).build().expect("valid");
    let mut store = FileFallback::open_in(config, Faulty::new(disk.root(), faults.clone())).expect("free");
    for id in 0..2_000 {
        drop(store.spill(&lines([id], 60), at(0)).expect("room"));
    }
    for _ in 0..2_000_usize.div_ceil(64) {
        let group = next_group(&mut store, 1 << 20).expect("records that did not fail");
        settle(&mut store, group, |id| Some(failed(if id < 1_900 { 2 } else { 1 })));
    }
    faults.plan(u64::MAX, Fault::Errno(5), false);
    let before = faults.calls();
    let group = next_group(&mut store, 1).expect("the oldest of those that failed once");
    assert_eq!((ids(&group), group.failed()), (vec![1_900], 1));
    assert!(faults.calls() - before < 16, "{} calls", faults.calls() - before);
}

/// The readable records of a file with a bad sector that failed are delivered before it is set aside.
#[test]
fn a_record_that_failed_before_a_bad_sector_is_read_again() {
    let (disk, faults) = (Disk::new(), Faults::none());
    let config = config(Path::new("unused")).with_compression(file_fallback::Compression::Never);
    let dir = Faulty::new(disk.root(), faults.clone());
    let mut store = FileFallback::open_in(config.build().expect("valid"), dir).expect("free");
    drop(store.spill(&lines(0..200, 1_000), at(0)).expect("room"));
    let total = store.stored().count;
    let mut done = 0;
    let group = next_group(&mut store, 3_000).expect("records");
    assert_eq!(ids(&group), [0, 1]);
    settle(&mut store, group, |id| (id == 0).then(|| failed(1)));
    done += count(1) as u64;
    let mut errors = 0;
    let mut last = Vec::new();
    for _ in 0..20 {
        // Behind the note of the file and the opening.
        faults.plan(5, Fault::Errno(5), false);
        match store.next_group(1 << 20) {
            Ok(Next::Group(group)) => {
                last = ids(&group);
                done += last.iter().map(|id| count(*id) as u64).sum::<u64>();
                store.acknowledge(group, units).expect("durable");
            }
            Ok(Next::Pause) => {}
            Ok(Next::Empty) => break,
            Err(_) => errors += 1,
        }
    }
    assert_eq!((errors >= 2, last), (true, vec![0]), "{errors} errors");
    let notices = store.take_notices();
    let [Notice::SetAside { damage: Damage::Unreadable, count, .. }] = notices[..] else { panic!("{notices:?}") };
    assert_eq!((count, store.stored().count), (total - done, 0));
}

/// Another program removes one of the files of a group: the verdicts about the others count.
#[test]
fn a_file_that_vanishes_takes_no_verdict_of_its_group_along() {
    let scratch = scratch();
    let mut store = open(config(scratch.path()));
    let mut names = Vec::new();
    for first in [0, 200, 400] {
        names.push(store.spill(&lines(first..first + 100, 100), at(0)).expect("room").name);
    }
    let mut group = next_group(&mut store, 164 * 150).expect("one file and the half of the next");
    let len = group.records.len();
    assert!((101..200).contains(&len), "{len}");
    fs::remove_file(scratch.path().join(&names[1])).expect("there");
    // The file is open, so the rest of it is read; opened anew after a record was given back, it is missed.
    let second = next_group(&mut store, 1).expect("the next record");
    store.give_back(second).expect("ours");
    let third = next_group(&mut store, 1).expect("a record of the third file");
    assert_eq!(ids(&third), [400]);
    store.give_back(third).expect("ours");
    let notices = store.take_notices();
    assert!(matches!(&notices[..], [Notice::Vanished { name, .. }] if *name == names[1]), "{notices:?}");
    let gone: u64 = missing(&notices);
    let sum = |from: usize, to: usize| (from..to).map(|id| count(id) as u64).sum::<u64>();
    assert_eq!(gone, sum(200, 300));
    group.records.iter_mut().for_each(Vec::clear);
    let verdicts: Vec<_> = (0..100).chain(200..).take(len).map(|id| Verdict::Done(count(id) as u64)).collect();
    let settled = store.settle(group, &verdicts).expect("durable");
    assert_eq!(settled, Settled { count: sum(0, 100), surplus: sum(200, 200 + len - 100) });
    assert_eq!(drain(&mut store, 10_000), (once(400..500), 0));
}

#[test]
fn a_wrong_number_of_verdicts_changes_nothing_in_any_file() {
    let scratch = scratch();
    let mut store = open(config(scratch.path()));
    for first in [0, 2] {
        drop(store.spill(&lines(first..first + 2, 100), at(0)).expect("room"));
    }
    let group = next_group(&mut store, 1_000).expect("four records");
    settle(&mut store, group, |id| Some(failed(id as u32)));
    let group = next_group(&mut store, 1_000).expect("the first");
    assert_eq!(ids(&group), [0]);
    store.give_back(group).expect("ours");
    for verdicts in [&[][..], &[Verdict::Done(1); 2]] {
        let group = next_group(&mut store, 1_000).expect("the first");
        let wrong = store.settle(group, verdicts);
        assert!(matches!(wrong, Err(SettleError::WrongLength { records: 1, .. })), "{wrong:?}");
    }
    assert_eq!(drain(&mut store, 1_000), (once(0..4), 0));
}

/// The attempts of more records than a log may hold are forgotten at the next start; settled records are not.
#[test]
fn a_log_stays_short_however_many_records_failed() {
    let scratch = scratch();
    let mut store = open(config(scratch.path()));
    for file in 0..60 {
        drop(store.spill(&lines(file * 2_000..file * 2_000 + 2_000, 30), at(0)).expect("room"));
    }
    let (mut settled, mut groups) = (0, 0);
    loop {
        let group = next_group(&mut store, 400 * 100).expect("records that did not fail, or all did");
        if group.failed() > 0 {
            store.give_back(group).expect("ours");
            break;
        }
        groups += 1;
        settled += ids(&group).iter().filter(|id| id.is_multiple_of(1_000)).count();
        settle(&mut store, group, |id| (!id.is_multiple_of(1_000)).then(|| failed(9)));
        assert!(fs::metadata(scratch.path().join("progress.log")).expect("there").len() <= 2 << 20);
    }
    assert_eq!((settled, groups > 200), (120, true), "{groups} groups");
    let stored = store.stored();
    drop(store);
    let mut store = open(config(scratch.path()));
    assert_eq!((store.stored(), store.take_notices().len()), (stored, 0));
    let (seen, rejected) = drain(&mut store, 1 << 20);
    assert_eq!((seen.len(), rejected), (120_000 - settled, 0));
}

/// A record is given back with the units that its writer counted, also after a restart once a mark was written.
#[test]
fn a_group_gives_back_the_count_of_each_record() {
    let scratch = scratch();
    let mut store = open(config(scratch.path()));
    let mut records = lines(0..3, 50);
    for (count, record) in [5, 0, 7].into_iter().zip(&mut records) {
        record.count = count;
    }
    drop(store.spill(&records, at(0)).expect("room"));
    let counts = |group: &Group| group.sources().map(|source| source.count).collect::<Vec<_>>();
    let group = next_group(&mut store, 4_000).expect("three records");
    assert_eq!(counts(&group), [Some(5), Some(0), Some(7)]);
    store.settle(group, &[Verdict::Done(5), Verdict::Keep, Verdict::Failed(failed(1))]).expect("durable");
    drop(store);

    let mut store = open(config(scratch.path()));
    let group = next_group(&mut store, 4_000).expect("the record that was kept");
    assert_eq!(counts(&group), [Some(0)]);
    store.settle(group, &[Verdict::Done(0)]).expect("durable");
    let group = next_group(&mut store, 4_000).expect("the record that failed");
    assert_eq!(counts(&group), [Some(7)]);
    drop(group);
    drop(store);
    fs::remove_file(scratch.path().join("progress.log")).expect("there");
    let group = next_group(&mut open(config(scratch.path())), 4_000).expect("all of them");
    assert_eq!(counts(&group), [None; 3], "the writer's counts are not in the file");
}
