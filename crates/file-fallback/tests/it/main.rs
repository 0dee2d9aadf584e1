//! The store from outside, over real files and over a simulated disk.

#![cfg_attr(
    not(all(feature = "zstd", feature = "gzip")),
    allow(unused_imports, reason = "tests of what is not compiled in are left out")
)]

mod damage;
mod faults;
mod framed;
mod histories;
mod hostile;
mod letters;
mod limits;
mod order;
mod panics;
mod processes;
mod redrive;
mod replay;
mod spill;
mod vanish;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use file_fallback::{Builder, Compression, Config, FileFallback, Format, Group, Next, Notice, Record, Verdict};
use safe_dir::{Directory, Locked, SafeDir};

/// A fixed time, and `seconds` more.
fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_769_904_000 + seconds)
}

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// Settings without a free-space reserve, so that no test depends on the machine.
fn config(dir: &Path) -> Builder {
    Config::builder(dir).with_free_space_reserve(0)
}

fn open(builder: Builder) -> FileFallback {
    FileFallback::open(builder.build().expect("valid")).expect("a free directory")
}

/// The directory of a process that has ended, its lock taken as the caller of `take_over` does.
fn ended(dir: &Path) -> Locked<SafeDir> {
    Locked::new(SafeDir::open(dir).expect("ours")).expect("its process has ended")
}

/// Takes over all that the directory holds; returns how many files and units.
fn take_over<D: Directory>(store: &mut FileFallback<D>, from: &D) -> (u64, u64) {
    let (mut files, mut count) = (0, 0);
    loop {
        let taken = store.take_over(from, at(0)).expect("moved");
        files += taken.files;
        count += taken.count;
        if !taken.more {
            return (files, count);
        }
    }
}

/// A JSON line with an id; its text and its count follow from the id.
fn line(id: usize, len: usize) -> Record {
    let mut text = format!("{{\"id\":{id},\"text\":\"").into_bytes();
    // Random words, so that it compresses as text does.
    let mut state = id as u64 + 1;
    while text.len() < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        text.extend_from_slice(
            ["span ", "trace ", "id=", "7f", "GET /", "200 "][(state >> 33) as usize % 6].as_bytes(),
        );
    }
    text.extend_from_slice(b"\"}");
    Record { bytes: text, count: count(id) }
}

fn count(id: usize) -> usize {
    id % 5 + 1
}

fn lines(ids: impl IntoIterator<Item = usize>, len: usize) -> Vec<Record> {
    ids.into_iter().map(|id| line(id, len)).collect()
}

/// [`lines`] in either format; the framed ones begin with a line feed, so that they cannot be lines.
fn records(ids: impl IntoIterator<Item = usize>, len: usize, format: Format) -> Vec<Record> {
    let mut records = lines(ids, len);
    if format == Format::Framed {
        records.iter_mut().for_each(|record| drop(record.bytes.splice(..0, *NO_LINE)));
    }
    records
}

const FORMATS: [Format; 2] = [Format::Lines, Format::Framed];

const NO_LINE: &[u8; 2] = b"\n\0";

/// The compressions that are compiled in.
fn compressions() -> Vec<Compression> {
    let all = [(cfg!(feature = "zstd"), Compression::Zstd), (cfg!(feature = "gzip"), Compression::Gzip)];
    all.into_iter().filter_map(|(there, compression)| there.then_some(compression)).collect()
}

fn id_of(text: &[u8]) -> Option<usize> {
    let text = text.strip_prefix(NO_LINE).unwrap_or(text);
    let value: serde_json::Value = serde_json::from_slice(text).ok()?;
    usize::try_from(value.get("id")?.as_u64()?).ok()
}

fn units(text: &[u8]) -> u64 {
    id_of(text).map_or(0, |id| count(id) as u64)
}

/// The next group, read on through every pause.
fn next_group<D: Directory>(store: &mut FileFallback<D>, max_bytes: usize) -> Option<Group> {
    loop {
        match store.next_group(max_bytes).expect("readable") {
            Next::Group(group) => return Some(group),
            Next::Pause => {}
            Next::Empty => return None,
        }
    }
}

/// The format of the file that a group begins with.
fn format_of(group: &Group) -> Format {
    group.sources().next().expect("a record").format
}

/// Delivers every record: returns how often each id came, and how many records could not be decoded. Checks the counts
/// of the store on the way.
fn drain<D: Directory>(store: &mut FileFallback<D>, max_bytes: usize) -> (BTreeMap<usize, usize>, usize) {
    let (mut seen, mut rejected) = (BTreeMap::new(), 0);
    while let Some(group) = next_group(store, max_bytes) {
        let before = store.stored().count;
        let mut done = 0;
        let verdicts: Vec<_> = group
            .records
            .iter()
            .map(|text| match id_of(text) {
                Some(id) => {
                    *seen.entry(id).or_default() += 1;
                    done += count(id) as u64;
                    Verdict::Done(count(id) as u64)
                }
                None => {
                    rejected += 1;
                    Verdict::Rejected
                }
            })
            .collect();
        let settled = store.settle(group, &verdicts).expect("durable");
        assert_eq!(settled.count + settled.surplus, done);
        assert!(store.stored().count + settled.count <= before);
    }
    (seen, rejected)
}

fn once(ids: impl IntoIterator<Item = usize>) -> BTreeMap<usize, usize> {
    ids.into_iter().map(|id| (id, 1)).collect()
}

/// The names of the data files in a directory, sorted; read without the store.
fn data_files(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).expect("readable").filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<_> = names.filter(|name| name.starts_with("traces-")).collect();
    names.sort();
    names
}

/// The units that left the store undelivered, by its notices.
fn missing(notices: &[Notice]) -> u64 {
    let counts = notices.iter().map(|notice| match notice {
        Notice::SetAside { count, .. } | Notice::Vanished { count, .. } => *count,
        _ => 0,
    });
    counts.sum()
}
