//! The files on the disk, together with their state in memory: each operation changes both.
//!
//! | File | Purpose |
//! | --- | --- |
//! | `mod` | [`Files`]: adds, removes and finishes files |
//! | `scan` | the start: looks at names and sizes, reads no file |
//! | `replay` | the next group: fewest failed attempts first, then the oldest file; or the oldest file first |
//! | `settle` | the verdicts about a group, durably |
//! | `aside` | moves damaged files and strangers to the quarantine |
//! | `reading` | the note of the file that is being read |
//! | `adopt` | takes over the files in the directory of a process that has ended |

pub(crate) mod adopt;
mod aside;
mod reading;
mod replay;
mod scan;
mod settle;

use std::collections::VecDeque;
use std::io;
use std::time::SystemTime;

use safe_dir::{Directory, FileError};

use crate::books::catalog::{Catalog, Key};
use crate::books::file::StoredFile;
use crate::books::progress::Progress;
use crate::files::aside::{Aside, Unusable};
use crate::files::reading::Reading;
use crate::form::name::{Extension, FileName};
use crate::form::names::Names;
use crate::notice::{Damage, Notice};
use crate::outcome::SetAside;
use crate::read::panics::contain;
use crate::read::reader::{OpenFile, Reader};

/// The files of a store in its directory.
#[derive(Debug)]
pub(crate) struct Files<D: Directory> {
    dir: D,
    names: Names,
    catalog: Catalog,
    progress: Progress<D::File>,
    reader: Reader<D::File>,
    aside: Aside<D>,
    reading: Reading<D::File>,
    /// Files that are finished and could not be removed yet.
    leftovers: Vec<String>,
    notices: VecDeque<Notice>,
    /// The directory was removed, and a notice says so.
    has_vanished: bool,
}

/// A name that was chosen for a new file.
pub(crate) struct NewName {
    parts: FileName,
    pub(crate) text: String,
}

/// Whether a file has left the store after its last record.
enum Finished {
    No,
    /// Removed, durably after a sync of the directory.
    Removed,
    /// The file is damaged, and in the quarantine.
    SetAside,
}

impl<D: Directory> Files<D> {
    pub(crate) fn dir(&self) -> &D {
        &self.dir
    }

    pub(crate) const fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// See [`Catalog::correct_times`].
    pub(crate) fn correct_times(&mut self, now: SystemTime, clock_set: SystemTime) {
        let marks = self.catalog.correct_times(now, clock_set);
        if !marks.is_empty() {
            // A mark that is not written lets the file age anew after the next start.
            drop(self.progress.save(&self.dir, marks));
        }
    }

    pub(crate) fn take_notices(&mut self) -> Vec<Notice> {
        self.notices.drain(..).collect()
    }

    pub(crate) fn note(&mut self, notice: Option<Notice>) {
        self.notices.extend(notice);
    }

    /// Whether the directory was removed; the first time with a notice.
    pub(crate) fn note_if_vanished(&mut self) -> bool {
        let is_gone = self.dir.is_gone();
        if is_gone && !std::mem::replace(&mut self.has_vanished, true) {
            self.notices.push_back(Notice::DirectoryVanished);
        }
        is_gone
    }

    /// Fails if the directory was removed: then each of its files seems to be removed, and none of them alone was.
    pub(crate) fn check_directory(&mut self) -> Result<(), FileError> {
        if !self.note_if_vanished() {
            return Ok(());
        }
        let (path, source) = (self.dir.path().to_owned(), io::ErrorKind::NotFound.into());
        Err(FileError::Io { path, action: "use", source })
    }

    /// Continues the numbers and the times of names, and the notices, of the files in a directory that is not used any
    /// more; the units in them have left the store with it.
    pub(crate) fn replace(&mut self, mut old: Self) {
        self.names.continue_from(&old.names);
        let mut notices = std::mem::take(&mut old.notices);
        for (key, file) in old.catalog.iter() {
            notices.push_back(Notice::Vanished { name: key.name.clone(), count: file.remaining() });
        }
        notices.append(&mut self.notices);
        self.notices = notices;
    }

    /// The key of the file `name`, if its records are not all settled.
    pub(crate) fn find(&self, name: &str) -> Option<Key> {
        let key = Key::new(&self.names.parse(name)?, name.to_owned());
        self.catalog.contains(&key).then_some(key)
    }

    /// When a file was written, by its name.
    pub(crate) fn time_of(&self, key: &Key) -> Option<SystemTime> {
        self.names.parse(&key.name).map(|name| name.time)
    }

    /// Chooses the name of a new file, with a number of its own and a time that is not before that of the last one.
    pub(crate) fn new_name(&mut self, time: SystemTime, count: u64, extension: Extension) -> NewName {
        let parts = self.names.take(time, count, extension);
        NewName { text: self.names.write(&parts), parts }
    }

    /// Adds a file that was published under this name.
    pub(crate) fn add(&mut self, name: NewName, bytes: u64, written_at: SystemTime, counts: &[u64]) {
        let NewName { parts, text } = name;
        let file = StoredFile::new(&parts, bytes, written_at).with_counts(counts);
        self.catalog.insert(Key::new(&parts, text), file);
    }

    /// Reads a file for the caller alone, by `read`. A panic of it is an error.
    pub(crate) fn read_alone<T>(
        &mut self,
        key: &Key,
        read: impl FnOnce(&mut OpenFile<D::File>) -> Result<T, FileError>,
    ) -> Result<T, FileError> {
        self.reading.begin(&self.dir, &key.name);
        let path = || self.dir.path().join(&key.name);
        let result = contain(path, || read(&mut self.open(key)?));
        self.reading.end();
        result
    }

    /// Opens a file at its start, for the caller alone.
    fn open(&self, key: &Key) -> Result<OpenFile<D::File>, FileError> {
        self.reader.open(&self.dir, &self.names, key)
    }

    /// Removes a file, and returns its state. Needs no space on the disk. Durable after a sync of the directory.
    pub(crate) fn remove(&mut self, key: &Key) -> Result<Option<StoredFile>, FileError> {
        match self.dir.remove(&key.name) {
            Err(error) if !error.is_not_found() => Err(error),
            Ok(()) | Err(_) => Ok(self.forget(key)),
        }
    }

    /// The file is not read any more; [`tidy`](Self::tidy) removes it from the disk.
    pub(crate) fn remove_later(&mut self, key: Key) {
        self.forget(&key);
        self.leftovers.push(key.name);
    }

    /// Removes the files that could not be removed before, moves some of the strangers to the quarantine, and bounds
    /// it.
    pub(crate) fn tidy(&mut self) {
        let dir = &self.dir;
        self.leftovers.retain(|name| dir.remove(name).is_err_and(|error| !error.is_not_found()));
        self.aside.move_strangers(dir, STRANGERS_AT_A_TIME, &mut self.notices);
        self.aside.trim(&mut self.notices);
    }

    /// Moves a damaged file to the quarantine. The units in it that are not settled leave the store.
    pub(crate) fn set_aside(&mut self, key: &Key, damage: Damage) {
        if let Some(file) = self.forget(key) {
            let (name, count, promised) = (key.name.clone(), file.remaining(), file.promised());
            self.aside.move_file(&self.dir, Unusable { name, damage, count, promised }, &mut self.notices);
        }
    }

    /// Counts the files in the quarantine.
    pub(crate) fn count_aside(&self) -> Result<SetAside, FileError> {
        let names = self.aside.names(&self.dir)?;
        // The quarantine adds `.1` and so on to a name that is taken.
        let without_number = |name: &str| name.rsplit_once('.').and_then(|(name, _)| self.names.parse(name));
        let counts = names.iter().filter_map(|name| self.names.parse(name).or_else(|| without_number(name)));
        Ok(SetAside { files: names.len() as u64, count: counts.map(|name| name.count).sum() })
    }

    /// Notes that another program has removed the file.
    pub(crate) fn note_vanished(&mut self, key: &Key) {
        if let Some(file) = self.forget(key) {
            self.notices.push_back(Notice::Vanished { name: key.name.clone(), count: file.remaining() });
        }
    }

    /// Removes a file after its last record, or sets it aside if it is damaged or held less than its name promises.
    ///
    /// On an error it is finished all the same, and still on the disk.
    fn finish_if_done(&mut self, key: &Key) -> Result<Finished, FileError> {
        let Some(file) = self.catalog.get(key).filter(|file| file.is_finished()) else { return Ok(Finished::No) };
        // Nothing that the caller did not understand is removed.
        let incomplete = (file.remaining() > 0).then_some(Damage::Incomplete);
        if let Some(damage) = file.damage().or(incomplete) {
            self.set_aside(key, damage);
            return Ok(Finished::SetAside);
        }
        self.forget(key);
        match self.dir.remove(&key.name) {
            Err(error) if !error.is_not_found() => {
                self.leftovers.push(key.name.clone());
                Err(error)
            }
            Ok(()) | Err(_) => Ok(Finished::Removed),
        }
    }

    /// Counts the death of a process while it read this file, durably; a file that is read in vain again and again is
    /// set aside.
    fn count_death(&mut self, key: &Key) -> Result<(), FileError> {
        let Some((deaths, mark)) = self.catalog.update(key, |file| (file.count_death(), file.mark(&key.name))) else {
            return Ok(());
        };
        if deaths >= MAX_DEATHS {
            self.set_aside(key, Damage::EndsProcess);
            return Ok(());
        }
        self.progress.save(&self.dir, vec![mark])
    }

    /// Ends the reading for good: no note stays in the directory.
    pub(crate) fn end_reading(&mut self) {
        Reading::remove_from(&self.dir);
    }

    /// Removes a file from the catalog and closes it; it stays on the disk.
    fn forget(&mut self, key: &Key) -> Option<StoredFile> {
        let file = self.catalog.remove(key)?;
        self.progress.forget(&key.name);
        self.reader.close(key);
        Some(file)
    }
}

/// A file is set aside after so many processes in a row have died while they read it.
const MAX_DEATHS: u32 = 3;

/// One call of [`Files::tidy`] moves at most so many strangers to the quarantine.
const STRANGERS_AT_A_TIME: usize = 1_000;
