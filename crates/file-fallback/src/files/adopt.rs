//! Takes over the files of processes that have ended.

use safe_dir::{ClaimError, Directory, FileError, Kind};

use crate::books::catalog::Key;
use crate::books::file::StoredFile;
use crate::books::progress::{LOG, Progress};
use crate::error::AdoptError;
use crate::files::aside::Unusable;
use crate::files::{Files, PROCESSES};
use crate::notice::Notice;

/// Moves the files of further processes that have ended here, with their progress; returns the units in them. A process
/// whose files cannot be moved does not hold up those of the others: the first failure is returned at the end.
pub(crate) fn adopt<D: Directory>(files: &mut Files<D>) -> Result<u64, AdoptError> {
    let (mut adopted, mut failed) = (0, None);
    for name in PROCESSES.list(&files.dir).map_err(AdoptError::File)? {
        match adopt_from(files, &name) {
            Ok(count) => adopted += count,
            Err(error) => drop(failed.get_or_insert(error)),
        }
    }
    failed.map_or(Ok(adopted), Err)
}

/// Whether a regular file of this name is in the directory or, if `processes`, in that of a further process, and
/// survives a power cut: the directory is synced first.
pub(crate) fn holds<D: Directory>(files: &Files<D>, name: &str, processes: bool) -> Result<bool, FileError> {
    if files.names.parse(name).is_none() {
        return Ok(false);
    }
    if is_file(&files.dir, name)? {
        return Ok(true);
    }
    if !processes {
        return Ok(false);
    }
    for process in PROCESSES.list(&files.dir)? {
        // A directory that this process may not open holds no file of the store.
        let Ok(other) = files.dir.subdirectory(&process) else { continue };
        if is_file(&other, name)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn adopt_from<D: Directory>(files: &mut Files<D>, name: &str) -> Result<u64, AdoptError> {
    let Some(abandoned) = PROCESSES.open_abandoned(&files.dir, name).map_err(|error| match error {
        ClaimError::Directory(error) => AdoptError::Directory(error),
        ClaimError::Lock(error) => AdoptError::Lock(error),
    })?
    else {
        return Ok(0);
    };
    let from = &abandoned.locked.dir;
    let before = files.catalog.total();
    let moved = move_files(files, from);
    let total = files.catalog.total();
    let (moved_files, count) = (total.files - before.files, total.count - before.count);
    if moved_files > 0 {
        files.notices.push_back(Notice::Adopted { from: name.to_owned(), files: moved_files, count });
    }
    moved.map_err(AdoptError::File)?;
    files.aside.adopt_quarantine(&files.dir, from).map_err(AdoptError::File)?;
    // A directory with a file of another program is not removed; that is no failure.
    drop(safe_dir::remove_leftovers(from));
    drop(from.remove(LOG));
    drop(abandoned.remove(&files.dir));
    Ok(count)
}

fn move_files<D: Directory>(files: &mut Files<D>, from: &D) -> Result<(), FileError> {
    let (mut progress, _) = Progress::load(from);
    for entry in from.list()? {
        let Some(name) = entry.name.to_str() else { continue };
        let Some(mut parsed) = files.names.parse(name) else { continue };
        let metadata = from.metadata(name)?;
        if let Some(damage) = files.unusable(&metadata) {
            // This entry never enters the catalog: the size of a giant could push all other files out.
            let stranger = Unusable { name: name.to_owned(), damage, count: 0, promised: parsed.count };
            files.aside.adopt_stranger(&files.dir, from, stranger, &mut files.notices)?;
            continue;
        }
        let mut key = Key { seq: parsed.seq, name: name.to_owned() };
        let mut seq = files.names.next_seq();
        // A name can be on the disk and not in the catalog, such as that of a file that could not be removed.
        while files.catalog.contains(&key) || files.dir.metadata(&key.name).is_ok() {
            parsed.seq = seq;
            key = Key { seq, name: files.names.write(&parsed) };
            seq += 1;
        }
        let mut file = StoredFile::new(&parsed, metadata.len, parsed.time);
        if let Some(mark) = progress.claim(name, metadata.len) {
            file.resume(mark);
            // Before the move: a mark without a file is ignored, a file without its mark is delivered again.
            files.progress.save(&files.dir, vec![file.mark(&key.name)])?;
        }
        from.rename(name, &files.dir, &key.name)?;
        files.names.note(parsed.seq);
        files.catalog.insert(key, file);
    }
    // The new names before the old ones go: in between a power cut may leave both, never neither.
    files.dir.sync()?;
    from.sync()
}

fn is_file<D: Directory>(dir: &D, name: &str) -> Result<bool, FileError> {
    match dir.metadata(name) {
        Ok(metadata) if metadata.kind == Kind::File => dir.sync().map(|()| true),
        Ok(_) => Ok(false),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}
