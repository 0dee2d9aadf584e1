//! Writing: one file for each call, which other tools can read.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

use file_fallback::{Compression, Record, RecordProblem, SpillError};

use crate::{at, config, data_files, drain, line, lines, next_group, once, open, scratch};

#[test]
fn a_small_spill_is_plain_text() {
    let scratch = scratch();
    let mut store = open(config(scratch.path()));
    let spilled = store.spill(&lines(0..3, 40), at(0)).expect("room");
    assert_eq!(spilled.name, "traces-20260201T000000.000Z-00000001-n6.jsonl");
    let path = scratch.path().join(&spilled.name);
    let text = fs::read(&path).expect("there");
    let expected: Vec<u8> = lines(0..3, 40).into_iter().flat_map(|line| [line.bytes, vec![b'\n']].concat()).collect();
    assert_eq!(text, expected);
    assert_eq!(spilled.bytes, text.len() as u64);
    assert_eq!(fs::metadata(&path).expect("there").mode() & 0o7777, 0o600);
    assert_eq!((store.stored().files, store.stored().count, store.stored().bytes), (1, 6, spilled.bytes));
}

#[cfg(all(feature = "zstd", feature = "gzip"))]
#[test]
fn a_large_spill_is_compressed_at_once_and_other_tools_read_it() {
    for (compression, extension, tool) in
        [(Compression::Zstd, ".jsonl.zst", ["zstd", "-dc"]), (Compression::Gzip, ".jsonl.gz", ["gunzip", "-c"])]
    {
        let scratch = scratch();
        let mut store = open(config(scratch.path()).with_compression(compression));
        let written = lines(0..50, 20_000);
        let spilled = store.spill(&written, at(0)).expect("room");
        assert!(spilled.name.ends_with(extension), "{}", spilled.name);
        assert!(spilled.bytes < 50 * 20_000 / 3, "{compression:?}: {} bytes", spilled.bytes);
        let output = Command::new(tool[0]).arg(tool[1]).arg(scratch.path().join(&spilled.name)).output();
        // Every machine has gunzip; zstd may be missing, and the reader of the store is tested all the same.
        let Ok(output) = output else {
            assert_eq!(tool[0], "zstd");
            continue;
        };
        let expected: Vec<u8> = written.into_iter().flat_map(|line| [line.bytes, vec![b'\n']].concat()).collect();
        assert!(output.status.success());
        assert!(output.stdout == expected, "{compression:?}");
        assert_eq!(drain(&mut store, 100_000), (once(0..50), 0));
    }
}

#[cfg(feature = "zstd")]
#[test]
fn spills_up_to_the_threshold_and_with_never_are_plain() {
    let scratch = scratch();
    let mut store = open(config(scratch.path()).with_compress_above(1_000));
    let text = |len: usize| vec![Record { bytes: vec![b'x'; len - 1], count: 1 }];
    assert!(store.spill(&text(1_000), at(0)).expect("room").name.ends_with(".jsonl"));
    assert!(store.spill(&text(1_001), at(0)).expect("room").name.ends_with(".zst"));
    drop(store);
    let mut store = open(config(scratch.path()).with_compression(Compression::Never).with_compress_above(0));
    assert!(store.spill(&text(100_000), at(0)).expect("room").name.ends_with(".jsonl"));
}

#[test]
fn lines_that_would_not_come_back_are_refused_and_no_file_is_written() {
    let scratch = scratch();
    let mut store = open(config(scratch.path()).with_max_record_bytes(10));
    let problem = |text: &[u8]| {
        let lines = [Record { bytes: b"fine".to_vec(), count: 1 }, Record { bytes: text.to_vec(), count: 1 }];
        (lines, text.len())
    };
    for (text, expected) in [
        (&b""[..], RecordProblem::Empty),
        (b" \t\r", RecordProblem::Empty),
        (b"a\nb", RecordProblem::LineFeed),
        (b"a\n", RecordProblem::LineFeed),
        (b"12345678901", RecordProblem::TooLong { bytes: 11, max_record_bytes: 10 }),
    ] {
        match store.spill(&problem(text).0, at(0)) {
            Err(SpillError::Record { index: 1, problem }) => assert_eq!(problem, expected),
            other => panic!("{text:?}: {other:?}"),
        }
    }
    assert!(matches!(store.spill(&[], at(0)), Err(SpillError::Empty)));
    assert_eq!(data_files(scratch.path()), Vec::<String>::new());
    assert_eq!(store.stored().files, 0);
}

#[test]
fn a_file_in_the_way_is_neither_overwritten_nor_an_obstacle() {
    let scratch = scratch();
    let mut store = open(config(scratch.path()));
    let taken = scratch.path().join("traces-20260201T000000.000Z-00000001-n1.jsonl");
    fs::write(&taken, "theirs").expect("written");
    let spilled = store.spill(&lines(0..1, 30), at(0)).expect("another number");
    assert_eq!(spilled.name, "traces-20260201T000000.000Z-00000002-n1.jsonl");
    assert_eq!(fs::read(&taken).expect("there"), b"theirs");
}

#[test]
fn a_restart_changes_no_file_and_continues_the_numbers() {
    let scratch = scratch();
    let mut store = open(config(scratch.path()));
    drop(store.spill(&lines(0..3, 100), at(5)).expect("room"));
    drop(store.spill(&lines(3..6, 200_000), at(5)).expect("room"));
    let stored = store.stored();
    let before: Vec<_> = data_files(scratch.path());
    drop(store);
    let mut store = open(config(scratch.path()));
    assert_eq!((store.stored(), data_files(scratch.path())), (stored, before));
    // The wall clock was set back: the number decides about the order.
    let spilled = store.spill(&lines(6..7, 100), at(0)).expect("room");
    assert!(spilled.name.contains("-00000003-"), "{}", spilled.name);
    let first = next_group(&mut store, 1).expect("three files");
    assert_eq!(first.records, [line(0, 100).bytes]);
    store.give_back(first).expect("ours");
    assert_eq!(drain(&mut store, 1_000), (once(0..7), 0));
    assert_eq!(data_files(scratch.path()), Vec::<String>::new());
}

#[test]
fn each_name_is_announced_before_its_file_exists_and_the_last_one_is_the_files() {
    let scratch = scratch();
    let mut store = open(config(scratch.path()));
    let mut announced = Vec::new();
    let mut announce = |name: &str| {
        assert!(!scratch.path().join(name).exists());
        if announced.is_empty() {
            // Another program makes a file of this name first.
            fs::write(scratch.path().join(name), "").expect("a free name");
        }
        announced.push(name.to_owned());
    };
    let spilled = store.spill_announced(&lines(0..2, 50), at(0), &mut announce).expect("room");
    assert_eq!(announced.len(), 2);
    assert_eq!(announced[1], spilled.name);
    assert!(store.holds(&spilled.name).expect("the directory can be read"));
    assert!(!store.holds("traces-20260131T235959.123Z-00000042-n512.jsonl").expect("the directory can be read"));
    assert!(!store.holds("../somewhere").expect("no name of ours"));
}
