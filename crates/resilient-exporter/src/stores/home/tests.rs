use std::io::Write as _;
use std::sync::Arc;

use safe_dir::sim::{Disk, MemoryDir, Reach};
use safe_dir::{HEARTBEAT_TIMEOUT, SharedDir, publish};

use super::*;
use crate::proofs::spans::spans;
use crate::report::ledger::DropReason;
use crate::report::position::Position;
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

mod content;

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
    Refusal { payload: payload.clone(), endpoint: Position::PRIMARY, cause, attempts: 1, permanent: true }
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

/// A process that has found two batches of an ended one, 40 and 5 spans, and has read the first when another program
/// removes its directory.
fn after_the_loss_of_its_directory() -> (Disk, Arc<Clocks>, FileJournal<MemoryDir>) {
    let (disk, clock) = (Disk::new(), Clocks::new());
    let before = home(&disk, 1);
    let mut ended = journal(&before, &clock);
    ended.append(&batch(1, 40)).expect("room");
    ended.append(&batch(2, 5)).expect("room");
    ended.sync().expect("durable");
    drop((ended, before));
    let mut journal = journal(&home(&disk, 2), &clock);
    assert_eq!(journal.found(), 45);
    let first = journal.next_recovered(clock.wall());
    assert!(matches!(first, Recovered::Batch(payload) if payload.id() == batch(1, 40).id()));
    assert!(disk.remove_tree("0000000000000002"));
    (disk, clock, journal)
}

#[test]
fn a_batch_that_is_appended_again_is_not_found_again() {
    let (_, clock, mut journal) = after_the_loss_of_its_directory();
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
    let (disk, clock, mut journal) = after_the_loss_of_its_directory();
    let first = batch(1, 40);
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
