//! Moves damaged files and strangers to the quarantine, each with a notice.

use std::collections::VecDeque;
use std::io;

use safe_dir::{Directory, FileError, Kind, OpenError, Quarantine, QuarantineLimits};

use crate::notice::{Damage, Notice};

/// The quarantine, and the entries that wait to be moved there.
#[derive(Debug)]
pub(super) struct Aside<D> {
    quarantine: Quarantine<D>,
    /// Seen at the start, which does not wait for more than a few moves.
    strangers: VecDeque<Unusable>,
}

/// An entry with a name of this store that is not to be read: a damaged file, or a stranger that never was in the
/// catalog.
#[derive(Debug)]
pub(super) struct Unusable {
    pub(super) name: String,
    pub(super) damage: Damage,
    /// The units that leave the store with it; of a stranger none.
    pub(super) count: u64,
    /// The units that its name promises.
    pub(super) promised: u64,
}

impl<D: Directory> Aside<D> {
    pub(super) fn new(max_bytes: u64) -> Self {
        let limits = QuarantineLimits { max_bytes, max_files: MAX_FILES };
        Self { quarantine: Quarantine::new(QUARANTINE, limits), strangers: VecDeque::new() }
    }

    /// Moves a file to the quarantine, durably. A file that cannot be moved stays in its place; the next start tries
    /// again.
    pub(super) fn move_file(&mut self, dir: &D, file: Unusable, notices: &mut VecDeque<Notice>) {
        let moved = self.quarantine.set_aside(dir, &file.name).and_then(|target| {
            self.quarantine.sync(dir)?;
            Ok(target)
        });
        note_trimmed(self.quarantine.trim_if_due(), notices);
        notices.push_back(file.notice(moved.ok()));
    }

    /// Notes a stranger, for [`move_strangers`](Self::move_strangers).
    pub(super) fn note(&mut self, stranger: Unusable) {
        self.strangers.push_back(stranger);
    }

    /// Moves up to `most` of the strangers to the quarantine.
    pub(super) fn move_strangers(&mut self, dir: &D, most: usize, notices: &mut VecDeque<Notice>) {
        let strangers = self.strangers.drain(..most.min(self.strangers.len())).collect::<Vec<_>>();
        if strangers.is_empty() {
            return;
        }
        for stranger in strangers {
            let moved_to = self.quarantine.set_aside(dir, &stranger.name).ok();
            notices.push_back(stranger.notice(moved_to));
        }
        // One sync for all of them: a file that a power cut brings back is moved away by the next start.
        drop(self.quarantine.sync(dir));
        note_trimmed(self.quarantine.trim_if_due(), notices);
    }

    /// The names in the quarantine; makes no directory.
    pub(super) fn names(&self, dir: &D) -> Result<Vec<String>, FileError> {
        match dir.metadata(QUARANTINE) {
            Err(error) if error.is_not_found() => return Ok(Vec::new()),
            metadata => drop(metadata?),
        }
        let unusable = |error: OpenError| {
            let (path, source) = (dir.path().join(QUARANTINE), io::Error::other(error));
            FileError::Io { path, action: "open", source }
        };
        let entries = dir.subdirectory(QUARANTINE).map_err(unusable)?.list()?;
        Ok(entries.into_iter().map(|entry| entry.name.to_string_lossy().into_owned()).collect())
    }

    /// Removes the oldest files of the quarantine until it is within its limits.
    pub(super) fn trim(&mut self, notices: &mut VecDeque<Notice>) {
        note_trimmed(self.quarantine.trim(), notices);
    }

    /// Moves a stranger from the directory `from` of a process that has ended, durably.
    pub(super) fn adopt_stranger(
        &mut self,
        dir: &D,
        from: &D,
        stranger: Unusable,
        notices: &mut VecDeque<Notice>,
    ) -> Result<(), FileError> {
        let moved_to = self.quarantine.set_aside_from(dir, from, &stranger.name)?;
        self.quarantine.sync(from)?;
        notices.push_back(stranger.notice(Some(moved_to)));
        Ok(())
    }

    /// Moves up to `most` files of the quarantine in the directory `from` of a process that has ended, durably; removes
    /// that quarantine once it is empty. Returns whether more are left.
    pub(super) fn take_over_quarantine(&mut self, dir: &D, from: &D, most: usize) -> Result<bool, FileError> {
        match from.metadata(QUARANTINE) {
            Ok(metadata) if metadata.kind == Kind::Directory => {}
            // A file or a link of that name is no quarantine: it stays.
            Ok(_) => return Ok(false),
            Err(error) if error.is_not_found() => return Ok(false),
            Err(error) => return Err(error),
        }
        let Ok(old) = from.subdirectory(QUARANTINE) else { return Ok(false) };
        let entries = old.list()?;
        if entries.len() <= most {
            // All of it, and the directory.
            return self.quarantine.take_over(dir, from).map(|()| false);
        }
        for entry in entries.into_iter().take(most) {
            if let Some(name) = entry.name.to_str() {
                self.quarantine.set_aside_from(dir, &old, name)?;
            }
        }
        self.quarantine.sync(&old).map(|()| true)
    }
}

impl Unusable {
    fn notice(self, moved_to: Option<String>) -> Notice {
        let Self { name, damage, count, promised } = self;
        Notice::SetAside { name, moved_to, damage, count, promised }
    }
}

fn note_trimmed(files: usize, notices: &mut VecDeque<Notice>) {
    if files > 0 {
        notices.push_back(Notice::QuarantineTrimmed { files: files as u64 });
    }
}

/// The subdirectory for damaged files.
const QUARANTINE: &str = "quarantine";

/// The most files in it.
const MAX_FILES: usize = 1_000;
