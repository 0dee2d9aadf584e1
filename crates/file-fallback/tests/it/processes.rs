//! Several processes on one directory, and the adoption of files of ended ones.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use file_fallback::{FileFallback, Notice, OpenError, SecondProcess};

use crate::{at, config, count, data_files, drain, line, lines, next_group, once, open, scratch};

#[test]
fn a_second_process_takes_a_directory_of_its_own_which_is_adopted_later() {
    let scratch = scratch();
    let mut first = open(config(scratch.path()));
    let mut second = open(config(scratch.path()));
    let mut third = open(config(scratch.path()));
    assert_eq!(second.path(), scratch.path().join("process-1"));
    assert_eq!(third.path(), scratch.path().join("process-2"));
    drop(first.spill(&lines(0..2, 50), at(0)).expect("room"));
    drop(second.spill(&lines(2..5, 50), at(0)).expect("room"));
    drop(third.spill(&lines(5..7, 50), at(0)).expect("room"));
    let group = next_group(&mut second, 1).expect("three lines");
    second.acknowledge(group, |_| count(2) as u64).expect("durable");

    assert_eq!(first.adopt().expect("nothing to do"), 0, "a living process keeps its files");
    assert_eq!(third.adopt().expect("nothing to do"), 0);
    let left = second.stored().count;
    drop(second);
    assert_eq!(first.adopt().expect("moved"), left);
    let notices = first.take_notices();
    assert_eq!(notices, [Notice::Adopted { from: "process-1".into(), files: 1, count: left }]);
    assert!(!scratch.path().join("process-1").exists());
    assert_eq!(drain(&mut first, 1_000), (once([0, 1, 3, 4]), 0), "with their progress");
    drop((first, third));

    // Opening adopts too.
    let mut again = open(config(scratch.path()));
    assert_eq!(drain(&mut again, 1_000), (once(5..7), 0));
    assert_eq!(
        fs::read_dir(scratch.path())
            .expect("readable")
            .filter(|entry| { entry.as_ref().is_ok_and(|entry| entry.path().is_dir()) })
            .count(),
        0
    );
}

#[test]
fn records_that_were_delivered_before_an_adoption_stay_delivered_after_the_next_start() {
    let scratch = scratch();
    let mut first = open(config(scratch.path()));
    let mut second = open(config(scratch.path()));
    drop(second.spill(&lines(0..5, 50), at(0)).expect("room"));
    let group = next_group(&mut second, 1).expect("five lines");
    second.acknowledge(group, |_| count(0) as u64).expect("durable");
    drop(second);
    first.adopt().expect("moved");
    drop(first);
    let mut again = open(config(scratch.path()));
    assert_eq!(drain(&mut again, 1_000), (once(1..5), 0));
}

#[test]
fn a_second_process_is_refused_where_the_settings_say_so() {
    let scratch = scratch();
    let _first = open(config(scratch.path()));
    let refused =
        FileFallback::open(config(scratch.path()).with_second_process(SecondProcess::Refuse).build().expect("valid"));
    let Err(OpenError::Lock(error)) = refused else { panic!("{refused:?}") };
    assert!(error.to_string().contains(&*scratch.path().to_string_lossy()), "{error}");
}

#[test]
fn the_quarantine_of_an_ended_process_is_adopted_too() {
    let scratch = scratch();
    let first = open(config(scratch.path()));
    let mut second = open(config(scratch.path()));
    let damaged =
        second.spill(&[file_fallback::Record { bytes: b"no json".to_vec(), count: 1 }], at(0)).expect("room").name;
    drop(drain(&mut second, 1_000));
    drop((first, second));
    drop(open(config(scratch.path())));
    assert!(!scratch.path().join("process-1").exists());
    assert!(scratch.path().join("quarantine").join(damaged).exists());
}

#[test]
fn an_unusable_subdirectory_stops_neither_the_other_processes_nor_a_start() {
    let scratch = scratch();
    let mut first = open(config(scratch.path()));
    std::os::unix::fs::symlink("/nowhere", scratch.path().join("process-1")).expect("linked");
    fs::write(scratch.path().join("process-2"), "a file").expect("written");
    // A directory whose lock is a directory, which cannot be locked.
    fs::create_dir_all(scratch.path().join("process-3/.lock")).expect("made");
    let mut second = open(config(scratch.path()));
    assert_eq!(second.path(), scratch.path().join("process-4"));
    drop(second.spill(&lines(0..3, 50), at(0)).expect("room"));
    let left = second.stored().count;
    drop(second);
    // The error names the unusable one, and the files of the others are adopted all the same.
    first.adopt().expect_err("process-3");
    assert_eq!(first.stored().count, left);
    assert_eq!(drain(&mut first, 1_000), (once(0..3), 0));
}

#[test]
fn an_adopted_file_gets_another_name_where_its_own_is_taken() {
    let scratch = scratch();
    let mut first = open(config(scratch.path()));
    let mut second = open(config(scratch.path()));
    let name = second.spill(&lines(0..3, 50), at(0)).expect("room").name;
    drop(second);
    // A directory of that name, which the first process has not seen.
    fs::create_dir(scratch.path().join(&name)).expect("made");
    first.adopt().expect("moved");
    assert_eq!(drain(&mut first, 1_000), (once(0..3), 0));
}

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
