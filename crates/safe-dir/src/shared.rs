//! One directory for several processes: each has a subdirectory of its own, and takes over those of ended processes.

mod steps;

use std::io::{ErrorKind, Write as _};
use std::time::{Duration, SystemTime};

use crate::{
    Directory, File as _, FileError, Kind, LOCK_FILE, LockError, Locked, Machine, OpenError, Owner, ShareError,
};
use steps::{
    give_back, is_locked, is_process_name, lock, make_and_lock, modified, open, process_name, read_owner,
    remove_emptied, write_whole,
};

/// A directory that any number of processes share; this process has one of its subdirectories for itself.
///
/// A process makes its subdirectory under a new name, the number of its incarnation, and holds its lock until it ends.
/// Any other process may then *adopt* that subdirectory: it locks it and renames it to `<own name>+<n>`. The rename is
/// one step of the file system, therefore one process wins; a process that dies while it empties an adopted directory
/// leaves one that the next process adopts in the same way. No process has a special role.
///
/// **On a local file system** the lock alone decides whether a process is alive. **On a network or FUSE file system**,
/// where a lock may bind one machine only, the lock decides among processes of one machine. The directory of an owner
/// on another machine (or with an unreadable lock file) is adopted only if its heartbeat, the modification time of its
/// lock file, is older than [`HEARTBEAT_TIMEOUT`]; times of the server are compared with each other. There, each owner
/// calls [`beat`](Self::beat) before it first writes and at least each 20 s while it stores anything, and
/// [`is_gone`](Self::is_gone) after that: a process that was stopped for longer may find its directory adopted.
///
/// ```
/// use std::io::Write as _;
/// use safe_dir::{Directory as _, Machine, SafeDir, SharedDir, publish};
///
/// # let scratch = tempfile::tempdir()?;
/// # let path = scratch.path().join("queue");
/// let join = |incarnation| SharedDir::claim(SafeDir::open(&path).unwrap(), Machine::current(), incarnation);
/// let mut first = join(0xa)?;
/// let second = join(0xb)?; // in another process
/// publish(second.own(), "job", |file| file.write_all(b"to be done"))?;
///
/// assert_eq!(first.others()?, ["000000000000000b"]);
/// assert!(first.adopt("000000000000000b")?.is_none(), "its process is alive");
/// drop(second); // its process exits, or is killed
///
/// let adopted = first.adopt("000000000000000b")?.expect("its process has ended");
/// assert_eq!(adopted.name, "000000000000000a+1");
/// adopted.locked.dir.rename("job", first.own(), "job")?; // and sync both directories
/// adopted.remove(first.root())?;
/// assert!(first.others()?.is_empty() && path.join("000000000000000a/job").exists());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct SharedDir<D: Directory> {
    root: D,
    name: String,
    owner: Owner,
    /// The lock file, open for heartbeats. Whether its head is whole: a full disk may have cut it.
    file: D::File,
    has_head: bool,
    /// The number of the next adopted directory.
    next: u64,
    is_on_network: bool,
    /// Declared last: the lock is released after the rest is closed.
    own: Locked<D>,
}

/// The directory of an ended process, which this process has taken over and locked.
#[derive(Debug)]
pub struct Adopted<D: Directory> {
    /// Its name in the shared directory now.
    pub name: String,
    /// The process that made it; `None` if its lock file cannot be read.
    pub owner: Option<Owner>,
    /// The directory, locked by this process.
    pub locked: Locked<D>,
}

/// The directory of another process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Other {
    /// The process that made it; `None` if its lock file cannot be read.
    pub owner: Option<Owner>,
    /// Whether the process that holds it is alive, as far as this one can know.
    pub is_alive: bool,
}

/// The age of a heartbeat from which an owner on another machine counts as ended.
pub const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(60);

/// The evidence about the owner of a directory, that for its life last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Evidence {
    /// The owner is on this machine, or the file system is local: a free lock means that it has ended.
    Lock,
    /// The last heartbeat of an owner on another machine is old: it has ended, unless it writes one after all.
    OldHeartbeat,
    /// It is recent.
    RecentHeartbeat,
}

impl<D: Directory> SharedDir<D> {
    /// Makes a directory in `root` for this process and locks it. Its name has the 16 hexadecimal digits of
    /// `incarnation`, which the caller chooses at random or by the time; if that name exists, of the next number that
    /// is free. Never waits.
    ///
    /// On a full disk the content of the lock file may be missing until a later [`beat`](Self::beat); the lock holds.
    ///
    /// # Errors
    ///
    /// If the file system refuses to make, lock or sync the directory.
    pub fn claim(root: D, machine: Machine, incarnation: u64) -> Result<Self, ShareError> {
        let is_on_network = root.is_on_network();
        let machine = machine.normalized();
        for offset in 0..MAX_ATTEMPTS {
            let name = process_name(incarnation.wrapping_add(offset));
            let owner = Owner { machine: machine.clone(), incarnation: name.clone(), bytes: 0 };
            let claimed = match claim_name(&root, &owner) {
                // An adopter on another machine has taken and removed the directory, half-made as it was.
                Err(ShareError::File(error) | ShareError::Lock(LockError::File(error)))
                    if error.is_not_found() && !root.is_gone() =>
                {
                    None
                }
                claimed => claimed?,
            };
            if let Some(Claimed { own, file, has_head }) = claimed {
                return Ok(Self { root, name, owner, file, has_head, next: 1, is_on_network, own });
            }
        }
        Err(ShareError::Lock(LockError::Held { path: root.path().to_owned() }))
    }

    /// The shared directory.
    pub const fn root(&self) -> &D {
        &self.root
    }

    /// The directory of this process.
    pub const fn own(&self) -> &D {
        &self.own.dir
    }

    /// The name of the directory of this process, which is also the number of its incarnation.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the file system may be used by several machines, and thus heartbeats count.
    pub const fn is_on_network(&self) -> bool {
        self.is_on_network
    }

    /// The names of the directories of other processes and of those that other processes have adopted, in no order. By
    /// the names alone; opens none of them. Also one that this process has adopted and not removed yet.
    ///
    /// # Errors
    ///
    /// If the shared directory cannot be read.
    pub fn others(&self) -> Result<Vec<String>, FileError> {
        let entries = self.root.list()?.into_iter();
        let directories = entries.filter(|entry| entry.kind.is_none_or(|kind| kind == Kind::Directory));
        let names = directories.filter_map(|entry| entry.name.into_string().ok());
        Ok(names.filter(|name| is_process_name(name) && *name != self.name).collect())
    }

    /// Looks at the directory `name` of another process; `None` if it does not exist, or is no directory of this user.
    ///
    /// It takes the lock of the directory for a moment if that is free: an [`adopt`](Self::adopt) by another process in
    /// this moment returns `None`. Call [`adopt`](Self::adopt) first, and this for directories that it does not give.
    ///
    /// # Errors
    ///
    /// If the file system refuses.
    pub fn look(&self, name: &str) -> Result<Option<Other>, FileError> {
        if !is_process_name(name) {
            return Ok(None);
        }
        let Some(dir) = open(&self.root, name).map_err(|error| self.as_file_error(name, error))? else {
            return Ok(None);
        };
        let owner = read_owner(&dir)?;
        let is_alive = self.evidence(name, &dir)? == Evidence::RecentHeartbeat || is_locked(&dir)?;
        Ok(Some(Other { owner, is_alive }))
    }

    /// The heartbeat: writes the lock file of this process anew, with the bytes that it stores now. If another program
    /// has removed the file, makes and locks it again. Needs no space on a disk that gave it once.
    ///
    /// # Errors
    ///
    /// If the file system refuses. The time of the file is new even if a full disk did not take the content.
    pub fn beat(&mut self, bytes: u64) -> Result<(), FileError> {
        self.owner.bytes = bytes;
        let dir = &self.own.dir;
        let failed = |source| FileError::Io { path: dir.path().join(LOCK_FILE), action: "write", source };
        if self.file.is_gone().map_err(failed)? {
            self.own.lock = dir.lock().map_err(|error| match error {
                LockError::File(error) => error,
                LockError::Held { .. } => failed(ErrorKind::WouldBlock.into()),
            })?;
            self.file = dir.open_append(LOCK_FILE)?;
            self.has_head = false;
        }
        if self.has_head {
            // The head stays, so that a process which reads at this moment knows the owner.
            self.file.truncate(self.owner.head().len() as u64).map_err(failed)?;
            self.file.write_all(self.owner.bytes_line().as_bytes()).map_err(failed)?;
        } else {
            self.file.truncate(0).map_err(failed)?;
            self.file.write_all(self.owner.to_text().as_bytes()).map_err(failed)?;
            self.has_head = true;
        }
        if self.is_on_network {
            // A client may keep writes back: only the server's time counts for other machines.
            self.file.sync().map_err(failed)?;
        }
        Ok(())
    }

    /// Takes the directory `name` of an ended process: locks it, renames it to `<own name>+<n>` and makes that durable.
    /// `None` if its process is alive, another process was faster, or the name is no directory of this user. Never
    /// waits.
    ///
    /// # Errors
    ///
    /// If the file system refuses. The directory then stays for the next call, of this or another process, under its
    /// old name or the new one.
    pub fn adopt(&mut self, name: &str) -> Result<Option<Adopted<D>>, ShareError> {
        if name == self.name || !is_process_name(name) {
            return Ok(None);
        }
        let Some(dir) = open(&self.root, name)? else { return Ok(None) };
        let evidence = self.evidence(name, &dir)?;
        if evidence == Evidence::RecentHeartbeat {
            return Ok(None);
        }
        let Some(locked) = lock(dir)? else { return Ok(None) };
        // Only the holder of the lock renames the directory: from here on the name changes no more.
        if !self.root.holds_subdirectory(name, &locked.dir)? {
            give_back(&locked);
            return Ok(None);
        }
        let Some(new_name) = self.rename(name, &locked.dir)? else { return Ok(None) };
        // Where locks bind one machine only, an adopter on another one may have taken the directory, and a new process
        // the name, since this one looked.
        let is_another = !self.root.holds_subdirectory(&new_name, &locked.dir)?;
        if is_another || evidence == Evidence::OldHeartbeat && self.is_back(name, &new_name, &locked.dir)? {
            return match self.root.rename_subdirectory(&new_name, name) {
                // The owner finds its name taken and claims a new one; what it stored is adopted later.
                Err(error) if !error.is_already_exists() && !error.is_not_found() => Err(error.into()),
                Ok(()) | Err(_) => Ok(None),
            };
        }
        self.root.sync()?;
        let owner = read_owner(&locked.dir)?;
        Ok(Some(Adopted { name: new_name, owner, locked }))
    }

    /// Whether this process has lost its directory: the name in the shared directory leads elsewhere or nowhere, or
    /// another program has removed one of the two. The process then claims a new one. `false` while the file system
    /// does not tell.
    pub fn is_gone(&self) -> bool {
        let leads_elsewhere = matches!(self.root.holds_subdirectory(&self.name, &self.own.dir), Ok(false));
        leads_elsewhere || self.own.dir.is_gone() || self.root.is_gone()
    }

    /// Removes the directory of this process, durably, after the caller has emptied it.
    ///
    /// # Errors
    ///
    /// If a file is left in it, or the file system refuses. Another process adopts it then.
    pub fn leave(self) -> Result<(), FileError> {
        let Self { root, name, own, file, .. } = self;
        // Closed first: NFS keeps a removed file that is open under another name in the directory.
        drop(file);
        remove_emptied(&root, &name, own)
    }

    /// Gives `name` the next free name of this process; `None` if another process was faster.
    fn rename(&mut self, name: &str, dir: &D) -> Result<Option<String>, FileError> {
        let last = self.next.saturating_add(MAX_ATTEMPTS);
        loop {
            let new_name = format!("{}+{}", self.name, self.next);
            self.next += 1;
            let Err(error) = self.root.rename_subdirectory(name, &new_name) else { return Ok(Some(new_name)) };
            // NFS repeats a call whose answer was lost: the name is not there any more, since the first one took it.
            if matches!(self.root.holds_subdirectory(&new_name, dir), Ok(true)) {
                return Ok(Some(new_name));
            }
            if error.is_not_found() {
                return Ok(None);
            }
            if !error.is_already_exists() || self.next > last {
                return Err(error);
            }
        }
    }

    /// The evidence about the process that holds `dir`, which `name` leads to.
    fn evidence(&self, name: &str, dir: &D) -> Result<Evidence, FileError> {
        if !self.is_on_network {
            return Ok(Evidence::Lock);
        }
        Ok(self.evidence_of_owner(name, dir)?.max(self.evidence_of_adopter(name)?))
    }

    /// Whether the process that held `dir` by an old heartbeat has written one since. Asked after this process has
    /// renamed it: an owner looks at its name after its heartbeat, therefore one of the two notices the other.
    fn is_back(&self, old_name: &str, new_name: &str, dir: &D) -> Result<bool, FileError> {
        let is_back = |evidence| evidence == Evidence::RecentHeartbeat;
        // An empty lock file is the one that the lock of this process has made.
        let has_owner = dir.metadata(LOCK_FILE)?.len > 0;
        Ok(is_back(self.evidence_of_adopter(old_name)?) || has_owner && is_back(self.evidence_of_owner(new_name, dir)?))
    }

    /// The heartbeat of an adopter stands for its adopted directories: it writes nothing to their lock files.
    fn evidence_of_adopter(&self, name: &str) -> Result<Evidence, FileError> {
        let adopter = name.split_once('+').map(|(adopter, _)| adopter).filter(|adopter| *adopter != self.name);
        let Some(adopter) = adopter else { return Ok(Evidence::Lock) };
        let dir = open(&self.root, adopter).map_err(|error| self.as_file_error(adopter, error))?;
        let Some(dir) = dir else { return Ok(Evidence::Lock) };
        if is_locked(&dir)? { Ok(Evidence::RecentHeartbeat) } else { self.evidence_of_owner(adopter, &dir) }
    }

    fn evidence_of_owner(&self, name: &str, dir: &D) -> Result<Evidence, FileError> {
        let is_here = |owner: Option<Owner>| owner.is_some_and(|owner| owner.machine == self.owner.machine);
        if is_here(read_owner(dir)?) {
            return Ok(Evidence::Lock);
        }
        // The own time first: a server that stalls between the two makes the other heartbeat look younger, not older.
        let mine = self.touch()?;
        // Opened before its time is read: NFS asks the server for the current one only when a file is opened.
        if is_here(read_owner(dir)?) {
            return Ok(Evidence::Lock);
        }
        let theirs = match modified(dir, LOCK_FILE)? {
            Some(theirs) => Some(theirs),
            // Its process was between two steps of a claim, and perhaps still is.
            None => modified(&self.root, name)?,
        };
        // A directory whose time is unknown is not taken.
        let (Some(theirs), Some(mine)) = (theirs, mine) else { return Ok(Evidence::RecentHeartbeat) };
        let is_old = mine.duration_since(theirs).is_ok_and(|age| age > HEARTBEAT_TIMEOUT);
        Ok(if is_old { Evidence::OldHeartbeat } else { Evidence::RecentHeartbeat })
    }

    /// The time by the clock of the file system.
    fn touch(&self) -> Result<Option<SystemTime>, FileError> {
        let dir = &self.own.dir;
        // Fails if another program has removed the file: the next heartbeat locks it again, a new file here would not.
        dir.metadata(LOCK_FILE)?;
        let mut file = dir.open_append(LOCK_FILE)?;
        let touched = file.len().and_then(|len| file.truncate(len)).and_then(|()| file.sync());
        let failed = |source| FileError::Io { path: dir.path().join(LOCK_FILE), action: "write", source };
        touched.map_err(failed)?;
        modified(dir, LOCK_FILE)
    }

    fn as_file_error(&self, name: &str, error: OpenError) -> FileError {
        let source = match error {
            OpenError::Io { source, .. } => source,
            other => std::io::Error::other(other),
        };
        FileError::Io { path: self.root.path().join(name), action: "open", source }
    }
}

/// The directory of this process, whose lock file is open for heartbeats.
struct Claimed<D: Directory> {
    own: Locked<D>,
    file: D::File,
    has_head: bool,
}

/// Makes the directory of `owner`, and its lock file, with its head unless the disk is full; `None` if the name exists
/// or an adopter has taken the directory before it was ready.
fn claim_name<D: Directory>(root: &D, owner: &Owner) -> Result<Option<Claimed<D>>, ShareError> {
    let Some(own) = make_and_lock(root, &owner.incarnation)? else { return Ok(None) };
    let mut file = own.dir.open_append(LOCK_FILE)?;
    let has_head = write_whole(&mut file, owner, &own.dir)?;
    own.dir.sync()?;
    // An adopter of a half-made directory, which was not locked yet, renames it. It looks at the heartbeat after the
    // rename, this process at the name after its heartbeat: one of them sees the other.
    if root.holds_subdirectory(&owner.incarnation, &own.dir)? {
        return Ok(Some(Claimed { own, file, has_head }));
    }
    drop(own.dir.remove(LOCK_FILE));
    Ok(None)
}

impl<D: Directory> Adopted<D> {
    /// Removes the directory from `root`, durably, after the caller has moved or removed its files.
    ///
    /// # Errors
    ///
    /// If a file is left in it, or the file system refuses. The directory stays then, for the next
    /// [`adopt`](SharedDir::adopt).
    pub fn remove(self, root: &D) -> Result<(), FileError> {
        remove_emptied(root, &self.name, self.locked)
    }
}

impl<D: Directory> std::fmt::Debug for SharedDir<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedDir").field("own", &self.own).field("is_on_network", &self.is_on_network).finish()
    }
}

/// The most names that a process tries: more than processes start with the same number, or die while they adopt.
const MAX_ATTEMPTS: u64 = 100_000;
