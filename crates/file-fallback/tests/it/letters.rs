//! Dead letters.

use std::fs;
use std::time::Duration;

use file_fallback::dead_letters::{DeadLetters, Letter, LetterError};
use file_fallback::{Damage, Reason, Record, SpillError};

use crate::{at, data_files, lines, scratch};

fn letter(reason: &str) -> Letter {
    Letter {
        signal: "traces".into(),
        status: "HTTP 400".into(),
        reason: reason.into(),
        endpoint: "http://localhost:4318/v1/traces".into(),
        attempts: 2,
        accepted: at(0) + Duration::from_micros(7),
        refused: at(3),
    }
}

fn open(dir: &std::path::Path) -> DeadLetters {
    DeadLetters::open(DeadLetters::config(dir).with_free_space_reserve(0).build().expect("valid")).expect("free")
}

#[cfg(feature = "zstd")]
#[test]
fn letters_survive_a_restart_with_every_field() {
    let scratch = scratch();
    let mut letters = open(scratch.path());
    let small = letters.add(&letter("a \"quoted\"\nreason \u{1f4e8}"), &lines(0..2, 50), at(5)).expect("room");
    let large = letters.add(&letter("large"), &lines(2..12, 20_000), at(6)).expect("room");
    assert!(large.name.ends_with(".zst"));
    drop(letters);
    let mut letters = open(scratch.path());
    let listed: Vec<_> = letters.list().into_iter().map(|listed| (listed.name, listed.time, listed.count)).collect();
    assert_eq!(listed, [(small.name.clone(), at(5), 3), (large.name.clone(), at(6), 30)]);
    for (name, reason, written) in
        [(&small.name, "a \"quoted\"\nreason \u{1f4e8}", lines(0..2, 50)), (&large.name, "large", lines(2..12, 20_000))]
    {
        let (read, text) = letters.read(name).expect("there");
        assert_eq!(read, letter(reason));
        assert_eq!(text, written.into_iter().map(|line| line.bytes).collect::<Vec<_>>());
    }
    assert_eq!(letters.remove(&small.name).expect("there"), 3);
    assert!(matches!(letters.read(&small.name), Err(LetterError::Unknown { .. })));
    assert!(matches!(letters.remove(&small.name), Err(LetterError::Unknown { .. })));
    assert_eq!(letters.stored().count, 30);
}

#[test]
fn names_do_not_lead_outside() {
    let scratch = scratch();
    let mut letters = open(&scratch.path().join("letters"));
    fs::write(scratch.path().join("traces-20260201T000000.000Z-00000001-n1.jsonl"), "x").expect("written");
    for name in ["", "../traces-20260201T000000.000Z-00000001-n1.jsonl", "progress.log", ".lock", "/etc/passwd"] {
        assert!(matches!(letters.read(name), Err(LetterError::Unknown { .. })), "{name}");
        assert!(matches!(letters.remove(name), Err(LetterError::Unknown { .. })), "{name}");
    }
    assert!(scratch.path().join("letters/.lock").exists());
}

#[test]
fn letters_are_bounded_by_size_and_age() {
    let scratch = scratch();
    let config = DeadLetters::config(scratch.path()).with_free_space_reserve(0).with_max_bytes(3_000);
    let mut letters = DeadLetters::open(config.build().expect("valid")).expect("free");
    let mut gone = 0;
    for id in 0..10 {
        let added = letters.add(&letter("why"), &lines([id], 500), at(id as u64)).expect("room");
        gone += added.evicted.len();
        assert!(added.evicted.iter().all(|evicted| evicted.reason == Reason::MaxBytes));
    }
    assert_eq!(gone + letters.list().len(), 10);
    let left = letters.list().len();
    assert!((2..6).contains(&left), "{left}");
    let mut old = 0;
    for hour in 0..=31 * 24 {
        old += letters.clean_up(at(hour * 3_600)).len();
    }
    assert_eq!((old, letters.stored().files), (left, 0));
}

#[cfg(feature = "zstd")]
#[test]
fn a_damaged_letter_is_set_aside_and_the_error_reports_it() {
    let scratch = scratch();
    let mut letters = open(scratch.path());
    let torn = letters.add(&letter("torn"), &lines(0..10, 20_000), at(0)).expect("room").name;
    let header = letters.add(&letter("header"), &lines(10..11, 50), at(0)).expect("room").name;
    let newer = letters.add(&letter("newer"), &lines(11..12, 50), at(0)).expect("room").name;
    let path = |name: &str| scratch.path().join(name);
    let bytes = fs::read(path(&torn)).expect("there");
    fs::write(path(&torn), &bytes[..bytes.len() - 9]).expect("cut");
    fs::write(path(&header), "{\"no\":\"letter\"}\n{}\n").expect("written");
    let text = fs::read_to_string(path(&newer)).expect("there");
    fs::write(path(&newer), text.replace("\"dead_letter\":1", "\"dead_letter\":2")).expect("written");
    for (name, expected) in [(&torn, Damage::Torn), (&header, Damage::Rejected), (&newer, Damage::Rejected)] {
        match letters.read(name) {
            Err(LetterError::Damaged { damage, .. }) => assert_eq!(damage, expected),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(letters.stored().count, 0);
    assert_eq!(letters.take_notices().len(), 3);
    assert_eq!(data_files(&scratch.path().join("quarantine")).len(), 3);
}

#[test]
fn a_letter_without_records_or_with_a_bad_record_is_refused() {
    let scratch = scratch();
    let mut letters = open(scratch.path());
    assert!(matches!(letters.add(&letter("empty"), &[], at(0)), Err(SpillError::Empty)));
    let bad = [Record { bytes: b"a\nb".to_vec(), count: 1 }];
    assert!(matches!(letters.add(&letter("bad"), &bad, at(0)), Err(SpillError::Record { index: 1, .. })));
    let long = letter(&"x".repeat(5_000_000));
    let name = letters.add(&long, &lines(0..1, 50), at(0)).expect("its reason is cut").name;
    assert_eq!(letters.read(&name).expect("there").0.reason.len(), 2_000);
}
