//! The journal against a simple account of the batches that must be in it, over random histories with crashes, kills,
//! faults and a full disk.

use journal::{Config, Journal};
use proptest::prelude::*;
use safe_dir::sim::{Crash, Disk, Fault, Faults, Faulty, MemoryDir};
use safe_dir::{Directory as _, Locked};

use super::{Account, SMALL};

#[derive(Clone, Debug)]
enum Step {
    Append(usize),
    Done(usize, usize),
    Sync,
    /// Ends all faults, and reads a batch back.
    Read(usize),
    Spill(usize, bool),
    Maintain,
    /// Begins the next segment ahead.
    Prepare,
    /// A power cut, which takes data that was not synced.
    Crash(Crash),
    /// The end of the process.
    Kill,
    /// A fault at a later call to the disk.
    Fault(u64, Fault, bool),
    /// The next syncs of files fail, and their data is lost.
    FailSyncs(u32),
    /// Ends all faults.
    Well,
    /// Limits the free bytes of the disk.
    Room(u64),
    /// Sets the limit of the journal.
    Limit(u64),
    /// Removes the oldest finished segment, on a well disk.
    RemoveOldest,
    /// Another program removes the directory.
    Vanish,
    /// Another program removes a segment.
    RemoveSegment(usize, Notices),
    /// The end of the process, and a changed byte in a segment that was finished.
    Damage(usize, usize),
}

/// The call that notices a removed segment.
#[derive(Clone, Copy, Debug)]
enum Notices {
    Maintain,
    Sync,
    RemoveOldest,
}

fn notices() -> impl Strategy<Value = Notices> {
    prop_oneof![Just(Notices::Maintain), Just(Notices::Sync), Just(Notices::RemoveOldest)]
}

fn crash() -> impl Strategy<Value = Crash> {
    prop_oneof![Just(Crash::Worst), Just(Crash::Best), any::<u64>().prop_map(Crash::Random)]
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![Just(Fault::Errno(5)), Just(Fault::TornWrite(28)), Just(Fault::ShortWrite)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => prop_oneof![4 => 0..600_usize, 1 => 2_000..6_000_usize].prop_map(Step::Append),
        6 => (any::<usize>(), 1..6_usize).prop_map(|(pick, many)| Step::Done(pick, many)),
        5 => Just(Step::Sync),
        2 => any::<usize>().prop_map(Step::Read),
        6 => (any::<usize>(), prop::bool::weighted(0.2)).prop_map(|(pick, fails)| Step::Spill(pick, fails)),
        4 => Just(Step::Maintain),
        3 => Just(Step::Prepare),
        2 => crash().prop_map(Step::Crash),
        1 => Just(Step::Kill),
        2 => (1..12_u64, fault(), prop::bool::weighted(0.2)).prop_map(|(nth, fault, lasts)| Step::Fault(nth, fault, lasts)),
        1 => (1..4_u32).prop_map(Step::FailSyncs),
        2 => Just(Step::Well),
        1 => (0..20_000_u64).prop_map(Step::Room),
        1 => (0..40_000_u64).prop_map(Step::Limit),
        1 => Just(Step::RemoveOldest),
        1 => Just(Step::Vanish),
        1 => (any::<usize>(), notices()).prop_map(|(pick, notices)| Step::RemoveSegment(pick, notices)),
        1 => (any::<usize>(), any::<usize>()).prop_map(|(which, at)| Step::Damage(which, at)),
    ]
}

type Dir = Faulty<MemoryDir>;

fn home(disk: &Disk) -> MemoryDir {
    disk.root().subdirectory("journal").expect("a well disk")
}

/// The names of the segments, oldest first.
fn segments(disk: &Disk) -> Vec<String> {
    let names = home(disk).list().expect("readable").into_iter().filter_map(|entry| entry.name.into_string().ok());
    names.filter(|name| name.starts_with("journal-")).collect()
}

fn heal(disk: &Disk, faults: &Faults) {
    faults.clear();
    disk.fail_syncs(0);
    disk.set_capacity(None);
}

/// Removes the directory; the journal goes on in a new one, and the caller appends half of the lost batches again.
fn vanish(account: &mut Account, journal: &mut Journal<Dir>, disk: &Disk, faults: &Faults) {
    let is_synced = journal.status().unsynced_bytes == 0;
    assert!(disk.remove_tree("journal"));
    disk.root().sync().expect("a well disk");
    match journal.sync() {
        Ok(()) => assert!(is_synced, "records became durable in a removed directory"),
        Err(error) => assert!(error.is_vanished(), "{error}"),
    }
    journal.maintain().expect_err("the directory is gone");
    assert!(journal.status().vanished);
    let lost = journal.renew(Locked::new(Faulty::new(home(disk), faults.clone())).expect("free"));
    account.forget(lost.iter().map(|(id, _)| *id));
    assert!(account.sync(journal), "a well disk");
    for (id, _) in lost.into_iter().step_by(2) {
        account.done_durably.remove(&id);
        account.append_as(journal, id);
    }
}

/// Removes one segment behind the journal's back. The next call that notices is a maintenance, a sync, or the removal
/// of the oldest segment.
fn remove_segment(account: &mut Account, journal: &mut Journal<Dir>, disk: &Disk, pick: usize, notices: Notices) {
    let names = segments(disk);
    let Some(name) = names.get(pick % names.len().max(1)) else { return };
    home(disk).remove(name).expect("there");
    account.uncounted = true;
    match notices {
        Notices::Maintain => drop(journal.maintain()),
        Notices::Sync => journal.sync().expect("a well disk"),
        Notices::RemoveOldest => {
            let removed = journal.remove_oldest_finished().expect("a well disk").unwrap_or_default();
            account.forget(removed.into_iter().map(|(id, _)| id));
        }
    }
    // Its marks are written once more, or the segments with their batches go.
    super::settle(journal).expect("a well disk");
    let synced = journal.sync();
    account.forget(journal.take_vanished().into_iter().map(|(id, _)| id));
    synced.expect("a well disk");
    account.check(journal);
    assert!(account.sync(journal));
    super::settle(journal).expect("a well disk");
}

/// Opens the journal; where a fault prevents that, ends all faults and opens it.
fn open(account: &mut Account, disk: &Disk, faults: &Faults, crashed: bool) -> Journal<Dir> {
    let mend = || faults.clear();
    if let Some(journal) = account.open(Faulty::new(home(disk), faults.clone()), crashed, mend) {
        return journal;
    }
    faults.clear();
    disk.fail_syncs(0);
    account.open(Faulty::new(home(disk), faults.clone()), crashed, mend).expect("a well disk opens")
}

/// Runs the steps, checks the journal after each, and marks all batches as done at the end.
fn play(config: Config, script: Vec<Step>) {
    let (disk, faults, mut account) = (Disk::new(), Faults::none(), Account::new(config));
    // Of two copies of a batch one may be damaged: without the other one, the journal would count the batch as lost.
    let mut was_damaged = false;
    let mut journal = open(&mut account, &disk, &faults, false);
    for step in script {
        match step {
            Step::Append(len) => drop(account.append(&mut journal, len)),
            Step::Done(pick, many) => account.done(&mut journal, pick, many),
            Step::Sync => drop(account.sync(&mut journal)),
            Step::Read(pick) => {
                faults.clear();
                account.read(&mut journal, pick);
            }
            Step::Spill(pick, fails) => account.spill(&mut journal, pick, fails),
            Step::Maintain => {
                drop(journal.maintain());
                account.check(&journal);
            }
            Step::Prepare => {
                drop(journal.prepare());
                account.check(&journal);
            }
            Step::Crash(crash) => {
                disk.crash(crash);
                drop(journal);
                journal = open(&mut account, &disk, &faults, true);
            }
            Step::Kill => {
                // After a failure some batches are in memory only.
                let trouble = journal.status().trouble;
                drop(journal);
                journal = open(&mut account, &disk, &faults, trouble);
            }
            Step::Fault(nth, fault, lasts) => {
                disk.fail_syncs(0);
                faults.plan(nth, fault, lasts);
            }
            // Not together with another fault: data that the disk lost, and whose loss no name could record, is lost
            // for the next process too.
            Step::FailSyncs(count) => {
                faults.clear();
                disk.fail_syncs(count);
            }
            Step::Well => {
                heal(&disk, &faults);
                journal.set_max_bytes(config.max_bytes);
            }
            Step::Limit(bytes) => journal.set_max_bytes(bytes),
            Step::RemoveOldest | Step::RemoveSegment(..) if was_damaged => {}
            Step::RemoveOldest => {
                heal(&disk, &faults);
                let removed = journal.remove_oldest_finished().expect("a well disk").unwrap_or_default();
                account.forget(removed.into_iter().map(|(id, _)| id));
                assert!(account.sync(&mut journal));
            }
            Step::Vanish => {
                heal(&disk, &faults);
                vanish(&mut account, &mut journal, &disk, &faults);
            }
            Step::RemoveSegment(pick, notices) => {
                heal(&disk, &faults);
                remove_segment(&mut account, &mut journal, &disk, pick, notices);
            }
            Step::Damage(pick, at) => {
                heal(&disk, &faults);
                assert!(account.sync(&mut journal));
                drop(journal);
                // Segments without a whole record finish none: a header takes 32 bytes, and the shortest record 40.
                let has_record = |name: &String| home(&disk).metadata(name).expect("there").len >= 32 + 40;
                let mut finished: Vec<_> = segments(&disk).into_iter().filter(has_record).collect();
                finished.pop();
                finished.retain(|name| name.ends_with(".seg"));
                if let Some(name) = finished.get(pick % finished.len().max(1)) {
                    (account.harmed, was_damaged) = (true, true);
                    disk.tamper(&format!("journal/{name}"), |bytes| {
                        if !bytes.is_empty() {
                            let at = at % bytes.len();
                            bytes[at] ^= 4;
                        }
                    });
                }
                journal = open(&mut account, &disk, &faults, false);
                // One damage at a time: a segment and its account would be two.
                super::settle(&mut journal).expect("a well disk");
                assert!(account.sync(&mut journal));
            }
            Step::Room(left) => {
                disk.set_capacity(Some(journal.status().bytes + left));
            }
        }
    }
    // Without faults the journal works as if none had occurred, and in the end no segment is left.
    heal(&disk, &faults);
    journal.set_max_bytes(config.max_bytes);
    // A small journal may be full.
    let room = config.max_bytes > 100 * SMALL.segment_bytes;
    assert!(account.append(&mut journal, 100) || !room);
    assert!(account.sync(&mut journal));
    disk.crash(Crash::Worst);
    drop(journal);
    let mut journal = open(&mut account, &disk, &faults, true);
    let waiting: Vec<_> = account.waiting.keys().copied().collect();
    assert!(!waiting.is_empty() || !room);
    account.mark(&mut journal, &waiting);
    assert!(account.sync(&mut journal));
    super::settle(&mut journal).expect("a well disk");
    assert!(account.append(&mut journal, 100), "there is room again");
    account.done(&mut journal, 0, 1);
    drop(journal);
    let mut journal = open(&mut account, &disk, &faults, false);
    super::settle(&mut journal).expect("a well disk");
    assert_eq!(segments(&disk).len(), 0);
}

proptest! {
    // PROPTEST_CASES may ask for more.
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(2_000), ..ProptestConfig::default() })]

    #[test]
    fn synced_batches_come_back_and_done_ones_do_not(script in prop::collection::vec(step(), 0..150)) {
        play(SMALL, script);
    }

    #[test]
    fn synced_batches_come_back_from_the_smallest_journal(script in prop::collection::vec(step(), 0..150)) {
        play(Config { max_bytes: 2 * SMALL.segment_bytes, ..SMALL }, script);
    }
}

/// A segment whose first sync fails is removed, the process is killed before the removal is durable, and the next
/// process finds an empty journal. A power cut after that must not bring the segment back.
#[test]
fn a_removal_that_a_kill_cut_short_is_durable_once_the_journal_is_open() {
    for seed in (0..200).chain([6_524_693_265_533_844_037]) {
        let script = vec![
            Step::Append(0),
            Step::Done(0, 1),
            Step::Crash(Crash::Best),
            Step::Fault(10, Fault::Errno(5), false),
            Step::Append(0),
            Step::Spill(0, false),
            // Makes the name of the new segment durable, as it removes an old one.
            Step::Maintain,
            Step::Append(0),
            Step::Spill(5, false),
            Step::Append(0),
            Step::Sync,
            Step::Kill,
            Step::Crash(Crash::Random(seed)),
        ];
        play(SMALL, script);
    }
}

/// Plays the script once for each of these bytes of the first segment, damaged in the end.
fn damage_each(config: Config, script: &[Step], bytes: impl Iterator<Item = usize>) {
    for at in bytes {
        play(config, script.iter().cloned().chain([Step::Damage(0, at)]).collect());
    }
}

/// The directory of the journal vanishes while a spill of two batches is announced, one of which is lost and appended
/// again; the file gets the other one. No byte decides alone that the first one is in the file too.
#[test]
fn a_batch_that_vanished_from_a_spill_is_not_taken_for_one_in_its_file() {
    let script = [
        Step::Append(3_387),
        Step::Append(598),
        Step::Spill(0, false),
        Step::Vanish,
        Step::Spill(1, false),
        Step::Append(2_000),
        Step::Append(0),
        Step::Spill(1, false),
        Step::Append(0),
    ];
    damage_each(SMALL, &script, (32..809).step_by(7));
}

/// A full disk takes no byte of two new segments, and a power cut brings their names back. The segment before them is
/// whole all the same, so damage at its end is a loss, not a torn end.
#[test]
fn names_without_a_record_do_not_make_the_end_of_the_segment_before_a_torn_one() {
    let script = [
        Step::Append(0),
        Step::Append(3_985),
        Step::Append(0),
        Step::Vanish,
        Step::Append(3_945),
        Step::Append(0),
        Step::FailSyncs(1),
        Step::Room(0),
        Step::Crash(Crash::Random(2_884_244_460_965_812_751)),
        Step::Append(0),
        Step::Append(0),
        Step::Crash(Crash::Random(6_261_296_640_586_813_946)),
    ];
    damage_each(Config { max_bytes: 2 * SMALL.segment_bytes, ..SMALL }, &script, (32..4_057).step_by(31));
}
