//! The single steps of a claim and an adoption, each of which another process may follow with one of its own.

use std::io::{ErrorKind, Read as _, Write as _};
use std::time::SystemTime;

use crate::{Directory, File as _, FileError, LOCK_FILE, LockError, Locked, OpenError, Owner, ShareError};

/// Makes the directory `name` and locks it; `None` if the name exists, or another process has taken the directory
/// between these steps.
pub(super) fn make_and_lock<D: Directory>(root: &D, name: &str) -> Result<Option<Locked<D>>, ShareError> {
    match root.create_subdirectory(name) {
        Ok(dir) => Ok(lock(dir)?),
        // An adopter takes the directory of a process that has ended, and one that is not locked yet looks the same.
        Err(error) if error.is_already_exists() || error.is_not_found() && !root.is_gone() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Opens the directory of a process; `None` if it does not exist, or cannot be one of this user.
pub(super) fn open<D: Directory>(root: &D, name: &str) -> Result<Option<D>, OpenError> {
    match root.existing_subdirectory(name) {
        Err(error) if !error.is_io() || error.is_not_found() => Ok(None),
        opened => opened,
    }
}

/// Takes the lock; `None` if another process holds it, or has removed the directory.
pub(super) fn lock<D: Directory>(dir: D) -> Result<Option<Locked<D>>, LockError> {
    match Locked::new(dir) {
        Ok(locked) => Ok(Some(locked)),
        Err(LockError::Held { .. }) => Ok(None),
        Err(LockError::File(error)) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether a process holds the lock of `dir`. Makes no lock file.
pub(super) fn is_locked<D: Directory>(dir: &D) -> Result<bool, FileError> {
    match dir.metadata(LOCK_FILE) {
        Err(error) if error.is_not_found() => return Ok(false),
        Ok(_) => {}
        Err(error) => return Err(error),
    }
    match dir.lock() {
        Ok(_) => Ok(false),
        Err(LockError::Held { .. }) => Ok(true),
        Err(LockError::File(error)) if error.is_not_found() => Ok(false),
        Err(LockError::File(error)) => Err(error),
    }
}

/// Removes a lock file that only the caller's lock has made, in a directory of another process.
pub(super) fn give_back<D: Directory>(locked: &Locked<D>) {
    if locked.dir.metadata(LOCK_FILE).is_ok_and(|metadata| metadata.len == 0) {
        drop(locked.dir.remove(LOCK_FILE));
    }
}

pub(super) fn remove_emptied<D: Directory>(root: &D, name: &str, locked: Locked<D>) -> Result<(), FileError> {
    let Locked { dir, mut lock } = locked;
    for _ in 0..MAX_REMOVALS {
        if dir.list()?.iter().any(|entry| entry.name != LOCK_FILE) {
            let source = ErrorKind::DirectoryNotEmpty.into();
            return Err(FileError::Io { path: dir.path().to_owned(), action: "remove", source });
        }
        match dir.remove(LOCK_FILE) {
            Err(error) if !error.is_not_found() => return Err(error),
            Ok(()) | Err(_) => {}
        }
        // From here on another process may lock a new file. On NFS a removed file that is open would keep its place.
        drop(lock);
        match root.remove_subdirectory(name) {
            Err(error) if error.io().is_some_and(|error| error.kind() == ErrorKind::DirectoryNotEmpty) => {}
            Err(error) if !error.is_not_found() => return Err(error),
            Ok(()) | Err(_) => return root.sync(),
        }
        // Another process did: it removes the empty directory, unless it has already given up.
        lock = match dir.lock() {
            Ok(lock) => lock,
            Err(LockError::Held { .. }) => return Ok(()),
            Err(LockError::File(error)) if error.is_not_found() => return Ok(()),
            Err(LockError::File(error)) => return Err(error),
        };
        if !root.holds_subdirectory(name, &dir)? {
            return Ok(());
        }
    }
    Ok(())
}

/// Writes and syncs the content of the lock file; returns whether the disk had room for it.
pub(super) fn write_whole<D: Directory>(file: &mut D::File, owner: &Owner, dir: &D) -> Result<bool, FileError> {
    let failed = |action, source| FileError::Io { path: dir.path().join(LOCK_FILE), action, source };
    match file.write_all(owner.to_text().as_bytes()) {
        Ok(()) => file.sync().map(|()| true).map_err(|source| failed("sync", source)),
        Err(error) if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => Ok(false),
        Err(error) => Err(failed("write", error)),
    }
}

/// Reads the lock file; `None` if it does not exist or names no owner.
pub(super) fn read_owner<D: Directory>(dir: &D) -> Result<Option<Owner>, FileError> {
    let file = match dir.open_read(LOCK_FILE) {
        Ok(file) => file,
        Err(error) if error.is_not_found() || error.is_refused() => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut content = Vec::new();
    let failed = |source| FileError::Io { path: dir.path().join(LOCK_FILE), action: "read", source };
    file.take(MAX_OWNER_LEN).read_to_end(&mut content).map_err(failed)?;
    Ok(Owner::parse(&content))
}

pub(super) fn modified<D: Directory>(dir: &D, name: &str) -> Result<Option<SystemTime>, FileError> {
    match dir.metadata(name) {
        Ok(metadata) => Ok(metadata.modified),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn process_name(incarnation: u64) -> String {
    format!("{incarnation:016x}")
}

/// Whether `name` is that of a process or of a directory that one has adopted.
pub(super) fn is_process_name(name: &str) -> bool {
    let (incarnation, number) = name.split_once('+').map_or((name, None), |(name, number)| (name, Some(number)));
    let is_number = |number: &str| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    incarnation.len() == 16
        && incarnation.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
        && number.is_none_or(is_number)
}

/// Each means that another process has locked the directory in the moment between the last two steps of its removal.
const MAX_REMOVALS: u32 = 16;

/// More bytes than any lock file has.
const MAX_OWNER_LEN: u64 = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbers_of_incarnations_are_names_of_processes() {
        for name in ["00000000000000ab", "ffffffffffffffff+1", "0123456789abcdef+4096"] {
            assert!(is_process_name(name), "{name}");
        }
        for name in ["", "ab", "00000000000000AB", "00000000000000ab+", "00000000000000ab+1x", "+1", "layout", "clock"]
        {
            assert!(!is_process_name(name), "{name}");
        }
        assert!(!is_process_name("00000000000000ab+1+2") && is_process_name(&process_name(u64::MAX)));
    }
}
