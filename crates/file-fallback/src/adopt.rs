//! Taking over what a process left that has ended.

use safe_dir::{Directory, FileError, Kind, LockError};

use crate::error::AdoptError;
use crate::name::{FileName, MAX_TRUSTED_SEQ};
use crate::notice::Notice;
use crate::open::{MAX_PROCESSES, PROCESS_PREFIX};
use crate::progress::Progress;
use crate::quarantine::QUARANTINE;
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
        for entry in self.dir.list().map_err(AdoptError::File)? {
            let Some(name) = entry.name.to_str() else { continue };
            let number = name.strip_prefix(PROCESS_PREFIX).and_then(|number| number.parse().ok());
            let ours = number.is_some_and(|number: u32| (1..=MAX_PROCESSES).contains(&number));
            if !ours || entry.kind.is_some_and(|kind| kind != Kind::Directory) {
                continue;
            }
            match self.adopt_from(name) {
                Ok(count) => adopted += count,
                // The others shall not wait for this one.
                Err(error) => drop(failed.get_or_insert(error)),
            }
        }
        failed.map_or(Ok(adopted), Err)
    }

    fn adopt_from(&mut self, name: &str) -> Result<u64, AdoptError> {
        let dead = self.dir.subdirectory(name).map_err(AdoptError::Directory)?;
        let lock = match dead.lock() {
            Ok(lock) => lock,
            Err(LockError::Held { .. }) => return Ok(0),
            Err(error) => return Err(AdoptError::Lock(error)),
        };
        let before = self.total;
        let moved = self.move_files(&dead);
        let (files, count) = (self.total.files - before.files, self.total.count - before.count);
        if files > 0 {
            self.notices.push_back(Notice::Adopted { from: name.to_owned(), files, count });
        }
        moved.map_err(AdoptError::File)?;
        self.move_quarantine(&dead).map_err(AdoptError::File)?;
        // Whatever else is in there keeps the directory in place; that is no failure.
        drop(safe_dir::remove_leftovers(&dead));
        drop(dead.remove(crate::progress::LOG));
        drop(dead.remove(safe_dir::LOCK_FILE));
        drop(lock);
        if self.dir.remove_subdirectory(name).is_ok() {
            drop(self.dir.sync());
        }
        Ok(count)
    }

    /// What was set aside there is set aside here.
    fn move_quarantine(&mut self, dead: &D) -> Result<(), FileError> {
        if dead.metadata(QUARANTINE).is_err() {
            return Ok(());
        }
        let Ok(from) = dead.subdirectory(QUARANTINE) else { return Ok(()) };
        self.open_quarantine()?;
        for entry in from.list()? {
            if let Some(name) = entry.name.to_str() {
                self.move_to_quarantine(&from, name)?;
            }
        }
        self.sync_quarantine(&from)?;
        dead.remove_subdirectory(QUARANTINE)
    }

    fn move_files(&mut self, dead: &D) -> Result<(), FileError> {
        let (mut progress, _) = Progress::load(dead);
        for entry in dead.list()? {
            let Some(name) = entry.name.to_str() else { continue };
            let Some(mut parsed) = FileName::parse(&self.config.signal, name) else { continue };
            let metadata = dead.metadata(name)?;
            if let Some(damage) = self.unusable(&metadata) {
                // It never comes into the books: its size alone could push everything else out.
                self.open_quarantine()?;
                let moved_to = self.move_to_quarantine(dead, name)?;
                self.sync_quarantine(dead)?;
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
