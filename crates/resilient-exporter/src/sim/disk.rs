//! Two fallbacks of a simulated world: one in memory that fails on demand, and real files.

use std::collections::{HashSet, VecDeque};
use std::time::SystemTime;

use bytes::Bytes;
use file_fallback::Compression;
use otlp_payload::Payload;

use super::{SpanKey, span_ids};
use crate::fallback::{Change, Fallback, FallbackError, Kept, Stored};
use crate::file_store::{FileStore, Settings};
use crate::records::FallbackFormat;
use crate::replay::{Fate, Refusal};

/// A fallback in memory, with its own count of spans.
#[derive(Default)]
pub(super) struct MemoryFallback {
    batches: VecDeque<(Bytes, usize)>,
    reading: usize,
    fails: bool,
    buried: HashSet<SpanKey>,
}

impl Fallback for MemoryFallback {
    fn kept(&self) -> Kept {
        let spans = self.batches.iter().map(|(bytes, _)| span_ids(bytes).count() as u64).sum();
        Kept { files: self.batches.len() as u64, spans, bytes: 0 }
    }

    fn keep(&mut self, batches: &[Payload], _now: SystemTime) -> Result<Stored, FallbackError> {
        if self.fails {
            return Err(FallbackError::new("no space left"));
        }
        self.batches.extend(batches.iter().map(|payload| (payload.bytes().clone(), payload.span_count())));
        Ok(Stored { name: "memory".to_owned() })
    }

    fn read(&mut self, _max_bytes: usize) -> Result<Vec<(Bytes, usize)>, FallbackError> {
        if self.fails {
            return Err(FallbackError::new("input/output error"));
        }
        self.reading = self.batches.len().min(3);
        Ok(self.batches.iter().take(self.reading).cloned().collect())
    }

    fn finish(&mut self, fates: &[Fate]) -> Result<(), FallbackError> {
        assert_eq!(fates.len(), self.reading, "one fate for each batch that was read");
        let given = self.batches.drain(..self.reading).collect::<Vec<_>>();
        for (batch, fate) in given.into_iter().zip(fates).rev() {
            if matches!(fate, Fate::Kept) {
                self.batches.push_front(batch);
            }
        }
        self.reading = 0;
        Ok(())
    }

    fn clean_up(&mut self, _now: SystemTime) {}

    fn changes(&mut self) -> Vec<Change> {
        Vec::new()
    }

    fn bury(&mut self, refusals: &[Refusal], _endpoint: &str, _now: SystemTime) -> bool {
        if !self.fails {
            self.buried.extend(refusals.iter().flat_map(|refusal| span_ids(refusal.payload.bytes())));
        }
        !self.fails
    }
}

/// The fallback of a world, and a count of what is in it that does not ask it.
pub(super) trait Disk: Fallback {
    fn set_failing(&mut self, fails: bool);
    fn buried(&self) -> usize;
    fn stored(&self) -> HashSet<SpanKey>;
    /// Loses its oldest batch to a cap; says how many spans that were.
    fn lose_oldest(&mut self) -> Option<usize>;
}

impl Disk for MemoryFallback {
    fn set_failing(&mut self, fails: bool) {
        self.fails = fails;
    }

    fn buried(&self) -> usize {
        self.buried.len()
    }

    fn stored(&self) -> HashSet<SpanKey> {
        self.batches.iter().flat_map(|(bytes, _)| span_ids(bytes)).collect()
    }

    fn lose_oldest(&mut self) -> Option<usize> {
        if self.reading > 0 { None } else { self.batches.pop_front().map(|(_, spans)| spans) }
    }
}

/// Real files, recounted by reading every one of them as plain JSON or as frames.
pub(super) struct Files {
    store: FileStore,
    dir: tempfile::TempDir,
    reading: Vec<Vec<SpanKey>>,
    finished: HashSet<SpanKey>,
}

impl Files {
    pub(super) fn new(format: FallbackFormat) -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let settings = Settings { format, compression: Compression::Never, ..Settings::default() };
        let store = FileStore::open(dir.path().join("fallback"), dir.path().join("dead-letters"), &settings)
            .expect("a fresh directory");
        Self { store, dir, reading: Vec::new(), finished: HashSet::new() }
    }
}

impl Fallback for Files {
    fn kept(&self) -> Kept {
        self.store.kept()
    }

    fn keep(&mut self, batches: &[Payload], now: SystemTime) -> Result<Stored, FallbackError> {
        self.store.keep(batches, now)
    }

    fn read(&mut self, _max_bytes: usize) -> Result<Vec<(Bytes, usize)>, FallbackError> {
        let batches = self.store.read(4_000)?;
        self.reading = batches.iter().map(|(bytes, _)| span_ids(bytes).collect()).collect();
        Ok(batches)
    }

    fn finish(&mut self, fates: &[Fate]) -> Result<(), FallbackError> {
        for (ids, fate) in self.reading.drain(..).zip(fates) {
            if matches!(fate, Fate::Finished { .. }) {
                self.finished.extend(ids);
            }
        }
        self.store.finish(fates)
    }

    fn clean_up(&mut self, now: SystemTime) {
        self.store.clean_up(now);
    }

    fn changes(&mut self) -> Vec<Change> {
        self.store.changes()
    }
}

impl Disk for Files {
    fn set_failing(&mut self, _fails: bool) {}

    fn buried(&self) -> usize {
        0
    }

    fn stored(&self) -> HashSet<SpanKey> {
        let files = std::fs::read_dir(self.dir.path().join("fallback")).expect("is there");
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
            for line in String::from_utf8(bytes).expect("text").lines() {
                let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
                for scope in line["resourceSpans"]
                    .as_array()
                    .expect("array")
                    .iter()
                    .flat_map(|one| one["scopeSpans"].as_array())
                    .flatten()
                {
                    for span in scope["spans"].as_array().expect("array") {
                        let hex = |key: &str| u128::from_str_radix(span[key].as_str().expect("text"), 16).expect("hex");
                        let span_id = u64::try_from(hex("spanId")).expect("8 bytes");
                        ids.insert((hex("traceId").to_be_bytes(), span_id.to_be_bytes()));
                    }
                }
            }
        }
        ids.difference(&self.finished).copied().collect()
    }

    fn lose_oldest(&mut self) -> Option<usize> {
        None
    }
}
