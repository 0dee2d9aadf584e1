//! Random histories over a simulated disk that loses unsynced bytes and names, against an independent count.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use file_fallback::{Attempts, FileFallback, Format, Group, Next, Notice, SpillError, Verdict};
use proptest::prelude::*;
use safe_dir::sim::{Crash, Disk, MemoryDir};
use safe_dir::{Directory as _, Kind};

use crate::{FORMATS, at, config, count, id_of, missing, next_group, records, units};

#[derive(Clone, Debug)]
enum Step {
    Spill {
        lines: usize,
        large: bool,
    },
    Next {
        max_bytes: usize,
    },
    /// One bit each for a record: done, or to be read again; the second, whether one more attempt has failed then.
    Settle {
        group: usize,
        done: u32,
        failed: u32,
    },
    GiveBack {
        group: usize,
    },
    CleanUp {
        seconds: u64,
    },
    Restart(Format),
    Crash(Crash, Format),
    Capacity(Option<u64>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (1..12_usize, any::<bool>()).prop_map(|(lines, large)| Step::Spill { lines, large }),
        6 => (1..20_000_usize).prop_map(|max_bytes| Step::Next { max_bytes }),
        4 => (0..4_usize, any::<u32>(), any::<u32>())
            .prop_map(|(group, done, failed)| Step::Settle { group, done, failed }),
        2 => (0..4_usize, any::<u32>()).prop_map(|(group, done)| Step::Settle { group, done, failed: u32::MAX }),
        2 => (0..4_usize).prop_map(|group| Step::Settle { group, done: u32::MAX, failed: 0 }),
        2 => (0..4_usize).prop_map(|group| Step::GiveBack { group }),
        1 => (0..200_u64).prop_map(|seconds| Step::CleanUp { seconds }),
        1 => format().prop_map(Step::Restart),
        1 => (prop_oneof![
            Just(Crash::Worst), Just(Crash::Best), any::<u64>().prop_map(Crash::Random), any::<u64>().prop_map(Crash::Random)
        ], format()).prop_map(|(crash, format)| Step::Crash(crash, format)),
        1 => prop_oneof![Just(None), (0..60_000_u64).prop_map(Some)].prop_map(Step::Capacity),
    ]
}

fn format() -> impl Strategy<Value = Format> {
    prop::sample::select(&FORMATS)
}

/// The store, its disk, and an independent count of its records.
struct History {
    disk: Disk,
    store: Option<FileFallback<MemoryDir>>,
    /// The format of this run; earlier runs may have left files of the other.
    format: Format,
    /// The groups that are handed out, each with the file and the id of its records.
    out: Vec<(Group, Vec<(String, usize)>)>,
    /// The attempts of the records of which some failed.
    attempts: BTreeMap<usize, Attempts>,
    /// By file: the ids in it that were accepted and neither settled nor evicted.
    files: BTreeMap<String, BTreeSet<usize>>,
    settled: BTreeSet<usize>,
    next_id: usize,
    seconds: u64,
}

impl History {
    fn new(format: Format) -> Self {
        let disk = Disk::new();
        let mut history = Self {
            disk,
            store: None,
            format,
            out: Vec::new(),
            attempts: BTreeMap::new(),
            files: BTreeMap::new(),
            settled: BTreeSet::new(),
            next_id: 0,
            seconds: 0,
        };
        history.open(format);
        history
    }

    fn open(&mut self, format: Format) {
        self.format = format;
        let config = config(Path::new("unused"))
            .with_format(format)
            .with_max_files(6)
            .with_max_bytes(100_000)
            .with_compress_above(10_000);
        let store = FileFallback::open_in(config.build().expect("valid"), self.disk.root());
        self.store = Some(store.expect("a full disk can be opened"));
        self.out.clear();
    }

    fn store(&mut self) -> &mut FileFallback<MemoryDir> {
        self.store.as_mut().expect("open")
    }

    fn note_evicted(&mut self, evicted: &[file_fallback::Evicted]) {
        for evicted in evicted {
            let ids = self.files.remove(&evicted.name).expect("a file that is known");
            assert_eq!(evicted.count, sum(&ids), "{evicted:?}");
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Spill { lines: number, large } => {
                let ids: BTreeSet<_> = (self.next_id..self.next_id + number).collect();
                self.next_id += number;
                let now = at(self.seconds);
                let written = records(ids.iter().copied(), if large { 3_000 } else { 80 }, self.format);
                match self.store().spill(&written, now) {
                    Ok(spilled) => {
                        assert_eq!(spilled.count, sum(&ids));
                        self.note_evicted(&spilled.evicted);
                        self.files.insert(spilled.name, ids);
                    }
                    Err(error @ (SpillError::NoRoom { .. } | SpillError::File { .. })) => {
                        self.note_evicted(error.evicted())
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            Step::Next { max_bytes } => {
                let waiting = self.waiting();
                let next = self.store().next_group(max_bytes).expect("no faults");
                let first = waiting.first().map(|(failed, file, _)| (*failed, file.as_str()));
                let Next::Group(group) = next else {
                    assert_eq!(first, None, "a record waits");
                    return;
                };
                let places = self.places(&group);
                assert_eq!(first, Some((group.failed(), places[0].0.as_str())), "fewest failures, then the oldest");
                assert!(places.is_sorted_by_key(|(file, _)| file), "{places:?}");
                for ((file, id), source) in places.iter().zip(group.sources()) {
                    let place = (group.failed(), file.clone(), *id);
                    assert!(
                        waiting.contains(&place),
                        "{place:?} is settled, evicted or handed out, or failed more often"
                    );
                    assert_eq!(source.attempts, self.attempts.get(id).copied().unwrap_or_default());
                }
                self.out.push((group, places));
            }
            Step::Settle { group, done, failed } if group < self.out.len() => {
                let (group, places) = self.out.remove(group);
                let bit = |bits: u32, index: usize| bits >> (index % 32) & 1 == 1;
                let verdict = |(index, (_, id)): (usize, &(String, usize))| match (bit(done, index), bit(failed, index))
                {
                    (true, _) => Verdict::Done(count(*id) as u64),
                    (false, true) => Verdict::Failed(Attempts { failed: group.failed() + 1, note: [7; 6] }),
                    (false, false) => Verdict::Keep,
                };
                let verdicts: Vec<_> = places.iter().enumerate().map(verdict).collect();
                let durable = match self.store().settle(group, &verdicts) {
                    Ok(_) => true,
                    Err(file_fallback::SettleError::NotDurable { .. }) => false,
                    Err(error) => panic!("{error}"),
                };
                for ((name, id), verdict) in places.iter().zip(verdicts) {
                    match verdict {
                        Verdict::Failed(attempts) => drop(self.attempts.insert(*id, attempts)),
                        Verdict::Done(_) => self.note_settled(name, *id),
                        Verdict::Keep | Verdict::Rejected => {}
                    }
                }
                // The disk was full: after a restart these records would be delivered again, which the count here does
                // not allow. With room the next verdict writes these too.
                if !durable {
                    self.disk.set_capacity(None);
                    self.settle_one_more();
                }
            }
            Step::GiveBack { group } if group < self.out.len() => {
                let (group, _) = self.out.remove(group);
                self.store().give_back(group).expect("ours");
            }
            Step::Settle { .. } | Step::GiveBack { .. } => {}
            Step::CleanUp { seconds } => {
                self.seconds += seconds;
                let now = at(self.seconds);
                let evicted = self.store().clean_up(now);
                self.note_evicted(&evicted);
            }
            Step::Restart(format) => {
                self.store = None;
                self.open(format);
            }
            Step::Crash(crash, format) => {
                self.disk.crash(crash);
                self.store = None;
                self.open(format);
            }
            Step::Capacity(bytes) => self.disk.set_capacity(bytes),
        }
        self.check();
    }

    /// Makes the store write all marks, by one more verdict, or empties it.
    fn settle_one_more(&mut self) {
        for _ in 0..1_000 {
            let group = match self.out.pop() {
                Some((group, _)) => group,
                None => match next_group(self.store(), 1) {
                    Some(group) => group,
                    None => return,
                },
            };
            let places = self.places(&group);
            let verdicts: Vec<_> = places.iter().map(|(_, id)| Verdict::Done(count(*id) as u64)).collect();
            self.store().settle(group, &verdicts).expect("there is room");
            places.iter().for_each(|(name, id)| self.note_settled(name, *id));
            if places.iter().any(|(name, _)| self.files.contains_key(name)) {
                return; // A file stays, thus its mark was written, and all others with it.
            }
        }
        panic!("the store never ends");
    }

    /// The file and the id of each record of a group.
    fn places(&self, group: &Group) -> Vec<(String, usize)> {
        let places = group.sources().zip(&group.records);
        places.map(|(source, text)| (source.file.to_owned(), id_of(text).expect("what was written"))).collect()
    }

    /// The records that are not handed out, each with its failed attempts and its file: in the order in which they are
    /// read.
    fn waiting(&self) -> BTreeSet<(u32, String, usize)> {
        let out: BTreeSet<_> = self.out.iter().flat_map(|(_, places)| places).map(|(_, id)| *id).collect();
        let all = self.files.iter().flat_map(|(name, ids)| ids.iter().map(move |id| (name, *id)));
        let waiting = all.filter(|(_, id)| !out.contains(id));
        let failed = |id| self.attempts.get(&id).map_or(0, |attempts| attempts.failed);
        waiting.map(|(name, id)| (failed(id), name.clone(), id)).collect()
    }

    fn note_settled(&mut self, name: &str, id: usize) {
        let file = self.files.get_mut(name).expect("a file that is known");
        assert!(file.remove(&id), "{id} was settled before");
        assert!(self.settled.insert(id));
        if file.is_empty() {
            self.files.remove(name);
        }
    }

    /// Compares the store's numbers with the count here and with the names on the disk.
    fn check(&mut self) {
        let expected: u64 = self.files.values().map(sum).sum();
        assert_eq!(self.store().stored().count, expected);
        assert_eq!(self.store().stored().files, self.files.len() as u64);
        let root = self.disk.root();
        let entries = root.list().expect("no faults").into_iter();
        let names: BTreeSet<_> = entries
            .filter(|entry| entry.kind == Some(Kind::File))
            .filter_map(|entry| entry.name.into_string().ok())
            .filter(|name| name.starts_with("traces-"))
            .collect();
        assert_eq!(names, self.files.keys().cloned().collect());
        let bytes: u64 = names.iter().map(|name| root.metadata(name).expect("there").len).sum();
        assert_eq!(self.store().stored().bytes, bytes);
        assert!(bytes <= 100_000 && names.len() <= 6);
        let notices = self.store().take_notices();
        assert!(missing(&notices) == 0 && !notices.iter().any(|notice| matches!(notice, Notice::SetAside { .. })));
    }

    fn finish(mut self) {
        self.disk.set_capacity(None);
        self.disk.crash(Crash::Worst);
        self.store = None;
        self.open(self.format);
        self.check();
        let mut left: BTreeSet<usize> = self.files.values().flatten().copied().collect();
        while let Some(group) = next_group(self.store(), 5_000) {
            let ids: Vec<_> = group.records.iter().map(|text| id_of(text).expect("what was written")).collect();
            for id in &ids {
                assert!(left.remove(id), "{id} is delivered, and was settled or is unknown");
            }
            self.store().acknowledge(group, units).expect("no faults");
        }
        assert_eq!(left, BTreeSet::new(), "accepted, and never delivered");
        assert_eq!(self.store().stored().count, 0);
    }
}

fn sum(ids: &BTreeSet<usize>) -> u64 {
    ids.iter().map(|id| count(*id) as u64).sum()
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 4_000, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn no_accepted_record_is_lost_and_no_settled_record_comes_back(
        first in format(),
        script in prop::collection::vec(step(), 1..60),
    ) {
        let mut history = History::new(first);
        for step in script {
            history.step(step);
        }
        history.finish();
    }
}
