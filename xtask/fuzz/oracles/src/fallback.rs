//! The replay of fallback files: any files, any record of the progress, on a disk in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use file_fallback::{Compression, Config, FileFallback, Next, Notice, Record, Settled, Verdict};
use safe_dir::Directory as _;
use safe_dir::sim::{Crash, Disk, MemoryDir};

use crate::feed::{Feed, Recipe};
use crate::files::{self, Format, Given, Readings, SEPARATOR, content, put};
use crate::{Seed, memory};

/// Opens, reads a while, opens again, reads to the end: reading ends, in bounded memory; no record is invented or comes
/// again once it was settled; the neighbours and all intact records are delivered; damaged files are set aside
/// unchanged; and the counts agree.
///
/// The input: three bytes of settings, the progress if there is any, then up to four files (see [`Given::read`]).
pub(crate) fn check(input: &[u8]) {
    let mut feed = Feed(input);
    let style = feed.byte();
    let (habit, first_groups) = (feed.byte(), usize::from(feed.byte() % 8));
    let mut scenario = Scenario::new(style, habit);
    if style & 4 != 0 {
        scenario.give_progress(feed.chunk(), style & 8 != 0);
    }
    for _ in 0..=style & 3 {
        scenario.give_file(Given::read(&mut feed));
    }
    let limit = PEAK_PER_BYTE * input.len() + PEAK_AT_LEAST;
    memory::within(limit, "replay", || scenario.run(first_groups, style & 0x40 != 0));
    scenario.finish();
}

struct Scenario {
    disk: Disk,
    config: Config,
    habit: u8,
    max_bytes: usize,
    /// The progress log may mark lines as done.
    has_progress: bool,
    given: BTreeMap<String, (Given, Option<Readings>)>,
    next_number: u32,
    /// By file: the lines that came to an end, by number.
    settled: BTreeMap<String, BTreeMap<u64, Vec<u8>>>,
    rejected: BTreeSet<(String, u64)>,
    neighbours: usize,
    notices: Vec<Notice>,
}

impl Scenario {
    fn new(style: u8, habit: u8) -> Self {
        let compression = [Compression::Never, Compression::Zstd, Compression::Gzip][usize::from(style >> 4 & 3) % 3];
        let config = Config::builder("unused")
            .with_free_space_reserve(0)
            .with_compression(compression)
            .with_compress_above(0)
            .with_max_record_bytes(if style & 0x80 != 0 { 64 } else { 1_000 });
        let disk = Disk::new();
        assert!(put(&disk, NEIGHBOUR, b"{\"neighbour\":0}\n{\"neighbour\":1}\n"));
        Self {
            disk,
            config: config.build().expect("in range"),
            habit,
            max_bytes: 1 << (4 + habit % 8),
            has_progress: false,
            given: BTreeMap::new(),
            next_number: 1,
            settled: BTreeMap::new(),
            rejected: BTreeSet::new(),
            neighbours: 0,
            notices: Vec::new(),
        }
    }

    /// Text as it is, or each line with its checksum.
    fn give_progress(&mut self, text: &[u8], sealed: bool) {
        self.has_progress = true;
        let seal = |line: &[u8]| [format!("{:08x} ", crc32c::crc32c(line)).as_bytes(), line, b"\n"].concat();
        let text = if sealed { text.split(|byte| *byte == b'\n').flat_map(seal).collect() } else { text.to_vec() };
        assert!(put(&self.disk, "progress.log", &text));
    }

    fn give_file(&mut self, file: Given) {
        // Between the numbers 1, 3, 5, .. stands the neighbour.
        self.next_number += if file.twin { 0 } else { 2 };
        let name = format!("{STEM}-{:08}-n{}{}", self.next_number, file.promised, file.extension);
        if file.put(&self.disk, &name) {
            let readings = Readings::of(&file);
            self.given.insert(name, (file, readings));
        }
    }

    fn open(&mut self) -> FileFallback<MemoryDir> {
        FileFallback::open_in(self.config.clone(), self.disk.root()).expect("a well disk")
    }

    fn run(&mut self, first_groups: usize, crash: bool) {
        let mut store = self.open();
        let spilled = store.spill(&[record(2), record(3)], at()).expect("there is space");
        assert_eq!(spilled.count, 2);
        for _ in 0..first_groups {
            self.replay(&mut store);
        }
        // One more is handed out, and never heard of again.
        drop(store.next_group(self.max_bytes).expect("a well disk"));
        self.notices.extend(store.take_notices());
        let before = store.stored();
        drop(store);
        if crash {
            self.disk.crash(Crash::Worst);
        }
        let mut store = self.open();
        assert_eq!(store.stored(), before, "what was settled was kept");
        while self.replay(&mut store) {}
        self.notices.extend(store.take_notices());
        let stored = store.stored();
        assert_eq!((stored.files, stored.count, stored.bytes), (0, 0, 0));
    }

    /// Reads a group and settles it; false once every record is settled.
    fn replay(&mut self, store: &mut FileFallback<MemoryDir>) -> bool {
        let before = store.stored().count;
        let missing_before = missing(&self.notices);
        let next = store.next_group(self.max_bytes).expect("a well disk");
        let mut done = 0;
        let more = next != Next::Empty;
        let settled = if let Next::Group(group) = next {
            let records = group.sources().zip(&group.records);
            let verdicts: Vec<Verdict> =
                records.map(|(source, text)| self.verdict(source.file, source.number, text)).collect();
            done = verdicts.iter().map(|verdict| if let Verdict::Done(count) = verdict { *count } else { 0 }).sum();
            store.settle(group, &verdicts).expect("a well disk")
        } else {
            Settled::default()
        };
        self.notices.extend(store.take_notices());
        assert_eq!(settled.count + settled.surplus, done);
        let missing = missing(&self.notices) - missing_before;
        assert_eq!(store.stored().count + settled.count + missing, before, "every unit is accounted for");
        more
    }

    fn verdict(&mut self, file: &str, number: u64, text: &[u8]) -> Verdict {
        assert!(text.len() <= self.config.max_record_bytes());
        if let Some((given, readings)) = self.given.get(file) {
            assert!(given.format == Format::Framed || !text.contains(&b'\n'));
            let invented = readings.as_ref().is_some_and(|readings| !readings.have(text));
            assert!(!invented, "invented: {}", text.escape_ascii());
            let kind = self.habit.rotate_left(u32::try_from(number % 8).expect("small")) & 3;
            if kind == 3 && self.rejected.insert((file.to_owned(), number)) {
                return Verdict::Keep;
            }
            self.settle(file, number, text);
            return if kind == 2 { Verdict::Rejected } else { Verdict::Done(u64::from(kind) + 1) };
        }
        let expected = [0, 1, 2, 3].map(|number| record(number).bytes);
        assert!(expected.iter().any(|expected| expected == text), "a neighbour's line is another");
        self.neighbours += 1;
        self.settle(file, number, text);
        Verdict::Done(1)
    }

    fn settle(&mut self, file: &str, number: u64, text: &[u8]) {
        let before = self.settled.entry(file.to_owned()).or_default().insert(number, text.to_vec());
        assert_eq!(before, None, "line {number} of {file} was settled, and came again");
    }

    fn finish(mut self) {
        assert!(self.has_progress || self.neighbours == 4, "{} of 4 neighbours", self.neighbours);
        let names = self.disk.root().list().expect("a well disk");
        let left = names.iter().filter_map(|entry| entry.name.to_str()).find(|name| name.starts_with("traces-"));
        assert_eq!(left, None, "all was delivered or set aside");
        for (name, (given, readings)) in &self.given {
            self.was_treated_well(name, given, readings.as_ref());
        }
        let stored = self.open().stored();
        assert_eq!((stored.files, stored.count), (0, 0), "nothing comes back");
    }

    fn was_treated_well(&self, name: &str, given: &Given, readings: Option<&Readings>) {
        let settled: Vec<&[u8]> =
            self.settled.get(name).into_iter().flatten().map(|(_, text)| text.as_slice()).collect();
        let aside: Vec<&Option<String>> = self
            .notices
            .iter()
            .filter_map(|notice| match notice {
                Notice::SetAside { name: other, moved_to, .. } if other == name => Some(moved_to),
                _ => None,
            })
            .collect();
        if let [moved_to] = aside[..] {
            let moved_to = moved_to.as_ref().expect("a well disk");
            let set_aside = content(&self.disk, Some("quarantine"), moved_to);
            assert_eq!(set_aside.as_deref(), Some(&given.bytes[..]), "{name} is set aside unchanged");
        } else {
            assert_eq!(aside.len(), 0, "{name} was set aside more than once");
        }
        if self.has_progress {
            return;
        }
        let max = self.config.max_record_bytes();
        if let Some(records) = &given.intact {
            let mut expected: Vec<&Vec<u8>> = records.iter().collect();
            match given.format {
                Format::Lines => expected.retain(|line| line.len() <= max),
                // A length that cannot be one ends the file.
                Format::Framed => {
                    let usable = expected.iter().take_while(|record| record.len() <= max).count();
                    expected.truncate(usable);
                }
            }
            assert_eq!(settled, expected, "{name} was whole");
        }
        if aside.is_empty()
            && let Some(readings) = readings
        {
            assert!(readings.are_all(&settled), "{name} was removed, and not all of it was settled");
        }
    }
}

/// Records that left the store undelivered.
fn missing(notices: &[Notice]) -> u64 {
    let counts = notices.iter().map(|notice| match notice {
        Notice::SetAside { count, .. } | Notice::Vanished { count, .. } => *count,
        _ => 0,
    });
    counts.sum()
}

fn record(number: usize) -> Record {
    Record { bytes: format!("{{\"neighbour\":{number}}}").into_bytes(), count: 1 }
}

fn at() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000)
}

const STEM: &str = "traces-20260201T000000.000Z";
const NEIGHBOUR: &str = "traces-20260201T000000.000Z-00000004-n2.jsonl";

/// Two copies on the disk in memory, two for comparing, and the entry of each line in the tables of this check.
const PEAK_PER_BYTE: usize = 1_000;

/// A group, a compressed part as it is read, the windows of the readers, and the progress.
const PEAK_AT_LEAST: usize = 16 << 20;

/// Files as we write them, with harm, with progress, and as others write them.
pub(crate) fn seeds() -> Vec<Seed> {
    let text = b"{\"id\":1}\n{\"id\":2}\n\x1e\n{\"id\":3}\n{\"id\":4}\x1e\n{\"id\":5}\n";
    let long = [&[b'x'; 900][..], b"\n{\"id\":1}\n"].concat();
    let recipe = |style: u8| Recipe::default().byte(style).byte(0b0100_0100).byte(1);
    let file = |recipe: Recipe, form: u8, chunk: &[u8]| recipe.byte(form).byte(5).chunk(chunk);
    let harmed = |recipe: Recipe, what: u8, at: u16, value: u8| recipe.byte(what).short(at).byte(value);
    let frames: Vec<u8> = text.split(|byte| *byte == SEPARATOR).flat_map(files::zstd_frame).collect();
    let members: Vec<u8> = text.split(|byte| *byte == SEPARATOR).flat_map(files::gzip_member).collect();
    let name = format!("{STEM}-00000003-n5.jsonl");
    let progress = format!("{{\"file\":\"{name}\",\"bytes\":48,\"lines\":[[0,2]],\"count\":2}}");
    let sky = format!(
        "{{\"file\":\"{name}\",\"bytes\":48,\"lines\":[[0,18446744073709551615]],\"count\":18446744073709551615,\"rejected\":true}}"
    );
    let mut seeds = vec![
        ("plain".to_owned(), file(recipe(0), 0b0100, text)),
        ("zstd".to_owned(), file(recipe(0x10), 0b1001, text)),
        ("gzip".to_owned(), file(recipe(0x20), 0b1110, text)),
        ("raw-zstd".to_owned(), file(recipe(0), 1, &frames)),
        ("raw-gzip".to_owned(), file(recipe(0), 2, &members)),
        ("torn-zstd".to_owned(), file(recipe(0x40), 1, &frames[..frames.len() - 3])),
        ("torn-gzip".to_owned(), file(recipe(0x40), 2, &members[..members.len() - 3])),
        ("flipped".to_owned(), harmed(file(recipe(0), 0b01_1001, text), 0, 20, 1)),
        ("cut".to_owned(), harmed(file(recipe(0), 0b01_1110, text), 2, 60, 0)),
        ("long-line".to_owned(), file(recipe(0x80), 0b0100, &long)),
        ("blank".to_owned(), file(recipe(0), 0b0100, b"\n \n\t\n")),
        ("nothing".to_owned(), file(recipe(0), 0, b"")),
        ("framed".to_owned(), file(recipe(0), 0b1000_0100, text)),
        ("framed-zstd".to_owned(), file(recipe(0x10), 0b1000_1001, text)),
        ("framed-gzip".to_owned(), file(recipe(0x20), 0b1000_1110, text)),
        ("framed-flipped".to_owned(), harmed(file(recipe(0), 0b1001_1001, text), 0, 20, 1)),
        ("framed-long".to_owned(), file(recipe(0x80), 0b1000_0100, &long)),
        ("framed-raw".to_owned(), file(recipe(0), 0b1000_0000, b"\0\0\0\x02{}\0\0\0\x01x\xff\xff\xff\xff")),
        ("wrong-magic".to_owned(), file(recipe(0), 1, b"\x28\xb5\x2f\xfd and then some")),
        ("progress".to_owned(), file(recipe(0b1100).chunk(progress.as_bytes()), 0b0100, text)),
        ("progress-of-the-sky".to_owned(), file(recipe(0b1100).chunk(sky.as_bytes()), 0b0100, text)),
        ("progress-of-junk".to_owned(), file(recipe(0b0100).chunk(b"00000000 {}\nx\n\xff"), 0b0100, text)),
    ];
    let two = file(file(recipe(1), 0b0100, text), 0b0100_1001, text);
    seeds.push(("twins".to_owned(), two));
    let four = (0..4).fold(recipe(3), |recipe, form| file(recipe, form << 2, text));
    seeds.push(("four".to_owned(), four));
    seeds.into_iter().map(|(name, recipe)| (name, recipe.0)).collect()
}
