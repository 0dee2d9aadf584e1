//! Publishing: a file that appears whole or not at all.

use std::io::ErrorKind;

use crate::{Directory, File as _, FileError};

/// Begins the name of a file that is not published yet.
pub(crate) const TEMPORARY_PREFIX: &str = ".tmp-";

/// Writes a new file so that `name` either does not exist or is whole and durable: a temporary name in the same
/// directory, content, sync, rename, sync of the directory. Only the holder of the directory's lock may call it.
///
/// # Errors
///
/// If `name` exists (no file is overwritten) or any step fails: then neither the name nor the temporary file is left,
/// if the file system still accepts the removal. Otherwise [`remove_leftovers`] removes the temporary file later.
pub fn publish<D: Directory>(
    dir: &D,
    name: &str,
    write: impl FnOnce(&mut D::File) -> std::io::Result<()>,
) -> Result<(), FileError> {
    Draft::write(dir, name, write)?.publish(dir)
}

/// The two halves of [`publish`] one by one: durable content, under a name that no reader knows yet.
#[derive(Debug)]
#[must_use = "publish or discard it; a draft that is forgotten is removed by `remove_leftovers`"]
pub struct Draft {
    temporary: String,
}

impl Draft {
    /// Writes and syncs the content of the future file `name`.
    ///
    /// # Errors
    ///
    /// If any step fails; then the temporary file is removed, if the file system still accepts that.
    pub fn write<D: Directory>(
        dir: &D,
        name: &str,
        write: impl FnOnce(&mut D::File) -> std::io::Result<()>,
    ) -> Result<Self, FileError> {
        let temporary = format!("{TEMPORARY_PREFIX}{name}");
        prepare(dir, &temporary, write)?;
        Ok(Self { temporary })
    }

    /// Gives the file its name in the same directory, durably.
    ///
    /// # Errors
    ///
    /// If the name exists (no file is overwritten) or any step fails; then neither name is left, if the file system
    /// still accepts the removal.
    pub fn publish<D: Directory>(self, dir: &D) -> Result<(), FileError> {
        let name = &self.temporary[TEMPORARY_PREFIX.len()..];
        dir.rename(&self.temporary, dir, name).inspect_err(|_| drop(dir.remove(&self.temporary)))?;
        // Without this sync, a power cut could undo the rename. If it fails, the caller still has its data: the file
        // must go, or the data would exist twice.
        dir.sync().inspect_err(|_| drop(dir.remove(name)))
    }

    /// Removes the file.
    ///
    /// # Errors
    ///
    /// If the file system refuses.
    pub fn discard<D: Directory>(self, dir: &D) -> Result<(), FileError> {
        dir.remove(&self.temporary)
    }
}

/// Writes a file in place of the one that may have the name: `name` is the old or the new file at every moment, and
/// durably the new one in the end.
///
/// # Errors
///
/// If any step fails; `name` is then still the old file or, if only the last sync failed, the old or the new one.
pub fn replace<D: Directory>(
    dir: &D,
    name: &str,
    write: impl FnOnce(&mut D::File) -> std::io::Result<()>,
) -> Result<(), FileError> {
    let temporary = format!("{TEMPORARY_PREFIX}{name}");
    prepare(dir, &temporary, write)?;
    let replaced = dir.replace(&temporary, name).inspect_err(|_| drop(dir.remove(&temporary)));
    replaced?;
    dir.sync()
}

/// Moves a file to `to` in the directory `target`, by [`Directory::rename`], or by a copy where `target` is on another
/// file system. Returns whether it was copied: the copy is durable then, and the removal of the old file, as a rename,
/// after a sync of the old directory. Only the holder of the lock of `target` may call it. A copy reads and writes the
/// whole file; a crash may leave both files.
///
/// # Errors
///
/// If `to` exists, `from` does not or is no regular file, or the file system refuses: then the file stays, alone.
pub fn move_file<D: Directory>(dir: &D, from: &str, target: &D, to: &str) -> Result<bool, FileError> {
    match dir.rename(from, target, to) {
        Err(error) if error.io().is_some_and(|io| io.kind() == ErrorKind::CrossesDevices) => {}
        renamed => return renamed.map(|()| false),
    }
    let mut file = dir.open_read(from)?;
    publish(target, to, |copy| std::io::copy(&mut file, copy).map(drop))?;
    match dir.remove(from) {
        Err(error) if !error.is_not_found() => {
            // Else the content would exist twice.
            drop(target.remove(to));
            Err(error)
        }
        Ok(()) | Err(_) => Ok(true),
    }
}

/// Removes the temporary files of a process that crashed before it published them; returns how many. Only the holder of
/// the directory's lock may call it.
///
/// # Errors
///
/// If the directory cannot be read. A file that cannot be removed stays until the next call.
pub fn remove_leftovers<D: Directory>(dir: &D) -> Result<usize, FileError> {
    let mut removed = 0;
    for entry in dir.list()? {
        if let Some(name) = entry.name.to_str()
            && name.starts_with(TEMPORARY_PREFIX)
            && dir.remove(name).is_ok()
        {
            removed += 1;
        }
    }
    Ok(removed)
}

/// Writes and syncs a file under a temporary name.
fn prepare<D: Directory>(
    dir: &D,
    temporary: &str,
    write: impl FnOnce(&mut D::File) -> std::io::Result<()>,
) -> Result<(), FileError> {
    let mut file = match dir.create(temporary) {
        // Left by an earlier failure: no other process writes it, as this one holds the lock.
        Err(error) if error.is_already_exists() => {
            dir.remove(temporary)?;
            dir.create(temporary)?
        }
        other => other?,
    };
    let failed = |action, source| {
        drop(dir.remove(temporary));
        FileError::Io { path: dir.path().join(temporary), action, source }
    };
    write(&mut file).map_err(|source| failed("write", source))?;
    // Before the rename: else a crash can leave the new name on an empty file.
    file.sync().map_err(|source| failed("sync", source))
}
