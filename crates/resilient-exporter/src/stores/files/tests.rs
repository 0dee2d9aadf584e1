use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, SystemTime};

use opentelemetry_sdk::Resource;
use otlp_payload::{BatchId, Encoder, span_ids};
use otlp_transport::Cause;
use safe_dir::sim::{Crash, Disk, Fault, Faults, Faulty};

use super::*;
use crate::proofs::spans::spans;
use crate::report::position::Position;
use crate::seams::fates::{Failures, Refusals, store_letters};
use crate::seams::settings::DeadLetters as LetterSettings;

const FORMATS: [FallbackFormat; 2] = [FallbackFormat::Json, FallbackFormat::Protobuf];

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_769_904_000)
}

fn open(dir: &Path, format: FallbackFormat) -> FileStore {
    open_with(dir, format, &LetterSettings::default())
}

fn open_with(dir: &Path, format: FallbackFormat, letters: &LetterSettings) -> FileStore {
    let (files, dir) = (Files { format, ..Files::default() }, dir.to_owned());
    FileStore::open_in(Box::new(move || SafeDir::open(&dir)), &files, letters).expect("a directory of this user")
}

/// The directory of the only process.
fn own(state: &Path) -> PathBuf {
    let entries = std::fs::read_dir(state).expect("readable");
    let dirs = entries.map(|entry| entry.expect("readable").path()).filter(|path| path.is_dir());
    let [dir] = &dirs.collect::<Vec<_>>()[..] else { panic!("one process") };
    dir.clone()
}

fn refusal(payload: &Payload) -> Refusal {
    let cause = Cause::Http { status: 400, message: "no such tenant".to_owned() };
    Refusal { payload: payload.clone(), endpoint: Position::PRIMARY, cause, attempts: 1, permanent: true }
}

fn batch(first: u64, count: usize) -> Payload {
    let encoder = Encoder::new(&Resource::builder_empty().with_service_name("test").build());
    encoder.encode(BatchId { incarnation: 1, seq: first }, now(), &spans(first, count))
}

/// The batches of the next group; none at the end.
fn read(store: &mut FileStore) -> Vec<StoredBatch> {
    loop {
        match store.read(Order::FewestFailures, 1 << 20).expect("readable") {
            ReadBack::Group(batches) => return batches,
            ReadBack::Pause => {}
            ReadBack::Empty => return Vec::new(),
        }
    }
}

fn delivered(batch: &StoredBatch) -> Fate {
    Fate::Finished { delivered: batch.spans, rejected: 0, refused: Vec::new() }
}

fn failures(calls: u32) -> Failures {
    let refusals = |batch| Refusals { batch, unclear: 2 * batch, sender: 3 * batch };
    Failures { calls, counted: refusals(calls), uncounted: refusals(10 * calls) }
}

#[test]
fn failures_stay_with_their_batch_over_groups_and_restarts() {
    for format in FORMATS {
        let state = tempfile::tempdir().expect("temp dir");
        let mut store = open(state.path(), format);
        store.store(&[batch(0, 3), batch(100, 4)], now()).expect("room");
        store.store(&[batch(200, 5)], now()).expect("room");
        let group = read(&mut store);
        assert_eq!(group.iter().map(|batch| batch.spans).collect::<Vec<_>>(), [3, 4, 5], "two files, one group");
        assert!(group.iter().all(|batch| batch.failures == Failures::default()));
        store.settle(&[Fate::Pending(failures(2)), Fate::Pending(failures(1)), delivered(&group[2])]).expect("durable");
        for _ in 0..2 {
            let group = read(&mut store);
            assert_eq!((group.len(), group[0].spans, group[0].failures), (1, 4, failures(1)), "{format:?}");
            drop(store);
            store = open(state.path(), format);
        }
        let second = read(&mut store);
        store.settle(&[Fate::Pending(failures(9))]).expect("durable");
        let first = read(&mut store);
        assert_eq!((second[0].spans, first[0].spans, first[0].failures), (4, 3, failures(2)));
        // A group whose fates got lost comes again, with its failures.
        assert_eq!(read(&mut store), first);
        store.settle(&[delivered(&first[0])]).expect("durable");
        let last = read(&mut store);
        assert_eq!((last.len(), last[0].spans, last[0].failures), (1, 4, failures(9)));
        store.settle(&[delivered(&last[0])]).expect("durable");
        assert_eq!((store.usage(), store.changes()), (Usage::default(), Vec::new()));
    }
}

#[test]
fn a_batch_that_always_fails_stands_before_no_other_of_thirteen_files() {
    for format in FORMATS {
        let state = tempfile::tempdir().expect("temp dir");
        let mut store = open(state.path(), format);
        store.store(&[batch(0, 1)], now()).expect("room");
        for file in 0..12 {
            let batches = (0..5).map(|part| batch(1_000 + 250 * file + 50 * part, 50)).collect::<Vec<_>>();
            store.store(&batches, now()).expect("room");
        }
        let (mut seen, mut bad_calls) = (BTreeSet::new(), 0);
        for _ in 0..40 {
            let group = read(&mut store);
            let mut fates = Vec::new();
            for batch in &group {
                if batch.spans == 1 {
                    assert_eq!(batch.failures, failures(bad_calls));
                    assert!(bad_calls == 0 || seen.len() == 3_000, "{} of 3,000 good spans", seen.len());
                    bad_calls += 1;
                    fates.push(Fate::Pending(failures(bad_calls)));
                } else {
                    seen.extend(span_ids(&batch.request).expect("well formed"));
                    fates.push(delivered(batch));
                }
            }
            store.settle(&fates).expect("durable");
        }
        assert_eq!((seen.len(), store.usage().spans), (3_000, 1), "{format:?}");
        assert!(bad_calls > 20, "{bad_calls}");
    }
}

#[test]
fn sixty_files_of_three_spans_are_read_at_once() {
    for format in FORMATS {
        let state = tempfile::tempdir().expect("temp dir");
        let mut store = open(state.path(), format);
        for file in 0..60 {
            store.store(&[batch(file * 3, 3)], now()).expect("room");
        }
        assert_eq!(store.usage().files, 60);
        let group = read(&mut store);
        let ids = group.iter().flat_map(|batch| span_ids(&batch.request).expect("well formed"));
        assert_eq!((group.len(), ids.collect::<BTreeSet<_>>().len()), (60, 180));
        store.settle(&group.iter().map(delivered).collect::<Vec<_>>()).expect("durable");
        assert_eq!((read(&mut store), store.usage()), (Vec::new(), Usage::default()), "{format:?}");
    }
}

/// The storage of the letters fails from one of its calls on, then the power fails: each span is delivered, in a file
/// or in a letter, and a batch of which every letter is stored is not read again.
#[test]
fn a_dead_letter_that_cannot_be_stored_leaves_exactly_its_batch_in_the_file() {
    let (mut nth, mut kept_in_part) = (1, 0);
    loop {
        let (disk, faults) = (Disk::new(), Faults::none());
        let open = |faults: &Faults| {
            let (disk, faults) = (disk.clone(), faults.clone());
            let root = move || Ok(Faulty::new(disk.root(), faults.clone()));
            FileStore::open_in(Box::new(root), &Files::default(), &LetterSettings::default()).expect("a well disk")
        };
        let mut store = open(&faults);
        let batches = [batch(0, 3), batch(100, 4), batch(200, 5), batch(300, 6)];
        store.store(&batches, now()).expect("room");
        let Ok(ReadBack::Group(group)) = store.read(Order::FewestFailures, 1 << 20) else { panic!("four batches") };
        // The second batch was refused in two parts.
        let refusals = |parts: &[Payload]| Fate::Finished {
            delivered: 0,
            rejected: 0,
            refused: parts.iter().map(refusal).collect(),
        };
        let id = BatchId { incarnation: 1, seq: 9 };
        let (left, right) = batches[1].split(id, id).expect("four spans");
        let refused = [refusals(&batches[..1]), refusals(&[left, right]), refusals(&batches[2..3])];
        let mut fates = [&refused[..], &[delivered(&group[3])]].concat();

        faults.plan(nth, Fault::Errno(28), true);
        let mut letters = 0;
        let finished = store_letters(&mut fates, &[failures(2); 4], |parts| {
            let stored = store.store_dead_letters(parts, "endpoint", now());
            letters += stored.unwrap_or(0);
            stored
        });
        let finished = finished.expect("there are letters");
        let is_over = faults.fired() == 0;
        faults.clear();
        store.settle(&fates).expect("durable");
        kept_in_part += usize::from(letters != finished);
        disk.crash(Crash::Worst);
        drop(store);

        let mut store = open(&faults);
        let mut left = BTreeSet::new();
        while let ReadBack::Group(group) = store.read(Order::FewestFailures, 1 << 20).expect("a well disk") {
            for batch in &group {
                assert_eq!(batch.failures, Failures { calls: 3, ..failures(2) }, "call {nth}");
                left.insert(batch.spans);
            }
            let fates = group.iter().map(delivered).collect::<Vec<_>>();
            store.settle(&fates).expect("durable");
        }
        let stays = [(3, 0), (4, 1), (5, 3)].into_iter().filter(|(_, first)| finished <= *first);
        assert_eq!(left, stays.map(|(spans, _)| spans).collect(), "call {nth}, {letters} letters");
        let ids = store.dead_letter_ids().expect("a well disk");
        let in_letters = ids.iter().map(|id| store.describe_dead_letter(id).expect("whole").spans as usize);
        let all = in_letters.sum::<usize>() + left.iter().sum::<usize>();
        // A part of the second batch may be in both places, and so may a letter that was written and not synced.
        assert!((12..=12 + 5).contains(&all), "call {nth}: {all} spans, {letters} letters");
        if is_over {
            assert_eq!((letters, finished, all, left.len()), (4, 4, 12, 0));
            break;
        }
        nth += 1;
    }
    assert!(nth > 10 && kept_in_part > 0, "{nth} calls, {kept_in_part} times one of two letters");
}

/// A limit of the letters below the size of one batch, and of one span: no batch stays for ever because of it, and each
/// span is in a letter or counted as removed by the limit.
#[test]
fn a_refusal_that_is_larger_than_all_letters_may_be_is_split_or_removed_by_the_limit() {
    for (max_bytes, some_letters) in [(4_000, true), (1, false)] {
        let state = tempfile::tempdir().expect("temp dir");
        let letters = LetterSettings { max_bytes, ..LetterSettings::default() };
        let mut store = open_with(state.path(), FallbackFormat::Json, &letters);
        let stored = store.store_dead_letters(&[refusal(&batch(0, 100)), refusal(&batch(200, 1))], "endpoint", now());
        assert_eq!(stored, Some(2));
        let evicted = store.changes().into_iter().map(|change| match change {
            Change::DeadLettersEvicted { spans } => spans,
            other => panic!("{other:?}"),
        });
        let evicted = evicted.sum::<u64>();
        let ids = store.dead_letter_ids().expect("a well disk");
        let described = ids.iter().map(|id| store.describe_dead_letter(id).expect("whole"));
        let left = described.map(|letter| (letter.spans, letter.bytes)).collect::<Vec<_>>();
        assert_eq!(left.iter().map(|(spans, _)| spans).sum::<u64>() + evicted, 101);
        assert!(left.iter().map(|(_, bytes)| bytes).sum::<u64>() <= max_bytes);
        assert_eq!(!left.is_empty(), some_letters, "{left:?}");
    }
}

#[test]
fn files_that_were_set_aside_are_counted_until_an_operator_removes_them() {
    let state = tempfile::tempdir().expect("temp dir");
    let mut store = open(state.path(), FallbackFormat::Json);
    assert_eq!(store.set_aside(), SetAside::default());
    let name = store.store(&[batch(0, 3)], now()).expect("room").name;
    let path = own(state.path()).join("fallback").join(name);
    std::fs::write(&path, "no JSON\n").expect("written");
    assert_eq!(store.read(Order::FewestFailures, 1 << 20).expect("readable"), ReadBack::Empty);
    let set_aside = SetAside { files: 1, spans: 3 };
    assert_eq!((store.set_aside(), store.usage()), (set_aside, Usage::default()));
    drop(store);
    let mut store = open(state.path(), FallbackFormat::Json);
    assert_eq!(store.set_aside(), set_aside);
    std::fs::remove_dir_all(own(state.path()).join("fallback/quarantine")).expect("there");
    (0..COUNT_ASIDE_EVERY).for_each(|_| store.clean_up(now()));
    assert_eq!(store.set_aside(), SetAside::default());
}

#[test]
fn the_limit_of_health_is_what_the_journal_leaves() {
    let state = tempfile::tempdir().expect("temp dir");
    let mut store = open(state.path(), FallbackFormat::Json);
    let setting = Files::default().max_bytes;
    assert_eq!(store.max_bytes(), Some(setting));
    let home = Arc::clone(&store.upkeep.place.files);
    home.state(Part::Journal, 256 << 20);
    store.upkeep.place.journal = Some(home);
    store.clean_up(now());
    assert_eq!(store.max_bytes(), Some(setting - (256 << 20)));
}

/// Each way in which the directory of a process, or a part of it, can vanish while the process runs.
#[test]
fn after_its_directory_vanished_the_store_goes_on_in_a_new_one() {
    for part in ["", "process", "process/fallback"] {
        let state = tempfile::tempdir().expect("temp dir");
        let root = state.path().join("state");
        let mut store = open(&root, FallbackFormat::Json);
        store.store(&[batch(0, 3)], now()).expect("room");
        store.store(&[batch(100, 4)], now()).expect("room");
        let group = read(&mut store);
        assert_eq!(group.len(), 2);
        store.store_dead_letters(&[refusal(&batch(400, 2))], "endpoint", now()).expect("letters are kept");
        let path = match part {
            "" => root.clone(),
            "process" => own(&root),
            _ => own(&root).join("fallback"),
        };
        std::fs::remove_dir_all(path).expect("there");

        store.store(&[batch(200, 5)], now()).expect("a new directory");
        assert_eq!(store.usage().spans, 5, "{part:?}");
        assert_eq!(store.changes(), [Change::TakenOver { spans: 3 }, Change::TakenOver { spans: 4 }]);
        // The group that was out when the directory vanished was delivered all the same.
        store.settle(&group.iter().map(delivered).collect::<Vec<_>>()).expect("no file is left to mark");
        assert_eq!(store.changes(), [Change::Recovered { spans: 7 }]);
        let group = read(&mut store);
        assert_eq!((group.len(), group[0].spans), (1, 5), "{part:?}");
        store.settle(&[delivered(&group[0])]).expect("durable");
        assert_eq!((store.usage(), store.changes()), (Usage::default(), Vec::new()));
        store.store_dead_letters(&[refusal(&batch(300, 6))], "endpoint", now()).expect("letters are kept");
        let letters = if part == "process/fallback" { 2 } else { 1 };
        assert_eq!(store.dead_letter_ids().expect("a well disk").len(), letters, "{part:?}");
    }
}

#[test]
fn after_the_directory_of_the_letters_vanished_a_letter_makes_a_new_one() {
    // A state directory that is moved as a whole serves on at its new place: it is reached by its handle.
    let ways = [
        ("dead-letters", false, false),
        ("dead-letters", true, false),
        ("dead-letters", false, true),
        ("dead-letters", true, true),
        ("", false, false),
        ("process", false, false),
        ("process", false, true),
    ];
    for (part, cleans_up, is_moved) in ways {
        let state = tempfile::tempdir().expect("temp dir");
        let root = state.path().join("state");
        let mut store = open(&root, FallbackFormat::Json);
        assert_eq!(store.store_dead_letters(&[refusal(&batch(0, 2))], "endpoint", now()), Some(1));
        let path = match part {
            "" => root,
            "process" => own(&root),
            part => own(&root).join(part),
        };
        let moved =
            if is_moved { std::fs::rename(path, state.path().join("moved")) } else { std::fs::remove_dir_all(path) };
        moved.expect("there");
        if cleans_up {
            store.clean_up(now());
            assert_eq!(store.next_clean_up(), None, "no letter is left that a limit could remove");
        }
        assert_eq!(store.store_dead_letters(&[refusal(&batch(100, 6))], "endpoint", now()), Some(1), "{part:?}");
        let ids = store.dead_letter_ids().expect("a well disk");
        let spans = ids.iter().map(|id| store.describe_dead_letter(id).expect("whole").spans);
        assert_eq!(spans.collect::<Vec<_>>(), [6], "{part:?}");
    }
}

#[test]
fn a_clean_up_notices_that_the_directory_vanished() {
    for is_moved in [false, true] {
        let state = tempfile::tempdir().expect("temp dir");
        let root = state.path().join("state");
        let mut store = open(&root, FallbackFormat::Json);
        store.store(&[batch(0, 3)], now()).expect("room");
        if is_moved {
            std::fs::rename(own(&root).join("fallback"), state.path().join("elsewhere")).expect("there");
        } else {
            std::fs::remove_dir_all(&root).expect("there");
        }
        store.clean_up(now());
        assert_eq!(store.changes(), [Change::TakenOver { spans: 3 }]);
        assert_eq!(own(&root).join("fallback"), store.path());
        store.store(&[batch(100, 4)], now()).expect("room");
        assert_eq!((store.usage().spans, store.changes()), (4, Vec::new()));
    }
}

/// The numbers of spans of the next group's batches; none at the end.
fn sizes(store: &mut FileStore, order: Order, max_bytes: usize) -> Vec<usize> {
    match store.read(order, max_bytes).expect("readable") {
        ReadBack::Group(batches) => batches.iter().map(|batch| batch.spans).collect(),
        ReadBack::Pause | ReadBack::Empty => Vec::new(),
    }
}

fn finished(spans: &[usize]) -> Vec<Fate> {
    spans.iter().map(|&delivered| Fate::Finished { delivered, rejected: 0, refused: Vec::new() }).collect()
}

#[test]
fn files_are_read_in_the_order_that_is_asked_for() {
    for (order, expected) in [
        (Order::FewestFailures, [3, 4, 6, 7, 5]),
        (Order::FewestFailuresNewest, [6, 7, 3, 4, 5]),
        (Order::Oldest, [3, 4, 5, 6, 7]),
    ] {
        let state = tempfile::tempdir().expect("temp dir");
        let mut store = open(state.path(), FallbackFormat::Json);
        store.store(&[batch(0, 3), batch(100, 4)], now()).expect("room");
        store.store(&[batch(200, 5)], now() + Duration::from_secs(1)).expect("room");
        store.store(&[batch(300, 6), batch(400, 7)], now() + Duration::from_secs(2)).expect("room");
        let group = sizes(&mut store, Order::Oldest, 1 << 20);
        assert_eq!(group, [3, 4, 5, 6, 7]);
        let failed = |calls| Fate::Pending(Failures { calls, ..Failures::default() });
        store.settle(&[failed(0), failed(0), failed(1), failed(0), failed(0)]).expect("durable");
        let mut read = Vec::new();
        loop {
            let group = sizes(&mut store, order, 1);
            if group.is_empty() {
                break;
            }
            store.settle(&finished(&group)).expect("durable");
            read.extend(group);
        }
        assert_eq!(read, expected, "{order:?}");
    }
}

#[test]
fn a_group_that_was_read_ahead_is_the_next_one_of_its_order_and_the_last_of_any() {
    let state = tempfile::tempdir().expect("temp dir");
    let mut store = open(state.path(), FallbackFormat::Json);
    for (first, count) in [(0, 3), (100, 4), (200, 5), (300, 6)] {
        store.store(&[batch(first, count)], now() + Duration::from_secs(first)).expect("room");
    }
    let usage = store.usage();
    assert_eq!(sizes(&mut store, Order::FewestFailures, 1), [3]);
    store.read_ahead(Order::FewestFailures, 1);
    assert_eq!(store.usage(), usage, "what is read ahead stays stored");
    store.settle(&finished(&[3])).expect("durable");
    // Another order leaves it for later.
    assert_eq!(sizes(&mut store, Order::FewestFailuresNewest, 1), [6]);
    store.settle(&finished(&[6])).expect("durable");
    assert_eq!(sizes(&mut store, Order::FewestFailures, 1), [4]);
    store.read_ahead(Order::FewestFailures, 1);
    store.read_ahead(Order::FewestFailures, 1);
    store.settle(&finished(&[4])).expect("durable");
    assert_eq!(sizes(&mut store, Order::Oldest, 1), [5], "no other batch is left");
    store.settle(&finished(&[5])).expect("durable");
    assert_eq!(store.usage(), Usage::default());
}

#[test]
fn a_group_that_was_read_ahead_holds_neither_limits_nor_newer_batches_up() {
    let state = tempfile::tempdir().expect("temp dir");
    let mut store = open(state.path(), FallbackFormat::Json);
    for (first, count) in [(0, 3), (100, 4)] {
        store.store(&[batch(first, count)], now()).expect("room");
    }
    assert_eq!(sizes(&mut store, Order::FewestFailuresNewest, 1), [4]);
    store.read_ahead(Order::FewestFailuresNewest, 1);
    store.settle(&finished(&[4])).expect("durable");
    store.store(&[batch(200, 5)], now()).expect("room");
    assert_eq!(sizes(&mut store, Order::FewestFailuresNewest, 1), [5], "the newest now");
    store.read_ahead(Order::FewestFailuresNewest, 1);
    store.settle(&finished(&[5])).expect("durable");
    assert_eq!(store.changes(), []);
    // A process that slept for longer than the age limit: by steps, since a clock may jump.
    for hours in 0..24 * 8 {
        store.clean_up(now() + Duration::from_secs(3_600 * hours));
    }
    assert_eq!(store.changes(), [Change::Dropped { spans: 3, reason: DropReason::FallbackAge }]);
    assert_eq!((sizes(&mut store, Order::FewestFailures, 1), store.usage()), (Vec::new(), Usage::default()));
}

/// The disk fails while a group is read ahead: the next read reports it, once.
#[test]
fn a_failure_to_read_ahead_is_that_of_the_next_read() {
    let (disk, faults) = (Disk::new(), Faults::none());
    let root = {
        let (disk, faults) = (disk.clone(), faults.clone());
        move || Ok(Faulty::new(disk.root(), faults.clone()))
    };
    let mut store =
        FileStore::open_in(Box::new(root), &Files::default(), &LetterSettings::default()).expect("a well disk");
    for (first, count) in [(0, 3), (100, 4), (200, 5)] {
        store.store(&[batch(first, count)], now()).expect("room");
    }
    let Ok(ReadBack::Group(first)) = store.read(Order::FewestFailures, 1) else { panic!("three batches") };
    faults.plan(1, Fault::Errno(5), true);
    // The reader has the second file open, and not the newest one.
    store.read_ahead(Order::FewestFailuresNewest, 1);
    assert!(faults.fired() > 0);
    faults.clear();
    store.settle(&[delivered(&first[0])]).expect("durable");
    assert!(store.read(Order::FewestFailuresNewest, 1).is_err());
    let Ok(ReadBack::Group(newest)) = store.read(Order::FewestFailuresNewest, 1) else { panic!("three batches") };
    assert_eq!(newest[0].spans, 5);
}
