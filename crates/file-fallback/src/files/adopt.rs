//! Takes over the files in the directory of a process that has ended.

use safe_dir::{Directory, FileError, Kind};

use crate::books::catalog::Key;
use crate::books::file::StoredFile;
use crate::books::progress::{LOG, Mark, Progress};
use crate::files::aside::Unusable;
use crate::files::reading::Reading;
use crate::files::{Files, MAX_DEATHS};
use crate::form::name::FileName;
use crate::notice::{Damage, Notice};
use crate::outcome::TakenOver;

/// A file of the other directory that is about to be moved.
struct Move {
    /// Its name in the other directory.
    name: String,
    /// Its place here, under a name that is free.
    key: Key,
    file: StoredFile,
    /// Its mark under the new name, if the other process has left one or died while it read the file.
    mark: Option<Mark>,
    /// The other process died while it read the file.
    was_read: bool,
}

/// Moves the oldest files of the directory `from`, with their progress, and at the end its quarantine. A failure at one
/// file leaves out no other one; the first is returned beside the result.
pub(crate) fn take_over<D: Directory>(files: &mut Files<D>, from: &D) -> (TakenOver, Result<(), FileError>) {
    let before = files.catalog.total();
    let mut fatal = Vec::new();
    let taken = take_some(files, from, &mut fatal);
    let total = files.catalog.total();
    let (moved, count) = (total.files - before.files, total.count - before.count);
    if moved > 0 {
        let from = from.path().display().to_string();
        files.notices.push_back(Notice::Adopted { from, files: moved, count });
    }
    // They count as adopted, and then as set aside.
    fatal.iter().for_each(|key| files.set_aside(key, Damage::EndsProcess));
    let (more, result) = match taken {
        Ok(more) => (more, Ok(())),
        Err(error) => (true, Err(error)),
    };
    (TakenOver { files: moved, count, more }, result)
}

/// Whether a regular file of this name is in the directory and survives a power cut: the directory is synced first.
pub(crate) fn is_file<D: Directory>(dir: &D, name: &str) -> Result<bool, FileError> {
    match dir.metadata(name) {
        Ok(metadata) if metadata.kind == Kind::File => dir.sync().map(|()| true),
        Ok(_) => Ok(false),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Returns whether more is left to be moved. Moved files that have ended too many processes are added to `fatal`.
fn take_some<D: Directory>(files: &mut Files<D>, from: &D, fatal: &mut Vec<Key>) -> Result<bool, FileError> {
    files.check_directory()?;
    let mut waiting = Vec::new();
    for entry in from.list()? {
        let Ok(name) = entry.name.into_string() else { continue };
        if let Some(parsed) = files.names.parse(&name) {
            waiting.push((Key::new(&parsed, name), parsed));
        }
    }
    waiting.sort_by(|(one, _), (other, _)| one.cmp(other));
    let mut more = waiting.len() > FILES_AT_A_TIME;
    let mut failed = None;
    if !waiting.is_empty() {
        more |= move_files(files, from, waiting, fatal, &mut failed);
    }
    if let Some(error) = failed {
        return Err(error);
    }
    if more {
        return Ok(true);
    }
    // Behind the files: their marks are in the log until the last one is here.
    let more = files.aside.take_over_quarantine(&files.dir, from, FILES_AT_A_TIME)?;
    if !more {
        // An entry of another program stays, and with it the directory; that is no failure.
        drop(safe_dir::remove_leftovers(from));
        drop(from.remove(LOG));
        Reading::remove_from(from);
    }
    Ok(more)
}

/// Returns whether it has left some of them for the next call.
fn move_files<D: Directory>(
    files: &mut Files<D>,
    from: &D,
    waiting: Vec<(Key, FileName)>,
    fatal: &mut Vec<Key>,
    failed: &mut Option<FileError>,
) -> bool {
    let (mut progress, _) = Progress::load(from);
    let was_read = Reading::left_in(from);
    let (mut moves, mut attempted) = (Vec::new(), 0);
    for (key, parsed) in waiting {
        if attempted == FILES_AT_A_TIME {
            break;
        }
        match prepare(files, from, &mut progress, key, parsed) {
            Ok(prepared) => {
                attempted += 1;
                moves.extend(prepared.map(|planned| planned.read_by_the_dead(was_read.as_deref())));
            }
            Err(error) => note(failed, error),
        }
    }
    // Before the files: a mark without a file is ignored, a file without its mark is delivered again.
    let marks = moves.iter().filter_map(|planned| planned.mark.clone()).collect::<Vec<_>>();
    let marked = if marks.is_empty() { Ok(()) } else { files.progress.save(&files.dir, marks) };
    let is_marked = marked.is_ok();
    marked.unwrap_or_else(|error| note(failed, error));
    let (mut moved, mut copied, mut more) = (false, 0, false);
    for Move { name, key, file, mark, was_read } in moves {
        if copied >= BYTES_AT_A_TIME {
            files.progress.forget(&key.name);
            more = true;
            continue;
        }
        let seq = key.seq;
        let result = match mark {
            Some(_) if !is_marked => Err(None),
            _ => safe_dir::move_file(from, &name, &files.dir, &key.name).map_err(Some),
        };
        match result {
            Ok(is_copied) => {
                moved = true;
                copied += if is_copied { file.bytes() } else { 0 };
                files.names.note(seq);
                let is_fatal = file.deaths() >= MAX_DEATHS;
                files.catalog.insert(key.clone(), file);
                if was_read {
                    // The mark counts it from here on.
                    Reading::remove_from(from);
                }
                if is_fatal {
                    fatal.push(key);
                }
            }
            Err(error) => {
                files.progress.forget(&key.name);
                // A file that is gone was removed by another program.
                if let Some(error) = error.filter(|error| !error.is_not_found()) {
                    note(failed, error);
                }
            }
        }
    }
    if moved {
        // The new names before the old ones go: in between a power cut may leave both, never neither.
        files.dir.sync().and_then(|()| from.sync()).unwrap_or_else(|error| note(failed, error));
    }
    more
}

/// Chooses the place of a file; one that is not to be read goes to the quarantine at once.
fn prepare<D: Directory>(
    files: &mut Files<D>,
    from: &D,
    progress: &mut Progress<D::File>,
    old: Key,
    mut parsed: FileName,
) -> Result<Option<Move>, FileError> {
    let metadata = match from.metadata(&old.name) {
        Ok(metadata) => metadata,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error),
    };
    if let Some(damage) = files.unusable(&metadata) {
        // This entry never enters the catalog: the size of a giant could push all other files out.
        let stranger = Unusable { name: old.name, damage, count: 0, promised: parsed.count };
        files.aside.adopt_stranger(&files.dir, from, stranger, &mut files.notices)?;
        return Ok(None);
    }
    let Key { name, .. } = old;
    let mut key = Key::new(&parsed, name.clone());
    // A name can be on the disk and not in the catalog, such as that of a file that could not be removed.
    while files.catalog.contains(&key) || files.dir.metadata(&key.name).is_ok() {
        parsed.seq = files.names.next_seq();
        files.names.reserve(parsed.seq);
        key = Key::new(&parsed, files.names.write(&parsed));
    }
    let mut file = StoredFile::new(&parsed, metadata.len, parsed.time);
    let mark = progress.claim(&name, metadata.len).map(|mark| {
        file.resume(mark);
        file.mark(&key.name)
    });
    Ok(Some(Move { name, key, file, mark, was_read: false }))
}

impl Move {
    /// Counts the death of the other process, if it was reading this file.
    fn read_by_the_dead(mut self, was_read: Option<&str>) -> Self {
        if was_read == Some(&*self.name) {
            self.was_read = true;
            self.file.count_death();
            self.mark = Some(self.file.mark(&self.key.name));
        }
        self
    }
}

fn note(failed: &mut Option<FileError>, error: FileError) {
    failed.get_or_insert(error);
}

/// One call moves at most so many files, so that it does not block the disk thread for long: each is one rename, and
/// all together are two syncs, three with progress.
const FILES_AT_A_TIME: usize = 256;

/// On another file system, where each file is copied, one call copies about so many bytes.
const BYTES_AT_A_TIME: u64 = 1 << 20;
