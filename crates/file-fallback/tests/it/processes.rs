//! The directories of several processes, and the files of ended ones.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use file_fallback::{AdoptError, Compression, FileFallback, Notice, OpenError, TakenOver, count_in_name, holds_in};
use safe_dir::sim::{Crash, Disk};
use safe_dir::{Directory as _, Locked};

use crate::{
    at, config, count, data_files, drain, ended, id_of, line, lines, next_group, once, open, scratch, take_over, units,
};

#[test]
fn a_second_process_is_refused_and_the_error_names_the_remedies() {
    let scratch = scratch();
    let _first = open(config(scratch.path()));
    let refused = FileFallback::open(config(scratch.path()).build().expect("valid"));
    let Err(error @ OpenError::Lock(_)) = refused else { panic!("{refused:?}") };
    let text = error.to_string();
    let path = scratch.path().to_string_lossy();
    for part in [&*path, "another process", "a directory of its own", "safe_dir::SharedDir"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn the_error_of_an_unusable_directory_has_its_whole_chain_and_a_remedy() {
    for path in ["/proc/fallback", "/dev/null/fallback"] {
        let error = FileFallback::open(config(path.as_ref()).build().expect("valid")).expect_err("unusable");
        let text = error.to_string();
        let names = text.contains(path) || text.contains(path.trim_end_matches("/fallback"));
        assert!(names && text.contains("another"), "{text}");
        let OpenError::Directory(inner) = &error else { panic!("{error:?}") };
        let mut source = std::error::Error::source(inner);
        while let Some(cause) = source {
            assert!(text.contains(&cause.to_string()), "{cause} is not in: {text}");
            source = cause.source();
        }
        assert!(std::error::Error::source(&error).is_none(), "a program that prints the chain would print it twice");
    }
}

#[test]
fn the_files_of_an_ended_process_are_taken_over_with_their_progress() {
    let scratch = scratch();
    let (own, other) = (scratch.path().join("own"), scratch.path().join("other"));
    let mut first = open(config(&own));
    let mut second = open(config(&other));
    drop(first.spill(&lines(0..2, 50), at(0)).expect("room"));
    drop(second.spill(&lines(2..5, 50), at(0)).expect("room"));
    drop(second.spill(&lines(5..7, 50), at(1)).expect("room"));
    let group = next_group(&mut second, 1).expect("three lines");
    second.acknowledge(group, |_| count(2) as u64).expect("durable");
    let left = second.stored().count;
    drop(second);

    let ended = ended(&other);
    let taken = first.take_over(&ended.dir, at(2)).expect("moved");
    assert_eq!(taken, TakenOver { files: 2, count: left, more: false });
    let from = other.to_string_lossy().into_owned();
    assert_eq!(first.take_notices(), [Notice::Adopted { from, files: 2, count: left }]);
    let rest = fs::read_dir(&other).expect("readable").map(|entry| entry.expect("readable").file_name());
    assert_eq!(rest.collect::<Vec<_>>(), [".lock"], "the lock alone, which the caller removes with the directory");
    drop(first);
    let mut again = open(config(&own));
    assert_eq!(drain(&mut again, 1_000), (once([0, 1, 3, 4, 5, 6]), 0), "also after the next start");
}

#[test]
fn files_on_another_file_system_are_copied_some_at_a_time_with_their_progress() {
    let (own, other) = (Disk::new(), Disk::new());
    let settings = || config(Path::new("/sim")).with_compression(Compression::Never).build().expect("valid");
    let mut first = FileFallback::open_in(settings(), own.root()).expect("free");
    let mut second = FileFallback::open_in(settings(), other.root()).expect("free");
    for id in 0..12 {
        drop(second.spill(&lines([2 * id, 2 * id + 1], 150_000), at(id as u64)).expect("room"));
    }
    let group = next_group(&mut second, 1).expect("a line");
    second.acknowledge(group, units).expect("durable");
    drop(second);
    let from = Locked::new(other.root()).expect("its process has ended");
    let mut calls = 1;
    while first.take_over(&from.dir, at(20)).expect("room").more {
        let moved = first.stored().bytes;
        assert!(moved <= calls * (1 << 20) + (1 << 20) / 2, "{moved} bytes in {calls} calls");
        calls += 1;
    }
    assert!(calls >= 3, "{calls}");
    drop(first);
    own.crash(Crash::Worst);
    let mut again = FileFallback::open_in(settings(), own.root()).expect("free");
    assert_eq!(drain(&mut again, 1 << 20), (once(1..24), 0));
    let left = other.root().list().expect("readable");
    assert_eq!(left.iter().map(|entry| entry.name.clone()).collect::<Vec<_>>(), [".lock"]);
}

#[test]
fn files_that_were_taken_over_stand_in_the_order_by_their_times() {
    let scratch = scratch();
    let (own, other) = (scratch.path().join("own"), scratch.path().join("other"));
    let (mut first, mut second) = (open(config(&own).with_max_files(4)), open(config(&other)));
    // The numbers of the other process say the opposite.
    for id in 10..15 {
        drop(second.spill(&lines([id], 50), at(0)).expect("room"));
        next_group(&mut second, 1).map(|group| second.acknowledge(group, units)).expect("one").expect("durable");
    }
    for (id, time) in [(0, 10), (1, 30)] {
        drop(first.spill(&lines([id], 50), at(time)).expect("room"));
    }
    for (id, time) in [(2, 5), (3, 20), (4, 40)] {
        drop(second.spill(&lines([id], 50), at(time)).expect("room"));
    }
    drop(second);
    take_over(&mut first, &ended(&other).dir);
    let evicted = first.clean_up(at(41));
    assert_eq!(evicted.iter().map(|file| file.count).collect::<Vec<_>>(), [count(2) as u64], "the oldest of both");
    let restarted = {
        drop(first);
        open(config(&own))
    };
    assert_eq!(order(restarted), [0, 3, 1, 4]);
}

/// The wall clock of a process goes back by a day, by ten years and to 1970.
#[test]
fn a_clock_that_jumps_back_reorders_no_files_of_a_process() {
    let scratch = scratch();
    let (own, other) = (scratch.path().join("own"), scratch.path().join("other"));
    let mut writer = open(config(&other));
    let times = [at(0), at(0) - DAY, at(0) - DAY * 3_650, std::time::UNIX_EPOCH, at(5), at(0) - DAY];
    for (id, time) in times.into_iter().enumerate() {
        drop(writer.spill(&lines([id], 50), time).expect("room"));
    }
    drop(writer);
    // A start with a clock that was not set yet.
    let mut writer = open(config(&other));
    drop(writer.spill(&lines([6], 50), std::time::UNIX_EPOCH).expect("room"));
    drop(writer);
    let mut store = open(config(&own));
    take_over(&mut store, &ended(&other).dir);
    assert_eq!(order(store), (0..7).collect::<Vec<_>>());
}

/// A file that was named with a clock far ahead, by an earlier run, does not decide the names of new files.
#[test]
fn names_do_not_continue_from_a_clock_that_was_far_ahead() {
    let scratch = scratch();
    drop(open(config(scratch.path())).spill(&lines([0], 50), at(0) + DAY * 27_000).expect("room"));
    let name = open(config(scratch.path())).spill(&lines([1], 50), at(7)).expect("room").name;
    assert!(name.starts_with("traces-20260201T000007.000Z-"), "{name}");
}

#[test]
fn one_call_takes_over_the_256_oldest_files() {
    let scratch = scratch();
    let (own, other) = (scratch.path().join("own"), scratch.path().join("other"));
    let mut second = open(config(&other));
    for id in 0..300 {
        drop(second.spill(&lines([id], 50), at(id as u64)).expect("room"));
    }
    drop(second);
    let mut first = open(config(&own));
    let ended = ended(&other);
    let taken = first.take_over(&ended.dir, at(0)).expect("moved");
    assert_eq!((taken.files, taken.more), (256, true));
    assert_eq!(drain(&mut first, 1_000), (once(0..256), 0), "the oldest");
    let taken = first.take_over(&ended.dir, at(0)).expect("moved");
    assert_eq!((taken.files, taken.more), (44, false));
    assert_eq!(drain(&mut first, 1_000), (once(256..300), 0));
}

#[test]
fn the_quarantine_of_an_ended_process_is_taken_over_in_steps_too() {
    let scratch = scratch();
    let (own, other) = (scratch.path().join("own"), scratch.path().join("other"));
    drop(open(config(&other)));
    let damaged = other.join("quarantine");
    fs::create_dir(&damaged).expect("made");
    fs::set_permissions(&damaged, fs::Permissions::from_mode(0o700)).expect("ours");
    for seq in 0..300 {
        let name = format!("traces-20260201T000000.000Z-{seq:08}-n2.jsonl");
        fs::write(damaged.join(name), "no json").expect("written");
    }
    let mut first = open(config(&own));
    let ended = ended(&other);
    assert!(first.take_over(&ended.dir, at(0)).expect("moved").more);
    assert_eq!(first.set_aside().expect("readable").files, 256);
    assert!(!first.take_over(&ended.dir, at(0)).expect("moved").more);
    let aside = first.set_aside().expect("readable");
    assert_eq!((aside.files, aside.count, damaged.exists()), (300, 600, false));
}

#[test]
fn a_file_whose_name_is_taken_gets_another_number_and_none_is_overwritten() {
    let scratch = scratch();
    let (own, other) = (scratch.path().join("own"), scratch.path().join("other"));
    let (mut first, mut second) = (open(config(&own)), open(config(&other)));
    // Both have the time, the number and the count of units in common.
    let name = first.spill(&lines([5], 50), at(0)).expect("room").name;
    assert_eq!(second.spill(&lines([0, 10, 15], 50), at(0)).expect("room").count, 3);
    assert_eq!(second.spill(&lines([20], 50), at(0)).expect("room").count, 1);
    drop(second);
    let twin = other.join(&name);
    fs::write(&twin, [line(25, 50).bytes, b"\n".to_vec()].concat()).expect("written");
    // The name of the second file is a directory here, which the store has not seen.
    let taken = "traces-20260201T000000.000Z-00000002-n1.jsonl";
    assert!(other.join(taken).exists());
    fs::create_dir(own.join(taken)).expect("made");
    take_over(&mut first, &ended(&other).dir);
    assert_eq!(data_files(&other), [""; 0]);
    assert_eq!(drain(&mut first, 1_000), (once([0, 5, 10, 15, 20, 25]), 0));
}

#[test]
fn a_file_that_cannot_be_moved_keeps_no_other_from_being_moved() {
    let scratch = scratch();
    let (own, other) = (scratch.path().join("own"), scratch.path().join("other"));
    let mut second = open(config(&other));
    let names = [0, 1, 2].map(|id| second.spill(&lines([id], 50), at(id as u64)).expect("room").name);
    drop(second);
    // A directory that holds a file, where the stranger would go: the quarantine is a file.
    fs::remove_file(other.join(&names[0])).expect("there");
    fs::create_dir(other.join(&names[0])).expect("made");
    let mut first = open(config(&own));
    fs::write(own.join("quarantine"), "a file").expect("written");
    let ended = ended(&other);
    let error = first.take_over(&ended.dir, at(0)).expect_err("no quarantine");
    assert!(matches!(error, AdoptError::File(_)), "{error:?}");
    assert_eq!(data_files(&other), [names[0].clone()]);
    assert_eq!(drain(&mut first, 1_000), (once([1, 2]), 0));
    fs::remove_file(own.join("quarantine")).expect("there");
    assert!(!first.take_over(&ended.dir, at(0)).expect("moved").more);
    assert_eq!(first.set_aside().expect("readable").files, 1);
}

#[test]
fn a_directory_that_is_not_opened_tells_its_files_by_their_names() {
    let scratch = scratch();
    let name = open(config(scratch.path())).spill(&lines([3, 4], 50), at(0)).expect("room").name;
    let ended = ended(scratch.path());
    assert_eq!(count_in_name("traces", &name), Some((count(3) + count(4)) as u64));
    assert_eq!(count_in_name("logs", &name), None);
    assert!(holds_in(&ended.dir, "traces", &name).expect("readable"));
    assert!(!holds_in(&ended.dir, "logs", &name).expect("readable"));
    assert!(!holds_in(&ended.dir, "traces", &name.replace("n9", "n8")).expect("readable"));
    assert!(!holds_in(&ended.dir, "traces", "quarantine").expect("readable"));
}

/// The ids in the order in which the store hands them out.
fn order(mut store: FileFallback) -> Vec<usize> {
    let mut order = Vec::new();
    while let Some(group) = next_group(&mut store, 1) {
        order.extend(group.records.iter().filter_map(|text| id_of(text)));
        store.acknowledge(group, units).expect("durable");
    }
    order
}

const DAY: std::time::Duration = std::time::Duration::from_secs(24 * 3_600);

/// Twelve processes spill until they are killed; each prints the id of a record once its spill has returned.
#[test]
fn every_spill_that_a_killed_process_reported_is_in_the_store() {
    let scratch = scratch();
    let mut next = 0;
    let mut reported = Vec::new();
    for round in 0..12 {
        let mut child = Command::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", "processes::spill_until_killed", "--nocapture"])
            .env("FILE_FALLBACK_TEST", scratch.path())
            .env("FILE_FALLBACK_FIRST", next.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let mut output = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
        let mut ids = output.by_ref().filter_map(|line| line.strip_prefix("stored ")?.parse::<usize>().ok());
        reported.extend(ids.by_ref().take(1 + 7 * round));
        child.kill().expect("running");
        child.wait().expect("killed");
        reported.extend(ids);
        next = reported.last().expect("at least one") + 1_000;
    }
    let mut store = open(config(scratch.path()));
    let (seen, rejected) = drain(&mut store, 10_000);
    assert_eq!(rejected, 0);
    assert!(reported.iter().all(|id| seen.get(id) == Some(&1)), "every record that was reported is there once");
    let unreported = seen.len() - reported.len();
    assert!(unreported <= 12, "at most the one that was being reported at each kill: {unreported}");
    assert_eq!(data_files(scratch.path()), Vec::<String>::new());
}

#[test]
fn spill_until_killed() {
    let Some(path) = std::env::var_os("FILE_FALLBACK_TEST").map(PathBuf::from) else { return };
    let first: usize = std::env::var("FILE_FALLBACK_FIRST").expect("set").parse().expect("a number");
    let mut store = open(config(&path));
    for id in first.. {
        drop(store.spill(&[line(id, 300)], at(0)).expect("room"));
        println!("stored {id}");
    }
}
