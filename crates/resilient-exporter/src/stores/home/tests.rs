use std::io::Write as _;
use std::sync::Arc;

use safe_dir::sim::{Disk, MemoryDir, Reach};
use safe_dir::{HEARTBEAT_TIMEOUT, SharedDir, publish};

use super::*;
use crate::proofs::spans::spans;
use crate::report::ledger::DropReason;
use crate::seams::clock::Clock;
use crate::seams::fallback::{Change, Fallback as _, Order, ReadBack};
use crate::seams::fates::Refusal;
use crate::seams::journal::{Journal as _, Lost, Recovered, Vanished};
use crate::seams::settings::{DeadLetters, Files};
use crate::stores::files::{FileStore, Place};
use crate::stores::journal::FileJournal;
use opentelemetry_sdk::Resource;
use otlp_payload::{BatchId, Encoder, Payload};
use otlp_transport::Cause;

/// The clocks of a process; a test moves them.
struct Clocks(Mutex<Instant>);

impl Clocks {
    fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(crate::seams::clock::SystemClock.now())))
    }

    fn pass(&self, time: Duration) {
        *self.0.lock() += time;
    }
}

impl Clock for Clocks {
    fn now(&self) -> Instant {
        *self.0.lock()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_769_904_000)
    }
}

const MAX_BYTES: u64 = 1 << 30;

fn machine(host: u32) -> Machine {
    Machine { boot_id: format!("boot-{host}"), host: format!("host-{host}") }
}

/// A process on one of the machines.
fn home_on(disk: &Disk, host: u32, incarnation: u64) -> Arc<Home<MemoryDir>> {
    let root = disk.clone();
    let open = Box::new(move || Ok(root.root_on(host)));
    let old = OldLayout::new(Vec::new(), None);
    Arc::new(Home::open(open, "test".to_owned(), machine(host), incarnation, MAX_BYTES, old).expect("room").0)
}

fn home(disk: &Disk, incarnation: u64) -> Arc<Home<MemoryDir>> {
    home_on(disk, 0, incarnation)
}

/// A process that has ended, with a file in each of these.
fn ended(disk: &Disk, incarnation: u64, paths: &[(&str, &str)]) {
    let shared = SharedDir::claim(disk.root(), machine(0), incarnation).expect("room");
    for (dir, file) in paths {
        let dir = if dir.is_empty() { None } else { Some(shared.own().subdirectory(dir).expect("room")) };
        publish(dir.as_ref().unwrap_or(shared.own()), file, |file| file.write_all(b"x")).expect("room");
    }
}

fn names(disk: &Disk) -> Vec<String> {
    let mut names = disk.root().list().expect("readable").into_iter().filter_map(|entry| entry.name.into_string().ok());
    let mut names = names.by_ref().filter(|name| name != "layout" && name != "clock").collect::<Vec<_>>();
    names.sort();
    names
}

fn round(home: &Home<MemoryDir>, now: Instant) -> usize {
    home.round(now, &mut |_| true).expect("readable").adopted.len()
}

fn batch(seq: u64, count: usize) -> Payload {
    let encoder = Encoder::new(&Resource::builder_empty().with_service_name("test").build());
    encoder.encode(BatchId { incarnation: 7, seq }, SystemTime::UNIX_EPOCH, &spans(100 * seq, count))
}

fn refusal(payload: &Payload) -> Refusal {
    let cause = Cause::Http { status: 400, message: "no such tenant".to_owned() };
    Refusal { payload: payload.clone(), cause, attempts: 1, permanent: true }
}

fn journal(home: &Arc<Home<MemoryDir>>, clock: &Arc<Clocks>) -> FileJournal<MemoryDir> {
    let (home, files, clock) = (Arc::clone(home), Arc::clone(home), Arc::clone(clock));
    let config = ::journal::Config { segment_bytes: 64 << 10, free_space_reserve: 0, ..::journal::Config::default() };
    FileJournal::open(home, Some(files), config, clock, &mut |_| Ok(false)).expect("room")
}

/// The stores of a process without durable mode.
fn store(files: &Arc<Home<MemoryDir>>, letters: &Arc<Home<MemoryDir>>, clock: &Arc<Clocks>) -> FileStore<MemoryDir> {
    let (files, letters, clock) = (Arc::clone(files), Arc::clone(letters), Arc::clone(clock));
    let place = Place { files, letters, journal: None, clock };
    FileStore::open(place, &Files::default(), &DeadLetters::default(), 0).expect("room")
}

#[test]
fn a_journal_that_is_no_directory_keeps_no_files_waiting() {
    let (disk, now) = (Disk::new(), Clocks::new().now());
    ended(&disk, 1, &[("", "journal"), ("fallback", "a")]);
    ended(&disk, 2, &[("fallback", "b")]);
    let home = home(&disk, 9);
    assert_eq!(round(&home, now), 2);
    let taken = home.take(Part::Journal, now);
    assert!(taken.contents.is_empty());
    let (name, cause) = taken.failed.expect("it is a file");
    assert!(name.starts_with("0000000000000009+") && cause.contains("not a directory"), "{name}: {cause}");
    assert!(!home.has_content(Part::Journal, now), "the thread that would open it sleeps");
    assert_eq!(home.take(Part::Files, now).contents.len(), 2);
}

#[test]
fn a_journal_that_another_program_has_removed_keeps_no_files_waiting() {
    let (disk, now) = (Disk::new(), Clocks::new().now());
    ended(&disk, 1, &[("journal", "a"), ("fallback", "a")]);
    let home = home(&disk, 9);
    assert_eq!(round(&home, now), 1);
    assert!(disk.remove_tree("0000000000000009+1/journal"));
    assert!(home.take(Part::Journal, now).contents.is_empty());
    assert_eq!(home.take(Part::Files, now).contents.len(), 1);
}

/// A process without a file handle that is left fails to open the journal as often as it tries.
#[test]
fn a_journal_that_could_not_be_opened_is_tried_again_and_keeps_the_files_no_longer() {
    let (disk, clock) = (Disk::new(), Clocks::new());
    ended(&disk, 1, &[("journal", "a"), ("fallback", "a")]);
    let home = home(&disk, 9);
    assert_eq!(round(&home, clock.now()), 1);
    for _ in 0..MAX_FAILURES {
        assert!(home.take(Part::Files, clock.now()).contents.is_empty());
        let [content] = &home.take(Part::Journal, clock.now()).contents[..] else { panic!("one journal") };
        home.give_back(content.key, Part::Journal, clock.now());
        clock.pass(ROUND_EVERY);
    }
    assert_eq!(home.take(Part::Files, clock.now()).contents.len(), 1);
    assert!(home.take(Part::Journal, clock.now()).contents.is_empty());
    clock.pass(LATER);
    assert_eq!(home.take(Part::Journal, clock.now()).contents.len(), 1);
}

#[test]
fn a_directory_with_a_file_of_another_program_is_adopted_once() {
    let (disk, clock) = (Disk::new(), Clocks::new());
    ended(&disk, 1, &[("", "notes.txt")]);
    let first = home(&disk, 8);
    assert_eq!(round(&first, clock.now()), 1);
    let before = names(&disk);
    let second = home(&disk, 9);
    for _ in 0..3 {
        clock.pass(ROUND_EVERY);
        assert_eq!((round(&first, clock.now()), round(&second, clock.now())), (0, 0));
    }
    drop(second);
    assert_eq!(names(&disk), before);
}

#[test]
fn a_directory_that_a_live_process_has_adopted_is_no_process_and_its_bytes_count_once() {
    let (disk, now) = (Disk::new(), Clocks::new().now());
    let mut shared = SharedDir::claim(disk.root(), machine(0), 1).expect("room");
    publish(&shared.own().subdirectory("journal").expect("room"), "a", |file| file.write_all(b"x")).expect("room");
    shared.beat(MAX_BYTES / 4).expect("room");
    drop(shared);
    let adopter = home(&disk, 8);
    assert_eq!(round(&adopter, now), 1);
    adopter.state(Part::Journal, MAX_BYTES / 4);
    assert_eq!(round(&adopter, now + ROUND_EVERY), 0);
    let other = home(&disk, 9);
    assert_eq!(round(&other, now), 0);
    assert_eq!(other.allowance(), MAX_BYTES * 3 / 4);
    adopter.state(Part::Journal, MAX_BYTES);
    assert_eq!((round(&adopter, now + 2 * ROUND_EVERY), round(&other, now + ROUND_EVERY)), (0, 0));
    assert_eq!(other.allowance(), MAX_BYTES / 2, "two processes share the limit");
}

/// Each directory in hand takes some file handles of the program.
#[test]
fn hundreds_of_ended_processes_are_taken_over_some_at_a_time() {
    let (disk, now) = (Disk::new(), Clocks::new().now());
    for process in 0..300 {
        ended(&disk, 0x100 + process, &[("fallback", "a")]);
    }
    let home = home(&disk, 9);
    drop(home.take(Part::Files, now));
    let mut rounds = 0;
    while names(&disk).len() > 1 {
        assert!(round(&home, now) <= ADOPTED_A_ROUND);
        assert_eq!(round(&home, now), 0, "no room, and not another round within 5 s");
        let contents = home.take(Part::Files, now).contents;
        assert!(contents.len() <= MOST_IN_HAND && home.has_others());
        for content in contents {
            content.dir.remove("a").expect("there");
            home.finish(content.key, Part::Files);
        }
        rounds += 1;
        assert_eq!(home.has_more(), names(&disk).len() > 1);
    }
    assert_eq!(rounds, 300_usize.div_ceil(ADOPTED_A_ROUND));
}

#[test]
fn journals_that_ask_for_the_files_of_a_process_are_adopted_before_it() {
    let of = |name: &str, owner: &str| (name.to_owned(), Some(owner.to_owned()), 0);
    // `b` had adopted the directory of `a`, then `c` that of `b`.
    let mut found = vec![of("c", "c"), of("c+1", "b"), of("b+1", "a"), ("d".to_owned(), None, 0)];
    let mut order = Vec::new();
    while !found.is_empty() {
        order.push(found.swap_remove(inner::next_of(&found)).0);
    }
    let at = |name: &str| order.iter().position(|found| found == name);
    assert!(at("b+1") < at("c+1") && at("c+1") < at("c"), "{order:?}");
}

/// The machine of a process stands still for a minute. Meanwhile a process on another machine takes the directory over,
/// and reads the journal.
#[test]
fn a_batch_in_a_directory_that_another_machine_has_taken_is_not_called_durable() {
    let (disk, clock) = (Disk::new(), Clocks::new());
    disk.set_reach(Reach::NetworkWithLocalLocks);
    disk.set_now(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000));
    let home = home_on(&disk, 0, 1);
    let mut slow = journal(&home, &clock);
    slow.append(&batch(1, 3)).expect("room");
    slow.sync().expect("durable");
    disk.set_now(SystemTime::UNIX_EPOCH + Duration::from_secs(1_001) + HEARTBEAT_TIMEOUT);
    let mut other = journal(&home_on(&disk, 1, 2), &clock);
    assert_eq!(other.found(), 3);
    slow.append(&batch(2, 4)).expect("room");
    slow.sync().expect_err("the other process has read the journal");
    let id = |seq| BatchId { incarnation: 7, seq };
    let taken_over = Lost { batches: vec![id(1), id(2)], unread: 0 };
    let vanished = Vanished::Batches { lost: Lost::default(), taken_over };
    assert_eq!(slow.take_vanished(), vanished, "batches in memory are appended again");
    slow.append(&batch(2, 4)).expect("room");
    slow.sync().expect("durable, in a new directory");
    drop((slow, home));
    disk.set_now(SystemTime::UNIX_EPOCH + Duration::from_secs(1_002) + 2 * HEARTBEAT_TIMEOUT);
    clock.pass(ROUND_EVERY);
    other.maintain(&mut |_| Ok(false)).expect("a well disk");
    assert_eq!(other.found(), 4);
}

#[test]
fn a_batch_that_is_appended_again_is_not_found_again() {
    let (disk, clock) = (Disk::new(), Clocks::new());
    let before = home(&disk, 1);
    let mut ended = journal(&before, &clock);
    ended.append(&batch(1, 40)).expect("room");
    ended.append(&batch(2, 5)).expect("room");
    ended.sync().expect("durable");
    drop((ended, before));
    let home = home(&disk, 2);
    let mut journal = journal(&home, &clock);
    assert_eq!(journal.found(), 45);
    assert!(matches!(journal.next_recovered(clock.wall()), Recovered::Batch(_)));
    assert!(disk.remove_tree("0000000000000002"));
    journal.maintain(&mut |_| Ok(false)).expect("a well disk");
    let _ = journal.take_vanished();
    journal.append(&batch(1, 40)).expect("room");
    clock.pass(ROUND_EVERY);
    journal.maintain(&mut |_| Ok(false)).expect("a well disk");
    assert_eq!(journal.found(), 5, "the own journal has the first one");
    let second = journal.next_recovered(clock.wall());
    assert!(matches!(second, Recovered::Batch(payload) if payload.id() == batch(2, 5).id()));
    assert!(matches!(journal.next_recovered(clock.wall()), Recovered::End));
}

/// The files have a directory of their own, and the process before was in durable mode.
#[test]
fn a_batch_that_is_found_again_and_ends_before_it_is_read_is_neither_returned_nor_missing() {
    let (disk, clock) = (Disk::new(), Clocks::new());
    let before = home(&disk, 1);
    let mut ended = journal(&before, &clock);
    ended.append(&batch(1, 40)).expect("room");
    ended.append(&batch(2, 5)).expect("room");
    ended.sync().expect("durable");
    drop((ended, before));
    let home = home(&disk, 2);
    let mut journal = journal(&home, &clock);
    assert_eq!(journal.found(), 45);
    let first = batch(1, 40);
    assert!(matches!(journal.next_recovered(clock.wall()), Recovered::Batch(payload) if payload.id() == first.id()));
    assert!(disk.remove_tree("0000000000000002"));
    let mut turns = || journal.maintain(&mut |_| Ok(false)).expect("a well disk");
    turns();
    clock.pass(ROUND_EVERY);
    turns();
    assert_eq!(journal.found(), 45, "the process has it in memory, and had no time to append it");
    let _ = journal.take_vanished();
    journal.append(&first).expect("room");
    journal.done(&[first.id()]).expect("marked");
    let taken_over = Lost { batches: Vec::new(), unread: 40 };
    assert_eq!(journal.take_vanished(), Vanished::Batches { lost: Lost::default(), taken_over });
    let second = journal.next_recovered(clock.wall());
    assert!(matches!(second, Recovered::Batch(payload) if payload.id() == batch(2, 5).id()));
    assert!(matches!(journal.next_recovered(clock.wall()), Recovered::End));
    journal.done(&[batch(2, 5).id()]).expect("marked");
    journal.sync().expect("durable");
    drop(journal);
    assert_eq!(self::journal(&self::home(&disk, 3), &clock).found(), 0);
}

#[test]
fn a_process_without_durable_mode_takes_journals_from_the_state_directory_too() {
    let (state, files, clock) = (Disk::new(), Disk::new(), Clocks::new());
    let before = home(&state, 1);
    let mut durable = journal(&before, &clock);
    durable.append(&batch(1, 3)).expect("room");
    durable.sync().expect("durable");
    drop((durable, before));
    let (state_home, files_home) = (home(&state, 2), home(&files, 2));
    let mut store = store(&files_home, &state_home, &clock);
    let ReadBack::Group(batches) = store.read(Order::FewestFailures, 1 << 20).expect("readable") else {
        panic!("a batch")
    };
    assert_eq!(batches.iter().map(|batch| batch.spans).sum::<usize>(), 3);
    for _ in 0..3 {
        clock.pass(ROUND_EVERY);
        store.clean_up(clock.wall());
    }
    assert_eq!(names(&state), ["0000000000000002"]);
}

#[test]
fn a_process_without_durable_mode_counts_the_spans_of_a_segment_that_another_program_removes() {
    let (disk, clock) = (Disk::new(), Clocks::new());
    let before = home(&disk, 1);
    let mut durable = journal(&before, &clock);
    for seq in 0..60 {
        durable.append(&batch(seq, 40)).expect("room");
    }
    durable.sync().expect("durable");
    let own = home(&disk, 2);
    let mut store = store(&own, &own, &clock);
    drop((durable, before));
    // The journal is opened, and none of its batches becomes a file.
    disk.set_capacity(Some(0));
    let mut clean_up = || {
        clock.pass(ROUND_EVERY);
        store.clean_up(clock.wall());
        (store.usage().spans, store.changes())
    };
    assert_eq!(clean_up(), (0, vec![]));
    let ended = disk.root().existing_subdirectory("0000000000000002+1").expect("ours").expect("adopted");
    let journal = ended.existing_subdirectory("journal").expect("ours").expect("there");
    let segments = journal.list().expect("readable").into_iter().filter_map(|entry| entry.name.into_string().ok());
    let first = segments.filter(|name| name.starts_with("journal-")).min().expect("a segment");
    journal.remove(&first).expect("there");
    disk.set_capacity(None);
    let (mut recovered, mut dropped, mut stored) = (0, 0, 0);
    for _ in 0..4 {
        let (spans, changes) = clean_up();
        stored = spans;
        for change in changes {
            match change {
                Change::Recovered { spans } => recovered += spans,
                Change::Dropped { spans, reason: DropReason::Vanished } => dropped += spans,
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!((recovered, stored + dropped), (60 * 40, 60 * 40));
    assert!(dropped > 0 && stored > 0, "{dropped} of them were in the segment");
    assert_eq!(names(&disk), ["0000000000000002"]);
}

#[test]
fn a_process_without_durable_mode_keeps_damaged_segments_of_a_journal() {
    let (disk, clock) = (Disk::new(), Clocks::new());
    let before = home(&disk, 1);
    let mut durable = journal(&before, &clock);
    for seq in 0..4 {
        durable.append(&batch(seq, 3)).expect("room");
    }
    durable.sync().expect("durable");
    drop((durable, before));
    let dir = disk.root().existing_subdirectory("0000000000000001").expect("ours").expect("there");
    let segments = dir.existing_subdirectory("journal").expect("ours").expect("there").list().expect("readable");
    let segment = segments.into_iter().filter_map(|entry| entry.name.into_string().ok());
    let segment = segment.filter(|name| name.starts_with("journal-")).min().expect("a segment");
    assert!(disk.tamper(&format!("0000000000000001/journal/{segment}"), |bytes| bytes[300] ^= 1));
    let own = home(&disk, 2);
    let mut store = store(&own, &own, &clock);
    let (mut recovered, mut dropped) = (0, 0);
    for _ in 0..3 {
        for change in store.changes() {
            match change {
                Change::Recovered { spans } => recovered += spans,
                Change::Dropped { spans, reason: DropReason::Corrupt } => dropped += spans,
                other => panic!("{other:?}"),
            }
        }
        clock.pass(ROUND_EVERY);
        store.clean_up(clock.wall());
    }
    // Those of the files are in the first usage of the store.
    assert_eq!((recovered, dropped, store.usage().spans), (3, 3, 9));
    assert_eq!(names(&disk), ["0000000000000002"], "the directory of the ended process is removed");
    let journal = own.own(Part::Journal).expect("ours").0;
    let kept = journal.existing_subdirectory("quarantine").expect("ours").expect("there").list().expect("readable");
    assert_eq!(kept.len(), 1);
}

#[test]
fn of_damaged_segments_of_many_ended_processes_the_last_hundred_stay() {
    let (disk, clock) = (Disk::new(), Clocks::new());
    for process in 0x100..0x100 + 104 {
        let shared = SharedDir::claim(disk.root(), machine(0), process).expect("room");
        let journal = shared.own().subdirectory("journal").expect("room").subdirectory("quarantine").expect("room");
        publish(&journal, &format!("journal-{process}"), |file| file.write_all(b"x")).expect("room");
    }
    let own = home(&disk, 2);
    let mut durable = journal(&own, &clock);
    for _ in 0..8 {
        clock.pass(ROUND_EVERY);
        durable.maintain(&mut |_| Ok(false)).expect("a well disk");
    }
    assert_eq!(names(&disk), ["0000000000000002"]);
    let journal = own.own(Part::Journal).expect("ours").0;
    let kept = journal.existing_subdirectory("quarantine").expect("ours").expect("there").list().expect("readable");
    assert_eq!(kept.len(), 100);
}

/// The directory of the files, or the one of all others, was not set before: another one held all.
#[test]
fn content_of_a_process_with_other_settings_of_the_directories_moves_here() {
    for (was_durable, is_durable, had_state) in
        [(false, false, true), (false, false, false), (true, true, false), (true, true, true), (true, false, false)]
    {
        let (disk, other, clock) = (Disk::new(), Disk::new(), Clocks::new());
        let before = home(&disk, 1);
        let durable = was_durable.then(|| {
            let mut durable = journal(&before, &clock);
            durable.append(&batch(1, 5)).expect("room");
            durable.append(&batch(2, 3)).expect("room");
            durable
        });
        let mut first = store(&before, &before, &clock);
        let stored = first.store(&[batch(2, 3)], clock.wall()).expect("room");
        // The process dies before it marks the batch that is in the file.
        let durable = durable.map(|mut durable| {
            durable.announce(&stored.name, &[batch(2, 3).id()]).expect("room");
            durable.sync().expect("durable");
            durable
        });
        assert_eq!(first.store_dead_letters(&[refusal(&batch(3, 2))], "endpoint", clock.wall()), Some(1));
        drop((durable, first, before));

        let (own, new) = (home(&disk, 2), home(&other, 2));
        let (state, files) = if had_state { (own, new) } else { (new, own) };
        let mut durable = is_durable.then(|| journal(&state, &clock));
        let journal = durable.as_ref().map(|_| Arc::clone(&state));
        let place = Place { files, letters: state, journal, clock: Arc::clone(&clock) as _ };
        let mut store = FileStore::open(place, &Files::default(), &DeadLetters::default(), 0).expect("room");
        for _ in 0..4 {
            clock.pass(ROUND_EVERY);
            store.clean_up(clock.wall());
        }
        let in_journal = durable.as_mut().map_or(0, |durable| durable.found());
        let all = if was_durable { 8 } else { 3 };
        let case = format!("{was_durable} {is_durable} {had_state}");
        assert_eq!(store.usage().spans + in_journal, all, "{case}");
        assert_eq!(store.dead_letter_ids().expect("a well disk").len(), 1, "{case}");
        if in_journal == 0 {
            assert_eq!(names(&disk), ["0000000000000002"], "{case}");
        }
    }
}

/// The directory of the state vanishes, the one of the files does not.
#[test]
fn a_state_directory_that_vanishes_takes_no_content_of_the_other_one_along() {
    let (state, files, clock) = (Disk::new(), Disk::new(), Clocks::new());
    let before = home(&files, 1);
    let mut durable = journal(&before, &clock);
    durable.append(&batch(1, 5)).expect("room");
    durable.sync().expect("durable");
    drop((durable, before));
    // The journal is opened, and its batch becomes no file.
    files.set_capacity(Some(0));
    let (state_home, files_home) = (home(&state, 2), home(&files, 2));
    let mut store = store(&files_home, &state_home, &clock);
    assert!(state.remove_tree("0000000000000002"));
    for _ in 0..3 {
        clock.pass(ROUND_EVERY);
        store.clean_up(clock.wall());
        files.set_capacity(None);
    }
    assert_eq!(store.usage().spans, 5);
    assert_eq!(names(&state), ["0000000000000003"]);
}

/// Two processes write files in the same millisecond. One is killed between the announcement of its file and the file.
#[test]
fn a_file_of_another_process_is_not_the_one_that_was_announced() {
    let (disk, clock) = (Disk::new(), Clocks::new());
    let (dying, own) = (home(&disk, 1), home(&disk, 2));
    let mut journal_of_dead = journal(&dying, &clock);
    journal_of_dead.append(&batch(1, 3)).expect("room");
    let mut durable = journal(&own, &clock);
    let file_store = |home: &Arc<Home<MemoryDir>>| {
        let (files, letters, journal) = (Arc::clone(home), Arc::clone(home), Some(Arc::clone(home)));
        let place = Place { files, letters, journal, clock: Arc::clone(&clock) as _ };
        FileStore::open(place, &Files::default(), &DeadLetters::default(), 0).expect("room")
    };
    let (mut files, mut files_of_dead) = (file_store(&own), file_store(&dying));
    let announced = files_of_dead.store(&[batch(1, 3)], clock.wall()).expect("room").name;
    disk.root()
        .existing_subdirectory("0000000000000001")
        .expect("ours")
        .expect("there")
        .existing_subdirectory("fallback")
        .expect("ours")
        .expect("there")
        .remove(&announced)
        .expect("there");
    journal_of_dead.announce(&announced, &[batch(1, 3).id()]).expect("room");
    journal_of_dead.sync().expect("durable");
    files.store(&[batch(2, 3)], clock.wall()).expect("room");
    drop((files_of_dead, journal_of_dead, dying));
    clock.pass(ROUND_EVERY);
    durable.maintain(&mut |_| Ok(false)).expect("a well disk");
    assert_eq!(durable.found(), 3, "the batch is in no file");
}

#[test]
fn a_process_that_stores_letters_alone_shows_other_machines_that_it_is_alive() {
    let (disk, clock) = (Disk::new(), Clocks::new());
    disk.set_reach(Reach::NetworkWithLocalLocks);
    let mut seconds = 1_000;
    let mut pass = |time: Duration| {
        seconds += time.as_secs();
        disk.set_now(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        clock.pass(time);
    };
    pass(Duration::ZERO);
    let own = home_on(&disk, 0, 1);
    let mut store = store(&own, &own, &clock);
    assert_eq!(store.next_clean_up(), None, "it sleeps");
    pass(Duration::from_secs(3_600));
    assert_eq!(store.store_dead_letters(&[refusal(&batch(1, 2))], "endpoint", clock.wall()), Some(1));
    let other = home_on(&disk, 1, 2);
    for _ in 0..6 {
        assert_eq!(round(&other, clock.now()), 0, "its process is alive");
        let due = store.next_clean_up().expect("letters are stored");
        assert!(due <= BEAT_EVERY, "{due:?}");
        pass(due);
        store.clean_up(clock.wall());
    }
    assert_eq!(store.dead_letter_ids().expect("a well disk").len(), 1);
    pass(HEARTBEAT_TIMEOUT + Duration::from_secs(1));
    assert_eq!(round(&other, clock.now()), 1, "it shows no life any more");
}
