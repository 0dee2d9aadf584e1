//! A directory that is removed while the store is open.

use std::fs;
use std::path::Path;

use file_fallback::dead_letters::{DeadLetters, Letter};
use file_fallback::{FileFallback, Next, Notice, SettleError};
use safe_dir::{Directory as _, SafeDir};

use crate::{at, config, data_files, drain, lines, next_group, once, open, scratch, take_over, units};

/// The directory, made again and locked.
fn again(path: &Path) -> (SafeDir, <SafeDir as safe_dir::Directory>::Lock) {
    let dir = SafeDir::open(path).expect("it can be made");
    let lock = dir.lock().expect("no process has it");
    (dir, lock)
}

#[test]
fn a_store_goes_on_in_a_new_directory_when_its_own_is_removed() {
    let scratch = scratch();
    let path = scratch.path().join("dir");
    let mut store = open(config(&path));
    let names = [0, 1, 2].map(|id| store.spill(&lines([id], 100), at(id as u64)).expect("room").name);
    let last = store.spill(&lines([3], 100), at(9)).expect("room");
    let group = next_group(&mut store, 1).expect("the first file");
    assert!(!store.is_vanished());
    fs::remove_dir_all(&path).expect("ours");

    assert!(store.is_vanished());
    let error = store.spill(&lines([4], 100), at(10)).expect_err("no directory");
    assert!(error.is_vanished() && error.evicted().is_empty(), "{error:?}");
    let error = store.next_group(1).expect_err("no directory");
    assert!(error.is_vanished(), "{error:?}");
    assert_eq!(store.clean_up(at(10 + 30 * 24 * 3_600)), [], "no file is removed for its age");
    assert_eq!(store.take_notices(), [Notice::DirectoryVanished], "once");
    assert_eq!(store.stored().files, 4);

    let (dir, lock) = again(&path);
    store.renew(dir, lock).expect("usable");
    let vanished = names.iter().chain([&last.name]).zip([0, 1, 2, 3]);
    let vanished = vanished.map(|(name, id)| Notice::Vanished { name: name.clone(), count: crate::count(id) as u64 });
    assert_eq!(store.take_notices(), vanished.collect::<Vec<_>>());
    assert!(!store.is_vanished());
    assert!(matches!(store.acknowledge(group, units), Err(SettleError::UnknownGroup)));
    // With a clock that was set back: names go on.
    let name = store.spill(&lines([5], 100), at(0)).expect("room").name;
    assert!(name > last.name, "{name} is behind {}", last.name);
    assert_eq!((data_files(&path), store.stored().files), (vec![name], 1));
    FileFallback::open(config(&path).build().expect("valid")).expect_err("the new directory is locked");
    assert_eq!(drain(&mut store, 1_000), (once([5]), 0));
}

#[test]
fn a_file_alone_that_is_removed_is_no_vanished_directory() {
    let scratch = scratch();
    let mut store = open(config(scratch.path()));
    let name = store.spill(&lines([0], 100), at(0)).expect("room").name;
    fs::remove_file(scratch.path().join(name)).expect("there");
    assert_eq!(store.next_group(1).expect("the directory is there"), Next::Empty);
    assert!(matches!(&store.take_notices()[..], [Notice::Vanished { .. }]));
}

#[test]
fn nothing_is_taken_over_into_a_directory_that_is_gone() {
    let scratch = scratch();
    let (own, other) = (scratch.path().join("own"), scratch.path().join("other"));
    drop(open(config(&other)).spill(&lines([0], 100), at(0)).expect("room"));
    let mut store = open(config(&own));
    fs::remove_dir_all(&own).expect("ours");
    let ended = crate::ended(&other);
    assert!(store.take_over(&ended.dir, at(0)).expect_err("no directory").is_vanished());
    assert_eq!(data_files(&other).len(), 1);
    let (dir, lock) = again(&own);
    store.renew(dir, lock).expect("usable");
    take_over(&mut store, &ended.dir);
    assert_eq!(drain(&mut store, 1_000), (once([0]), 0));
}

/// The quarantine alone is removed, then all of the directory.
#[test]
fn the_quarantine_is_made_again() {
    let scratch = scratch();
    let path = scratch.path().join("dir");
    let mut store = open(config(&path));
    for round in 0..3 {
        drop(store.spill(&[file_fallback::Record { bytes: b"no json".to_vec(), count: 1 }], at(0)).expect("room"));
        drop(drain(&mut store, 1_000));
        assert_eq!(store.set_aside().expect("readable").files, 1, "{round}");
        if round == 0 {
            fs::remove_dir_all(path.join("quarantine")).expect("ours");
        } else {
            fs::remove_dir_all(&path).expect("ours");
            let (dir, lock) = again(&path);
            store.renew(dir, lock).expect("usable");
        }
    }
}

#[test]
fn dead_letters_go_on_in_a_new_directory() {
    let scratch = scratch();
    let path = scratch.path().join("letters");
    let mut letters = DeadLetters::open(DeadLetters::config(&path).build().expect("valid")).expect("free");
    let text = String::new;
    let (signal, status, reason, endpoint) = (text(), text(), text(), text());
    let letter = Letter { signal, status, reason, endpoint, attempts: 1, accepted: at(0), refused: at(0) };
    let name = letters.add(&letter, &lines([0], 50), at(0)).expect("room").name;
    fs::remove_dir_all(&path).expect("ours");
    assert!(letters.is_vanished());
    assert!(letters.read(&name).expect_err("no directory").is_vanished());
    assert!(letters.remove(&name).expect_err("no directory").is_vanished());
    assert!(letters.add(&letter, &lines([1], 50), at(0)).expect_err("no directory").is_vanished());
    let (dir, lock) = again(&path);
    letters.renew(dir, lock).expect("usable");
    assert_eq!(letters.list(), []);
    let name = letters.add(&letter, &lines([1], 50), at(0)).expect("room").name;
    assert_eq!(letters.read(&name).expect("readable").1.len(), 1);
    let notices = letters.take_notices();
    assert!(matches!(&notices[..], [Notice::DirectoryVanished, Notice::Vanished { .. }]), "{notices:?}");
}
