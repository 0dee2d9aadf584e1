//! Where damaged files go: out of the way, for somebody to look at.

use safe_dir::{Directory, FileError};

use crate::notice::{Damage, Notice};
use crate::store::{FileFallback, Key, Stranger};

impl<D: Directory> FileFallback<D> {
    /// Takes a file out of the books and moves it to the quarantine. `count` is what left the store with it.
    pub(crate) fn set_aside(&mut self, key: &Key, damage: Damage, count: u64, promised: u64) {
        // Where that fails it stays in its place, and is looked at again by the next start.
        let moved = self.open_quarantine().and_then(|()| {
            let target = self.move_to_quarantine(&self.dir, &key.name)?;
            self.sync_quarantine(&self.dir)?;
            Ok(target)
        });
        let moved_to = moved.ok();
        self.set_aside_since_trim += 1;
        if self.set_aside_since_trim >= TRIM_EVERY {
            self.trim_quarantine();
        }
        self.notices.push_back(Notice::SetAside { name: key.name.clone(), moved_to, damage, count, promised });
    }

    /// Moves away some of what was seen at the start. None of it was ever in the books.
    pub(crate) fn set_aside_strangers(&mut self, most: usize) {
        let strangers = self.strangers.drain(..most.min(self.strangers.len())).collect::<Vec<_>>();
        if strangers.is_empty() {
            return;
        }
        let opened = self.open_quarantine().is_ok();
        for Stranger { name, damage, promised } in strangers {
            let moved_to = if opened { self.move_to_quarantine(&self.dir, &name).ok() } else { None };
            self.set_aside_since_trim += 1;
            self.notices.push_back(Notice::SetAside { name, moved_to, damage, count: 0, promised });
        }
        // Once for all: what a power cut brings back is moved away by the next start.
        drop(self.sync_quarantine(&self.dir));
        if self.set_aside_since_trim >= TRIM_EVERY {
            self.trim_quarantine();
        }
    }

    /// Removes the oldest from the quarantine until it keeps its limits.
    pub(crate) fn trim_quarantine(&mut self) {
        self.set_aside_since_trim = 0;
        let Some(quarantine) = &self.quarantine else { return };
        let Ok(entries) = quarantine.list() else { return };
        let mut files = Vec::new();
        for entry in entries {
            let Ok(name) = entry.name.into_string() else { continue };
            let Ok(metadata) = quarantine.metadata(&name) else { continue };
            files.push((metadata.modified, name, metadata.allocated));
        }
        files.sort();
        let mut bytes: u64 = files.iter().map(|file| file.2).sum();
        let mut left = files.len();
        let mut removed = 0;
        for (_, name, allocated) in files {
            if bytes <= self.config.quarantine_max_bytes && left <= MAX_FILES {
                break;
            }
            if quarantine.remove(&name).is_ok() {
                bytes = bytes.saturating_sub(allocated);
                left -= 1;
                removed += 1;
            }
        }
        if removed > 0 {
            self.notices.push_back(Notice::QuarantineTrimmed { files: removed });
        }
    }

    /// Opens it, if that was not done yet.
    pub(crate) fn open_quarantine(&mut self) -> Result<(), FileError> {
        if self.quarantine.is_none() {
            let opened = self.dir.subdirectory(QUARANTINE);
            self.quarantine =
                Some(opened.map_err(|error| self.failed("open the quarantine of", std::io::Error::other(error)))?);
        }
        Ok(())
    }

    /// The name that it has there; to be followed by [`sync_quarantine`](Self::sync_quarantine).
    pub(crate) fn move_to_quarantine(&self, from: &D, name: &str) -> Result<String, FileError> {
        let quarantine = self
            .quarantine
            .as_ref()
            .ok_or_else(|| self.failed("find the quarantine of", std::io::ErrorKind::NotFound.into()))?;
        let mut target = name.to_owned();
        let mut copy = 1;
        loop {
            match from.rename(name, quarantine, &target) {
                Ok(()) => break,
                Err(error) if error.is_already_exists() && copy < MAX_FILES => {
                    target = format!("{name}.{copy}");
                    copy += 1;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(target)
    }

    /// Makes moves durable. A power cut before may bring something back to its old place: then it is set aside once more.
    pub(crate) fn sync_quarantine(&self, from: &D) -> Result<(), FileError> {
        if let Some(quarantine) = &self.quarantine {
            quarantine.sync()?;
            from.sync()?;
        }
        Ok(())
    }
}

/// The subdirectory.
pub(crate) const QUARANTINE: &str = "quarantine";

/// Looking through the quarantine takes time: so many files go there before it is done once more, besides each clean-up.
const TRIM_EVERY: usize = 100;

/// The most files in it.
const MAX_FILES: usize = 1_000;
