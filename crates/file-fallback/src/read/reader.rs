//! The file that is open, and the next records from it.

use std::io;

use safe_dir::{Directory, File, FileError};

use crate::books::catalog::Key;
use crate::books::file::StoredFile;
use crate::form::format::Format;
use crate::form::names::Names;
use crate::read::group::Group;
use crate::read::records::{Item, RecordReader};

/// Reads one file at a time and leaves it open between two groups.
#[derive(Debug)]
pub(crate) struct Reader<F> {
    open: Option<OpenFile<F>>,
    max_record_bytes: usize,
}

/// A file that is open for reading.
#[derive(Debug)]
pub(crate) struct OpenFile<F> {
    key: Key,
    pub(crate) format: Format,
    pub(crate) records: RecordReader<F>,
}

impl<F: File> Reader<F> {
    pub(crate) fn new(max_record_bytes: usize) -> Self {
        Self { open: None, max_record_bytes }
    }

    /// Closes a file that is to be removed, or to be read again from its start.
    pub(crate) fn close(&mut self, key: &Key) {
        self.open.take_if(|open| open.key == *key);
    }

    /// Opens a file at its start, beside the one that is open already.
    pub(crate) fn open<D: Directory<File = F>>(
        &self,
        dir: &D,
        names: &Names,
        key: &Key,
    ) -> Result<OpenFile<F>, FileError> {
        let opened = dir.open_read(&key.name)?;
        let failed = |source| read_failed(dir, key, source);
        let extension = names.parse(&key.name).map(|name| name.extension);
        let extension = extension.ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
        let records = RecordReader::new(opened, extension, self.max_record_bytes).map_err(failed)?;
        Ok(OpenFile { key: key.clone(), format: extension.format, records })
    }

    /// Adds the records of a file whose turn has come to the group, while there is room in it and `work` is left; takes
    /// from `work` the part that was done.
    pub(crate) fn read_into<D: Directory<File = F>>(
        &mut self,
        group: &mut Group,
        dir: &D,
        names: &Names,
        (key, file): (&Key, &mut StoredFile),
        work: &mut u64,
    ) -> Result<Stop, FileError> {
        let mut open = match self.open.take() {
            Some(open) if open.key == *key => open,
            _ => self.open(dir, names, key)?,
        };
        let before = open.records.work();
        open.records.pause_after(*work);
        let stop = loop {
            let number = open.records.record();
            match open.records.next().map_err(|source| read_failed(dir, key, source))? {
                Item::Record(record) => {
                    let Some(attempts) = file.waiting(number) else { continue };
                    if !group.has_room(record.len()) {
                        open.records.unread(&record);
                        break Stop::Full;
                    }
                    let known = (attempts, file.count_of(number));
                    group.push((key, open.format), number, open.records.take(&record), known);
                }
                Item::Skipped(damage) => file.skip(number, damage),
                Item::Damage(damage) => file.note_damage(damage),
                Item::Pause => break Stop::Pause,
                Item::End => break Stop::End { records: number },
            }
        };
        *work = work.saturating_sub(open.records.work() - before);
        if !matches!(stop, Stop::End { .. }) {
            self.open = Some(open);
        }
        Ok(stop)
    }
}

/// Why the reading of a file has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The next record does not fit into the group.
    Full,
    /// The work is done; more records may follow.
    Pause,
    /// The file has this many records.
    End {
        /// How many.
        records: u64,
    },
}

fn read_failed<D: Directory>(dir: &D, key: &Key, source: io::Error) -> FileError {
    FileError::Io { path: dir.path().join(&key.name), action: "read", source }
}
