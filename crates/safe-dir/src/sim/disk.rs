//! The state of the disk: the one that programs see, and the one that a power cut leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::memory::MemoryDir;

/// A disk in memory. A clone is the same disk.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    state: Arc<Mutex<State>>,
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
    pub(super) locked: BTreeSet<DirId>,
    /// The most bytes that files may take together.
    pub(super) capacity: Option<u64>,
    failing_syncs: u32,
    next_id: u64,
}

pub(super) type FileId = u64;
pub(super) type DirId = u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    File(FileId),
    Dir(DirId),
}

#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    pub(super) data: Vec<u8>,
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
    /// An empty disk without limit.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Its root directory, the only one at first.
    #[must_use]
    pub fn root(&self) -> MemoryDir {
        MemoryDir::new(self.clone(), ROOT, "/sim".into(), self.lock().epoch)
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
        self.files.insert(self.next_id, Content::default());
        self.next_id
    }

    pub(super) fn new_dir(&mut self) -> DirId {
        self.next_id += 1;
        self.dirs.insert(self.next_id, BTreeMap::new());
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
        op.apply(&mut self.dirs);
        self.pending.push(op);
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
            locked: BTreeSet::new(),
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
