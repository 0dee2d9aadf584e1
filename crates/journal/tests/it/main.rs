//! The journal from outside, over a simulated disk and over real files.

mod damage;
mod faults;
mod finished;
mod limits;
mod model;
mod sectors;
mod take_over;
mod vanish;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use journal::{Config, Id, Journal, MaintainError, Notice, ReadError, Report};
use safe_dir::Directory;

/// Small segments, so that a short history fills several.
const SMALL: Config = Config {
    segment_bytes: 4 << 10,
    max_bytes: 1 << 20,
    max_body_bytes: 64 << 10,
    free_space_reserve: 0,
    known_tags: &[0, 1, u8::MAX],
};

#[expect(clippy::disallowed_methods, reason = "any time will do")]
fn now() -> Instant {
    Instant::now()
}

fn id(seq: u64) -> Id {
    (7, seq)
}

/// The body of the batch with this id.
fn body(id: Id, len: usize) -> Vec<u8> {
    let mut state = id.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ id.1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// The tag of the batch with this id: most have none.
fn tag(id: Id) -> u8 {
    [0, 0, 1, 0, u8::MAX][(id.1 % 5) as usize]
}

fn open<D: Directory>(dir: D) -> (Journal<D>, Report) {
    Journal::open(dir, SMALL, 7, |_| Ok(false)).expect("it opens")
}

/// The bodies of all recovered batches.
fn recovered<D: Directory>(journal: &mut Journal<D>) -> BTreeMap<Id, Vec<u8>> {
    let mut found = BTreeMap::new();
    while let Some(batch) = journal.next_recovered(now()) {
        let batch = batch.expect("whole");
        assert_eq!((batch.count as usize, batch.tag), (batch.body.len(), tag(batch.id)));
        assert!(found.insert(batch.id, batch.body).is_none(), "{:?} came twice", batch.id);
    }
    found
}

fn append<D: Directory>(journal: &mut Journal<D>, id: Id, len: usize) {
    let count = u32::try_from(len).expect("small");
    journal.append_tagged(id, tag(id), count, &body(id, len)).expect("it is appended");
}

/// Repeats maintenance until no step is due.
fn settle<D: Directory>(journal: &mut Journal<D>) -> Result<(), MaintainError> {
    for _ in 0..1_000 {
        if !journal.maintain()? {
            return Ok(());
        }
    }
    panic!("clearing up does not end");
}

/// An account of a journal that does not use its code: the batches that must be in it, and how safe each is.
struct Account {
    config: Config,
    len: BTreeMap<Id, usize>,
    waiting: BTreeMap<Id, Safety>,
    /// Done by a mark that no sync has covered.
    done_unsynced: BTreeSet<Id>,
    /// Done and durable: by a synced mark, or because an opened journal did not have the batch.
    done_durably: BTreeSet<Id>,
    spills: Vec<Spill>,
    /// Files of spills that exist.
    files: BTreeSet<String>,
    seq: u64,
    lives: u64,
    /// A segment was damaged or removed: marks and announcements of spills may be missing, and batches if they are
    /// counted.
    harmed: bool,
    /// A segment was removed: damage of the one before may have no account.
    uncounted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Safety {
    Appended,
    Synced,
}

/// A spill between its announcement and its last sync.
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

impl Account {
    fn new(config: Config) -> Self {
        Self {
            config,
            len: BTreeMap::new(),
            waiting: BTreeMap::new(),
            done_unsynced: BTreeSet::new(),
            done_durably: BTreeSet::new(),
            spills: Vec::new(),
            files: BTreeSet::new(),
            seq: 0,
            lives: 0,
            harmed: false,
            uncounted: false,
        }
    }

    fn append<D: Directory>(&mut self, journal: &mut Journal<D>, len: usize) -> bool {
        self.seq += 1;
        self.append_batch(journal, (journal.incarnation(), self.seq), len)
    }

    /// Appends a batch once more.
    fn append_as<D: Directory>(&mut self, journal: &mut Journal<D>, id: Id) -> bool {
        self.append_batch(journal, id, self.len[&id])
    }

    fn append_batch<D: Directory>(&mut self, journal: &mut Journal<D>, id: Id, len: usize) -> bool {
        let accepted = journal.append_tagged(id, tag(id), u32::try_from(len).expect("small"), &body(id, len)).is_ok();
        if accepted {
            self.len.insert(id, len);
            self.waiting.insert(id, Safety::Appended);
        }
        self.check(journal);
        accepted
    }

    /// Marks batches as done, out of those that wait and are not part of a spill; `pick` chooses.
    fn done<D: Directory>(&mut self, journal: &mut Journal<D>, pick: usize, many: usize) {
        let spilling: BTreeSet<Id> = self.spills.iter().flat_map(|spill| spill.ids.iter().copied()).collect();
        let free: Vec<Id> = self.waiting.keys().filter(|id| !spilling.contains(id)).copied().collect();
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
            self.waiting.remove(id);
            self.done_unsynced.insert(*id);
        }
        self.check(journal);
    }

    fn sync<D: Directory>(&mut self, journal: &mut Journal<D>) -> bool {
        let synced = journal.sync().is_ok();
        if synced {
            self.waiting.values_mut().for_each(|safety| *safety = Safety::Synced);
            self.done_durably.append(&mut self.done_unsynced);
        }
        self.check(journal);
        synced
    }

    /// Does the next step of a spill, or announces one.
    fn spill<D: Directory>(&mut self, journal: &mut Journal<D>, pick: usize, fails: bool) {
        if self.spills.is_empty() || pick.is_multiple_of(5) {
            let taken: BTreeSet<Id> = self.spills.iter().flat_map(|spill| spill.ids.iter().copied()).collect();
            let ids: Vec<Id> = self.waiting.keys().filter(|id| !taken.contains(id)).take(3).copied().collect();
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

    /// Reads a waiting batch back, on a disk without a fault.
    fn read<D: Directory>(&self, journal: &mut Journal<D>, pick: usize) {
        let Some((id, _)) = self.waiting.iter().nth(pick % self.waiting.len().max(1)) else { return };
        let batch = journal.read(*id, now()).unwrap_or_else(|error| panic!("{id:?}: {error}"));
        assert_eq!((batch.body, batch.count as usize), (body(*id, self.len[id]), self.len[id]));
        self.check(journal);
    }

    /// Forgets batches that the journal does not have any more, and has reported.
    fn forget(&mut self, ids: impl IntoIterator<Item = Id>) {
        for id in ids {
            assert!(self.waiting.remove(&id).is_some(), "{id:?} did not wait, or was reported before");
            self.spills.iter_mut().for_each(|spill| spill.ids.retain(|other| *other != id));
            self.done_durably.insert(id);
        }
        let ended: Vec<Spill> = self.spills.extract_if(.., |spill| spill.ids.is_empty()).collect();
        self.files.retain(|name| ended.iter().all(|spill| spill.name != *name));
    }

    fn check<D: Directory>(&self, journal: &Journal<D>) {
        assert_eq!(journal.status().batches, self.waiting.len(), "as many wait as should");
        let items: usize = self.waiting.keys().map(|id| self.len[id]).sum();
        assert_eq!(journal.status().items, items as u64);
    }

    /// Opens the journal that the previous run left. `crashed`: data that was not synced may be missing.
    fn open<D: Directory>(&mut self, dir: D, crashed: bool, mend: impl Fn()) -> Option<Journal<D>> {
        self.lives += 1;
        let files = self.files.clone();
        let journal = Journal::open(dir, self.config, self.lives, |name| Ok(files.contains(name))).ok()?;
        let (mut journal, report) = journal;
        let (mut found, mut lost) = (BTreeMap::new(), report.lost_batches);
        while let Some(batch) = journal.next_recovered(now()) {
            match batch {
                Ok(batch) => assert!(found.insert(batch.id, batch).is_none(), "given out once"),
                Err(ReadError::File(_)) => mend(),
                Err(ReadError::Damaged { .. }) if self.harmed => lost += 1,
                // A batch that was never synced may be a header without its body.
                Err(ReadError::Damaged { id, .. }) => {
                    assert_ne!(self.waiting.get(&id), Some(&Safety::Synced), "{id:?} was synced");
                }
                Err(error) => panic!("{error}"),
            }
        }
        for (id, batch) in &found {
            assert!(self.harmed || !self.done_durably.contains(id), "{id:?} was done and synced, and is back");
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
        for id in in_files.iter().filter(|_| !self.harmed) {
            assert!(!found.contains_key(id), "{id:?} is in a file and in the journal");
        }
        let safe = self.waiting.iter().filter(|(_, safety)| **safety == Safety::Synced || !crashed);
        let missing: Vec<_> = safe.filter(|(id, _)| !in_files.contains(id) && !found.contains_key(id)).collect();
        assert!(missing.is_empty() || self.harmed, "lost: {missing:?}");
        assert!(
            missing.len() as u64 <= lost || !self.harmed || self.uncounted,
            "lost without a count: {missing:?}, {lost} counted"
        );
        let crashed = crashed || std::mem::take(&mut self.harmed);
        assert!(crashed || found.keys().all(|id| self.waiting.contains_key(id)), "nothing comes back without a crash");
        // From here on the account follows the journal: batches that it returned are durable, and others must never
        // come back, unless the journal reported that it could not sync.
        let safety = |id: &Id| match self.waiting.get(id) {
            Some(safety) if report.unsynced.is_some() => *safety,
            None if report.unsynced.is_some() => Safety::Appended,
            _ => Safety::Synced,
        };
        self.waiting = found.keys().map(|id| (*id, safety(id))).collect();
        let gone =
            self.len.keys().filter(|id| !self.waiting.contains_key(id) && !self.done_durably.contains(id)).copied();
        self.done_unsynced = gone.collect();
        if report.unsynced.is_none() {
            self.done_durably.append(&mut self.done_unsynced);
        }
        self.spills.retain(|spill| report.unsynced.is_some() && files.contains(&spill.name));
        for spill in &mut self.spills {
            // Its file exists until a sync confirms that its batches have left the journal.
            spill.stage = Stage::Marked;
            self.done_unsynced.extend(&spill.ids);
        }
        self.done_durably.retain(|id| !self.done_unsynced.contains(id) && !self.waiting.contains_key(id));
        self.files.retain(|name| self.spills.iter().any(|spill| spill.name == *name));
        self.check(&journal);
        Some(journal)
    }
}

/// The number of notices of one kind.
fn count<D: Directory>(journal: &mut Journal<D>, kind: impl Fn(&Notice) -> bool) -> usize {
    journal.take_notices().iter().filter(|notice| kind(notice)).count()
}
