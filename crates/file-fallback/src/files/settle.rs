//! The verdicts about a group, durably.

use safe_dir::{Directory, FileError};

use crate::books::catalog::Key;
use crate::error::SettleError;
use crate::files::{Files, Finished};
use crate::outcome::{Settled, Verdict};
use crate::read::group::{Group, Part};

impl<D: Directory> Files<D> {
    /// Takes one verdict for each record of the group.
    pub(crate) fn settle(&mut self, group: &Group, verdicts: &[Verdict]) -> Result<Settled, SettleError> {
        if !self.is_handed_out(group) {
            return Err(SettleError::UnknownGroup);
        }
        let records = group.len();
        if verdicts.len() != records {
            self.settle_parts(group, &vec![Verdict::Keep; records]);
            return Err(SettleError::WrongLength { verdicts: verdicts.len(), records });
        }
        let (settled, changed) = self.settle_parts(group, verdicts);
        self.save_progress(&changed).map(|()| settled).map_err(|source| SettleError::NotDurable { settled, source })
    }

    /// Whether the records are handed out, apart from those of files that have left the store since; there is one file
    /// left at least.
    fn is_handed_out(&self, group: &Group) -> bool {
        let mut files = group.parts().filter_map(|part| Some((self.catalog.get(&part.key)?, part))).peekable();
        files.peek().is_some() && files.all(|(file, part)| file.are_out(&part.numbers))
    }

    /// Returns the result, and the files whose marks are others now.
    fn settle_parts<'a>(&mut self, group: &'a Group, mut verdicts: &[Verdict]) -> (Settled, Vec<&'a Key>) {
        let (mut total, mut changed) = (Settled::default(), Vec::new());
        for Part { key, numbers, len, .. } in group.parts() {
            let (of_file, rest) = verdicts.split_at(*len);
            verdicts = rest;
            let Some(result) = self.catalog.settle(key, numbers, of_file) else {
                // The units left the store with their file.
                total.surplus += of_file.iter().map(units).sum::<u64>();
                continue;
            };
            if result.is_reread {
                self.reader.close(key);
            }
            changed.extend(result.is_changed.then_some(key));
            total.count += result.settled.count;
            total.surplus += result.settled.surplus;
        }
        (total, changed)
    }

    /// Removes the files that are finished and writes the marks of the others. A failure at one file leaves out no
    /// other one; the first is returned.
    fn save_progress(&mut self, changed: &[&Key]) -> Result<(), FileError> {
        let (mut marks, mut is_removed, mut result) = (Vec::new(), false, Ok(()));
        for key in changed {
            match self.finish_if_done(key) {
                Ok(Finished::Removed) => is_removed = true,
                Ok(Finished::SetAside) => {}
                Ok(Finished::No) => marks.extend(self.catalog.get(key).map(|file| file.mark(&key.name))),
                Err(error) => result = result.and(Err(error)),
            }
        }
        if is_removed {
            // Else a power cut could bring the files back, and all of their records would be delivered once more.
            result = result.and(self.dir.sync());
        }
        if !marks.is_empty() {
            result = result.and(self.progress.save(&self.dir, marks));
        }
        result
    }
}

fn units(verdict: &Verdict) -> u64 {
    match verdict {
        Verdict::Done(count) => *count,
        Verdict::Rejected | Verdict::Keep | Verdict::Failed(_) => 0,
    }
}
