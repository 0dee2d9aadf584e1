//! The next group, from the oldest file on.

use std::io;

use safe_dir::{Directory, FileError};

use crate::books::catalog::Key;
use crate::files::Files;
use crate::notice::Damage;
use crate::read::group::Next;

impl<D: Directory> Files<D> {
    /// The next records that wait, oldest file first, and hands them out.
    pub(crate) fn next_group(&mut self, max_bytes: usize) -> Result<Next, FileError> {
        let (mut files_read, mut work) = (0, MAX_WORK);
        loop {
            let Some(key) = self.catalog.first_to_read().cloned() else { return Ok(Next::Empty) };
            if files_read == MAX_FILES {
                return Ok(Next::Pause);
            }
            files_read += 1;
            match self.read_group(&key, max_bytes, &mut work) {
                Ok(Next::Empty) => {
                    // A removal that fails here is repeated by the next clean-up; no record is left in the file.
                    drop(self.finish_if_done(&key));
                }
                Ok(next) => return Ok(next),
                Err(error) if error.is_not_found() => self.note_vanished(&key),
                Err(error) => {
                    if !self.give_up(&key, &error) {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Reads on in one file; `Empty` at its end.
    fn read_group(&mut self, key: &Key, max_bytes: usize, work: &mut u64) -> Result<Next, FileError> {
        let Some(file) = self.catalog.get_mut(key) else { return Ok(Next::Empty) };
        let next = self.reader.next_group(&self.dir, &self.names, (key, &mut *file), max_bytes, work)?;
        if let Next::Group(group) = &next {
            file.hand_out(group.range());
        }
        Ok(next)
    }

    /// Counts a failed attempt to read a file; returns whether it is the last, and the file ends where it failed.
    fn give_up(&mut self, key: &Key, error: &FileError) -> bool {
        let Some(file) = self.catalog.get_mut(key) else { return true };
        // The failure is not the file's: the process has too many open files (ENFILE, EMFILE) or no memory.
        let of_process = error.io().is_some_and(|io| {
            io.kind() == io::ErrorKind::OutOfMemory || io.raw_os_error().is_some_and(|errno| matches!(errno, 23 | 24))
        });
        if of_process {
            return false;
        }
        let damage = if error.is_refused() { Damage::NotOurs } else { Damage::Unreadable };
        if file.count_failure() < MAX_READ_FAILURES && !error.is_refused() {
            return false;
        }
        file.give_up(damage);
        drop(self.finish_if_done(key));
        true
    }
}

/// After so many failed attempts in a row to read a file it is given up.
const MAX_READ_FAILURES: u32 = 3;

/// One call reads at most so many files without a record to hand out: each is removed, and each removal is synced.
const MAX_FILES: u32 = 16;

/// One call reads at most 8 MiB, so that text without a record to hand out does not delay the other work
/// of its thread.
const MAX_WORK: u64 = 8 << 20;
