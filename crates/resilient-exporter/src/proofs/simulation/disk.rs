//! The two fallbacks of the simulation: one in memory that fails on demand, and one in real files.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::SystemTime;

use file_fallback::Compression;
use otlp_payload::Payload;
use safe_dir::SafeDir;

use super::{SpanKey, span_ids};
use crate::seams::dead_letters::{DeadLetterError, Redriven};
use crate::seams::fallback::{Change, Fallback, FallbackError, Order, ReadBack, Stored, StoredBatch, Usage};
use crate::seams::fates::{Fate, Refusal};
use crate::seams::settings::{DeadLetters, FallbackFormat, Files as Settings};
use crate::stores::files::FileStore;

/// A fallback in memory, with its own count of spans.
pub(super) struct MemoryFallback {
    /// By their place, which counts up.
    batches: BTreeMap<u64, StoredBatch>,
    places: u64,
    /// The places of the batches of the group, in its order.
    reading: Vec<u64>,
    /// Batches of a group.
    group: usize,
    fails: bool,
    refuses: bool,
    letters: VecDeque<StoredBatch>,
    /// Letters that were redriven. The ids of the letters in the queue continue this count.
    redriven: usize,
}

impl MemoryFallback {
    /// A fallback that gives this many batches at a time.
    pub(super) fn in_groups_of(group: usize) -> Self {
        Self {
            batches: BTreeMap::new(),
            places: 0,
            reading: Vec::new(),
            group,
            fails: false,
            refuses: false,
            letters: VecDeque::new(),
            redriven: 0,
        }
    }

    fn add(&mut self, batch: StoredBatch) {
        self.batches.insert(self.places, batch);
        self.places += 1;
    }
}

fn stored(payload: &Payload) -> StoredBatch {
    StoredBatch::new(payload.bytes().clone(), payload.item_count())
}

impl Fallback for MemoryFallback {
    fn usage(&self) -> Usage {
        let spans = self.batches.values().map(|batch| span_ids(&batch.request).count() as u64).sum();
        Usage { files: self.batches.len() as u64, spans, bytes: 0 }
    }

    fn store(&mut self, batches: &[Payload], _now: SystemTime) -> Result<Stored, FallbackError> {
        if self.fails {
            return Err(FallbackError::new("no space left"));
        }
        let is_refused = |payload: &Payload| payload.item_count().is_multiple_of(3);
        if self.refuses && (batches.len() > 2 || batches.iter().any(is_refused)) {
            return Err(FallbackError::of_batches("these batches do not fit into one object"));
        }
        batches.iter().for_each(|payload| self.add(stored(payload)));
        Ok(Stored { name: "memory".to_owned() })
    }

    fn read(&mut self, order: Order, _max_bytes: usize) -> Result<ReadBack, FallbackError> {
        if self.fails {
            return Err(FallbackError::new("input/output error"));
        }
        let rank = |batch: &StoredBatch| if order == Order::Oldest { 0 } else { batch.failures.calls };
        let place = |place: u64| if order == Order::FewestFailuresNewest { u64::MAX - place } else { place };
        let mut order = self.batches.iter().map(|(at, batch)| (rank(batch), place(*at), *at)).collect::<Vec<_>>();
        order.sort_unstable();
        self.reading = order.into_iter().take(self.group).map(|(_, _, place)| place).collect();
        if self.reading.is_empty() {
            return Ok(ReadBack::Empty);
        }
        Ok(ReadBack::Group(self.reading.iter().map(|place| self.batches[place].clone()).collect()))
    }

    fn settle(&mut self, fates: &[Fate]) -> Result<(), FallbackError> {
        assert_eq!(fates.len(), self.reading.len(), "one fate for each batch that was read");
        for (place, fate) in self.reading.drain(..).zip(fates) {
            match fate {
                Fate::Pending(failures) => {
                    self.batches.get_mut(&place).expect("a batch of the group is stored").failures = *failures;
                }
                Fate::Finished { .. } => drop(self.batches.remove(&place)),
            }
        }
        Ok(())
    }

    fn clean_up(&mut self, _now: SystemTime) {}

    fn changes(&mut self) -> Vec<Change> {
        Vec::new()
    }

    fn store_dead_letters(&mut self, refusals: &[Refusal], _endpoint: &str, _now: SystemTime) -> Option<usize> {
        if !self.fails {
            self.letters.extend(refusals.iter().map(|refusal| stored(&refusal.payload)));
        }
        Some(if self.fails { 0 } else { refusals.len() })
    }

    fn dead_letter_ids(&mut self) -> Result<Vec<String>, DeadLetterError> {
        Ok((0..self.letters.len()).map(|index| format!("{}", self.redriven + index)).collect())
    }

    fn redrive(&mut self, id: &str, _now: SystemTime) -> Result<Redriven, DeadLetterError> {
        assert_eq!(id, format!("{}", self.redriven), "the simulation redrives the oldest letter");
        if self.fails {
            return Err(DeadLetterError::NoRoom(FallbackError::new("no space left")));
        }
        let batch = self.letters.pop_front().expect("the id is that of the first letter");
        let spans = batch.spans as u64;
        self.add(batch);
        self.redriven += 1;
        Ok(Redriven { spans, letter_stays: false })
    }
}

/// A fallback of the simulation, with counts of its spans that do not use the code under test.
pub(super) trait Disk: Fallback {
    fn set_failing(&mut self, fails: bool);
    fn set_refusing(&mut self, refuses: bool);
    fn dead_lettered(&self) -> usize;
    fn stored(&self) -> HashSet<SpanKey>;
    /// Removes the oldest batch, as a limit does, and returns the number of its spans; `None` if no batch can go now.
    fn lose_oldest(&mut self) -> Option<usize>;
    /// The next process opens the fallback: the marks of the group that was read last are not written.
    fn restart(&mut self);
}

impl Disk for MemoryFallback {
    fn set_failing(&mut self, fails: bool) {
        self.fails = fails;
    }

    fn set_refusing(&mut self, refuses: bool) {
        self.refuses = refuses;
    }

    fn dead_lettered(&self) -> usize {
        self.letters.iter().map(|letter| span_ids(&letter.request).count()).sum()
    }

    fn stored(&self) -> HashSet<SpanKey> {
        self.batches.values().flat_map(|batch| span_ids(&batch.request)).collect()
    }

    fn lose_oldest(&mut self) -> Option<usize> {
        if !self.reading.is_empty() {
            return None;
        }
        self.batches.pop_first().map(|(_, batch)| batch.spans)
    }

    fn restart(&mut self) {
        self.reading.clear();
    }
}

/// Real files, recounted by reading every one of them as plain JSON or as frames.
pub(super) struct Files {
    store: FileStore,
    _dir: tempfile::TempDir,
    reading: Vec<Vec<SpanKey>>,
    finished: HashSet<SpanKey>,
}

impl Files {
    pub(super) fn new(format: FallbackFormat) -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let settings = Settings { format, compression: Compression::Never, ..Settings::default() };
        let path = dir.path().to_owned();
        let root = Box::new(move || SafeDir::open(&path));
        let store = FileStore::open_in(root, &settings, &DeadLetters::default()).expect("a fresh directory");
        Self { store, _dir: dir, reading: Vec::new(), finished: HashSet::new() }
    }
}

impl Fallback for Files {
    fn usage(&self) -> Usage {
        self.store.usage()
    }

    fn store(&mut self, batches: &[Payload], now: SystemTime) -> Result<Stored, FallbackError> {
        self.store.store(batches, now)
    }

    fn read(&mut self, order: Order, _max_bytes: usize) -> Result<ReadBack, FallbackError> {
        let read = self.store.read(order, 4_000)?;
        if let ReadBack::Group(batches) = &read {
            self.reading = batches.iter().map(|batch| span_ids(&batch.request).collect()).collect();
        }
        Ok(read)
    }

    fn read_ahead(&mut self, order: Order, _max_bytes: usize) {
        self.store.read_ahead(order, 4_000);
    }

    fn settle(&mut self, fates: &[Fate]) -> Result<(), FallbackError> {
        for (ids, fate) in self.reading.drain(..).zip(fates) {
            if matches!(fate, Fate::Finished { .. }) {
                self.finished.extend(ids);
            }
        }
        self.store.settle(fates)
    }

    fn clean_up(&mut self, now: SystemTime) {
        self.store.clean_up(now);
    }

    fn changes(&mut self) -> Vec<Change> {
        self.store.changes()
    }

    fn store_dead_letters(&mut self, refusals: &[Refusal], endpoint: &str, now: SystemTime) -> Option<usize> {
        self.store.store_dead_letters(refusals, endpoint, now)
    }

    fn dead_letter_ids(&mut self) -> Result<Vec<String>, DeadLetterError> {
        self.store.dead_letter_ids()
    }

    fn redrive(&mut self, id: &str, now: SystemTime) -> Result<Redriven, DeadLetterError> {
        let (letter, lines) = self.store.dead_letter(id)?;
        let ids = lines.iter().flat_map(|line| ids_of_line(line)).collect::<Vec<_>>();
        assert_eq!(letter.spans, ids.len() as u64);
        let redriven = self.store.redrive(id, now)?;
        for id in ids {
            self.finished.remove(&id);
        }
        Ok(redriven)
    }
}

impl Disk for Files {
    fn set_failing(&mut self, _fails: bool) {}

    fn set_refusing(&mut self, _refuses: bool) {}

    fn dead_lettered(&self) -> usize {
        let Ok(files) = std::fs::read_dir(self.store.path().with_file_name("dead-letters")) else { return 0 };
        let paths = files.map(|file| file.expect("readable").path());
        let paths = paths.filter(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
        let texts = paths.map(|path| std::fs::read_to_string(path).expect("text"));
        // The first line holds the refusal, the others the spans.
        texts.map(|text| text.lines().skip(1).map(|line| ids_of_line(line).len()).sum::<usize>()).sum()
    }

    fn stored(&self) -> HashSet<SpanKey> {
        let files = std::fs::read_dir(self.store.path()).expect("is there");
        let paths: Vec<_> = files.map(|file| file.expect("readable").path()).collect();
        let of = |wanted: &'static str| {
            let paths = paths.iter().filter(move |path| path.extension().is_some_and(|extension| extension == wanted));
            paths.map(|path| std::fs::read(path).expect("readable"))
        };
        let mut ids = HashSet::new();
        for bytes in of("binpb") {
            let mut rest = &bytes[..];
            while let Some((head, after)) = rest.split_first_chunk::<4>() {
                let (record, after) = after.split_at(u32::from_be_bytes(*head) as usize);
                ids.extend(span_ids(record));
                rest = after;
            }
        }
        for bytes in of("jsonl") {
            ids.extend(String::from_utf8(bytes).expect("text").lines().flat_map(ids_of_line));
        }
        ids.difference(&self.finished).copied().collect()
    }

    fn lose_oldest(&mut self) -> Option<usize> {
        None
    }

    fn restart(&mut self) {
        unreachable!("no process of the simulation ends over real files");
    }
}

/// Reads a line as plain JSON, without the decoder of the payload crate.
fn ids_of_line(line: &str) -> Vec<SpanKey> {
    let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
    let resources = line["resourceSpans"].as_array().expect("array").iter();
    let scopes = resources.flat_map(|one| one["scopeSpans"].as_array()).flatten();
    let spans = scopes.flat_map(|scope| scope["spans"].as_array().expect("array"));
    let ids = spans.map(|span| {
        let hex = |key: &str| u128::from_str_radix(span[key].as_str().expect("text"), 16).expect("hex");
        let span_id = u64::try_from(hex("spanId")).expect("8 bytes");
        (hex("traceId").to_be_bytes(), span_id.to_be_bytes())
    });
    ids.collect()
}
