//! The next group: fewest failed attempts first, then the oldest file or the newest; or the oldest file first.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use safe_dir::{Directory, FileError};

use crate::books::catalog::Key;
use crate::books::file::StoredFile;
use crate::files::{Files, Finished};
use crate::notice::Damage;
use crate::read::group::{Group, Next, Source};
use crate::read::panics::{contain, is_panic};
use crate::read::reader::Stop;

impl<D: Directory> Files<D> {
    /// Hands out the next records that wait: of those with the fewest failed attempts the oldest.
    pub(crate) fn next_group(&mut self, max_bytes: usize) -> Result<Next, FileError> {
        self.group_of(
            max_bytes,
            |files, _| files.catalog.first_to_read().cloned(),
            |group, level| group.failed() == level,
        )
    }

    /// Hands out the next records that wait: of those with the fewest failed attempts the ones of the newest files.
    pub(crate) fn newest_group(&mut self, max_bytes: usize) -> Result<Next, FileError> {
        self.group_of(max_bytes, |files, _| files.catalog.newest_to_read(), |group, level| group.failed() == level)
    }

    /// Hands out records of the oldest files, of each file those with the fewest failed attempts.
    pub(crate) fn oldest_group(&mut self, max_bytes: usize) -> Result<Next, FileError> {
        self.group_of(max_bytes, |files, last| files.catalog.oldest_to_read(last), |_, _| true)
    }

    /// `choose` names the next file, given the one before; `fits`: the records of a file with this level may join the
    /// group.
    fn group_of(
        &mut self,
        max_bytes: usize,
        choose: impl Fn(&Self, Option<&Key>) -> Option<(u32, Key)>,
        fits: impl Fn(&Group, u32) -> bool,
    ) -> Result<Next, FileError> {
        let mut group = Group::new(max_bytes);
        let (mut files_in_vain, mut work, mut last) = (0, MAX_WORK, None);
        while let Some((level, key)) = choose(self, last.as_ref()) {
            if !group.records.is_empty() && (!fits(&group, level) || group.parts().len() == MAX_GROUP_FILES) {
                break;
            }
            if files_in_vain == MAX_FILES {
                return Ok(group.or(Next::Pause));
            }
            let records = group.records.len();
            match self.read_into(&mut group, &key, &mut work) {
                Ok(Stop::Pause) => return Ok(group.or(Next::Pause)),
                Ok(Stop::Full) => break,
                Ok(Stop::End { .. }) => {
                    files_in_vain += u32::from(group.records.len() == records);
                    self.finish(&key);
                }
                Err(error) if error.is_not_found() => {
                    self.check_directory()?;
                    self.note_vanished(&key);
                }
                Err(error) if is_stale(&error) => {
                    self.check_directory()?;
                    return Err(error);
                }
                // The records before the failure go out; the next call meets the failure again, at its own beginning.
                Err(_) if !group.records.is_empty() => break,
                Err(error) => {
                    if !self.give_up(&key, &error) {
                        return Err(error);
                    }
                }
            }
            last = Some(key);
        }
        Ok(group.or(Next::Empty))
    }

    /// Adds records of one file to the group, and hands them out.
    fn read_into(&mut self, group: &mut Group, key: &Key, work: &mut u64) -> Result<Stop, FileError> {
        let Self { catalog, reader, dir, names, reading, .. } = self;
        let read = |file: &mut StoredFile| {
            reading.begin(dir, &key.name);
            let path = || dir.path().join(&key.name);
            let stop = contain(path, || reader.read_into(group, dir, names, (key, file), work));
            reading.end();
            if let Some(part) = group.parts().last().filter(|part| part.key == *key) {
                file.hand_out(&part.numbers);
            }
            if let Ok(Stop::End { records }) = stop {
                file.end_at(records);
            }
            stop
        };
        catalog.update(key, read).unwrap_or(Ok(Stop::End { records: 0 }))
    }

    /// Calls `decode` for each record of the group, with the note of its file as long as it runs; `None` where it has
    /// panicked.
    pub(crate) fn decode<T>(
        &mut self,
        group: &mut Group,
        mut decode: impl FnMut(Source<'_>, Vec<u8>) -> T,
    ) -> Vec<Option<T>> {
        let records = std::mem::take(&mut group.records);
        let (mut decoded, mut noted) = (Vec::with_capacity(records.len()), None);
        for (source, record) in group.sources().zip(records) {
            if noted != Some(source.file) {
                noted = Some(source.file);
                self.reading.begin(&self.dir, source.file);
            }
            decoded.push(catch_unwind(AssertUnwindSafe(|| decode(source, record))).ok());
        }
        self.reading.end();
        decoded
    }

    /// Removes a file that has no record, or none that is not settled. A removal that fails here is repeated by the
    /// next clean-up.
    fn finish(&mut self, key: &Key) {
        if matches!(self.finish_if_done(key), Ok(Finished::Removed)) {
            drop(self.dir.sync());
        }
    }

    /// Counts a failed attempt to read a file; returns whether it is the last, and the file ends where it failed.
    fn give_up(&mut self, key: &Key, error: &FileError) -> bool {
        // The failure is not the file's: the process has too many open files (ENFILE, EMFILE) or no memory.
        let of_process = error.io().is_some_and(|io| {
            io.kind() == io::ErrorKind::OutOfMemory || io.raw_os_error().is_some_and(|errno| matches!(errno, 23 | 24))
        });
        if of_process {
            return false;
        }
        let damage = if error.is_refused() {
            Damage::NotOurs
        } else if is_panic(error) {
            Damage::ReaderPanicked
        } else {
            Damage::Unreadable
        };
        let give_up = |file: &mut StoredFile| {
            let is_last = file.count_failure() >= MAX_READ_FAILURES || error.is_refused();
            if is_last {
                file.give_up(damage);
            }
            is_last
        };
        let is_last = self.catalog.update(key, give_up).unwrap_or(true);
        if is_last {
            self.finish(key);
        }
        is_last
    }
}

/// The handle is of a file or directory that the server of a network file system does not have any more (ESTALE).
fn is_stale(error: &FileError) -> bool {
    error.io().is_some_and(|io| io.kind() == io::ErrorKind::StaleNetworkFileHandle)
}

/// After so many failed attempts in a row to read a file it is given up.
const MAX_READ_FAILURES: u32 = 3;

/// A group has records of at most so many files: each is opened, read and closed in turn.
const MAX_GROUP_FILES: usize = 64;

/// One call reads at most so many files without a record to hand out: each is removed, and each removal is synced.
const MAX_FILES: u32 = 16;

/// One call reads at most 8 MiB, so that text without a record to hand out does not delay the other work
/// of its thread.
const MAX_WORK: u64 = 8 << 20;
