//! The journal from outside, over a simulated disk and over real files.

mod damage;
mod faults;
mod limits;
mod model;

use std::collections::{BTreeMap, BTreeSet};

use journal::{Config, Id, Journal, MaintainError, Notice, ReadError, Report};
use safe_dir::Directory;

/// Small segments, so that a short history fills several.
const SMALL: Config =
    Config { segment_bytes: 4 << 10, max_bytes: 1 << 20, max_body_bytes: 64 << 10, free_space_reserve: 0 };

fn id(seq: u64) -> Id {
    (7, seq)
}

/// What a batch of this id has in it.
fn body(id: Id, len: usize) -> Vec<u8> {
    let mut state = id.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ id.1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

fn open<D: Directory>(dir: D) -> (Journal<D>, Report) {
    Journal::open(dir, SMALL, 7, |_| Ok(false)).expect("it opens")
}

/// All that is recovered, whole.
fn recovered<D: Directory>(journal: &mut Journal<D>) -> BTreeMap<Id, Vec<u8>> {
    let mut found = BTreeMap::new();
    while let Some(batch) = journal.next_recovered() {
        let batch = batch.expect("whole");
        assert_eq!(batch.count as usize, batch.body.len());
        assert!(found.insert(batch.id, batch.body).is_none(), "{:?} came twice", batch.id);
    }
    found
}

fn append<D: Directory>(journal: &mut Journal<D>, id: Id, len: usize) {
    journal.append(id, u32::try_from(len).expect("small"), &body(id, len)).expect("it is appended");
}

/// Clears up until there is nothing more to do.
fn settle<D: Directory>(journal: &mut Journal<D>) -> Result<(), MaintainError> {
    for _ in 0..1_000 {
        if !journal.maintain()? {
            return Ok(());
        }
    }
    panic!("clearing up does not end");
}

/// What must be true of a journal, without its code: which batches there are, and how safe each is.
struct World {
    config: Config,
    len: BTreeMap<Id, usize>,
    live: BTreeMap<Id, Safety>,
    /// Done by a mark that no sync has covered.
    leaving: BTreeSet<Id>,
    /// Done for good, by a synced mark or because an open journal did not have it any more.
    gone: BTreeSet<Id>,
    spills: Vec<Spill>,
    /// Spill files that exist.
    files: BTreeSet<String>,
    seq: u64,
    lives: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Safety {
    Appended,
    Synced,
}

/// A spill on its way.
#[derive(Debug)]
struct Spill {
    name: String,
    ids: Vec<Id>,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Announced,
    Safe,
    Written,
    Marked,
}

impl World {
    fn new(config: Config) -> Self {
        Self {
            config,
            len: BTreeMap::new(),
            live: BTreeMap::new(),
            leaving: BTreeSet::new(),
            gone: BTreeSet::new(),
            spills: Vec::new(),
            files: BTreeSet::new(),
            seq: 0,
            lives: 0,
        }
    }

    fn append<D: Directory>(&mut self, journal: &mut Journal<D>, len: usize) -> bool {
        self.seq += 1;
        let id = (journal.incarnation(), self.seq);
        let kept = journal.append(id, u32::try_from(len).expect("small"), &body(id, len)).is_ok();
        if kept {
            self.len.insert(id, len);
            self.live.insert(id, Safety::Appended);
        }
        self.check(journal);
        kept
    }

    /// Marks the batches that `pick` chooses among those that wait and are not being spilled.
    fn done<D: Directory>(&mut self, journal: &mut Journal<D>, pick: usize, many: usize) {
        let spilling: BTreeSet<Id> = self.spills.iter().flat_map(|spill| spill.ids.iter().copied()).collect();
        let free: Vec<Id> = self.live.keys().filter(|id| !spilling.contains(id)).copied().collect();
        if free.is_empty() {
            return;
        }
        let ids: Vec<Id> = free.iter().cycle().skip(pick % free.len()).take(many.min(free.len())).copied().collect();
        self.mark(journal, &ids);
    }

    fn mark<D: Directory>(&mut self, journal: &mut Journal<D>, ids: &[Id]) {
        if let Ok(known) = journal.done(ids) {
            assert_eq!(known, ids.len());
        }
        for id in ids {
            self.live.remove(id);
            self.leaving.insert(*id);
        }
        self.check(journal);
    }

    fn sync<D: Directory>(&mut self, journal: &mut Journal<D>) -> bool {
        let synced = journal.sync().is_ok();
        if synced {
            self.live.values_mut().for_each(|safety| *safety = Safety::Synced);
            self.gone.append(&mut self.leaving);
        }
        self.check(journal);
        synced
    }

    /// Takes a spill one stage on, or begins one.
    fn spill<D: Directory>(&mut self, journal: &mut Journal<D>, pick: usize, fails: bool) {
        if self.spills.is_empty() || pick.is_multiple_of(5) {
            let taken: BTreeSet<Id> = self.spills.iter().flat_map(|spill| spill.ids.iter().copied()).collect();
            let ids: Vec<Id> = self.live.keys().filter(|id| !taken.contains(id)).take(3).copied().collect();
            self.seq += 1;
            let name = format!("spill-{}", self.seq);
            if !ids.is_empty() && journal.spill(&name, &ids).is_ok() {
                self.spills.push(Spill { name, ids, stage: Stage::Announced });
            }
            return;
        }
        let at = pick % self.spills.len();
        match self.spills[at].stage {
            Stage::Announced => {
                if self.sync(journal) {
                    self.spills[at].stage = Stage::Safe;
                }
            }
            Stage::Safe if fails => {
                let spill = self.spills.remove(at);
                drop(journal.take_back(&spill.ids));
            }
            Stage::Safe => {
                self.files.insert(self.spills[at].name.clone());
                self.spills[at].stage = Stage::Written;
            }
            Stage::Written => {
                let ids = self.spills[at].ids.clone();
                self.mark(journal, &ids);
                self.spills[at].stage = Stage::Marked;
            }
            Stage::Marked => {
                if self.sync(journal) {
                    let spill = self.spills.remove(at);
                    self.files.remove(&spill.name);
                }
            }
        }
    }

    /// Reads back one that waits, from a disk that is well.
    fn read<D: Directory>(&self, journal: &mut Journal<D>, pick: usize) {
        let Some((id, _)) = self.live.iter().nth(pick % self.live.len().max(1)) else { return };
        let batch = journal.read(*id).unwrap_or_else(|error| panic!("{id:?}: {error}"));
        assert_eq!((batch.body, batch.count as usize), (body(*id, self.len[id]), self.len[id]));
        self.check(journal);
    }

    fn check<D: Directory>(&self, journal: &Journal<D>) {
        assert_eq!(journal.status().batches, self.live.len(), "as many wait as should");
        let items: usize = self.live.keys().map(|id| self.len[id]).sum();
        assert_eq!(journal.status().items, items as u64);
    }

    /// Opens what the last life left. `crashed` says that un-synced data may be gone.
    fn open<D: Directory>(&mut self, dir: D, crashed: bool, well: impl Fn()) -> Option<Journal<D>> {
        self.lives += 1;
        let files = self.files.clone();
        let journal = Journal::open(dir, self.config, self.lives, |name| Ok(files.contains(name))).ok()?;
        let (mut journal, report) = journal;
        let mut found = BTreeMap::new();
        while let Some(batch) = journal.next_recovered() {
            match batch {
                Ok(batch) => assert!(found.insert(batch.id, batch).is_none(), "given out once"),
                Err(ReadError::File(_)) => well(),
                // A record that was never synced may be a header over nothing.
                Err(ReadError::Damaged { id, .. }) => {
                    assert_ne!(self.live.get(&id), Some(&Safety::Synced), "{id:?} was synced");
                }
                Err(error) => panic!("{error}"),
            }
        }
        for (id, batch) in &found {
            assert!(!self.gone.contains(id), "{id:?} was done and synced, and is back");
            let len = self.len.get(id).unwrap_or_else(|| panic!("{id:?} is invented"));
            assert_eq!(batch.body, body(*id, *len), "{id:?} is another");
            assert_eq!(batch.count as usize, *len);
        }
        let in_files: BTreeSet<Id> = self
            .spills
            .iter()
            .filter(|spill| self.files.contains(&spill.name))
            .flat_map(|spill| spill.ids.iter().copied())
            .collect();
        for id in &in_files {
            assert!(!found.contains_key(id), "{id:?} is in a file and in the journal");
        }
        for (id, safety) in &self.live {
            if (*safety == Safety::Synced || !crashed) && !in_files.contains(id) {
                assert!(found.contains_key(id), "{id:?} ({safety:?}) is lost");
            }
        }
        assert!(crashed || found.keys().all(|id| self.live.contains_key(id)), "nothing comes back without a crash");
        // From here on the journal's word counts: what it gave is safe, what it did not give never comes; if it could say so durably.
        let safety = |id: &Id| match self.live.get(id) {
            Some(safety) if report.unsynced.is_some() => *safety,
            None if report.unsynced.is_some() => Safety::Appended,
            _ => Safety::Synced,
        };
        self.live = found.keys().map(|id| (*id, safety(id))).collect();
        let gone = self.len.keys().filter(|id| !self.live.contains_key(id) && !self.gone.contains(id)).copied();
        self.leaving = gone.collect();
        if report.unsynced.is_none() {
            self.gone.append(&mut self.leaving);
        }
        self.spills.retain(|spill| report.unsynced.is_some() && files.contains(&spill.name));
        for spill in &mut self.spills {
            // Its file stays until a sync says that its batches have left the journal.
            spill.stage = Stage::Marked;
            self.leaving.extend(&spill.ids);
        }
        self.gone.retain(|id| !self.leaving.contains(id));
        self.files.retain(|name| self.spills.iter().any(|spill| spill.name == *name));
        self.check(&journal);
        Some(journal)
    }
}

/// How often each kind of notice came.
fn count<D: Directory>(journal: &mut Journal<D>, kind: impl Fn(&Notice) -> bool) -> usize {
    journal.take_notices().iter().filter(|notice| kind(notice)).count()
}
