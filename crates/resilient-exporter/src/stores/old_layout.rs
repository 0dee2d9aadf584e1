//! Directories of the layout before this one: `fallback`, `journal` and `dead-letters` directly in a state directory,
//! with `process-1` and so on for further processes.
//!
//! Files and journals of this service are moved, under the locks of the old directories, to a directory of the present
//! layout that belongs to no living process: it is then adopted like that of a process that has ended. Those of other
//! services stay, and are named.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;

use file_fallback::{PROGRESS_LOG, count_in_name, record_in};
use otlp_payload::{Signal, resource_text};
use otlp_transport::ErrorChain;
use safe_dir::{Directory, File as _, FileError, LOCK_FILE, LockError, Locked, OpenError, SafeDir};

use super::home::Part;
use super::records::{self, MAX_RECORD_BYTES};

/// Begins the names of fallback files: the old layout had traces only.
const TRACES: &str = Signal::Traces.as_str();

/// Begins the names of the directories of further processes.
const FURTHER: &str = "process-";

/// Opens a directory that exists; none if it does not.
pub(crate) type OpenOld<D> = Box<dyn Fn() -> Result<Option<D>, OpenError> + Send>;

/// One directory of the old layout.
pub(crate) struct OldDir<D> {
    part: Part,
    open: OpenOld<D>,
    /// Removes the directory, if it is empty.
    remove: Box<dyn Fn() + Send>,
    path: PathBuf,
}

/// The old layout, as far as this process has looked.
pub(crate) struct OldLayout<D> {
    dirs: Vec<OldDir<D>>,
    /// The name of this service; none if every service's spans are this one's.
    service: Option<String>,
    /// The services of files that stay, by directory and name: each is read once.
    foreign: BTreeMap<(PathBuf, String), String>,
    finds: Finds,
}

/// Spans of other services in the old layout, by directory and service. The name is empty where it cannot be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Finds(pub(crate) BTreeMap<(PathBuf, String), Find>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Find {
    pub(crate) spans: u64,
    /// Bytes of journals, whose spans are not counted.
    pub(crate) journal_bytes: u64,
}

/// The outcome of one look.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    /// Something was moved: the next look at directories of ended processes finds it.
    pub(crate) moved: bool,
    /// A process of the old layout is alive, or content could not be moved: another look is worth it.
    pub(crate) waits: bool,
    /// The first failure.
    pub(crate) failed: Option<String>,
}

impl OldDir<SafeDir> {
    /// The directories of an old state directory.
    pub(crate) fn of_state_dir(dir: &std::path::Path) -> Vec<Self> {
        Part::ALL.into_iter().map(|part| Self::new(part, dir.join(part.name()))).collect()
    }

    /// An old directory of fallback files, with the dead letters that it may have.
    pub(crate) fn of_fallback_dir(dir: &std::path::Path) -> Vec<Self> {
        vec![Self::new(Part::Files, dir.to_owned()), Self::new(Part::Letters, dir.join(Part::Letters.name()))]
    }

    fn new(part: Part, path: PathBuf) -> Self {
        let (opened, removed) = (path.clone(), path.clone());
        let open = Box::new(move || if has_old_content(&opened) { SafeDir::open(&opened).map(Some) } else { Ok(None) });
        // A directory that is not empty stays.
        let remove = Box::new(move || drop(std::fs::remove_dir(&removed)));
        Self { part, open, remove, path }
    }
}

/// A look without a change: the path may be one that other programs use.
fn has_old_content(path: &std::path::Path) -> bool {
    let is_real = std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir());
    let Ok(mut entries) = std::fs::read_dir(path) else { return false };
    is_real
        && entries.any(|entry| {
            let name = entry.map(|entry| entry.file_name().to_string_lossy().into_owned()).unwrap_or_default();
            name.starts_with(FURTHER) || is_segment(&name) || count_in_name(TRACES, &name).is_some()
        })
}

fn is_segment(name: &str) -> bool {
    name.starts_with("journal-")
}

impl<D: Directory> OldLayout<D> {
    pub(crate) fn new(dirs: Vec<OldDir<D>>, service: Option<String>) -> Self {
        Self { dirs, service, foreign: BTreeMap::new(), finds: Finds::default() }
    }

    /// The spans of other services that were found.
    pub(crate) fn finds(&self) -> &Finds {
        &self.finds
    }

    /// Moves the content of this service to directories in `root`.
    pub(crate) fn gather(&mut self, root: &D) -> Gathered {
        let mut gathered = Gathered::default();
        self.finds.0.clear();
        // The journal of a process and its files go to one directory: the journal asks for the file of a spill.
        let mut targets = BTreeMap::new();
        for at in 0..self.dirs.len() {
            let old = &self.dirs[at];
            let (part, path) = (old.part, old.path.clone());
            let dir = match (old.open)() {
                Ok(Some(dir)) => dir,
                Ok(None) => continue,
                Err(error) => {
                    gathered.fail(&error);
                    continue;
                }
            };
            let mut processes = vec![];
            for entry in dir.list().unwrap_or_default() {
                let Some(name) = entry.name.to_str().filter(|name| name.starts_with(FURTHER)) else { continue };
                if let Ok(Some(process)) = dir.existing_subdirectory(name) {
                    processes.push((name.to_owned(), process));
                }
            }
            for (name, process) in processes {
                let target = target_name(&path, &name);
                if self.gather_from(part, path.join(&name), (target, process), root, &mut targets, &mut gathered) {
                    drop(dir.remove_subdirectory(&name));
                }
            }
            let target = target_name(&path, "");
            if self.gather_from(part, path, (target, dir), root, &mut targets, &mut gathered) {
                (self.dirs[at].remove)();
            }
        }
        gathered
    }

    /// Moves the content of one directory to the one named `target`. Returns whether the first is empty now.
    fn gather_from(
        &mut self,
        part: Part,
        path: PathBuf,
        (target, dir): (String, D),
        root: &D,
        targets: &mut BTreeMap<String, Locked<D>>,
        gathered: &mut Gathered,
    ) -> bool {
        let locked = match Locked::new(dir) {
            Ok(locked) => locked,
            Err(LockError::Held { .. }) => {
                gathered.waits = true;
                return false;
            }
            Err(error) => {
                gathered.fail(&error);
                return false;
            }
        };
        let names = match self.names_of_this_service(part, &path, &locked.dir, gathered) {
            Ok(names) => names,
            Err(error) => {
                gathered.fail(&error);
                return false;
            }
        };
        if !names.is_empty() {
            let target = match open_target(target, root, targets) {
                Ok(target) => target,
                // Another process is about to adopt it, or moves other content there.
                Err(LockError::Held { .. }) => {
                    gathered.waits = true;
                    return false;
                }
                Err(error) => {
                    gathered.fail(&error);
                    return false;
                }
            };
            let moved = match target.dir.subdirectory(part.name()) {
                Ok(target) => {
                    move_all(part, &locked.dir, &target, &names).map_err(|error| ErrorChain(&error).to_string())
                }
                Err(error) => Err(ErrorChain(&error).to_string()),
            };
            match moved {
                Ok(()) => gathered.moved = true,
                Err(error) => {
                    gathered.waits = true;
                    gathered.failed.get_or_insert(error);
                    return false;
                }
            }
        }
        is_emptied(locked)
    }

    /// The names of the files to move, in the order of the moves; notes those of other services.
    fn names_of_this_service(
        &mut self,
        part: Part,
        path: &std::path::Path,
        dir: &D,
        gathered: &mut Gathered,
    ) -> Result<Vec<String>, FileError> {
        let entries = dir.list()?.into_iter().filter_map(|entry| entry.name.into_string().ok());
        if part == Part::Journal {
            let mut segments = entries.filter(|name| is_segment(name)).collect::<Vec<_>>();
            // Newest first: a crash in between leaves no batch without its mark.
            segments.sort_by(|one, other| other.cmp(one));
            if segments.is_empty() {
                return Ok(segments);
            }
            let body = journal::first_body(dir)?;
            let service = body.as_deref().map(service_of).unwrap_or_default();
            if self.is_ours(&service) {
                return Ok(segments);
            }
            let bytes = segments.iter().filter_map(|name| Some(dir.metadata(name).ok()?.len)).sum::<u64>();
            self.finds.0.entry((path.to_owned(), service)).or_default().journal_bytes += bytes;
            return Ok(Vec::new());
        }
        // The first record of a letter is its reason.
        let index = u64::from(part == Part::Letters);
        let mut ours = Vec::new();
        for name in entries {
            let Some(spans) = count_in_name(TRACES, &name) else { continue };
            let key = (path.to_owned(), name);
            if let Some(service) = self.foreign.get(&key) {
                self.finds.0.entry((key.0, service.clone())).or_default().spans += spans;
                continue;
            }
            let (path, name) = key;
            let service = match record_in(dir, TRACES, &name, index, MAX_RECORD_BYTES) {
                Ok(Some((record, format))) => records::request(Signal::Traces, record, format)
                    .map(|(request, _)| service_of(&request))
                    .unwrap_or_default(),
                // Nothing can be read: the file stays for an operator.
                Ok(None) => String::new(),
                Err(error) if error.is_refused() => String::new(),
                Err(error) if error.is_not_found() => continue,
                // The other files do not wait for a bad sector.
                Err(error) => {
                    gathered.fail(&error);
                    continue;
                }
            };
            if self.is_ours(&service) {
                ours.push(name);
            } else {
                self.finds.0.entry((path.clone(), service.clone())).or_default().spans += spans;
                self.foreign.insert((path, name), service);
            }
        }
        ours.sort();
        if !ours.is_empty() && dir.metadata(PROGRESS_LOG).is_ok() {
            ours.insert(0, PROGRESS_LOG.to_owned());
        }
        Ok(ours)
    }

    fn is_ours(&self, service: &str) -> bool {
        self.service.as_deref().is_none_or(|own| own == service)
    }
}

/// The name of the directory for the content of a process of the old layout: always the same, so that a process that
/// goes on after the death of another one goes on in the same directory. A journal in two directories would have its
/// batches in one and their marks in the other.
fn target_name(path: &std::path::Path, process: &str) -> String {
    // FNV-1a, 64 bits. The parts of one state directory share the directory above.
    let above = path.parent().unwrap_or(path).as_os_str().as_encoded_bytes();
    let bytes = above.iter().chain(b"/").chain(process.as_bytes());
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{hash:016x}")
}

/// Opens a directory of this name. Its lock is held until everything is moved.
fn open_target<'a, D: Directory>(
    name: String,
    root: &D,
    targets: &'a mut BTreeMap<String, Locked<D>>,
) -> Result<&'a Locked<D>, LockError> {
    Ok(match targets.entry(name) {
        Entry::Occupied(opened) => opened.into_mut(),
        Entry::Vacant(new) => {
            let dir = root.subdirectory(new.key()).map_err(|error| {
                let (path, source) = (root.path().join(new.key()), std::io::Error::other(error));
                LockError::File(FileError::Io { path, action: "open", source })
            })?;
            new.insert(Locked::new(dir)?)
        }
    })
}

impl Gathered {
    fn fail(&mut self, error: &(dyn std::error::Error + 'static)) {
        self.waits = true;
        self.failed.get_or_insert(ErrorChain(error).to_string());
    }
}

fn service_of(request: &[u8]) -> String {
    resource_text(request, "service.name").ok().flatten().unwrap_or_default().to_owned()
}

/// Moves files, durably. The log of the progress is copied, since it has the marks of files that stay too. A file that
/// cannot be moved leaves out no other one; a segment does, since its marks are about older ones.
fn move_all<D: Directory>(part: Part, from: &D, to: &D, names: &[String]) -> Result<(), FileError> {
    let mut failed = None;
    for name in names {
        if name == PROGRESS_LOG {
            copy(from, to, name)?;
        } else if let Err(error) = from.rename(name, to, name) {
            if part == Part::Journal {
                return Err(error);
            }
            failed.get_or_insert(error);
        }
    }
    // The new names before the old ones go: in between a power cut may leave both, never neither.
    to.sync()?;
    from.sync()?;
    failed.map_or(Ok(()), Err)
}

fn copy<D: Directory>(from: &D, to: &D, name: &str) -> Result<(), FileError> {
    let failed = |dir: &D, action, source| FileError::Io { path: dir.path().join(name), action, source };
    let mut content = Vec::new();
    from.open_read(name)?.read_to_end(&mut content).map_err(|source| failed(from, "read", source))?;
    // A process that died here may have left a part of it, or a log without the marks of files that are still here.
    let temporary = format!(".tmp-{name}");
    drop(to.remove(&temporary));
    let mut file = to.create(&temporary)?;
    let written = file.write_all(&content).and_then(|()| file.sync());
    written.map_err(|source| failed(to, "write", source))?;
    to.replace(&temporary, name)
}

/// Removes the log and the lock of a directory that holds nothing else. Returns whether it is empty now.
fn is_emptied<D: Directory>(locked: Locked<D>) -> bool {
    let Locked { dir, lock } = locked;
    let names = dir.list().unwrap_or_default().into_iter().map(|entry| entry.name.to_string_lossy().into_owned());
    let mut rest = names.filter(|name| name != PROGRESS_LOG && name != LOCK_FILE);
    if rest.next().is_some() {
        return false;
    }
    drop(dir.remove(PROGRESS_LOG));
    let removed = dir.remove(LOCK_FILE).is_ok();
    drop(lock);
    removed
}

#[cfg(test)]
mod tests;
