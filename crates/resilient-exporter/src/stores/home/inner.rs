//! The state of a home: the directories of ended processes, and the rounds that look for them.

use std::collections::BTreeMap;
use std::io;
use std::time::Instant;

use file_fallback::{ClockFile, PROGRESS_LOG};
use safe_dir::{Adopted, Directory, FileError, LOCK_FILE, Machine, Owner, SharedDir};

use super::{OpenRoot, Part, Round, StateDirError};
use crate::stores::layout;
use crate::stores::old_layout::OldLayout;

/// Makes the names of directories for content of the old layout different from those of processes.
const OLD: u64 = 0x5bd1_e995_9e37_79b9;

pub(super) struct Inner<D: Directory> {
    pub(super) open_root: OpenRoot<D>,
    pub(super) service: String,
    pub(super) machine: Machine,
    /// Taken by the drop.
    pub(super) claim: Option<SharedDir<D>>,
    /// Bytes that the journals and files of all processes may take together.
    pub(super) max_bytes: u64,
    pub(super) old: OldLayout<D>,
    /// Directories that were made for content of the old layout.
    pub(super) gathered: u64,
    pub(super) clock: ClockFile,
    /// The number that named the first directory of this process.
    pub(super) incarnation: u64,
    /// Counts the directories that this process has had: each store compares it with the one of its own directory.
    pub(super) generation: u64,
    pub(super) ended: BTreeMap<u64, Ended<D>>,
    pub(super) next_key: u64,
    /// The instant of the last round, and of the last sign of life.
    pub(super) round: Option<Instant>,
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
    pub(super) fn is_undecided(&self) -> bool {
        matches!(self.parts.get(&Part::Journal), Some(State::Waiting | State::Failed(..)))
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
    /// It stays as it is, for an operator or another version: this process does not touch it again.
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
            if other.is_alive {
                others.live += 1;
                others.bytes += owner.map_or(0, |owner| owner.bytes);
                continue;
            }
            if !may_adopt(owner.map(|owner| owner.incarnation.as_str())) {
                others.bytes += owner.map_or(0, |owner| owner.bytes);
                continue;
            }
            match self.shared_mut().adopt(&name) {
                Ok(Some(adopted)) => {
                    others.directories -= 1;
                    round.adopted.push(adopted.name.clone());
                    self.add(adopted, name.split_once('+').map(|(holder, _)| holder.to_owned()));
                }
                // Its process is alive after all, or another one was faster.
                Ok(None) => {}
                Err(error) => drop(round.failed.get_or_insert((name, in_one_line(&error)))),
            }
        }
        self.others = others;
        if let Err(error) = shown {
            round.failed.get_or_insert((LOCK_FILE.to_owned(), in_one_line(&error)));
        }
        Ok(round)
    }

    /// Moves content of the old layout to directories that the look then finds.
    pub(super) fn gather_old(&mut self, round: &mut Round, others: &mut Others) {
        let Some(shared) = &self.claim else { return };
        let (incarnation, count) = (self.incarnation, &mut self.gathered);
        let mut new_name = || {
            *count += 1;
            format!("{:016x}", (incarnation ^ OLD).wrapping_add(*count))
        };
        let gathered = self.old.gather(shared.root(), &mut new_name);
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
        if self.ended.get(&key).is_some_and(|ended| ended.parts.is_empty())
            && let Some(ended) = self.ended.remove(&key)
        {
            // A file of another program in it prevents the removal; the directory stays then, without an owner.
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

pub(super) fn claim<D: Directory>(
    open_root: &OpenRoot<D>,
    service: &str,
    machine: &Machine,
    incarnation: u64,
) -> Result<(SharedDir<D>, bool), StateDirError> {
    let root = open_root().map_err(StateDirError::Open)?;
    let was_damaged = layout::claim(&root, service, &format!("{incarnation:016x}")).map_err(StateDirError::Layout)?;
    let shared = SharedDir::claim(root, machine.clone(), incarnation).map_err(StateDirError::Claim)?;
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
