//! Damaged files: the good records are delivered, the rest is counted, the file is set aside.

use std::collections::BTreeSet;
use std::fs;
#[cfg(all(feature = "gzip", feature = "zstd"))]
use std::io::Write as _;
use std::path::Path;

use file_fallback::{Compression, Damage, FileFallback, Format, Notice, Record, SetAside};
use proptest::prelude::*;

use crate::{
    FORMATS, at, compressions, config, count, data_files, drain, format_of, line, lines, missing, next_group, once,
    open, records, scratch,
};

/// A directory with one file to be damaged and one neighbour; returns the name of the first.
pub(crate) fn two_files(dir: &Path, compression: Compression, format: Format, written: &[Record]) -> String {
    let mut store = open(config(dir).with_compression(compression).with_format(format));
    let name = store.spill(written, at(0)).expect("room").name;
    drop(store.spill(&records(1_000..1_003, 50, format), at(1)).expect("room"));
    name
}

/// Delivers everything after damage to the first file, and checks the rules that hold for any damage. Returns the ids
/// that the first file gave, and the damage that it was set aside for.
pub(crate) fn drain_damaged(
    dir: &Path,
    name: &str,
    written: &[Record],
    exact: bool,
) -> (BTreeSet<usize>, Option<Damage>) {
    let mut store = open(config(dir));
    let promised = store.stored().count;
    let (mut ids, mut settled) = (BTreeSet::new(), 0);
    while let Some(group) = next_group(&mut store, 50_000) {
        let neighbour = records(1_000..1_003, 50, format_of(&group));
        let verdicts: Vec<_> = group
            .records
            .iter()
            .map(|text| {
                let known = written.iter().chain(&neighbour).position(|record| record.bytes == *text);
                match known {
                    Some(index) => {
                        let id = if index < written.len() { index } else { 1_000 + index - written.len() };
                        assert!(ids.insert(id), "line {id} came twice");
                        file_fallback::Verdict::Done(count(id) as u64)
                    }
                    None => {
                        assert!(
                            !exact,
                            "a record that was never written: {:?}",
                            String::from_utf8_lossy(&text[..text.len().min(80)])
                        );
                        file_fallback::Verdict::Rejected
                    }
                }
            })
            .collect();
        settled += store.settle(group, &verdicts).expect("durable").count;
    }
    let notices = store.take_notices();
    assert_eq!(settled + missing(&notices), promised, "every unit is accounted for: {notices:?}");
    assert_eq!((store.stored().files, store.stored().count), (0, 0));
    assert!((1_000..1_003).all(|id| ids.contains(&id)), "the neighbour is whole");
    let aside = notices.iter().find_map(|notice| match notice {
        Notice::SetAside { name: aside, moved_to: Some(moved), damage, .. } => {
            assert_eq!(aside, name);
            assert!(dir.join("quarantine").join(moved).exists());
            Some(*damage)
        }
        _ => None,
    });
    assert_eq!(data_files(dir), Vec::<String>::new());
    drop(store);
    assert_eq!(open(config(dir)).stored().files, 0, "a file that was set aside is not found again");
    ids.retain(|id| *id < 1_000);
    (ids, aside)
}

#[test]
fn a_torn_compressed_file_gives_all_records_before_the_cut() {
    for (compression, format) in compressions().into_iter().flat_map(|one| FORMATS.map(|format| (one, format))) {
        let written = records(0..40, 20_000, format);
        let mut last = 0;
        for percent in [0, 1, 10, 30, 50, 70, 90, 99] {
            let scratch = scratch();
            let name = two_files(scratch.path(), compression, format, &written);
            let path = scratch.path().join(&name);
            let bytes = fs::read(&path).expect("there");
            fs::write(&path, &bytes[..bytes.len() * percent / 100]).expect("cut");
            let (ids, damage) = drain_damaged(scratch.path(), &name, &written, true);
            assert_eq!(ids, (0..ids.len()).collect(), "a beginning");
            assert!(ids.len() >= last, "{percent} % gave {} lines, less gave {last}", ids.len());
            last = ids.len();
            if percent > 0 {
                assert_eq!(damage, Some(Damage::Torn), "{compression:?}, {format:?} at {percent} %");
            }
        }
        assert!(last >= 26, "{compression:?}, {format:?}: only {last} of 40 lines before a cut at 99 %");
    }
}

/// A file of another program, whose parts do not end where lines do.
#[cfg(all(feature = "gzip", feature = "zstd"))]
#[test]
fn a_line_that_ends_in_a_torn_part_is_not_delivered_without_its_end() {
    let [first, second] = [&b"{\"id\":0}\n{\"id\":1,"[..], &b"\"text\":\"\"}\n"[..]];
    for (extension, pack) in [(".jsonl.zst", zstd_of as fn(&[u8]) -> Vec<u8>), (".jsonl.gz", gzip_of)] {
        let scratch = scratch();
        let (first, second) = (pack(first), pack(second));
        let bytes = [&first[..], &second[..second.len() / 2]].concat();
        let name = format!("traces-20260201T000000.000Z-00000001-n5{extension}");
        fs::write(scratch.path().join(name), bytes).expect("written");
        let mut store = open(config(scratch.path()));
        assert_eq!(drain(&mut store, 1_000), (once(0..1), 0), "{extension}");
        assert_eq!(missing(&store.take_notices()), 4);
    }
}

#[cfg(all(feature = "gzip", feature = "zstd"))]
fn zstd_of(text: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(text, 1).expect("memory")
}

#[cfg(all(feature = "gzip", feature = "zstd"))]
fn gzip_of(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text).and_then(|()| encoder.finish()).expect("memory")
}

#[cfg(feature = "zstd")]
#[test]
fn a_file_that_was_cut_between_two_parts_lacks_units_that_its_name_promises() {
    let scratch = scratch();
    let written = lines(0..40, 20_000);
    let name = two_files(scratch.path(), Compression::Zstd, Format::Lines, &written);
    let path = scratch.path().join(&name);
    let bytes = fs::read(&path).expect("there");
    let second =
        (4..bytes.len()).find(|&at| bytes[at..].starts_with(&[0x28, 0xb5, 0x2f, 0xfd])).expect("several parts");
    fs::write(&path, &bytes[..second]).expect("cut");
    let (ids, damage) = drain_damaged(scratch.path(), &name, &written, true);
    assert_eq!((ids.len(), damage), (14, Some(Damage::Incomplete)), "a part ends with the line that reaches 256 KiB");
}

#[test]
fn a_torn_plain_line_goes_to_the_caller_who_rejects_it() {
    let scratch = scratch();
    let written = lines(0..5, 100);
    let name = two_files(scratch.path(), Compression::Never, Format::Lines, &written);
    let path = scratch.path().join(&name);
    let bytes = fs::read(&path).expect("there");
    fs::write(&path, &bytes[..bytes.len() - 20]).expect("cut");
    let (ids, damage) = drain_damaged(scratch.path(), &name, &written, false);
    assert_eq!((ids, damage), ((0..4).collect(), Some(Damage::Rejected)));
}

#[test]
fn the_file_of_a_rejected_line_is_set_aside_also_after_a_restart() {
    let scratch = scratch();
    let mut store = open(config(scratch.path()));
    let name = store
        .spill(&[line(0, 50), Record { bytes: b"no json".to_vec(), count: 9 }, line(2, 50)], at(0))
        .expect("room")
        .name;
    let group = next_group(&mut store, 120).expect("lines");
    assert_eq!(group.records.len(), 1);
    store.acknowledge(group, |_| 1).expect("durable");
    let group = next_group(&mut store, 1).expect("lines");
    store.settle(group, &[file_fallback::Verdict::Rejected]).expect("durable");
    assert_eq!(store.stored().count, 12, "the units of a rejected line are counted after the last record");
    drop(store);
    let mut store = open(config(scratch.path()));
    assert_eq!(drain(&mut store, 1_000), (once([2]), 0));
    let notices = store.take_notices();
    assert!(
        matches!(&notices[..], [Notice::SetAside { damage: Damage::Rejected, count: 9, promised: 13, .. }]),
        "{notices:?}"
    );
    assert!(scratch.path().join("quarantine").join(name).exists());
}

/// Files of earlier runs, with a number behind a name that was taken, and others count; a new store counts none.
#[test]
fn the_files_that_were_set_aside_are_counted_over_restarts() {
    let scratch = scratch();
    let mut store = open(config(scratch.path()));
    assert_eq!(store.set_aside().expect("no directory"), SetAside::default());
    assert!(!scratch.path().join("quarantine").exists(), "a question makes no directory");
    for files in 1..=3 {
        let name =
            store.spill(&[line(0, 50), Record { bytes: b"no json".to_vec(), count: 9 }], at(0)).expect("room").name;
        drop(drain(&mut store, 1_000));
        assert_eq!(store.set_aside().expect("readable"), SetAside { files, count: 10 * files }, "{name}");
        drop(store);
        store = open(config(scratch.path()));
    }
    let quarantine = scratch.path().join("quarantine");
    let numbered = fs::read_dir(&quarantine).expect("there").filter(|file| {
        file.as_ref().is_ok_and(|file| file.path().extension().is_some_and(|extension| extension != "jsonl"))
    });
    assert_eq!(numbered.count(), 2, "each start begins with the same number and time");
    fs::write(quarantine.join("notes.txt"), "of an operator").expect("written");
    assert_eq!(store.set_aside().expect("readable"), SetAside { files: 4, count: 30 });
    fs::remove_dir_all(&quarantine).expect("removed");
    assert_eq!(store.set_aside().expect("no directory"), SetAside::default());
}

#[test]
fn a_line_that_is_too_long_is_skipped_in_constant_memory() {
    let scratch = scratch();
    let mut text = line(0, 100).bytes;
    text.push(b'\n');
    text.resize(text.len() + 3_000_000, b'x');
    text.extend_from_slice(b"\n\n  \n");
    text.extend_from_slice(&line(1, 100).bytes);
    fs::write(scratch.path().join("traces-20260201T000000.000Z-00000001-n3.jsonl"), text).expect("written");
    let mut store = open(config(scratch.path()));
    assert_eq!(drain(&mut store, 1_000), (once(0..2), 0));
    let notices = store.take_notices();
    assert!(matches!(&notices[..], [Notice::SetAside { damage: Damage::RecordTooLong, count: 0, .. }]), "{notices:?}");
}

#[cfg(all(feature = "zstd", feature = "gzip"))]
#[test]
fn a_file_is_read_by_its_bytes_not_by_its_name() {
    let scratch = scratch();
    let written = lines(0..40, 20_000);
    let text: Vec<u8> = written.iter().flat_map(|line| [&line.bytes[..], b"\n"].concat()).collect();
    let zstd = {
        let name = two_files(scratch.path(), Compression::Zstd, Format::Lines, &written);
        fs::read(scratch.path().join(name)).expect("there")
    };
    for (extension, bytes) in [(".jsonl", &zstd), (".jsonl.gz", &zstd), (".jsonl.zst", &text), (".jsonl.gz", &text)] {
        let scratch = crate::scratch();
        let path = scratch.path().join(format!("traces-20260201T000000.000Z-00000001-n119{extension}"));
        fs::write(path, bytes).expect("written");
        let mut store = open(config(scratch.path()));
        assert_eq!(drain(&mut store, 100_000), (once(0..40), 0), "{extension}");
    }
}

#[test]
fn plain_text_of_any_language_is_read_as_plain_under_the_name_of_a_compressed_file() {
    for extension in [".jsonl.zst", ".jsonl.gz"] {
        let scratch = scratch();
        let path = scratch.path().join(format!("traces-20260201T000000.000Z-00000001-n1{extension}"));
        fs::write(path, "{\"id\":0,\"text\":\"gr\u{fc}n\"}\n").expect("written");
        let mut store = open(config(scratch.path()));
        assert_eq!(drain(&mut store, 1_000), (once(0..1), 0), "{extension}");
        assert_eq!(store.take_notices(), []);
    }
}

#[test]
fn the_quarantine_has_a_limit_of_its_own() {
    let scratch = scratch();
    let mut store = open(config(scratch.path()).with_quarantine_max_bytes(20_000));
    let spill = |id| store.spill(&[Record { bytes: vec![b'x'; 3_000], count: 1 }], at(id)).expect("room").name;
    let names: Vec<String> = (0..20).map(spill).collect();
    assert_eq!(drain(&mut store, 10_000).1, 20);
    drop(store.clean_up(at(100)));
    let trimmed: u64 = store
        .take_notices()
        .iter()
        .map(|notice| match notice {
            Notice::QuarantineTrimmed { files } => *files,
            _ => 0,
        })
        .sum();
    let mut left = data_files(&scratch.path().join("quarantine"));
    assert_eq!((left.len() as u64 + trimmed, left.len()), (20, 4), "four blocks of 4 KiB");
    left.sort();
    assert_eq!(left, names[16..], "the newest are left");
}

#[derive(Clone, Debug)]
enum Harm {
    Flip(usize, u8),
    Zero(usize, usize),
    Cut(usize),
    Append(Vec<u8>),
    Insert(usize, Vec<u8>),
    Swap(usize, usize, usize),
}

fn harm() -> impl Strategy<Value = Harm> {
    let at = any::<usize>;
    prop_oneof![
        4 => (at(), 0..8_u8).prop_map(|(at, bit)| Harm::Flip(at, 1 << bit)),
        1 => (at(), 1..5_000_usize).prop_map(|(at, len)| Harm::Zero(at, len)),
        1 => at().prop_map(Harm::Cut),
        1 => prop::collection::vec(any::<u8>(), 1..2_000).prop_map(Harm::Append),
        1 => (at(), prop::collection::vec(any::<u8>(), 1..50)).prop_map(|(at, junk)| Harm::Insert(at, junk)),
        1 => (at(), at(), 1..2_000_usize).prop_map(|(a, b, len)| Harm::Swap(a, b, len)),
    ]
}

impl Harm {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let len = bytes.len();
        match self {
            Self::Flip(at, bits) => bytes[at % len] ^= bits,
            Self::Zero(at, run) => {
                let at = at % len;
                bytes[at..(at + run).min(len)].fill(0);
            }
            Self::Cut(at) => bytes.truncate(at % len),
            Self::Append(junk) => bytes.extend_from_slice(junk),
            Self::Insert(at, junk) => drop(bytes.splice(at % len..at % len, junk.iter().copied())),
            Self::Swap(a, b, run) => {
                for offset in 0..*run {
                    bytes.swap((a + offset) % len, (b + offset) % len);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Compressed parts have checksums: no line is delivered that was never written, unless a part seems to be cut,
    /// whose checksum then cannot be read; and one harm costs at most two parts.
    #[cfg(any(feature = "zstd", feature = "gzip"))]
    #[test]
    fn harm_to_a_compressed_file_costs_only_the_parts_that_it_hits(
        harm in harm(),
        (compression, format) in (prop::sample::select(compressions()), prop::sample::select(&FORMATS)),
    ) {
        let scratch = scratch();
        let written = records(0..40, 20_000, format);
        let name = two_files(scratch.path(), compression, format, &written);
        let path = scratch.path().join(&name);
        let mut bytes = fs::read(&path).expect("there");
        harm.apply(&mut bytes);
        fs::write(&path, &bytes).expect("written");
        let (ids, damage) = drain_damaged(scratch.path(), &name, &written, false);
        // The damage is noted before the first record that was never written could be rejected.
        prop_assert_ne!(damage, Some(Damage::Rejected));
        // 14 + 14 + 12 lines in three parts.
        match &harm {
            Harm::Flip(..) | Harm::Insert(..) => prop_assert!(ids.len() >= 26, "{} lines", ids.len()),
            Harm::Append(_) => prop_assert_eq!(ids.len(), 40),
            Harm::Cut(_) | Harm::Zero(..) | Harm::Swap(..) => {}
        }
        prop_assert!(ids.len() == 40 || damage.is_some() || matches!(harm, Harm::Cut(_)), "{} lines, unnoticed", ids.len());
    }

    #[test]
    fn harm_to_a_plain_file_costs_only_the_lines_that_it_hits(harm in harm()) {
        let scratch = scratch();
        let written = lines(0..40, 500);
        let name = two_files(scratch.path(), Compression::Never, Format::Lines, &written);
        let path = scratch.path().join(&name);
        let mut bytes = fs::read(&path).expect("there");
        harm.apply(&mut bytes);
        fs::write(&path, &bytes).expect("written");
        let (ids, _) = drain_damaged(scratch.path(), &name, &written, false);
        match &harm {
            Harm::Flip(..) => prop_assert!(ids.len() >= 38),
            Harm::Insert(..) => prop_assert!(ids.len() >= 39),
            Harm::Append(_) => prop_assert!(ids.len() >= 40),
            Harm::Cut(_) | Harm::Zero(..) | Harm::Swap(..) => {}
        }
    }

    /// A damaged length hides the records behind it: only those before the first changed byte are certain.
    #[test]
    fn harm_to_a_plain_framed_file_costs_no_record_before_it(harm in harm()) {
        let scratch = scratch();
        let written = records(0..40, 500, Format::Framed);
        let name = two_files(scratch.path(), Compression::Never, Format::Framed, &written);
        let path = scratch.path().join(&name);
        let whole = fs::read(&path).expect("there");
        let mut bytes = whole.clone();
        harm.apply(&mut bytes);
        fs::write(&path, &bytes).expect("written");
        let (ids, damage) = drain_damaged(scratch.path(), &name, &written, false);
        let same = bytes.iter().zip(&whole).take_while(|(is, was)| is == was).count();
        let ends = written.iter().scan(0, |end, record| {
            *end += 4 + record.bytes.len();
            Some(*end)
        });
        let before = ends.take_while(|end| *end <= same).count();
        prop_assert!((0..before).all(|id| ids.contains(&id)), "{} of {} before the harm", ids.len(), before);
        prop_assert!(ids.len() == 40 || damage.is_some() || matches!(harm, Harm::Cut(_)), "{} records, unnoticed", ids.len());
    }

    /// Any bytes under a name of the store: no call panics, every loop ends, and the neighbour is delivered.
    #[cfg(all(feature = "zstd", feature = "gzip"))]
    #[test]
    fn random_bytes_end_without_a_panic_and_the_neighbour_is_delivered(
        bytes in prop::collection::vec(any::<u8>(), 0..5_000),
        magic in prop_oneof![Just(&b""[..]), Just(&b"\x28\xb5\x2f\xfd"[..]), Just(&b"\x1f\x8b\x08\x00"[..])],
        head in prop_oneof![Just(vec![]), (0..5_000_u32).prop_map(|len| len.to_be_bytes().to_vec())],
        extension in prop::sample::select(&[".jsonl", ".jsonl.zst", ".jsonl.gz", ".binpb", ".binpb.zst", ".binpb.gz"]),
    ) {
        let scratch = scratch();
        let path = scratch.path().join(format!("traces-20260201T000000.000Z-00000001-n5{extension}"));
        fs::write(path, [magic, &head, &bytes].concat()).expect("written");
        let mut store: FileFallback = open(config(scratch.path()));
        drop(store.spill(&lines(7..9, 50), at(0)).expect("room"));
        let (ids, _) = drain(&mut store, 1_000);
        prop_assert_eq!(ids, once(7..9));
        prop_assert_eq!(missing(&store.take_notices()), 5);
        prop_assert_eq!(store.stored().count, 0);
    }
}
