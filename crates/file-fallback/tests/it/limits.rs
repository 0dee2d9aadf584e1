//! Limits: which files are removed, in which order, and which stay.

use std::fs;
use std::time::{Duration, SystemTime};

use file_fallback::{
    ClockFile, Compression, Config, FileFallback, InvalidConfig, Notice, Reason, Record, Remembered, SpillError,
};
use safe_dir::Directory as _;
use safe_dir::sim::{Crash, Disk};

use crate::{at, config, data_files, drain, lines, next_group, once, open, scratch};

fn on_disk(dir: &std::path::Path) -> u64 {
    data_files(dir).iter().map(|name| fs::metadata(dir.join(name)).expect("there").len()).sum()
}

#[test]
fn the_oldest_files_are_removed_when_there_are_too_many_bytes() {
    let scratch = scratch();
    let mut store = open(config(scratch.path()).with_max_bytes(10_000));
    let mut gone = Vec::new();
    for id in 0..40 {
        let spilled = store.spill(&lines([id], 1_500), at(id as u64)).expect("room");
        gone.extend(spilled.evicted);
        assert!(on_disk(scratch.path()) <= 10_000);
        assert_eq!(store.stored().bytes, on_disk(scratch.path()));
    }
    assert!(gone.iter().all(|evicted| evicted.reason == Reason::MaxBytes));
    let counts: u64 = gone.iter().map(|evicted| evicted.count).sum();
    let all: u64 = lines(0..40, 10).iter().map(|line| line.count as u64).sum();
    assert_eq!(counts + store.stored().count, all);
    assert_eq!(drain(&mut store, 5_000), (once(gone.len()..40), 0), "the newest are left");
}

#[test]
fn the_oldest_files_are_removed_when_there_are_too_many() {
    let scratch = scratch();
    let mut store = open(config(scratch.path()).with_max_files(3));
    for id in 0..10 {
        let spilled = store.spill(&lines([id], 50), at(0)).expect("room");
        assert_eq!(spilled.evicted.len(), usize::from(id >= 3));
        assert!(spilled.evicted.iter().all(|evicted| evicted.reason == Reason::MaxFiles && evicted.count > 0));
    }
    assert_eq!(drain(&mut store, 5_000), (once(7..10), 0));
}

#[test]
fn files_are_removed_by_age_also_when_the_wall_clock_jumps() {
    let scratch = scratch();
    let day = 24 * 3_600;
    let mut store = open(config(scratch.path()).with_max_age(Duration::from_secs(day)));
    drop(store.spill(&lines(0..1, 50), at(0)).expect("room"));
    // Ten years ahead and back again: no file becomes that old.
    for jump in [3_650 * day, 0, 3_650 * day] {
        assert_eq!(store.clean_up(at(jump)), []);
    }
    drop(store.spill(&lines(1..2, 50), at(3_650 * day)).expect("room"));
    let mut gone = Vec::new();
    for minute in 0..24 * 60 {
        gone.extend(store.clean_up(at(60 * minute)));
    }
    assert_eq!(gone.len(), 1, "a day later the first is old, the second is not, although its name has an earlier time");
    assert_eq!((gone[0].reason, gone[0].count), (Reason::MaxAge, 1));
    drop(store);
    let mut store = open(config(scratch.path()).with_max_age(Duration::from_secs(day)));
    assert_eq!(store.clean_up(at(day)), [], "a file from the future ages from now on");
    assert_eq!(drain(&mut store, 5_000), (once(1..2), 0));
}

#[test]
fn a_file_from_before_the_clock_was_set_is_not_taken_for_an_old_one() {
    let scratch = scratch();
    let day = Duration::from_secs(24 * 3_600);
    let mut store = open(config(scratch.path()).with_max_age(day));
    drop(store.spill(&lines(0..1, 50), SystemTime::UNIX_EPOCH + Duration::from_secs(60)).expect("room"));
    drop(store);
    let mut store = open(config(scratch.path()).with_max_age(day));
    let mut gone_after = None;
    for hour in 0..48 {
        let gone = !store.clean_up(at(3_600 * hour)).is_empty();
        gone_after = gone_after.or(gone.then_some(hour));
    }
    assert_eq!(gone_after, Some(24), "it ages from the first look with a clock that is set");
}

#[test]
fn limits_that_were_lowered_hold_after_the_first_clean_up() {
    let scratch = scratch();
    let mut store = open(config(scratch.path()));
    for id in 0..10 {
        drop(store.spill(&lines([id], 1_000), at(0)).expect("room"));
    }
    drop(store);
    let mut store = open(config(scratch.path()).with_max_bytes(3_500));
    let gone = store.clean_up(at(1));
    assert_eq!(gone.len(), 7);
    assert!(on_disk(scratch.path()) <= 3_500);
    assert_eq!(drain(&mut store, 5_000), (once(7..10), 0));
}

#[test]
fn a_file_with_a_group_handed_out_stays() {
    let scratch = scratch();
    let mut store = open(config(scratch.path()).with_max_files(2));
    drop(store.spill(&lines(0..2, 50), at(0)).expect("room"));
    let group = next_group(&mut store, 1).expect("two lines");
    for id in 2..6 {
        drop(store.spill(&lines([id], 50), at(0)).expect("room"));
    }
    assert_eq!(store.clean_up(at(30 * 24 * 3_600)), []);
    store.acknowledge(group, |_| 1).expect("durable");
    assert_eq!(drain(&mut store, 5_000), (once([1, 5]), 0));
    drop(store);
    // Where no file may be removed, none is written.
    let mut store = open(config(scratch.path()).with_max_files(1));
    drop(store.spill(&lines(0..2, 50), at(0)).expect("room"));
    let group = next_group(&mut store, 1).expect("two lines");
    assert!(matches!(store.spill(&lines(2..3, 50), at(0)), Err(SpillError::File { .. })));
    assert_eq!(data_files(scratch.path()).len(), 1);
    store.give_back(group).expect("ours");
    assert_eq!(drain(&mut store, 5_000), (once(0..2), 0));
}

#[test]
fn a_file_that_is_too_old_stays_while_a_group_of_it_is_handed_out() {
    let scratch = scratch();
    let mut store = open(config(scratch.path()).with_max_age(Duration::from_secs(60)));
    drop(store.spill(&lines(0..2, 50), at(0)).expect("room"));
    let group = next_group(&mut store, 1).expect("two lines");
    assert_eq!(store.clean_up(at(100)), []);
    store.acknowledge(group, |_| 1).expect("durable");
    let gone = store.clean_up(at(100));
    assert_eq!(gone.iter().map(|evicted| (evicted.count, evicted.reason)).collect::<Vec<_>>(), [(2, Reason::MaxAge)]);
}

#[test]
fn a_file_that_was_removed_for_its_age_does_not_come_back_with_a_power_cut() {
    let disk = Disk::new();
    let config =
        || config(std::path::Path::new("unused")).with_max_age(Duration::from_secs(60)).build().expect("valid");
    let mut store = FileFallback::open_in(config(), disk.root()).expect("it opens");
    drop(store.spill(&lines(0..2, 50), at(0)).expect("room"));
    assert_eq!(store.clean_up(at(100)).len(), 1);
    disk.crash(Crash::Worst);
    drop(store);
    let store = FileFallback::open_in(config(), disk.root()).expect("it opens");
    assert_eq!(store.stored().files, 0);
}

#[test]
fn a_spill_that_is_larger_than_the_store_is_refused_and_no_file_is_removed() {
    let scratch = scratch();
    let mut store = open(config(scratch.path()).with_max_bytes(1_000).with_compression(Compression::Never));
    drop(store.spill(&lines(0..1, 500), at(0)).expect("room"));
    match store.spill(&lines(1..2, 2_000), at(0)) {
        Err(SpillError::TooLarge { bytes, max_bytes: 1_000 }) => assert!(bytes > 2_000),
        other => panic!("{other:?}"),
    }
    assert_eq!(drain(&mut store, 5_000), (once(0..1), 0));
}

/// The wall clock of a start is ten days, and 74 years, beyond the newest time that an earlier process has seen.
#[test]
fn a_clock_that_is_ahead_at_a_start_removes_no_file_for_an_hour() {
    const DAY: u64 = 24 * 3_600;
    for ahead in [10 * DAY, 74 * 365 * DAY] {
        let scratch = scratch();
        let mut store = open(config(scratch.path()));
        for id in 0..20 {
            drop(store.spill(&lines([id], 50), at(id as u64)).expect("room"));
        }
        let newest = store.newest_time();
        assert_eq!(newest, Some(at(19)));
        drop(store);
        let mut store = open(config(scratch.path()).with_newest_time(newest));
        for minute in 0..60 {
            assert_eq!(store.clean_up(at(ahead + 60 * minute)), []);
            assert_eq!(store.age_rests_until(), Some(at(ahead + 3_600)));
        }
        assert_eq!(store.take_notices(), [Notice::AgeRests { until: at(ahead + 3_600) }]);
        let fresh = store.spill(&lines([99], 50), at(ahead + 3_599)).expect("room").name;
        assert_eq!(store.clean_up(at(ahead + 3_600)), []);
        assert_eq!(store.age_rests_until(), None);
        for second in 1..=20 {
            let gone = store.clean_up(at(ahead + 3_600 + second));
            assert_eq!(gone.iter().map(|file| file.reason).collect::<Vec<_>>(), [Reason::MaxAge], "one a second");
            assert_eq!(store.take_notices(), [Notice::RemovedAfterRest { name: gone[0].name.clone() }]);
        }
        assert_eq!((store.clean_up(at(ahead + 9_000)), crate::data_files(scratch.path())), (vec![], vec![fresh]));
        // Restarts during the rest do not end it.
        drop(store);
        let mut newest = Some(at(0));
        for start in 0..5 {
            let mut store = open(config(scratch.path()).with_newest_time(newest));
            assert_eq!(store.clean_up(at(2 * ahead + 60 * start)), []);
            newest = store.newest_time();
        }
        let mut store = open(config(scratch.path()).with_newest_time(Some(at(3 * ahead))));
        assert_eq!(store.clean_up(at(ahead + 9_000)), []);
        let back = Notice::ClockSetBack { from: at(3 * ahead), to: at(ahead + 9_000) };
        assert_eq!(store.take_notices(), [back]);
    }
}

/// A file that was named with a clock 74 years ahead goes after its age, however often processes start in between.
#[test]
fn a_file_from_far_ahead_neither_goes_at_once_nor_lives_for_ever() {
    const DAY: u64 = 24 * 3_600;
    let scratch = scratch();
    drop(open(config(scratch.path())).spill(&lines([0], 50), at(74 * 365 * DAY)).expect("room"));
    let mut gone = Vec::new();
    for day in 0..7 {
        let mut store = open(config(scratch.path()));
        gone.extend(store.clean_up(at(day * DAY)));
        assert_eq!(gone, [], "day {day}");
    }
    assert_eq!(open(config(scratch.path())).clean_up(at(7 * DAY)).len(), 1);
}

#[test]
fn the_newest_time_is_remembered_in_a_file_once_a_minute() {
    let scratch = scratch();
    let dir = safe_dir::SafeDir::open(scratch.path()).expect("ours");
    let (mut one, mut other) = (ClockFile::new(1), ClockFile::new(2));
    assert_eq!(ClockFile::read(&dir), Remembered::Nothing);
    assert!(one.note(&dir, at(0)).expect("written"));
    let text = std::fs::read_to_string(scratch.path().join("clock")).expect("there");
    assert_eq!((&*text, ClockFile::read(&dir)), ("2026-02-01T00:00:00Z\n", Remembered::Time(at(0))));
    assert!(!one.note(&dir, at(59)).expect("not due"));
    assert!(one.note(&dir, at(60)).expect("written"));
    assert!(!other.note(&dir, at(30)).expect("the newer time of another process stays"));
    assert!(other.note(&dir, at(200)).expect("written"));
    assert!(!one.note(&dir, at(210)).expect("the other process wrote it"));
    // A day ahead is set back.
    assert!(one.note(&dir, at(200 + 2 * 24 * 3_600)).expect("written"));
    assert!(other.note(&dir, at(300)).expect("set back"));
    assert_eq!(ClockFile::read(&dir).time(), Some(at(300)));
    for damaged in ["", "2026-02-01T00:00:00Z", "yesterday\n", &"9".repeat(1_000)] {
        std::fs::write(scratch.path().join("clock"), damaged).expect("written");
        assert_eq!(ClockFile::read(&dir), Remembered::Unreadable, "{damaged}");
        assert!(ClockFile::new(3).note(&dir, at(400)).expect("written"), "{damaged}");
        assert_eq!(ClockFile::read(&dir).time(), Some(at(400)));
    }
}

/// Files that were within the limits of earlier settings are good files.
#[test]
fn a_lowered_limit_evicts_and_counts_and_sets_nothing_aside() {
    let scratch = scratch();
    let mut store = open(config(scratch.path()).with_compression(file_fallback::Compression::Never));
    drop(store.spill(&lines([0], 500), at(0)).expect("room"));
    let large = store.spill(&lines(1..9, 1_000), at(1)).expect("room");
    drop(store.spill(&lines([9], 500), at(2)).expect("room"));
    drop(store);
    let mut store = open(config(scratch.path()).with_max_bytes(2_000));
    assert_eq!((store.stored().files, store.take_notices()), (3, vec![]));
    let gone = store.clean_up(at(3));
    // The file that is larger than all may be, not the older one beside it.
    assert_eq!(gone.iter().map(|file| (&file.name, file.count)).collect::<Vec<_>>(), [(&large.name, large.count)]);
    assert_eq!((store.take_notices(), store.set_aside().expect("readable").files), (vec![], 0));
    // And while the store is open.
    store.set_max_bytes(600);
    assert_eq!(store.oldest_time(), Some(at(0)));
    assert_eq!(store.clean_up(at(4)).iter().map(|file| file.reason).collect::<Vec<_>>(), [Reason::MaxBytes]);
    assert_eq!(store.oldest_time(), Some(at(2)));
    assert_eq!(drain(&mut store, 5_000), (once([9]), 0));
    assert_eq!(store.oldest_time(), None);
}

#[test]
fn a_small_volume_takes_files() {
    let disk = Disk::new();
    disk.set_capacity(Some(40 << 20));
    let mut store =
        FileFallback::open_in(Config::builder("unused").build().expect("valid"), disk.root()).expect("free");
    drop(store.spill(&lines([0], 1_000), at(0)).expect("a tenth of the volume stays free, not 64 MiB"));
    drop(store.spill_beside(&lines([1], 1_000), at(0)).expect("the same"));
    assert!(store.full_in(at(60)).expect("a rate") > std::time::Duration::from_secs(60));
    disk.set_capacity(Some(3_000));
    assert!(matches!(store.spill_beside(&lines([2], 1_000), at(0)), Err(SpillError::NoRoom { .. })));
}

#[test]
fn a_full_disk_needs_no_byte_for_a_removal() {
    let disk = Disk::new();
    let config = Config::builder("unused").with_max_age(std::time::Duration::from_secs(100)).build().expect("valid");
    let mut store = FileFallback::open_in(config, disk.root()).expect("free");
    for id in 0..3 {
        drop(store.spill(&lines([id], 100), at(0)).expect("room"));
    }
    let group = crate::next_group(&mut store, 1).expect("the first");
    disk.set_capacity(Some(0));
    store.acknowledge(group, crate::units).expect("the file goes, nothing is written");
    assert_eq!(store.clean_up(at(100)).len(), 2);
    assert_eq!(store.stored().files, 0);
}

#[test]
fn the_reserve_is_kept_free_by_removing_the_oldest_if_that_helps() {
    let disk = Disk::new();
    disk.set_capacity(Some(40_000));
    let config = Config::builder("unused").with_free_space_reserve(4_000).build().expect("valid");
    let mut store = FileFallback::open_in(config, disk.root()).expect("free");
    let mut gone = Vec::new();
    for id in 0..50 {
        gone.extend(store.spill(&lines([id], 1_000), at(id as u64)).expect("room").evicted);
        assert!(store.stored().bytes <= 36_000);
    }
    assert!(gone.iter().all(|evicted| evicted.reason == Reason::FreeSpace));
    assert_eq!(store.stored().files as usize + gone.len(), 50);
    // Another program takes the space: removing files of the store would not help, so none is removed.
    let before = store.stored();
    let free = disk.root().free_bytes().expect("known");
    let mut theirs = disk.root().create("theirs").expect("new");
    std::io::Write::write_all(&mut theirs, &vec![0; free as usize]).expect("room");
    match store.spill(&lines([99], 34_000), at(99)) {
        Err(error @ SpillError::NoRoom { .. }) => assert_eq!(error.evicted(), []),
        other => panic!("{other:?}"),
    }
    assert_eq!(store.stored(), before);
    assert_eq!(drain(&mut store, 5_000).0.len() as u64, before.files, "a full disk can always be emptied");
}

#[test]
fn a_write_that_exceeds_a_quota_makes_room_too() {
    use safe_dir::sim::{Fault, Faults, Faulty};
    let disk = Disk::new();
    let faults = Faults::none();
    let config = Config::builder("unused").with_free_space_reserve(0).build().expect("valid");
    let mut store = FileFallback::open_in(config, Faulty::new(disk.root(), faults.clone())).expect("free");
    for id in 0..3 {
        drop(store.spill(&lines([id], 1_000), at(0)).expect("room"));
    }
    // EDQUOT at the first write, which is the third call: space, create, write.
    faults.plan(3, Fault::TornWrite(122), false);
    let spilled = store.spill(&lines([3], 1_000), at(0)).expect("room was made");
    assert_eq!(faults.fired(), 1);
    assert_eq!((spilled.evicted.len(), spilled.evicted[0].reason), (1, Reason::FreeSpace));
    assert_eq!(drain(&mut store, 5_000), (once(1..4), 0));
}

#[test]
fn the_time_until_the_store_is_full_follows_the_rate_of_the_last_minutes() {
    let scratch = scratch();
    let mut store = open(config(scratch.path()).with_max_bytes(100_000).with_compression(Compression::Never));
    assert_eq!(store.full_in(at(0)), None);
    for second in 0..60 {
        let text = vec![b'x'; 499];
        drop(store.spill(&[Record { bytes: text, count: 1 }], at(second)).expect("room"));
    }
    let left = store.full_in(at(60)).expect("a rate");
    assert!((130..150).contains(&left.as_secs()), "70,000 bytes at 500 a second: {left:?}");
}

#[test]
fn settings_are_checked() {
    let builder = || Config::builder("d");
    assert!(builder().build().is_ok());
    for signal in ["", "Traces", "../x", "a/b", "a-b", "ä", &"x".repeat(33)] {
        assert!(matches!(builder().with_signal(signal).build(), Err(InvalidConfig::Signal { .. })), "{signal:?}");
    }
    for (builder, field) in [
        (builder().with_max_bytes(0), "max_bytes"),
        (builder().with_max_files(0), "max_files"),
        (builder().with_max_record_bytes(0), "max_record_bytes"),
        (builder().with_max_record_bytes(usize::MAX), "max_record_bytes"),
        (builder().with_zstd_level(0), "zstd_level"),
        (builder().with_zstd_level(-5), "zstd_level"),
        (builder().with_zstd_level(20), "zstd_level"),
    ] {
        let error = builder.build().expect_err(field);
        assert!(matches!(&error, InvalidConfig::OutOfRange { field: named, .. } if *named == field), "{error}");
        assert!(error.to_string().contains(field), "{error}");
    }
}
