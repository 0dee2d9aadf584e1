//! The state of the disk: the one that programs see, and the one that a power cut leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::SystemTime;

use super::memory::MemoryDir;

/// A disk in memory. A clone is the same disk.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    state: Arc<Mutex<State>>,
    before_step: Arc<OnceLock<BeforeStep>>,
}

/// Called before each step of a program on the disk.
struct BeforeStep(Box<dyn Fn() + Send + Sync>);

/// The kind of a file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// One machine uses it.
    #[default]
    Local,
    /// Several machines use it, and a lock binds them all.
    Network,
    /// Several machines use it, and a lock binds the processes of one machine only.
    NetworkWithLocalLocks,
}

/// The effect of a power cut on changes that were not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// All of them are lost.
    Worst,
    /// None is lost, as if only the process had ended.
    Best,
    /// By chance, for each name and for the tail of each file: present, lost, cut, or at full length but with zeros.
    /// The same seed has the same effect.
    Random(u64),
}

#[derive(Debug)]
pub(super) struct State {
    /// Counts crashes; a handle from before the last crash fails.
    pub(super) epoch: u64,
    pub(super) files: BTreeMap<FileId, Content>,
    /// The names that programs see, by directory.
    pub(super) dirs: BTreeMap<DirId, BTreeMap<String, Node>>,
    /// The names that are left by every power cut.
    durable: BTreeMap<DirId, BTreeMap<String, Node>>,
    /// Changes of names since the last sync, in order.
    pending: Vec<Op>,
    /// When the names of a directory were changed last; without an entry at the epoch of the clock.
    pub(super) dirs_modified: BTreeMap<DirId, SystemTime>,
    /// The locked files, each with the machine that its lock binds.
    pub(super) locked: BTreeSet<(Host, FileId)>,
    pub(super) reach: Reach,
    /// The clock of the file system.
    now: SystemTime,
    /// The most bytes that files may take together.
    pub(super) capacity: Option<u64>,
    failing_syncs: u32,
    next_id: u64,
}

pub(super) type FileId = u64;
pub(super) type DirId = u64;
pub(super) type Host = u32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    File(FileId),
    Dir(DirId),
}

#[derive(Clone, Debug)]
pub(super) struct Content {
    pub(super) data: Vec<u8>,
    pub(super) modified: SystemTime,
    durable: Vec<u8>,
    /// Parts of `data` whose sync failed: they never reach the disk.
    lost: Vec<Range<usize>>,
}

/// A change of names that the file system makes as one.
#[derive(Clone, Debug)]
struct Op {
    removed: Option<(DirId, String)>,
    added: Option<(DirId, String, Node)>,
}

impl Disk {
    /// Whether this is the same disk.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.state, &other.state)
    }

    /// An empty disk without limit.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Its root directory, the only one at first, as the first machine sees it.
    #[must_use]
    pub fn root(&self) -> MemoryDir {
        self.root_on(0)
    }

    /// Its root directory as the machine with that number sees it: see [`set_reach`](Self::set_reach).
    #[must_use]
    pub fn root_on(&self, host: u32) -> MemoryDir {
        MemoryDir::new(self.clone(), ROOT, "/sim".into(), self.lock().epoch, host)
    }

    /// Makes it a disk that several machines use. Local at first.
    pub fn set_reach(&self, reach: Reach) {
        self.lock().reach = reach;
    }

    /// Sets the clock of the file system: the time of the modifications from now on. At first `UNIX_EPOCH`; it never
    /// moves by itself.
    pub fn set_now(&self, now: SystemTime) {
        self.lock().now = now;
    }

    /// Calls `before` ahead of each step that a program makes on this disk; a call of a directory has one step or
    /// several, as on a real one. Thus a test runs the steps of several threads in any order. Only the first such
    /// function of a disk counts.
    pub fn before_each_step(&self, before: impl Fn() + Send + Sync + 'static) {
        // A second one would come into force in the midst of other steps.
        let _ = self.before_step.set(BeforeStep(Box::new(before)));
    }

    pub(super) fn step(&self) {
        if let Some(before) = self.before_step.get() {
            before.0();
        }
    }

    /// Removes a directory and everything in it, as another program may do at any time. Open handles stay valid and
    /// have lost their names. The path is relative to the root, its parts divided by `/`. Returns whether there is such
    /// a directory.
    pub fn remove_tree(&self, path: &str) -> bool {
        let mut state = self.lock();
        let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
        let mut dir = ROOT;
        for part in above.split('/').filter(|part| !part.is_empty()) {
            match state.dirs.get(&dir).and_then(|names| names.get(part)) {
                Some(Node::Dir(inner)) => dir = *inner,
                _ => return false,
            }
        }
        let Some(&Node::Dir(gone)) = state.dirs.get(&dir).and_then(|names| names.get(name)) else { return false };
        state.change(Some((dir, name.to_owned())), None);
        state.remove_names(gone);
        true
    }

    /// Limits the bytes of all files together; a write beyond that writes the bytes that fit and then fails with
    /// `ENOSPC`.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.lock().capacity = bytes;
    }

    /// Cuts the power: handles and locks become invalid, and `crash` decides about changes that were not synced.
    pub fn crash(&self, crash: Crash) {
        self.lock().crash(crash);
    }

    /// Lets the next `count` syncs of files fail with `EIO`, as if the disk had not accepted the data. That data is
    /// lost: programs still read it until the power is cut, and the next sync of the same file returns `Ok`. Linux
    /// behaves like this (known since 2018 as fsyncgate).
    pub fn fail_syncs(&self, count: u32) {
        self.lock().failing_syncs = count;
    }

    /// Changes the content of a file on the disk itself, as a bad sector or another program would. The name is relative
    /// to the root, its parts divided by `/`. Returns whether there is such a file.
    pub fn tamper(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut state = self.lock();
        let mut dir = ROOT;
        let mut parts = name.split('/').peekable();
        while let Some(part) = parts.next() {
            match state.dirs.get(&dir).and_then(|names| names.get(part)) {
                Some(Node::Dir(inner)) => dir = *inner,
                Some(&Node::File(id)) if parts.peek().is_none() => {
                    let Some(content) = state.files.get_mut(&id) else { return false };
                    change(&mut content.data);
                    content.lost.clear();
                    content.durable = content.data.clone();
                    return true;
                }
                _ => return false,
            }
        }
        false
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    pub(super) fn new_file(&mut self) -> FileId {
        self.next_id += 1;
        let (data, durable, lost) = (Vec::new(), Vec::new(), Vec::new());
        self.files.insert(self.next_id, Content { data, modified: self.now, durable, lost });
        self.next_id
    }

    pub(super) fn new_dir(&mut self) -> DirId {
        self.next_id += 1;
        self.dirs.insert(self.next_id, BTreeMap::new());
        self.dirs_modified.insert(self.next_id, self.now);
        self.durable.insert(self.next_id, BTreeMap::new());
        self.next_id
    }

    /// The bytes of all files that have a name.
    pub(super) fn used(&self) -> u64 {
        let named = self.dirs.values().flat_map(BTreeMap::values);
        let sizes = named.filter_map(|node| match node {
            Node::File(id) => self.files.get(id).map(|content| content.data.len() as u64),
            Node::Dir(_) => None,
        });
        sizes.sum()
    }

    /// Removes one name and adds another, as one change.
    pub(super) fn change(&mut self, removed: Option<(DirId, String)>, added: Option<(DirId, String, Node)>) {
        let op = Op { removed, added };
        for (dir, _) in op.names() {
            self.dirs_modified.insert(dir, self.now);
        }
        op.apply(&mut self.dirs);
        self.pending.push(op);
    }

    /// Calls `act` with the content of a file, and sets its time of modification.
    pub(super) fn modify(&mut self, id: FileId, act: impl FnOnce(&mut Content)) {
        if let Some(content) = self.files.get_mut(&id) {
            content.modified = self.now;
            act(content);
        }
    }

    /// Whether a directory leads to this file.
    pub(super) fn is_named(&self, id: FileId) -> bool {
        self.dirs.values().flat_map(BTreeMap::values).any(|node| *node == Node::File(id))
    }

    /// Takes a lock that binds the machines which the file system lets it bind; returns whether it was free.
    pub(super) fn take_lock(&mut self, host: Host, file: FileId) -> bool {
        let bound = if self.reach == Reach::NetworkWithLocalLocks { host } else { 0 };
        self.locked.insert((bound, file))
    }

    pub(super) fn release_lock(&mut self, host: Host, file: FileId) {
        let bound = if self.reach == Reach::NetworkWithLocalLocks { host } else { 0 };
        self.locked.remove(&(bound, file));
    }

    /// Removes a directory that has lost its name, with all below it.
    fn remove_names(&mut self, dir: DirId) {
        for (name, node) in self.dirs.get(&dir).cloned().unwrap_or_default() {
            self.change(Some((dir, name)), None);
            if let Node::Dir(inner) = node {
                self.remove_names(inner);
            }
        }
        self.dirs.remove(&dir);
    }

    /// Makes the changes of a directory's names durable.
    pub(super) fn sync_dir(&mut self, dir: DirId) {
        for op in std::mem::take(&mut self.pending) {
            if op.names().any(|(touched, _)| touched == dir) {
                op.apply(&mut self.durable);
            } else {
                self.pending.push(op);
            }
        }
    }

    pub(super) fn sync_file(&mut self, id: FileId) -> io::Result<()> {
        let Some(content) = self.files.get_mut(&id) else { return Ok(()) };
        if self.failing_syncs > 0 {
            self.failing_syncs -= 1;
            content.lost.push(content.durable.len().min(content.data.len())..content.data.len());
            return Err(io::Error::from_raw_os_error(EIO));
        }
        content.durable = content.on_disk();
        Ok(())
    }

    fn crash(&mut self, crash: Crash) {
        let mut chance = Chance(match crash {
            Crash::Random(seed) => seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            Crash::Worst | Crash::Best => 1,
        });
        // A change is lost together with all later ones of the same names.
        let mut lost: BTreeSet<(DirId, String)> = BTreeSet::new();
        for op in std::mem::take(&mut self.pending) {
            let keep = match crash {
                Crash::Worst => false,
                Crash::Best => true,
                Crash::Random(_) => chance.below(2) == 0,
            };
            if keep && !op.names().any(|(dir, name)| lost.contains(&(dir, name.to_owned()))) {
                op.apply(&mut self.durable);
            } else {
                lost.extend(op.names().map(|(dir, name)| (dir, name.to_owned())));
            }
        }
        self.dirs = self.durable.clone();
        for content in self.files.values_mut() {
            match crash {
                Crash::Worst => content.data = content.durable.clone(),
                Crash::Best => {}
                Crash::Random(_) => content.tear(&mut chance),
            }
            content.lost.clear();
            content.durable = content.data.clone();
        }
        self.locked.clear();
        self.epoch += 1;
    }
}

impl Default for State {
    fn default() -> Self {
        let root = BTreeMap::from([(ROOT, BTreeMap::new())]);
        Self {
            epoch: 0,
            files: BTreeMap::new(),
            dirs: root.clone(),
            durable: root,
            pending: Vec::new(),
            dirs_modified: BTreeMap::new(),
            locked: BTreeSet::new(),
            reach: Reach::Local,
            now: SystemTime::UNIX_EPOCH,
            capacity: None,
            failing_syncs: 0,
            next_id: ROOT,
        }
    }
}

impl Content {
    pub(super) fn resize(&mut self, len: usize) {
        self.data.resize(len, 0);
        // Bytes that are written there later are new.
        self.lost.iter_mut().for_each(|lost| lost.end = lost.end.min(len));
        self.lost.retain(|lost| !lost.is_empty());
    }

    /// The data as far as the disk can have it.
    fn on_disk(&self) -> Vec<u8> {
        let mut data = self.data.clone();
        self.lost.iter().for_each(|lost| data[lost.clone()].fill(0));
        data
    }

    /// Applies the possible effects of a file system without ordering to an appended tail.
    fn tear(&mut self, chance: &mut Chance) {
        self.data = self.on_disk();
        let (old, new) = (self.durable.len(), self.data.len());
        if new < old || self.data[..old] != self.durable {
            // The file was cut, and perhaps written again: either state may be left.
            if chance.below(2) == 0 {
                self.data = self.durable.clone();
            }
            return;
        }
        match chance.below(4) {
            0 => self.data.truncate(old),
            1 => {}
            2 => self.data.truncate(old + chance.up_to(new - old)),
            // The length reached the disk, the data did not.
            _ => {
                let reached = old + chance.up_to(new - old);
                self.data[reached..].fill(0);
            }
        }
    }
}

impl Op {
    fn names(&self) -> impl Iterator<Item = (DirId, &str)> {
        let removed = self.removed.iter().map(|(dir, name)| (*dir, name.as_str()));
        removed.chain(self.added.iter().map(|(dir, name, _)| (*dir, name.as_str())))
    }

    fn apply(&self, dirs: &mut BTreeMap<DirId, BTreeMap<String, Node>>) {
        if let Some((dir, name)) = &self.removed
            && let Some(names) = dirs.get_mut(dir)
        {
            names.remove(name);
        }
        if let Some((dir, name, node)) = &self.added
            && let Some(names) = dirs.get_mut(dir)
        {
            names.insert(name.clone(), *node);
        }
    }
}

impl std::fmt::Debug for BeforeStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BeforeStep")
    }
}

/// A small generator (xorshift), so that a seed determines a whole run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }

    fn up_to(&mut self, most: usize) -> usize {
        usize::try_from(self.below(most as u64 + 1)).unwrap_or(most)
    }
}

const ROOT: DirId = 0;

const EIO: i32 = 5;
