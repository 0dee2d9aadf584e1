//! Dead letters whose records are moved to a store.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;

use file_fallback::dead_letters::{DeadLetters, Letter, LetterError, RedriveError, Redriven};
use file_fallback::{FileFallback, Format, Record, SpillError};
use safe_dir::Directory;
use safe_dir::sim::{Crash, Disk, Fault, Faults, Faulty};

use crate::{FORMATS, at, config, count, drain, id_of, lines, next_group, once, records};

fn letter(reason: &str) -> Letter {
    Letter {
        signal: "traces".into(),
        status: "HTTP 400".into(),
        reason: reason.into(),
        endpoint: "http://localhost:4318/v1/traces".into(),
        attempts: 2,
        accepted: at(0),
        refused: at(3),
    }
}

type Both<D> = (FileFallback<Faulty<D>>, DeadLetters<Faulty<D>>);

/// A store of at most two files, and letters, on one disk.
fn open<D: Directory>(root: &D, faults: &Faults, format: Format) -> Option<Both<D>> {
    let dir = |name| Some(Faulty::new(root.subdirectory(name).ok()?, faults.clone()));
    let store = config(Path::new("unused")).with_max_files(2).with_max_bytes(10_000).with_format(format);
    let letters = DeadLetters::config("unused").with_free_space_reserve(0);
    Some((
        FileFallback::open_in(store.build().expect("valid"), dir("files")?).ok()?,
        DeadLetters::open_in(letters.build().expect("valid"), dir("letters")?).ok()?,
    ))
}

/// Redrives a letter; its lines become records of the format of the store.
fn redrive<D: Directory>((store, letters): &mut Both<D>, name: &str) -> Result<Redriven, RedriveError<Infallible>> {
    let format = store.config().format();
    letters.redrive(name, store, at(9), |_, lines| {
        let ids = lines.iter().map(|line| id_of(line).expect("as it was written"));
        Ok(ids.flat_map(|id| records([id], 60, format)).collect())
    })
}

fn names<D: Directory>((_, letters): &Both<D>) -> Vec<String> {
    letters.list().into_iter().map(|listed| listed.name).collect()
}

#[test]
fn a_redriven_letter_is_in_the_store_and_not_listed_any_more() {
    for format in FORMATS {
        let disk = Disk::new();
        let mut both = open(&disk.root(), &Faults::none(), format).expect("free");
        for first in [0, 3, 6] {
            drop(both.1.add(&letter(&format!("{first}")), &lines(first..first + 3, 60), at(0)).expect("room"));
        }
        let listed = names(&both);
        assert_eq!(both.1.describe(&listed[1]).expect("there"), letter("3"));
        let redriven = redrive(&mut both, &listed[1]).expect("room");
        redriven.removed.expect("removed");
        assert_eq!(redriven.spilled.count, both.0.stored().count);
        assert_eq!(names(&both), [listed[0].clone(), listed[2].clone()]);
        let again = redrive(&mut both, &listed[1]);
        assert!(matches!(again, Err(RedriveError::Letter(LetterError::Unknown { .. }))), "{again:?}");
        assert_eq!(drain(&mut both.0, 1_000), (once(3..6), 0));
    }
}

#[test]
fn a_letter_is_described_by_its_beginning() {
    let disk = Disk::new();
    let mut both = open(&disk.root(), &Faults::none(), Format::Lines).expect("free");
    let added = both.1.add(&letter("long"), &lines(0..100, 20_000), at(0)).expect("room");
    // Its end is cut off: `describe` does not read so far, `read` does.
    let path = format!("letters/{}", added.name);
    let cut = disk.tamper(&path, |bytes| bytes.truncate(bytes.len() - 9));
    assert!(cut, "{path}");
    assert_eq!(both.1.describe(&added.name).expect("its beginning stands"), letter("long"));
    assert!(matches!(both.1.read(&added.name), Err(LetterError::Damaged { .. })));
}

#[test]
fn without_room_the_letter_stays_and_no_file_is_removed_for_it() {
    let disk = Disk::new();
    let mut both = open(&disk.root(), &Faults::none(), Format::Lines).expect("free");
    let added = both.1.add(&letter("why"), &lines(0..3, 60), at(0)).expect("room").name;
    let refused = |both: &mut Both<_>, what: &str| {
        let before = both.0.stored();
        let error = redrive(both, &added).expect_err(what);
        assert_eq!((both.0.stored(), names(both)), (before, vec![added.clone()]), "{what}");
        error
    };
    // Too many bytes.
    drop(both.0.spill(&lines(10..11, 9_900), at(0)).expect("room"));
    let error = refused(&mut both, "bytes");
    assert!(matches!(error, RedriveError::Store(SpillError::Full { left: 1..100, .. })), "{error:?}");
    // Too many files.
    drop(drain(&mut both.0, 100_000));
    for id in 20..22 {
        drop(both.0.spill(&lines([id], 60), at(0)).expect("room"));
    }
    let error = refused(&mut both, "files");
    assert!(matches!(error, RedriveError::Store(SpillError::Full { left: 0, .. })), "{error:?}");
    // A full disk, by the free space that the file system reports.
    let group = next_group(&mut both.0, 1).expect("two files");
    both.0.acknowledge(group, |_| count(20) as u64).expect("durable");
    disk.set_capacity(Some(0));
    let error = refused(&mut both, "no free space");
    assert!(matches!(error, RedriveError::Store(SpillError::NoRoom { .. } | SpillError::File { .. })), "{error:?}");
    disk.set_capacity(None);
    redrive(&mut both, &added).expect("room again").removed.expect("removed");
    assert_eq!(drain(&mut both.0, 1_000), (once([0, 1, 2, 21]), 0));
}

#[test]
fn a_letter_that_the_caller_cannot_convert_stays() {
    let disk = Disk::new();
    let (mut store, mut letters) = open(&disk.root(), &Faults::none(), Format::Lines).expect("free");
    let added = letters.add(&letter("why"), &lines(0..3, 60), at(0)).expect("room").name;
    let error =
        letters.redrive(&added, &mut store, at(0), |_, _| Err::<Vec<Record>, _>("no JSON")).expect_err("of no use");
    assert_eq!(error.to_string(), "the dead letter cannot be used: no JSON");
    let error =
        letters.redrive(&added, &mut store, at(0), |_, _| Ok::<_, Infallible>(Vec::new())).expect_err("nothing");
    assert!(matches!(error, RedriveError::Store(SpillError::Empty)), "{error:?}");
    assert_eq!((letters.list().len(), store.stored().files), (1, 0));
}

/// How often each line of the letter is in the store and in the letters, read by a new process.
fn all_there<D: Directory>(root: &D, context: &str) -> BTreeMap<usize, usize> {
    let mut both = open(root, &Faults::none(), Format::Lines).expect("the disk is well");
    let (mut seen, rejected) = drain(&mut both.0, 1_000);
    assert_eq!(rejected, 0, "{context}: no half record");
    for name in names(&both) {
        for line in both.1.read(&name).expect("whole").1 {
            *seen.entry(id_of(&line).expect("as it was written")).or_default() += 1;
        }
    }
    assert!((0..3).all(|id| seen.contains_key(&id)), "{context}: {seen:?}");
    assert!(seen.values().all(|times| *times <= 2), "{context}: {seen:?}");
    seen
}

/// A fault at the n-th call, then a crash that loses everything unsynced, or none: the records are in the letter, in a
/// file of the store, or in both.
#[test]
fn a_fault_or_a_crash_at_any_call_leaves_the_letter_or_the_file() {
    let mut twice = 0;
    for (format, fault, persistent) in [
        (Format::Lines, Fault::Errno(5), true),
        (Format::Framed, Fault::Errno(5), false),
        (Format::Framed, Fault::TornWrite(28), true),
        (Format::Lines, Fault::TornWrite(28), false),
        (Format::Lines, Fault::Errno(24), false),
        (Format::Lines, Fault::ShortWrite, false),
    ] {
        for crash in [None, Some(Crash::Worst), Some(Crash::Best), Some(Crash::Random(7))] {
            for nth in 1.. {
                let context = format!("{format:?}, {fault:?}, persistent {persistent}, at call {nth}, {crash:?}");
                let (disk, faults) = (Disk::new(), Faults::none());
                let mut both = open(&disk.root(), &faults, format).expect("free");
                let name = both.1.add(&letter("why"), &lines(0..3, 60), at(0)).expect("room").name;
                faults.plan(nth, fault, persistent);
                let redriven = redrive(&mut both, &name);
                let fired = faults.fired() > 0;
                faults.clear();
                if crash.is_none() {
                    // The same process goes on and redrives once more: no record comes twice.
                    drop(both.1.clean_up(at(10)));
                    if redriven.is_err() {
                        let again = redrive(&mut both, &name).unwrap_or_else(|error| panic!("{context}: {error}"));
                        again.removed.unwrap_or_else(|error| panic!("{context}: {error}"));
                    }
                    assert_eq!(names(&both), Vec::<String>::new(), "{context}");
                }
                if let Some(crash) = crash {
                    disk.crash(crash);
                }
                drop(both);
                let seen = all_there(&disk.root(), &context);
                if crash.is_none() {
                    // The file of the first attempt may exist although that attempt failed.
                    assert!(
                        seen.values().all(|times| *times == 1) || redriven.is_err() && persistent,
                        "{context}: {seen:?}"
                    );
                }
                twice += usize::from(seen[&0] == 2);
                if !fired {
                    assert_eq!(seen, once(0..3), "{context}");
                    break;
                }
            }
        }
    }
    assert!(twice > 0, "no crash hit the moment between the two steps");
}
