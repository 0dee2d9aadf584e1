//! Directories and files as places: which name leads to which, which has none any more, and how much fits.

use std::fs;
use std::io::Write as _;
use std::time::{Duration, SystemTime};

use safe_dir::sim::{Disk, Fault, Faults, Faulty, Reach};
use safe_dir::{Directory, File as _, LockError, OpenError, SafeDir, Space, publish};

use crate::scratch;

/// The same test on a real directory and on the disk in memory. The second argument removes a directory below as
/// another program does.
macro_rules! on_both {
    ($test:expr) => {{
        let (scratch, disk) = (scratch(), Disk::new());
        let remove = |name: &str| fs::remove_dir_all(scratch.path().join(name)).expect("there");
        $test(SafeDir::open(scratch.path()).expect("ours"), &remove);
        $test(disk.root(), &|name: &str| assert!(disk.remove_tree(name)));
    }};
}

#[test]
fn a_subdirectory_is_opened_without_being_made() {
    fn check<D: Directory>(root: D, _: &dyn Fn(&str)) {
        assert!(root.existing_subdirectory("a").expect("readable").is_none());
        assert_eq!(root.list().expect("readable"), []);
        let made = root.subdirectory("a").expect("made");
        let opened = root.existing_subdirectory("a").expect("readable").expect("there");
        made.create("x").expect("new");
        assert!(opened.metadata("x").is_ok(), "the same one");
        assert!(root.create_subdirectory("a").is_err_and(|error| error.is_already_exists()));
        assert!(root.create_subdirectory("b").is_ok_and(|b| b.create("x").is_ok()));
        root.create("file").expect("new");
        assert!(root.create_subdirectory("file").is_err_and(|error| error.is_already_exists()));
        assert!(matches!(root.existing_subdirectory("file"), Err(OpenError::NotADirectory { .. })));
        assert!(matches!(root.existing_subdirectory("a/b"), Err(OpenError::InvalidName { .. })));
    }
    on_both!(check);
}

#[test]
fn a_renamed_directory_is_the_same_one_under_its_new_name_and_nothing_is_overwritten() {
    fn check<D: Directory>(root: D, _: &dyn Fn(&str)) {
        let (a, b) = (root.subdirectory("a").expect("made"), root.subdirectory("b").expect("made"));
        a.create("x").expect("new");
        root.create("file").expect("new");
        assert!(root.holds_subdirectory("a", &a).expect("known") && !root.holds_subdirectory("b", &a).expect("known"));
        let taken = root.rename_subdirectory("a", "b").expect_err("an empty directory is not replaced");
        assert!(taken.is_already_exists(), "{taken:?}");
        assert!(root.rename_subdirectory("a", "file").expect_err("a file").is_already_exists());
        assert!(root.rename_subdirectory("none", "c").expect_err("nothing there").is_not_found());
        root.rename_subdirectory("file", "c").expect_err("no directory");
        root.rename_subdirectory("a", "../c").expect_err("no plain name");
        root.rename_subdirectory("a", "c").expect("free");
        root.sync().expect("works");
        assert!(root.holds_subdirectory("c", &a).expect("known") && !root.holds_subdirectory("a", &a).expect("known"));
        assert!(root.holds_subdirectory("b", &b).expect("known"));
        assert!(!a.is_gone() && a.metadata("x").is_ok(), "a rename leaves the handle");
        root.holds_subdirectory("../c", &a).expect_err("no plain name");
    }
    on_both!(check);
}

#[test]
fn a_directory_and_a_file_that_another_program_removed_are_gone() {
    fn check<D: Directory>(root: D, remove: &dyn Fn(&str)) {
        let a = root.subdirectory("a").expect("made");
        let inner = a.subdirectory("inner").expect("made");
        let (mut file, moved) = (inner.create("x").expect("new"), inner.create("y").expect("new"));
        inner.rename("y", &root, "y").expect("free");
        assert!(!a.is_gone() && !inner.is_gone() && !file.is_gone().expect("known"));
        remove("a");
        assert!(a.is_gone() && inner.is_gone() && !root.is_gone());
        assert!(file.is_gone().expect("known") && !moved.is_gone().expect("known"), "a moved file has a name");
        file.write_all(b"x").expect("the open file still takes bytes");
        assert!(a.create("z").is_err_and(|error| error.is_not_found()));
        assert!(root.rename("y", &a, "y").expect_err("no directory").is_not_found());
        assert!(root.metadata("y").is_ok(), "it stays where it was");
        assert!(!root.holds_subdirectory("a", &a).expect("known"));
        let again = root.subdirectory("a").expect("made again");
        assert!(!root.holds_subdirectory("a", &a).expect("known"), "another one of the same name");
        assert!(a.is_gone() && !again.is_gone());
        assert!(matches!(a.lock(), Err(LockError::File(error)) if error.is_not_found()));
    }
    on_both!(check);
}

#[test]
fn a_lock_ends_with_its_file_on_both() {
    fn check<D: Directory>(root: D, _: &dyn Fn(&str)) {
        let first = root.lock().expect("free");
        assert!(matches!(root.lock(), Err(LockError::Held { .. })));
        root.remove(safe_dir::LOCK_FILE).expect("there");
        let second = root.lock().expect("the old lock guards a file without a name");
        drop(first);
        assert!(matches!(root.lock(), Err(LockError::Held { .. })), "the second holder is not affected");
        drop(second);
        root.lock().expect("free");
    }
    on_both!(check);
}

#[test]
fn a_link_to_a_directory_is_not_that_directory() {
    let scratch = scratch();
    let root = SafeDir::open(scratch.path()).expect("ours");
    let a = root.subdirectory("a").expect("made");
    std::os::unix::fs::symlink("a", scratch.path().join("link")).expect("linked");
    assert!(!root.holds_subdirectory("link", &a).expect("known"));
    assert!(matches!(root.existing_subdirectory("link"), Err(OpenError::Symlink { .. })));
    root.rename_subdirectory("link", "b").expect_err("a link is no directory");
}

#[test]
fn the_space_is_that_of_the_file_system() {
    let scratch = scratch();
    let space = SafeDir::open(scratch.path()).expect("ours").space().expect("known");
    assert!(space.free > 0 && space.free <= space.total, "{space:?}");

    let disk = Disk::new();
    disk.set_capacity(Some(100));
    disk.root().create("a").expect("new").write_all(&[0; 30]).expect("room");
    assert_eq!(disk.root().space().expect("known"), Space { free: 70, total: 100 });
    assert_eq!(disk.root().free_bytes().expect("known"), 70);
}

#[test]
fn a_network_file_system_is_recognized_and_its_locks_may_bind_one_machine_only() {
    let scratch = scratch();
    assert!(!SafeDir::open(scratch.path()).expect("ours").is_on_network(), "tests run on a local disk");
    for (reach, on_network, binds_all) in
        [(Reach::Local, false, true), (Reach::Network, true, true), (Reach::NetworkWithLocalLocks, true, false)]
    {
        let disk = Disk::new();
        disk.set_reach(reach);
        let (here, there) = (disk.root_on(1), disk.root_on(2));
        assert_eq!(here.is_on_network(), on_network);
        let _lock = here.lock().expect("free");
        assert!(matches!(disk.root_on(1).lock(), Err(LockError::Held { .. })), "{reach:?}");
        assert_eq!(there.lock().is_err(), binds_all, "{reach:?}");
    }
}

#[test]
fn the_time_of_a_modification_follows_the_clock_that_the_test_sets() {
    let disk = Disk::new();
    let root = disk.root();
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let modified = |name: &str| root.metadata(name).expect("there").modified;
    let mut file = root.create("a").expect("new");
    assert_eq!(modified("a"), Some(at(0)));
    disk.set_now(at(10));
    file.write_all(b"x").expect("room");
    assert_eq!(modified("a"), Some(at(10)));
    disk.set_now(at(20));
    root.rename("a", &root, "b").expect("free");
    assert_eq!(modified("b"), Some(at(10)), "a rename is no change of the content");
    file.truncate(1).expect("works");
    assert_eq!((modified("b"), file.len().expect("known")), (Some(at(20)), 1));
    let inner = root.subdirectory("inner").expect("made");
    disk.set_now(at(30));
    assert_eq!(modified("inner"), Some(at(20)));
    inner.create("x").expect("new");
    assert_eq!(modified("inner"), Some(at(30)));
}

/// On a real file system too, a cut to the same length counts as a modification: heartbeats on a full disk rely on it.
#[test]
fn a_cut_to_the_same_length_is_a_modification() {
    let scratch = scratch();
    let dir = SafeDir::open(scratch.path()).expect("ours");
    publish(&dir, "a", |file| file.write_all(b"content")).expect("room");
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
    let plain = fs::File::options().write(true).open(scratch.path().join("a")).expect("ours");
    plain.set_modified(old).expect("ours");
    let modified = || dir.metadata("a").expect("there").modified;
    assert_eq!(modified(), Some(old));
    dir.open_append("a").expect("there").truncate(7).expect("works");
    assert!(modified() > Some(old), "the time is now");
    assert_eq!(fs::read(scratch.path().join("a")).expect("there"), b"content");
}

#[test]
fn the_faults_reach_each_of_these_calls() {
    let (disk, faults) = (Disk::new(), Faults::none());
    let root = Faulty::new(disk.root(), faults.clone());
    let (a, file) = (root.subdirectory("a").expect("made"), root.create("x").expect("new"));
    disk.remove_tree("a");
    faults.plan(1, Fault::Errno(5), true);
    root.space().expect_err("planned");
    root.free_bytes().expect_err("planned");
    root.existing_subdirectory("a").expect_err("planned");
    root.create_subdirectory("b").expect_err("planned");
    root.holds_subdirectory("a", &a).expect_err("planned");
    root.rename_subdirectory("a", "b").expect_err("planned");
    file.is_gone().expect_err("planned");
    assert!(!a.is_gone(), "a file system that does not answer tells nothing");
    assert_eq!(faults.fired(), 8);
    faults.clear();
    assert!(a.is_gone() && !file.is_gone().expect("known"));
}

#[test]
fn a_test_runs_before_each_step_of_a_program() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    let (disk, steps) = (Disk::new(), Arc::new(AtomicU32::new(0)));
    let counted = Arc::clone(&steps);
    disk.before_each_step(move || {
        counted.fetch_add(1, Ordering::Relaxed);
    });
    let root = disk.root();
    root.create("a").expect("new").write_all(b"x").expect("room");
    assert_eq!(steps.swap(0, Ordering::Relaxed), 2);
    root.lock().expect("free");
    assert!(steps.swap(0, Ordering::Relaxed) >= 3, "the file is made, locked, and looked up again");
    root.subdirectory("b").expect("made");
    assert!(steps.load(Ordering::Relaxed) >= 3, "the directory is made, opened and synced");
}
