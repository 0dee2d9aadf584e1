use std::time::{Duration, Instant, SystemTime};

use safe_dir::sim::{Crash, Disk, Fault, Faults, Faulty, MemoryDir};
use safe_dir::{File as _, Machine};

use super::*;
use crate::report::outage_records::{Numbers, Records};
use crate::report::position::Position;
use crate::seams::clock::{Clock as _, SystemClock};
use crate::stores::old_layout::OldLayout;

/// The files of a process, and the warning about those that it has found.
fn opened(disk: &Disk, incarnation: u64, faults: &Faults) -> (OutageFiles<Faulty<MemoryDir>>, Option<String>) {
    let machine = Machine { boot_id: "boot".to_owned(), host: "host".to_owned() };
    let (disk, faults) = (disk.clone(), faults.clone());
    let open = Box::new(move || Ok(Faulty::new(disk.root(), faults.clone())));
    let old = OldLayout::new(Vec::new(), None);
    let home = Home::open(open, "shop".to_owned(), machine, incarnation, 1 << 30, old).expect("a directory").0;
    OutageFiles::open(Arc::new(home))
}

fn process(disk: &Disk, incarnation: u64) -> OutageFiles<Faulty<MemoryDir>> {
    let (files, warning) = opened(disk, incarnation, &Faults::none());
    assert_eq!(warning, None);
    files
}

/// Outages of these seconds; one that has not ended has no second number.
fn outages(times: &[(u64, Option<u64>)]) -> Vec<(u64, OutageRecord)> {
    let wall = |seconds| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
    let (mut records, now): (_, Instant) = (Records::default(), SystemClock.now());
    for (from, to) in times {
        records.on_began(Position::PRIMARY, wall(*from), "HTTP status 503".to_owned(), "wait");
        if let Some(to) = to {
            records.on_ended(Position::PRIMARY, now, wall(*to), Numbers { waited: *from, ..Numbers::default() });
        }
    }
    let all = records.all(|_| Numbers::default()).into_iter();
    all.map(|recorded| (recorded.number, recorded.of("http://collector:4317"))).collect()
}

/// Begin, end and interruption of each record, in seconds.
fn times<D: Directory>(files: &OutageFiles<D>) -> Vec<(u64, Option<u64>, bool)> {
    let seconds = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).expect("later").as_secs();
    let of = |record: OutageRecord| (seconds(record.from.expect("known")), record.to.map(seconds), record.interrupted);
    files.earlier().into_iter().map(of).collect()
}

fn names(disk: &Disk) -> Vec<String> {
    let dir = disk.root().existing_subdirectory("outages").expect("readable").expect("made");
    let mut names: Vec<_> =
        dir.list().expect("readable").into_iter().filter_map(|e| e.name.into_string().ok()).collect();
    names.sort();
    names
}

fn put(disk: &Disk, name: &str, text: &[u8]) {
    let dir = disk.root().subdirectory("outages").expect("room");
    let mut file = dir.create(name).expect("new");
    file.write_all(text).and_then(|()| file.sync()).expect("room");
}

#[test]
fn the_next_process_has_the_records_and_those_of_an_open_outage_are_interrupted() {
    let disk = Disk::new();
    let mut first = process(&disk, 1);
    assert_eq!(times(&first), []);
    first.keep(outages(&[(10, Some(20)), (30, None)])).expect("room");
    assert_eq!(times(&process(&disk, 2)), [], "the first process lives");
    drop(first);
    let mut third = process(&disk, 3);
    assert_eq!(times(&third), [(10, Some(20), false), (30, None, true)]);
    assert_eq!(third.earlier()[0].waited, 10);
    assert_eq!(names(&disk), ["0000000000000001.json"], "nothing is written before a record of its own");
    third.keep(outages(&[(50, Some(60))])).expect("room");
    assert_eq!(names(&disk), ["0000000000000003.json"]);
    drop(third);
    assert_eq!(times(&process(&disk, 4)), [(10, Some(20), false), (30, None, true), (50, Some(60), false)]);
}

#[test]
fn forty_outages_leave_the_newest_thirty_two_however_many_processes_had_them() {
    let disk = Disk::new();
    for incarnation in 0..8 {
        let mut files = process(&disk, incarnation);
        let own = (0..5).map(|at| (100 * incarnation + 10 * at, Some(100 * incarnation + 10 * at + 5)));
        files.keep(outages(&own.collect::<Vec<_>>())).expect("room");
    }
    let last = process(&disk, 9);
    let begins: Vec<_> = times(&last).into_iter().map(|(from, ..)| from).collect();
    let all: Vec<_> = (0..8).flat_map(|process| (0..5).map(move |at| 100 * process + 10 * at)).collect();
    assert_eq!(begins, all[8..]);
    assert_eq!(names(&disk).len(), 1);
}

#[test]
fn two_processes_at_once_lose_no_record_of_the_one_before_and_none_appears_twice() {
    let disk = Disk::new();
    process(&disk, 1).keep(outages(&[(10, Some(20))])).expect("room");
    let (mut second, mut third) = (process(&disk, 2), process(&disk, 3));
    second.keep(outages(&[(31, Some(40))])).expect("room");
    third.keep(outages(&[(32, Some(40))])).expect("room");
    assert_eq!(names(&disk), ["0000000000000002.json", "0000000000000003.json"]);
    drop((second, third));
    assert_eq!(times(&process(&disk, 4)), [(10, Some(20), false), (31, Some(40), false), (32, Some(40), false)]);
}

/// The disk fails from any call on, and the power is cut: the records of before are left, or all.
#[test]
fn a_failure_at_any_call_and_a_power_cut_lose_no_record_that_was_kept() {
    for crash in [Crash::Worst, Crash::Best] {
        for call in 1.. {
            let (disk, faults) = (Disk::new(), Faults::none());
            process(&disk, 1).keep(outages(&[(10, Some(20))])).expect("room");
            let mut second = opened(&disk, 2, &faults).0;
            faults.plan(call, Fault::TornWrite(5), true);
            let is_kept = second.keep(outages(&[(30, Some(40))])).is_ok();
            drop(second);
            disk.crash(crash);
            let found = times(&process(&disk, 3));
            let both = [(10, Some(20), false), (30, Some(40), false)];
            assert!(found == both || !is_kept && found == both[..1], "call {call}, {crash:?}: {found:?}");
            if faults.fired() == 0 {
                assert!(call > 5, "{call}");
                break;
            }
        }
    }
}

#[test]
fn a_damaged_file_is_set_aside_with_one_warning_and_the_others_are_read() {
    let disk = Disk::new();
    process(&disk, 1).keep(outages(&[(10, Some(20))])).expect("room");
    put(&disk, "00000000000000aa.json", b"{\"version\":1,\"outages\":[{\"process\":\"x\"");
    put(&disk, "00000000000000ab.json", b"\0\0\0");
    put(&disk, "00000000000000ac.json", b"{\"version\":9,\"outages\":7}");
    put(&disk, "notes.txt", b"an operator's");
    put(&disk, ".tmp-00000000000000ad.json", b"{");
    let (files, warning) = opened(&disk, 2, &Faults::none());
    assert_eq!(times(&files), [(10, Some(20), false)]);
    let warning = warning.expect("a warning");
    assert!(warning.contains(".json is damaged") && warning.ends_with("/outages/unreadable"), "{warning}");
    let left = ["0000000000000001.json", "00000000000000ac.json", "notes.txt", "unreadable"];
    assert_eq!(names(&disk), left, "a newer version's file and an operator's stay");
    assert_eq!(opened(&disk, 3, &Faults::none()).1, None, "one warning");
}

#[test]
fn files_of_many_ended_processes_become_one() {
    let disk = Disk::new();
    let mut all: Vec<_> = (0..20).map(|incarnation| process(&disk, incarnation)).collect();
    for (at, files) in all.iter_mut().enumerate() {
        files.keep(outages(&[(10 * at as u64, Some(10 * at as u64 + 5))])).expect("room");
    }
    assert_eq!(names(&disk).len(), 20);
    drop(all);
    assert_eq!(times(&process(&disk, 77)).len(), 20);
    assert_eq!(names(&disk), ["000000000000004d.json"]);
}

#[test]
fn a_full_disk_is_an_error_and_leaves_the_records_of_before() {
    let disk = Disk::new();
    let mut first = process(&disk, 1);
    first.keep(outages(&[(10, Some(20))])).expect("room");
    disk.set_capacity(Some(0));
    first.keep(outages(&[(10, Some(20)), (30, Some(40))])).expect_err("no room");
    disk.set_capacity(None);
    drop(first);
    assert_eq!(times(&process(&disk, 2)), [(10, Some(20), false)]);
}

#[test]
fn a_cause_of_any_length_takes_a_kilobyte() {
    let disk = Disk::new();
    let mut first = process(&disk, 1);
    let mut records = outages(&[(10, Some(20))]);
    records[0].1.cause = "ä".repeat(100_000);
    first.keep(records).expect("room");
    drop(first);
    let cause = process(&disk, 2).earlier().remove(0).cause;
    assert!(cause.len() <= MAX_CAUSE + 2 && cause.ends_with("ä.."), "{}", cause.len());
}
