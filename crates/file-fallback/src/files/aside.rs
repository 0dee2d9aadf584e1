//! Damaged files: moved to the quarantine, each with a notice.

use safe_dir::Directory;

use crate::notice::{Damage, Notice};
use crate::store::{FileFallback, Key, Stranger};

impl<D: Directory> FileFallback<D> {
    /// Moves a file to the quarantine. `count` is what left the store with it.
    pub(crate) fn set_aside(&mut self, key: &Key, damage: Damage, count: u64, promised: u64) {
        // A file that cannot be moved stays in its place; the next start tries again.
        let moved = self.quarantine.set_aside(&self.dir, &key.name).and_then(|target| {
            self.quarantine.sync(&self.dir)?;
            Ok(target)
        });
        let moved_to = moved.ok();
        let trimmed = self.quarantine.trim_if_due();
        self.note_trimmed(trimmed);
        self.notices.push_back(Notice::SetAside { name: key.name.clone(), moved_to, damage, count, promised });
    }

    /// Moves up to `most` of the strangers away. None of them was ever in the books.
    pub(crate) fn set_aside_strangers(&mut self, most: usize) {
        let strangers = self.strangers.drain(..most.min(self.strangers.len())).collect::<Vec<_>>();
        if strangers.is_empty() {
            return;
        }
        for Stranger { name, damage, promised } in strangers {
            let moved_to = self.quarantine.set_aside(&self.dir, &name).ok();
            self.notices.push_back(Notice::SetAside { name, moved_to, damage, count: 0, promised });
        }
        // One sync for all of them: a file that a power cut brings back is moved away by the next start.
        drop(self.quarantine.sync(&self.dir));
        let trimmed = self.quarantine.trim_if_due();
        self.note_trimmed(trimmed);
    }

    pub(crate) fn note_trimmed(&mut self, files: usize) {
        if files > 0 {
            self.notices.push_back(Notice::QuarantineTrimmed { files: files as u64 });
        }
    }
}
