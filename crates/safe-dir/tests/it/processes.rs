//! Real processes on a real directory: they start, store, adopt, end and are killed by turns.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use safe_dir::{Machine, SafeDir, SharedDir, publish};

use crate::scratch;
use crate::shared::{empty, files};

/// A process of this test: prints the name of each file that it has stored, until it is killed or has done its rounds.
#[test]
fn store_and_adopt() {
    let Some(path) = std::env::var_os("SAFE_DIR_TEST").map(PathBuf::from) else { return };
    let rounds: u32 = std::env::var("SAFE_DIR_ROUNDS").expect("set").parse().expect("a number");
    // All start with the same number.
    let mut shared = SharedDir::claim(SafeDir::open(path).expect("ours"), Machine::current(), 1).expect("works");
    for round in 0..rounds {
        // No number is given twice while its directory exists, but it may be free again.
        let name = format!("{}-{round}", std::process::id());
        publish(shared.own(), &name, |file| file.write_all(b"x")).expect("room");
        println!("stored {name}");
        shared.beat(u64::from(round)).expect("room");
        for name in shared.others().expect("readable") {
            if let Some(adopted) = shared.adopt(&name).expect("works") {
                empty(&shared, adopted);
            }
        }
        assert!(!shared.is_gone(), "the directory of a live process was taken");
    }
    println!("done");
}

fn start(path: &Path, rounds: u32) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("this binary"));
    command.args(["--exact", "processes::store_and_adopt", "--nocapture"]);
    command.env("SAFE_DIR_TEST", path).env("SAFE_DIR_ROUNDS", rounds.to_string());
    command.stdout(Stdio::piped()).spawn().expect("started")
}

/// Reads from a process until it says `last` or has stored `most` files; returns the files.
fn stored(output: &mut impl Iterator<Item = String>, most: usize) -> Vec<String> {
    let lines = output.filter_map(|line| line.split_once("stored ").map(|(_, name)| name.to_owned()));
    lines.take(most).collect()
}

#[test]
fn each_file_is_found_once_after_processes_were_killed_and_replaced() {
    let scratch = scratch();
    let mut expected = BTreeSet::new();
    for generation in 0..6_usize {
        let mut children: Vec<_> = (0..4).map(|_| start(scratch.path(), 12)).collect();
        let mut outputs = Vec::new();
        for child in &mut children {
            outputs.push(BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok));
        }
        // Two are killed in the midst of their rounds, two end by themselves.
        for (index, (child, output)) in children.iter_mut().zip(&mut outputs).enumerate() {
            if index % 2 == 0 {
                expected.extend(stored(output, 1 + (generation + index) % 7));
                child.kill().expect("not waited for");
            }
            expected.extend(stored(output, usize::MAX));
            let status = child.wait().expect("ends");
            assert!(index % 2 == 0 || status.success(), "{status}");
        }
    }
    assert!(expected.len() > 100, "{}", expected.len());

    let root = SafeDir::open(scratch.path()).expect("ours");
    let mut last = SharedDir::claim(root, Machine::current(), 1).expect("works");
    for _ in 0..2 {
        for name in last.others().expect("readable") {
            let adopted = last.adopt(&name).expect("works").expect("all have ended");
            empty(&last, adopted);
        }
    }
    // A file that was stored just before its process was killed may not have been told.
    let found = files(last.own());
    assert!(found.is_superset(&expected), "{:?}", expected.difference(&found).collect::<Vec<_>>());
    assert_eq!(fs::read_dir(scratch.path()).expect("readable").count(), 1, "emptied directories are removed");
}
