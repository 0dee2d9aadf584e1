//! The quarantine, on real files and on the disk in memory.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

use safe_dir::sim::{Crash, Disk, Fault, Faults, Faulty};
use safe_dir::{Directory, Quarantine, QuarantineLimits, SafeDir, move_file, publish};

use crate::scratch;

const WIDE: QuarantineLimits = QuarantineLimits { max_bytes: 1 << 20, max_files: 100 };

fn names<D: Directory>(dir: &D) -> Vec<String> {
    let mut names: Vec<_> =
        dir.list().expect("readable").into_iter().filter_map(|entry| entry.name.into_string().ok()).collect();
    names.sort();
    names
}

fn write<D: Directory>(dir: &D, name: &str, text: &str) {
    publish(dir, name, |file| file.write_all(text.as_bytes())).expect("room");
}

fn read<D: Directory>(dir: &D, name: &str) -> Option<String> {
    let mut text = String::new();
    dir.open_read(name).ok()?.read_to_string(&mut text).expect("readable");
    Some(text)
}

fn fill_and_look<D: Directory>(dir: &D) {
    let mut quarantine = Quarantine::new("quarantine", WIDE);
    assert!(quarantine.set_aside(dir, "a").expect_err("no such file").is_not_found());
    for (text, expected) in [("one", "a"), ("two", "a.1"), ("three", "a.2")] {
        write(dir, "a", text);
        assert_eq!(quarantine.set_aside(dir, "a").expect("moved"), expected);
        assert!(read(dir, "a").is_none());
    }
    quarantine.sync(dir).expect("durable");
    assert_eq!(quarantine.trim(), 0);
    let inside = dir.subdirectory("quarantine").expect("there");
    let texts = names(&inside).into_iter().filter_map(|name| read(&inside, &name)).collect::<Vec<_>>();
    assert_eq!(texts, ["one", "two", "three"]);
}

#[test]
fn a_file_never_overwrites_another_of_its_name() {
    let scratch = scratch();
    fill_and_look(&SafeDir::open(scratch.path()).expect("ours"));
    fill_and_look(&Disk::new().root());
}

/// The ended process had its files on another file system.
#[test]
fn a_quarantine_on_another_file_system_is_copied() {
    let (own, other) = (Disk::new().root(), Disk::new().root());
    let from = other.subdirectory("quarantine").expect("room");
    write(&from, "a", "one");
    write(&from, "b", "two");
    write(&own.subdirectory("quarantine").expect("room"), "a", "mine");
    Quarantine::new("quarantine", WIDE).take_over(&own, &other).expect("copied");
    let inside = own.subdirectory("quarantine").expect("there");
    let texts = names(&inside).into_iter().map(|name| read(&inside, &name).expect("whole"));
    assert_eq!(texts.collect::<Vec<_>>(), ["mine", "one", "two"]);
    assert!(names(&other).is_empty(), "{:?}", names(&other));
}

/// Each call to either disk fails once: the file is in one of the two places, whole, or in both after a power cut.
#[test]
fn a_file_that_is_copied_to_another_file_system_is_never_lost() {
    let mut nth = 1;
    loop {
        let (faults, disks) = (Faults::none(), [Disk::new(), Disk::new()]);
        let [own, other] = [&disks[0], &disks[1]].map(|disk| Faulty::new(disk.root(), faults.clone()));
        write(&other, "a", "content");
        faults.plan(nth, Fault::Errno(5), false);
        let moved = move_file(&other, "a", &own, "b");
        let is_over = faults.fired() == 0;
        faults.clear();
        let found = || (read(&own, "b"), read(&other, "a"));
        let content = Some("content".to_owned());
        match moved {
            Ok(is_copied) => assert_eq!((is_copied, found()), (true, (content, None)), "call {nth}"),
            Err(_) => assert_eq!(found(), (None, content), "call {nth}"),
        }
        if is_over {
            break;
        }
        nth += 1;
    }
    assert!(nth > 6, "{nth} calls");
    let (own, other) = (Disk::new(), Disk::new());
    write(&other.root(), "a", "content");
    assert!(move_file(&other.root(), "a", &own.root(), "b").expect("copied"));
    own.crash(Crash::Worst);
    other.crash(Crash::Worst);
    assert_eq!(read(&own.root(), "b").as_deref(), Some("content"));
    assert!(read(&other.root(), "a").is_some(), "the removal is durable after a sync");
}

#[test]
fn names_end_where_the_limit_of_files_is() {
    let disk = Disk::new();
    let dir = disk.root();
    let mut quarantine = Quarantine::new("quarantine", QuarantineLimits { max_files: 2, ..WIDE });
    for expected in ["a", "a.1"] {
        write(&dir, "a", "x");
        assert_eq!(quarantine.set_aside(&dir, "a").expect("moved"), expected);
    }
    write(&dir, "a", "x");
    assert!(quarantine.set_aside(&dir, "a").expect_err("both names are taken").is_already_exists());
    assert!(read(&dir, "a").is_some(), "the file stays");
}

#[test]
fn a_quarantine_without_files_is_not_on_the_disk() {
    let disk = Disk::new();
    let mut quarantine = Quarantine::new("quarantine", WIDE);
    quarantine.sync(&disk.root()).expect("nothing to do");
    quarantine.take_over(&disk.root(), &disk.root().subdirectory("process-1").expect("made")).expect("nothing to do");
    assert_eq!((quarantine.trim(), quarantine.trim_if_due()), (0, 0));
    assert_eq!(names(&disk.root()), ["process-1"]);
}

/// Sets files aside, `age` hours old each, and trims.
fn trimmed(limits: QuarantineLimits, files: &[(&str, u64, usize)]) -> (usize, Vec<String>) {
    let scratch = scratch();
    let dir = SafeDir::open(scratch.path()).expect("ours");
    let mut quarantine = Quarantine::new("quarantine", limits);
    for (name, age, len) in files {
        write(&dir, name, &"x".repeat(*len));
        set_age(&scratch.path().join(name), *age);
        quarantine.set_aside(&dir, name).expect("moved");
    }
    let removed = quarantine.trim();
    (removed, names(&dir.subdirectory("quarantine").expect("there")))
}

fn set_age(path: &Path, hours: u64) {
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_769_904_000 - hours * 3_600);
    fs::File::options().write(true).open(path).and_then(|file| file.set_modified(then)).expect("it is ours");
}

#[test]
fn the_oldest_files_are_removed_first_until_the_limits_hold() {
    let files = [("c", 1, 9), ("a", 2, 9), ("d", 9, 9), ("b", 3, 9)];
    assert_eq!(trimmed(WIDE, &files), (0, ["a", "b", "c", "d"].map(str::to_owned).into()));
    let by_count = trimmed(QuarantineLimits { max_files: 2, ..WIDE }, &files);
    assert_eq!(by_count, (2, ["a", "c"].map(str::to_owned).into()));
    // 100,000 bytes take at least that on disk, and the oldest is 1 byte.
    let files = [("a", 3, 1), ("b", 2, 100_000), ("c", 1, 100_000)];
    let by_bytes = trimmed(QuarantineLimits { max_bytes: 150_000, ..WIDE }, &files);
    assert_eq!(by_bytes, (2, vec!["c".to_owned()]));
}

#[test]
fn equally_old_files_are_removed_in_the_order_of_their_names() {
    let disk = Disk::new(); // knows no modification times
    let dir = disk.root();
    let mut quarantine = Quarantine::new("quarantine", QuarantineLimits { max_files: 2, ..WIDE });
    for name in ["b", "d", "a", "c"] {
        write(&dir, name, "x");
        quarantine.set_aside(&dir, name).expect("moved");
    }
    assert_eq!(quarantine.trim(), 2);
    assert_eq!(names(&dir.subdirectory("quarantine").expect("there")), ["c", "d"]);
}

#[test]
fn a_sparse_file_counts_with_its_bytes_on_disk() {
    let scratch = scratch();
    let dir = SafeDir::open(scratch.path()).expect("ours");
    let mut quarantine = Quarantine::new("quarantine", WIDE);
    fs::File::create(scratch.path().join("giant")).and_then(|file| file.set_len(1 << 40)).expect("a sparse file");
    write(&dir, "small", "x");
    for name in ["giant", "small"] {
        quarantine.set_aside(&dir, name).expect("moved");
    }
    assert_eq!(quarantine.trim(), 0, "both take a few blocks");
}

#[test]
fn a_hundred_moves_make_the_next_trim_due() {
    let disk = Disk::new();
    let dir = disk.root();
    let mut quarantine = Quarantine::new("quarantine", QuarantineLimits { max_files: 10, ..WIDE });
    let mut removed = Vec::new();
    for number in 0..250 {
        write(&dir, &format!("{number:03}"), "x");
        quarantine.set_aside(&dir, &format!("{number:03}")).expect("moved");
        removed.push(quarantine.trim_if_due());
    }
    let due: Vec<_> = removed.iter().enumerate().filter(|(_, removed)| **removed > 0).collect();
    assert_eq!(due, [(99, &90), (199, &100)]);
}

#[test]
fn the_quarantine_of_an_ended_process_moves_with_its_files() {
    let disk = Disk::new();
    let home = disk.root();
    let (mut quarantine, mut other) = (Quarantine::new("quarantine", WIDE), Quarantine::new("quarantine", WIDE));
    let ended = home.subdirectory("process-1").expect("made");
    write(&home, "a", "ours");
    quarantine.set_aside(&home, "a").expect("moved");
    for (name, text) in [("a", "theirs"), ("b", "also theirs")] {
        write(&ended, name, text);
        other.set_aside(&ended, name).expect("moved");
    }
    quarantine.take_over(&home, &ended).expect("moved");
    home.remove_subdirectory("process-1").expect("empty");
    disk.crash(Crash::Worst);
    let inside = disk.root().subdirectory("quarantine").expect("there");
    assert_eq!(names(&inside), ["a", "a.1", "b"]);
    assert_eq!(read(&inside, "a.1").as_deref(), Some("theirs"));
}

#[test]
fn a_quarantine_that_an_operator_removed_is_made_again() {
    let scratch = scratch();
    let dir = SafeDir::open(scratch.path()).expect("ours");
    let mut quarantine = Quarantine::new("quarantine", WIDE);
    for _ in 0..2 {
        write(&dir, "a", "x");
        assert_eq!(quarantine.set_aside(&dir, "a").expect("moved"), "a");
        fs::remove_dir_all(scratch.path().join("quarantine")).expect("there");
    }
    assert!(quarantine.set_aside(&dir, "a").expect_err("no such file").is_not_found());
}

/// Each call to the disk fails in turn, and the power goes after it: the file is in its old place or in the quarantine,
/// whole, and in the quarantine alone once the caller has its `Ok`.
#[test]
fn a_fault_at_every_call_and_a_power_cut_lose_no_file() {
    for crash in [Crash::Worst, Crash::Best, Crash::Random(3), Crash::Random(8)] {
        let mut nth = 1;
        loop {
            let (disk, faults) = (Disk::new(), Faults::none());
            write(&disk.root(), "a", "damaged");
            let dir = Faulty::new(disk.root(), faults.clone());
            let mut quarantine = Quarantine::new("quarantine", WIDE);
            faults.plan(nth, Fault::Errno(5), false);
            let moved = quarantine.set_aside(&dir, "a").and_then(|name| quarantine.sync(&dir).map(|()| name));
            disk.crash(crash);
            let here = read(&disk.root(), "a");
            let there = disk.root().subdirectory("quarantine").ok().and_then(|inside| read(&inside, "a"));
            for text in here.iter().chain(&there) {
                assert_eq!(text, "damaged", "call {nth}, {crash:?}");
            }
            assert!(here.is_some() || there.is_some(), "call {nth}, {crash:?}: lost");
            assert!(moved.is_err() || there.is_some() && here.is_none(), "call {nth}, {crash:?}: not durable");
            if faults.fired() == 0 {
                break;
            }
            nth += 1;
        }
        assert!(nth > 4, "opening, renaming and both syncs were tried");
    }
}
