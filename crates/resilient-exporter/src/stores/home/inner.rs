//! The state of a home: the directories of ended processes, and the rounds that look for them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Instant;

use file_fallback::{ClockFile, PROGRESS_LOG};
use safe_dir::{Adopted, Directory, FileError, LOCK_FILE, Machine, Owner, SharedDir};

use super::reserve;
use super::{ADOPTED_A_ROUND, LATER, MAX_FAILURES, MOST_IN_HAND, OpenRoot, Part, ROUND_EVERY, Round, StateDirError};
use crate::stores::layout;
use crate::stores::old_layout::OldLayout;

pub(super) struct Inner<D: Directory> {
    pub(super) open_root: OpenRoot<D>,
    pub(super) service: String,
    pub(super) machine: Machine,
    /// Taken by the drop.
    pub(super) claim: Option<SharedDir<D>>,
    /// Bytes that the journals and files of all processes may take together.
    pub(super) max_bytes: u64,
    pub(super) old: OldLayout<D>,
    pub(super) clock: ClockFile,
    /// The number that named the first directory of this process.
    pub(super) incarnation: u64,
    /// Counts the directories that this process has had: each store compares it with the one of its own directory.
    pub(super) generation: u64,
    pub(super) ended: BTreeMap<u64, Ended<D>>,
    pub(super) next_key: u64,
    /// The instant of the last round.
    pub(super) round: Option<Instant>,
    /// The last round has left directories for which there was no room.
    pub(super) more: bool,
    /// The kinds of content that a store of this process takes.
    pub(super) taken: BTreeSet<Part>,
    /// The instant of the last sign of life.
    pub(super) beat: Option<Instant>,
    pub(super) others: Others,
    /// Bytes of the own journal and files, as the stores stated them last.
    pub(super) bytes: BTreeMap<Part, u64>,
}

/// The other directories as of the last round, apart from adopted ones.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Others {
    pub(super) directories: u64,
    /// Those of live processes, and the bytes of all of them.
    pub(super) live: u64,
    pub(super) bytes: u64,
}

/// The directory of a process that has ended, while its content moves to the stores of this process.
pub(super) struct Ended<D: Directory> {
    pub(super) adopted: Adopted<D>,
    /// The process that had adopted the directory before and has ended too. Files that it wrote may have taken over
    /// batches of this journal.
    pub(super) holder: Option<String>,
    pub(super) parts: BTreeMap<Part, State>,
    pub(super) failures: BTreeMap<Part, u32>,
}

impl<D: Directory> Ended<D> {
    /// Its journal is not opened yet, and worth the wait.
    pub(super) fn is_undecided(&self) -> bool {
        let state = self.parts.get(&Part::Journal);
        matches!(state, Some(State::Waiting | State::Failed(..))) && !self.is_given_up(Part::Journal)
    }

    fn is_given_up(&self, part: Part) -> bool {
        self.failures.get(&part).is_some_and(|failures| *failures >= MAX_FAILURES)
    }

    /// Has the content tried again later.
    pub(super) fn fail(&mut self, part: Part, now: Instant) {
        *self.failures.entry(part).or_default() += 1;
        let wait = if part == Part::Journal && self.is_given_up(part) { LATER } else { ROUND_EVERY };
        self.parts.insert(part, State::Failed(now + wait));
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// Not looked at yet.
    Waiting,
    /// To be tried again at this instant.
    Failed(Instant),
    /// A store has it: of the journal, each interrupted spill is decided.
    Open,
    /// The content stays, for an operator or another version: this process does not touch it again.
    Left,
}

impl<D: Directory> Inner<D> {
    pub(super) fn shared(&self) -> &SharedDir<D> {
        self.claim.as_ref().expect("taken by the drop alone")
    }

    pub(super) fn shared_mut(&mut self) -> &mut SharedDir<D> {
        self.claim.as_mut().expect("taken by the drop alone")
    }

    /// The owner of a directory of another process, if its lock file can be read.
    pub(super) fn owner_of(&self, name: &str) -> Option<Owner> {
        self.shared().look(name).ok().flatten()?.owner
    }

    /// A store may take this content now. Files wait until the journals of all ended processes are opened: that decides
    /// about each interrupted spill.
    pub(super) fn is_ready(&self, ended: &Ended<D>, part: Part, now: Instant) -> bool {
        if part == Part::Files && self.ended.values().any(Ended::is_undecided) {
            return false;
        }
        match ended.parts.get(&part) {
            Some(State::Waiting) => true,
            Some(State::Failed(until)) => now >= *until,
            Some(State::Open | State::Left) | None => false,
        }
    }

    pub(super) fn adopt_ended(
        &mut self,
        now: Instant,
        may_adopt: &mut dyn FnMut(Option<&str>) -> bool,
    ) -> Result<Round, FileError> {
        let (mut round, mut others) = (Round::default(), Others::default());
        self.gather_old(&mut round, &mut others);
        // Before the comparison of times: on a network file system the others are measured against this file.
        let shown = self.beat(now);
        let mut found = Vec::new();
        for name in self.shared().others()? {
            if self.ended.values().any(|ended| ended.adopted.name == name) {
                continue;
            }
            others.directories += 1;
            let other = match self.shared().look(&name) {
                Ok(Some(other)) => other,
                Ok(None) => {
                    others.directories -= 1;
                    continue;
                }
                Err(error) => {
                    round.failed.get_or_insert((name, error.to_string()));
                    continue;
                }
            };
            let owner = other.owner.as_ref();
            // A lock file that is damaged may state any number.
            let bytes = owner.map_or(0, |owner| owner.bytes.min(self.max_bytes));
            if other.is_alive {
                // One that a live process has adopted is in the bytes of that process.
                if holder_of(&name).is_none() {
                    others.live += 1;
                    others.bytes = others.bytes.saturating_add(bytes);
                }
                continue;
            }
            others.bytes = others.bytes.saturating_add(bytes);
            if may_adopt(owner.map(|owner| owner.incarnation.as_str())) {
                found.push((name, owner.map(|owner| owner.incarnation.clone()), bytes));
            }
        }
        let mut attempts = 0;
        while !found.is_empty() && attempts < ADOPTED_A_ROUND && self.in_hand() < MOST_IN_HAND {
            attempts += 1;
            let (name, _, bytes) = found.swap_remove(next_of(&found));
            match self.shared_mut().adopt(&name) {
                Ok(Some(adopted)) => {
                    others.directories -= 1;
                    others.bytes = others.bytes.saturating_sub(bytes);
                    round.adopted.push(adopted.name.clone());
                    self.add(adopted, holder_of(&name).map(str::to_owned));
                }
                // Its process is alive after all, or another one was faster.
                Ok(None) => {}
                Err(error) => drop(round.failed.get_or_insert((name, in_one_line(&error)))),
            }
        }
        self.more = !found.is_empty();
        self.others = others;
        if let Err(error) = shown {
            round.failed.get_or_insert((LOCK_FILE.to_owned(), in_one_line(&error)));
        }
        Ok(round)
    }

    /// Directories whose content is on its way to a store of this process.
    fn in_hand(&self) -> usize {
        let is_on_its_way = |ended: &&Ended<D>| {
            let mut taken = ended.parts.iter().filter(|(part, _)| self.taken.contains(part));
            taken.any(|(part, state)| *state != State::Left && !ended.is_given_up(*part))
        };
        self.ended.values().filter(is_on_its_way).count()
    }

    pub(super) fn has_more(&self) -> bool {
        self.more && self.in_hand() < MOST_IN_HAND
    }

    /// Moves content of the old layout to directories that the look then finds.
    pub(super) fn gather_old(&mut self, round: &mut Round, others: &mut Others) {
        let Some(shared) = &self.claim else { return };
        let gathered = self.old.gather(shared.root());
        others.directories += u64::from(gathered.waits);
        if let Some(error) = gathered.failed {
            round.failed.get_or_insert(("the layout of an earlier version".to_owned(), error));
        }
    }

    pub(super) fn add(&mut self, adopted: Adopted<D>, holder: Option<String>) {
        let exists =
            |part: &Part| !matches!(adopted.locked.dir.metadata(part.name()), Err(error) if error.is_not_found());
        let parts = Part::ALL.into_iter().filter(exists).map(|part| (part, State::Waiting)).collect();
        let key = self.next_key;
        self.next_key += 1;
        self.ended.insert(key, Ended { adopted, holder, parts, failures: BTreeMap::new() });
        self.remove_if_empty(key);
    }

    pub(super) fn remove_if_empty(&mut self, key: u64) {
        let Some(ended) = self.ended.get(&key).filter(|ended| ended.parts.is_empty()) else { return };
        let entries = ended.adopted.locked.dir.list().unwrap_or_default();
        if entries.iter().any(|entry| entry.name != LOCK_FILE) {
            // A file of another program: the directory stays, and locked. Otherwise each round would adopt it again.
            return;
        }
        if let Some(ended) = self.ended.remove(&key) {
            drop(ended.adopted.remove(self.shared().root()));
        }
    }

    pub(super) fn beat(&mut self, now: Instant) -> Result<(), FileError> {
        let bytes = self.bytes.values().sum();
        self.shared_mut().beat(bytes)?;
        self.beat = Some(now);
        Ok(())
    }
}

impl<D: Directory> Drop for Inner<D> {
    /// A process that leaves nothing behind removes its directory. Otherwise another process adopts it.
    fn drop(&mut self) {
        self.ended.clear();
        let Some(shared) = self.claim.take() else { return };
        let is_empty = Part::ALL.into_iter().all(|part| remove_part(shared.own(), part).is_ok());
        if is_empty {
            drop(shared.leave());
        }
    }
}

/// The process that has adopted the directory of this name.
fn holder_of(name: &str) -> Option<&str> {
    name.split_once('+').map(|(holder, _)| holder)
}

/// The next directory to adopt, by its place: one whose process has adopted none of the others. The journals that it
/// had adopted ask for its files, and thus come first.
pub(super) fn next_of(found: &[(String, Option<String>, u64)]) -> usize {
    let holders = found.iter().filter_map(|(name, ..)| holder_of(name)).collect::<BTreeSet<_>>();
    let is_free = |owner: &Option<String>| owner.as_deref().is_none_or(|owner| !holders.contains(owner));
    found.iter().position(|(_, owner, _)| is_free(owner)).unwrap_or(0)
}

pub(super) fn claim<D: Directory>(
    open_root: &OpenRoot<D>,
    service: &str,
    machine: &Machine,
    incarnation: u64,
) -> Result<(SharedDir<D>, bool), StateDirError> {
    let root = open_root().map_err(StateDirError::Open)?;
    let was_damaged = layout::claim(&root, service, &format!("{incarnation:016x}")).map_err(StateDirError::Layout)?;
    let shared = SharedDir::claim(root, machine.clone(), incarnation).or_else(|error| {
        let root = open_root().map_err(StateDirError::Open)?;
        let is_given = reserve::give(&root, &error);
        let again = || SharedDir::claim(root, machine.clone(), incarnation).map_err(StateDirError::Claim);
        if is_given { again() } else { Err(StateDirError::Claim(error)) }
    })?;
    Ok((shared, was_damaged))
}

pub(super) fn failed(error: &(dyn std::error::Error + 'static)) -> io::Error {
    io::Error::other(in_one_line(error))
}

/// Removes the directory of one kind of content, if nothing is stored in it: lock, log and notes of a store go with it.
pub(super) fn remove_part<D: Directory>(dir: &D, part: Part) -> Result<(), FileError> {
    if let Ok(Some(content)) = dir.existing_subdirectory(part.name()) {
        let names = content.list()?.into_iter().map(|entry| entry.name.into_string());
        let Ok(mut names) = names.collect::<Result<Vec<_>, _>>() else { return Ok(()) };
        let is_note = |name: &String| name.starts_with('.') || name == PROGRESS_LOG;
        if names.iter().all(is_note) {
            // The lock last: a process that opens the directory meanwhile finds it locked.
            names.sort_by_key(|name| name == LOCK_FILE);
            names.iter().try_for_each(|name| content.remove(name))?;
        }
    }
    match dir.remove_subdirectory(part.name()) {
        Err(error) if !error.is_not_found() => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

pub(super) fn in_one_line(error: &(dyn std::error::Error + 'static)) -> String {
    otlp_transport::ErrorChain(error).to_string()
}
