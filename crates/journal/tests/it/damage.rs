//! Segments with bytes that the journal did not write.

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;

use journal::{Journal, Notice, OpenError, ReadError};
use proptest::prelude::*;
use safe_dir::sim::{Crash, Disk, MemoryDir};
use safe_dir::{Directory as _, SafeDir};

use super::{SMALL, append, body, count, id, now, open, recovered, settle};

const FIRST: &str = "journal-000000000001-0000000000000007.seg";
const SECOND: &str = "journal-000000000002-0000000000000008.seg";

/// A disk with one segment of five batches of 300 bytes, synced, the second of them done.
fn five() -> Disk {
    let disk = Disk::new();
    let (mut journal, _) = open(disk.root());
    for seq in 1..=5 {
        append(&mut journal, id(seq), 300);
    }
    journal.done(&[id(2)]).expect("written");
    journal.sync().expect("synced");
    disk
}

fn names(dir: &MemoryDir) -> Vec<String> {
    dir.list().expect("readable").into_iter().filter_map(|entry| entry.name.into_string().ok()).collect()
}

/// The batches that can still be read, and the number of batches that turned out to be damaged when they were read.
fn salvage(journal: &mut Journal<MemoryDir>) -> (BTreeSet<u64>, usize) {
    let (mut whole, mut lost) = (BTreeSet::new(), 0);
    while let Some(batch) = journal.next_recovered(now()) {
        match batch {
            Ok(batch) => {
                assert_eq!(batch.body, body(batch.id, 300));
                assert!(whole.insert(batch.id.1), "given out once");
            }
            Err(ReadError::Damaged { .. }) => lost += 1,
            Err(error) => panic!("{error}"),
        }
    }
    (whole, lost)
}

#[test]
fn a_torn_tail_is_cut_at_every_byte() {
    let len = usize::try_from(five().root().metadata(FIRST).expect("there").len).expect("small");
    // Up to the body of the mark, whose last bytes are zeros in any case.
    for keep in 0..32 + 5 * 340 + 40 {
        for zeros in [false, true] {
            let disk = five();
            disk.tamper(FIRST, |bytes| {
                bytes.truncate(keep);
                bytes.resize(if zeros { len } else { keep }, 0);
            });
            let (mut journal, report) = open(disk.root());
            let whole = keep.saturating_sub(32) / 340;
            let expected: BTreeSet<u64> = (1..=whole.min(5) as u64).collect();
            assert_eq!(salvage(&mut journal), (expected, 0), "cut to {keep}, zeros: {zeros}");
            assert_eq!(
                (report.damaged, report.torn_bytes > 0),
                (0, zeros || (keep > 0 && (keep < 32 || (keep - 32) % 340 != 0)))
            );
        }
    }
}

#[test]
fn one_damaged_byte_costs_one_record_and_its_file_is_set_aside() {
    let len = usize::try_from(five().root().metadata(FIRST).expect("there").len).expect("small");
    for at in 0..len {
        let disk = five();
        disk.tamper(FIRST, |bytes| bytes[at] ^= 0x10);
        let (mut journal, report) = open(disk.root());
        let (whole, lost) = salvage(&mut journal);
        let hit = at.checked_sub(32).map(|at| at / 340 + 1);
        let expected: BTreeSet<u64> = match hit {
            None => [1, 3, 4, 5].into(),
            // The mark itself is damaged: its batch comes back.
            Some(6) => [1, 2, 3, 4, 5].into(),
            Some(hit) => [1, 3, 4, 5].into_iter().filter(|seq| *seq != hit as u64).collect(),
        };
        assert_eq!(whole, expected, "byte {at}");
        let noticed = report.damaged + report.torn + lost;
        // The bodies of batches that are done are not read.
        assert!(noticed == 1 || hit == Some(2), "byte {at}: noticed {noticed} times");
        assert!(count(&mut journal, |notice| matches!(notice, Notice::Lost { .. })) == lost);
        if report.damaged > 0 || lost > 0 {
            settle(&mut journal).expect("a well disk");
            let quarantine = disk.root().subdirectory("quarantine").expect("there");
            assert_eq!(names(&quarantine), [FIRST], "byte {at}");
            assert!(!names(&disk.root()).contains(&FIRST.to_owned()));
            assert_eq!(count(&mut journal, |notice| matches!(notice, Notice::SetAside { .. })), 1);
        }
        // The other batches are durable in another segment.
        drop(journal);
        disk.crash(Crash::Worst);
        let (mut journal, _) = open(disk.root());
        assert_eq!(salvage(&mut journal).0, expected, "byte {at}, afterwards");
    }
}

#[test]
fn a_record_inside_a_body_is_not_one() {
    let disk = Disk::new();
    let (mut journal, _) = open(disk.root());
    append(&mut journal, id(1), 100);
    journal.sync().expect("synced");
    let mut inner = Vec::new();
    disk.tamper(FIRST, |bytes| inner = bytes[32..].to_vec());
    journal.append(id(2), 1, &inner).expect("appended");
    append(&mut journal, id(3), 100);
    journal.sync().expect("synced");
    drop(journal);
    // The header of the second record is damaged: the scan searches for the next one, through its body.
    disk.tamper(FIRST, |bytes| bytes[32 + 140 + 4] ^= 1);
    let (mut journal, report) = open(disk.root());
    assert_eq!(recovered(&mut journal).into_keys().collect::<Vec<_>>(), [id(1), id(3)]);
    assert_eq!((report.duplicates, report.damaged_places), (0, 1));
}

#[test]
fn a_copy_and_an_old_copy_bring_nothing_twice() {
    let disk = five();
    let mut copy = Vec::new();
    disk.tamper(FIRST, |bytes| copy = bytes.clone());
    drop(disk.root().create(SECOND).expect("made"));
    disk.tamper(SECOND, |bytes| *bytes = copy.clone());
    let (mut journal, report) = open(disk.root());
    assert_eq!(salvage(&mut journal), ([1, 3, 4, 5].into(), 0));
    assert_eq!((report.duplicates, report.batches), (5, 4));
    // One undamaged copy is enough.
    drop(journal);
    disk.tamper(FIRST, |bytes| bytes[32 + 50] ^= 1);
    let (mut journal, _) = open(disk.root());
    assert_eq!(salvage(&mut journal), ([1, 3, 4, 5].into(), 0));
}

#[test]
fn a_newer_version_is_refused_and_no_file_is_changed() {
    let disk = five();
    // A damaged segment beside the newer one, which an older journal would set aside.
    drop(disk.root().create(SECOND).expect("made"));
    disk.tamper(SECOND, |bytes| *bytes = vec![0xAB; 5_000]);
    disk.tamper(FIRST, |bytes| {
        bytes[8] = 9;
        let sum = crc32c::crc32c(&bytes[..28]);
        bytes[28..32].copy_from_slice(&sum.to_le_bytes());
    });
    let content = |name: &str| {
        let mut content = Vec::new();
        assert!(disk.tamper(name, |bytes| content = bytes.clone()));
        content
    };
    let before = (names(&disk.root()), content(FIRST), content(SECOND));
    let error = Journal::open(disk.root(), SMALL, 9, |_| Ok(false)).map(|_| ()).expect_err("refused");
    assert!(matches!(&error, OpenError::Newer { version: 9, path } if path.ends_with(FIRST)), "{error}");
    assert_eq!((names(&disk.root()), content(FIRST), content(SECOND)), before);
}

#[test]
fn segments_that_are_no_files_are_set_aside_and_other_names_stay() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let path = scratch.path().join("journal");
    let dir = || SafeDir::open(&path).expect("ours");
    let (mut journal, _) = open(dir());
    append(&mut journal, id(1), 10);
    journal.sync().expect("synced");
    drop(journal);
    std::fs::write(scratch.path().join("secret"), "secret").expect("written");
    symlink(scratch.path().join("secret"), path.join(SECOND)).expect("linked");
    std::fs::create_dir(path.join("journal-000000000003-0000000000000008.seg")).expect("made");
    std::fs::write(path.join("journal-ffffffffffff-0000000000000008.seg"), "no number of ours").expect("written");
    std::fs::write(path.join("notes.txt"), "hands off").expect("written");
    let (mut journal, report) = open(dir());
    assert_eq!((report.damaged, recovered(&mut journal).len()), (2, 1));
    assert_eq!(count(&mut journal, |notice| matches!(notice, Notice::SetAside { .. })), 2);
    assert!(path.join("notes.txt").exists() && path.join("journal-ffffffffffff-0000000000000008.seg").exists());
    assert_eq!(std::fs::read_to_string(scratch.path().join("secret")).expect("there"), "secret");
    append(&mut journal, id(9), 10);
    drop(journal);
    assert_eq!(open(dir()).1.damaged, 0, "told once");
}

#[test]
fn a_sparse_giant_does_not_delay_the_start() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    std::fs::File::create(scratch.path().join(SECOND)).and_then(|file| file.set_len(1 << 40)).expect("a sparse file");
    let (mut journal, report) = open(SafeDir::open(scratch.path()).expect("ours"));
    assert_eq!((report.damaged, report.batches), (1, 0));
    append(&mut journal, id(1), 10);
    journal.sync().expect("synced");
    assert!(scratch.path().join("quarantine").join(SECOND).exists());
}

/// A change to the bytes of a file.
fn harm() -> impl Strategy<Value = (u8, prop::sample::Index, Vec<u8>)> {
    (0..5_u8, any::<prop::sample::Index>(), prop::collection::vec(any::<u8>(), 1..200))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_a_segment_without_a_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..5_000),
        start in 0..3_usize,
    ) {
        let disk = five();
        disk.tamper(FIRST, |file| {
            // Before the random bytes: none of the segment's own, its header, or its header and first record.
            file.truncate([0, 32, 32 + 340][start]);
            file.extend_from_slice(&bytes);
        });
        let (mut journal, _) = open(disk.root());
        prop_assert!(salvage(&mut journal).0.is_subset(&[1].into()));
        append(&mut journal, (8, 9), 300);
        journal.sync().expect("synced");
        settle(&mut journal).expect("a well disk");
        drop(journal);
        let (mut journal, report) = open(disk.root());
        prop_assert_eq!(report.damaged, 0, "set aside or cut, once");
        prop_assert!(salvage(&mut journal).0.contains(&9));
    }

    #[test]
    fn harm_costs_only_the_records_that_it_changes(harms in prop::collection::vec(harm(), 1..4)) {
        let disk = five();
        let mut original = Vec::new();
        disk.tamper(FIRST, |bytes| original = bytes.clone());
        disk.tamper(FIRST, |bytes| {
            for (kind, at, junk) in &harms {
                let at = at.index(bytes.len() + 1);
                let end = (at + junk.len()).min(bytes.len());
                match kind {
                    0 => bytes.truncate(at),
                    1 => bytes[at..end].copy_from_slice(&junk[..end - at]),
                    2 => bytes[at..end].fill(0),
                    3 => drop(bytes.splice(at..at, junk.iter().copied())),
                    _ => drop(bytes.drain(at..end)),
                }
            }
        });
        let mut now = Vec::new();
        disk.tamper(FIRST, |bytes| now = bytes.clone());
        let (mut journal, _) = open(disk.root());
        let (whole, _) = salvage(&mut journal);
        for seq in 1..=5_u64 {
            let range = 32 + (usize::try_from(seq).expect("small") - 1) * 340..32 + usize::try_from(seq).expect("small") * 340;
            let untouched = now.get(range.clone()) == Some(&original[range]) && now[..32] == original[..32];
            prop_assert!(!untouched || seq == 2 || whole.contains(&seq), "{} is untouched", seq);
        }
    }
}
