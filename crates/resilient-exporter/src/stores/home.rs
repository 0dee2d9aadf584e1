//! The state directory of a service as this process uses it: a directory of its own in there, the content of processes
//! that have ended, and the limits that all processes share.
//!
//! The journal uses it on its thread, files and dead letters on theirs. An operation on the disk holds the lock of a
//! home for a listing and a few renames.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant, SystemTime};

use file_fallback::{ClockFile, PROGRESS_LOG, Remembered};
use parking_lot::Mutex;
use safe_dir::{Adopted, Directory, FileError, LOCK_FILE, Machine, OpenError, Owner, ShareError, SharedDir};

use super::layout::{self, LayoutError};
use super::old_layout::{Finds, OldLayout};

/// Two rounds are at least this far apart.
const ROUND_EVERY: Duration = Duration::from_secs(5);

/// A process on its own looks for others this often while other directories exist.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(30);

/// On a network file system the owner of stored spans shows this often that it is alive.
pub(super) const BEAT_EVERY: Duration = Duration::from_secs(20);

/// Makes the names of directories for content of the old layout different from those of processes.
const OLD: u64 = 0x5bd1_e995_9e37_79b9;

/// Failed attempts to open the journal of an ended process, at least 5 s apart, before its files are taken over without
/// it. At worst a batch of an interrupted spill is delivered twice then.
const MAX_FAILURES: u32 = 3;

/// The smallest share of the limit that a process may fill, however many others there are.
const LEAST_SHARE: u64 = 8 << 20;

/// Begins the names of fallback files.
pub(super) const SIGNAL: &str = "traces";

/// Opens the state directory by its path, and makes it if it does not exist.
pub(crate) type OpenRoot<D> = Box<dyn Fn() -> Result<D, OpenError> + Send>;

/// A kind of content in the directory of a process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Part {
    Journal,
    Files,
    Letters,
}

impl Part {
    pub(crate) const ALL: [Self; 3] = [Self::Journal, Self::Files, Self::Letters];

    /// The name of its directory.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Journal => "journal",
            Self::Files => "fallback",
            Self::Letters => "dead-letters",
        }
    }
}

/// The state directory. All methods take its lock; no other lock is taken inside.
pub(crate) struct Home<D: Directory>(Mutex<Inner<D>>);

struct Inner<D: Directory> {
    open_root: OpenRoot<D>,
    service: String,
    machine: Machine,
    /// Taken by the drop.
    claim: Option<SharedDir<D>>,
    /// Bytes that the journals and files of all processes may take together.
    max_bytes: u64,
    old: OldLayout<D>,
    /// Directories that were made for content of the old layout.
    gathered: u64,
    clock: ClockFile,
    /// The number that named the first directory of this process.
    incarnation: u64,
    /// Counts the directories that this process has had: each store compares it with the one of its own directory.
    generation: u64,
    ended: BTreeMap<u64, Ended<D>>,
    next_key: u64,
    /// The instant of the last round, and of the last sign of life.
    round: Option<Instant>,
    beat: Option<Instant>,
    others: Others,
    /// Bytes of the own journal and files, as the stores stated them last.
    bytes: BTreeMap<Part, u64>,
}

/// The other directories as of the last round, apart from adopted ones.
#[derive(Clone, Copy, Default, Debug)]
struct Others {
    directories: u64,
    /// Those of live processes, and the bytes of all of them.
    live: u64,
    bytes: u64,
}

/// The directory of a process that has ended, while its content moves to the stores of this process.
struct Ended<D: Directory> {
    adopted: Adopted<D>,
    /// The process that had adopted the directory before and has ended too. Files that it wrote may have taken over
    /// batches of this journal.
    holder: Option<String>,
    parts: BTreeMap<Part, State>,
    failures: BTreeMap<Part, u32>,
}

impl<D: Directory> Ended<D> {
    fn is_undecided(&self) -> bool {
        matches!(self.parts.get(&Part::Journal), Some(State::Waiting | State::Failed(..)))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Not looked at yet.
    Waiting,
    /// To be tried again at this instant.
    Failed(Instant),
    /// A store has it: of the journal, each interrupted spill is decided.
    Open,
    /// It stays as it is, for an operator or another version: this process does not touch it again.
    Left,
}

/// The content of one kind in the directory of a process that has ended.
pub(crate) struct Content<D> {
    pub(crate) key: u64,
    /// The name of the ended process's directory now.
    pub(crate) name: String,
    /// The incarnations of the processes that have used it, the one that made it first, as far as they are known.
    pub(crate) users: Vec<String>,
    pub(crate) dir: D,
}

/// Why a state directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateDirError {
    /// The directory cannot be opened or made, or is not safe to use.
    #[error("the state directory cannot be used")]
    Open(#[source] OpenError),
    /// The directory is a newer version's or another service's, or its file `layout` cannot be used.
    #[error(transparent)]
    Layout(LayoutError),
    /// This process cannot make a directory of its own in it.
    #[error("no directory for this process could be made in the state directory")]
    Claim(#[source] ShareError),
}

/// The findings of opening a home or a round, for the log.
#[derive(Debug, Default)]
pub(crate) struct Round {
    /// Directories of ended processes that were adopted, by their new names.
    pub(crate) adopted: Vec<String>,
    /// The first directory that could not be adopted, and the cause.
    pub(crate) failed: Option<(String, String)>,
}

impl<D: Directory> Home<D> {
    /// Makes a directory of this process's own in the state directory of `service`, which is empty if the caller does
    /// not know its name. Returns also whether the file `layout` was unreadable and is written anew.
    ///
    /// # Errors
    /// Nothing in the directory was changed but for the directory of this process.
    pub(crate) fn open(
        open_root: OpenRoot<D>,
        service: String,
        machine: Machine,
        incarnation: u64,
        max_bytes: u64,
        old: OldLayout<D>,
    ) -> Result<(Self, bool), StateDirError> {
        let (shared, was_damaged) = claim(&open_root, &service, &machine, incarnation)?;
        let inner = Inner {
            open_root,
            service,
            machine,
            claim: Some(shared),
            max_bytes,
            old,
            gathered: 0,
            clock: ClockFile::new(incarnation),
            incarnation,
            generation: 0,
            ended: BTreeMap::new(),
            next_key: 0,
            round: None,
            beat: None,
            others: Others::default(),
            bytes: BTreeMap::new(),
        };
        Ok((Self(Mutex::new(inner)), was_damaged))
    }

    /// The directory of a store in the directory of this process, and its generation.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub(crate) fn own(&self, part: Part) -> Result<(D, u64), OpenError> {
        let inner = self.0.lock();
        Ok((inner.shared().own().subdirectory(part.name())?, inner.generation))
    }

    /// The number that names this process.
    pub(crate) fn incarnation(&self) -> u64 {
        u64::from_str_radix(self.0.lock().shared().name(), 16).unwrap_or_default()
    }

    pub(crate) fn generation(&self) -> u64 {
        self.0.lock().generation
    }

    pub(crate) fn is_on_network(&self) -> bool {
        self.0.lock().shared().is_on_network()
    }

    pub(crate) fn path(&self) -> std::path::PathBuf {
        self.0.lock().shared().root().path().to_owned()
    }

    /// Adopts the directories of processes that have ended, at most once in 5 s, and shows this process's bytes to the
    /// others. `may_adopt` has the last word about an owner.
    ///
    /// # Errors
    /// The state directory cannot be read.
    pub(crate) fn round(
        &self,
        now: Instant,
        may_adopt: &mut dyn FnMut(Option<&str>) -> bool,
    ) -> Result<Round, FileError> {
        let mut inner = self.0.lock();
        if inner.round.is_some_and(|last| now.saturating_duration_since(last) < ROUND_EVERY) {
            return Ok(Round::default());
        }
        inner.round = Some(now);
        inner.adopt_ended(now, may_adopt)
    }

    /// Takes the content of one kind of all ended processes that no store has yet. Files come after the journal of
    /// their process: opening it decides about each interrupted spill.
    pub(crate) fn take(&self, part: Part, now: Instant) -> Vec<Content<D>> {
        let inner = &mut *self.0.lock();
        let ready = inner.ended.iter().filter(|(_, ended)| inner.is_ready(ended, part, now)).map(|(key, _)| *key);
        let (ready, mut taken) = (ready.collect::<Vec<_>>(), Vec::new());
        for key in ready {
            let Some(ended) = inner.ended.get_mut(&key) else { continue };
            // A directory that cannot be opened now stays for the next look.
            if let Ok(Some(dir)) = ended.adopted.locked.dir.existing_subdirectory(part.name()) {
                ended.parts.insert(part, State::Open);
                let owner = ended.adopted.owner.as_ref().map(|owner| owner.incarnation.clone());
                let users = owner.into_iter().chain(ended.holder.clone()).collect();
                taken.push(Content { key, name: ended.adopted.name.clone(), users, dir });
            }
        }
        taken
    }

    /// Content of this kind waits for its store.
    pub(crate) fn has_content(&self, part: Part, now: Instant) -> bool {
        let inner = self.0.lock();
        inner.ended.values().any(|ended| inner.is_ready(ended, part, now))
    }

    /// Whether a fallback file of one of these processes is in the home, durably: in the directory of that process, or
    /// in the one of this process, which may have moved it already. `beside` is the key of content whose directory
    /// counts too.
    ///
    /// # Errors
    /// A directory cannot be read: then the answer is not known.
    pub(crate) fn has_file(&self, file: &str, users: &[String], beside: Option<u64>) -> io::Result<bool> {
        let inner = self.0.lock();
        let is_user = |owner: Option<&Owner>| owner.is_some_and(|owner| users.contains(&owner.incarnation));
        let mut processes = vec![];
        for (key, ended) in &inner.ended {
            if beside == Some(*key) || is_user(ended.adopted.owner.as_ref()) {
                processes.push(ended.adopted.locked.dir.existing_subdirectory(Part::Files.name()));
            }
        }
        processes.push(inner.shared().own().existing_subdirectory(Part::Files.name()));
        for name in inner.shared().others().map_err(|error| failed(&error))? {
            let is_ended = inner.ended.values().any(|ended| ended.adopted.name == name);
            if is_ended || !is_user(inner.owner_of(&name).as_ref()) {
                continue;
            }
            if let Some(process) = inner.shared().root().existing_subdirectory(&name).map_err(|error| failed(&error))? {
                processes.push(process.existing_subdirectory(Part::Files.name()));
            }
        }
        for files in processes {
            let files = files.map_err(|error| failed(&error))?;
            if let Some(files) = files
                && file_fallback::holds_in(&files, SIGNAL, file).map_err(|error| failed(&error))?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A directory of the owner is here, and no store of this process has its journal yet.
    pub(crate) fn has_undecided_journal(&self, owner: &str) -> bool {
        let inner = self.0.lock();
        let is_owner = |found: Option<&Owner>| found.is_some_and(|found| found.incarnation == owner);
        if let Some(ended) = inner.ended.values().find(|ended| is_owner(ended.adopted.owner.as_ref())) {
            return ended.is_undecided();
        }
        inner.shared().others().unwrap_or_default().iter().any(|name| is_owner(inner.owner_of(name).as_ref()))
    }

    /// The content could not be taken over now: it is tried again in a while.
    pub(crate) fn give_back(&self, key: u64, part: Part, now: Instant) {
        let mut inner = self.0.lock();
        if let Some(ended) = inner.ended.get_mut(&key) {
            *ended.failures.entry(part).or_default() += 1;
            ended.parts.insert(part, State::Failed(now + ROUND_EVERY));
        }
    }

    /// The same; after the third time the content stays where it is, and other content does not wait for it longer.
    pub(crate) fn give_up_or_back(&self, key: u64, part: Part, now: Instant) {
        if self.failures(key, part) + 1 < MAX_FAILURES {
            self.give_back(key, part, now);
        } else {
            self.leave(key, part);
        }
    }

    fn failures(&self, key: u64, part: Part) -> u32 {
        let inner = self.0.lock();
        inner.ended.get(&key).and_then(|ended| ended.failures.get(&part)).copied().unwrap_or_default()
    }

    /// The content stays where it is, out of this process's hands.
    pub(crate) fn leave(&self, key: u64, part: Part) {
        if let Some(ended) = self.0.lock().ended.get_mut(&key) {
            ended.parts.insert(part, State::Left);
        }
    }

    /// The store has taken everything over: removes the directory of this content and, with the last one, the ended
    /// process's. A directory that is not empty, such as by a file of an operator's, stays.
    pub(crate) fn finish(&self, key: u64, part: Part) {
        let inner = &mut *self.0.lock();
        let Some(ended) = inner.ended.get_mut(&key) else { return };
        let dir = &ended.adopted.locked.dir;
        if remove_part(dir, part).is_err() {
            ended.parts.insert(part, State::Left);
            return;
        }
        ended.parts.remove(&part);
        inner.remove_if_empty(key);
    }

    /// The bytes that a store of this process has on the disk.
    pub(crate) fn state(&self, part: Part, bytes: u64) {
        self.0.lock().bytes.insert(part, bytes);
    }

    /// The bytes that journal and files of this process may take together: all of the limit that the other processes
    /// leave, and at least an equal share.
    pub(crate) fn allowance(&self) -> u64 {
        let (others, max_bytes) = {
            let inner = self.0.lock();
            (inner.others, inner.max_bytes)
        };
        let share = (max_bytes / (others.live + 1)).max(LEAST_SHARE.min(max_bytes));
        share.max(max_bytes.saturating_sub(others.bytes))
    }

    pub(crate) fn bytes_of(&self, part: Part) -> u64 {
        self.0.lock().bytes.get(&part).copied().unwrap_or_default()
    }

    /// On a network file system: shows that this process is alive, if that is due.
    ///
    /// # Errors
    /// The lock file cannot be written.
    pub(crate) fn beat_if_due(&self, now: Instant) -> Result<(), FileError> {
        let mut inner = self.0.lock();
        let is_due = inner.beat.is_none_or(|last| now.saturating_duration_since(last) >= BEAT_EVERY);
        if is_due && inner.shared().is_on_network() { inner.beat(now) } else { Ok(()) }
    }

    /// The newest time that the processes of the directory have seen, and whether its file is damaged.
    pub(crate) fn remembered_time(&self) -> Remembered {
        ClockFile::read(self.0.lock().shared().root())
    }

    /// Remembers the time for the next process, at most once a minute.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn remember_time(&self, newest: SystemTime) -> Result<(), FileError> {
        let inner = &mut *self.0.lock();
        let Some(shared) = &inner.claim else { return Ok(()) };
        inner.clock.note(shared.root(), newest).map(drop)
    }

    /// Spans of other services in directories of the old layout.
    pub(crate) fn finds(&self) -> Finds {
        self.0.lock().old.finds().clone()
    }

    /// Directories of other processes exist, or content of ended ones waits.
    pub(crate) fn has_others(&self) -> bool {
        let inner = self.0.lock();
        inner.others.directories > 0 || !inner.ended.is_empty()
    }

    /// If the directory of this process has vanished, makes a new one; returns whether it did. The stores notice by the
    /// [`generation`](Self::generation).
    ///
    /// # Errors
    /// The directory has vanished and cannot be made anew.
    pub(crate) fn renew_if_gone(&self) -> Result<bool, StateDirError> {
        let inner = &mut *self.0.lock();
        if !inner.shared().is_gone() {
            return Ok(false);
        }
        let incarnation = inner.incarnation.wrapping_add(inner.generation + 1);
        let (shared, _) = claim(&inner.open_root, &inner.service, &inner.machine, incarnation)?;
        inner.claim = Some(shared);
        inner.generation += 1;
        // Content that still exists is found by the next round, without a lock of this process on it.
        inner.ended.clear();
        (inner.round, inner.beat) = (None, None);
        inner.bytes.clear();
        Ok(true)
    }
}

impl<D: Directory> Inner<D> {
    fn shared(&self) -> &SharedDir<D> {
        self.claim.as_ref().expect("taken by the drop alone")
    }

    fn shared_mut(&mut self) -> &mut SharedDir<D> {
        self.claim.as_mut().expect("taken by the drop alone")
    }

    /// The owner of a directory of another process, if its lock file can be read.
    fn owner_of(&self, name: &str) -> Option<Owner> {
        self.shared().look(name).ok().flatten()?.owner
    }

    /// A store may take this content now. Files wait until the journals of all ended processes are opened: that decides
    /// about each interrupted spill.
    fn is_ready(&self, ended: &Ended<D>, part: Part, now: Instant) -> bool {
        if part == Part::Files && self.ended.values().any(Ended::is_undecided) {
            return false;
        }
        match ended.parts.get(&part) {
            Some(State::Waiting) => true,
            Some(State::Failed(until)) => now >= *until,
            Some(State::Open | State::Left) | None => false,
        }
    }

    fn adopt_ended(
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
    fn gather_old(&mut self, round: &mut Round, others: &mut Others) {
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

    fn add(&mut self, adopted: Adopted<D>, holder: Option<String>) {
        let exists =
            |part: &Part| !matches!(adopted.locked.dir.metadata(part.name()), Err(error) if error.is_not_found());
        let parts = Part::ALL.into_iter().filter(exists).map(|part| (part, State::Waiting)).collect();
        let key = self.next_key;
        self.next_key += 1;
        self.ended.insert(key, Ended { adopted, holder, parts, failures: BTreeMap::new() });
        self.remove_if_empty(key);
    }

    fn remove_if_empty(&mut self, key: u64) {
        if self.ended.get(&key).is_some_and(|ended| ended.parts.is_empty())
            && let Some(ended) = self.ended.remove(&key)
        {
            // A file of another program in it prevents the removal; the directory stays then, without an owner.
            drop(ended.adopted.remove(self.shared().root()));
        }
    }

    fn beat(&mut self, now: Instant) -> Result<(), FileError> {
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

fn claim<D: Directory>(
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

fn failed(error: &(dyn std::error::Error + 'static)) -> io::Error {
    io::Error::other(in_one_line(error))
}

/// Removes the directory of one kind of content, if nothing is stored in it: lock, log and notes of a store go with it.
fn remove_part<D: Directory>(dir: &D, part: Part) -> Result<(), FileError> {
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

fn in_one_line(error: &(dyn std::error::Error + 'static)) -> String {
    otlp_transport::ErrorChain(error).to_string()
}
