//! One directory for several processes, on real files and on the disk in memory.

use std::fs;
use std::io::Write as _;

use safe_dir::sim::{Crash, Disk, Fault, Faults, Faulty};
use safe_dir::{Claim, ClaimError, Directory, LockError, OpenError, ProcessDirs, SafeDir, publish};

use crate::scratch;

const DIRS: ProcessDirs = ProcessDirs { prefix: "process-", max_further: 3 };

/// One shared directory of each kind, for a test that opens it as each process does.
macro_rules! on_both {
    ($test:expr) => {{
        let (scratch, disk) = (scratch(), Disk::new());
        $test(|| SafeDir::open(scratch.path()).expect("ours"));
        $test(|| disk.root());
    }};
}

fn claim<D: Directory>(open: &impl Fn() -> D) -> Claim<D> {
    DIRS.claim(open()).expect("a directory is free")
}

fn name<D: Directory>(claim: &Claim<D>) -> &str {
    claim.locked.dir.path().file_name().and_then(|name| name.to_str()).expect("a plain name")
}

/// The files in `dir`, without its lock file.
fn files<D: Directory>(dir: &D) -> Vec<String> {
    let names = dir.list().expect("readable").into_iter().filter_map(|entry| entry.name.into_string().ok());
    names.filter(|name| name != safe_dir::LOCK_FILE).collect()
}

fn write<D: Directory>(dir: &D, name: &str) {
    publish(dir, name, |file| file.write_all(b"x")).expect("room");
}

/// Takes over the subdirectories of ended processes: their names, each with its files.
fn take_over<D: Directory>(root: &D) -> Vec<(String, Vec<String>)> {
    let mut names = DIRS.list(root).expect("readable");
    names.sort();
    let mut taken = Vec::new();
    for name in names {
        let Some(abandoned) = DIRS.open_abandoned(root, &name).expect("usable") else { continue };
        assert!(DIRS.open_abandoned(root, &name).expect("usable").is_none(), "this process holds it now");
        let files = files(&abandoned.locked.dir);
        for file in &files {
            abandoned.locked.dir.rename(file, root, &format!("{name}-{file}")).expect("free");
        }
        abandoned.remove(root).expect("emptied");
        taken.push((name, files));
    }
    taken
}

#[test]
fn the_first_process_has_the_directory_and_each_further_one_a_subdirectory() {
    fn check<D: Directory>(open: impl Fn() -> D) {
        let claims: Vec<_> = (0..4).map(|_| claim(&open)).collect();
        assert!(claims[0].is_first && claims[1..].iter().all(|claim| !claim.is_first));
        assert_eq!(claims[1..].iter().map(name).collect::<Vec<_>>(), ["process-1", "process-2", "process-3"]);
        let Err(error) = DIRS.claim(open()) else { panic!("all four are held") };
        assert!(matches!(error, ClaimError::Lock(LockError::Held { .. })), "{error:?}");
    }
    on_both!(check);
}

#[test]
fn a_free_number_is_claimed_again_with_the_files_in_it() {
    fn check<D: Directory>(open: impl Fn() -> D) {
        let (_first, second, _third) = (claim(&open), claim(&open), claim(&open));
        write(&second.locked.dir, "a");
        drop(second);
        let again = claim(&open);
        assert_eq!((again.is_first, name(&again)), (false, "process-1"));
        assert_eq!(files(&again.locked.dir), ["a"]);
    }
    on_both!(check);
}

#[test]
fn only_the_subdirectories_of_ended_processes_are_taken_over_and_then_removed() {
    fn check<D: Directory>(open: impl Fn() -> D) {
        let (first, one, two, _three) = (claim(&open), claim(&open), claim(&open), claim(&open));
        let root = &first.locked.dir;
        assert_eq!(take_over(root), [], "all are alive");
        write(&one.locked.dir, "a");
        write(&two.locked.dir, "b");
        drop((one, two));
        let taken = take_over(root);
        assert_eq!(taken, [("process-1".into(), vec!["a".into()]), ("process-2".into(), vec!["b".into()])]);
        assert_eq!(take_over(root), [], "the third is alive");
        assert_eq!(name(&claim(&open)), "process-1", "the number is free again");
    }
    on_both!(check);
}

#[test]
fn a_subdirectory_with_a_file_left_in_it_is_not_removed() {
    let scratch = scratch();
    let first = DIRS.claim(SafeDir::open(scratch.path()).expect("ours")).expect("free");
    let root = &first.locked.dir;
    let further = DIRS.claim(SafeDir::open(scratch.path()).expect("ours")).expect("free");
    write(&further.locked.dir, "a");
    drop(further);
    let abandoned = DIRS.open_abandoned(root, "process-1").expect("usable").expect("its process has ended");
    abandoned.remove(root).expect_err("not empty");
    assert_eq!(fs::read(scratch.path().join("process-1/a")).expect("there"), b"x");
    let abandoned = DIRS.open_abandoned(root, "process-1").expect("usable").expect("no process holds it");
    abandoned.locked.dir.remove("a").expect("there");
    abandoned.remove(root).expect("empty");
    assert!(!scratch.path().join("process-1").exists());
}

#[test]
fn names_that_are_no_usable_directory_are_passed_over_and_reported_on_request() {
    let scratch = scratch();
    std::os::unix::fs::symlink("/nowhere", scratch.path().join("process-1")).expect("linked");
    fs::create_dir_all(scratch.path().join("process-2/.lock")).expect("made");
    let open = || SafeDir::open(scratch.path()).expect("ours");
    let first = DIRS.claim(open()).expect("free");
    let further = DIRS.claim(open()).expect("the third is usable");
    assert_eq!(further.locked.dir.path(), scratch.path().join("process-3"));

    let root = &first.locked.dir;
    let mut names = DIRS.list(root).expect("readable");
    names.sort();
    assert_eq!(names, ["process-2", "process-3"], "a link is no directory");
    let error = DIRS.open_abandoned(root, "process-1").expect_err("a link");
    assert!(matches!(error, ClaimError::Directory(OpenError::Symlink { .. })), "{error:?}");
    let error = DIRS.open_abandoned(root, "process-2").expect_err("its lock file is a directory");
    assert!(matches!(error, ClaimError::Lock(LockError::File(_))), "{error:?}");
    assert!(DIRS.open_abandoned(root, "process-3").expect("usable").is_none(), "its process is alive");

    // A held directory is the error that is returned: the others will not become usable by waiting.
    let Err(error) = DIRS.claim(open()) else { panic!("none is free") };
    assert!(matches!(&error, ClaimError::Lock(LockError::Held { path }) if path == scratch.path()), "{error:?}");
}

#[test]
fn other_names_are_not_listed() {
    let scratch = scratch();
    let names = ["process-0", "process-4", "process-", "process-x", "process-1x", "Process-1", "quarantine"];
    for name in names {
        fs::create_dir(scratch.path().join(name)).expect("made");
    }
    fs::write(scratch.path().join("process-1"), "a file").expect("written");
    let root = SafeDir::open(scratch.path()).expect("ours");
    assert_eq!(DIRS.list(&root).expect("readable"), [""; 0]);
}

/// Each call to the disk fails in turn, once or for good: the process has a directory that no other one holds, or an
/// error.
#[test]
fn a_fault_at_every_call_never_gives_a_directory_twice() {
    for persistent in [false, true] {
        let mut nth = 1;
        loop {
            let (disk, faults) = (Disk::new(), Faults::none());
            let first = DIRS.claim(disk.root()).expect("free");
            faults.plan(nth, Fault::Errno(5), persistent);
            let claimed = DIRS.claim(Faulty::new(disk.root(), faults.clone()));
            let fired = faults.fired();
            match &claimed {
                Ok(claim) => {
                    assert!(!claim.is_first, "the first is held");
                    let other = DIRS.open_abandoned(&first.locked.dir, name(claim)).expect("usable");
                    assert!(other.is_none(), "call {nth}: {claim:?} is held");
                }
                Err(ClaimError::Directory(OpenError::Io { .. }) | ClaimError::Lock(LockError::File(_))) => {
                    assert!(fired > 0, "call {nth}");
                }
                Err(error) => panic!("call {nth}: {error:?}"),
            }
            if fired == 0 {
                assert!(claimed.is_ok());
                break;
            }
            nth += 1;
        }
        assert!(nth > 3, "the lock of the first, the directory and the lock of the second were tried");
    }
}

/// The power goes after each step of a take-over: the file is in one of the two directories, and after the last step
/// the subdirectory is gone.
#[test]
fn a_power_cut_during_a_take_over_loses_no_file() {
    for (steps, seed) in (0..5).flat_map(|steps| (0..100).map(move |seed| (steps, seed))) {
        let disk = Disk::new();
        let first = DIRS.claim(disk.root()).expect("free");
        let further = DIRS.claim(disk.root()).expect("free");
        write(&further.locked.dir, "a");
        drop(further);
        let root = &first.locked.dir;
        let abandoned = DIRS.open_abandoned(root, "process-1").expect("usable").expect("its process has ended");
        let dir = &abandoned.locked.dir;
        if steps > 0 {
            dir.rename("a", root, "a").expect("free");
        }
        if steps > 1 {
            root.sync().expect("works");
        }
        if steps > 2 {
            dir.sync().expect("works");
        }
        if steps > 3 {
            abandoned.remove(root).expect("empty");
        }
        disk.crash(Crash::Random(seed));
        let root = disk.root();
        let moved = files(&root).contains(&"a".to_owned());
        let subdirectory =
            DIRS.list(&root).expect("readable").pop().map(|name| root.subdirectory(&name).expect("there"));
        let stayed = subdirectory.as_ref().is_some_and(|dir| files(dir) == ["a"]);
        assert!(moved != stayed, "after {steps} steps, seed {seed}: moved {moved}, stayed {stayed}");
        assert!(moved || steps < 2, "after {steps} steps, seed {seed}");
        assert!(subdirectory.is_none() || steps < 4, "after {steps} steps, seed {seed}");
    }
}
