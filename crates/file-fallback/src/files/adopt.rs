//! Taking over what a process left that has ended.

use safe_dir::{ClaimError, Directory, FileError};

use crate::books::progress::Progress;
use crate::error::AdoptError;
use crate::files::scan::PROCESSES;
use crate::form::name::{FileName, MAX_TRUSTED_SEQ};
use crate::notice::Notice;
use crate::store::{FileFallback, Key, StoredFile};

impl<D: Directory> FileFallback<D> {
    /// Moves the files of further processes that have ended into this store, with their progress; says how much came in.
    /// Opening does so too; call it now and then, so that nothing waits for the next start. A store that is itself a further process's
    /// does nothing.
    ///
    /// # Errors
    ///
    /// If a directory or file cannot be moved: the first such failure. What could be moved from it and from the others
    /// counts, and is in the notices.
    pub fn adopt(&mut self) -> Result<u64, AdoptError> {
        if self.is_forked() {
            return Err(AdoptError::Forked);
        }
        let (mut adopted, mut failed) = (0, None);
        if self.is_second {
            return Ok(adopted);
        }
        for name in PROCESSES.list(&self.dir).map_err(AdoptError::File)? {
            match self.adopt_from(&name) {
                Ok(count) => adopted += count,
                // The others shall not wait for this one.
                Err(error) => drop(failed.get_or_insert(error)),
            }
        }
        failed.map_or(Ok(adopted), Err)
    }

    fn adopt_from(&mut self, name: &str) -> Result<u64, AdoptError> {
        let Some(abandoned) = PROCESSES.open_abandoned(&self.dir, name).map_err(|error| match error {
            ClaimError::Directory(error) => AdoptError::Directory(error),
            ClaimError::Lock(error) => AdoptError::Lock(error),
        })?
        else {
            return Ok(0);
        };
        let dead = &abandoned.locked.dir;
        let before = self.total;
        let moved = self.move_files(dead);
        let (files, count) = (self.total.files - before.files, self.total.count - before.count);
        if files > 0 {
            self.notices.push_back(Notice::Adopted { from: name.to_owned(), files, count });
        }
        moved.map_err(AdoptError::File)?;
        self.quarantine.take_over(&self.dir, dead).map_err(AdoptError::File)?;
        // A file of another program keeps the directory in place; that is no failure.
        drop(safe_dir::remove_leftovers(dead));
        drop(dead.remove(crate::books::progress::LOG));
        drop(abandoned.remove(&self.dir));
        Ok(count)
    }

    fn move_files(&mut self, dead: &D) -> Result<(), FileError> {
        let (mut progress, _) = Progress::load(dead);
        for entry in dead.list()? {
            let Some(name) = entry.name.to_str() else { continue };
            let Some(mut parsed) = FileName::parse(&self.config.signal, name) else { continue };
            let metadata = dead.metadata(name)?;
            if let Some(damage) = self.unusable(&metadata) {
                // It never comes into the books: its size alone could push everything else out.
                let moved_to = self.quarantine.set_aside_from(&self.dir, dead, name)?;
                self.quarantine.sync(dead)?;
                let (name, moved_to) = (name.to_owned(), Some(moved_to));
                self.notices.push_back(Notice::SetAside { name, moved_to, damage, count: 0, promised: parsed.count });
                continue;
            }
            let mut key = Key { seq: parsed.seq, name: name.to_owned() };
            let mut seq = self.next_seq;
            // Also a name that is on the disk and not in the books, such as of a file that could not be removed.
            while self.files.contains_key(&key) || self.dir.metadata(&key.name).is_ok() {
                parsed.seq = seq;
                key = Key { seq, name: parsed.format(&self.config.signal) };
                seq += 1;
            }
            let mut file = StoredFile::new(&parsed, metadata.len, parsed.time);
            if let Some(mark) = progress.claim(name, metadata.len) {
                file.resume(mark);
                // Before the move: a mark without a file means nothing, a file without its mark is delivered again.
                self.progress.save(&self.dir, file.mark(&key.name))?;
            }
            dead.rename(name, &self.dir, &key.name)?;
            if parsed.seq <= MAX_TRUSTED_SEQ {
                self.next_seq = self.next_seq.max(parsed.seq + 1);
            }
            self.insert(key, file);
        }
        // The new names before the old ones go: in between a power cut may leave both, never neither.
        self.dir.sync()?;
        dead.sync()
    }
}
