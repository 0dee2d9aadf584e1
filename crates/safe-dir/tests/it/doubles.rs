//! The promises of the test doubles.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};

use safe_dir::sim::{Crash, Disk, Fault, Faults, Faulty};
use safe_dir::{Directory, File as _, SafeDir, publish, replace};

use crate::scratch;

fn names<D: Directory>(dir: &D) -> BTreeSet<String> {
    dir.list().expect("readable").into_iter().filter_map(|entry| entry.name.into_string().ok()).collect()
}

#[test]
fn the_worst_crash_leaves_synced_data_under_synced_names() {
    let disk = Disk::new();
    let dir = disk.root();
    publish(&dir, "published", |file| file.write_all(b"whole")).expect("room");
    let mut file = dir.create("named").expect("new");
    dir.sync().expect("works");
    file.write_all(b"not synced").expect("room");
    let mut nameless = dir.create("nameless").expect("new");
    nameless.write_all(b"synced").expect("room");
    nameless.sync().expect("works");
    dir.remove("published").expect("there");

    disk.crash(Crash::Worst);
    let dir = disk.root();
    assert_eq!(names(&dir), BTreeSet::from(["named".to_owned(), "published".to_owned()]));
    assert_eq!(dir.metadata("named").expect("there").len, 0);
    assert!(file.write_all(b"x").is_err() && nameless.len().is_err(), "handles from before are dead");
}

#[test]
fn data_of_a_failed_sync_is_lost_even_if_the_next_sync_succeeds() {
    for crash in [Crash::Worst, Crash::Random(1), Crash::Random(2)] {
        let disk = Disk::new();
        let mut file = disk.root().create("a").expect("new");
        disk.root().sync().expect("works");
        file.write_all(b"one").expect("room");
        file.sync().expect("works");
        file.write_all(b"two").expect("room");
        disk.fail_syncs(1);
        assert_eq!(file.sync().expect_err("planned").raw_os_error(), Some(5));
        file.write_all(b"three").expect("room");
        file.sync().expect("says so");
        let read = || {
            let mut text = Vec::new();
            disk.root().open_read("a").expect("there").read_to_end(&mut text).expect("readable");
            text
        };
        assert_eq!(read(), b"onetwothree", "still in the memory of the system");
        disk.crash(crash);
        assert_eq!(read(), b"one\0\0\0three", "{crash:?}");
    }
}

#[test]
fn a_random_crash_leaves_every_mix_sooner_or_later() {
    let mut seen = BTreeSet::new();
    for seed in 0..200 {
        let disk = Disk::new();
        let dir = disk.root();
        let mut file = dir.create("a").expect("new");
        file.write_all(b"12").expect("room");
        file.sync().expect("works");
        dir.sync().expect("works");
        file.write_all(b"34").expect("room");
        dir.rename("a", &dir, "b").expect("free");
        disk.crash(Crash::Random(seed));
        let dir = disk.root();
        let left = names(&dir);
        assert_eq!(left.len(), 1, "a rename is never half done");
        let name = left.first().expect("one");
        let mut text = Vec::new();
        dir.open_read(name).expect("there").read_to_end(&mut text).expect("readable");
        assert!(text.starts_with(b"12"), "what was synced stays");
        seen.insert((name.clone(), text));
    }
    for text in ["12", "123", "1234", "123\0", "12\0\0"] {
        assert!(seen.iter().any(|(_, left)| left == text.as_bytes()), "{text:?} in {seen:?}");
    }
    assert!(seen.iter().any(|(name, _)| name == "a") && seen.iter().any(|(name, _)| name == "b"));
}

#[test]
fn a_full_disk_takes_the_bytes_that_fit() {
    let disk = Disk::new();
    disk.set_capacity(Some(6));
    let dir = disk.root();
    let error = publish(&dir, "a", |file| file.write_all(b"12345678")).expect_err("too much");
    assert_eq!(error.io().map(std::io::Error::kind), Some(std::io::ErrorKind::StorageFull));
    assert_eq!(names(&dir), BTreeSet::new());
    publish(&dir, "a", |file| file.write_all(b"123456")).expect("it fits");
    assert_eq!(dir.free_bytes().expect("known"), 0);
    dir.remove("a").expect("needs no space");
}

#[test]
fn locks_and_directories_behave_as_the_real_ones() {
    let disk = Disk::new();
    let (one, two) = (disk.root(), disk.root());
    let lock = one.lock().expect("free");
    two.lock().expect_err("held");
    drop(lock);
    drop(two.lock().expect("free again"));
    let inner = one.subdirectory("inner").expect("made");
    inner.create("x").expect("new");
    one.remove_subdirectory("inner").expect_err("not empty");
    inner.remove("x").expect("there");
    one.remove_subdirectory("inner").expect("empty");
    inner.create("y").expect_err("its directory is gone");
    one.create("a/b").expect_err("not one component");
}

/// Publishing in a real directory, while each call fails in turn, once or for good: the name is whole or does not
/// exist, and no other file is left, except where the removal itself fails.
#[test]
fn publishing_survives_a_fault_at_every_call() {
    for fault in [Fault::Errno(5), Fault::Errno(28), Fault::TornWrite(28), Fault::ShortWrite] {
        for persistent in [false, true] {
            let mut nth = 1;
            loop {
                let scratch = scratch();
                let faults = Faults::none();
                let dir = Faulty::new(SafeDir::open(scratch.path()).expect("ours"), faults.clone());
                faults.plan(nth, fault, persistent);
                let published = publish(&dir, "a", |file| file.write_all(b"content"));
                let (fired, calls) = (faults.fired(), faults.calls());
                faults.clear();
                let left = names(&dir);
                let text = std::fs::read(scratch.path().join("a")).ok();
                assert!(text.as_deref().is_none_or(|text| text == b"content"), "{fault:?} at {nth}: half a file");
                if published.is_ok() {
                    assert_eq!(left, BTreeSet::from(["a".to_owned()]), "{fault:?} at {nth}");
                } else if !persistent {
                    assert_eq!(left, BTreeSet::new(), "{fault:?} at {nth}");
                }
                if fired == 0 {
                    assert!(published.is_ok() && calls < nth, "{fault:?} at {nth}");
                    break;
                }
                nth += 1;
            }
            assert!(nth > 4, "create, write, sync, rename and sync of the directory were all tried");
        }
    }
}

/// Replacing, while each call fails in turn, and a power cut after it: the name is the old or the new file, whole, and
/// the new one if the call returned `Ok`.
#[test]
fn a_replaced_file_is_the_old_or_the_new_one_and_durable() {
    for fault in [Fault::Errno(5), Fault::TornWrite(28), Fault::ShortWrite] {
        let mut nth = 1;
        loop {
            let (disk, faults) = (Disk::new(), Faults::none());
            publish(&disk.root(), "a", |file| file.write_all(b"old")).expect("room");
            let dir = Faulty::new(disk.root(), faults.clone());
            faults.plan(nth, fault, false);
            let replaced = replace(&dir, "a", |file| file.write_all(b"the new one"));
            disk.crash(Crash::Worst);
            let mut text = String::new();
            disk.root().open_read("a").expect("there").read_to_string(&mut text).expect("readable");
            assert!(text == "the new one" || text == "old" && replaced.is_err(), "{fault:?} at {nth}: {text:?}");
            if faults.fired() == 0 {
                break;
            }
            nth += 1;
        }
        assert!(nth > 4, "create, write, sync, replace and sync of the directory were all tried");
    }
}
