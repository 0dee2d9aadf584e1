//! The account of the storm: every span made, the promise about it, the places where it was seen; and every broken
//! promise.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use super::Promise;
use super::disk::{Disk, Kind};
use super::ledger::{self, Answer, Batch};
use crate::SpanIds;

/// Everything that is known of the spans.
#[derive(Debug)]
pub(super) struct Account {
    promise: Promise,
    spans: HashMap<SpanIds, Span>,
    /// Owed and not delivered.
    open: HashSet<SpanIds>,
    /// Files that spans were seen in.
    paths: Vec<PathBuf>,
    /// Spans of the record that were read.
    received: u64,
    pub(super) repeats: Vec<Repeat>,
    /// Receipts, by their place in the record, of spans that stood in a fallback file when the process that had sent
    /// them was dead: it was killed in the middle of a group of them.
    pub(super) cut_short: HashSet<u64>,
    /// The number of spans received when the disk was last read.
    looked: u64,
    pub(super) invented: Vec<String>,
    pub(super) lost: Vec<Lost>,
    pub(super) volatile: u64,
}

#[derive(Debug)]
struct Span {
    life: u32,
    batch: u64,
    accepted: bool,
    /// Its last place in the record.
    receipt: Option<u64>,
    seen: Option<Seen>,
}

/// A span on disk.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// After the end of this life.
    life: u32,
    path: usize,
    dead: bool,
}

/// A span came again: its places in the record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Repeat {
    pub(super) first: u64,
    pub(super) again: u64,
}

/// A span that is owed and nowhere.
#[derive(Debug)]
pub(super) struct Lost {
    ids: SpanIds,
    life: u32,
    batch: u64,
    missed: u32,
    seen: Option<(u32, PathBuf)>,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ids, life, batch, missed, seen } = self;
        let trace = u128::from_be_bytes(ids.0);
        let span = u64::from_be_bytes(ids.1);
        write!(
            f,
            "span {span:016x} of trace {trace:032x}: batch {batch} of life {life}, missed after life {missed}, "
        )?;
        match seen {
            Some((life, path)) => write!(f, "last seen after life {life} in {}", path.display()),
            None => f.write_str("never seen on disk"),
        }
    }
}

/// The number of spans that the exporter of the next life may report as found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    /// Undelivered spans in the first process's own files.
    pub(super) least: u64,
    /// Every span in every file, copies and settled ones included.
    pub(super) most: u64,
}

impl Account {
    pub(super) fn new(promise: Promise) -> Self {
        Self {
            promise,
            spans: HashMap::new(),
            open: HashSet::new(),
            paths: Vec::new(),
            received: 0,
            repeats: Vec::new(),
            cut_short: HashSet::new(),
            looked: 0,
            invented: Vec::new(),
            lost: Vec::new(),
            volatile: 0,
        }
    }

    /// Adds the batches that a life has written to its ledger, and the answers that are new since the last time: the
    /// process may still be alive.
    pub(super) fn take_ledger(&mut self, life: u32, batches: Vec<Batch>) {
        for Batch { number, ids, answer } in batches {
            let accepted = matches!(answer, Some(Answer::Accepted | Answer::Volatile));
            let owed = self.promise == Promise::Accepted && answer == Some(Answer::Accepted);
            for id in ids {
                let new = Span { life, batch: number, accepted: false, receipt: None, seen: None };
                let span = self.spans.entry(id).or_insert(new);
                if !accepted || std::mem::replace(&mut span.accepted, true) {
                    continue;
                }
                self.volatile += u64::from(answer == Some(Answer::Volatile));
                if owed && span.receipt.is_none() {
                    self.open.insert(id);
                }
            }
        }
    }

    /// Adds the receipts that the collector has written since. Comes after the ledgers of all processes that may have
    /// sent them.
    pub(super) fn take_record(&mut self, record: &Path) -> io::Result<()> {
        const ID: usize = 24;
        let mut file = match std::fs::File::open(record) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            file => file?,
        };
        file.seek(SeekFrom::Start(self.received * ID as u64))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        for id in bytes.as_chunks::<ID>().0.iter().map(ledger::ids) {
            let index = self.received;
            self.received += 1;
            self.open.remove(&id);
            match self.spans.get_mut(&id) {
                Some(span) => {
                    if let Some(first) = span.receipt.replace(index) {
                        self.repeats.push(Repeat { first, again: index });
                    }
                }
                None => self.invented.push(format!("received as number {index}")),
            }
        }
        Ok(())
    }

    /// Looks for everything owed on this disk. Nothing may live meanwhile; after the ledgers and the record.
    pub(super) fn audit(&mut self, life: u32, disk: &Disk) -> Found {
        let mut on_disk = HashSet::new();
        let mut found = Found { least: 0, most: 0 };
        for place in &disk.places {
            let path = self.paths.len();
            self.paths.push(place.path.clone());
            let dead = place.kind == Kind::DeadLetter;
            let waits = matches!(place.kind, Kind::Journal | Kind::Fallback);
            for id in &place.ids {
                found.most += u64::from(waits);
                let Some(span) = self.spans.get_mut(id) else {
                    self.invented.push(format!("found in {} after life {life}", place.path.display()));
                    continue;
                };
                span.seen = Some(Seen { life, path, dead });
                if let Some(receipt) = span.receipt {
                    if place.kind == Kind::Fallback && receipt >= self.looked {
                        self.cut_short.insert(receipt);
                    }
                } else {
                    // A span that was once on disk must not be lost, whether or not `export` accepted it.
                    self.open.insert(*id);
                    let first = on_disk.insert(*id);
                    found.least += u64::from(first && waits && !place.further);
                }
            }
        }
        self.looked = self.received;
        let missing = self.open.iter().filter(|id| !on_disk.contains(*id)).copied().collect::<Vec<_>>();
        for ids in missing {
            self.open.remove(&ids);
            let Span { life: born, batch, seen, .. } = &self.spans[&ids];
            let seen = seen.map(|seen| (seen.life, self.paths[seen.path].clone()));
            self.lost.push(Lost { ids, life: *born, batch: *batch, missed: life, seen });
        }
        found
    }

    pub(super) fn made(&self) -> u64 {
        self.spans.len() as u64
    }

    pub(super) fn accepted(&self) -> u64 {
        self.spans.values().filter(|span| span.accepted).count() as u64
    }

    pub(super) fn delivered(&self) -> u64 {
        self.spans.values().filter(|span| span.receipt.is_some()).count() as u64
    }

    /// Everything in the record, repeats included.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// Owed, not delivered, and on disk when it was last looked: as dead letters, and otherwise.
    pub(super) fn left(&self) -> (u64, u64) {
        let dead = self.open.iter().filter(|id| self.spans[*id].seen.is_some_and(|seen| seen.dead)).count();
        (dead as u64, (self.open.len() - dead) as u64)
    }

    /// Owed and not delivered.
    pub(super) fn open(&self) -> usize {
        self.open.len()
    }

    /// Accepted spans that were lost with the memory of a process: the journal prevents these.
    pub(super) fn gone(&self) -> u64 {
        let gone = |(id, span): &(&SpanIds, &Span)| span.accepted && span.receipt.is_none() && !self.open.contains(*id);
        self.spans.iter().filter(gone).count() as u64
    }

    /// Which life made the spans that came again, and where they were last on disk: for a person who looks into it.
    pub(super) fn describe(&self, repeat: Repeat) -> String {
        let span = self.spans.values().find(|span| span.receipt == Some(repeat.again));
        match span {
            Some(Span { life, batch, seen: Some(seen), .. }) => format!(
                "batch {batch} of life {life}, last seen on disk after life {} in {}",
                seen.life,
                self.paths[seen.path].display()
            ),
            Some(Span { life, batch, seen: None, .. }) => format!("batch {batch} of life {life}, never seen on disk"),
            None => "it came more than twice".to_owned(),
        }
    }
}
