//! Writing records away: one call, one file.

use std::io;
use std::time::SystemTime;

use safe_dir::{Directory, Draft, FileError, Kind};

use crate::error::{RecordProblem, SpillError};
use crate::files::scan::PROCESSES;
use crate::form::format::Format;
use crate::form::name::{Extension, FileName};
use crate::read::records::{MAX_FILE_RECORDS, MAX_FILE_TEXT};
use crate::store::{Evicted, FileFallback, Key, Reason, StoredFile};
use crate::write::encode::{self, Encoded};

/// One record to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What is kept: a line of text, without a line feed in it or at its end; or, with [`Format::Framed`], any bytes. The store does not
    /// look into it.
    pub bytes: Vec<u8>,
    /// How much is in it, such as spans; the caller's own unit.
    pub count: usize,
}

/// A file that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "files may have been removed to make room"]
pub struct Spilled {
    /// Its name in the store's directory.
    pub name: String,
    /// The sum over its records.
    pub count: u64,
    /// Its length on disk.
    pub bytes: u64,
    /// Older files that were removed to keep the limits.
    pub evicted: Vec<Evicted>,
}

impl<D: Directory> FileFallback<D> {
    /// Writes the records to one new file, durable when this returns; compressed, if the text is longer than `compress_above`.
    ///
    /// Older files go, oldest first, where a limit asks for it; a file with a group that is handed out stays. Blocks on the
    /// disk: two or three syncs.
    ///
    /// # Errors
    ///
    /// If the records cannot be kept, there is no room, or the file system refuses: then no file of theirs is left, and the
    /// caller still has them. What was removed before that is in [`SpillError::evicted`].
    pub fn spill(&mut self, records: &[Record], now: SystemTime) -> Result<Spilled, SpillError> {
        self.spill_announced(records, now, &mut |_| {})
    }

    /// As [`spill`](Self::spill); `announce` is told the file's final name before the first byte of the file is written, so that a
    /// journal can note which file will have the records. It is called again, with another name, where somebody else has put a
    /// file under the first; the name told last is the file's. Only a file whose spill succeeded ever has a name that was told.
    ///
    /// # Errors
    ///
    /// As [`spill`](Self::spill).
    pub fn spill_announced(
        &mut self,
        records: &[Record],
        now: SystemTime,
        announce: &mut dyn FnMut(&str),
    ) -> Result<Spilled, SpillError> {
        self.spill_where(records, now, Room::Make, announce)
    }

    /// As [`spill`](Self::spill), but no older file goes for it: what does not fit is refused.
    ///
    /// # Errors
    ///
    /// As [`spill`](Self::spill), and [`SpillError::Full`].
    pub fn spill_beside(&mut self, records: &[Record], now: SystemTime) -> Result<Spilled, SpillError> {
        self.spill_where(records, now, Room::Find, &mut |_| {})
    }

    fn spill_where(
        &mut self,
        records: &[Record],
        now: SystemTime,
        room: Room,
        announce: &mut dyn FnMut(&str),
    ) -> Result<Spilled, SpillError> {
        if self.is_forked() {
            return Err(SpillError::Forked);
        }
        self.check_records(records)?;
        let text = encode::plain_len(records, self.config.format);
        if text > MAX_FILE_TEXT || records.len() as u64 > MAX_FILE_RECORDS {
            return Err(SpillError::TooLarge { bytes: text, max_bytes: MAX_FILE_TEXT });
        }
        let failed = |error| SpillError::File { source: self.failed("compress", error), evicted: Vec::new() };
        let encoded = Encoded::new(records, &self.config).map_err(failed)?;
        let bytes = encoded.len();
        if bytes > self.config.max_bytes {
            return Err(SpillError::TooLarge { bytes, max_bytes: self.config.max_bytes });
        }
        let spilled = self.spill_encoded(records, &encoded, now, room, announce);
        if let Err(error) = &spilled
            && !error.evicted().is_empty()
        {
            // What is said to be gone shall not come back with a power cut.
            drop(self.dir.sync());
        }
        spilled
    }

    fn spill_encoded(
        &mut self,
        records: &[Record],
        encoded: &Encoded<'_>,
        now: SystemTime,
        room: Room,
        announce: &mut dyn FnMut(&str),
    ) -> Result<Spilled, SpillError> {
        let bytes = encoded.len();
        let born = self.clock.read(now);
        let count = records.iter().map(|record| record.count as u64).fold(0, u64::saturating_add);
        let mut evicted = Vec::new();
        match room {
            Room::Make => self.make_free_space(bytes, &mut evicted)?,
            Room::Find => self.find_room(bytes)?,
        }
        let mut attempts = 1;
        let (name, text_name) = loop {
            let extension = Extension { format: self.config.format, packing: encoded.packing };
            let name = FileName { time: now, seq: self.next_seq, count, extension };
            // Also after a failure: a file that could not be removed again keeps its number.
            self.next_seq += 1;
            let text_name = name.format(&self.config.signal);
            announce(&text_name);
            match self.write(&text_name, encoded, room, &mut evicted) {
                Ok(()) => break (name, text_name),
                // Somebody has put a file there since the start.
                Err(source) if source.is_already_exists() && attempts < MAX_ATTEMPTS => attempts += 1,
                Err(source) => return Err(SpillError::File { source, evicted }),
            }
        };
        self.rate.note(born, bytes);
        self.insert(Key { seq: name.seq, name: text_name.clone() }, StoredFile::new(&name, bytes, born));
        Ok(Spilled { name: text_name, count, bytes, evicted })
    }

    /// Whether a file of this name stands in the store, or in that of a further process beside it, and will stand there after a
    /// power cut: the directory is synced before the answer is yes. For a journal that asks at its start what became of a spill
    /// that was announced and not reported. A file that was replayed to its end or set aside is not there any more.
    ///
    /// # Errors
    ///
    /// If the directory cannot be looked at or synced: then nothing is known.
    pub fn holds(&self, name: &str) -> Result<bool, FileError> {
        if FileName::parse(&self.config.signal, name).is_none() {
            return Ok(false);
        }
        if stands_in(&self.dir, name)? {
            return Ok(true);
        }
        if self.is_second {
            return Ok(false);
        }
        for process in PROCESSES.list(&self.dir)? {
            // A directory that this process may not open has no file of the store.
            let Ok(other) = self.dir.subdirectory(&process) else { continue };
            if stands_in(&other, name)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn check_records(&self, records: &[Record]) -> Result<(), SpillError> {
        if records.is_empty() {
            return Err(SpillError::Empty);
        }
        let max_record_bytes = self.config.max_record_bytes;
        for (index, record) in records.iter().enumerate() {
            let is_line = self.config.format == Format::Lines;
            let problem = if record.bytes.is_empty() || is_line && record.bytes.iter().all(u8::is_ascii_whitespace) {
                RecordProblem::Empty
            } else if is_line && record.bytes.contains(&b'\n') {
                RecordProblem::LineFeed
            } else if record.bytes.len() > max_record_bytes {
                RecordProblem::TooLong { bytes: record.bytes.len(), max_record_bytes }
            } else {
                continue;
            };
            return Err(SpillError::Record { index, problem });
        }
        Ok(())
    }

    /// Writes and publishes. Where the disk or a quota says that it is full, older files may have to go, up to twice the room that
    /// is needed: if that does not help, somebody else takes the room.
    fn write(
        &mut self,
        name: &str,
        encoded: &Encoded<'_>,
        room: Room,
        evicted: &mut Vec<Evicted>,
    ) -> Result<(), FileError> {
        let enough = encoded.len().saturating_mul(2).saturating_add(SMALL_CHANGE);
        let mut freed = 0;
        loop {
            let source = match self.write_once(name, encoded, evicted) {
                Ok(()) => return Ok(()),
                Err(source) => source,
            };
            let full = matches!(
                source.io().map(io::Error::kind),
                Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            );
            match self.oldest_evictable() {
                Some(key) if room == Room::Make && full && freed < enough => {
                    match self.evict(&key, Reason::FreeSpace) {
                        Ok(removed) => {
                            freed = freed.saturating_add(removed.bytes);
                            evicted.push(removed);
                        }
                        Err(_) => return Err(source),
                    }
                }
                _ => return Err(source),
            }
        }
    }

    fn write_once(&mut self, name: &str, encoded: &Encoded<'_>, evicted: &mut Vec<Evicted>) -> Result<(), FileError> {
        let draft = Draft::write(&self.dir, name, |file| encoded.write_to(file))?;
        // Only now, as the draft could have failed, and before it is published, so that the limits hold at every moment.
        match self.make_room(encoded.len(), evicted) {
            Ok(()) => draft.publish(&self.dir),
            Err(error) => {
                // If this fails too, the next start removes it.
                drop(draft.discard(&self.dir));
                Err(error)
            }
        }
    }
}

/// Where the room for a file comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Room {
    /// Older files go.
    Make,
    /// It is there, or the file is not written.
    Find,
}

fn stands_in<D: Directory>(dir: &D, name: &str) -> Result<bool, FileError> {
    match dir.metadata(name) {
        Ok(metadata) if metadata.kind == Kind::File => dir.sync().map(|()| true),
        Ok(_) => Ok(false),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Names that are tried.
const MAX_ATTEMPTS: u32 = 16;

/// Room that counts as found besides twice the size of a file, for the file system's own blocks.
const SMALL_CHANGE: u64 = 64 << 10;
