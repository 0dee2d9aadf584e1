//! The file that is open, and the next group from it.

use std::io;

use safe_dir::{Directory, File, FileError};

use crate::books::catalog::Key;
use crate::books::file::StoredFile;
use crate::form::format::Format;
use crate::form::names::Names;
use crate::read::group::{Group, Next};
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

    /// Reads on in a file while `work` is left, and takes from `work` the part that was done. `Empty` at the end of the
    /// file.
    pub(crate) fn next_group<D: Directory<File = F>>(
        &mut self,
        dir: &D,
        names: &Names,
        (key, file): (&Key, &mut StoredFile),
        max_bytes: usize,
        work: &mut u64,
    ) -> Result<Next, FileError> {
        let mut open = match self.open.take() {
            Some(open) if open.key == *key => open,
            _ => self.open(dir, names, key)?,
        };
        let mut group = Group::new(key.clone(), open.format);
        let mut size = 0;
        let before = open.records.work();
        open.records.pause_after(*work);
        loop {
            let number = open.records.record();
            let item = match open.records.next() {
                Ok(item) => item,
                // The records before the failure go out; the next call meets the failure again, at its own beginning.
                Err(_) if !group.records.is_empty() => return Ok(Next::Group(group)),
                Err(source) => return Err(read_failed(dir, key, source)),
            };
            match item {
                Item::Record(_) if !file.is_waiting(number) => {}
                Item::Record(record) => {
                    let len = open.records.text(&record).len() + RECORD_OVERHEAD;
                    let fits = max_bytes.saturating_sub(size) >= len;
                    if !group.records.is_empty() && (!fits || number != group.range().end) {
                        open.records.unread(&record);
                        break;
                    }
                    size += len;
                    group.push(number, open.records.text(&record));
                }
                Item::Skipped(damage) => file.skip(number, damage),
                Item::Damage(damage) => file.note_damage(damage),
                Item::Pause => {
                    self.open = Some(open);
                    return Ok(if group.records.is_empty() { Next::Pause } else { Next::Group(group) });
                }
                Item::End => {
                    file.end_at(number);
                    break;
                }
            }
        }
        *work = work.saturating_sub(open.records.work() - before);
        if !file.is_exhausted() {
            self.open = Some(open);
        }
        Ok(if group.records.is_empty() { Next::Empty } else { Next::Group(group) })
    }
}

fn read_failed<D: Directory>(dir: &D, key: &Key, source: io::Error) -> FileError {
    FileError::Io { path: dir.path().join(&key.name), action: "read", source }
}

/// The memory that a record takes besides its text: a group of many short records stays within the bytes that the
/// caller asked for.
const RECORD_OVERHEAD: usize = 64;
