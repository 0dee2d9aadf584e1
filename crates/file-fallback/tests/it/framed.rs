//! Framed records: bytes behind their length.

use std::fs;
use std::path::Path;

use file_fallback::{Compression, Config, Damage, Format, Next, Notice, Record, RecordProblem, SpillError, Verdict};
use proptest::prelude::*;

use crate::damage::{drain_damaged, two_files};
use crate::{
    FORMATS, at, compressions, config, drain, format_of, lines, missing, next_group, once, open, records, scratch,
};

fn framed(records: &[&[u8]]) -> Vec<u8> {
    let frame = |record: &&[u8]| [&u32::try_from(record.len()).expect("short").to_be_bytes(), *record].concat();
    records.iter().flat_map(frame).collect()
}

fn all_damage(notices: &[Notice]) -> Vec<Damage> {
    let damage = |notice: &Notice| match notice {
        Notice::SetAside { damage, .. } => Some(*damage),
        _ => None,
    };
    notices.iter().filter_map(damage).collect()
}

/// The records that a store delivers of one foreign file, and its damage. Checks that every promised unit is counted.
fn read_one(dir: &Path, name: &str, bytes: &[u8]) -> (Vec<Vec<u8>>, Option<Damage>) {
    fs::write(dir.join(name), bytes).expect("written");
    let mut store = open(config(dir).with_max_record_bytes(1_000));
    let (promised, mut read, mut settled) = (store.stored().count, Vec::new(), 0);
    while let Some(group) = next_group(&mut store, 500) {
        read.extend(group.records.iter().cloned());
        settled += store.acknowledge(group, |_| 1).expect("durable").count;
    }
    let notices = store.take_notices();
    assert_eq!(settled + missing(&notices), promised, "{notices:?}");
    (read, all_damage(&notices).first().copied())
}

/// As the Collector's file exporter writes with `format: proto` (v0.145.0, `file_writer.go`, `exportMessageAsBuffer`).
#[test]
fn the_bytes_on_disk_are_a_length_in_four_bytes_and_the_record() {
    let scratch = scratch();
    let mut store = open(config(scratch.path()).with_format(Format::Framed));
    let record = |bytes: &[u8]| Record { bytes: bytes.to_vec(), count: 2 };
    let spilled = store.spill(&[record(b"\n"), record(&[7; 258])], at(0)).expect("room");
    assert_eq!(spilled.name, "traces-20260201T000000.000Z-00000001-n4.binpb");
    let bytes = fs::read(scratch.path().join(&spilled.name)).expect("there");
    assert_eq!(bytes[..10], [0, 0, 0, 1, b'\n', 0, 0, 1, 2, 7]);
    assert_eq!((bytes.len(), spilled.bytes), (4 + 1 + 4 + 258, bytes.len() as u64));
    let group = next_group(&mut store, 1_000).expect("two records");
    assert_eq!((format_of(&group), &group.records), (Format::Framed, &vec![b"\n".to_vec(), vec![7; 258]]));
    store.acknowledge(group, |_| 2).expect("durable");
    assert_eq!((store.stored().files, store.take_notices().len()), (0, 0));
}

#[test]
fn an_empty_record_and_one_that_is_too_long_are_refused() {
    let scratch = scratch();
    let mut store = open(config(scratch.path()).with_format(Format::Framed).with_max_record_bytes(10));
    for (len, expected) in [(0, RecordProblem::Empty), (11, RecordProblem::TooLong { bytes: 11, max_record_bytes: 10 })]
    {
        match store.spill(&[Record { bytes: vec![b' '; len], count: 1 }], at(0)) {
            Err(SpillError::Record { index: 0, problem }) => assert_eq!(problem, expected),
            other => panic!("{other:?}"),
        }
    }
    drop(store.spill(&[Record { bytes: vec![b' '; 10], count: 1 }], at(0)).expect("space is bytes"));
}

#[test]
fn a_file_that_was_cut_anywhere_gives_the_records_before_the_cut() {
    let written = records(0..4, 60, Format::Framed);
    let mut ends = vec![0];
    ends.extend(written.iter().scan(0, |end, record| {
        *end += 4 + record.bytes.len();
        Some(*end)
    }));
    for len in 0..*ends.last().expect("some") {
        let scratch = scratch();
        let name = two_files(scratch.path(), Compression::Never, Format::Framed, &written);
        let path = scratch.path().join(&name);
        let bytes = fs::read(&path).expect("there");
        fs::write(&path, &bytes[..len]).expect("cut");
        let (ids, damage) = drain_damaged(scratch.path(), &name, &written, true);
        let whole = ends.iter().filter(|end| **end <= len).count() - 1;
        let damaged = if ends.contains(&len) { Damage::Incomplete } else { Damage::Torn };
        assert_eq!((ids, damage), ((0..whole).collect(), Some(damaged)), "cut at {len}");
    }
}

#[test]
fn an_impossible_length_ends_the_file_and_the_records_before_it_are_delivered() {
    let good = framed(&[b"one", b"two"]);
    for (length, expected) in [
        (0, Damage::BadLength),
        (1_001, Damage::BadLength),
        (0x7b22_6964, Damage::BadLength),
        (u32::MAX, Damage::BadLength),
        (1_000, Damage::Torn),
    ] {
        let scratch = scratch();
        let bytes = [&good[..], &length.to_be_bytes(), &framed(&[b"hidden"])].concat();
        let (read, damage) = read_one(scratch.path(), "traces-20260201T000000.000Z-00000001-n9.binpb", &bytes);
        assert_eq!((read, damage), (vec![b"one".to_vec(), b"two".to_vec()], Some(expected)), "{length}");
        let written = fs::read(scratch.path().join("quarantine/traces-20260201T000000.000Z-00000001-n9.binpb"));
        assert_eq!(written.expect("set aside"), bytes, "whole, for an operator to inspect");
    }
}

/// The limit and the length are 64 MiB, in a file of a few bytes, plain and compressed: memory is allocated for bytes
/// that were read, not for a length.
#[test]
fn a_length_beyond_the_end_of_the_file_allocates_no_memory() {
    let bytes = [&(64_u32 << 20).to_be_bytes()[..], b"short"].concat();
    for extension in ["binpb", "binpb.zst"] {
        let scratch = scratch();
        fs::write(scratch.path().join(format!("traces-20260201T000000.000Z-00000001-n9.{extension}")), &bytes)
            .expect("written");
        let mut store = open(config(scratch.path()).with_max_record_bytes(64 << 20));
        assert_eq!(store.next_group(1).expect("readable"), Next::Empty);
        assert_eq!(all_damage(&store.take_notices()), [Damage::Torn]);
    }
}

/// The name decides about the format, the bytes about the compression.
#[test]
fn a_file_of_the_other_format_under_its_name_is_set_aside_and_counted_and_the_neighbour_is_whole() {
    let text = b"{\"id\":4}\n{\"id\":9}\n";
    let frames = framed(&[b"{\"id\":4}", b"{\"id\":9}"]);
    for (extension, bytes, expected) in [
        ("binpb", &text[..], Damage::BadLength),
        ("binpb.zst", text, Damage::Corrupt),
        ("binpb.gz", text, Damage::Corrupt),
        ("jsonl", &frames, Damage::Rejected),
    ] {
        let feature = extension.rsplit('.').next().expect("an extension");
        if (feature, cfg!(feature = "zstd")) == ("zst", false) || (feature, cfg!(feature = "gzip")) == ("gz", false) {
            continue;
        }
        let scratch = scratch();
        fs::write(scratch.path().join(format!("traces-20260201T000000.000Z-00000001-n10.{extension}")), bytes)
            .expect("written");
        let mut store = open(config(scratch.path()).with_format(Format::Framed));
        drop(store.spill(&records(0..3, 50, Format::Framed), at(0)).expect("room"));
        assert_eq!(drain(&mut store, 1_000).0, once(0..3), "{extension}");
        let notices = store.take_notices();
        assert_eq!((missing(&notices), all_damage(&notices)), (10, vec![expected]), "{extension}");
    }
}

#[test]
fn framed_files_are_unpacked_by_their_bytes_not_by_their_names() {
    let plain: Vec<u8> =
        records(0..40, 20_000, Format::Framed).iter().flat_map(|record| framed(&[&record.bytes])).collect();
    for compression in compressions() {
        let packed = {
            let scratch = scratch();
            let written = records(0..40, 20_000, Format::Framed);
            fs::read(scratch.path().join(two_files(scratch.path(), compression, Format::Framed, &written)))
                .expect("there")
        };
        for extension in ["binpb", "binpb.zst", "binpb.gz"] {
            for bytes in [&packed, &plain] {
                let scratch = scratch();
                fs::write(scratch.path().join(format!("traces-20260201T000000.000Z-00000001-n119.{extension}")), bytes)
                    .expect("written");
                let mut store = open(config(scratch.path()));
                assert_eq!(drain(&mut store, 100_000), (once(0..40), 0), "{compression:?} as {extension}");
                assert_eq!(store.take_notices(), [], "{extension}");
            }
        }
    }
}

/// Files are written with one format in the settings and read with the other.
#[test]
fn a_change_of_format_between_two_runs_loses_no_record() {
    let scratch = scratch();
    for (run, format) in [Format::Lines, Format::Framed, Format::Lines].into_iter().enumerate() {
        let mut store = open(config(scratch.path()).with_format(format).with_compress_above(1_000));
        for (index, len) in [50, 900].into_iter().enumerate() {
            let first = run * 10 + index * 5;
            drop(store.spill(&records(first..first + 5, len, format), at(0)).expect("room"));
        }
        // One record of the oldest file is settled.
        let group = next_group(&mut store, 1).expect("files");
        assert_eq!(format_of(&group), Format::Lines);
        store.acknowledge(group, |_| run as u64 + 1).expect("durable");
    }
    for format in FORMATS {
        let mut store = open(config(scratch.path()).with_format(format));
        let group = next_group(&mut store, 1).expect("files");
        assert_eq!(format_of(&group), Format::Lines);
        store.give_back(group).expect("ours");
    }
    let mut store = open(config(scratch.path()).with_format(Format::Framed));
    assert_eq!(drain(&mut store, 1_000), (once(3..30), 0));
}

#[test]
fn letters_are_lines_also_where_the_settings_name_framed_records() {
    use file_fallback::dead_letters::{DeadLetters, Letter};
    let scratch = scratch();
    let config = DeadLetters::config(scratch.path()).with_free_space_reserve(0).with_format(Format::Framed);
    let mut letters = DeadLetters::open(config.build().expect("valid")).expect("free");
    let letter = Letter {
        signal: "traces".into(),
        status: "HTTP 400".into(),
        reason: "why".into(),
        endpoint: "http://localhost".into(),
        attempts: 1,
        accepted: at(0),
        refused: at(0),
    };
    let added = letters.add(&letter, &lines(0..2, 50), at(0)).expect("room");
    assert!(added.name.ends_with(".jsonl"), "{}", added.name);
    assert_eq!(letters.read(&added.name).expect("there").1.len(), 2);
}

#[derive(Clone, Debug)]
struct Batch {
    format: Format,
    compression: Option<Compression>,
    compress_above: usize,
    records: Vec<Vec<u8>>,
}

/// Records that the format accepts: a line has no line feed, and more than white space.
fn batch() -> impl Strategy<Value = Batch> {
    let packings: Vec<_> = compressions().into_iter().map(Some).chain([None]).collect();
    let record = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 1..300),
        1 => (any::<u8>(), 1..200_000_usize).prop_map(|(byte, len)| vec![byte; len]),
    ];
    let settings = (prop::sample::select(&FORMATS), prop::sample::select(packings), 0..100_000_usize);
    (settings, prop::collection::vec(record, 1..12)).prop_map(|((format, compression, compress_above), mut records)| {
        if format == Format::Lines {
            for record in &mut records {
                record.iter_mut().for_each(|byte| *byte = if *byte == b'\n' { b'.' } else { *byte });
                record.push(b'!');
            }
            // A plain file is recognised by its first bytes: they must not be a magic number of a compression.
            records[0].insert(0, b'"');
        }
        Batch { format, compression, compress_above, records }
    })
}

fn settings(dir: &Path, batch: &Batch) -> Config {
    config(dir)
        .with_format(batch.format)
        .with_compression(batch.compression.unwrap_or(Compression::Never))
        .with_compress_above(batch.compress_above)
        .build()
        .expect("valid")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Each batch is written by a run with its own settings; the last run reads all, and gives back a part of each
    /// group.
    #[test]
    fn spilled_records_come_back_byte_for_byte(
        batches in prop::collection::vec(batch(), 1..6),
        max_bytes in 1..200_000_usize,
        keep in any::<u64>(),
    ) {
        let scratch = scratch();
        let mut expected = Vec::new();
        for batch in &batches {
            let mut store = file_fallback::FileFallback::open(settings(scratch.path(), batch)).expect("free");
            let written: Vec<_> = batch.records.iter().map(|bytes| Record { bytes: bytes.clone(), count: 1 }).collect();
            let spilled = store.spill(&written, at(0)).expect("room");
            let extension = if batch.format == Format::Lines { "jsonl" } else { "binpb" };
            prop_assert!(spilled.name.contains(extension));
            prop_assert_eq!(store.config().format(), batch.format);
            expected.extend(batch.records.iter().map(|bytes| (batch.format, bytes.clone())));
        }
        let mut store = open(config(scratch.path()));
        let (mut read, mut turn) = (Vec::new(), 0);
        while let Some(group) = next_group(&mut store, max_bytes) {
            turn += 1;
            let verdicts: Vec<_> = (0..group.records.len())
                .map(|index| if keep >> ((turn + index) % 64) & 1 == 1 && turn < 20 { Verdict::Keep } else { Verdict::Done(1) })
                .collect();
            let formats = group.sources().map(|source| source.format);
            let read_now = formats.zip(group.records.iter().cloned()).zip(&verdicts);
            read.extend(read_now.filter(|(_, verdict)| **verdict != Verdict::Keep).map(|(record, _)| record));
            store.settle(group, &verdicts).expect("durable");
        }
        let key = |(format, bytes): &(Format, Vec<u8>)| (*format as u8, bytes.clone());
        read.sort_by_key(key);
        expected.sort_by_key(key);
        prop_assert_eq!(read, expected);
        prop_assert_eq!((store.stored().files, store.take_notices().len()), (0, 0));
    }
}
