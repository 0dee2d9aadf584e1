//! Reading files back, group by group.

use std::io;
use std::ops::Range;

use safe_dir::{Directory, FileError};

use crate::error::ReplayError;
use crate::form::format::Format;
use crate::form::name::FileName;
use crate::notice::Damage;
use crate::read::records::{Item, RecordReader};
use crate::store::{FileFallback, Key};

/// Records of one file, handed out to be delivered. Give it to [`settle`](FileFallback::settle) or one of its shorter forms: what is not
/// settled is not read again before the next start, and keeps its file from being removed.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "settle it, or give it back"]
pub struct Group {
    pub(crate) key: Key,
    /// The number of the first record in its file, from 0; the others follow.
    pub(crate) first: u64,
    pub(crate) format: Format,
    /// The bytes of each record, without what parts them in the file.
    pub records: Vec<Vec<u8>>,
}

/// The answer of [`next_group`](FileFallback::next_group).
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a group that is dropped is not read again before the next start"]
pub enum Next {
    /// Records to deliver: one at least.
    Group(Group),
    /// The call has read 8 MiB of text or 16 files without finding a record to deliver, and more is left to read. Do other work on the
    /// disk, and call again.
    Pause,
    /// Every record in the store is settled or handed out.
    Empty,
}

/// The file that is being read.
#[derive(Debug)]
pub(crate) struct Reader<F> {
    pub(crate) key: Key,
    pub(crate) format: Format,
    pub(crate) records: RecordReader<F>,
}

impl Group {
    /// The name of the file that the records are from.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.key.name
    }

    /// The number of its first record in the file, from 0. The others follow.
    #[must_use]
    pub const fn first_record(&self) -> u64 {
        self.first
    }

    /// How the records stood in the file, which may have been written with other settings.
    #[must_use]
    pub const fn format(&self) -> Format {
        self.format
    }

    /// The bytes of all records.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.records.iter().map(Vec::len).sum()
    }

    pub(crate) fn range(&self) -> Range<u64> {
        self.first..self.first + self.records.len() as u64
    }
}

impl<D: Directory> FileFallback<D> {
    /// Reads the next records that are neither settled nor handed out, oldest file first: as many of one file as fit into
    /// `max_bytes`, and at least one.
    ///
    /// Files that hold no such record do not keep the disk thread busy for long: see [`Next::Pause`].
    ///
    /// Memory: the group, and a constant. Damage on the way is noted (see [`take_notices`](Self::take_notices)), and the good
    /// records around it are read. Blocks on the disk.
    ///
    /// # Errors
    ///
    /// If a file cannot be opened or read now. It stays for the next call; one that fails three times in a row is set
    /// aside as unreadable, so that it does not hold up the others.
    pub fn next_group(&mut self, max_bytes: usize) -> Result<Next, ReplayError> {
        if self.is_forked() {
            return Err(ReplayError::Forked);
        }
        let (mut files_in_vain, mut work) = (0, WORK_AT_A_TIME);
        loop {
            let Some(key) = self.files.iter().find(|(_, file)| !file.exhausted).map(|(key, _)| key.clone()) else {
                return Ok(Next::Empty);
            };
            if files_in_vain == MAX_FILES_IN_VAIN {
                return Ok(Next::Pause);
            }
            files_in_vain += 1;
            match self.read_group(&key, max_bytes, &mut work) {
                Ok(Next::Group(group)) => {
                    if let Some(file) = self.files.get_mut(&key) {
                        file.out.insert(group.range());
                        file.read_failures = 0;
                    }
                    return Ok(Next::Group(group));
                }
                Ok(Next::Pause) => return Ok(Next::Pause),
                Ok(Next::Empty) => {
                    // What fails here is tried again by `clean_up`; it has no records any more.
                    drop(self.finish_if_done(&key));
                }
                Err(error) if error.is_not_found() => self.vanished(&key),
                Err(error) => {
                    self.reader = None;
                    if !self.count_failure(&key, &error) {
                        return Err(ReplayError::File(error));
                    }
                }
            }
        }
    }

    /// Reads on in a file, as long as `work` is left; `Empty` at its end.
    fn read_group(&mut self, key: &Key, max_bytes: usize, work: &mut u64) -> Result<Next, FileError> {
        let mut reader = match self.reader.take() {
            Some(reader) if reader.key == *key => reader,
            _ => self.open_reader(key)?,
        };
        let Some(file) = self.files.get_mut(key) else { return Ok(Next::Empty) };
        let failed = |source| FileError::Io { path: self.dir.path().join(&key.name), action: "read", source };
        let mut group = Group { key: key.clone(), first: 0, format: reader.format, records: Vec::new() };
        let mut size = 0;
        let before = reader.records.work();
        reader.records.pause_after(*work);
        loop {
            let number = reader.records.record();
            let item = match reader.records.next() {
                Ok(item) => item,
                // What came before goes out; the next call meets the failure again, at its own beginning.
                Err(_) if !group.records.is_empty() => return Ok(Next::Group(group)),
                Err(source) => return Err(failed(source)),
            };
            match item {
                Item::Record(record) => {
                    if file.done.end_of(number).or(file.out.end_of(number)).is_some() {
                        continue;
                    }
                    let text = reader.records.text(&record);
                    let room = max_bytes.saturating_sub(size) >= text.len() + RECORD_OVERHEAD;
                    if group.records.is_empty() {
                        group.first = number;
                    } else if !room || number != group.range().end {
                        reader.records.unread(&record);
                        break;
                    }
                    size += text.len() + RECORD_OVERHEAD;
                    group.records.push(text.to_vec());
                }
                Item::Skipped(damage) => {
                    file.done.insert(number..number + 1);
                    if let Some(damage) = damage {
                        file.note_damage(damage);
                    }
                }
                Item::Damage(damage) => file.note_damage(damage),
                Item::Pause => {
                    self.reader = Some(reader);
                    return Ok(if group.records.is_empty() { Next::Pause } else { Next::Group(group) });
                }
                Item::End => {
                    file.records = Some(number);
                    file.exhausted = true;
                    break;
                }
            }
        }
        *work = work.saturating_sub(reader.records.work() - before);
        if !file.exhausted {
            self.reader = Some(reader);
        }
        Ok(if group.records.is_empty() { Next::Empty } else { Next::Group(group) })
    }

    pub(crate) fn open_reader(&self, key: &Key) -> Result<Reader<D::File>, FileError> {
        let opened = self.dir.open_read(&key.name)?;
        let failed = |source| FileError::Io { path: self.dir.path().join(&key.name), action: "read", source };
        let extension = FileName::parse(&self.config.signal, &key.name).map(|name| name.extension);
        let extension = extension.ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
        let records = RecordReader::new(opened, extension, self.config.max_record_bytes).map_err(failed)?;
        Ok(Reader { key: key.clone(), format: extension.format, records })
    }

    /// Notes that a file could not be read; says whether it is given up for that.
    fn count_failure(&mut self, key: &Key, error: &FileError) -> bool {
        let Some(file) = self.files.get_mut(key) else { return true };
        // Not the file's fault: too many files are open, or there is no memory.
        let elsewhere = error.io().is_some_and(|io| {
            io.kind() == io::ErrorKind::OutOfMemory || io.raw_os_error().is_some_and(|errno| matches!(errno, 23 | 24))
        });
        if elsewhere {
            return false;
        }
        let damage = if error.is_refused() { Damage::NotOurs } else { Damage::Unreadable };
        file.read_failures += 1;
        if !error.is_refused() && file.read_failures < MAX_READ_FAILURES {
            return false;
        }
        // What could be read of it was: it ends here.
        file.note_damage(damage);
        file.exhausted = true;
        file.records = Some(0);
        drop(self.finish_if_done(key));
        true
    }
}

/// What a record takes besides its text, so that many short ones do not take many times the memory that was asked for.
const RECORD_OVERHEAD: usize = 64;

const MAX_READ_FAILURES: u32 = 3;

/// So many files without a record to hand out are finished at a time, each with a removal and its syncs.
const MAX_FILES_IN_VAIN: u32 = 16;

/// So much is read at a time, 8 MiB: what holds nothing of use would keep the disk from everybody else.
const WORK_AT_A_TIME: u64 = 8 << 20;
