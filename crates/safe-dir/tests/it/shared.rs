//! One directory for several processes: claims, adoption and heartbeats, on real files and on the disk in memory.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::time::{Duration, SystemTime};

use safe_dir::sim::{Crash, Disk, Fault, Faults, Faulty, Reach};
use safe_dir::{
    Adopted, Directory, HEARTBEAT_TIMEOUT, LOCK_FILE, Machine, Owner, SafeDir, ShareError, SharedDir, publish,
};

use crate::scratch;

/// One shared directory of each kind, for a test that opens it as each process does.
macro_rules! on_both {
    ($test:expr) => {{
        let (scratch, disk) = (scratch(), Disk::new());
        $test(|| SafeDir::open(scratch.path()).expect("ours"));
        $test(|| disk.root());
    }};
}

pub(crate) fn machine(host: u32) -> Machine {
    Machine { boot_id: format!("boot-{host}"), host: format!("host-{host}") }
}

pub(crate) fn claim<D: Directory>(root: D, incarnation: u64) -> SharedDir<D> {
    SharedDir::claim(root, machine(0), incarnation).expect("the disk works")
}

pub(crate) fn write<D: Directory>(dir: &D, name: &str) {
    publish(dir, name, |file| file.write_all(b"x")).expect("room");
}

/// The files in `dir`, without its lock file.
pub(crate) fn files<D: Directory>(dir: &D) -> BTreeSet<String> {
    let names = dir.list().expect("readable").into_iter().filter_map(|entry| entry.name.into_string().ok());
    names.filter(|name| name != LOCK_FILE).collect()
}

/// Moves the files of an ended process into the own directory, durably, and removes its directory.
pub(crate) fn empty<D: Directory>(shared: &SharedDir<D>, adopted: Adopted<D>) -> Vec<String> {
    let dir = &adopted.locked.dir;
    let moved: Vec<_> = files(dir).into_iter().collect();
    for name in &moved {
        if name.starts_with(".tmp-") {
            dir.remove(name).expect("there");
        } else {
            dir.rename(name, shared.own(), name).expect("free");
        }
    }
    shared.own().sync().expect("works");
    dir.sync().expect("works");
    adopted.remove(shared.root()).expect("emptied");
    moved
}

pub(crate) fn others<D: Directory>(shared: &SharedDir<D>) -> Vec<String> {
    let mut others = shared.others().expect("readable");
    others.sort();
    others
}

#[test]
fn each_process_has_a_directory_of_its_own_and_the_next_number_if_its_name_exists() {
    fn check<D: Directory>(open: impl Fn() -> D) {
        let (one, two, three) = (claim(open(), 0xab), claim(open(), 0xab), claim(open(), u64::MAX));
        assert_eq!(one.name(), "00000000000000ab");
        assert_eq!((two.name(), three.name()), ("00000000000000ac", "ffffffffffffffff"));
        assert_eq!(claim(open(), u64::MAX).name(), "0000000000000000", "the numbers go around");
        assert_eq!(others(&one), ["0000000000000000", "00000000000000ac", "ffffffffffffffff"]);
        assert!(!one.is_gone() && !one.is_on_network());
        write(one.own(), "a");
        assert!(one.root().subdirectory("00000000000000ab").expect("there").metadata("a").is_ok());
    }
    on_both!(check);
}

#[test]
fn the_directory_of_an_ended_process_is_adopted_by_any_other_and_by_one_only() {
    fn check<D: Directory>(open: impl Fn() -> D) {
        let (mut one, mut two, mut three) = (claim(open(), 1), claim(open(), 2), claim(open(), 3));
        write(one.own(), "a");
        let name = one.name().to_owned();
        assert!(two.adopt(&name).expect("works").is_none(), "its process is alive");
        assert!(one.adopt(&name).expect("works").is_none(), "the own one");
        one.beat(12).expect("room");
        drop(one);
        let adopted = two.adopt(&name).expect("works").expect("its process has ended");
        assert_eq!(adopted.name, "0000000000000002+1");
        let owner = Owner { machine: machine(0), incarnation: name.clone(), bytes: 12 };
        assert_eq!(adopted.owner, Some(owner));
        assert!(three.adopt(&name).expect("works").is_none(), "the name is gone");
        assert!(three.adopt(&adopted.name).expect("works").is_none(), "its adopter is alive");
        assert_eq!(others(&three), ["0000000000000002", "0000000000000002+1"]);
        assert!(three.look(&adopted.name).expect("works").is_some_and(|other| other.is_alive));

        // The adopter dies too: the next one adopts both of its directories.
        drop((two, adopted));
        let names = others(&three);
        let adopted: Vec<_> =
            names.iter().map(|name| three.adopt(name).expect("works").expect("all have ended")).collect();
        let moved: BTreeSet<_> = adopted.into_iter().flat_map(|adopted| empty(&three, adopted)).collect();
        assert_eq!(moved, BTreeSet::from(["a".to_owned()]));
        assert!(others(&three).is_empty() && files(three.root()) == BTreeSet::from([three.name().to_owned()]));
    }
    on_both!(check);
}

#[test]
fn a_process_that_leaves_removes_its_empty_directory_and_no_other() {
    fn check<D: Directory>(open: impl Fn() -> D) {
        let (one, two, mut three) = (claim(open(), 1), claim(open(), 2), claim(open(), 3));
        write(one.own(), "a");
        one.leave().expect_err("a file is left");
        two.leave().expect("empty");
        assert_eq!(others(&three), ["0000000000000001"]);
        let adopted = three.adopt("0000000000000001").expect("works").expect("it has ended");
        assert_eq!(empty(&three, adopted), ["a"]);
    }
    on_both!(check);
}

#[test]
fn an_adopted_directory_with_a_file_left_in_it_is_not_removed() {
    let scratch = scratch();
    let open = || SafeDir::open(scratch.path()).expect("ours");
    let (one, mut two) = (claim(open(), 1), claim(open(), 2));
    write(one.own(), "a");
    drop(one);
    let adopted = two.adopt("0000000000000001").expect("works").expect("it has ended");
    let error = adopted.remove(two.root()).expect_err("not empty");
    assert!(error.to_string().contains("0000000000000001"), "{error}");
    assert_eq!(fs::read(scratch.path().join("0000000000000002+1/a")).expect("there"), b"x");
    assert_eq!(others(&two), ["0000000000000002+1"]);
    let adopted = two.adopt("0000000000000002+1").expect("works").expect("no process holds it");
    assert_eq!(empty(&two, adopted), ["a"]);
}

#[test]
fn a_thousand_processes_have_a_directory_each() {
    let disk = Disk::new();
    let all: Vec<_> = (0..1_100).map(|number| claim(disk.root(), number / 2)).collect();
    let names: BTreeSet<_> = all.iter().map(|shared| shared.name().to_owned()).collect();
    assert_eq!(names.len(), 1_100);
    assert_eq!(all[0].others().expect("readable").len(), 1_099);
}

#[test]
fn names_that_are_no_directory_of_ours_are_passed_over() {
    let scratch = scratch();
    let at = |name: &str| scratch.path().join(name);
    std::os::unix::fs::symlink("/nowhere", at("0000000000000001")).expect("linked");
    fs::write(at("0000000000000002"), "a file").expect("written");
    for name in ["journal", "00000000000000AB", "0000000000000003+", "quarantine"] {
        fs::create_dir(at(name)).expect("made");
    }
    let mut shared = claim(SafeDir::open(scratch.path()).expect("ours"), 1);
    assert_eq!(shared.name(), "0000000000000003");
    assert!(others(&shared).is_empty());
    for name in ["0000000000000001", "0000000000000002", "journal", "../x", ""] {
        assert!(shared.adopt(name).expect("passed over").is_none(), "{name}");
        assert!(shared.look(name).expect("passed over").is_none(), "{name}");
    }
    if rustix::process::geteuid().is_root() {
        fs::create_dir(at("0000000000000009")).expect("made");
        std::os::unix::fs::chown(at("0000000000000009"), Some(12_345), None).expect("we are root");
        assert!(shared.adopt("0000000000000009").expect("passed over").is_none(), "theirs");
    }
    // A broken lock file in a directory of ours is reported: only its owner can repair it.
    fs::create_dir_all(at("000000000000000a/.lock")).expect("made");
    assert!(matches!(shared.adopt("000000000000000a"), Err(ShareError::Lock(_))));
}

#[test]
fn a_directory_that_was_not_locked_yet_belongs_to_the_process_that_locks_it_first() {
    fn check<D: Directory>(open: impl Fn() -> D) {
        let root = open();
        let half_made = root.subdirectory("0000000000000001").expect("made");
        let mut other = claim(open(), 2);
        assert!(!other.look("0000000000000001").expect("works").expect("there").is_alive);
        assert!(half_made.metadata(LOCK_FILE).is_err(), "a look makes no lock file");
        let lock = half_made.lock().expect("free");
        assert!(other.adopt("0000000000000001").expect("works").is_none(), "its process was faster");
        drop(lock);
        let adopted = other.adopt("0000000000000001").expect("works").expect("it has ended");
        assert_eq!(adopted.owner, None);
        empty(&other, adopted);
        assert!(half_made.lock().is_err(), "the directory is gone");
    }
    on_both!(check);
}

#[test]
fn an_owner_notices_that_its_directory_is_gone_or_taken() {
    fn check<D: Directory>(open: impl Fn() -> D) {
        let (shared, root) = (claim(open(), 1), open());
        root.rename_subdirectory("0000000000000001", "elsewhere").expect("free");
        assert!(shared.is_gone() && !shared.own().is_gone());
        root.subdirectory("0000000000000001").expect("another one of its name");
        assert!(shared.is_gone());
        root.remove_subdirectory("0000000000000001").expect("empty");
        root.rename_subdirectory("elsewhere", "0000000000000001").expect("free");
        assert!(!shared.is_gone(), "back");
    }
    on_both!(check);

    let disk = Disk::new();
    let root = disk.root().subdirectory("service").expect("made");
    let (one, two) = (claim(root, 1), claim(disk.root().subdirectory("service").expect("there"), 2));
    disk.remove_tree("service/0000000000000001");
    assert!(one.is_gone() && !two.is_gone());
    disk.remove_tree("service");
    assert!(two.is_gone());
}

#[test]
fn a_heartbeat_tells_the_bytes_and_locks_a_removed_lock_file_again() {
    fn check<D: Directory>(open: impl Fn() -> D) {
        let (mut one, mut two) = (claim(open(), 1), claim(open(), 2));
        let bytes = |two: &SharedDir<D>| {
            let other = two.look("0000000000000001").expect("works").expect("there");
            (other.is_alive, other.owner.map(|owner| owner.bytes))
        };
        assert_eq!(bytes(&two), (true, Some(0)));
        for sum in [7, u64::MAX, 8] {
            one.beat(sum).expect("room");
            assert_eq!(bytes(&two), (true, Some(sum)));
        }
        one.own().remove(LOCK_FILE).expect("there");
        one.beat(9).expect("room");
        assert_eq!(bytes(&two), (true, Some(9)), "locked again");
        one.own().remove(LOCK_FILE).expect("there");
        let thief = one.own().lock().expect("the old lock guards a file without a name");
        one.beat(10).expect_err("another process has locked the directory");
        drop(thief);
        assert!(two.adopt("0000000000000001").expect("works").is_some(), "the loss of the file is a loss of the lock");
        assert!(one.is_gone());
    }
    on_both!(check);
}

#[test]
fn a_full_disk_takes_the_claim_and_the_heartbeat() {
    let disk = Disk::new();
    disk.set_capacity(Some(20));
    disk.set_reach(Reach::Network);
    let (mut one, two) = (claim(disk.root(), 1), claim(disk.root(), 2));
    assert_eq!(two.look("0000000000000001").expect("works").expect("there").owner, None, "no room for it");
    disk.set_now(SystemTime::UNIX_EPOCH + Duration::from_secs(100));
    one.beat(1).expect_err("no room");
    let modified = one.own().metadata(LOCK_FILE).expect("there").modified;
    assert_eq!(modified, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(100)), "the heartbeat needs none");
    disk.set_capacity(None);
    one.beat(1).expect("room");
    let other = two.look("0000000000000001").expect("works").expect("there");
    assert_eq!(other.owner.map(|owner| owner.bytes), Some(1));
}

/// Each call to the disk fails in turn, once or for good, while a process starts and adopts: no directory has two
/// owners, no file is lost, and the next process adopts all that is left.
#[test]
fn a_fault_at_every_call_loses_nothing_and_gives_no_directory_twice() {
    for (reach, persistent) in [(Reach::Local, false), (Reach::Local, true), (Reach::NetworkWithLocalLocks, false)] {
        let mut nth = 1;
        loop {
            let (disk, faults) = (Disk::new(), Faults::none());
            disk.set_reach(reach);
            let ended = claim(disk.root(), 1);
            write(ended.own(), "a");
            drop(ended);
            let mut alive = claim(disk.root(), 2);
            faults.plan(nth, Fault::Errno(5), persistent);
            let root = Faulty::new(disk.root(), faults.clone());
            if let Ok(mut shared) = SharedDir::claim(root, machine(0), 3) {
                assert!(alive.adopt(shared.name()).expect("works").is_none(), "call {nth}: it is held");
                if let Ok(Some(adopted)) = shared.adopt("0000000000000001") {
                    assert!(alive.adopt(&adopted.name).expect("works").is_none(), "call {nth}: it is held");
                    let moved = adopted.locked.dir.rename("a", shared.own(), "a").is_ok();
                    let removed = adopted.remove(shared.root());
                    assert!(moved || removed.is_err(), "call {nth}: a directory with a file was removed");
                }
                let _ = shared.beat(1);
                assert!(!shared.is_gone(), "call {nth}: no process adopts a directory that is held");
                let _ = shared.leave();
            }
            // Only now a directory whose lock file could not be written is old enough on a network file system.
            disk.set_now(SystemTime::UNIX_EPOCH + HEARTBEAT_TIMEOUT * 2);
            for _ in 0..2 {
                for name in others(&alive) {
                    let adopted = alive.adopt(&name).expect("works").expect("its process has ended");
                    empty(&alive, adopted);
                }
            }
            assert_eq!(files(alive.own()), BTreeSet::from(["a".to_owned()]), "call {nth}");
            assert!(others(&alive).is_empty(), "call {nth}");
            if faults.fired() == 0 {
                break;
            }
            nth += 1;
        }
        assert!(nth > 25, "claim, adoption, heartbeat and removal were all tried: {nth}");
    }
}

/// The power goes after each step of an adoption: the file is in one directory, and the next process finds it.
#[test]
fn a_power_cut_during_an_adoption_loses_no_file() {
    for (steps, seed) in (0..5).flat_map(|steps| (0..100).map(move |seed| (steps, seed))) {
        let disk = Disk::new();
        let (one, mut two) = (claim(disk.root(), 1), claim(disk.root(), 2));
        write(one.own(), "a");
        drop(one);
        let adopted = two.adopt("0000000000000001").expect("works").expect("it has ended");
        let dir = &adopted.locked.dir;
        if steps > 0 {
            dir.rename("a", two.own(), "a").expect("free");
        }
        if steps > 1 {
            two.own().sync().expect("works");
        }
        if steps > 2 {
            dir.sync().expect("works");
        }
        if steps > 3 {
            adopted.remove(two.root()).expect("empty");
        }
        disk.crash(Crash::Random(seed));
        let mut next = claim(disk.root(), 3);
        let names = others(&next);
        assert!(names.contains(&"0000000000000002".to_owned()), "a claim is durable");
        assert!(!names.contains(&"0000000000000001".to_owned()), "an adoption is durable");
        assert_eq!(names.len(), if steps > 3 { 1 } else { 2 }, "after {steps} steps, seed {seed}: {names:?}");
        for name in names {
            let adopted = next.adopt(&name).expect("works").expect("the power was cut");
            empty(&next, adopted);
        }
        assert_eq!(files(next.own()), BTreeSet::from(["a".to_owned()]), "after {steps} steps, seed {seed}");
    }
}
