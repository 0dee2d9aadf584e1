//! Damage in a history of several segments: a finished one was synced as a whole, so that nothing in it is missing
//! without a count.

use std::collections::BTreeMap;

use journal::{Config, Journal, Notice, OpenError, ReadError, Report};
use safe_dir::Directory as _;
use safe_dir::sim::{Crash, Disk, MemoryDir};

use super::sectors::BadSectors;
use super::{SMALL, append, body, count, id, now, open, recovered, settle};

const LEN: usize = 300;
const RECORD: usize = 40 + LEN;

/// Eleven in each of three segments.
const APPENDED: u64 = 33;

fn name(number: u64) -> String {
    format!("journal-{number:012x}-0000000000000007.seg")
}

/// Three segments of batches, all of them synced; the bytes of each segment, and the number of batches in all.
fn history() -> (Disk, Vec<Vec<u8>>, u64) {
    let disk = Disk::new();
    let (mut journal, _) = open(disk.root());
    for seq in 1..=APPENDED {
        append(&mut journal, id(seq), LEN);
    }
    journal.sync().expect("synced");
    drop(journal);
    let bytes = (1..=3).map(|number| content(&disk, &name(number))).collect();
    (disk, bytes, APPENDED)
}

fn content(disk: &Disk, name: &str) -> Vec<u8> {
    let mut content = Vec::new();
    assert!(disk.tamper(name, |bytes| content = bytes.clone()), "{name}");
    content
}

/// The batches with this content of the three segments, and the batches and items that were counted as lost.
struct Outcome {
    whole: BTreeMap<u64, Vec<u8>>,
    lost_batches: u64,
    lost_items: u64,
    report: Report,
    journal: Journal<MemoryDir>,
    disk: Disk,
}

fn outcome(segments: &[Vec<u8>]) -> Outcome {
    let disk = Disk::new();
    for (number, bytes) in (1..).zip(segments) {
        drop(disk.root().create(&name(number)).expect("made"));
        disk.tamper(&name(number), |file| file.clone_from(bytes));
    }
    disk.root().sync().expect("synced");
    let (mut journal, report) = open(disk.root());
    let (mut whole, mut lost_batches, mut lost_items) = (BTreeMap::new(), report.lost_batches, report.lost_items);
    while let Some(batch) = journal.next_recovered(now()) {
        match batch {
            Ok(batch) => assert!(whole.insert(batch.id.1, batch.body).is_none(), "given out once"),
            Err(ReadError::Damaged { count, .. }) => {
                lost_batches += 1;
                lost_items += u64::from(count);
            }
            Err(error) => panic!("{error}"),
        }
    }
    Outcome { whole, lost_batches, lost_items, report, journal, disk }
}

#[derive(Clone, Copy, Debug)]
enum Harm {
    Flip,
    Zero,
    Cut,
    Insert(usize),
    Remove(usize),
}

impl Harm {
    fn apply(self, bytes: &mut Vec<u8>, at: usize) {
        match self {
            Self::Flip => bytes[at] ^= 0x21,
            Self::Zero => {
                let end = (at + 64).min(bytes.len());
                bytes[at..end].fill(0);
            }
            Self::Cut => bytes.truncate(at),
            Self::Insert(len) => drop(bytes.splice(at..at, (0..len).map(|index| index as u8 | 1))),
            Self::Remove(len) => drop(bytes.drain(at..(at + len).min(bytes.len()))),
        }
    }
}

/// Harms at many positions: close together at the start of the segment, around each boundary between two records, and
/// some in each record.
fn harms(len: usize) -> impl Iterator<Item = (Harm, usize)> {
    let often = |at: usize| at < 32 + 40 + RECORD || at.is_multiple_of(5);
    let boundary = |at: usize, start: usize| at >= start && (at - start) % RECORD < 2;
    let rarely = move |at: usize| at < 80 || at.is_multiple_of(17) || boundary(at, 32) || boundary(at, 72);
    let flips = (0..len).filter(move |at| often(*at)).map(|at| (Harm::Flip, at));
    let others = [Harm::Zero, Harm::Cut, Harm::Insert(1), Harm::Insert(RECORD), Harm::Remove(RECORD)];
    let others =
        others.into_iter().flat_map(move |harm| (0..len).filter(move |at| rarely(*at)).map(move |at| (harm, at)));
    flips.chain(others).chain([(Harm::Insert(1), len), (Harm::Insert(500), len)])
}

#[test]
fn no_batch_of_a_finished_segment_is_missing_without_a_count() {
    let (_, original, appended) = history();
    for which in 0..2 {
        for (harm, at) in harms(original[which].len()) {
            let mut segments = original.clone();
            harm.apply(&mut segments[which], at);
            let is_changed = segments[which] != original[which];
            let outcome = outcome(&segments);
            let hint = format!("{harm:?} at {at} of segment {}", which + 1);
            let items = outcome.whole.len() as u64 * LEN as u64;
            assert_eq!(outcome.report.torn, 0, "{hint}");
            assert!(
                items + outcome.lost_items >= appended * LEN as u64,
                "{hint}: {} of {appended}",
                outcome.whole.len()
            );
            assert!(outcome.whole.len() as u64 + outcome.lost_batches >= appended, "{hint}");
            // Counted exactly: the next segment states the number of batches.
            assert!(items + outcome.lost_items <= appended * LEN as u64, "{hint}: too many");
            assert!(!is_changed || outcome.report.damaged + usize::from(outcome.lost_batches > 0) > 0, "{hint}");
            survivors(&outcome, &original, &segments, &hint);
        }
    }
}

/// All batches whose bytes stand unchanged at their place were found.
fn survivors(outcome: &Outcome, original: &[Vec<u8>], now: &[Vec<u8>], hint: &str) {
    let mut seq = 0;
    for (original, now) in original.iter().zip(now) {
        let start = if seq == 0 { 32 } else { 72 };
        for at in (start..original.len()).step_by(RECORD) {
            seq += 1;
            let range = at..at + RECORD;
            let untouched = now.get(range.clone()) == Some(&original[range]) && now.get(..32) == Some(&original[..32]);
            assert!(!untouched || outcome.whole.get(&seq) == Some(&body(id(seq), LEN)), "{hint}: {seq} is untouched");
        }
    }
}

#[test]
fn damage_of_the_last_segment_is_counted_unless_only_its_end_is_missing() {
    let (_, original, appended) = history();
    let before = appended - ((original[2].len() - 72) / RECORD) as u64;
    for (harm, at) in harms(original[2].len()) {
        let mut segments = original.clone();
        harm.apply(&mut segments[2], at);
        let outcome = outcome(&segments);
        let hint = format!("{harm:?} at {at} of the last segment");
        let found = outcome.whole.len() as u64;
        // The scan knows of one record where several in a row are damaged, and of none at a torn end.
        let last = outcome.whole.last_key_value().map_or(0, |(seq, _)| *seq);
        let holes = last - found > 0;
        assert!(!holes || outcome.lost_batches > 0, "{hint}: a gap before whole records");
        assert!(!holes || outcome.report.damaged + usize::from(outcome.lost_batches > 0) > 0, "{hint}");
        assert!(found >= before, "{hint}: other segments are untouched");
        if matches!(harm, Harm::Flip) && found < appended {
            let torn = outcome.report.torn as u64;
            assert_eq!(found + outcome.lost_batches + torn, appended, "{hint}: one record is gone");
        }
        survivors(&outcome, &original, &segments, &hint);
    }
}

#[test]
fn a_loss_is_counted_once_and_its_segment_is_set_aside_before_older_ones() {
    let (_, original, appended) = history();
    let mut segments = original;
    // The header of a batch in the second segment; the first one has waiting batches.
    segments[1][72 + RECORD + 20] ^= 1;
    let Outcome { report, mut journal, disk, .. } = outcome(&segments);
    assert_eq!((report.damaged, report.lost_batches, report.lost_items), (1, 1, LEN as u64));
    let missing =
        |notice: &Notice| matches!(notice, Notice::Missing { batches: 1, items: 300, name: of } if *of == name(2));
    assert_eq!(count(&mut journal, missing), 1);
    settle(&mut journal).expect("a well disk");
    assert_eq!(count(&mut journal, |notice| matches!(notice, Notice::SetAside { .. })), 1);
    let quarantine = disk.root().subdirectory("quarantine").expect("there");
    assert_eq!(quarantine.list().expect("readable").len(), 1);
    drop(journal);
    disk.crash(Crash::Worst);
    let (mut journal, report) = open(disk.root());
    assert_eq!((report.damaged, report.lost_batches), (0, 0), "counted once");
    assert_eq!(recovered(&mut journal).len() as u64, appended - 1);
}

#[test]
fn marks_of_a_damaged_segment_outlive_it() {
    let disk = Disk::new();
    let (mut journal, _) = open(disk.root());
    for seq in 1..=14 {
        append(&mut journal, id(seq), LEN);
    }
    // In the second segment, about the first one.
    journal.done(&[id(2), id(3)]).expect("written");
    for seq in 15..=30 {
        append(&mut journal, id(seq), LEN);
    }
    journal.sync().expect("synced");
    drop(journal);
    disk.tamper(&name(2), |bytes| bytes[72 + 20] ^= 1);
    let (mut journal, report) = open(disk.root());
    assert_eq!(report.lost_batches, 1);
    settle(&mut journal).expect("a well disk");
    drop(journal);
    disk.crash(Crash::Worst);
    let found: Vec<u64> = recovered(&mut open(disk.root()).0).into_keys().map(|id| id.1).collect();
    assert_eq!(found.len(), 30 - 2 - 1, "{found:?}");
    assert!(!found.contains(&2) && !found.contains(&3), "they were done");
}

#[test]
fn the_end_of_a_process_in_the_midst_of_a_write_is_no_damage_for_any_later_process() {
    for cut in [1, 39, 41, 200, RECORD - 1] {
        let disk = Disk::new();
        let (mut journal, _) = open(disk.root());
        for seq in 1..=3 {
            append(&mut journal, id(seq), LEN);
        }
        drop(journal);
        disk.tamper(&name(1), |bytes| bytes.truncate(bytes.len() - cut));
        for (start, seq) in (4..=6).enumerate() {
            let (mut journal, report) = open(disk.root());
            assert_eq!((report.damaged, report.lost_batches), (0, 0), "start {start}, cut {cut}");
            assert_eq!(report.torn, usize::from(start == 0));
            let id = (journal.incarnation(), seq);
            append(&mut journal, id, LEN);
        }
        assert_eq!(open(disk.root()).1.batches, 2 + 3);
    }
}

#[test]
fn a_torn_end_that_an_earlier_version_left_is_no_damage() {
    // Its next process wrote no account of the segment and did not cut it.
    let (_, segments, _) = history();
    let disk = Disk::new();
    let other = "journal-000000000002-0000000000000009.seg";
    for (name, bytes) in [(name(1).as_str(), &segments[0][..segments[0].len() - 10]), (other, &[])] {
        drop(disk.root().create(name).expect("made"));
        disk.tamper(name, |file| *file = bytes.to_vec());
    }
    let report = open(disk.root()).1;
    assert_eq!((report.damaged, report.lost_batches, report.torn), (0, 0, 1));
}

/// Replaces the version of a record and its checksum.
fn make_newer(bytes: &mut [u8], at: usize, number: u64) {
    bytes[at + 8] = 3;
    let salt = crc32c::crc32c_append(crc32c::crc32c(&7_u64.to_le_bytes()), &number.to_le_bytes());
    let place = crc32c::crc32c_append(salt, &(at as u64).to_le_bytes());
    let sum = crc32c::crc32c_append(place, &bytes[at..at + 32]);
    bytes[at + 32..at + 36].copy_from_slice(&sum.to_le_bytes());
}

/// A batch with a tag that the caller does not know belongs to a newer version of the caller.
#[test]
fn a_batch_with_an_unknown_tag_is_set_aside_untouched() {
    let disk = Disk::new();
    let (mut journal, _) = open(disk.root());
    for seq in 1..=5 {
        append(&mut journal, id(seq), LEN);
    }
    journal.sync().expect("a well disk");
    drop(journal);
    // Batch 2 has the tag 1, batch 4 the last tag that there is; the other three have none.
    let known = Config { known_tags: &[0], ..SMALL };
    let (mut journal, report) = Journal::open(disk.root(), known, 8, |_| Ok(false)).expect("it opens");
    assert_eq!((report.batches, report.newer, report.damaged, report.lost_batches), (3, 2, 0, 0));
    assert_eq!(recovered(&mut journal).keys().copied().collect::<Vec<_>>(), [id(1), id(3), id(5)]);
    journal.done(&[id(1), id(3), id(5)]).expect("a well disk");
    journal.sync().expect("a well disk");
    settle(&mut journal).expect("a well disk");
    let moved = |notice: &Notice| matches!(notice, Notice::Newer { version: 2, records: 2, .. });
    assert_eq!(count(&mut journal, moved), 1);
    drop(journal);
    let aside = disk.root().existing_subdirectory("quarantine").expect("readable").expect("there");
    assert_eq!(aside.list().expect("readable").len(), 1);
}

#[test]
fn a_record_of_a_newer_version_does_not_block_the_others_and_is_set_aside_untouched() {
    let (_, mut segments, appended) = history();
    make_newer(&mut segments[0], 32 + RECORD, 1);
    let Outcome { whole, lost_batches, report, mut journal, disk, .. } = outcome(&segments);
    assert_eq!((whole.len() as u64, lost_batches, report.damaged, report.newer), (appended - 1, 0, 0, 1));
    let named =
        |notice: &Notice| matches!(notice, Notice::Newer { version: 3, records: 1, name: of } if *of == name(1));
    assert_eq!(count(&mut journal, named), 1);
    settle(&mut journal).expect("a well disk");
    assert_eq!(content(&disk, &format!("quarantine/{}", name(1))), segments[0], "untouched");
    assert_eq!(open_again(journal, &disk), appended - 1);
}

fn open_again(journal: Journal<MemoryDir>, disk: &Disk) -> u64 {
    drop(journal);
    disk.crash(Crash::Worst);
    let (mut journal, report) = open(disk.root());
    assert_eq!((report.damaged, report.newer), (0, 0));
    recovered(&mut journal).len() as u64
}

#[test]
fn a_segment_that_the_disk_does_not_read_stays_and_holds_up_no_other() {
    let (disk, original, appended) = history();
    let sectors = BadSectors::default();
    for bad in [0..4_096_u64, 0..100, 700..1_000] {
        sectors.set(&name(2), bad.clone());
        let (mut journal, report) = open(sectors.dir(disk.root()));
        assert_eq!(report.kept.iter().map(|kept| kept.name.as_str()).collect::<Vec<_>>(), [name(2)], "{bad:?}");
        assert_eq!((report.damaged, report.lost_batches), (0, 0));
        let mut found = 0;
        // Batches that cannot be read come again behind the others.
        for batch in (0..2 * appended).map_while(|_| journal.next_recovered(now())) {
            match batch {
                Ok(_) => found += 1,
                Err(error) => assert!(matches!(error, ReadError::File(_)), "{error}"),
            }
        }
        let elsewhere = appended - ((original[1].len() - 72) / RECORD) as u64;
        assert!(found >= elsewhere, "{bad:?}: {found} of {elsewhere}");
        settle(&mut journal).expect("a well disk");
        drop(journal);
        assert_eq!(content(&disk, &name(2)), original[1], "{bad:?}");
    }
    // The disk reads it again: nothing is missing.
    sectors.clear();
    assert_eq!(recovered(&mut open(disk.root()).0).len() as u64, appended);
}

#[test]
fn a_journal_with_a_segment_that_stays_is_taken_over_and_not_removed() {
    let (disk, original, appended) = history();
    let sectors = BadSectors::default();
    sectors.set(&name(2), 0..5_000);
    let (mut other, _) = open(sectors.dir(disk.root()));
    let mut own = Journal::open(sectors.dir(Disk::new().root()), SMALL, 20, |_| Ok(false)).expect("it opens").0;
    let taken = own.take_over(&mut other, 1 << 20, now());
    let behind = (original[1].len() - 72) / RECORD;
    assert_eq!((taken.moved.len(), taken.is_empty), (usize::try_from(appended).expect("small") - behind, true));
    assert!(other.remove().expect("a well disk").is_none(), "its directory stays");
    sectors.clear();
    let (mut other, report) = open(sectors.dir(disk.root()));
    assert_eq!(report.batches, behind, "only these are left");
    assert_eq!(own.take_over(&mut other, 1 << 20, now()).moved.len(), behind);
    assert!(other.remove().expect("a well disk").is_some());
}

#[test]
fn a_journal_of_which_the_disk_reads_nothing_is_left_untouched() {
    let (disk, original, _) = history();
    let sectors = BadSectors::default();
    (1..=3).for_each(|number| sectors.set(&name(number), 0..1 << 20));
    let opened = Journal::open(sectors.dir(disk.root()), SMALL, 9, |_| Ok(false));
    assert!(matches!(opened.map(drop), Err(OpenError::File(_))));
    for (number, bytes) in (1..).zip(&original) {
        assert_eq!(content(&disk, &name(number)), *bytes);
    }
    let names = disk.root().list().expect("readable");
    assert_eq!(names.iter().filter(|entry| entry.name.to_string_lossy().starts_with("journal-")).count(), 3);
}

#[test]
fn a_file_that_was_synced_is_cut_at_its_torn_end_only() {
    let (disk, _, _) = history();
    let before = content(&disk, &name(3)).len();
    disk.tamper(&name(3), |bytes| bytes.extend_from_slice(&[0; 77]));
    drop(open(disk.root()));
    assert_eq!(content(&disk, &name(3)).len(), before);
}
