//! Files: names, kinds, publishing.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::symlink;
use std::sync::mpsc;
use std::time::Duration;

use proptest::prelude::*;
use safe_dir::{Directory as _, File as _, FileError, Kind, SafeDir, publish, remove_leftovers, replace};

use crate::scratch;

fn read(dir: &SafeDir, name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    dir.open_read(name).expect("there").read_to_end(&mut bytes).expect("readable");
    bytes
}

#[test]
fn a_published_file_is_whole_and_never_overwrites() {
    let scratch = scratch();
    let dir = SafeDir::open(scratch.path().join("d")).expect("made");
    publish(&dir, "a", |file| file.write_all(b"first")).expect("new");
    let error = publish(&dir, "a", |file| file.write_all(b"second")).expect_err("there is one");
    assert!(error.is_already_exists(), "{error:?}");
    assert_eq!(read(&dir, "a"), b"first");
    replace(&dir, "a", |file| file.write_all(b"third")).expect("in its place");
    assert_eq!(read(&dir, "a"), b"third");
    assert_eq!(dir.list().expect("readable").len(), 1, "no temporary file is left");
}

#[test]
fn a_failed_write_leaves_nothing() {
    let scratch = scratch();
    let dir = SafeDir::open(scratch.path().join("d")).expect("made");
    let failed = publish(&dir, "a", |file| {
        file.write_all(b"half")?;
        Err(std::io::Error::from_raw_os_error(5))
    });
    assert!(matches!(failed, Err(FileError::Io { action: "write", .. })));
    assert_eq!(dir.list().expect("readable"), []);
}

#[test]
fn leftovers_are_removed_and_nothing_else() {
    let scratch = scratch();
    let dir = SafeDir::open(scratch.path().join("d")).expect("made");
    for name in [".tmp-a", ".tmp-", "a", ".lock"] {
        fs::write(dir.path().join(name), "x").expect("written");
    }
    assert_eq!(remove_leftovers(&dir).expect("readable"), 2);
    let names: BTreeSet<_> = dir.list().expect("readable").into_iter().map(|entry| entry.name).collect();
    assert_eq!(names, BTreeSet::from(["a".into(), ".lock".into()]));
    fs::write(dir.path().join(".tmp-a"), "left").expect("written");
    publish(&dir, "b", |file| file.write_all(b"x")).expect("not in the way");
    fs::write(dir.path().join(".tmp-c"), "left by a failure that could not clean up").expect("written");
    publish(&dir, "c", |file| file.write_all(b"new")).expect("not in the way");
    assert_eq!(read(&dir, "c"), b"new");
}

#[test]
fn only_regular_files_with_one_name_are_opened_and_nothing_blocks() {
    let scratch = scratch();
    let dir = SafeDir::open(scratch.path().join("d")).expect("made");
    let outside = scratch.path().join("outside");
    fs::write(&outside, "secret").expect("written");
    symlink(&outside, dir.path().join("link")).expect("linked");
    symlink("nowhere", dir.path().join("dangling")).expect("linked");
    fs::hard_link(&outside, dir.path().join("hard")).expect("linked");
    fs::create_dir(dir.path().join("directory")).expect("made");
    assert!(std::process::Command::new("mkfifo").arg(dir.path().join("fifo")).status().expect("coreutils").success());
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).expect("bound");

    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for name in ["link", "dangling", "hard", "directory", "fifo", "socket"] {
            let read = dir.open_read(name).err();
            let append = dir.open_append(name).err();
            let create = dir.create(name).err();
            sender.send((name, read, append, create)).expect("the test waits");
        }
    });
    for _ in 0..6 {
        let (name, read, append, create) = receiver.recv_timeout(Duration::from_secs(10)).expect("nothing blocks");
        let expected = match name {
            "link" | "dangling" => Some(Kind::Symlink),
            "directory" => Some(Kind::Directory),
            "fifo" | "socket" => Some(Kind::Special),
            _ => None,
        };
        for error in [read, append] {
            match (error, expected) {
                (Some(FileError::NotAFile { kind, .. }), Some(expected)) => assert_eq!(kind, expected, "{name}"),
                (Some(FileError::SeveralLinks { links: 2, .. }), None) => {}
                (other, _) => panic!("{name}: {other:?}"),
            }
        }
        assert!(create.is_some_and(|error| error.is_already_exists()), "{name}");
    }
    assert_eq!(fs::read(&outside).expect("there"), b"secret");
    assert!(!scratch.path().join("d/nowhere").exists());
}

#[test]
fn a_file_of_another_user_is_not_opened() {
    let scratch = scratch();
    let dir = SafeDir::open(scratch.path().join("d")).expect("made");
    dir.create("theirs").expect("made");
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(dir.path().join("theirs"), Some(12_345), None).expect("we are root");
        for opened in [dir.open_read("theirs").err(), dir.open_append("theirs").err()] {
            assert!(matches!(opened, Some(FileError::ForeignOwner { owner: 12_345, user: 0, .. })), "{opened:?}");
        }
    } else {
        dir.open_read("theirs").expect("it is ours after all");
    }
}

#[test]
fn the_handle_stays_the_same_directory_when_the_path_is_swapped() {
    let scratch = scratch();
    let path = scratch.path().join("d");
    let dir = SafeDir::open(&path).expect("made");
    fs::rename(&path, scratch.path().join("moved")).expect("moved");
    fs::create_dir(&path).expect("another one in its place");
    publish(&dir, "a", |file| file.write_all(b"x")).expect("by handle");
    assert!(scratch.path().join("moved/a").exists() && !path.join("a").exists());
}

#[test]
fn rename_moves_between_directories_and_never_overwrites() {
    let scratch = scratch();
    let dir = SafeDir::open(scratch.path().join("d")).expect("made");
    let inner = dir.subdirectory("inner").expect("made");
    for (at, name) in [(&dir, "a"), (&dir, "b"), (&inner, "b")] {
        publish(at, name, |file| file.write_all(name.as_bytes())).expect("new");
    }
    dir.rename("a", &inner, "a2").expect("free");
    assert_eq!(read(&inner, "a2"), b"a");
    assert!(dir.rename("b", &inner, "b").expect_err("taken").is_already_exists());
    assert!(dir.rename("none", &inner, "c").expect_err("not there").is_not_found());
    assert!(dir.remove_subdirectory("inner").is_err(), "not empty");
    inner.remove("a2").expect("there");
    inner.remove("b").expect("there");
    dir.remove_subdirectory("inner").expect("empty");
}

#[test]
fn a_file_that_is_appended_to_goes_on_at_its_end() {
    let scratch = scratch();
    let dir = SafeDir::open(scratch.path().join("d")).expect("made");
    let mut file = dir.open_append("log").expect("new");
    file.write_all(b"one two").expect("written");
    file.truncate(4).expect("cut");
    file.write_all(b"three").expect("written");
    file.sync().expect("synced");
    assert_eq!(file.len().expect("known"), 9);
    let mut again = dir.open_append("log").expect("there");
    again.write_all(b"!").expect("written");
    assert_eq!(read(&dir, "log"), b"one three!");
}

#[test]
fn free_space_is_that_of_the_file_system() {
    let scratch = scratch();
    let dir = SafeDir::open(scratch.path().join("d")).expect("made");
    assert!(dir.free_bytes().expect("known") > 0);
}

proptest! {
    #[test]
    fn no_name_leads_outside(name in "[./a\\x00\n\u{e9}-]{0,12}|.{0,300}") {
        let scratch = scratch();
        let dir = SafeDir::open(scratch.path().join("d")).expect("made");
        let plain = !name.contains('/') && !name.chars().any(char::is_control);
        let allowed = plain && (1..=255).contains(&name.len()) && name != "." && name != "..";
        let published = publish(&dir, &name, |file| file.write_all(b"x"));
        if name.len() <= 250 {
            prop_assert_eq!(published.is_ok(), allowed, "{:?}: {:?}", &name, &published);
        }
        prop_assert_eq!(dir.list().expect("readable").len(), usize::from(published.is_ok()));
        prop_assert_eq!(fs::read_dir(scratch.path()).expect("readable").count(), 1);
        if !allowed {
            prop_assert!(dir.open_read(&name).is_err() && dir.open_append(&name).is_err());
            prop_assert!(dir.remove(&name).is_err() && dir.metadata(&name).is_err());
            prop_assert!(dir.subdirectory(&name).is_err() && dir.remove_subdirectory(&name).is_err());
            prop_assert!(dir.replace("a", &name).is_err() && dir.rename(&name, &dir, "b").is_err());
        }
    }
}
