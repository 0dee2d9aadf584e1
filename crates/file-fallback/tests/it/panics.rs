//! Readers that panic, and files that processes die of.

use std::fs;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;

use file_fallback::dead_letters::{DeadLetters, Letter};
use file_fallback::{Attempts, Damage, FileFallback, Next, Notice, Verdict};
use safe_dir::{Directory, Entry, FileError, LockError, Metadata, OpenError, SafeDir, Space};

use crate::{at, config, drain, ended, id_of, lines, next_group, once, open, scratch, take_over};

/// A directory whose files that contain `BAD` panic when they are read.
struct Panicking(SafeDir);

struct PanickingFile(fs::File);

const BAD: &[u8] = b"\"id\":1,";

impl Directory for Panicking {
    type File = PanickingFile;
    type Lock = <SafeDir as Directory>::Lock;

    fn path(&self) -> &Path {
        self.0.path()
    }
    fn list(&self) -> Result<Vec<Entry>, FileError> {
        self.0.list()
    }
    fn metadata(&self, name: &str) -> Result<Metadata, FileError> {
        self.0.metadata(name)
    }
    fn open_read(&self, name: &str) -> Result<Self::File, FileError> {
        self.0.open_read(name).map(PanickingFile)
    }
    fn open_append(&self, name: &str) -> Result<Self::File, FileError> {
        self.0.open_append(name).map(PanickingFile)
    }
    fn create(&self, name: &str) -> Result<Self::File, FileError> {
        self.0.create(name).map(PanickingFile)
    }
    fn rename(&self, from: &str, target: &Self, to: &str) -> Result<(), FileError> {
        self.0.rename(from, &target.0, to)
    }
    fn replace(&self, from: &str, to: &str) -> Result<(), FileError> {
        self.0.replace(from, to)
    }
    fn remove(&self, name: &str) -> Result<(), FileError> {
        self.0.remove(name)
    }
    fn sync(&self) -> Result<(), FileError> {
        self.0.sync()
    }
    fn space(&self) -> Result<Space, FileError> {
        self.0.space()
    }
    fn is_gone(&self) -> bool {
        self.0.is_gone()
    }
    fn is_on_network(&self) -> bool {
        self.0.is_on_network()
    }
    fn create_subdirectory(&self, name: &str) -> Result<Self, OpenError> {
        self.0.create_subdirectory(name).map(Self)
    }
    fn existing_subdirectory(&self, name: &str) -> Result<Option<Self>, OpenError> {
        Ok(self.0.existing_subdirectory(name)?.map(Self))
    }
    fn holds_subdirectory(&self, name: &str, dir: &Self) -> Result<bool, FileError> {
        self.0.holds_subdirectory(name, &dir.0)
    }
    fn rename_subdirectory(&self, from: &str, to: &str) -> Result<(), FileError> {
        self.0.rename_subdirectory(from, to)
    }
    fn subdirectory(&self, name: &str) -> Result<Self, OpenError> {
        self.0.subdirectory(name).map(Self)
    }
    fn remove_subdirectory(&self, name: &str) -> Result<(), FileError> {
        self.0.remove_subdirectory(name)
    }
    fn lock(&self) -> Result<Self::Lock, LockError> {
        self.0.lock()
    }
}

impl Read for PanickingFile {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let len = self.0.read(out)?;
        assert!(!out[..len].windows(BAD.len()).any(|bytes| bytes == BAD), "no codec for this");
        Ok(len)
    }
}

impl Write for PanickingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Seek for PanickingFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.0.seek(to)
    }
}

impl safe_dir::File for PanickingFile {
    fn sync(&mut self) -> io::Result<()> {
        safe_dir::File::sync(&mut self.0)
    }
    fn len(&self) -> io::Result<u64> {
        safe_dir::File::len(&self.0)
    }
    fn truncate(&mut self, len: u64) -> io::Result<()> {
        safe_dir::File::truncate(&mut self.0, len)
    }
    fn is_gone(&self) -> io::Result<bool> {
        safe_dir::File::is_gone(&self.0)
    }
}

#[test]
fn a_reader_that_panics_counts_as_the_failure_of_its_file() {
    let scratch = scratch();
    let dir = Panicking(SafeDir::open(scratch.path()).expect("ours"));
    let mut store = FileFallback::open_in(config(scratch.path()).build().expect("valid"), dir).expect("free");
    let names = [0, 1, 2].map(|id| store.spill(&lines([id], 50), at(0)).expect("room").name);
    let group = next_group(&mut store, 1).expect("the first file");
    for _ in 0..2 {
        let error = store.next_group(1).expect_err("it panics");
        let chain =
            format!("{error}: {}", std::error::Error::source(&error).map(|e| format!("{e:?}")).unwrap_or_default());
        assert!(chain.contains("no codec for this") && chain.contains(&names[1]), "{chain}");
    }
    let Next::Group(last) = store.next_group(1).expect("the file behind it") else { panic!("no group") };
    assert_eq!(id_of(&last.records[0]), Some(2));
    for group in [group, last] {
        store.acknowledge(group, crate::units).expect("durable");
    }
    let notices = store.take_notices();
    assert!(
        matches!(&notices[..], [Notice::SetAside { name, damage: Damage::ReaderPanicked, moved_to: Some(_), .. }] if *name == names[1]),
        "{notices:?}"
    );
    assert_eq!(store.stored().files, 0);
}

#[test]
fn a_letter_whose_reader_panics_is_an_error() {
    let scratch = scratch();
    let dir = Panicking(SafeDir::open(scratch.path()).expect("ours"));
    let mut letters =
        DeadLetters::open_in(DeadLetters::config(scratch.path()).build().expect("valid"), dir).expect("free");
    let text = String::new;
    let (signal, status, reason, endpoint) = (text(), text(), text(), text());
    let letter = Letter { signal, status, reason, endpoint, attempts: 1, accepted: at(0), refused: at(0) };
    let [bad, good] = [1, 2].map(|id| letters.add(&letter, &lines([id], 50), at(0)).expect("room").name);
    letters.read(&bad).expect_err("it panics");
    assert_eq!(letters.read(&good).expect("readable").1.len(), 1);
    assert_eq!(letters.list().len(), 2);
}

#[test]
fn a_record_whose_decoder_panics_costs_no_other() {
    let scratch = scratch();
    let mut store = open(config(scratch.path()));
    drop(store.spill(&lines(0..3, 50), at(0)).expect("room"));
    let mut group = next_group(&mut store, 10_000).expect("three records");
    let decoded = store.decode(&mut group, |source, text| {
        assert_ne!(id_of(&text), Some(1), "no codec for this");
        (source.number, id_of(&text))
    });
    assert_eq!(decoded, [Some((0, Some(0))), None, Some((2, Some(2)))]);
    let verdicts = decoded.iter().map(|decoded| match decoded {
        Some((_, id)) => Verdict::Done(crate::count(id.expect("ours")) as u64),
        None => Verdict::Rejected,
    });
    store.settle(group, &verdicts.collect::<Vec<_>>()).expect("durable");
    let notices = store.take_notices();
    assert!(matches!(&notices[..], [Notice::SetAside { damage: Damage::Rejected, count: 2, .. }]), "{notices:?}");
}

/// Runs a process that dies by `how` on the store in `dir`.
fn dies(dir: &Path, how: &str) {
    let output = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", "panics::a_process_that_dies", "--nocapture"])
        .env("FILE_FALLBACK_DIES", how)
        .env("FILE_FALLBACK_TEST", dir)
        .output()
        .expect("started");
    assert_eq!(output.status.code(), Some(7), "{how}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_process_that_dies() {
    let Ok(how) = std::env::var("FILE_FALLBACK_DIES") else { return };
    let dir = PathBuf::from(std::env::var_os("FILE_FALLBACK_TEST").expect("set"));
    let mut store = open(config(&dir));
    let mut group = next_group(&mut store, 1).expect("a file");
    if how == "in the reader" {
        let dying = |_: file_fallback::Source<'_>, _| std::process::exit(7);
        let _: Vec<Option<()>> = store.decode(&mut group, dying);
    }
    let _: Vec<Option<()>> = store.decode(&mut group, |_, _| {});
    if how == "after progress" {
        let verdict = Verdict::Failed(Attempts { failed: 0, note: [1; 6] });
        store.settle(group, &[verdict]).expect("durable");
        let mut group = next_group(&mut store, 1).expect("a file");
        let _: Vec<Option<()>> = store.decode(&mut group, |_, _| std::process::exit(7));
    }
    // The other end of a process: it is killed while it waits for the peer.
    std::process::exit(7);
}

#[test]
fn a_file_that_three_processes_in_a_row_die_of_is_set_aside() {
    let scratch = scratch();
    let dir = scratch.path().join("dir");
    let mut store = open(config(&dir));
    let bad = store.spill(&lines([0], 50), at(0)).expect("room").name;
    drop(store.spill(&lines([1], 50), at(1)).expect("room"));
    drop(store);
    for _ in 0..3 {
        dies(&dir, "in the reader");
    }
    let mut store = open(config(&dir));
    let notices = store.take_notices();
    assert!(
        matches!(&notices[..], [Notice::SetAside { name, damage: Damage::EndsProcess, count: 1, moved_to: Some(_), .. }] if *name == bad),
        "{notices:?}"
    );
    assert_eq!(drain(&mut store, 1_000), (once([1]), 0));
    drop(store);
    assert!(!dir.join(".reading").exists(), "a process that ends by itself leaves no note");
}

#[test]
fn the_deaths_of_processes_with_directories_of_their_own_count_together() {
    let scratch = scratch();
    let dirs = [0, 1, 2, 3].map(|number| scratch.path().join(number.to_string()));
    drop(open(config(&dirs[0])).spill(&lines([0], 50), at(0)).expect("room"));
    drop(open(config(&dirs[0])).spill(&lines([1], 50), at(1)).expect("room"));
    let mut notices = Vec::new();
    for pair in dirs.windows(2) {
        dies(&pair[0], "in the reader");
        let mut store = open(config(&pair[1]));
        take_over(&mut store, &ended(&pair[0]).dir);
        notices = store.take_notices();
    }
    // A ledger that follows the notices has the file before it loses it.
    let expected = matches!(
        &notices[..],
        [Notice::Adopted { files: 2, count: 3, .. }, Notice::SetAside { damage: Damage::EndsProcess, count: 1, .. }]
    );
    assert!(expected, "{notices:?}");
    let mut store = open(config(&dirs[3]));
    assert_eq!(store.set_aside().expect("readable").files, 1);
    assert_eq!(drain(&mut store, 1_000), (once([1]), 0));
}

#[test]
fn a_process_that_is_killed_at_another_moment_is_no_sign_against_a_file() {
    let scratch = scratch();
    drop(open(config(scratch.path())).spill(&lines([0], 50), at(0)).expect("room"));
    let script =
        ["while waiting", "in the reader", "in the reader", "while waiting", "after progress", "in the reader"];
    for how in script.into_iter().chain(["while waiting"; 4]) {
        dies(scratch.path(), how);
    }
    let mut store = open(config(scratch.path()));
    assert_eq!(store.take_notices(), []);
    assert_eq!(drain(&mut store, 1_000), (once([0]), 0));
}

#[test]
fn a_panic_of_the_units_of_an_acknowledgement_leaves_the_store_usable() {
    let scratch = scratch();
    let mut store = open(config(scratch.path()));
    drop(store.spill(&lines([0], 50), at(0)).expect("room"));
    let group = next_group(&mut store, 1).expect("a file");
    catch_unwind(AssertUnwindSafe(|| store.acknowledge(group, |_| panic!("no number")))).expect_err("it panics");
    drop(store);
    assert_eq!(drain(&mut open(config(scratch.path())), 1_000), (once([0]), 0));
}
