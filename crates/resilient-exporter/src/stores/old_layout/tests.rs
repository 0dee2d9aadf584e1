use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use ::journal::{Config as JournalConfig, Journal};
use file_fallback::dead_letters::{DeadLetters, Letter};
use file_fallback::{Config, FileFallback, Next, Verdict};
use opentelemetry_sdk::Resource;
use otlp_payload::{BatchId, Encoder, Payload};
use safe_dir::Machine;
use safe_dir::sim::{Crash, Disk, Fault, Faults, Faulty, MemoryDir};

use super::*;
use crate::proofs::spans::spans;
use crate::seams::clock::{Clock as _, SystemClock};
use crate::seams::fallback::{Fallback as _, Order, ReadBack};
use crate::seams::fates::Fate;
use crate::seams::settings::{DeadLetters as LetterSettings, FallbackFormat, Files};
use crate::stores::files::{FileStore, Place};
use crate::stores::home::Home;

/// The time of the clock that the stores have, for their limits on age.
fn now() -> SystemTime {
    SystemClock.wall()
}

fn batch(service: &'static str, first: u64, count: usize) -> Payload {
    let encoder = Encoder::new(&Resource::builder_empty().with_service_name(service).build());
    encoder.encode(BatchId { incarnation: 1, seq: first }, now(), &spans(first, count))
}

/// A process of the version before writes one file for each batch.
fn old_files(dir: &Path, batches: &[Payload]) -> FileFallback {
    let mut files = FileFallback::open(Config::builder(dir).build().expect("valid")).expect("a directory");
    for batch in batches {
        let records = FallbackFormat::Json.records(batch).expect("well formed");
        drop(files.spill(&records, now()).expect("room"));
    }
    files
}

fn old_journal(dir: &Path, batches: &[Payload]) {
    let dir = SafeDir::open(dir).expect("a directory");
    let (mut journal, _) = Journal::open(dir, JournalConfig::default(), 1, |_| Ok(false)).expect("a well disk");
    for batch in batches {
        journal.append(batch.id(), batch.item_count() as u32, batch.bytes()).expect("room");
    }
    journal.sync().expect("a well disk");
}

fn old_letter(dir: &Path, batch: &Payload) {
    let mut letters = DeadLetters::open(DeadLetters::config(dir).build().expect("valid")).expect("a directory");
    let text = || "x".to_owned();
    let letter = Letter {
        signal: "traces".to_owned(),
        status: text(),
        reason: text(),
        endpoint: text(),
        attempts: 1,
        accepted: now(),
        refused: now(),
    };
    drop(letters.add(&letter, &FallbackFormat::Json.records(batch).expect("well formed"), now()).expect("room"));
}

/// A process of this version, without durable mode, for the service "shop".
fn process(state: &Path) -> (FileStore, Arc<Home<SafeDir>>) {
    let machine = Machine { boot_id: "boot".to_owned(), host: "host".to_owned() };
    let (root, old) = (state.to_owned(), OldLayout::new(OldDir::of_state_dir(state), Some("shop".to_owned())));
    let open = Box::new(move || SafeDir::open(&root));
    let (home, _) = Home::open(open, "shop".to_owned(), machine, 1, 1 << 30, old).expect("a directory");
    let home = Arc::new(home);
    let (files, letters) = (Arc::clone(&home), Arc::clone(&home));
    let place = Place { files, letters, journal: None, clock: Arc::new(SystemClock) };
    let store = FileStore::open(place, &Files::default(), &LetterSettings::default(), 0).expect("a directory");
    (store, home)
}

/// Delivers all that is stored; returns the numbers of spans of the batches.
fn deliver(store: &mut FileStore) -> Vec<usize> {
    let mut delivered = Vec::new();
    loop {
        match store.read(Order::FewestFailures, 1 << 20).expect("readable") {
            ReadBack::Group(batches) => {
                delivered.extend(batches.iter().map(|batch| batch.spans));
                let finished = |spans: usize| Fate::Finished { delivered: spans, rejected: 0, refused: Vec::new() };
                store.settle(&batches.iter().map(|batch| finished(batch.spans)).collect::<Vec<_>>()).expect("durable");
            }
            ReadBack::Pause => {}
            ReadBack::Empty => return delivered,
        }
    }
}

#[test]
fn files_letters_and_journal_of_this_service_move_and_are_delivered() {
    let state = tempfile::tempdir().expect("temp dir");
    let at = |name: &str| state.path().join(name);
    drop(old_files(&at("fallback"), &[batch("shop", 0, 3), batch("shop", 100, 4)]));
    drop(old_files(&at("fallback/process-1"), &[batch("shop", 200, 5)]));
    old_journal(&at("journal"), &[batch("shop", 300, 6), batch("shop", 400, 7)]);
    old_journal(&at("journal/process-2"), &[batch("shop", 500, 8)]);
    old_letter(&at("dead-letters"), &batch("shop", 600, 9));

    let (mut store, home) = process(state.path());
    let mut delivered = deliver(&mut store);
    // The journals become files in steps.
    for _ in 0..4 {
        store.clean_up(now());
        delivered.extend(deliver(&mut store));
    }
    delivered.sort_unstable();
    assert_eq!(delivered, [3, 4, 5, 6, 7, 8]);
    let letters = store.dead_letter_ids().expect("a well disk");
    assert_eq!(letters.len(), 1);
    assert_eq!(store.describe_dead_letter(&letters[0]).expect("whole").spans, 9);
    assert_eq!(home.finds(), Finds::default());
    for name in ["fallback", "journal", "dead-letters"] {
        assert!(!at(name).exists(), "{name} is left");
    }
}

#[test]
fn content_of_another_service_stays_and_is_named() {
    let state = tempfile::tempdir().expect("temp dir");
    let at = |name: &str| state.path().join(name);
    drop(old_files(&at("fallback"), &[batch("bank", 0, 3), batch("shop", 100, 4), batch("bank", 200, 5)]));
    old_journal(&at("journal"), &[batch("bank", 300, 6)]);
    fs::write(at("fallback/traces-20260201T000000.000Z-00000009-n2.jsonl"), "no JSON\n").expect("written");

    let (mut store, home) = process(state.path());
    assert_eq!(deliver(&mut store), [4]);
    store.clean_up(now());
    assert_eq!(deliver(&mut store), [0; 0]);
    let finds = home.finds().0;
    let find = |dir: &str, service: &str| finds.get(&(at(dir), service.to_owned())).copied().unwrap_or_default();
    assert_eq!(find("fallback", "bank"), Find { spans: 8, journal_bytes: 0 });
    assert_eq!(find("fallback", ""), Find { spans: 2, journal_bytes: 0 });
    assert!(find("journal", "bank").journal_bytes > 0, "{finds:?}");
    let left = fs::read_dir(at("fallback"))
        .expect("there")
        .filter(|entry| entry.as_ref().is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with("traces-")));
    assert_eq!(left.count(), 3);
}

#[test]
fn an_entry_that_is_no_file_of_this_user_keeps_no_other_file() {
    let state = tempfile::tempdir().expect("temp dir");
    let old = state.path().join("fallback");
    drop(old_files(&old, &[batch("shop", 0, 3), batch("shop", 100, 4)]));
    let link = "traces-20260101T000000.000Z-00000009-n2.jsonl";
    std::os::unix::fs::symlink("/dev/null", old.join(link)).expect("room");
    let (mut store, home) = process(state.path());
    assert_eq!(deliver(&mut store), [3, 4]);
    let find = home.finds().0.get(&(old.clone(), String::new())).copied();
    assert_eq!(find, Some(Find { spans: 2, journal_bytes: 0 }), "it is named");
    assert!(old.join(link).symlink_metadata().is_ok());
}

#[test]
fn a_process_of_the_version_before_keeps_its_files_until_it_ends() {
    let state = tempfile::tempdir().expect("temp dir");
    let old = old_files(&state.path().join("fallback"), &[batch("shop", 0, 3)]);
    let (mut store, home) = process(state.path());
    assert_eq!(deliver(&mut store), [0; 0], "its process is alive");
    assert!(home.has_others(), "the disk thread looks again");
    drop(old);
    drop((store, home));
    let (mut store, _) = process(state.path());
    assert_eq!(deliver(&mut store), [3]);
}

#[test]
fn records_that_were_delivered_before_are_not_delivered_again() {
    let state = tempfile::tempdir().expect("temp dir");
    let mut old = old_files(&state.path().join("fallback"), &[]);
    let records = [batch("shop", 0, 3), batch("shop", 100, 4)].map(|batch| FallbackFormat::Json.records(&batch));
    let records = records.into_iter().flat_map(|records| records.expect("well formed")).collect::<Vec<_>>();
    drop(old.spill(&records, now()).expect("room"));
    let Ok(Next::Group(group)) = old.next_group(1) else { panic!("a record") };
    old.settle(group, &[Verdict::Done(3)]).expect("durable");
    drop(old);
    let (mut store, _) = process(state.path());
    assert_eq!(deliver(&mut store), [4]);
}

type Dir = Faulty<MemoryDir>;

/// The directories of the old layout on a simulated disk.
fn old_dirs(disk: &Disk, faults: &Faults) -> Vec<OldDir<Dir>> {
    let dir = |part: Part| {
        let (opened, removed, faults) = (disk.clone(), disk.clone(), faults.clone());
        let open = Box::new(move || Faulty::new(opened.root(), faults.clone()).existing_subdirectory(part.name()));
        let remove = Box::new(move || drop(removed.root().remove_subdirectory(part.name())));
        OldDir { part, open, remove, path: PathBuf::from("/sim").join(part.name()) }
    };
    Part::ALL.into_iter().map(dir).collect()
}

/// One call to the disk fails while files move: at most the file of that call stays, and a later look moves that too.
#[test]
fn a_file_that_cannot_be_read_or_moved_keeps_no_other_one() {
    let (mut nth, mut partly) = (1, 0);
    loop {
        let (disk, faults) = (Disk::new(), Faults::none());
        let config = Config::builder("/sim").build().expect("valid");
        let old = disk.root().subdirectory("fallback").expect("room");
        let mut files = FileFallback::open_in(config, old).expect("a directory");
        for first in [0, 100, 200] {
            let records = FallbackFormat::Json.records(&batch("shop", first, 3)).expect("well formed");
            drop(files.spill(&records, now()).expect("room"));
        }
        drop(files);
        let root = Faulty::new(disk.root(), faults.clone());
        let mut layout = OldLayout::new(old_dirs(&disk, &faults), Some("shop".to_owned()));
        faults.plan(nth, Fault::Errno(5), false);
        let gathered = layout.gather(&root);
        let is_over = faults.fired() == 0;
        faults.clear();
        let count = || {
            let old = disk.root().existing_subdirectory("fallback").expect("ours");
            let names = old.map(|old| old.list().expect("readable")).unwrap_or_default();
            names.iter().filter(|entry| entry.name.to_string_lossy().starts_with("traces-")).count()
        };
        assert!([0, 1, 3].contains(&count()), "call {nth}: {} of three files are left", count());
        assert!(is_over || count() == 0 || gathered.waits && gathered.failed.is_some(), "call {nth}: {gathered:?}");
        partly += usize::from(count() == 1);
        layout.gather(&root);
        assert_eq!(count(), 0, "call {nth}");
        if is_over {
            break;
        }
        nth += 1;
    }
    assert!(partly >= 6, "the read and the move of each file fail once: {partly}");
}

/// The process that moves an old journal dies at any call to the disk: no batch that was done comes back.
#[test]
fn a_journal_of_several_segments_moves_whole_wherever_the_process_dies() {
    let mut nth = 1;
    loop {
        let (disk, faults) = (Disk::new(), Faults::none());
        let dir = disk.root().subdirectory("journal").expect("room");
        let config = JournalConfig { segment_bytes: 64 << 10, free_space_reserve: 0, ..JournalConfig::default() };
        let (mut journal, _) = Journal::open(dir, config, 1, |_| Ok(false)).expect("a well disk");
        // The oldest batch waits, and keeps the segments of the others.
        let batches = (0..40).map(|number| batch("shop", 1_000 * number, 100 + number as usize)).collect::<Vec<_>>();
        for batch in &batches {
            journal.append(batch.id(), batch.item_count() as u32, batch.bytes()).expect("room");
            journal.sync().expect("a well disk");
        }
        let done = batches[1..].iter().map(Payload::id).collect::<Vec<_>>();
        journal.done(&done).expect("known");
        journal.sync().expect("a well disk");
        assert!(journal.status().segments > 2, "{:?}", journal.status());
        drop(journal);

        faults.plan(nth, Fault::Errno(5), true);
        let service = Some("shop".to_owned());
        let root = Faulty::new(disk.root(), faults.clone());
        drop(OldLayout::new(old_dirs(&disk, &faults), service.clone()).gather(&root));
        let is_over = faults.fired() == 0;
        faults.clear();
        disk.crash(Crash::Best);

        let (opened, machine) = (disk.clone(), Machine { boot_id: "boot".to_owned(), host: "host".to_owned() });
        let open = Box::new(move || Ok(Faulty::new(opened.root(), Faults::none())));
        let old = OldLayout::new(old_dirs(&disk, &faults), service);
        let home = Arc::new(Home::open(open, "shop".to_owned(), machine, 1, 1 << 30, old).expect("a directory").0);
        let (files, letters) = (Arc::clone(&home), Arc::clone(&home));
        let place = Place { files, letters, journal: None, clock: Arc::new(SystemClock) };
        let mut store = FileStore::open(place, &Files::default(), &LetterSettings::default(), 0).expect("a directory");
        let mut delivered = Vec::new();
        while let ReadBack::Group(batches) = store.read(Order::FewestFailures, 1 << 20).expect("readable") {
            delivered.extend(batches.iter().map(|batch| batch.spans));
            let finished = |spans: usize| Fate::Finished { delivered: spans, rejected: 0, refused: Vec::new() };
            store.settle(&batches.iter().map(|batch| finished(batch.spans)).collect::<Vec<_>>()).expect("durable");
        }
        assert_eq!(delivered, [100], "call {nth}");
        if is_over {
            break;
        }
        nth += 1;
    }
    assert!(nth > 10, "{nth} calls");
}
