//! The state directory of a service as this process uses it: a directory of its own in there, the content of processes
//! that have ended, and the limits that all processes share.
//!
//! The journal uses it on its thread, files and dead letters on theirs. An operation on the disk holds the lock of a
//! home for a listing and a few renames.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use file_fallback::{ClockFile, Remembered};
use otlp_payload::Signal;
use safe_dir::{Directory, FileError, Machine, OpenError, Owner, ShareError};

use self::inner::{Inner, Others, State, claim, failed, in_one_line, remove_part};
use super::layout::LayoutError;
use super::old_layout::{Finds, OldLayout};
use crate::locks::Mutex;

mod inner;
mod reserve;

/// Two rounds are at least this far apart.
const ROUND_EVERY: Duration = Duration::from_secs(5);

/// A process on its own looks for others this often while other directories exist.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(30);

/// On a network file system the owner of stored spans shows this often that it is alive.
pub(super) const BEAT_EVERY: Duration = Duration::from_secs(20);

/// Failed attempts to open the journal of an ended process, at least 5 s apart, before its files are taken over without
/// it. At worst a batch of an interrupted spill is delivered twice then.
const MAX_FAILURES: u32 = 3;

/// After so many failures the journal is tried again this often: the process may have had no file handle left.
const LATER: Duration = Duration::from_secs(60);

/// One round adopts at most so many directories: each is a sync of the state directory.
const ADOPTED_A_ROUND: usize = 32;

/// No further directory is adopted while the content of so many is not moved: each takes some file handles.
const MOST_IN_HAND: usize = 32;

/// The smallest share of the limit that a process may fill, however many others there are.
const LEAST_SHARE: u64 = 8 << 20;

/// The name of the directory for records of outages.
const OUTAGES: &str = "outages";

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

/// The state directory. All methods but those that an append needs take its lock. Inside, a round of the home of the
/// files takes the lock of the journal's home, never the other way round.
pub(crate) struct Home<D: Directory> {
    inner: Mutex<Inner<D>>,
    /// The signal of everything in the directory.
    signal: Signal,
    is_on_network: AtomicBool,
    /// Tells the threads of the storage that content of an ended process has arrived.
    waker: OnceLock<Waker>,
}

/// Wakes the threads of the storage.
pub(crate) type Waker = Box<dyn Fn() + Send + Sync>;

/// The content of one kind in the directory of a process that has ended.
pub(crate) struct Content<D> {
    pub(crate) key: u64,
    /// The name of the ended process's directory now.
    pub(crate) name: String,
    /// The incarnations of the processes that have used it, the one that made it first, as far as they are known.
    pub(crate) users: Vec<String>,
    pub(crate) dir: D,
}

/// The content of one kind that a store takes.
pub(crate) struct Taken<D> {
    pub(crate) contents: Vec<Content<D>>,
    /// The first directory that cannot be opened, and the cause.
    pub(crate) failed: Option<(String, String)>,
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
        let is_on_network = AtomicBool::new(shared.is_on_network());
        let inner = Inner {
            open_root,
            service,
            machine,
            claim: Some(shared),
            max_bytes,
            old,
            clock: ClockFile::new(incarnation),
            incarnation,
            generation: 0,
            ended: BTreeMap::new(),
            next_key: 0,
            round: None,
            more: false,
            taken: BTreeSet::new(),
            beat: None,
            others: Others::default(),
            bytes: BTreeMap::new(),
        };
        let home = Self { inner: Mutex::new(inner), signal: Signal::Traces, is_on_network, waker: OnceLock::new() };
        Ok((home, was_damaged))
    }

    /// The same for a directory whose content is of this signal; traces are the default.
    pub(crate) fn of_signal(self, signal: Signal) -> Self {
        Self { signal, ..self }
    }

    /// The signal of everything in the directory.
    pub(crate) fn signal(&self) -> Signal {
        self.signal
    }

    /// The directory of a store in the directory of this process, and its generation.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub(crate) fn own(&self, part: Part) -> Result<(D, u64), OpenError> {
        let inner = self.inner.lock();
        let shared = inner.shared();
        let dir = shared.own().subdirectory(part.name()).or_else(|error| {
            if reserve::give(shared.root(), &error) { shared.own().subdirectory(part.name()) } else { Err(error) }
        })?;
        Ok((dir, inner.generation))
    }

    /// Makes the file that keeps space for a start on a full disk, if it is missing and the disk has space.
    ///
    /// # Errors
    /// The file system refuses.
    pub(crate) fn keep_reserve(&self) -> Result<(), FileError> {
        let inner = self.inner.lock();
        reserve::keep(inner.shared().root(), inner.incarnation)
    }

    /// The directory for records of outages, which all processes share. It is made if it does not exist.
    ///
    /// # Errors
    /// The directory cannot be made or used.
    pub(crate) fn outages(&self) -> Result<D, OpenError> {
        self.inner.lock().shared().root().subdirectory(OUTAGES)
    }

    /// The same; none if it does not exist.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub(crate) fn existing_outages(&self) -> Result<Option<D>, OpenError> {
        self.inner.lock().shared().root().existing_subdirectory(OUTAGES)
    }

    /// The process of this name has ended, and is not this one. False if the file system does not tell.
    pub(crate) fn has_ended(&self, process: &str) -> bool {
        let inner = self.inner.lock();
        let shared = inner.shared();
        process != shared.name() && shared.look(process).is_ok_and(|other| other.is_none_or(|other| !other.is_alive))
    }

    /// The number that names this process.
    pub(crate) fn incarnation(&self) -> u64 {
        u64::from_str_radix(self.inner.lock().shared().name(), 16).unwrap_or_default()
    }

    pub(crate) fn generation(&self) -> u64 {
        self.inner.lock().generation
    }

    pub(crate) fn is_on_network(&self) -> bool {
        self.is_on_network.load(Ordering::Relaxed)
    }

    /// The bytes of the volume, if the file system tells them.
    pub(crate) fn volume_bytes(&self) -> Option<u64> {
        let space = self.inner.lock().shared().root().space().ok()?;
        (space.total > 0).then_some(space.total)
    }

    pub(crate) fn path(&self) -> std::path::PathBuf {
        self.inner.lock().shared().root().path().to_owned()
    }

    /// Adopts directories of processes that have ended and shows this process's bytes to the others: at most once in
    /// 5 s, unless the last round has left directories that there is room for now. `may_adopt` has the last word about
    /// an owner.
    ///
    /// # Errors
    /// The state directory cannot be read.
    pub(crate) fn round(
        &self,
        now: Instant,
        may_adopt: &mut dyn FnMut(Option<&str>) -> bool,
    ) -> Result<Round, FileError> {
        let mut inner = self.inner.lock();
        if !inner.has_more() && inner.round.is_some_and(|last| now.saturating_duration_since(last) < ROUND_EVERY) {
            return Ok(Round::default());
        }
        inner.round = Some(now);
        let round = inner.adopt_ended(now, may_adopt);
        drop(inner);
        if round.as_ref().is_ok_and(|round| !round.adopted.is_empty()) {
            self.wake();
        }
        round
    }

    /// Has content that arrives wake the threads of the storage.
    pub(crate) fn set_waker(&self, waker: Waker) {
        // A second builder has a home of its own.
        let _ = self.waker.set(waker);
    }

    /// A store has made content ready for the other one.
    pub(crate) fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            waker();
        }
    }

    /// Directories of ended processes wait, and this process has room for them now.
    pub(crate) fn has_more(&self) -> bool {
        self.inner.lock().has_more()
    }

    /// Takes the content of one kind of all ended processes that no store has yet. Files come after the journal of
    /// their process: opening it decides about each interrupted spill.
    pub(crate) fn take(&self, part: Part, now: Instant) -> Taken<D> {
        let inner = &mut *self.inner.lock();
        inner.taken.insert(part);
        let ready = inner.ended.iter().filter(|(_, ended)| inner.is_ready(ended, part, now)).map(|(key, _)| *key);
        let ready = ready.collect::<Vec<_>>();
        let mut taken = Taken { contents: Vec::new(), failed: None };
        for key in ready {
            let Some(ended) = inner.ended.get_mut(&key) else { continue };
            let name = ended.adopted.name.clone();
            match ended.adopted.locked.dir.existing_subdirectory(part.name()) {
                Ok(Some(dir)) => {
                    ended.parts.insert(part, State::Open);
                    let owner = ended.adopted.owner.as_ref().map(|owner| owner.incarnation.clone());
                    let users = owner.into_iter().chain(ended.holder.clone()).collect();
                    taken.contents.push(Content { key, name, users, dir });
                }
                // Another program has removed it.
                Ok(None) => {
                    ended.parts.remove(&part);
                    inner.remove_if_empty(key);
                }
                Err(error) => {
                    if error.is_io() {
                        ended.fail(part, now);
                    } else {
                        // The name leads to no directory of this user: the entry stays for an operator.
                        ended.parts.insert(part, State::Left);
                    }
                    taken.failed.get_or_insert((name, in_one_line(&error)));
                }
            }
        }
        taken
    }

    /// Content of this kind waits for its store.
    pub(crate) fn has_content(&self, part: Part, now: Instant) -> bool {
        let inner = self.inner.lock();
        inner.ended.values().any(|ended| inner.is_ready(ended, part, now))
    }

    /// Whether a fallback file of one of these processes is in the home, durably: in the directory of that process, or
    /// in the one of this process, which may have moved it already. `beside` is the key of content whose directory
    /// counts too.
    ///
    /// # Errors
    /// A directory cannot be read: then the answer is not known.
    pub(crate) fn has_file(&self, file: &str, users: &[String], beside: Option<u64>) -> io::Result<bool> {
        let inner = self.inner.lock();
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
                && file_fallback::holds_in(&files, self.signal.as_str(), file).map_err(|error| failed(&error))?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A directory of the owner is here, and no store of this process has its journal yet.
    pub(crate) fn has_undecided_journal(&self, owner: &str) -> bool {
        let inner = self.inner.lock();
        let is_owner = |found: Option<&Owner>| found.is_some_and(|found| found.incarnation == owner);
        if let Some(ended) = inner.ended.values().find(|ended| is_owner(ended.adopted.owner.as_ref())) {
            return ended.is_undecided();
        }
        inner.shared().others().unwrap_or_default().iter().any(|name| is_owner(inner.owner_of(name).as_ref()))
    }

    /// The content could not be taken over now: it is tried again in a while. Other content does not wait longer for a
    /// journal that could not be opened three times.
    pub(crate) fn give_back(&self, key: u64, part: Part, now: Instant) {
        if let Some(ended) = self.inner.lock().ended.get_mut(&key) {
            ended.fail(part, now);
        }
    }

    /// The content stays where it is, out of this process's hands.
    pub(crate) fn leave(&self, key: u64, part: Part) {
        if let Some(ended) = self.inner.lock().ended.get_mut(&key) {
            ended.parts.insert(part, State::Left);
        }
    }

    /// The store has taken everything over: removes the directory of this content and, with the last one, the ended
    /// process's. A directory that is not empty, such as by a file of an operator's, stays.
    pub(crate) fn finish(&self, key: u64, part: Part) {
        let inner = &mut *self.inner.lock();
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
        self.inner.lock().bytes.insert(part, bytes);
    }

    /// The bytes that journal and files of this process may take together: all of the limit that the other processes
    /// leave, and at least an equal share.
    pub(crate) fn allowance(&self) -> u64 {
        let (others, max_bytes) = {
            let inner = self.inner.lock();
            (inner.others, inner.max_bytes)
        };
        let share = (max_bytes / (others.live + 1)).max(LEAST_SHARE.min(max_bytes));
        share.max(max_bytes.saturating_sub(others.bytes))
    }

    pub(crate) fn bytes_of(&self, part: Part) -> u64 {
        self.inner.lock().bytes.get(&part).copied().unwrap_or_default()
    }

    /// On a network file system: shows that this process is alive, if that is due.
    ///
    /// # Errors
    /// The lock file cannot be written.
    pub(crate) fn beat_if_due(&self, now: Instant) -> Result<(), FileError> {
        let mut inner = self.inner.lock();
        let is_due = inner.beat.is_none_or(|last| now.saturating_duration_since(last) >= BEAT_EVERY);
        if is_due && inner.shared().is_on_network() { inner.beat(now) } else { Ok(()) }
    }

    /// The newest time that the processes of the directory have seen, and whether its file is damaged.
    pub(crate) fn remembered_time(&self) -> Remembered {
        ClockFile::read(self.inner.lock().shared().root())
    }

    /// Remembers the time for the next process, at most once a minute.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn remember_time(&self, newest: SystemTime) -> Result<(), FileError> {
        let inner = &mut *self.inner.lock();
        let Some(shared) = &inner.claim else { return Ok(()) };
        inner.clock.note(shared.root(), newest).map(drop)
    }

    /// Spans of other services in directories of the old layout.
    pub(crate) fn finds(&self) -> Finds {
        self.inner.lock().old.finds().clone()
    }

    /// Directories of other processes exist, or content of ended ones waits.
    pub(crate) fn has_others(&self) -> bool {
        let inner = self.inner.lock();
        inner.others.directories > 0 || !inner.ended.is_empty()
    }

    /// The directory of a store is still in the directory of this process, under its name. Also if the disk does not
    /// tell.
    pub(crate) fn holds(&self, part: Part, dir: &D) -> bool {
        let inner = self.inner.lock();
        !matches!(inner.shared().own().holds_subdirectory(part.name(), dir), Ok(false))
    }

    /// The same of content that a store has taken from an ended process.
    pub(crate) fn holds_content(&self, key: u64, part: Part, dir: &D) -> bool {
        let inner = self.inner.lock();
        let Some(ended) = inner.ended.get(&key) else { return true };
        let (name, process) = (&ended.adopted.name, &ended.adopted.locked.dir);
        let is_there = !matches!(inner.shared().root().holds_subdirectory(name, process), Ok(false));
        is_there && !matches!(process.holds_subdirectory(part.name(), dir), Ok(false))
    }

    /// The name of the directory of this process leads elsewhere, or nowhere.
    pub(crate) fn is_gone(&self) -> bool {
        self.inner.lock().shared().is_gone()
    }

    /// If the directory of this process has vanished, makes a new one; returns whether it did. The stores notice by the
    /// [`generation`](Self::generation).
    ///
    /// # Errors
    /// The directory has vanished and cannot be made anew.
    pub(crate) fn renew_if_gone(&self) -> Result<bool, StateDirError> {
        let inner = &mut *self.inner.lock();
        if !inner.shared().is_gone() {
            return Ok(false);
        }
        let incarnation = inner.incarnation.wrapping_add(inner.generation + 1);
        let (shared, _) = claim(&inner.open_root, &inner.service, &inner.machine, incarnation)?;
        self.is_on_network.store(shared.is_on_network(), Ordering::Relaxed);
        inner.claim = Some(shared);
        inner.generation += 1;
        // Content that still exists is found by the next round, without a lock of this process on it.
        inner.ended.clear();
        (inner.round, inner.more, inner.beat) = (None, false, None);
        inner.bytes.clear();
        Ok(true)
    }
}

#[cfg(test)]
mod shares;
#[cfg(test)]
mod tests;
